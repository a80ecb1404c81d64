/* SPDX-License-Identifier: Apache-2.0 */
/* The system calls that the C library makes by itself. */
#include "base/syscalls.h"

#include <linux/sched.h>
#include <sched.h>
#include <sys/mman.h>

/* Memory without PROT_EXEC: nothing that runs is ever made while a guest runs. */
DEFINE_SYSCALLS(libc_syscalls,
		/* malloc */
		SYSCALL(brk), SYSCALL_WITHOUT(mmap, 2, PROT_EXEC), SYSCALL_WITHOUT(mprotect, 2, PROT_EXEC),
		SYSCALL(munmap), SYSCALL(mremap), SYSCALL_IF(madvise, 2, MADV_DONTNEED),
		SYSCALL_IF(madvise, 2, MADV_FREE),
		/* mutexes and condition variables */
		SYSCALL(futex), SYSCALL(sched_yield),
		/* signals: the kick of a vCPU and its handler, abort() */
		SYSCALL(rt_sigreturn), SYSCALL(rt_sigprocmask), SYSCALL(tgkill), SYSCALL(getpid),
		SYSCALL(gettid), SYSCALL_IF(rt_sigaction, 0, 6 /* SIGABRT */), SYSCALL(restart_syscall),
		/* time, where the vDSO cannot tell it (rare clock sources) */
		SYSCALL(clock_gettime), SYSCALL(gettimeofday), SYSCALL(clock_nanosleep),
		/* qsort() asks how much memory there is */
		SYSCALL(sysinfo),
		/* the end */
		SYSCALL(exit), SYSCALL(exit_group), SYSCALL(close));

#define THREAD_FLAGS                                                                                         \
	(CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_SETTLS |   \
	 CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID)

/*
 * A new thread. clone3() keeps its flags in memory, where a filter cannot look; the C library falls back to clone() when it
 * answers ENOSYS, which tools/make-filters.c has it do. Only what makes a thread of this process is allowed.
 */
DEFINE_SYSCALLS(libc_thread_syscalls, SYSCALL_IF(clone, 0, THREAD_FLAGS), SYSCALL(set_robust_list),
		SYSCALL(rseq), SYSCALL_IF(prctl, 0, 15 /* PR_SET_NAME */), SYSCALL(sched_getaffinity),
		/* the stack's guard */
		SYSCALL(sigaltstack),
		/* a thread's own, narrower filter: it can only be taken away from */
		SYSCALL_IF(seccomp, 0, 1 /* SECCOMP_SET_MODE_FILTER */));
