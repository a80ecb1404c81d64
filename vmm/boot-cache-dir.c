/* SPDX-License-Identifier: Apache-2.0 */
/* The folder of the boot cache: complete files, files being written, and the index of known sources. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <time.h>
#include <zlib.h>

#include "base/addr.h"
#include "base/fs.h"
#include "base/size.h"
#include "vmm/boot-cache-internal.h"

#define TEMP_PREFIX	  ".tmp-"
#define INDEX_PREFIX	  "index-"
#define TEMP_TRIES	  16
#define INDEX_AGE_MAX_SEC (90 * 86400)
#define INDEX_MAGIC	  "SARDINDX"

/* A file is trusted to be what it was when its times are unchanged only if they lay this far back when it was
 * hashed: later writes then get other times, whatever the granularity of the file system's clock (FAT has 2
 * s). */
#define RACY_NS (INT64_C(3) * 1000000000)

static const char *const kind_names[] = {
	[CACHE_KERNEL] = "kernel",
	[CACHE_BZIMAGE] = "bzimage",
	[CACHE_INITRD] = "initrd",
};
_Static_assert(ARRAY_SIZE(kind_names) == CACHE_KINDS, "a name for each kind");

/* A file of the index: one per source inode, overwritten by rename. */
struct index_record {
	uint8_t magic[8];
	le32_t version;
	le32_t crc32; /* of the record, with this field zero */
	le64_t dev;
	le64_t ino;
	le64_t bytes;
	le64_t mtime_ns;
	le64_t ctime_ns;
	uint8_t sha256[CACHE_SHA256_BYTES];
};
_Static_assert(sizeof(struct index_record) == 88, "layout of version 1");
_Static_assert(offsetof(struct index_record, sha256) == 56, "layout of version 1");

static uint32_t crc_of(const void *p, size_t len)
{
	return (uint32_t)crc32(crc32(0, NULL, 0), p, (uInt)len);
}

static bool owner_is_ours(uid_t uid)
{
	return uid == 0 || uid == geteuid();
}

static int dir_check(int fd, const char *path, struct errmsg *err)
{
	struct stat st;

	if (fstat(fd, &st) < 0) {
		int r = -errno;

		return errmsg_set(err, r, "cache folder %s: cannot look at it: %s", path, strerror(-r));
	}
	if (!owner_is_ours(st.st_uid))
		return errmsg_set(
			err, -EPERM,
			"cache folder %s: belongs to uid %u, who could exchange files in it; choose "
			"another with --cache-dir",
			path, (unsigned)st.st_uid);
	if (st.st_mode & (S_IWGRP | S_IWOTH))
		return errmsg_set(
			err, -EPERM,
			"cache folder %s: others may write in it; chmod go-w it, or choose another with "
			"--cache-dir",
			path);
	return 0;
}

/* mkdir -p, 0700. */
static int make_dirs(const char *path)
{
	auto_free char *copy = strdup(path);

	if (!copy)
		return -ENOMEM;
	for (char *p = copy + 1; *p; p++) {
		if (*p != '/')
			continue;
		*p = '\0';
		if (mkdir(copy, 0700) < 0 && errno != EEXIST) {
			int r = -errno;

			/* A component above may exist on a file system where nothing can be made. */
			if (access(copy, F_OK) < 0)
				return r;
		}
		*p = '/';
	}
	return mkdir(copy, 0700) < 0 && errno != EEXIST ? -errno : 0;
}

int cache_dir_open(const char *path, struct errmsg *err, struct cache_dir *ret)
{
	auto_fd fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	char *copy;
	int r;

	if (fd < 0 && errno == ENOENT) {
		r = make_dirs(path);
		if (r < 0)
			return errmsg_set(
				err, r,
				"cache folder %s: cannot create it: %s; choose another with --cache-dir",
				path, strerror(-r));
		fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	}
	if (fd < 0) {
		r = -errno;
		return errmsg_set(err, r,
				  "cache folder %s: cannot open it: %s; choose another with --cache-dir",
				  path, strerror(-r));
	}
	r = dir_check(fd, path, err);
	if (r < 0)
		return r;
	copy = strdup(path);
	if (!copy)
		return -ENOMEM;
	*ret = (struct cache_dir){.fd = TAKE_FD(fd), .path = copy};
	return 0;
}

