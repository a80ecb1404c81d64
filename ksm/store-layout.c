/* SPDX-License-Identifier: Apache-2.0 */
/* The donor's order: whole blocks, then runs, with short repeats kept. */
#include "ksm/store-layout.h"

#include <errno.h>

#define BLOCK_PAGES (HUGE_PAGE_BYTES / PAGE_BYTES)

/* Keys laid so far: open addressing, at most half full. */
struct key_set {
	uint64_t *v;
	size_t mask;
};

static int key_set_init(struct key_set *set, size_t keys)
{
	size_t size = 16;

	while (size < 2 * keys)
		size *= 2;
	set->v = calloc(size, sizeof(*set->v));
	set->mask = size - 1;
	return set->v ? 0 : -ENOMEM;
}

/* True when the key was not there. */
static bool key_set_add(struct key_set *set, uint64_t key)
{
	size_t i = (size_t)(key * 0x9e3779b97f4a7c15ull >> 20) & set->mask;

	for (; set->v[i]; i = (i + 1) & set->mask)
		if (set->v[i] == key)
			return false;
	set->v[i] = key;
	return true;
}

static bool key_set_has(const struct key_set *set, uint64_t key)
{
	size_t i = (size_t)(key * 0x9e3779b97f4a7c15ull >> 20) & set->mask;

	for (; set->v[i]; i = (i + 1) & set->mask)
		if (set->v[i] == key)
			return true;
	return false;
}

static bool is_new(const struct key_set *laid, const struct layout_frame *f)
{
	return !f->have && !key_set_has(laid, f->key);
}

/* Whether frames from @i on are a whole block of 2 MiB. */
static bool block_at(const struct layout_frame *f, size_t count, size_t i)
{
	return f[i].gfn.v % BLOCK_PAGES == 0 && count - i >= BLOCK_PAGES &&
	       f[i + BLOCK_PAGES - 1].gfn.v == f[i].gfn.v + BLOCK_PAGES - 1;
}

static void lay(struct store_layout *l, struct key_set *laid, const struct layout_frame *f, size_t i)
{
	l->order[l->count++] = (uint32_t)i;
	key_set_add(laid, f[i].key);
}

static void lay_blocks(struct store_layout *l, struct key_set *laid, const struct layout_frame *f,
		       size_t count)
{
	for (size_t i = 0; i < count; i++) {
		bool fresh = false;

		if (!block_at(f, count, i))
			continue;
		for (size_t k = i; k < i + BLOCK_PAGES && !fresh; k++)
			fresh = is_new(laid, &f[k]);
		if (!fresh)
			continue;
		for (size_t k = i; k < i + BLOCK_PAGES; k++)
			lay(l, laid, f, k);
		l->huge_blocks++;
		i += BLOCK_PAGES - 1;
	}
}

/* One run of frames [i, end). Repeats wait until it is known whether something new follows. */
static void lay_run(struct store_layout *l, struct key_set *laid, const struct layout_frame *f, size_t i,
		    size_t end)
{
	bool begun = false;
	size_t waiting = 0;

	for (; i < end; i++) {
		if (!is_new(laid, &f[i])) {
			waiting++;
			continue;
		}
		if (begun && waiting <= LAYOUT_REPEATS_MAX)
			for (size_t k = i - waiting; k < i; k++)
				lay(l, laid, f, k);
		lay(l, laid, f, i);
		begun = true;
		waiting = 0;
	}
}

int store_layout_make(const struct layout_frame *frames, size_t count, struct store_layout *ret)
{
	struct store_layout l = {0};
	struct key_set laid;

	for (size_t i = 0; i < count; i++)
		if (frames[i].key == 0 || (i && frames[i].gfn.v <= frames[i - 1].gfn.v))
			return -EINVAL;
	if (count >= UINT32_MAX)
		return -EINVAL;
	l.order = calloc(count ? count : 1, sizeof(*l.order));
	if (!l.order)
		return -ENOMEM;
	if (key_set_init(&laid, count) < 0) {
		free(l.order);
		return -ENOMEM;
	}
	lay_blocks(&l, &laid, frames, count);
	for (size_t i = 0, end; i < count; i = end) {
		end = i + 1;
		while (end < count && frames[end].gfn.v == frames[end - 1].gfn.v + 1)
			end++;
		lay_run(&l, &laid, frames, i, end);
	}
	free(laid.v);
	*ret = l;
	return 0;
}

void store_layout_done(struct store_layout *layout)
{
	free(layout->order);
	*layout = (struct store_layout){0};
}
