/* SPDX-License-Identifier: Apache-2.0 */
/* The memory agent's plans: which matches become extents, which zero pages are dropped, and what comes of it. */
#include <errno.h>
#include <string.h>

#include "ksm/agent-internal.h"
#include "ksm/guest-bytes.h"
#include "ksm/in-flight.h"

/* Attempts with what was refused in part, in ever smaller parts: halves of 512 pages, and one more. */
#define ROUNDS_MAX 11u
#define APPLY_MAX  512u /* extents given to the applier at once */

/* What is being applied: one kind, at most APPLY_MAX extents of one segment. */
struct applying {
	struct agent *a;
	struct work_list again; /* parts that are tried once more */
	struct extent_list added;
	struct extent x[APPLY_MAX];
	size_t count;
	uint32_t segment;
	const struct segment_view *view;
	bool later; /* something can be tried again in the next pass */
	bool lost;
};

static int again(struct applying *p, const struct extent *x, uint32_t skip, uint32_t pages)
{
	struct agent_work w = {.x = *x, .segment = p->segment};

	if (pages == 0)
		return 0;
	if (agent_room(&p->again, 1) < 0)
		return -ENOMEM;
	w.x.first.v += skip;
	w.x.store_page += skip;
	w.x.pages = pages;
	p->again.v[p->again.count++] = w;
	return 0;
}

static int halves(struct applying *p, const struct extent *x)
{
	uint32_t half = x->pages / 2;
	int r = again(p, x, 0, half);

	return r < 0 ? r : again(p, x, half, x->pages - half);
}

static void move_all(struct agent *a, const struct extent *x, enum page_state to)
{
	for (uint64_t f = x->first.v; f < x->first.v + x->pages; f++)
		if (agent_frame_state(a, f) != to)
			agent_frame_move(a, f, to, 0);
}

/* A frame whose twin is none: it stays as it is until it is written. */
static void unmatch(struct agent *a, uint64_t frame)
{
	agent_frame_move(a, frame, PAGE_STATE_CANDIDATE, 0);
	atomic_fetch_and_explicit(&a->recorded[frame / 64], ~((uint64_t)1 << frame % 64),
				  memory_order_relaxed);
}

/* Try without the pages that differ. */
static int without_different(struct applying *p, const struct extent *x)
{
	const uint8_t *store = p->view->bytes + x->store_page * PAGE_BYTES;
	uint32_t start = 0;
	hva_t at;
	int r = 0;

	if (p->a->view.ops->span(p->a->view.ctx, x->first, x->pages, &at) < 0)
		return 0;
	for (uint32_t i = 0; r == 0 && i < x->pages; i++) {
		if (guest_bytes_equal((const uint8_t *)hva_ptr(at) + i * PAGE_BYTES, store + i * PAGE_BYTES,
				      PAGE_BYTES))
			continue;
		unmatch(p->a, x->first.v + i);
		r = again(p, x, start, i - start);
		start = i + 1;
	}
	/* When all of it is equal now, somebody is writing: the next scan tells. */
	return r < 0 || start == 0 ? r : again(p, x, start, x->pages - start);
}

static int shared(struct applying *p, const struct extent *x)
{
	struct agent *a = p->a;

	move_all(a, x, PAGE_STATE_SHARED);
	a->pass.shared += x->pages;
	p->added.v[p->added.count++] = (struct agent_extent){
		.first = (uint32_t)x->first.v,
		.pages = x->pages,
		.segment = p->segment,
		.page = x->store_page,
	};
	return 0;
}

static int dropped(struct applying *p, const struct extent *x)
{
	move_all(p->a, x, PAGE_STATE_DROPPED);
	p->a->pass.zeroed += x->pages;
	p->a->sums.zeroed += x->pages;
	return 0;
}

static int outcome_take(struct applying *p, const struct extent *x)
{
	switch (x->outcome) {
	case EXTENT_REPLACED:
		return x->kind == EXTENT_DROP ? dropped(p, x) : shared(p, x);
	case EXTENT_DIFFERENT:
		return x->kind == EXTENT_DROP ? 0 : without_different(p, x);
	case EXTENT_SEVERAL:
		return x->pages > 1 ? halves(p, x) : 0;
	case EXTENT_IN_FLIGHT:
		p->later = true;
		return x->pages > IN_FLIGHT_FRAMES ? halves(p, x) : 0;
	case EXTENT_INVALID:
	case EXTENT_NOT_PRIVATE:
		if (x->pages > 1)
			return halves(p, x);
		move_all(p->a, x, PAGE_STATE_UNKNOWN);
		return 0;
	case EXTENT_LOST:
		p->lost = true;
		move_all(p->a, x, PAGE_STATE_UNKNOWN);
		return 0;
	case EXTENT_WRITTEN:
	case EXTENT_NO_ROOM:
	case EXTENT_NOT_HELD:
	case EXTENT_REFUSED:
	case EXTENT_OUTCOMES:
		break;
	}
	p->later = true;
	return 0;
}

