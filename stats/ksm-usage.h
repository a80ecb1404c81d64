/* SPDX-License-Identifier: Apache-2.0 */
/* What KSM did: for one process, and on the host. */
#ifndef SARDINE_STATS_KSM_USAGE_H
#define SARDINE_STATS_KSM_USAGE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/syscalls.h"

#include "base/cleanup.h"

/* Of one process, in pages of 4 KiB. */
struct ksm_process_usage {
	uint64_t merging_pages; /* mapped from KSM's merged pages; not those merged with the zero page */
	uint64_t zero_pages;	/* merged with the zero page (use_zero_pages) */
	bool zero_known;	/* since 6.6 */
	bool known;		/* merging_pages; the kernel has KSM */
};

/* Of the host. */
struct ksm_host_usage {
	uint64_t pages_shared;	/* merged pages that exist */
	uint64_t pages_sharing; /* further mappings of them */
	uint64_t zero_pages;
	bool zero_known;
	bool known;
};

/* Open files of the kernel: they can be read again and again, also where the folders they lie in are out of reach. -1: there is none. */
struct ksm_process_files {
	int merging_pages;
	int stat;
};

struct ksm_host_files {
	int pages_shared;
	int pages_sharing;
	int zero_pages;
};

/**
 * ksm_process_files_open() - Open what says what KSM merged in a process.
 * @proc: "/proc/self", "/proc/PID", or a folder like it in a test.
 * @ret: closed with ksm_process_files_close(); what a kernel without KSM does not have is -1.
 */
void ksm_process_files_open(const char *proc, struct ksm_process_files *ret);
void ksm_process_files_close(struct ksm_process_files *files);

/* The same of the host. @root: "/sys/kernel/mm/ksm", or a folder like it in a test. */
void ksm_host_files_open(const char *root, struct ksm_host_files *ret);
void ksm_host_files_close(struct ksm_host_files *files);

/* Read what KSM merged in a process. A kernel without KSM gives all zero, unknown. Any thread. */
void ksm_process_usage_read(const struct ksm_process_files *files, struct ksm_process_usage *ret);

/* Read what KSM merged on the host. Any thread. */
void ksm_host_usage_read(const struct ksm_host_files *files, struct ksm_host_usage *ret);

extern const struct syscall_list ksm_usage_syscalls;

#endif
