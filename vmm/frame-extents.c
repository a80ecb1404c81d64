/* SPDX-License-Identifier: Apache-2.0 */
/* Which frames of guest RAM are mapped from files: a sorted table of extents. */
#include "vmm/frame-extents.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"

static const size_t extents_max[FRAME_BACKINGS] = {
	[FRAME_BOOT_FILE] = FRAME_EXTENTS_BOOT_MAX,
	[FRAME_STORE] = FRAME_EXTENTS_STORE_MAX,
};

void frame_extents_done(struct frame_extents *x)
{
	free(x->list);
	*x = (struct frame_extents){0};
}

size_t frame_extents_after(const struct frame_extents *x, uint64_t gfn)
{
	size_t lo = 0, hi = x->count;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (x->list[mid].end > gfn)
			hi = mid;
		else
			lo = mid + 1;
	}
	return lo;
}

/* Room in the list for @more extents, and for those promised. */
static int make_room(struct frame_extents *x, size_t more)
{
	size_t wanted = x->count + more + x->promised, room = x->room ? x->room : 16;
	struct frame_extent *list;

	if (wanted <= x->room)
		return 0;
	while (room < wanted)
		room *= 2;
	list = reallocarray(x->list, room, sizeof(*list));
	if (!list)
		return -ENOMEM;
	x->list = list;
	x->room = room;
	return 0;
}

int frame_extents_reserve(struct frame_extents *x, uint64_t first, uint64_t end, enum frame_backing backing)
{
	size_t i = frame_extents_after(x, first);
	const struct frame_extent *around = i < x->count ? &x->list[i] : NULL;
	size_t more[FRAME_BACKINGS] = {0};

	/* One extent may be cut in two, and the range may become one of its own. */
	if (around && around->first < first && around->end > end && around->backing != backing)
		more[around->backing]++;
	if (backing != FRAME_PRIVATE)
		more[backing]++;
	for (size_t b = 0; b < FRAME_BACKINGS; b++)
		if (more[b] && x->of[b] + more[b] + (b == FRAME_STORE ? x->promised : 0) > extents_max[b])
			return -ENOSPC;
	return make_room(x, 2);
}

int frame_extents_promise(struct frame_extents *x, size_t count)
{
	int r = 0;

	x->promised = count;
	if (count > extents_max[FRAME_STORE] || x->of[FRAME_STORE] > extents_max[FRAME_STORE] - count)
		r = -ENOSPC;
	if (r == 0)
		r = make_room(x, 0);
	if (r < 0)
		x->promised = 0;
	return r;
}

void frame_extents_keep(struct frame_extents *x, uint64_t first, uint64_t end, enum frame_backing backing)
{
	frame_extents_set(x, first, end, backing);
	x->promised -= x->promised > 0;
}

static void insert(struct frame_extents *x, size_t at, struct frame_extent extent)
{
	memmove(&x->list[at + 1], &x->list[at], (x->count - at) * sizeof(*x->list));
	x->list[at] = extent;
	x->count++;
	x->of[extent.backing]++;
}

static void remove_some(struct frame_extents *x, size_t at, size_t n)
{
	for (size_t i = at; i < at + n; i++)
		x->of[x->list[i].backing]--;
	x->count -= n;
	memmove(&x->list[at], &x->list[at + n], (x->count - at) * sizeof(*x->list));
}

/* Take [first, end) out. */
static void cut(struct frame_extents *x, uint64_t first, uint64_t end)
{
	size_t i = frame_extents_after(x, first), whole;

	if (i < x->count && x->list[i].first < first) {
		struct frame_extent *before = &x->list[i];

		if (before->end > end)
			insert(x, i + 1, (struct frame_extent){end, before->end, before->backing});
		x->list[i++].end = first;
	}
	for (whole = i; whole < x->count && x->list[whole].end <= end; whole++)
		;
	remove_some(x, i, whole - i);
	if (i < x->count && x->list[i].first < end)
		x->list[i].first = end;
}

void frame_extents_set(struct frame_extents *x, uint64_t first, uint64_t end, enum frame_backing backing)
{
	size_t i;

	cut(x, first, end);
	if (backing == FRAME_PRIVATE)
		return;
	i = frame_extents_after(x, first);
	if (i < x->count && x->list[i].first == end && x->list[i].backing == backing) {
		end = x->list[i].end;
		remove_some(x, i, 1);
	}
	if (i > 0 && x->list[i - 1].end == first && x->list[i - 1].backing == backing)
		x->list[i - 1].end = end;
	else
		insert(x, i, (struct frame_extent){first, end, backing});
}

uint64_t frame_extents_frames(const struct frame_extents *x, enum frame_backing backing)
{
	uint64_t frames = 0;

	for (size_t i = 0; i < x->count; i++)
		if (x->list[i].backing == backing)
			frames += x->list[i].end - x->list[i].first;
	return frames;
}