/* The store's books are policy, the kernel keeps the pages; so what comes of it does not matter here. */
static void refs(struct applying *p, const struct extent *x, int delta)
{
	if (x->kind != EXTENT_DROP)
		(void)!p->a->link->ops->refs(p->a->link, p->segment, x->store_page, x->pages, delta);
}

/* References come before mappings, or the store lets go of a segment that nobody has mapped yet. */
static int apply_batch(struct applying *p)
{
	int r = 0;

	for (size_t i = 0; i < p->count; i++)
		refs(p, &p->x[i], 1);
	extent_apply(p->a->applier, p->x, p->count);
	for (size_t i = 0; i < p->count; i++) {
		int e = outcome_take(p, &p->x[i]);

		if (p->x[i].outcome != EXTENT_REPLACED)
			refs(p, &p->x[i], -1);
		r = r < 0 ? r : e;
	}
	p->count = 0;
	return p->lost ? -EFAULT : r;
}

/* The segment is gone: its frames are read again. */
static void segment_gone(struct agent *a, const struct agent_work *w)
{
	for (uint64_t f = w->x.first.v; f < w->x.first.v + w->x.pages; f++) {
		if (agent_frame_state(a, f) != PAGE_STATE_MATCHED)
			continue;
		agent_block_list(a, f / BLOCK_FRAMES);
		agent_frame_move(a, f, PAGE_STATE_VOLATILE, 0);
	}
}

static int apply_segment(struct applying *p, const struct agent_work *w, size_t count)
{
	struct agent *a = p->a;
	int r = 0;

	p->segment = w->segment;
	p->view = NULL;
	if (w->x.kind != EXTENT_DROP) {
		r = a->link->ops->view(a->link, w->segment, &p->view);
		if (r == -ENOENT) {
			for (size_t i = 0; i < count; i++)
				segment_gone(a, &w[i]);
			return 0;
		}
	}
	for (size_t i = 0; r == 0 && i < count; i++) {
		p->x[p->count] = w[i].x;
		p->x[p->count++].store = p->view;
		if (p->count == APPLY_MAX)
			r = apply_batch(p);
	}
	return r == 0 && p->count ? apply_batch(p) : r;
}

static int by_segment(const void *x, const void *y)
{
	const struct agent_work *a = x, *b = y;

	if (a->segment != b->segment)
		return a->segment < b->segment ? -1 : 1;
	return a->x.first.v < b->x.first.v ? -1 : a->x.first.v > b->x.first.v;
}

static int by_first(const void *x, const void *y)
{
	const struct agent_extent *a = x, *b = y;

	return a->first < b->first ? -1 : a->first > b->first;
}

static int apply_round(struct applying *p, const struct work_list *todo)
{
	int r = 0;

	qsort(todo->v, todo->count, sizeof(*todo->v), by_segment);
	for (size_t i = 0, end; r == 0 && i < todo->count; i = end) {
		for (end = i + 1; end < todo->count && todo->v[end].segment == todo->v[i].segment;)
			end++;
		if (atomic_load_explicit(&p->a->interrupt, memory_order_relaxed))
			return -ECANCELED;
		/* Room for what becomes shared, so that it cannot be forgotten. */
		r = agent_room(&p->added, end - i);
		if (r == 0)
			r = agent_extents_reserve(p->a, p->added.count + end - i);
		if (r == 0)
			r = apply_segment(p, &todo->v[i], end - i);
	}
	return r;
}

/* Apply all of @todo, which is used up. @ret_later: something may succeed in the next pass. */
static int apply_all(struct agent *a, struct work_list *todo, bool *ret_later)
{
	struct applying *p = calloc(1, sizeof(*p));
	int r = 0;

	if (!p)
		return -ENOMEM;
	p->a = a;
	for (unsigned round = 0; r == 0 && todo->count && round < ROUNDS_MAX; round++) {
		struct work_list done = *todo;

		r = apply_round(p, todo);
		*todo = p->again;
		p->again = done;
		p->again.count = 0;
	}
	if (p->added.count)
		qsort(p->added.v, p->added.count, sizeof(*p->added.v), by_first);
	agent_extents_add(a, &p->added);
	*ret_later = p->later || todo->count || r < 0;
	todo->count = 0;
	free(p->again.v);
	free(p->added.v);
	free(p);
	return r;
}

int agent_drop_zeros(struct agent *a)
{
	bool later;

	return a->zeros.count ? apply_all(a, &a->zeros, &later) : 0;
}

/* The planner's view of it: matches, and both ends of each extent. */
struct planning {
	struct plan_frame *frames;
	size_t count;
	struct plan_fill *fills;
	size_t fill_count;
};

static void put_frame(struct planning *p, uint32_t frame, uint32_t segment, uint32_t page, bool mapped)
{
	p->frames[p->count++] =
		(struct plan_frame){.gfn = GFN(frame), .at = {segment, page}, .mapped = mapped};
}

