/* SPDX-License-Identifier: Apache-2.0 */
/* What KSM did: for one process, and on the host. */
#ifndef SARDINE_STATS_KSM_USAGE_H
#define SARDINE_STATS_KSM_USAGE_H

#include <stdbool.h>
#include <stdint.h>

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

/**
 * ksm_process_usage_read() - Read what KSM merged in a process.
 * @proc: "/proc/self", "/proc/PID", or a folder like it in a test.
 *
 * A kernel without KSM gives all zero, unknown.
 */
void ksm_process_usage_read(const char *proc, struct ksm_process_usage *ret);

/**
 * ksm_host_usage_read() - Read what KSM merged on the host.
 * @root: "/sys/kernel/mm/ksm", or a folder like it in a test.
 */
void ksm_host_usage_read(const char *root, struct ksm_host_usage *ret);

#endif
