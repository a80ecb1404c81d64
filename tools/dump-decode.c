/* SPDX-License-Identifier: Apache-2.0 */
/* Compressed dumps: decoded once, as a stream, into an unnamed sparse file.
 *
 * Confirming duplicates needs each page a second time, in another order, which no compressed stream gives. So
 * the dump is decoded to disk and not to memory: 64 KiB at a time, zero pages left out as holes. The file has
 * no name, so that it goes away with us in any case. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <lzma.h>
#include <string.h>
#include <sys/stat.h>
#include <zlib.h>
#include <zstd.h>

#include "base/addr.h"
#include "base/fs.h"
#include "tools/dump-file.h"

#define IN_BYTES  ((size_t)256 * 1024)
#define OUT_BYTES ((size_t)256 * 1024)
/* xz -9 needs 65 MiB; what wants more was not made by its presets. zstd's own limit is 128 MiB. */
#define XZ_MEMORY_MAX ((uint64_t)192 << 20)

enum step {
	STEP_MORE, /* all input taken, or output full */
	STEP_END,  /* of a stream; another may follow */
	STEP_BAD,
};

struct decoder {
	const unsigned char *in;
	size_t in_left;
	unsigned char *out;
	size_t out_left;
	union {
		z_stream gzip;
		ZSTD_DStream *zstd;
		lzma_stream xz;
	};
	const char *why; /* of STEP_BAD */
};

struct codec {
	const char *name;
	unsigned char magic[6];
	size_t magic_len;
	int (*init)(struct decoder *d);
	/* Call to decode some, after each STEP_END begins the next stream. */
	enum step (*step)(struct decoder *d, bool at_end);
	void (*done)(struct decoder *d);
};

static int gzip_init(struct decoder *d)
{
	d->gzip = (z_stream){0};
	return inflateInit2(&d->gzip, 15 + 16) == Z_OK ? 0 : -ENOMEM;
}

static enum step gzip_step(struct decoder *d, bool at_end __attribute__((unused)))
{
	int r;

	/* zlib's interface wants no const here, and does not write. */
	memcpy(&d->gzip.next_in, &d->in, sizeof(d->in));
	d->gzip.avail_in = (uInt)d->in_left;
	d->gzip.next_out = d->out;
	d->gzip.avail_out = (uInt)d->out_left;
	r = inflate(&d->gzip, Z_NO_FLUSH);
	d->in += d->in_left - d->gzip.avail_in;
	d->in_left = d->gzip.avail_in;
	d->out += d->out_left - d->gzip.avail_out;
	d->out_left = d->gzip.avail_out;
	if (r == Z_STREAM_END) {
		inflateReset(&d->gzip);
		return STEP_END;
	}
	if (r == Z_OK || r == Z_BUF_ERROR)
		return STEP_MORE;
	d->why = d->gzip.msg ? d->gzip.msg : "bad data";
	return STEP_BAD;
}

static void gzip_done(struct decoder *d)
{
	inflateEnd(&d->gzip);
}

static int zstd_init(struct decoder *d)
{
	d->zstd = ZSTD_createDStream();
	return d->zstd ? 0 : -ENOMEM;
}

static enum step zstd_step(struct decoder *d, bool at_end __attribute__((unused)))
{
	ZSTD_inBuffer in = {d->in, d->in_left, 0};
	ZSTD_outBuffer out = {d->out, d->out_left, 0};
	size_t r = ZSTD_decompressStream(d->zstd, &out, &in);

	d->in += in.pos;
	d->in_left -= in.pos;
	d->out += out.pos;
	d->out_left -= out.pos;
	if (ZSTD_isError(r)) {
		d->why = ZSTD_getErrorName(r);
		return STEP_BAD;
	}
	return r == 0 ? STEP_END : STEP_MORE;
}

static void zstd_done(struct decoder *d)
{
	ZSTD_freeDStream(d->zstd);
}

