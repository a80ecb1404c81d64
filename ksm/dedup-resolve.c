/* SPDX-License-Identifier: Apache-2.0 */
/* Step 4 of the exact grouping: pages that share a hash but not their bytes, told apart by sorting. */
#include <errno.h>
#include <string.h>

#include "ksm/dedup-internal.h"

int collisions_add(struct collisions *c, uint32_t cls, uint32_t page)
{
	int r = 0;

	pthread_mutex_lock(&c->lock);
	if (c->count == c->space) {
		size_t space = c->space ? c->space * 2 : 64;
		struct collision *v = realloc(c->v, space * sizeof(*v));

		if (v) {
			c->v = v;
			c->space = space;
		} else {
			r = -ENOMEM;
		}
	}
	if (r == 0)
		c->v[c->count++] = (struct collision){cls, page};
	pthread_mutex_unlock(&c->lock);
	return r;
}

static int collision_order(const void *a, const void *b)
{
	const struct collision *x = a, *y = b;

	if (x->cls != y->cls)
		return x->cls < y->cls ? -1 : 1;
	return x->page < y->page ? -1 : x->page > y->page;
}

struct sorter {
	struct dedup *d;
	const struct work_control *control;
	char *a, *b;
	struct collision *spare;
};

static void page_lost(struct dedup *d, uint32_t page)
{
	dedup_bit_set(d->missing, page);
	d->classes[page] = 0;
	d->keys[page] = 0;
}

/* Orders two pages by their bytes. Pages that cannot be read (any more) come last and differ from all. */
static int bytes_order(struct sorter *s, uint32_t x, uint32_t y)
{
	int bad_x, bad_y;

	/* From here on the order is wrong; that it was never finished is what counts. */
	if (work_stopped(s->control))
		s->d->stopped = true;
	if (s->d->stopped)
		return -1;
	bad_x = page_set_read(s->d->set, x, s->a) < 0;
	bad_y = page_set_read(s->d->set, y, s->b) < 0;
	if (bad_x || bad_y)
		return bad_x ? 1 : -1;
	return memcmp(s->a, s->b, s->d->set->page_bytes);
}

/* Merge sort: stable, and harmless when live pages change under it, which qsort() does not promise. */
static void bytes_sort(struct sorter *s, struct collision *v, size_t n)
{
	size_t half = n / 2, i = 0, j = half, out = 0;

	if (n < 2)
		return;
	bytes_sort(s, v, half);
	bytes_sort(s, v + half, n - half);
	while (i < half && j < n)
		s->spare[out++] = bytes_order(s, v[i].page, v[j].page) <= 0 ? v[i++] : v[j++];
	while (i < half)
		s->spare[out++] = v[i++];
	memcpy(v, s->spare, out * sizeof(*v));
}

/* Classes for the pages of one guessed class, sorted by their bytes. */
static void bytes_classes(struct sorter *s, const struct collision *v, size_t n)
{
	uint32_t first = 0;

	for (size_t i = 0; i < n; i++) {
		uint32_t page = v[i].page;

		if (s->d->stopped || page_set_read(s->d->set, page, s->a) < 0) {
			page_lost(s->d, page);
			continue;
		}
		/* Stable: the first of equal pages is the lowest. */
		if (!first || page_set_read(s->d->set, first - 1, s->b) < 0 ||
		    memcmp(s->a, s->b, s->d->set->page_bytes) != 0)
			first = page + 1;
		s->d->classes[page] = first;
	}
}

int dedup_resolve(struct dedup *d, struct collisions *c, const struct work_control *control)
{
	auto_free char *a = malloc(d->set->page_bytes);
	auto_free char *b = malloc(d->set->page_bytes);
	auto_free struct collision *spare = calloc(c->count + 1, sizeof(*spare));
	struct sorter s = {d, control, a, b, spare};

	if (!a || !b || !spare)
		return -ENOMEM;
	if (c->count)
		qsort(c->v, c->count, sizeof(*c->v), collision_order);
	for (size_t i = 0, n; i < c->count; i += n) {
		for (n = 1; i + n < c->count && c->v[i + n].cls == c->v[i].cls;)
			n++;
		if (work_stopped(control))
			d->stopped = true;
		bytes_sort(&s, c->v + i, n);
		bytes_classes(&s, c->v + i, n);
	}
	return 0;
}
