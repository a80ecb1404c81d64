/* SPDX-License-Identifier: Apache-2.0 */
/* The memory agent's look at its extents: frames that were written, those that are taken back, pages that move. */
#include <errno.h>

#include "ksm/agent-internal.h"
#include "ksm/remap.h"

/*
 * A frame of an extent that the guest writes becomes a private copy, which nobody watches: whether it is equal to
 * something again, or zero, cannot be known without reading it all the time. So copies are *retaken*: in a hold they are
 * copied once more, into plain memory that is watched, where they are volatile frames as all others are.
 *
 * That costs a hold with some 50 us of work for 32 frames, and cuts the extent in two; so it is done for runs of at
 * least RETAKE_RUN copies, and for whole extents of which at least half is copies (what is still shared there is
 * then copied, too, until it is shared again); and only when no frame of the extent broke since it was looked at before,
 * at most RETAKE_PASS frames per pass.
 */
#define RETAKE_RUN  16u
#define RETAKE_PASS 1024u

/* All extents are looked at within this time. */
#define COPIES_ROUND_NS 10000000000u

static void frame_broke(struct agent *a, struct agent_extent *x, uint32_t frame)
{
	if (agent_frame_state(a, frame) != PAGE_STATE_SHARED)
		return;
	agent_frame_move(a, frame, PAGE_STATE_VOLATILE,
			 (uint8_t)(FRAME_BROKEN | (a->frames[frame] & FRAME_GIVEN)));
	x->broken++;
	a->sums.broken++;
	(void)!a->link->ops->refs(a->link, x->segment, x->page + (frame - x->first), 1, -1);
}

struct looking {
	struct agent *a;
	struct agent_extent *x;
	hva_t at;
};

static int copies_report(void *ctx, const struct write_range *range)
{
	struct looking *l = ctx;
	uint32_t first = l->x->first + (uint32_t)((range->start.v - l->at.v) / PAGE_BYTES);

	for (uint32_t i = 0; i < range->bytes / PAGE_BYTES; i++)
		frame_broke(l->a, l->x, first + i);
	return 0;
}

/* Return: 1 when nothing broke since the last look, 0 when something did, or an errno. */
static int look(struct agent *a, struct agent_extent *x)
{
	struct looking l = {.a = a, .x = x};
	bool rests;
	int r;

	if (agent_frames_span(a, x->first, (uint64_t)x->first + x->pages, &l.at) != x->pages)
		return -EFAULT;
	r = write_tracker_copies(a->tracker, l.at, x->pages * PAGE_BYTES, copies_report, &l);
	if (r < 0)
		return r;
	rests = x->broken == x->broken_before;
	x->broken_before = x->broken;
	return rests;
}

/* Frames to take back, in pieces that fit into a hold. */
static int note_retake(struct work_list *todo, uint32_t first, uint32_t frames)
{
	for (uint32_t i = 0; i < frames; i += EXTENT_PAGES_MAX_RETAKE) {
		uint32_t n = frames - i < EXTENT_PAGES_MAX_RETAKE ? frames - i : EXTENT_PAGES_MAX_RETAKE;

		if (agent_room(todo, 1) < 0)
			return -ENOMEM;
		todo->v[todo->count++] = (struct agent_work){
			.x = {.kind = EXTENT_RETAKE, .first = GFN(first + i), .pages = n}};
	}
	return 0;
}

static int choose(struct agent *a, const struct agent_extent *x, struct work_list *todo)
{
	uint32_t end = x->first + x->pages;
	int r = 0;

	if (x->broken * 2 >= x->pages)
		return note_retake(todo, x->first, x->pages);
	if (x->broken < RETAKE_RUN)
		return 0;
	for (uint32_t f = x->first, next; r == 0 && f < end; f = next) {
		next = f + 1;
		if (!(a->frames[f] & FRAME_BROKEN))
			continue;
		while (next < end && a->frames[next] & FRAME_BROKEN)
			next++;
		if (next - f >= RETAKE_RUN)
			r = note_retake(todo, f, next - f);
	}
	return r;
}

/* Plain memory again, written: the book forgets it, and the next scans follow it as any other. */
static int retaken(struct agent *a, const struct extent *x)
{
	int r = agent_extents_forget(a, (uint32_t)x->first.v, x->pages);

	for (uint64_t f = x->first.v; f < x->first.v + x->pages; f++) {
		if (agent_frame_state(a, f) != PAGE_STATE_SHARED && !(a->frames[f] & FRAME_BROKEN))
			continue;
		agent_block_list(a, f / BLOCK_FRAMES);
		agent_frame_move(a, f, PAGE_STATE_VOLATILE, FRAME_FRESH);
	}
	a->sums.retaken += x->pages;
	a->pass.retaken += x->pages;
	return r;
}

static int retake(struct agent *a, struct work_list *todo)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < todo->count; i++) {
		struct extent *x = &todo->v[i].x;

		if (atomic_load_explicit(&a->interrupt, memory_order_relaxed))
			return -ECANCELED;
		extent_apply(a->applier, x, 1);
		if (x->outcome == EXTENT_REPLACED)
			r = retaken(a, x);
		else if (x->outcome == EXTENT_LOST)
			r = -EFAULT;
	}
	return r;
}

