/* SPDX-License-Identifier: Apache-2.0 */
/* Which system calls each kind of thread may make. */
#ifndef SARDINE_TOOLS_CONFINE_THREADS_H
#define SARDINE_TOOLS_CONFINE_THREADS_H

#include "base/syscalls.h"
#include "vmm/thread-kind.h"

/* The lists of a kind of thread, ended by NULL. */
const struct syscall_list *const *confine_thread_lists(enum thread_kind kind);

#endif
