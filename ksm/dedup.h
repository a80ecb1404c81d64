/* SPDX-License-Identifier: Apache-2.0 */
/* Exact grouping of equal pages: which page has the same bytes as which. */
#ifndef SARDINE_KSM_DEDUP_H
#define SARDINE_KSM_DEDUP_H

#include <stdbool.h>
#include <stdint.h>

#include "ksm/page-set.h"
#include "ksm/workers.h"

struct dedup_options {
	uint64_t hash_mask; /* 0, or the hash bits to keep: tests weaken the hash with it */
	bool recheck;	    /* read everything once more at the end and count what changed */
};

/* The result: two numbers and two bits per page of the set. */
struct dedup {
	const struct page_set *set;
	uint64_t *keys;	   /* of struct page_id; 0: zero or missing */
	uint32_t *classes; /* 0: zero or missing; else the same number exactly for equal bytes: 1 + a page */
	uint64_t *fill;	   /* bitmap: fill patterns */
	uint64_t *missing; /* bitmap: pages about which nothing is known */
	uint64_t missing_pages;
	uint64_t compared_pages; /* by bytes, because their hash was known already */
	uint64_t collided_pages; /* of these, not equal to the page that had the hash first */
	uint64_t changed_pages;	 /* with recheck: other bytes at the end than at the start */
	bool stopped;		 /* before all was known; a stop that came too late does not count */
};

/**
 * dedup_run() - Group the pages of a set by content.
 * @ret: to initialise; end it with dedup_done() when 0 is returned.
 * @set: stays in use as long as @ret.
 * @options: NULL for the defaults.
 * @control: threads, stop flag, progress.
 *
 * Pages that cannot be read are missing; so are, after a stop, all pages that were not read or not
 * confirmed. What is left is exact.
 *
 * Context: blocks for as long as it takes to read the set once and its duplicates twice more.
 * Return: 0, also when stopped, or -ENOMEM.
 */
int dedup_run(struct dedup *ret, const struct page_set *set, const struct dedup_options *options,
	      const struct work_control *control) must_check;
void dedup_done(struct dedup *d);

static inline bool dedup_bit(const uint64_t *map, uint64_t page)
{
	return map[page / 64] >> (page % 64) & 1;
}

#endif
