/* SPDX-License-Identifier: Apache-2.0 */
/* What /proc/PID/smaps says, summed over guest RAM and over the rest of a process. */
#ifndef SARDINE_STATS_SMAPS_H
#define SARDINE_STATS_SMAPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/cleanup.h"

/* How the kernel names a mapping of a segment of the page store (ksm/segment.c). */
#define SMAPS_STORE_NAME "/memfd:sardine-segment"

/* Addresses [start, end) of the process. */
struct smaps_range {
	uint64_t start;
	uint64_t end;
};

/* Sums over mappings, in bytes. Linux Documentation/filesystems/proc.rst says what the kernel means by each. */
struct smaps_sum {
	uint64_t mappings; /* a count */
	uint64_t rss;
	uint64_t pss;
	uint64_t private; /* Private_Clean + Private_Dirty; not of shared anonymous mappings */
	uint64_t anonymous;
	uint64_t ksm; /* of anonymous: merged; since 6.8 */
	uint64_t swap;
	uint64_t huge;	   /* AnonHugePages */
	uint64_t file_rss; /* in mappings of files: pages of the file itself, not copies of them */
	uint64_t
		file_pss; /* the process's share of those; at least, where copies of them are merged (see smaps.c) */
	uint64_t shmem_pss; /* in shared anonymous mappings */
	/* In mappings of the page store: its own pages, not copies of them. Neither is in file_* or shmem_pss, and what
	 * private has of these mappings is copies alone. */
	uint64_t store_rss;
	uint64_t store_pss;
	bool ksm_known;
};

/**
 * smaps_read() - Sum up a stream in the format of /proc/PID/smaps.
 * @stream: the stream.
 * @ranges, @count: a mapping that overlaps one of these is guest RAM.
 * @ret_guest: sums over guest RAM.
 * @ret_rest: sums over everything else.
 *
 * Context: any thread. The kernel walks all page tables of the process: some milliseconds per GiB populated
 * in small pages.
 * Return: 0, -EINVAL when it is no smaps, or the errno of reading.
 */
int smaps_read(FILE *stream, const struct smaps_range *ranges, size_t count, struct smaps_sum *ret_guest,
	       struct smaps_sum *ret_rest) must_check;

/**
 * smaps_rollup_read() - The process's share of all pages of files and of shared memory that it maps.
 * @stream: in the format of /proc/PID/smaps_rollup (Linux 4.14; these fields: 5.4).
 * @ret_bytes: Pss_File + Pss_Shmem.
 *
 * Return: 0, -EINVAL when the fields are missing, or the errno of reading.
 */
int smaps_rollup_read(FILE *stream, uint64_t *ret_bytes) must_check;

#endif
