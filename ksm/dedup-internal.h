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

/* Pages that a thread takes at once; a multiple of 64, so that words of the bitmaps have one writer. */
#define PIECE_PAGES 256u

/* The buffers of a thread. */
struct dedup_scratch {
	char *first, *second; /* half_bytes each */
	uint64_t second_page; /* the single page in `second`, or UINT64_MAX */
};

/* What the steps share. */
struct dedup_job {
	struct dedup *d;
	uint64_t hash_mask;
	size_t half_bytes;
	struct dedup_scratch *scratch; /* one per thread */
	uint8_t *finished;	       /* one per piece */
	struct collisions collisions;
	_Atomic uint64_t compared, changed;
};

/* The pages of a piece. */
void dedup_piece_bounds(const struct page_set *set, uint64_t piece, uint64_t *ret_page, uint64_t *ret_end);

/* The thread's buffers, allocated when first used; only comparing needs @both. Return: 0 or -ENOMEM. */
int dedup_scratch_get(struct dedup_job *job, unsigned thread, bool both,
		      struct dedup_scratch **ret) must_check;

/* Reads the first @pages pages of a stretch. */
int dedup_run_read(const struct dedup_job *job, const struct page_run *run, uint64_t pages,
		   void *buf) must_check;

/* True for a data page that is not the first of its guessed class. */
static inline bool dedup_guessed(const struct dedup *d, uint64_t page)
{
	return d->classes[page] && d->classes[page] != page + 1 && !dedup_bit(d->fill, page);
}

/* Step 3, for workers_run(). */
int dedup_confirm_piece(void *ctx, unsigned thread, uint64_t piece);

/* Step 4: sorts pages that share a hash by their bytes and gives them classes. */
int dedup_resolve(struct dedup *d, struct collisions *c, const struct work_control *control) must_check;

#endif
