/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unpacks the payload of a bzImage.
 *
 * Theory of operation. The payload stands in the kernel code of a bzImage at payload_offset. Its format is
 * told by its first bytes (Linux Documentation/arch/x86/boot.rst, payload_offset). But for gzip, whose format
 * ends with it anyway, the kernel's build appends the unpacked size as a 32-bit number (Linux
 * scripts/Makefile.lib, size_append); so the last four bytes always are the size modulo 2^32, and comparing
 * it with what came out catches a truncated payload also where the format has no checksum (LZ4).
 *
 * A reader hands out the input in chunks, a writer takes the output in chunks and refuses what is above the
 * limit; each format is one function between the two.
 */
#include "vmm/kernel-unpack.h"

#include <errno.h>
#include <inttypes.h>
#include <lz4.h>
#include <lzma.h>
#include <stdbool.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>
#include <zstd_errors.h>

#include "base/bytes.h"
#include "base/fs.h"
#include "base/size.h"

#define CHUNK_BYTES   ((size_t)256 << 10)
#define TRAILER_BYTES 4u

/* The kernel's xz_wrap.sh uses dictionaries of 32 MiB, later ones of up to 128 MiB. */
#define XZ_MEMORY_MAX ((uint64_t)192 << 20)

/* lz4 -l: blocks of at most 8 MiB, each preceded by its packed size (lz4 doc/lz4_Frame_format.md, "Legacy
 * frame"). */
#define LZ4_LEGACY_MAGIC       0x184c2102u
#define LZ4_LEGACY_BLOCK_BYTES ((size_t)8 << 20)

struct reader {
	int fd;
	uint64_t offset;
	uint64_t left;
};

struct writer {
	int fd;
	uint64_t done;
	uint64_t max;
	struct errmsg *err;
};

/* Next chunk, at most @max bytes; *ret_len 0 at the end. */
static int reader_next(struct reader *in, uint8_t *buf, size_t max, size_t *ret_len)
{
	size_t len = in->left < max ? (size_t)in->left : max;
	int r = pread_full(in->fd, buf, len, in->offset);

	if (r < 0)
		return r;
	in->offset += len;
	in->left -= len;
	*ret_len = len;
	return 0;
}

static int writer_put(struct writer *out, const uint8_t *buf, size_t len)
{
	int r;

	if (len > out->max - out->done)
		return errmsg_set(out->err, -ENOEXEC,
				  "kernel payload unpacks to more than %" PRIu64
				  " MiB; it is corrupt or no kernel",
				  out->max / MIB);
	r = pwrite_full(out->fd, buf, len, out->done);
	if (r == 0)
		out->done += len;
	return r;
}

static int corrupt(struct errmsg *err, const char *format, const char *what)
{
	return errmsg_set(err, -ENOEXEC, "%s payload is corrupt (%s); copy the kernel file again", format,
			  what);
}

static void inflate_end_p(z_stream *z)
{
	inflateEnd(z);
}

static int unpack_gzip(struct reader *in, struct writer *out, uint8_t *ibuf, uint8_t *obuf)
{
	cleanup(inflate_end_p) z_stream z = {0};
	int zr = Z_OK;

	if (inflateInit2(&z, 16 + MAX_WBITS) != Z_OK)
		return -ENOMEM;
	while (zr != Z_STREAM_END) {
		int r;

		if (!z.avail_in) {
			size_t len = 0;

			r = reader_next(in, ibuf, CHUNK_BYTES, &len);
			if (r < 0)
				return r;
			if (!len)
				return corrupt(out->err, "gzip", "it ends early");
			z.next_in = ibuf;
			z.avail_in = (uInt)len;
		}
		z.next_out = obuf;
		z.avail_out = CHUNK_BYTES;
		zr = inflate(&z, Z_NO_FLUSH);
		if (zr == Z_MEM_ERROR)
			return -ENOMEM;
		if (zr != Z_OK && zr != Z_STREAM_END && zr != Z_BUF_ERROR)
			return corrupt(out->err, "gzip", z.msg ? z.msg : "bad data");
		r = writer_put(out, obuf, CHUNK_BYTES - z.avail_out);
		if (r < 0)
			return r;
	}
	return z.avail_in || in->left ? corrupt(out->err, "gzip", "data after its end") : 0;
}

