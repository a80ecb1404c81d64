/* SPDX-License-Identifier: Apache-2.0 */
/* What a grouping of pages amounts to: savings, runs, top contents, pairs of images.
 *
 * All arrays are indexed by the page that names a class, and zeroed memory, so that they take memory only
 * where there are nonzero pages: 4 bytes each for uses, place, latest and earlier. */
#include "ksm/dedup-count.h"

#include <errno.h>
#include <string.h>

#include "ksm/dedup-internal.h"

struct tally {
	const struct dedup *d;
	struct counts *c;
	uint32_t *uses;	   /* how many pages the class has */
	uint32_t *place;   /* 1 + where the canonical page lies in the store; 0: not yet seen */
	uint32_t *latest;  /* 1 + the latest page that was its image's first of the class */
	uint32_t *earlier; /* by page: the value of latest before */
	uint32_t next_place;
	struct {
		uint64_t pages; /* 0: none */
		uint32_t place; /* of its last page */
	} run;
};

static void run_end(struct tally *t)
{
	unsigned log2 = 0;

	if (t->run.pages == 0)
		return;
	while (log2 + 1 < COUNT_RUNS && t->run.pages >> (log2 + 1))
		log2++;
	t->c->runs[log2] += t->run.pages;
	t->run.pages = 0;
}

/* A duplicate continues the run when its canonical page follows the one before. */
static void run_add(struct tally *t, uint32_t place)
{
	if (t->run.pages && place != t->run.place + 1)
		run_end(t);
	t->run.pages++;
	t->run.place = place;
}

/* The first page of a class in this image: note it in the matrix with all images that had it before. */
static void pairs_add(struct tally *t, unsigned image, uint32_t cls, uint64_t page)
{
	const struct page_set *set = t->d->set;

	if (t->c->pairs) {
		t->earlier[page] = t->latest[cls];
		t->c->pairs[image * set->image_count + image]++;
		for (uint32_t at = t->latest[cls]; at; at = t->earlier[at - 1]) {
			unsigned other = page_set_image(set, at - 1);

			t->c->pairs[image * set->image_count + other]++;
			t->c->pairs[other * set->image_count + image]++;
		}
	}
	t->latest[cls] = (uint32_t)page + 1;
}

static void page_count(struct tally *t, unsigned image_no, uint64_t page)
{
	struct count_image *image = &t->c->images[image_no];
	uint32_t cls = t->d->classes[page];

	if (cls == 0) {
		run_end(t);
		if (dedup_bit(t->d->missing, page))
			return;
		image->pages++;
		image->zero++;
		return;
	}
	cls--;
	image->pages++;
	image->fill += dedup_bit(t->d->fill, page);
	if (t->latest[cls] == 0)
		t->c->total.distinct++;
	if (t->latest[cls] <= t->d->set->images[image_no].first) {
		image->distinct++;
		pairs_add(t, image_no, cls, page);
	}
	if (t->uses[cls] == 1) {
		image->unique++;
		run_end(t);
		return;
	}
	image->duplicate++;
	if (t->place[cls] == 0)
		t->place[cls] = ++t->next_place;
	run_add(t, t->place[cls]);
}

static int span_count(void *ctx, uint64_t first, uint64_t pages, uint64_t address __attribute__((unused)))
{
	struct tally *t = ctx;
	unsigned image = page_set_image(t->d->set, first);

	for (uint64_t i = 0; i < pages; i++)
		page_count(t, image, first + i);
	run_end(t);
	return 0;
}

/* Keeps the most frequent contents; at equal counts the one seen first. */
static void top_add(struct counts *c, uint64_t count, uint64_t page)
{
	unsigned at = c->top_count;

	if (count < 2 || (at == COUNT_TOP && c->top[at - 1].count >= count))
		return;
	if (at == COUNT_TOP)
		at--;
	else
		c->top_count++;
	for (; at && c->top[at - 1].count < count; at--)
		c->top[at] = c->top[at - 1];
	c->top[at] = (struct count_top){count, page};
}

static void totals_sum(struct counts *c, const struct page_set *set)
{
	struct count_total *t = &c->total;
	uint64_t within = 0;

	for (unsigned i = 0; i < set->image_count; i++) {
		const struct count_image *image = &c->images[i];

		t->pages += image->pages;
		t->zero += image->zero;
		t->fill += image->fill;
		t->duplicate += image->duplicate;
		t->nonzero += image->duplicate + image->unique;
		within += image->duplicate + image->unique - image->distinct;
	}
	t->saved = t->nonzero - t->distinct;
	t->intra = within;
	t->inter = t->saved - within;
	for (unsigned i = COUNT_RUNS - 1; i > 0; i--)
		c->runs[i - 1] += c->runs[i];
}

static int tally_run(struct tally *t)
{
	const struct dedup *d = t->d;
	struct counts *c = t->c;
	int r;

	for (uint64_t page = 0; page < d->set->pages; page++)
		if (d->classes[page])
			t->uses[d->classes[page] - 1]++;
	r = page_set_spans(d->set, span_count, t);
	if (r < 0)
		return r;
	totals_sum(c, d->set);
	/* Its page may be missing: then the class is named by a page that is not in it, and has no preview. */
	for (uint64_t page = 0; page < d->set->pages; page++)
		if (d->classes[page] == page + 1)
			top_add(c, t->uses[page], page);
	return dedup_count_sizes(d, t->uses, c->sizes, &c->size_count);
}

int dedup_count(const struct dedup *d, struct counts *ret)
{
	uint64_t pages = d->set->pages, bytes = pages * sizeof(uint32_t);
	unsigned images = d->set->image_count;
	struct counts c = {0};
	struct tally t = {.d = d, .c = &c};
	int r = -ENOMEM;

	c.images = calloc(images + 1, sizeof(*c.images));
	if (images <= COUNT_PAIRS_MAX)
		c.pairs = calloc((size_t)images * images + 1, sizeof(*c.pairs));
	t.uses = big_alloc(bytes);
	t.place = big_alloc(bytes);
	t.latest = big_alloc(bytes);
	t.earlier = big_alloc(bytes);
	if (c.images && (c.pairs || images > COUNT_PAIRS_MAX) && t.uses && t.place && t.latest && t.earlier)
		r = tally_run(&t);
	big_free(t.uses, bytes);
	big_free(t.place, bytes);
	big_free(t.latest, bytes);
	big_free(t.earlier, bytes);
	if (r < 0)
		counts_done(&c);
	else
		*ret = c;
	return r;
}

void counts_done(struct counts *c)
{
	free(c->images);
	free(c->pairs);
	*c = (struct counts){0};
}