static void put_extent(struct planning *p, const struct agent_extent *x)
{
	put_frame(p, x->first, x->segment, x->page, true);
	if (x->pages > 1)
		put_frame(p, x->first + x->pages - 1, x->segment, x->page + x->pages - 1, true);
}

/* A match with a stretch of a pattern is one with its pattern. False: the stretch is mapped too often. */
static bool put_match(struct agent *a, struct planning *p, const struct agent_match *m)
{
	for (size_t i = 0; i < a->fills.count; i++) {
		const struct agent_fill *fill = &a->fills.v[i];

		if (fill->segment != m->segment || fill->page != m->page)
			continue;
		if (fill->mapped >= STORE_MAPPINGS_MAX)
			return false;
		put_frame(p, m->frame, STORE_SEGMENT_NONE, 0, false);
		p->frames[p->count - 1].key = i + 1;
		return true;
	}
	put_frame(p, m->frame, m->segment, m->page, false);
	return true;
}

static int planning_fill(struct agent *a, struct planning *p)
{
	size_t k = 0;

	p->frames = calloc(a->matches.count + 2 * a->extents.count + 1, sizeof(*p->frames));
	p->fills = calloc(a->fills.count + 1, sizeof(*p->fills));
	if (!p->frames || !p->fills)
		return -ENOMEM;
	for (size_t i = 0; i < a->fills.count; i++)
		p->fills[p->fill_count++] = (struct plan_fill){
			.key = i + 1,
			.first = {a->fills.v[i].segment, a->fills.v[i].page},
			.pages = a->fills.v[i].run,
		};
	for (size_t i = 0; i < a->matches.count; i++) {
		const struct agent_match *m = &a->matches.v[i];

		while (k < a->extents.count && a->extents.v[k].first < m->frame)
			put_extent(p, &a->extents.v[k++]);
		(void)put_match(a, p, m);
	}
	while (k < a->extents.count)
		put_extent(p, &a->extents.v[k++]);
	return 0;
}

static uint64_t frames_all(const struct agent *a)
{
	uint64_t n = 0;

	for (size_t i = 0; i < a->range_count; i++)
		n += a->ranges[i].frames;
	return n;
}

/*
 * The first half of the budget is for extents of any length; of what is left, ever longer ones only, so that there is
 * room for long ones that are found later.
 */
static uint32_t shortest_allowed(uint64_t left, uint64_t all)
{
	if (left * 2 > all)
		return 1;
	if (left * 4 > all)
		return 4;
	return left * 8 > all ? 16 : 64;
}

static int plan_to_work(struct agent *a, const struct extent_plan *plan, struct work_list *todo)
{
	uint64_t all = extent_budget(frames_all(a), 0), left = extent_budget(frames_all(a), a->extents.count);

	if (plan->count == 0)
		return 0;
	if (agent_room(todo, plan->pages / EXTENT_PAGES_MAX + plan->count) < 0)
		return -ENOMEM;
	/* Longest first, as they were chosen. */
	for (uint32_t size = SEGMENT_PAGES_MAX; size; size /= 2)
		for (size_t i = 0; i < plan->count; i++) {
			const struct plan_extent *x = &plan->v[i];

			if (x->pages < size || x->pages >= 2 * size ||
			    (!x->joins && (left == 0 || x->pages < shortest_allowed(left, all))))
				continue;
			left -= !x->joins;
			for (uint32_t k = 0; k < x->pages; k += EXTENT_PAGES_MAX)
				todo->v[todo->count++] = (struct agent_work){
					.x = {.kind = EXTENT_SHARE,
					      .first = GFN(x->first.v + k),
					      .pages = x->pages - k < EXTENT_PAGES_MAX ? x->pages - k
										       : EXTENT_PAGES_MAX,
					      .store_page = x->at.page + k},
					.segment = x->at.segment,
				};
		}
	return 0;
}

static int plan_make(struct agent *a, struct work_list *todo)
{
	struct planning p = {0};
	struct extent_plan plan = {0};
	int r = planning_fill(a, &p);

	if (r == 0) {
		const struct plan_input in = {
			.frames = p.frames,
			.frame_count = p.count,
			.fills = p.fills,
			.fill_count = p.fill_count,
			.extents_max = extent_budget(frames_all(a), a->extents.count),
			.pages_min = 1,
		};

		r = extent_plan_make(&in, &plan);
	}
	free(p.frames);
	free(p.fills);
	if (r == 0)
		r = plan_to_work(a, &plan, todo);
	extent_plan_done(&plan);
	return r;
}

int agent_plan(struct agent *a)
{
	struct work_list todo = {0};
	bool later = false;
	int r;

	if (!a->replan)
		return 0;
	r = agent_matches_merge(a);
	if (r == 0 && a->matches.count)
		r = plan_make(a, &todo);
	if (r == 0 && todo.count)
		r = apply_all(a, &todo, &later);
	free(todo.v);
	if (r == 0) {
		a->replan = later;
		r = agent_matches_merge(a); /* what is shared now is none any more */
	}
	return r;
}
