/* SPDX-License-Identifier: Apache-2.0 */
/* Failing calls that move memory about: mappings, userfaultfd, memory files. */
#include <errno.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "tests/fault/fault.h"

/* FAULT(type, function, errno, value on failure, (parameters), (arguments)) */
#define FAULT(type, name, code, bad, params, args)                                                           \
	type __real_##name params;                                                                           \
	type __wrap_##name params;                                                                           \
	type __wrap_##name params                                                                            \
	{                                                                                                    \
		return fault_fails(#name, code) ? (bad) : __real_##name args;                                \
	}

/* clang-format off */
/* Variadic ones: all arguments are passed on whether they are there or not: the ABI lets it. */
FAULT(int, ioctl, ENOMEM, -1, (int fd, unsigned long request, void *arg), (fd, request, arg))
FAULT(long, syscall, ENOMEM, -1, (long nr, long a, long b, long c, long d, long e, long f), (nr, a, b, c, d, e, f))
FAULT(int, madvise, ENOMEM, -1, (void *at, size_t n, int advice), (at, n, advice))
FAULT(int, munmap, ENOMEM, -1, (void *at, size_t n), (at, n))
FAULT(int, pthread_create, EAGAIN, EAGAIN,
      (pthread_t *t, const pthread_attr_t *attr, void *(*fn)(void *), void *arg), (t, attr, fn, arg))
/* clang-format on */
