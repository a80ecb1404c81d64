/* SPDX-License-Identifier: Apache-2.0 */
/* What a guest says of its own memory: the statistics of a balloon driver (virtio 1.2, 5.5.6.3). */
#ifndef SARDINE_BALLOON_GUEST_STATS_H
#define SARDINE_BALLOON_GUEST_STATS_H

#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"

/* By tag; names and units as Linux fills them (include/uapi/linux/virtio_balloon.h). All but the three sizes and the page
 * cache count from the guest's boot. */
enum guest_stat {
	GUEST_STAT_SWAP_IN,	   /* bytes */
	GUEST_STAT_SWAP_OUT,	   /* bytes */
	GUEST_STAT_MAJOR_FAULTS,   /* events */
	GUEST_STAT_MINOR_FAULTS,   /* events */
	GUEST_STAT_FREE,	   /* bytes used for nothing */
	GUEST_STAT_TOTAL,	   /* bytes */
	GUEST_STAT_AVAILABLE,	   /* bytes that could be had without swapping */
	GUEST_STAT_CACHES,	   /* bytes of page cache */
	GUEST_STAT_HUGETLB_ALLOCS, /* events */
	GUEST_STAT_HUGETLB_FAILS,  /* events */
	/* Since Linux 6.12. */
	GUEST_STAT_OOM_KILLS,	   /* events */
	GUEST_STAT_ALLOC_STALLS,   /* events */
	GUEST_STAT_ASYNC_SCAN,	   /* bytes looked at by the reclaim in the background */
	GUEST_STAT_DIRECT_SCAN,	   /* bytes looked at by who needed memory at once */
	GUEST_STAT_ASYNC_RECLAIM,  /* bytes of them reclaimed */
	GUEST_STAT_DIRECT_RECLAIM, /* bytes of them reclaimed */
	GUEST_STATS,
};

/* A tag and a value, 16 and 64 bits, packed. */
#define GUEST_STAT_BYTES 10

/* Entries of a message that are looked at. Linux sends at most 16. */
#define GUEST_STATS_ENTRIES_MAX 64

struct guest_stats {
	uint32_t known; /* a bit for each value that the guest sent */
	uint64_t values[GUEST_STATS];
};

/* As in `stats --json`: "free_bytes".. */
const char *guest_stat_name(enum guest_stat stat);

/**
 * guest_stats_parse() - Read a message.
 * @message: entries of GUEST_STAT_BYTES.
 * @bytes: of the message; at most GUEST_STATS_ENTRIES_MAX entries are read.
 * @ret: the statistics; what the message does not hold is not known.
 *
 * Of a tag that is there twice the last counts.
 *
 * Return: how much was ignored: entries with an unknown tag or a value above 2^63, and one for a length that is not that of whole
 * entries, or of too many.
 */
unsigned guest_stats_parse(const uint8_t *message, size_t bytes, struct guest_stats *ret);

#endif
