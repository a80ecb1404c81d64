/* SPDX-License-Identifier: Apache-2.0 */
/* A directory for one test, removed with what is in it. */
#ifndef SARDINE_TESTS_UNIT_TEMPDIR_H
#define SARDINE_TESTS_UNIT_TEMPDIR_H

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct tempdir {
	char path[64];
};

static inline int tempdir_remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st, (void)type, (void)ftw;
	return remove(path);
}

static inline struct tempdir tempdir_make(void)
{
	struct tempdir dir = {.path = "/tmp/sardine-test-XXXXXX"};

	if (!mkdtemp(dir.path))
		abort();
	return dir;
}

static inline void tempdir_remove(struct tempdir *dir)
{
	nftw(dir->path, tempdir_remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

/* "DIR/name" in one of a few static buffers. */
static inline const char *tempdir_file(const struct tempdir *dir, const char *name)
{
	static char buf[4][512];
	static unsigned next;
	char *p = buf[next++ % 4];

	snprintf(p, sizeof(buf[0]), "%s/%s", dir->path, name);
	return p;
}

#endif