int cache_dir_open_sub(const struct cache_dir *dir, const char *name, struct errmsg *err,
		       struct cache_dir *ret)
{
	const int flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
	auto_free char *path = NULL;
	auto_fd fd = -1;
	int r;

	if (asprintf(&path, "%s/%s", dir->path, name) < 0) {
		path = NULL;
		return -ENOMEM;
	}
	fd = openat(dir->fd, name, flags);
	if (fd < 0 && errno == ENOENT) {
		if (mkdirat(dir->fd, name, 0700) < 0 && errno != EEXIST) {
			r = -errno;
			return errmsg_set(
				err, r,
				"cache folder %s: cannot create it: %s; choose another with --cache-dir",
				path, strerror(-r));
		}
		fd = openat(dir->fd, name, flags);
	}
	if (fd < 0) {
		r = -errno;
		return errmsg_set(err, r,
				  "cache folder %s: cannot open it: %s; choose another with --cache-dir",
				  path, strerror(-r));
	}
	r = dir_check(fd, path, err);
	if (r < 0)
		return r;
	*ret = (struct cache_dir){.fd = TAKE_FD(fd), .path = TAKE_PTR(path)};
	return 0;
}

void cache_dir_done(struct cache_dir *dir)
{
	close_fd_p(&dir->fd);
	free(dir->path);
	*dir = CACHE_DIR_EMPTY;
}

/* A temporary file is a dead writer's when its lock is free. */
static void clean_temp(const struct cache_dir *dir, const char *name)
{
	auto_fd fd = openat(dir->fd, name, O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC);

	if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0)
		unlinkat(dir->fd, name, 0);
}

static void clean_index(const struct cache_dir *dir, const char *name)
{
	struct stat st;

	if (fstatat(dir->fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
	    time(NULL) - st.st_mtime > INDEX_AGE_MAX_SEC)
		unlinkat(dir->fd, name, 0);
}

void cache_dir_clean(const struct cache_dir *dir)
{
	int fd = openat(dir->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	auto_dir d = fd < 0 ? NULL : fdopendir(fd);
	const struct dirent *e;

	if (!d) {
		close_fd_p(&fd);
		return;
	}
	while ((e = readdir(d))) {
		if (!strncmp(e->d_name, TEMP_PREFIX, strlen(TEMP_PREFIX)))
			clean_temp(dir, e->d_name);
		else if (!strncmp(e->d_name, INDEX_PREFIX, strlen(INDEX_PREFIX)))
			clean_index(dir, e->d_name);
	}
}

int cache_dir_error(const struct cache_dir *dir, const struct source *s, int code, struct errmsg *err)
{
	const char *to_do = "choose another with --cache-dir";

	if (code == -ENOSPC || code == -EDQUOT || code == -EFBIG)
		to_do = "free some space there, or choose another with --cache-dir";
	return errmsg_set(err, code, "cache folder %s: cannot store %s %s in it: %s; %s", dir->path,
			  s->option, s->path, strerror(-code), to_do);
}

static void entry_name(char name[CACHE_NAME_MAX], enum cache_kind kind, const uint8_t *sha256)
{
	int n = snprintf(name, CACHE_NAME_MAX, "%s-v%d-", kind_names[kind], CACHE_VERSION);

	for (size_t i = 0; i < CACHE_SHA256_BYTES; i++)
		n += snprintf(name + n, CACHE_NAME_MAX - (size_t)n, "%02x", sha256[i]);
}

static uint32_t header_crc(const struct cache_header *h)
{
	struct cache_header copy = *h;

	le32_put(&copy.crc32, 0);
	return crc_of(&copy, sizeof(copy));
}

/* A kernel's numbers hang together. */
static bool kernel_header_is_sane(const struct cache_header *h)
{
	uint64_t bytes = le64_get(&h->image_bytes), mem_bytes = le64_get(&h->mem_bytes);
	uint64_t load = le64_get(&h->load), entry = le64_get(&h->entry);

	return !((bytes | mem_bytes | load) & PAGE_MASK) && bytes <= mem_bytes &&
	       range_fits(load, mem_bytes, UINT32_MAX) && entry >= load && entry - load < bytes &&
	       le32_get(&h->entry_kind) < BOOT_ENTRIES &&
	       le32_get(&h->setup_header_bytes) <= BOOT_SETUP_HEADER_MAX;
}

static bool header_is_valid(const struct cache_header *h, enum cache_kind kind, const uint8_t *sha256,
			    uint64_t file_bytes)
{
	uint64_t bytes = le64_get(&h->image_bytes);

	return !memcmp(h->magic, CACHE_MAGIC, sizeof(h->magic)) && le32_get(&h->version) == CACHE_VERSION &&
	       le32_get(&h->crc32) == header_crc(h) && le32_get(&h->kind) == kind &&
	       !memcmp(h->source_sha256, sha256, CACHE_SHA256_BYTES) &&
	       le64_get(&h->file_bytes) == file_bytes && bytes && bytes == file_bytes - CACHE_PAGE_BYTES &&
	       (kind == CACHE_INITRD || kernel_header_is_sane(h));
}

int entry_open(const struct cache_dir *dir, enum cache_kind kind, const uint8_t sha256[CACHE_SHA256_BYTES],
	       int *ret_fd, struct cache_header *ret)
{
	char name[CACHE_NAME_MAX];
	struct cache_header h;
	auto_fd fd = -1;
	struct stat st;
	int r;

	entry_name(name, kind, sha256);
	fd = openat(dir->fd, name, O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_NOCTTY | O_CLOEXEC);
	if (fd < 0)
		return errno == ELOOP ? -EUCLEAN : -errno;
	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode) || !owner_is_ours(st.st_uid) || st.st_mode & (S_IWUSR | S_IWGRP | S_IWOTH) ||
	    st.st_size <= CACHE_PAGE_BYTES)
		return -EUCLEAN;
	r = pread_full(fd, &h, sizeof(h), 0);
	if (r < 0)
		return r == -ENODATA ? -EUCLEAN : r;
	if (!header_is_valid(&h, kind, sha256, (uint64_t)st.st_size))
		return -EUCLEAN;
	*ret_fd = TAKE_FD(fd);
	*ret = h;
	return 0;
}

