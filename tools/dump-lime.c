/* SPDX-License-Identifier: Apache-2.0 */
/* Memory in LiME files: blocks, each with a header that says its physical addresses. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/bytes.h"
#include "base/fs.h"
#include "base/size.h"
#include "tools/dump-file.h"

/* LiME's doc/README.md, "LiME Memory Range Header Version 1"; little-endian, the end is inclusive. */
#define LIME_MAGIC	  0x4c694d45u
#define LIME_HEADER_BYTES 32u
#define LIME_VERSION_AT	  4
#define LIME_START_AT	  8
#define LIME_END_AT	  16

static int block_add(struct dump_file *dump, size_t *space, const struct page_range *range)
{
	if (dump->range_count == *space) {
		size_t more = *space ? *space * 2 : 16;
		struct page_range *v = realloc(dump->ranges, more * sizeof(*v));

		if (!v)
			return -ENOMEM;
		dump->ranges = v;
		*space = more;
	}
	dump->ranges[dump->range_count++] = *range;
	return 0;
}

static int lime_damaged(struct dump_file *dump, struct errmsg *err, uint64_t at)
{
	/* What comes before the damage can be used. */
	struct errmsg *to = dump->range_count ? &dump->problem : err;

	errmsg_set(to, 0, "%s: damaged LiME file: no block header at byte %" PRIu64, dump->path, at);
	return dump->range_count ? 0 : -EINVAL;
}

int dump_parse_lime(struct dump_file *dump, struct errmsg *err)
{
	unsigned char h[LIME_HEADER_BYTES];
	size_t space = 0;
	uint64_t at = 0, beyond;
	int r = 0;

	dump->form = "lime";
	while (at < dump->size) {
		struct page_range range;
		uint32_t version;

		if (dump->range_count >= DUMP_RANGES_MAX || !range_fits(at, sizeof(h), dump->size) ||
		    pread_full(dump->fd, h, sizeof(h), at) < 0 || load_le32(h) != LIME_MAGIC) {
			r = lime_damaged(dump, err, at);
			break;
		}
		version = load_le32(h + LIME_VERSION_AT);
		if (version != 1)
			return errmsg_set(err, -ENOTSUP,
					  "%s: is LiME version %" PRIu32
					  "; only version 1 (uncompressed) is read",
					  dump->path, version);
		range.address = load_le64(h + LIME_START_AT);
		range.bytes = load_le64(h + LIME_END_AT) - range.address + 1;
		range.where = at + sizeof(h);
		if (load_le64(h + LIME_END_AT) < range.address || range.bytes == 0) {
			r = lime_damaged(dump, err, at);
			break;
		}
		r = block_add(dump, &space, &range);
		if (r < 0)
			return r;
		if (range.bytes > dump->size - range.where)
			break; /* truncated; said below */
		at = range.where + range.bytes;
	}
	if (r < 0)
		return r;
	beyond = dump_ranges_tidy(dump);
	if (beyond)
		errmsg_set(&dump->problem, 0,
			   "%s: is truncated: %" PRIu64 " bytes of its last block are missing", dump->path,
			   beyond);
	return 0;
}
