/* SPDX-License-Identifier: Apache-2.0 */
/* Step 2 of the exact grouping: pages with the same key get the class of the first of them.
 *
 * Keys are dealt to partitions by their upper bits, in page order, so that a partition's hash table stays in
 * the cache of the CPU that works on it. A slice of the pages is dealt by one thread; a table of (slice,
 * partition) counts, summed up beforehand, gives each slice its place in each partition. */
#include <errno.h>
#include <string.h>

#include "ksm/dedup-internal.h"

#define PARTITION_PAGES	  4096u
#define PARTITIONS_LOG2	  16u
#define SLICES_PER_THREAD 2u
#define SLICES_MAX	  32u

struct table {
	uint32_t *slots; /* 1 + place in the partition; 0 is free */
	size_t size;
};

struct group {
	struct dedup *d;
	unsigned shift; /* key >> shift is the partition; 64 for a single one */
	uint64_t partitions;
	uint64_t slices;
	uint64_t *counts; /* [slice][partition], then places */
	uint64_t *starts; /* [partition + 1] */
	uint64_t *keys;
	uint32_t *pages;
	struct table *tables; /* one per thread */
};

static uint64_t partition_of(const struct group *g, uint64_t key)
{
	return g->shift == 64 ? 0 : key >> g->shift;
}

static void slice_bounds(const struct group *g, uint64_t slice, uint64_t *ret_page, uint64_t *ret_end)
{
	uint64_t per = g->d->set->pages / g->slices;

	*ret_page = slice * per;
	*ret_end = slice + 1 == g->slices ? g->d->set->pages : *ret_page + per;
}

static int slice_count(void *ctx, unsigned thread __attribute__((unused)), uint64_t slice)
{
	struct group *g = ctx;
	uint64_t *counts = g->counts + slice * g->partitions;
	uint64_t page, end;

	slice_bounds(g, slice, &page, &end);
	for (; page < end; page++)
		if (g->d->keys[page])
			counts[partition_of(g, g->d->keys[page])]++;
	return 0;
}

static int slice_deal(void *ctx, unsigned thread __attribute__((unused)), uint64_t slice)
{
	struct group *g = ctx;
	uint64_t *places = g->counts + slice * g->partitions;
	uint64_t page, end;

	slice_bounds(g, slice, &page, &end);
	for (; page < end; page++) {
		uint64_t key = g->d->keys[page], at;

		if (!key)
			continue;
		at = places[partition_of(g, key)]++;
		g->keys[at] = key;
		g->pages[at] = (uint32_t)page;
	}
	return 0;
}

/* Counts become places: partition after partition, and slice after slice within. */
static uint64_t counts_sum(struct group *g)
{
	uint64_t sum = 0;

	for (uint64_t p = 0; p < g->partitions; p++) {
		g->starts[p] = sum;
		for (uint64_t s = 0; s < g->slices; s++) {
			uint64_t *at = &g->counts[s * g->partitions + p];
			uint64_t count = *at;

			*at = sum;
			sum += count;
		}
	}
	g->starts[g->partitions] = sum;
	return sum;
}

static int table_reset(struct table *t, uint64_t entries)
{
	size_t size = 16;

	while (size < entries * 2)
		size *= 2;
	if (size > t->size) {
		free(t->slots);
		t->size = 0;
		t->slots = malloc(size * sizeof(*t->slots));
		if (!t->slots)
			return -ENOMEM;
		t->size = size;
	}
	memset(t->slots, 0, size * sizeof(*t->slots));
	return 0;
}

static int partition_group(void *ctx, unsigned thread, uint64_t partition)
{
	struct group *g = ctx;
	uint64_t start = g->starts[partition], n = g->starts[partition + 1] - start;
	const uint64_t *keys = g->keys + start;
	const uint32_t *pages = g->pages + start;
	struct table *t = &g->tables[thread];
	size_t mask = 15;
	int r = table_reset(t, n);

	if (r < 0)
		return r;
	while (mask + 1 < n * 2)
		mask = mask * 2 + 1;
	for (uint64_t i = 0; i < n; i++) {
		bool fill = dedup_bit(g->d->fill, pages[i]);
		size_t slot = keys[i] & mask;

		for (; t->slots[slot]; slot = (slot + 1) & mask) {
			uint64_t other = t->slots[slot] - 1;

			if (keys[other] == keys[i] && dedup_bit(g->d->fill, pages[other]) == fill)
				break;
		}
		if (!t->slots[slot])
			t->slots[slot] = (uint32_t)(i + 1);
		g->d->classes[pages[i]] = pages[t->slots[slot] - 1] + 1;
	}
	return 0;
}

static int group_run(struct group *g, const struct work_control *control)
{
	/* The steps before and after can be stopped; this one is short and is always finished. */
	const struct work_control steady = {.threads = control->threads};
	uint64_t dealt;
	int r = workers_run(&steady, "sorting", g->slices, slice_count, g);

	if (r < 0)
		return r;
	dealt = counts_sum(g);
	g->keys = big_alloc(dealt * sizeof(*g->keys));
	g->pages = big_alloc(dealt * sizeof(*g->pages));
	r = -ENOMEM;
	if (g->keys && g->pages)
		r = workers_run(&steady, "sorting", g->slices, slice_deal, g);
	if (r == 0)
		r = workers_run(&steady, "sorting", g->partitions, partition_group, g);
	big_free(g->keys, dealt * sizeof(*g->keys));
	big_free(g->pages, dealt * sizeof(*g->pages));
	return r;
}

int dedup_group(struct dedup *d, const struct work_control *control)
{
	unsigned threads = control->threads ? control->threads : 1, log2 = 0;
	struct group g = {.d = d, .shift = 64};
	int r = -ENOMEM;

	while (log2 < PARTITIONS_LOG2 && (uint64_t)PARTITION_PAGES << log2 < d->set->pages)
		log2++;
	g.shift = 64 - log2;
	g.partitions = (uint64_t)1 << log2;
	g.slices = (uint64_t)threads * SLICES_PER_THREAD;
	if (g.slices > SLICES_MAX)
		g.slices = SLICES_MAX;
	g.counts = calloc(g.slices * g.partitions, sizeof(*g.counts));
	g.starts = calloc(g.partitions + 1, sizeof(*g.starts));
	g.tables = calloc(threads, sizeof(*g.tables));
	if (g.counts && g.starts && g.tables)
		r = group_run(&g, control);
	for (unsigned i = 0; g.tables && i < threads; i++)
		free(g.tables[i].slots);
	free(g.tables);
	free(g.starts);
	free(g.counts);
	return r;
}