static void lzma_end_p(lzma_stream *s)
{
	lzma_end(s);
}

static int unpack_xz(struct reader *in, struct writer *out, uint8_t *ibuf, uint8_t *obuf)
{
	cleanup(lzma_end_p) lzma_stream s = LZMA_STREAM_INIT;
	lzma_ret lr = lzma_stream_decoder(&s, XZ_MEMORY_MAX, 0);

	if (lr != LZMA_OK)
		return -ENOMEM;
	while (lr != LZMA_STREAM_END) {
		int r;

		if (!s.avail_in) {
			size_t len = 0;

			r = reader_next(in, ibuf, CHUNK_BYTES, &len);
			if (r < 0)
				return r;
			if (!len)
				return corrupt(out->err, "xz", "it ends early");
			s.next_in = ibuf;
			s.avail_in = len;
		}
		s.next_out = obuf;
		s.avail_out = CHUNK_BYTES;
		lr = lzma_code(&s, LZMA_RUN);
		if (lr == LZMA_MEM_ERROR)
			return -ENOMEM;
		if (lr == LZMA_MEMLIMIT_ERROR)
			return corrupt(out->err, "xz", "its dictionary is above 128 MiB");
		if (lr != LZMA_OK && lr != LZMA_STREAM_END && lr != LZMA_BUF_ERROR)
			return corrupt(out->err, "xz", "bad data");
		r = writer_put(out, obuf, CHUNK_BYTES - s.avail_out);
		if (r < 0)
			return r;
	}
	return s.avail_in || in->left ? corrupt(out->err, "xz", "data after its end") : 0;
}

static void zstd_free_p(ZSTD_DCtx **ctx)
{
	ZSTD_freeDCtx(*ctx);
}

static int unpack_zstd(struct reader *in, struct writer *out, uint8_t *ibuf, uint8_t *obuf)
{
	cleanup(zstd_free_p) ZSTD_DCtx *ctx = ZSTD_createDCtx();
	size_t zr = 1;

	if (!ctx)
		return -ENOMEM;
	for (;;) {
		size_t len = 0;
		ZSTD_inBuffer src;
		bool full = false;
		int r = reader_next(in, ibuf, CHUNK_BYTES, &len);

		if (r < 0)
			return r;
		if (!len)
			return zr ? corrupt(out->err, "zstd", "it ends early") : 0;
		src = (ZSTD_inBuffer){.src = ibuf, .size = len};
		/* A full output buffer may hide more output that needs no further input. */
		while (src.pos < src.size || full) {
			ZSTD_outBuffer dst = {.dst = obuf, .size = CHUNK_BYTES};

			zr = ZSTD_decompressStream(ctx, &dst, &src);
			if (ZSTD_isError(zr))
				return ZSTD_getErrorCode(zr) == ZSTD_error_memory_allocation
					       ? -ENOMEM
					       : corrupt(out->err, "zstd", ZSTD_getErrorName(zr));
			r = writer_put(out, obuf, dst.pos);
			if (r < 0)
				return r;
			full = zr && dst.pos == dst.size;
		}
	}
}

static int lz4_block(struct reader *in, struct writer *out, uint32_t len, uint8_t *packed, uint8_t *plain)
{
	size_t got = 0;
	int r, n;

	if (!len || len > (uint32_t)LZ4_COMPRESSBOUND(LZ4_LEGACY_BLOCK_BYTES) || len > in->left)
		return corrupt(out->err, "lz4", "bad block length");
	r = reader_next(in, packed, len, &got);
	if (r < 0)
		return r;
	n = LZ4_decompress_safe((const char *)packed, (char *)plain, (int)len, (int)LZ4_LEGACY_BLOCK_BYTES);
	if (n < 0)
		return corrupt(out->err, "lz4", "bad block");
	return writer_put(out, plain, (size_t)n);
}

