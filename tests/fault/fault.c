/* SPDX-License-Identifier: Apache-2.0 */
/* Fails the N-th allocation or system call of the code under test. */
#include "tests/fault/fault.h"

#include <dirent.h>
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>

static unsigned left; /* calls until one fails; 0: not armed, or done */
static const char *failed;

void fault_arm(unsigned nth)
{
	left = nth;
	failed = NULL;
}

const char *fault_disarm(void)
{
	left = 0;
	return failed;
}

unsigned fault_pause(void)
{
	unsigned was = left;

	left = 0;
	return was;
}

void fault_go_on(unsigned was)
{
	left = was;
}

static const char *before_name;
static void (*before_fn)(void *arg);
static void *before_arg;

void fault_before(const char *name, void (*fn)(void *arg), void *arg)
{
	before_name = name;
	before_fn = fn;
	before_arg = arg;
}

bool fault_fails(const char *name, int code)
{
	void (*fn)(void *arg) = before_fn;

	if (fn && !strcmp(name, before_name)) {
		before_fn = NULL; /* not for its own calls */
		fn(before_arg);
		before_fn = fn;
	}
	if (!left || --left)
		return false;
	failed = name;
	errno = code;
	return true;
}

unsigned fault_open_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	unsigned n = 0;

	if (!d)
		abort();
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

/* FAULT(type, function, errno, value on failure, (parameters), (arguments)) */
#define FAULT(type, name, code, bad, params, args)                                                           \
	type __real_##name params;                                                                           \
	type __wrap_##name params;                                                                           \
	type __wrap_##name params                                                                            \
	{                                                                                                    \
		return fault_fails(#name, code) ? (bad) : __real_##name args;                                \
	}

/* clang-format off */
FAULT(void *, malloc, ENOMEM, NULL, (size_t n), (n))
FAULT(void *, calloc, ENOMEM, NULL, (size_t n, size_t size), (n, size))
FAULT(void *, realloc, ENOMEM, NULL, (void *p, size_t n), (p, n))
FAULT(void *, mmap, ENOMEM, MAP_FAILED, (void *at, size_t n, int prot, int flags, int fd, off_t off),
      (at, n, prot, flags, fd, off))
FAULT(char *, strdup, ENOMEM, NULL, (const char *s), (s))
FAULT(int, fstat, EIO, -1, (int fd, struct stat *st), (fd, st))
FAULT(ssize_t, pread, EIO, -1, (int fd, void *buf, size_t n, off_t off), (fd, buf, n, off))
FAULT(ssize_t, pwrite, ENOSPC, -1, (int fd, const void *buf, size_t n, off_t off), (fd, buf, n, off))
FAULT(ssize_t, read, EIO, -1, (int fd, void *buf, size_t n), (fd, buf, n))
FAULT(ssize_t, write, ENOSPC, -1, (int fd, const void *buf, size_t n), (fd, buf, n))
FAULT(int, fsync, EIO, -1, (int fd), (fd))
FAULT(int, ftruncate, ENOSPC, -1, (int fd, off_t n), (fd, n))
FAULT(int, fchmod, EPERM, -1, (int fd, mode_t mode), (fd, mode))
FAULT(int, flock, ENOLCK, -1, (int fd, int op), (fd, op))
FAULT(int, mkdir, ENOSPC, -1, (const char *path, mode_t mode), (path, mode))
FAULT(int, mkdirat, ENOSPC, -1, (int fd, const char *path, mode_t mode), (fd, path, mode))
FAULT(int, linkat, EPERM, -1, (int a, const char *from, int b, const char *to, int flags), (a, from, b, to, flags))
FAULT(int, renameat, ENOSPC, -1, (int a, const char *from, int b, const char *to), (a, from, b, to))
FAULT(int, memfd_create, EMFILE, -1, (const char *name, unsigned flags), (name, flags))
FAULT(int, fallocate, ENOSPC, -1, (int fd, int mode, off_t off, off_t n), (fd, mode, off, n))
FAULT(int, fcntl, EMFILE, -1, (int fd, int op, long arg), (fd, op, arg))
FAULT(int, socket, EMFILE, -1, (int domain, int type, int protocol), (domain, type, protocol))
FAULT(int, connect, ECONNREFUSED, -1, (int fd, const struct sockaddr *addr, socklen_t len), (fd, addr, len))
FAULT(ssize_t, sendmsg, ENOBUFS, -1, (int fd, const struct msghdr *msg, int flags), (fd, msg, flags))
FAULT(ssize_t, recvmsg, ENOMEM, -1, (int fd, struct msghdr *msg, int flags), (fd, msg, flags))
FAULT(int, getsockopt, ENOBUFS, -1, (int fd, int level, int name, void *value, socklen_t *len), (fd, level, name, value, len))
FAULT(int, epoll_create1, EMFILE, -1, (int flags), (flags))
FAULT(int, epoll_ctl, ENOSPC, -1, (int epfd, int op, int fd, struct epoll_event *ev), (epfd, op, fd, ev))
FAULT(int, eventfd, EMFILE, -1, (unsigned value, int flags), (value, flags))
/* The mode is passed on whether it is there or not: the ABI lets it. */
FAULT(int, open, EMFILE, -1, (const char *path, int flags, mode_t mode), (path, flags, mode))
FAULT(int, openat, EMFILE, -1, (int fd, const char *path, int flags, mode_t mode), (fd, path, flags, mode))
/* clang-format on */
