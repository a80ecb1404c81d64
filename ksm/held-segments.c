/* SPDX-License-Identifier: Apache-2.0 */
/* The segments that a VM knows, and how often it maps which of their pages. */
#include "ksm/held-segments.h"

#include <errno.h>
#include <string.h>

#define SLOTS_MIN 64u
#define REFS_MAX  UINT16_MAX

void held_done(struct held_segments *h)
{
	for (uint32_t i = 0; i < h->count; i++) {
		free(h->all[i].counts);
		close_fd_p(&h->all[i].fd);
	}
	free(h->all);
	free(h->slots);
	*h = (struct held_segments){0};
}

struct held_segment *held_get(struct held_segments *h, uint32_t own)
{
	return own < h->count ? &h->all[own] : NULL;
}

/* The slot of a number, or the free one where it would be. There is always a free one. */
static struct held_slot *slot_of(struct held_slot *slots, uint32_t mask, uint32_t number)
{
	uint32_t at = (number * 0x9e3779b1u) & mask;

	while (slots[at].own && slots[at].number != number)
		at = (at + 1) & mask;
	return &slots[at];
}

static int slots_grow(struct held_segments *h)
{
	uint32_t size = h->slots ? (h->slot_mask + 1) * 2 : SLOTS_MIN;
	struct held_slot *slots;

	if (h->slots && (h->slots_used + 1) * 4 <= (h->slot_mask + 1) * 3)
		return 0;
	slots = calloc(size, sizeof(*slots));
	if (!slots)
		return -ENOMEM;
	for (uint32_t i = 0; h->slots && i <= h->slot_mask; i++)
		if (h->slots[i].own)
			*slot_of(slots, size - 1, h->slots[i].number) = h->slots[i];
	free(h->slots);
	h->slots = slots;
	h->slot_mask = size - 1;
	return 0;
}

int held_set_number(struct held_segments *h, uint32_t own, uint32_t number)
{
	struct held_slot *slot;
	int r = slots_grow(h);

	if (r < 0)
		return r;
	slot = slot_of(h->slots, h->slot_mask, number);
	if (number == HELD_NO_NUMBER || slot->own)
		return -EPROTO;
	*slot = (struct held_slot){.number = number, .own = own + 1};
	h->slots_used++;
	h->all[own].number = number;
	return 0;
}

int held_own(struct held_segments *h, uint32_t number, uint32_t *ret_own)
{
	uint32_t own = h->count;
	int r;

	if (h->slots) {
		const struct held_slot *slot = slot_of(h->slots, h->slot_mask, number);

		if (slot->own) {
			*ret_own = slot->own - 1;
			return 0;
		}
	}
	if (h->count == h->room) {
		uint32_t room = h->room ? h->room * 2 : SLOTS_MIN;
		struct held_segment *all = reallocarray(h->all, room, sizeof(*all));

		if (!all)
			return -ENOMEM;
		h->all = all;
		h->room = room;
	}
	h->all[own] = (struct held_segment){.number = HELD_NO_NUMBER, .fd = -1};
	r = held_set_number(h, own, number);
	if (r < 0)
		return r;
	h->count++;
	*ret_own = own;
	return 0;
}

void held_forget_numbers(struct held_segments *h)
{
	for (uint32_t i = 0; i < h->count; i++)
		h->all[i].number = HELD_NO_NUMBER;
	if (h->slots)
		memset(h->slots, 0, sizeof(*h->slots) * ((size_t)h->slot_mask + 1));
	h->slots_used = 0;
}

int held_keep(struct held_segments *h, uint32_t own, int fd, uint32_t pages)
{
	struct held_segment *s = &h->all[own];
	uint16_t *counts = calloc(pages, sizeof(*counts));

	if (!counts)
		return -ENOMEM;
	s->counts = counts;
	s->pages = pages;
	s->fd = fd;
	h->fds++;
	return 0;
}

static void drop(struct held_segments *h, struct held_segment *s)
{
	free(TAKE_PTR(s->counts));
	close(TAKE_FD(s->fd));
	h->fds--;
}

int held_refs(struct held_segments *h, uint32_t own, uint32_t page, uint32_t pages, int delta)
{
	struct held_segment *s = held_get(h, own);
	int r = 0;

	if (!s || s->fd < 0)
		return -ENOENT;
	if (page > s->pages || pages > s->pages - page || (delta != 1 && delta != -1))
		r = -EINVAL;
	for (uint32_t i = 0; r == 0 && i < pages; i++)
		if (s->counts[page + i] == (delta > 0 ? REFS_MAX : 0))
			r = -EINVAL;
	for (uint32_t i = 0; r == 0 && i < pages; i++)
		s->counts[page + i] = (uint16_t)(s->counts[page + i] + delta);
	if (r == 0 && delta > 0) {
		s->refs += pages;
		h->refs += pages;
	} else if (r == 0) {
		s->refs -= pages;
		h->refs -= pages;
	}
	if (s->refs == 0)
		drop(h, s);
	return r;
}

int held_each_range(const struct held_segment *s, int (*fn)(void *ctx, uint32_t page, uint32_t pages),
		    void *ctx)
{
	uint32_t level = 0, end;
	bool more = s->refs > 0;

	/* Pages mapped at least once, at least twice, and so on. */
	while (more) {
		level++;
		more = false;
		for (uint32_t page = 0; page < s->pages; page = end + 1) {
			int r = 0;

			for (end = page; end < s->pages && s->counts[end] >= level; end++)
				more |= s->counts[end] > level;
			if (end > page)
				r = fn(ctx, page, end - page);
			if (r)
				return r;
		}
	}
	return 0;
}
