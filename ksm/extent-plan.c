/* SPDX-License-Identifier: Apache-2.0 */
/* Planning extents: runs are found in one pass, sorted by length, cut at the budget, and put back in order. */
#include "ksm/extent-plan.h"

#include <errno.h>
#include <string.h>

#include "base/size.h"

struct planner {
	const struct plan_input *in;
	struct plan_extent *v;
	size_t count;
};

static const struct plan_fill *fill_of(const struct plan_input *in, const struct plan_frame *f)
{
	if (f->at.segment != STORE_SEGMENT_NONE || f->mapped)
		return NULL;
	for (size_t i = 0; i < in->fill_count; i++)
		if (in->fills[i].key == f->key)
			return &in->fills[i];
	return NULL;
}

/* Whether @b follows @a in memory and in the store. */
static bool continues(const struct plan_frame *a, const struct plan_frame *b)
{
	return b->gfn.v == a->gfn.v + 1 && a->at.segment != STORE_SEGMENT_NONE &&
	       b->at.segment == a->at.segment && b->at.page == a->at.page + 1 && b->at.page != 0;
}

/* A run of frames [i, end) that follow one another: its stretches that are not mapped. */
static void plan_run(struct planner *p, size_t i, size_t end)
{
	const struct plan_frame *f = p->in->frames;
	size_t start = i;

	while (i < end) {
		size_t first = i;

		if (f[i].mapped) {
			i++;
			continue;
		}
		while (i < end && !f[i].mapped)
			i++;
		p->v[p->count++] = (struct plan_extent){
			.first = f[first].gfn,
			.pages = (uint32_t)(i - first),
			.at = f[first].at,
			.joins = first > start || i < end,
		};
	}
}

/* A run of frames [i, end) with one fill pattern. */
static void plan_fill_run(struct planner *p, const struct plan_fill *fill, size_t i, size_t end)
{
	while (i < end) {
		uint32_t pages = end - i < fill->pages ? (uint32_t)(end - i) : fill->pages;

		p->v[p->count++] = (struct plan_extent){
			.first = p->in->frames[i].gfn,
			.pages = pages,
			.at = fill->first,
		};
		i += pages;
	}
}

static void find_runs(struct planner *p)
{
	const struct plan_frame *f = p->in->frames;

	for (size_t i = 0, end; i < p->in->frame_count; i = end) {
		const struct plan_fill *fill = fill_of(p->in, &f[i]);

		end = i + 1;
		if (fill) {
			while (end < p->in->frame_count && f[end].gfn.v == f[end - 1].gfn.v + 1 &&
			       fill_of(p->in, &f[end]) == fill)
				end++;
			plan_fill_run(p, fill, i, end);
		} else if (f[i].at.segment != STORE_SEGMENT_NONE) {
			while (end < p->in->frame_count && continues(&f[end - 1], &f[end]))
				end++;
			plan_run(p, i, end);
		}
	}
}

static int by_length(const void *a, const void *b)
{
	const struct plan_extent *x = a, *y = b;

	if (x->joins != y->joins)
		return x->joins ? -1 : 1;
	if (x->pages != y->pages)
		return x->pages > y->pages ? -1 : 1;
	return x->first.v < y->first.v ? -1 : x->first.v > y->first.v;
}

static int by_frame(const void *a, const void *b)
{
	const struct plan_extent *x = a, *y = b;

	return x->first.v < y->first.v ? -1 : x->first.v > y->first.v;
}

/* Those that join come first, then the longest. */
static void take_longest(const struct planner *p, struct extent_plan *plan)
{
	uint64_t taken = 0;
	size_t n = 0;

	for (; n < p->count; n++) {
		const struct plan_extent *x = &p->v[n];

		if (!x->joins && (taken == p->in->extents_max || x->pages < p->in->pages_min))
			break;
		taken += !x->joins;
		plan->pages += x->pages;
		if (!x->joins)
			plan->shortest = x->pages;
	}
	for (size_t i = n; i < p->count; i++)
		plan->pages_dropped += p->v[i].pages;
	plan->count = n;
}

static bool input_valid(const struct plan_input *in)
{
	for (size_t i = 1; i < in->frame_count; i++)
		if (in->frames[i].gfn.v <= in->frames[i - 1].gfn.v)
			return false;
	for (size_t i = 0; i < in->fill_count; i++)
		if (in->fills[i].pages == 0)
			return false;
	return in->pages_min >= 1;
}

int extent_plan_make(const struct plan_input *in, struct extent_plan *ret)
{
	struct extent_plan plan = {0};
	struct planner p = {.in = in};

	if (!input_valid(in))
		return -EINVAL;
	if (in->frame_count == 0) {
		*ret = plan;
		return 0;
	}
	p.v = calloc(in->frame_count, sizeof(*p.v)); /* at most one extent per frame */
	if (!p.v)
		return -ENOMEM;
	find_runs(&p);
	if (p.count)
		qsort(p.v, p.count, sizeof(*p.v), by_length);
	take_longest(&p, &plan);
	if (plan.count)
		qsort(p.v, plan.count, sizeof(*p.v), by_frame);
	plan.v = p.v;
	*ret = plan;
	return 0;
}

void extent_plan_done(struct extent_plan *plan)
{
	free(plan->v);
	*plan = (struct extent_plan){0};
}

uint64_t extent_budget(uint64_t frames, uint64_t extents)
{
	uint64_t per_gib = GIB / PAGE_BYTES;
	/* In two steps, so that nothing wraps. */
	uint64_t all = frames / per_gib * EXTENTS_PER_GIB + frames % per_gib * EXTENTS_PER_GIB / per_gib;

	return all > extents ? all - extents : 0;
}
