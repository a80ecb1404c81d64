/* SPDX-License-Identifier: Apache-2.0 */
/* The memory of a running process, read without stopping it. */
#ifndef SARDINE_TOOLS_LIVE_PROCESS_H
#define SARDINE_TOOLS_LIVE_PROCESS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/errmsg.h"
#include "ksm/page-set.h"

struct live_process {
	pid_t pid;
	char name[64];		   /* "pid 1234 qemu-system-x86" */
	int pidfd;		   /* -1: the kernel has none */
	int mem_fd;		   /* bound to the address space that the process had when it was opened */
	struct page_range *ranges; /* populated memory: anonymous, and shared memory of guests */
	size_t range_count;
	uint64_t swapped_bytes; /* swapped out, and left there */
	uint64_t ksm_bytes;	/* of it, what KSM shares now; UINT64_MAX: the kernel does not say */
	struct errmsg problem;	/* set: it ended while it was read */
};

/**
 * live_process_open() - Look up what memory of a process is populated.
 * @pid: the process.
 * @ret: to initialise; end it with live_process_done() when 0 is returned.
 * @err: one line, with the process's number.
 *
 * Needs the right to ptrace-read it; nothing is attached or stopped. Which memory: anonymous pages wherever
 * they lie, and writable shared mappings (guest RAM in a memfd, in /dev/shm, on hugetlbfs, in a file). Not
 * the program's own files, device memory, and what is swapped out.
 *
 * Return: 0, -ESRCH, -EACCES, -ENODATA when it has no such memory, or another errno.
 */
int live_process_open(pid_t pid, struct live_process *ret, struct errmsg *err) must_check;
void live_process_done(struct live_process *live);

/**
 * live_process_check() - Did it end or replace its program? Says so in @live->problem.
 */
void live_process_check(struct live_process *live);

/* For page_set_add(), with the struct live_process as context. */
extern const struct page_source_ops live_process_ops;

/**
 * live_find_vms() - The processes that run virtual machines: they hold a KVM VM, or are known monitors by
 * name.
 * @ret_pids: rising; the caller frees it.
 * @ret_count: how many.
 * @ret_hidden: how many known by name only, because their descriptors may not be looked at.
 *
 * Return: 0 or a negative errno.
 */
int live_find_vms(pid_t **ret_pids, size_t *ret_count, size_t *ret_hidden) must_check;

#endif
