/* SPDX-License-Identifier: Apache-2.0 */
/* A folder for each test of the boot cache, and what is in it. */
#ifndef SARDINE_TESTS_UNIT_BOOT_CACHE_ROOM_H
#define SARDINE_TESTS_UNIT_BOOT_CACHE_ROOM_H

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/fs.h"
#include "tests/unit/test.h"
#include "vmm/boot-cache-internal.h"

#define NOBODY	   65534
#define PATH_BYTES 400

/* A folder for each test, and its files. */
struct room {
	char path[64];
	char cache[80];
	char file[80]; /* a source */
};

static inline int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

static inline void room_done(struct room *r)
{
	nftw(r->path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static inline struct room room_new_in(const char *where)
{
	struct room r;

	snprintf(r.path, sizeof(r.path), "%s/sardine-cache-XXXXXX", where);
	assert_non_null(mkdtemp(r.path));
	snprintf(r.cache, sizeof(r.cache), "%s/cache", r.path);
	snprintf(r.file, sizeof(r.file), "%s/source", r.path);
	return r;
}

static inline struct room room_new(void)
{
	return room_new_in("/tmp");
}

static inline void put(const char *path, const void *data, size_t len)
{
	auto_fd fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

	assert_true(fd >= 0);
	assert_int_equal(write_full(fd, data, len), 0);
}

static inline struct boot_cache *cache_of(const struct room *r)
{
	struct boot_cache *cache = NULL;
	struct errmsg err = {0};

	if (boot_cache_open(r->cache, &err, &cache) < 0)
		fail_msg("%s", err.text);
	return cache;
}

static inline struct cache_dir dir_of(const struct room *r)
{
	struct cache_dir dir = CACHE_DIR_EMPTY;
	struct errmsg err = {0};

	assert_int_equal(cache_dir_open(r->cache, &err, &dir), 0);
	return dir;
}

/* Files in the cache whose name starts with a prefix; *ret_name is one of them. */
static inline unsigned count(const struct room *r, const char *prefix, char *ret_name)
{
	auto_dir d = opendir(r->cache);
	const struct dirent *e;
	unsigned n = 0;

	while (d && (e = readdir(d)))
		if (strcmp(e->d_name, ".") && strcmp(e->d_name, "..") &&
		    !strncmp(e->d_name, prefix, strlen(prefix))) {
			n++;
			if (ret_name)
				snprintf(ret_name, PATH_BYTES, "%s/%s", r->cache, e->d_name);
		}
	return n;
}

static inline void assert_initrd(struct boot_cache *cache, const char *path, const void *data, size_t len)
{
	cleanup(boot_blob_done) struct boot_blob blob = BOOT_BLOB_EMPTY;
	auto_free uint8_t *got = malloc(len);
	struct errmsg err = {0};

	if (boot_cache_initrd(cache, path, &err, &blob) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(blob.bytes, len);
	assert_int_equal(blob.offset % PAGE_BYTES, 0);
	assert_int_equal(pread_full(blob.fd, got, len, blob.offset), 0);
	assert_memory_equal(got, data, len);
}

/* Runs fn as a user who is not root; 0 from fn is success. */
static inline void as_nobody(int (*fn)(const struct room *), const struct room *r)
{
	pid_t pid;
	int status;

	fflush(NULL);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		if (geteuid() == 0 &&
		    (setresgid(NOBODY, NOBODY, NOBODY) < 0 || setresuid(NOBODY, NOBODY, NOBODY) < 0))
			_exit(99);
		_exit(fn(r));
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

#endif
