/* SPDX-License-Identifier: Apache-2.0 */
/* The memory agent's look at its extents: frames that were written, those that are taken back, pages that move. */
#include <errno.h>

#include "ksm/agent-internal.h"

/* All extents are looked at within this time. */
#define COPIES_ROUND_NS 10000000000u

static void frame_broke(struct agent *a, struct agent_extent *x, uint32_t frame)
{
	if (agent_frame_state(a, frame) != PAGE_STATE_SHARED)
		return;
	agent_frame_move(a, frame, PAGE_STATE_VOLATILE, FRAME_BROKEN | (a->frames[frame] & FRAME_GIVEN));
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

static int look(struct agent *a, struct agent_extent *x)
{
	struct looking l = {.a = a, .x = x};

	if (agent_frames_span(a, x->first, (uint64_t)x->first + x->pages, &l.at) != x->pages)
		return -EFAULT;
	return write_tracker_copies(a->tracker, l.at, x->pages * PAGE_BYTES, copies_report, &l);
}

int agent_breaks(struct agent *a, bool all)
{
	size_t n = a->extents.count;
	int r = 0;

	if (!all && a->interval_ns < COPIES_ROUND_NS)
		n = n * a->interval_ns / COPIES_ROUND_NS + (n > 0);
	for (; r == 0 && n; n--) {
		if (a->copies_next >= a->extents.count)
			a->copies_next = 0;
		r = look(a, &a->extents.v[a->copies_next++]);
	}
	return r;
}

int agent_move(struct agent *a)
{
	a->moving.count = 0;
	return 0;
}