static int xz_init(struct decoder *d)
{
	lzma_stream start = LZMA_STREAM_INIT;

	d->xz = start;
	return lzma_stream_decoder(&d->xz, XZ_MEMORY_MAX, LZMA_CONCATENATED) == LZMA_OK ? 0 : -ENOMEM;
}

static enum step xz_step(struct decoder *d, bool at_end)
{
	lzma_ret r;

	d->xz.next_in = d->in;
	d->xz.avail_in = d->in_left;
	d->xz.next_out = d->out;
	d->xz.avail_out = d->out_left;
	r = lzma_code(&d->xz, at_end ? LZMA_FINISH : LZMA_RUN);
	d->in += d->in_left - d->xz.avail_in;
	d->in_left = d->xz.avail_in;
	d->out += d->out_left - d->xz.avail_out;
	d->out_left = d->xz.avail_out;
	if (r == LZMA_STREAM_END)
		return STEP_END;
	if (r == LZMA_OK || r == LZMA_BUF_ERROR)
		return STEP_MORE;
	d->why = r == LZMA_MEMLIMIT_ERROR ? "needs more than 192 MiB to decode" : "bad data";
	return STEP_BAD;
}

static void xz_done(struct decoder *d)
{
	lzma_end(&d->xz);
}

static const struct codec codecs[] = {
	{"gzip", {0x1f, 0x8b, 8}, 3, gzip_init, gzip_step, gzip_done},		/* RFC 1952, 2.3.1 */
	{"zstd", {0x28, 0xb5, 0x2f, 0xfd}, 4, zstd_init, zstd_step, zstd_done}, /* RFC 8878, 3.1.1 */
	{"xz", {0xfd, '7', 'z', 'X', 'Z', 0}, 6, xz_init, xz_step, xz_done},	/* xz-file-format 2.1.1.1 */
};

const char *dump_compression(const unsigned char *head, size_t len)
{
	for (size_t i = 0; i < ARRAY_SIZE(codecs); i++)
		if (len >= codecs[i].magic_len && memcmp(head, codecs[i].magic, codecs[i].magic_len) == 0)
			return codecs[i].name;
	return "none";
}

static const char *temporary_folder(void)
{
	const char *s = getenv("TMPDIR");

	return s && *s ? s : "/var/tmp";
}

/* Not every file system has O_TMPFILE. */
static int temporary_file(const char *folder)
{
	char path[4096];
	int fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR))
		return fd < 0 ? -errno : fd;
	snprintf(path, sizeof(path), "%s/sardine-XXXXXX", folder);
	fd = mkostemp(path, O_CLOEXEC);
	if (fd < 0)
		return -errno;
	unlink(path);
	return fd;
}

struct copy {
	struct dump_file *dump;
	const struct codec *codec;
	const struct work_control *control;
	struct decoder decoder;
	unsigned char *in, *out;
	int fd;
	uint64_t taken, written;
};

static int copy_no_room(const struct copy *c, int r, struct errmsg *err)
{
	return errmsg_set(err, r, "%s: cannot be decoded into %s: %s; set TMPDIR to a roomy folder",
			  c->dump->path, temporary_folder(), strerror(-r));
}

/* Writes pages that are not zero; the rest becomes holes. */
static int copy_flush(struct copy *c, struct errmsg *err)
{
	static const unsigned char zero[PAGE_BYTES];
	size_t len = OUT_BYTES - c->decoder.out_left;
	int r = 0;

	for (size_t at = 0; at < len && r == 0;) {
		size_t n = 0;

		while (at + n < len && memcmp(c->out + at + n, zero,
					      len - at - n < PAGE_BYTES ? len - at - n : PAGE_BYTES) != 0)
			n += PAGE_BYTES;
		if (n > len - at)
			n = len - at;
		if (n)
			r = pwrite_full(c->fd, c->out + at, n, c->written + at);
		at += n ? n : PAGE_BYTES;
	}
	if (r < 0)
		return copy_no_room(c, r, err);
	c->written += len;
	c->decoder.out = c->out;
	c->decoder.out_left = OUT_BYTES;
	return 0;
}

