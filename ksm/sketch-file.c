/* SPDX-License-Identifier: Apache-2.0 */
/* Sketches on disk: little-endian, checksummed. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>

#include "base/bytes.h"
#include "base/fs.h"
#include "base/planted.h"
#include "ksm/sketch.h"

#define SKETCH_VERSION 1u

static const char magic[8] = "SRDNSKCH";

struct disk_header {
	char magic[8];
	le32_t version;
	le32_t page_bytes;
	le32_t count; /* records; that of all images together comes first */
	le32_t record_bytes;
	le64_t checksum; /* XXH3 of all records; the seed is page_bytes * 2^32 + count */
};
_Static_assert(sizeof(struct disk_header) == 32, "as documented in docs/analyze.md");

struct disk_record {
	char name[SKETCH_NAME_MAX]; /* ends with a NUL */
	le64_t pages, zero, nonzero, distinct;
	le32_t key_count;
	le32_t reserved;
	le64_t keys[SKETCH_KEYS];
};
_Static_assert(sizeof(struct disk_record) == 256 + 40 + 8192, "as documented in docs/analyze.md");

static uint64_t records_checksum(const struct disk_header *h, const void *records, size_t bytes)
{
	return XXH3_64bits_withSeed(records, bytes,
				    (uint64_t)le32_get(&h->page_bytes) << 32 | le32_get(&h->count));
}

static void record_put(struct disk_record *r, const struct sketch *s)
{
	memset(r, 0, sizeof(*r));
	snprintf(r->name, sizeof(r->name), "%s", s->name);
	le64_put(&r->pages, s->pages);
	le64_put(&r->zero, s->zero);
	le64_put(&r->nonzero, s->nonzero);
	le64_put(&r->distinct, s->distinct);
	le32_put(&r->key_count, s->key_count);
	for (uint32_t i = 0; i < s->key_count; i++)
		le64_put(&r->keys[i], s->keys[i]);
}

/* Everything that sketch_compare() relies on. */
static bool record_get(const struct disk_record *r, struct sketch *s)
{
	if (!memchr(r->name, 0, sizeof(r->name)))
		return false;
	snprintf(s->name, sizeof(s->name), "%s", r->name);
	s->pages = le64_get(&r->pages);
	s->zero = le64_get(&r->zero);
	s->nonzero = le64_get(&r->nonzero);
	s->distinct = le64_get(&r->distinct);
	s->key_count = le32_get(&r->key_count);
	if (!PLANTED("sketch") && (s->key_count > SKETCH_KEYS || s->distinct > s->nonzero ||
				   s->key_count != (s->distinct < SKETCH_KEYS ? s->distinct : SKETCH_KEYS)))
		return false;
	for (uint32_t i = 0; i < s->key_count; i++) {
		s->keys[i] = le64_get(&r->keys[i]);
		if (i && s->keys[i] < s->keys[i - 1])
			return false;
	}
	return true;
}

int sketch_save(const struct sketch_file *f, const char *path, struct errmsg *err)
{
	size_t records = (size_t)f->count + 1, bytes = records * sizeof(struct disk_record);
	auto_free struct disk_record *r = calloc(records, sizeof(*r));
	auto_free char *temporary = NULL;
	struct disk_header h = {0};
	struct stat st;
	int fd, result;

	if (stat(path, &st) == 0 && !S_ISREG(st.st_mode))
		return errmsg_set(err, -EINVAL, "%s: is not a regular file; give another name", path);
	if (!r || asprintf(&temporary, "%s.XXXXXX", path) < 0)
		return -ENOMEM;
	record_put(&r[0], &f->all);
	for (uint32_t i = 0; i < f->count; i++)
		record_put(&r[i + 1], &f->v[i]);
	memcpy(h.magic, magic, sizeof(h.magic));
	le32_put(&h.version, SKETCH_VERSION);
	le32_put(&h.page_bytes, f->page_bytes);
	le32_put(&h.count, (uint32_t)records);
	le32_put(&h.record_bytes, sizeof(*r));
	le64_put(&h.checksum, records_checksum(&h, r, bytes));
	fd = mkostemp(temporary, O_CLOEXEC);
	if (fd < 0)
		return errmsg_set(err, -errno, "%s: cannot be written: %s", path, strerror(errno));
	/* 0600: the keys of a memory's contents say whether it holds a given page. */
	result = write_full(fd, &h, sizeof(h));
	if (result == 0)
		result = write_full(fd, r, bytes);
	if (close(fd) < 0 && result == 0)
		result = -errno;
	if (result == 0 && rename(temporary, path) < 0)
		result = -errno;
	if (result < 0) {
		unlink(temporary);
		return errmsg_set(err, result, "%s: cannot be written: %s", path, strerror(-result));
	}
	return 0;
}

static int sketch_bad(const char *path, struct errmsg *err, const char *what)
{
	return errmsg_set(err, -EINVAL, "%s: %s; make one with `sardine analyze --sketch`", path, what);
}

static int header_check(const struct disk_header *h, uint64_t size, const char *path, struct errmsg *err)
{
	uint64_t count = le32_get(&h->count), page = le32_get(&h->page_bytes);

	if (memcmp(h->magic, magic, sizeof(magic)) != 0)
		return sketch_bad(path, err, "is not a sketch");
	if (le32_get(&h->version) != SKETCH_VERSION)
		return errmsg_set(err, -ENOTSUP, "%s: is a sketch of version %u; only version %u is read",
				  path, le32_get(&h->version), SKETCH_VERSION);
	if (le32_get(&h->record_bytes) != sizeof(struct disk_record) || count < 1 ||
	    count > SKETCHES_MAX + 1 || page < PAGE_SET_BYTES_MIN || page > PAGE_SET_BYTES_MAX ||
	    (page & (page - 1)))
		return sketch_bad(path, err, "is a damaged sketch");
	if (size != sizeof(*h) + count * sizeof(struct disk_record))
		return sketch_bad(path, err, "is a sketch of the wrong length");
	return 0;
}

int sketch_load(const char *path, struct sketch_file *ret, struct errmsg *err)
{
	auto_fd fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	auto_free struct disk_record *records = NULL;
	struct sketch_file f = {0};
	struct disk_header h = {0};
	struct stat st;
	size_t bytes;
	int r;

	if (fd < 0 || fstat(fd, &st) < 0)
		return errmsg_set(err, -errno, "%s: cannot be opened: %s", path, strerror(errno));
	if (!S_ISREG(st.st_mode) || st.st_size < (off_t)sizeof(h) || pread_full(fd, &h, sizeof(h), 0) < 0)
		return sketch_bad(path, err, "is not a sketch");
	r = header_check(&h, (uint64_t)st.st_size, path, err);
	if (r < 0)
		return r;
	bytes = le32_get(&h.count) * sizeof(*records);
	records = malloc(bytes);
	f.page_bytes = le32_get(&h.page_bytes);
	f.count = le32_get(&h.count) - 1;
	f.v = calloc((size_t)f.count + 1, sizeof(*f.v));
	if (!records || !f.v)
		r = -ENOMEM;
	else if (pread_full(fd, records, bytes, sizeof(h)) < 0 ||
		 records_checksum(&h, records, bytes) != le64_get(&h.checksum) ||
		 !record_get(&records[0], &f.all))
		r = sketch_bad(path, err, "is a damaged sketch");
	for (uint32_t i = 0; r == 0 && i < f.count; i++)
		if (!record_get(&records[i + 1], &f.v[i]))
			r = sketch_bad(path, err, "is a damaged sketch");
	if (r < 0)
		sketch_file_done(&f);
	else
		*ret = f;
	return r;
}
