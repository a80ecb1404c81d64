/* SPDX-License-Identifier: Apache-2.0 */
/* The files a user names: opened without trust, hashed, copied. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <nettle/sha2.h>
#include <string.h>
#include <sys/vfs.h>

#include "base/fs.h"
#include "base/size.h"
#include "vmm/boot-cache-internal.h"
#include "vmm/kernel-sparse.h"

#define ROMFS_MAGIC 0x7275 /* not in linux/magic.h */

#define READ_BYTES ((size_t)256 << 10)

_Static_assert(SHA256_DIGEST_SIZE == CACHE_SHA256_BYTES, "SHA-256");

static struct source_id id_of(const struct stat *st)
{
	return (struct source_id){
		.dev = st->st_dev,
		.ino = st->st_ino,
		.bytes = (uint64_t)st->st_size,
		.mtime_ns = st->st_mtim.tv_sec * INT64_C(1000000000) + st->st_mtim.tv_nsec,
		.ctime_ns = st->st_ctim.tv_sec * INT64_C(1000000000) + st->st_ctim.tv_nsec,
	};
}

static const char *type_name(mode_t mode)
{
	if (S_ISDIR(mode))
		return "a folder";
	if (S_ISFIFO(mode))
		return "a FIFO";
	if (S_ISCHR(mode) || S_ISBLK(mode))
		return "a device";
	if (S_ISSOCK(mode))
		return "a socket";
	return "no regular file";
}

static int open_error(const struct source *s, int code, struct errmsg *err)
{
	if (code == -ENOENT)
		return errmsg_set(err, code, "%s %s: no such file; check the path", s->option, s->path);
	if (code == -EACCES)
		return errmsg_set(err, code, "%s %s: permission denied; make it readable for uid %u",
				  s->option, s->path, (unsigned)geteuid());
	return errmsg_set(err, code, "%s %s: cannot open: %s", s->option, s->path, strerror(-code));
}

static int check_type(const struct source *s, const struct stat *st, uint64_t max, struct errmsg *err)
{
	if (!S_ISREG(st->st_mode))
		return errmsg_set(err, -EINVAL, "%s %s: is %s; name a regular file", s->option, s->path,
				  type_name(st->st_mode));
	if (st->st_size <= 0)
		return errmsg_set(err, -EINVAL, "%s %s: is empty; name a complete file", s->option, s->path);
	if ((uint64_t)st->st_size > max)
		return errmsg_set(err, -EINVAL,
				  "%s %s: is %" PRIu64 " MiB; %" PRIu64 " MiB are the most accepted",
				  s->option, s->path, (uint64_t)st->st_size / MIB, max / MIB);
	return 0;
}

int source_open(const char *option, const char *path, uint64_t max, struct errmsg *err, struct source *ret)
{
	struct source s = {.option = option, .path = path, .fd = -1};
	auto_fd fd = -1;
	struct stat st;
	int r;

	/* Looked at before it is opened: opening a device can have effects. */
	if (stat(path, &st) < 0)
		return open_error(&s, -errno, err);
	r = check_type(&s, &st, max, err);
	if (r < 0)
		return r;
	fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0)
		return open_error(&s, -errno, err);
	r = check_type(&s, &st, max, err);
	if (r < 0)
		return r;
	s.id = id_of(&st);
	s.uid = st.st_uid;
	s.is_system = st.st_uid == 0 && !(st.st_mode & (S_IWGRP | S_IWOTH));
	s.fd = TAKE_FD(fd);
	*ret = s;
	return 0;
}

void source_done(struct source *s)
{
	close_fd_p(&s->fd);
	s->fd = -1;
}

int source_recheck(struct source *s)
{
	struct source_id now;
	struct stat st;

	if (fstat(s->fd, &st) < 0)
		return -errno;
	now = id_of(&st);
	if (!memcmp(&now, &s->id, sizeof(now)))
		return 0;
	s->id = now;
	return -ESTALE;
}

int source_hash(struct source *s, int out_fd, uint64_t out_offset, struct errmsg *err,
		uint8_t ret_sha256[CACHE_SHA256_BYTES])
{
	auto_free uint8_t *buf = malloc(READ_BYTES);
	struct sha256_ctx ctx;
	int r;

	if (!buf)
		return -ENOMEM;
	sha256_init(&ctx);
	for (uint64_t off = 0; off < s->id.bytes;) {
		uint64_t left = s->id.bytes - off;
		size_t len = left < READ_BYTES ? (size_t)left : READ_BYTES;

		r = pread_full(s->fd, buf, len, off);
		if (r == -ENODATA) { /* truncated under us */
			r = source_recheck(s);
			return r < 0 ? r : -ESTALE;
		}
		if (r < 0)
			return errmsg_set(err, r, "%s %s: cannot read: %s", s->option, s->path, strerror(-r));
		sha256_update(&ctx, len, buf);
		if (out_fd >= 0) {
			r = sparse_pwrite(out_fd, buf, len, out_offset + off, NULL);
			if (r < 0)
				return r;
		}
		off += len;
	}
	r = source_recheck(s);
	if (r < 0)
		return r;
	sha256_digest(&ctx, CACHE_SHA256_BYTES, ret_sha256);
	return 0;
}

/*
 * Images that are mounted read-only have the times their maker gave them: after an update, another content
 * may come with the same device, inode, size and times. FUSE says what its server likes.
 */
bool source_has_ctime(const struct source *s)
{
	static const uint64_t without[] = {
		SQUASHFS_MAGIC, ISOFS_SUPER_MAGIC, CRAMFS_MAGIC,
		ROMFS_MAGIC,	FUSE_SUPER_MAGIC,  EROFS_SUPER_MAGIC_V1,
	};
	struct statfs fs;

	if (fstatfs(s->fd, &fs) < 0)
		return false;
	for (size_t i = 0; i < ARRAY_SIZE(without); i++)
		if ((uint32_t)fs.f_type == without[i])
			return false;
	return true;
}
