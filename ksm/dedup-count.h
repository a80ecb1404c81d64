/* SPDX-License-Identifier: Apache-2.0 */
/* What a grouping of pages amounts to: savings, runs, top contents, pairs of images, block sizes. */
#ifndef SARDINE_KSM_DEDUP_COUNT_H
#define SARDINE_KSM_DEDUP_COUNT_H

#include "ksm/dedup.h"

#define COUNT_RUNS	10u /* at least 1, 2, 4, ... 512 pages */
#define COUNT_TOP	10u
#define COUNT_SIZES_MAX 12u /* 1 KiB ... 2 MiB */
#define COUNT_PAIRS_MAX 256u

/* Of one image. zero + duplicate + unique = pages; fill is part of the latter two. */
struct count_image {
	uint64_t pages;
	uint64_t zero;
	uint64_t fill;
	uint64_t duplicate; /* nonzero, and the content occurs at least twice in the whole set */
	uint64_t unique;
	uint64_t distinct; /* nonzero contents within this image */
};

struct count_total {
	uint64_t pages, zero, fill, nonzero, duplicate;
	uint64_t distinct; /* nonzero contents */
	uint64_t saved;	   /* nonzero - distinct */
	uint64_t intra;	   /* of saved: by sharing within each image alone */
	uint64_t inter;	   /* of saved: the rest, which needs sharing between images */
};

struct count_top {
	uint64_t count;
	uint64_t page; /* the first one, by its number in the set */
};

/* Blocks of one size, aligned by address and without gaps. */
struct count_size {
	uint64_t block_bytes;
	uint64_t blocks, zero, distinct; /* distinct: nonzero contents */
	uint64_t duplicate;		 /* nonzero blocks whose content occurs at least twice */
	uint64_t saved;			 /* nonzero - distinct */
};

struct counts {
	struct count_total total;
	struct count_image *images; /* as many as the set has */
	uint64_t runs[COUNT_RUNS];  /* duplicate pages in runs of at least 1 << i pages */
	struct count_top top[COUNT_TOP];
	unsigned top_count;
	struct count_size sizes[COUNT_SIZES_MAX]; /* rising, from the page size on */
	unsigned size_count;
	uint64_t *
		pairs; /* [i][j]: nonzero contents that both images hold; NULL above COUNT_PAIRS_MAX images */
};

/**
 * dedup_count() - Count.
 * @d: a grouping.
 * @ret: to initialise; end it with counts_done() when 0 is returned.
 *
 * Return: 0 or -ENOMEM.
 */
int dedup_count(const struct dedup *d, struct counts *ret) must_check;
void counts_done(struct counts *c);

/**
 * dedup_count_sizes() - Count blocks from the page size up to 2 MiB; called by dedup_count().
 * @d: a grouping.
 * @uses: per page: how often the class that it names occurs.
 * @ret: COUNT_SIZES_MAX places.
 * @ret_count: how many were filled.
 *
 * Return: 0 or -ENOMEM.
 */
int dedup_count_sizes(const struct dedup *d, const uint32_t *uses, struct count_size *ret,
		      unsigned *ret_count) must_check;

#endif