static int temp_try(const struct cache_dir *dir, struct cache_temp *t)
{
	auto_fd fd = -1;
	uint64_t nonce;
	struct stat st;

	if (getrandom(&nonce, sizeof(nonce), 0) != sizeof(nonce))
		return -EIO;
	snprintf(t->name, sizeof(t->name), TEMP_PREFIX "%016" PRIx64, nonce);
	fd = openat(dir->fd, t->name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	/* Where locks do not work, nothing is cleaned either. */
	if (flock(fd, LOCK_EX) < 0 && errno == EINTR) {
		unlinkat(dir->fd, t->name, 0);
		return -EEXIST;
	}
	/* Between open and flock somebody who cleans may have taken it for a dead writer's. */
	if (fstat(fd, &st) < 0 || !st.st_nlink) {
		unlinkat(dir->fd, t->name, 0);
		return -EEXIST;
	}
	t->dir = dir;
	t->fd = TAKE_FD(fd);
	return 0;
}

int cache_temp_new(const struct cache_dir *dir, struct cache_temp *ret)
{
	int r = -EEXIST;

	for (unsigned i = 0; r == -EEXIST && i < TEMP_TRIES; i++) {
		struct cache_temp t = CACHE_TEMP_EMPTY;

		r = temp_try(dir, &t);
		if (r == 0)
			*ret = t;
	}
	return r;
}

void cache_temp_unlink(struct cache_temp *temp)
{
	if (temp->name[0])
		unlinkat(temp->dir->fd, temp->name, 0);
	temp->name[0] = '\0';
}

void cache_temp_done(struct cache_temp *temp)
{
	cache_temp_unlink(temp);
	close_fd_p(&temp->fd);
	temp->fd = -1;
}

/* The name, unless a valid file has it. */
static int publish_name(struct cache_temp *temp, enum cache_kind kind, const uint8_t *sha256)
{
	char name[CACHE_NAME_MAX];
	struct cache_header other;
	auto_fd fd = -1;

	entry_name(name, kind, sha256);
	if (linkat(temp->dir->fd, temp->name, temp->dir->fd, name, 0) == 0) {
		cache_temp_unlink(temp);
		return 0;
	}
	if (errno == EEXIST && entry_open(temp->dir, kind, sha256, &fd, &other) == 0) {
		cache_temp_unlink(temp);
		return 0;
	}
	/* What is there is damaged, or this file system has no links. */
	if (renameat(temp->dir->fd, temp->name, temp->dir->fd, name) < 0)
		return -errno;
	temp->name[0] = '\0';
	return 0;
}

int entry_publish(struct cache_temp *temp, struct cache_header *header)
{
	uint64_t file_bytes = CACHE_PAGE_BYTES + le64_get(&header->image_bytes);
	int r;

	memcpy(header->magic, CACHE_MAGIC, sizeof(header->magic));
	le32_put(&header->version, CACHE_VERSION);
	le64_put(&header->file_bytes, file_bytes);
	le32_put(&header->crc32, header_crc(header));
	r = pwrite_full(temp->fd, header, sizeof(*header), 0);
	if (r < 0)
		return r;
	if (ftruncate(temp->fd, (off_t)file_bytes) < 0 || fchmod(temp->fd, 0444) < 0 || fsync(temp->fd) < 0)
		return -errno;
	r = publish_name(temp, (enum cache_kind)le32_get(&header->kind), header->source_sha256);
	if (r < 0)
		return r;
	/* Its failure would cost no more than the entry, if the host crashes now. */
	(void)fsync(temp->dir->fd);
	return 0;
}

static void index_name(char name[CACHE_NAME_MAX], const struct source_id *id)
{
	snprintf(name, CACHE_NAME_MAX, INDEX_PREFIX "%" PRIx64 "-%" PRIx64, id->dev, id->ino);
}

static uint32_t record_crc(const struct index_record *rec)
{
	struct index_record copy = *rec;

	le32_put(&copy.crc32, 0);
	return crc_of(&copy, sizeof(copy));
}

int index_find(const struct cache_dir *dir, const struct source_id *id,
	       uint8_t ret_sha256[CACHE_SHA256_BYTES])
{
	char name[CACHE_NAME_MAX];
	struct index_record rec;
	auto_fd fd = -1;

	index_name(name, id);
	fd = openat(dir->fd, name, O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || pread_full(fd, &rec, sizeof(rec), 0) < 0)
		return -ENOENT;
	if (memcmp(rec.magic, INDEX_MAGIC, sizeof(rec.magic)) || le32_get(&rec.version) != CACHE_VERSION ||
	    le32_get(&rec.crc32) != record_crc(&rec) || le64_get(&rec.dev) != id->dev ||
	    le64_get(&rec.ino) != id->ino || le64_get(&rec.bytes) != id->bytes ||
	    (int64_t)le64_get(&rec.mtime_ns) != id->mtime_ns ||
	    (int64_t)le64_get(&rec.ctime_ns) != id->ctime_ns)
		return -ENOENT;
	memcpy(ret_sha256, rec.sha256, CACHE_SHA256_BYTES);
	return 0;
}

void index_store(const struct cache_dir *dir, const struct source *s, int64_t now_ns,
		 const uint8_t sha256[CACHE_SHA256_BYTES])
{
	cleanup(cache_temp_done) struct cache_temp temp = CACHE_TEMP_EMPTY;
	int64_t changed_ns = s->id.mtime_ns > s->id.ctime_ns ? s->id.mtime_ns : s->id.ctime_ns;
	struct index_record rec = {.magic = INDEX_MAGIC};
	char name[CACHE_NAME_MAX];

	if (now_ns - changed_ns < RACY_NS || !source_has_ctime(s))
		return;
	le32_put(&rec.version, CACHE_VERSION);
	le64_put(&rec.dev, s->id.dev);
	le64_put(&rec.ino, s->id.ino);
	le64_put(&rec.bytes, s->id.bytes);
	le64_put(&rec.mtime_ns, (uint64_t)s->id.mtime_ns);
	le64_put(&rec.ctime_ns, (uint64_t)s->id.ctime_ns);
	memcpy(rec.sha256, sha256, CACHE_SHA256_BYTES);
	le32_put(&rec.crc32, record_crc(&rec));
	index_name(name, &s->id);
	if (cache_temp_new(dir, &temp) < 0 || pwrite_full(temp.fd, &rec, sizeof(rec), 0) < 0)
		return;
	if (renameat(dir->fd, temp.name, dir->fd, name) == 0)
		temp.name[0] = '\0';
}
