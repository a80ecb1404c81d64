/* SPDX-License-Identifier: Apache-2.0 */
/* The memory agent's book: which of the guest's memory is mapped from the store, and which frames could be. */
#include <errno.h>
#include <string.h>

#include "ksm/agent-internal.h"

/* Index of the first extent that ends behind @frame. */
static size_t extent_find(const struct agent *a, uint32_t frame)
{
	size_t low = 0, high = a->extents.count;

	while (low < high) {
		size_t mid = low + (high - low) / 2;
		const struct agent_extent *x = &a->extents.v[mid];

		if (x->first + x->pages <= frame)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

struct agent_extent *agent_extent_at(struct agent *a, uint32_t frame)
{
	size_t i = extent_find(a, frame);

	return i < a->extents.count && a->extents.v[i].first <= frame ? &a->extents.v[i] : NULL;
}

static uint32_t count_broken(const struct agent *a, uint32_t first, uint32_t end)
{
	uint32_t n = 0;

	for (uint32_t f = first; f < end; f++)
		n += (a->frames[f] & FRAME_BROKEN) != 0;
	return n;
}

/* Take back the references of [first, end) of an extent: those of frames that were written are gone already. */
static void refs_back(struct agent *a, const struct agent_extent *x, uint32_t first, uint32_t end)
{
	for (uint32_t f = first, next; f < end; f = next) {
		next = f + 1;
		if (a->frames[f] & FRAME_BROKEN)
			continue;
		while (next < end && !(a->frames[next] & FRAME_BROKEN))
			next++;
		/* The store's books are policy; the kernel keeps the pages. */
		(void)!a->link->ops->refs(a->link, x->segment, x->page + (f - x->first), next - f, -1);
	}
}

static struct agent_fill *fill_at(struct agent *a, uint32_t segment, uint32_t page)
{
	for (size_t i = 0; i < a->fills.count; i++)
		if (a->fills.v[i].segment == segment && a->fills.v[i].page == page)
			return &a->fills.v[i];
	return NULL;
}

static void fill_unmapped(struct agent *a, const struct agent_extent *x)
{
	struct agent_fill *fill = fill_at(a, x->segment, x->page);

	if (fill && fill->mapped)
		fill->mapped--;
}

/* Cut [first, end) out of extent @i. Returns the index of what follows, or -ENOMEM, when nothing was done. */
static long cut(struct agent *a, size_t i, uint32_t first, uint32_t end)
{
	struct agent_extent x, head, tail, *v;

	if (agent_room(&a->extents, 1) < 0)
		return -ENOMEM;
	v = &a->extents.v[i];
	head = tail = x = *v;
	refs_back(a, &x, first, end);
	head.pages = first - x.first;
	head.broken = count_broken(a, x.first, first);
	tail.first = end;
	tail.page += end - x.first;
	tail.pages = x.first + x.pages - end;
	tail.broken = count_broken(a, end, end + tail.pages);
	if (!head.pages)
		fill_unmapped(a, &x);
	if (head.pages && tail.pages) {
		memmove(v + 1, v, (a->extents.count++ - i) * sizeof(*v));
		v[0] = head;
		v[1] = tail;
	} else if (head.pages || tail.pages) {
		*v = head.pages ? head : tail;
	} else {
		memmove(v, v + 1, (--a->extents.count - i) * sizeof(*v));
	}
	return (long)i + (head.pages > 0);
}

int agent_extents_forget(struct agent *a, uint32_t first, uint32_t frames)
{
	uint32_t end = first + frames;
	long i = (long)extent_find(a, first);

	while ((size_t)i < a->extents.count && a->extents.v[i].first < end) {
		const struct agent_extent *x = &a->extents.v[i];
		uint32_t x_end = x->first + x->pages;

		i = cut(a, (size_t)i, x->first > first ? x->first : first, x_end < end ? x_end : end);
		if (i < 0)
			return (int)i;
	}
	return 0;
}

void agent_extents_drop_all(struct agent *a)
{
	for (size_t i = 0; i < a->extents.count; i++) {
		const struct agent_extent *x = &a->extents.v[i];

		refs_back(a, x, x->first, x->first + x->pages);
	}
	a->extents.count = 0;
	a->copies_next = 0;
	for (size_t i = 0; i < a->fills.count; i++)
		a->fills.v[i].mapped = 0;
}

/* Whether @b continues @a in memory and in the store: the kernel makes them one mapping. */
static bool continues(const struct agent_extent *a, const struct agent_extent *b)
{
	return a->first + a->pages == b->first && a->segment == b->segment && a->page + a->pages == b->page;
}

static void join_all(struct agent *a)
{
	struct agent_extent *v = a->extents.v;
	size_t n = 0;

	for (size_t i = 0; i < a->extents.count; i++) {
		if (n && continues(&v[n - 1], &v[i])) {
			v[n - 1].pages += v[i].pages;
			v[n - 1].broken += v[i].broken;
		} else {
			v[n++] = v[i];
		}
	}
	a->extents.count = n;
}

int agent_extents_reserve(struct agent *a, size_t more)
{
	return agent_room(&a->extents, more);
}

void agent_extents_add(struct agent *a, const struct extent_list *added)
{
	struct agent_extent *v = a->extents.v;
	size_t i = a->extents.count, k = added->count;

	if (k == 0)
		return;
	a->extents.count += k;
	/* From the end on, in place. */
	for (size_t to = a->extents.count; k; to--) {
		if (i && v[i - 1].first > added->v[k - 1].first) {
			v[to - 1] = v[--i];
		} else {
			struct agent_fill *fill = fill_at(a, added->v[k - 1].segment, added->v[k - 1].page);

			if (fill)
				fill->mapped++;
			v[to - 1] = added->v[--k];
		}
	}
	join_all(a);
}

static int by_frame(const void *x, const void *y)
{
	const struct agent_match *a = x, *b = y;

	return a->frame < b->frame ? -1 : a->frame > b->frame;
}

/* Which of several matches of a frame comes last does not matter: bytes decide. */
static void sort_matches(struct match_list *l)
{
	bool rising = true;

	for (size_t i = 1; i < l->count && rising; i++)
		rising = l->v[i].frame >= l->v[i - 1].frame;
	if (!rising)
		qsort(l->v, l->count, sizeof(*l->v), by_frame);
}

int agent_matches_merge(struct agent *a)
{
	struct match_list all = {0};
	size_t i = 0, k = 0;

	sort_matches(&a->new_matches);
	if (a->matches.count + a->new_matches.count &&
	    agent_room(&all, a->matches.count + a->new_matches.count) < 0)
		return -ENOMEM;
	while (i < a->matches.count || k < a->new_matches.count) {
		bool old = k == a->new_matches.count ||
			   (i < a->matches.count && a->matches.v[i].frame <= a->new_matches.v[k].frame);
		const struct agent_match *m = old ? &a->matches.v[i++] : &a->new_matches.v[k++];

		if (agent_frame_state(a, m->frame) != PAGE_STATE_MATCHED)
			continue;
		if (all.count && all.v[all.count - 1].frame == m->frame)
			all.v[all.count - 1] = *m;
		else
			all.v[all.count++] = *m;
	}
	free(a->matches.v);
	a->matches = all;
	agent_shrink(&a->matches);
	free(a->new_matches.v);
	a->new_matches = (struct match_list){0};
	return 0;
}