static void copy_problem(struct copy *c, const char *what)
{
	errmsg_set(&c->dump->problem, 0, "%s: %s after %" PRIu64 " decoded bytes", c->dump->path, what,
		   c->written + OUT_BYTES - c->decoder.out_left);
}

/* Takes more input; false at the end of the file. */
static int copy_refill(struct copy *c, bool *ret_more)
{
	size_t n = IN_BYTES;
	int r;

	if (n > c->dump->size - c->taken)
		n = (size_t)(c->dump->size - c->taken);
	*ret_more = n > 0;
	if (n == 0)
		return 0;
	r = pread_full(c->dump->fd, c->in, n, c->taken);
	if (r < 0)
		return r;
	c->taken += n;
	c->decoder.in = c->in;
	c->decoder.in_left = n;
	if (c->control->progress)
		c->control->progress(c->control->progress_ctx, "decoding", c->taken, c->dump->size);
	return 0;
}

static int copy_run(struct copy *c, struct errmsg *err)
{
	bool between = false, more = true; /* between: after the end of a stream */
	int r;

	for (;;) {
		size_t in_before, out_before;
		enum step step;

		if (work_stopped(c->control))
			return -ECANCELED;
		if (c->decoder.in_left == 0 && more) {
			r = copy_refill(c, &more);
			if (r < 0) {
				copy_problem(c, "cannot be read");
				break;
			}
		}
		if (!more && between && c->decoder.in_left == 0)
			break;
		in_before = c->decoder.in_left;
		out_before = c->decoder.out_left;
		step = c->codec->step(&c->decoder, !more);
		if (step == STEP_BAD && between) {
			copy_problem(c, "something else follows its compressed data");
			break;
		}
		if (step == STEP_BAD) {
			copy_problem(c, c->decoder.why);
			break;
		}
		between = step == STEP_END || (between && c->decoder.in_left == in_before);
		if (!more && step == STEP_MORE && c->decoder.in_left == in_before &&
		    c->decoder.out_left == out_before) {
			copy_problem(c, "is truncated");
			break;
		}
		if (c->decoder.out_left == 0) {
			r = copy_flush(c, err);
			if (r < 0)
				return r;
		}
	}
	r = copy_flush(c, err);
	if (r == 0 && ftruncate(c->fd, (off_t)c->written) < 0)
		r = copy_no_room(c, -errno, err);
	if (r == 0 && c->written == 0)
		r = errmsg_set(err, -ENODATA, "%s: holds nothing that can be decoded (%s)", c->dump->path,
			       c->dump->problem.text[0] ? c->codec->name : "empty");
	return r;
}

int dump_decode(struct dump_file *dump, const struct work_control *control, struct errmsg *err)
{
	struct copy c = {.dump = dump, .control = control, .fd = -1};
	int r = -ENOMEM;

	for (size_t i = 0; i < ARRAY_SIZE(codecs); i++)
		if (strcmp(codecs[i].name, dump->compression) == 0)
			c.codec = &codecs[i];
	if (!c.codec)
		return -EINVAL;
	c.in = malloc(IN_BYTES);
	c.out = malloc(OUT_BYTES);
	c.decoder.out = c.out;
	c.decoder.out_left = OUT_BYTES;
	if (c.in && c.out && c.codec->init(&c.decoder) == 0) {
		c.fd = temporary_file(temporary_folder());
		if (c.fd < 0)
			r = errmsg_set(err, c.fd, "%s: no file for its decoded copy in %s: %s", dump->path,
				       temporary_folder(), strerror(-c.fd));
		else
			r = copy_run(&c, err);
		c.codec->done(&c.decoder);
	}
	free(c.in);
	free(c.out);
	if (r < 0) {
		close_fd_p(&c.fd);
		return r;
	}
	dump->original_fd = dump->fd;
	dump->fd = c.fd;
	dump->size = c.written;
	return 0;
}
