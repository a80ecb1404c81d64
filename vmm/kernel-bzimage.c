/* SPDX-License-Identifier: Apache-2.0 */
/* The setup header of a bzImage. */
#include "vmm/kernel-bzimage.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/bytes.h"
#include "base/planted.h"
#include "base/size.h"
#include "vmm/layout.h"

/* Offsets in the file: Linux Documentation/arch/x86/boot.rst. */
enum {
	HDR_SETUP_SECTS = 0x1f1,
	HDR_SYSSIZE = 0x1f4,
	HDR_BOOT_FLAG = 0x1fe,
	HDR_JUMP_LEN = 0x201, /* second byte of a short jump over the header: where it ends */
	HDR_JUMP_END = 0x202,
	HDR_MAGIC = 0x202,
	HDR_VERSION = 0x206,
	HDR_LOADFLAGS = 0x211,
	HDR_XLOADFLAGS = 0x236,
	HDR_PAYLOAD_OFFSET = 0x248,
	HDR_PAYLOAD_LENGTH = 0x24c,
	HDR_PREF_ADDRESS = 0x258,
	HDR_INIT_SIZE = 0x260,
	HDR_MIN_END = 0x264, /* a header of protocol 2.10, and so of any 64-bit kernel since 2009 */
};

#define LOADFLAG_LOADED_HIGH 0x01
#define XLF_KERNEL_64	     0x0001
#define PROTOCOL_MIN	     0x020a
#define PROTOCOL_XLOADFLAGS  0x020c
#define SECTOR_BYTES	     512u
#define SETUP_SECTS_DEFAULT  4u
#define PARAGRAPH_BYTES	     16u

_Static_assert(BZIMAGE_HEAD_BYTES >= HDR_SETUP_SECTS + BOOT_SETUP_HEADER_MAX, "the head holds the header");

static const char hdr_magic[4] = {'H', 'd', 'r', 'S'};

bool bzimage_is(const uint8_t *head, size_t head_bytes)
{
	return head_bytes >= HDR_VERSION && !memcmp(head + HDR_MAGIC, hdr_magic, sizeof(hdr_magic));
}

static int parse_ranges(const uint8_t *head, uint64_t file_bytes, struct errmsg *err, struct bzimage *b)
{
	uint64_t sects = head[HDR_SETUP_SECTS] ? head[HDR_SETUP_SECTS] : SETUP_SECTS_DEFAULT;
	uint64_t payload_offset = load_le32(head + HDR_PAYLOAD_OFFSET);
	uint64_t payload_bytes = load_le32(head + HDR_PAYLOAD_LENGTH);

	b->code_offset = (sects + 1) * SECTOR_BYTES;
	b->code_bytes = (uint64_t)load_le32(head + HDR_SYSSIZE) * PARAGRAPH_BYTES;
	if (!b->code_bytes)
		return errmsg_set(err, -ENOEXEC, "bzImage header is corrupt: no kernel code");
	if (!range_fits(b->code_offset, b->code_bytes, file_bytes))
		return errmsg_set(err, -ENOEXEC,
				  "bzImage is truncated: %" PRIu64 " bytes, its header says at least %" PRIu64
				  "; copy it again",
				  file_bytes, b->code_offset + b->code_bytes);
	if (!payload_bytes ||
	    !(range_fits(payload_offset, payload_bytes, b->code_bytes) || PLANTED("bzimage")))
		return errmsg_set(err, -ENOEXEC,
				  "bzImage header is corrupt: payload outside the kernel code");
	b->payload_offset = b->code_offset + payload_offset;
	b->payload_bytes = payload_bytes;
	return 0;
}

static int parse_entry(const uint8_t *head, struct errmsg *err, struct bzimage *b)
{
	uint64_t init_size = load_le32(head + HDR_INIT_SIZE);
	uint64_t need = init_size > b->code_bytes ? init_size : b->code_bytes;

	b->load = load_le64(head + HDR_PREF_ADDRESS);
	if (need > BZIMAGE_INIT_SIZE_MAX)
		return errmsg_set(err, -ENOEXEC,
				  "bzImage header is corrupt: asks for %" PRIu64 " bytes to unpack in", need);
	b->mem_bytes = page_up(need);
	if (b->load < LAYOUT_HIGH_START || b->load & PAGE_MASK ||
	    !range_fits(b->load, b->mem_bytes, LAYOUT_VIRTIO_MMIO))
		return errmsg_set(err, -ENOEXEC, "bzImage header is corrupt: load address 0x%" PRIx64,
				  b->load);
	b->has_entry64 =
		b->protocol >= PROTOCOL_XLOADFLAGS && load_le16(head + HDR_XLOADFLAGS) & XLF_KERNEL_64;
	return 0;
}

int bzimage_parse(const uint8_t *head, size_t head_bytes, uint64_t file_bytes, struct errmsg *err,
		  struct bzimage *ret)
{
	struct bzimage b = {0};
	size_t header_end;
	int r;

	if (!bzimage_is(head, head_bytes))
		return errmsg_set(err, -ENOEXEC, "not a bzImage: no HdrS signature at 0x202");
	if (head_bytes < HDR_MIN_END)
		return errmsg_set(err, -ENOEXEC, "bzImage is truncated within its header; copy it again");
	b.protocol = load_le16(head + HDR_VERSION);
	if (load_le16(head + HDR_BOOT_FLAG) != 0xaa55)
		return errmsg_set(err, -ENOEXEC, "bzImage header is corrupt: boot flag is not 0xaa55");
	if (b.protocol < PROTOCOL_MIN)
		return errmsg_set(err, -ENOEXEC,
				  "boot protocol %u.%02u is too old; use a kernel of 2.6.31 or later (2.10)",
				  b.protocol >> 8, b.protocol & 0xff);
	if (!(head[HDR_LOADFLAGS] & LOADFLAG_LOADED_HIGH))
		return errmsg_set(err, -ENOEXEC,
				  "a zImage, not a bzImage: build the kernel with make bzImage");
	header_end = (size_t)HDR_JUMP_END + head[HDR_JUMP_LEN];
	if (header_end < HDR_MIN_END)
		return errmsg_set(err, -ENOEXEC, "bzImage header is corrupt: it ends at 0x%zx", header_end);
	if (header_end > HDR_SETUP_SECTS + BOOT_SETUP_HEADER_MAX)
		header_end = HDR_SETUP_SECTS + BOOT_SETUP_HEADER_MAX;
	if (header_end > head_bytes)
		return errmsg_set(err, -ENOEXEC, "bzImage is truncated within its header; copy it again");
	r = parse_ranges(head, file_bytes, err, &b);
	if (r == 0)
		r = parse_entry(head, err, &b);
	if (r < 0)
		return r;
	b.setup_header_bytes = (uint32_t)(header_end - HDR_SETUP_SECTS);
	memcpy(b.setup_header, head + HDR_SETUP_SECTS, b.setup_header_bytes);
	*ret = b;
	return 0;
}
