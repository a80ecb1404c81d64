/* SPDX-License-Identifier: Apache-2.0 */
/* The system calls that a source file makes while a guest runs: a table beside the code that makes them. */
#ifndef SARDINE_BASE_SYSCALLS_H
#define SARDINE_BASE_SYSCALLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>

#include "base/cleanup.h"

/*
 * Theory of operation
 *
 * Each file that makes system calls once the guest may run ends with a table of them. When sardine is built, the
 * tables that a kind of thread needs are put together (tools/confine-threads.c) and compiled into one seccomp program per kind
 * (tools/make-filters.c, with libseccomp); a call that is in no table kills the process. So whoever adds a call adds its row
 * in the same file, and the tests find a row that is missing.
 *
 * A row may demand of one argument that `argument & mask == value`, compared in 64 bits. Several rows of one call allow what any of
 * them allows. What the C library does by itself (memory, locks, threads, time) is in base/syscalls.c.
 */
struct syscall_rule {
	long number; /* __NR_* */
	bool checked;
	unsigned argument; /* 0 is the first */
	uint64_t mask;
	uint64_t value;
};

struct syscall_list {
	const char *who; /* the source file */
	const struct syscall_rule *rules;
	size_t count;
};

#define SYSCALL(name_)                                                                                       \
	{                                                                                                    \
		.number = SYS_##name_                                                                        \
	}
/* The kernel takes most arguments as int: the upper half of the register is not looked at. */
#define SYSCALL_IF(name_, argument_, value_)                                                                 \
	{                                                                                                    \
		.number = SYS_##name_, .checked = true, .argument = argument_, .mask = UINT32_MAX,           \
		.value = (uint32_t)(value_)                                                                  \
	}
/* None of the bits of @forbidden_ may be set. */
#define SYSCALL_WITHOUT(name_, argument_, forbidden_)                                                        \
	{                                                                                                    \
		.number = SYS_##name_, .checked = true, .argument = argument_, .mask = (forbidden_)          \
	}

#define DEFINE_SYSCALLS(list_, ...)                                                                          \
	static const struct syscall_rule list_##_rules[] = {__VA_ARGS__};                                    \
	const struct syscall_list list_ = {__FILE__, list_##_rules, ARRAY_SIZE(list_##_rules)}

/* What the C library asks for on any thread, and to start, join and end threads (base/syscalls.c). */
extern const struct syscall_list libc_syscalls;
extern const struct syscall_list libc_thread_syscalls;
/* base/log.c, base/fs.c */
extern const struct syscall_list log_syscalls;

#endif