static int unpack_lz4(struct reader *in, struct writer *out, uint8_t *ibuf, uint8_t *obuf)
{
	auto_free uint8_t *packed = malloc((size_t)LZ4_COMPRESSBOUND(LZ4_LEGACY_BLOCK_BYTES));
	auto_free uint8_t *plain = malloc(LZ4_LEGACY_BLOCK_BYTES);

	(void)obuf;
	if (!packed || !plain)
		return -ENOMEM;
	for (;;) {
		uint32_t len;
		size_t got = 0;
		int r = reader_next(in, ibuf, sizeof(len), &got);

		if (r < 0)
			return r;
		if (!got)
			return 0;
		if (got < sizeof(len))
			return corrupt(out->err, "lz4", "it ends early");
		len = load_le32(ibuf);
		if (len == LZ4_LEGACY_MAGIC) /* at the start, and where frames are concatenated */
			continue;
		r = lz4_block(in, out, len, packed, plain);
		if (r < 0)
			return r;
	}
}

struct format {
	const char *name;
	uint8_t magic[6];
	uint8_t magic_bytes;
	bool trailer_apart; /* the size comes after the format's own end */
	int (*unpack)(struct reader *in, struct writer *out, uint8_t *ibuf, uint8_t *obuf);
};

/* Those without a function are named in the message. */
static const struct format formats[] = {
	{"gzip", {0x1f, 0x8b}, 2, false, unpack_gzip},
	{"xz", {0xfd, '7', 'z', 'X', 'Z', 0x00}, 6, true, unpack_xz},
	{"zstd", {0x28, 0xb5, 0x2f, 0xfd}, 4, true, unpack_zstd},
	{"lz4", {0x02, 0x21, 0x4c, 0x18}, 4, true, unpack_lz4},
	{"bzip2", {'B', 'Z', 'h'}, 3, true, NULL},
	{"lzma", {0x5d, 0x00, 0x00}, 3, true, NULL},
	{"lzo", {0x89, 'L', 'Z', 'O', 0x00}, 5, true, NULL},
};

static const struct format *format_find(const uint8_t *head)
{
	for (size_t i = 0; i < ARRAY_SIZE(formats); i++)
		if (!memcmp(head, formats[i].magic, formats[i].magic_bytes))
			return &formats[i];
	return NULL;
}

int kernel_unpack(int in_fd, uint64_t offset, uint64_t bytes, int out_fd, uint64_t max, struct errmsg *err,
		  uint64_t *ret_bytes)
{
	auto_free uint8_t *ibuf = malloc(CHUNK_BYTES);
	auto_free uint8_t *obuf = malloc(CHUNK_BYTES);
	uint8_t head[sizeof(formats[0].magic)], trailer[TRAILER_BYTES];
	struct reader in = {.fd = in_fd, .offset = offset, .left = bytes};
	struct writer out = {.fd = out_fd, .max = max, .err = err};
	const struct format *format;
	int r;

	if (!ibuf || !obuf)
		return -ENOMEM;
	if (bytes < sizeof(head) + TRAILER_BYTES)
		return errmsg_set(err, -ENOEXEC, "kernel payload of %" PRIu64 " bytes is too short", bytes);
	r = pread_full(in_fd, head, sizeof(head), offset);
	if (r == 0)
		r = pread_full(in_fd, trailer, sizeof(trailer), offset + bytes - TRAILER_BYTES);
	if (r < 0)
		return r;
	format = format_find(head);
	if (!format)
		return errmsg_set(err, -ENOEXEC,
				  "kernel payload is in no known format (it starts %02x %02x %02x %02x)",
				  head[0], head[1], head[2], head[3]);
	if (!format->unpack)
		return errmsg_set(err, -ENOEXEC,
				  "kernel payload is packed with %s; gzip, xz, zstd and lz4 can be unpacked: "
				  "use such a "
				  "kernel, its vmlinux, or --kaslr on, where it unpacks itself",
				  format->name);
	if (format->trailer_apart)
		in.left -= TRAILER_BYTES;
	r = format->unpack(&in, &out, ibuf, obuf);
	if (r < 0)
		return r;
	if ((uint32_t)out.done != load_le32(trailer))
		return corrupt(err, format->name, "unpacked size differs from the recorded one");
	*ret_bytes = out.done;
	return 0;
}