int agent_breaks(struct agent *a, bool all)
{
	struct work_list todo = {0};
	size_t n = a->extents.count;
	int r = 0;

	if (!all && a->interval_ns < COPIES_ROUND_NS)
		n = n * a->interval_ns / COPIES_ROUND_NS + (n > 0);
	for (; r >= 0 && n; n--) {
		struct agent_extent *x;

		if (a->copies_next >= a->extents.count)
			a->copies_next = 0;
		x = &a->extents.v[a->copies_next++];
		r = look(a, x);
		if (r == 1 && x->broken && a->view.ops->retaken &&
		    todo.count < RETAKE_PASS / EXTENT_PAGES_MAX_RETAKE)
			r = choose(a, x, &todo);
	}
	if (r >= 0)
		r = retake(a, &todo);
	free(todo.v);
	return r;
}

/* Moves: the store has the same pages elsewhere, and wants to let go of a segment that is mostly dead. */

/* The new place of what is left of an extent. */
static int moved(struct agent *a, struct extent_list *added, const struct extent *x,
		 const struct store_event *e)
{
	int r = agent_extents_forget(a, (uint32_t)x->first.v, x->pages);

	a->pass.moved += x->pages;
	if (r < 0)
		return r;
	added->v[added->count++] = (struct agent_extent){
		.first = (uint32_t)x->first.v,
		.pages = x->pages,
		.segment = e->to_segment,
		.page = x->store_page,
	};
	return 0;
}

/* Runs of uncopied frames of [first, end) of an extent. */
static int note_moves(struct agent *a, const struct agent_extent *x, uint32_t first, uint32_t end,
		      const struct store_event *e, struct work_list *todo)
{
	for (uint32_t f = first, next; f < end; f = next) {
		next = f + 1;
		if (agent_frame_state(a, f) != PAGE_STATE_SHARED)
			continue;
		while (next < end && next - f < EXTENT_PAGES_MAX &&
		       agent_frame_state(a, next) == PAGE_STATE_SHARED)
			next++;
		if (agent_room(todo, 1) < 0)
			return -ENOMEM;
		todo->v[todo->count++] = (struct agent_work){
			.x = {.kind = EXTENT_MOVE,
			      .first = GFN(f),
			      .pages = next - f,
			      .store_page = e->to_page + (x->page + (f - x->first) - e->page)},
		};
	}
	return 0;
}

/* Copies are looked for first, so that they do not make a whole extent fail. */
static int find_moves(struct agent *a, const struct store_event *e, struct work_list *todo)
{
	int r = 0;

	for (size_t i = 0; r >= 0 && i < a->extents.count; i++) {
		struct agent_extent *x = &a->extents.v[i];
		uint32_t first, end;

		if (x->segment != e->segment || x->page >= e->page + e->run || x->page + x->pages <= e->page)
			continue;
		r = look(a, x);
		first = x->page > e->page ? x->first : x->first + (e->page - x->page);
		end = x->page + x->pages < e->page + e->run ? x->first + x->pages
							    : x->first + (e->page + e->run - x->page);
		if (r >= 0)
			r = note_moves(a, x, first, end, e, todo);
	}
	return r < 0 ? r : 0;
}

static int move_one(struct agent *a, struct work_list *todo, const struct store_event *e)
{
	struct extent_list added = {0};
	const struct segment_view *view;
	int r = agent_room(&added, todo->count);

	/* Room for what is moved, and for what is left on its right, so that nothing is forgotten. */
	if (r == 0)
		r = agent_extents_reserve(a, 2 * todo->count);
	if (r == 0)
		r = a->link->ops->view(a->link, e->to_segment, &view);
	for (size_t i = 0; r == 0 && i < todo->count; i++) {
		struct extent *x = &todo->v[i].x;
		hva_t at;

		/* Mapped, so that the kernel can tell. */
		if (agent_frames_span(a, x->first.v, x->first.v + x->pages, &at) == x->pages)
			remap_populate(at, x->pages * PAGE_BYTES);
		x->store = view;
		(void)!a->link->ops->refs(a->link, e->to_segment, x->store_page, x->pages, 1);
		extent_apply(a->applier, x, 1);
		if (x->outcome == EXTENT_REPLACED)
			r = moved(a, &added, x, e);
		else
			(void)!a->link->ops->refs(a->link, e->to_segment, x->store_page, x->pages, -1);
		if (x->outcome == EXTENT_LOST)
			r = -EFAULT;
	}
	agent_extents_add(a, &added);
	free(added.v);
	return r == -ENOENT ? 0 : r;
}

int agent_move(struct agent *a)
{
	struct work_list todo = {0};
	int r = 0;

	for (size_t i = 0; r == 0 && i < a->moving.count; i++) {
		todo.count = 0;
		r = find_moves(a, &a->moving.v[i], &todo);
		if (r == 0 && todo.count)
			r = move_one(a, &todo, &a->moving.v[i]);
	}
	free(todo.v);
	a->moving.count = 0;
	return r;
}
