/* SPDX-License-Identifier: Apache-2.0 */
/* The knobs and counters of the kernel's KSM, read from sysfs. */
#ifndef SARDINE_KSM_KSM_SYSFS_H
#define SARDINE_KSM_KSM_SYSFS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/cleanup.h"

#define KSM_SYSFS "/sys/kernel/mm/ksm"

/* Linux Documentation/admin-guide/mm/ksm.rst says what each means. In the order of the listing `check`
 * prints. */
enum ksm_field {
	/* knobs */
	KSM_RUN,	   /* 0 stopped with merges kept, 1 running, 2 stopped and unmerged */
	KSM_PAGES_TO_SCAN, /* pages before ksmd sleeps */
	KSM_SLEEP_MS,	   /* milliseconds of that sleep */
	KSM_MERGE_ACROSS_NODES,
	KSM_MAX_PAGE_SHARING,
	KSM_USE_ZERO_PAGES,
	KSM_SMART_SCAN, /* since 6.7 */
	KSM_STABLE_NODE_CHAINS_PRUNE_MS,
	KSM_ADVISOR_MAX_CPU, /* the four: since 6.8 */
	KSM_ADVISOR_MIN_PAGES_TO_SCAN,
	KSM_ADVISOR_MAX_PAGES_TO_SCAN,
	KSM_ADVISOR_TARGET_SCAN_TIME_S,
	/* counters */
	KSM_PAGES_SHARED,   /* distinct merged pages */
	KSM_PAGES_SHARING,  /* further mappings of them: what is saved */
	KSM_PAGES_UNSHARED, /* checked again and again without a twin */
	KSM_PAGES_VOLATILE, /* changing too fast */
	KSM_PAGES_SKIPPED,  /* by smart_scan, since 6.7 */
	KSM_PAGES_SCANNED,  /* since 6.7 */
	KSM_ZERO_PAGES,	    /* merged with the zero page, since 6.5 */
	KSM_FULL_SCANS,
	KSM_STABLE_NODE_CHAINS,
	KSM_STABLE_NODE_DUPS,
	KSM_GENERAL_PROFIT_BYTES, /* since 6.1; below zero when metadata outweighs the merges */
	KSM_FIELDS,
};

#define KSM_ADVISOR_NAME_MAX 31

struct ksm_state {
	bool present;				/* the kernel has KSM; all else is meaningless without */
	bool known[KSM_FIELDS];			/* this kernel has the file */
	int64_t value[KSM_FIELDS];		/* 0 where not known */
	char advisor[KSM_ADVISOR_NAME_MAX + 1]; /* "none", "scan-time"; "" before 6.8 */
};

/* The field's file name in sysfs, and in JSON. */
const char *ksm_field_name(enum ksm_field field);

/**
 * ksm_state_read() - Read everything.
 * @root: KSM_SYSFS, or a folder like it in a test.
 * @ret: the state.
 *
 * Files that a kernel lacks are not known; a file with anything but a number in it counts as lacking.
 *
 * Return: 0, also without KSM; -ENOMEM, -EACCES.. when the folder's `run` cannot be read.
 */
int ksm_state_read(const char *root, struct ksm_state *ret) must_check;

#endif
