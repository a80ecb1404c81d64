/* SPDX-License-Identifier: Apache-2.0 */
/* The steps of the exact grouping, shared by dedup*.c only. */
#ifndef SARDINE_KSM_DEDUP_INTERNAL_H
#define SARDINE_KSM_DEDUP_INTERNAL_H

#include <pthread.h>

#include "ksm/dedup.h"

/* Zeroed pages that take memory only where written; freed with big_free. */
void *big_alloc(uint64_t bytes);
void big_free(void *p, uint64_t bytes);

static inline void dedup_bit_set(uint64_t *map, uint64_t page)
{
	map[page / 64] |= (uint64_t)1 << (page % 64);
}

/* Step 2: classes from keys alone, i.e. guesses for data pages. */
int dedup_group(struct dedup *d, const struct work_control *control) must_check;

/* A page whose bytes are not those of the first page of its guessed class. */
struct collision {
	uint32_t cls;
	uint32_t page;
	bool unread; /* the first page could not be read: not compared yet */
};

struct collisions {
	pthread_mutex_t lock;
	struct collision *v;
	size_t count, space;
};

int collisions_add(struct collisions *c, struct collision add) must_check;

/* Takes a page about which nothing is known (any more) out of everything. */
void dedup_lose(struct dedup *d, uint64_t page);

/* Step 4: sorts pages that share a hash by their bytes and gives them classes. */
int dedup_resolve(struct dedup *d, struct collisions *c, const struct work_control *control) must_check;

#endif
