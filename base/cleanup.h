/* SPDX-License-Identifier: Apache-2.0 */
/* Clean-up by attribute, and hand-over of what would be cleaned up. */
#ifndef SARDINE_BASE_CLEANUP_H
#define SARDINE_BASE_CLEANUP_H

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define must_check __attribute__((warn_unused_result))

/* Declares a variable on which fn(&variable) runs when it leaves its scope. */
#define cleanup(fn) __attribute__((cleanup(fn)))

/* Makes a destructor `void f(type *)`, which takes NULL, usable with cleanup(): cleanup(f_p). */
#define DEFINE_CLEANUP(type, f)                                                                              \
	static inline __attribute__((unused)) void f##_p(type **p)                                           \
	{                                                                                                    \
		f(*p);                                                                                       \
	}

static inline void close_fd_p(int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

static inline void free_mem_p(void *p)
{
	void **pp = (void **)p;

	free(*pp);
}

static inline void close_file_p(FILE **f)
{
	if (*f)
		fclose(*f);
}

static inline void close_dir_p(DIR **d)
{
	if (*d)
		closedir(*d);
}

#define auto_fd	  cleanup(close_fd_p) int
#define auto_free cleanup(free_mem_p)
#define auto_file cleanup(close_file_p) FILE *
#define auto_dir  cleanup(close_dir_p) DIR *

/* Hand-over: the value, with the variable emptied so that its clean-up does nothing. */
#define TAKE_PTR(p)                                                                                          \
	__extension__({                                                                                      \
		__typeof__(p) taken_ = (p);                                                                  \
		(p) = NULL;                                                                                  \
		taken_;                                                                                      \
	})

#define TAKE_FD(fd)                                                                                          \
	__extension__({                                                                                      \
		int taken_ = (fd);                                                                           \
		(fd) = -1;                                                                                   \
		taken_;                                                                                      \
	})

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

#define container_of(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

#endif
