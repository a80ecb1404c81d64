/* SPDX-License-Identifier: Apache-2.0 */
/* Step 4 of the exact grouping: pages that share a hash but not their bytes, told apart by sorting. */
#include <errno.h>
#include <string.h>

#include "ksm/dedup-internal.h"

int collisions_add(struct collisions *c, struct collision add)
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
		c->v[c->count++] = add;
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

static bool is_lost(const struct sorter *s, uint32_t page)
{
	return dedup_bit(s->d->missing, page);
}

/* Reads a page; one that cannot be read (any more) is lost. */
static bool read_or_lose(struct sorter *s, uint32_t page, void *buf)
{
	if (is_lost(s, page))
		return false;
	if (!s->d->stopped && page_set_read(s->d->set, page, buf) == 0)
		return true;
	dedup_lose(s->d, page);
	return false;
}

/* Does x come before y by their bytes, or at the same place? A lost one comes at once, wherever that is: it is
 * skipped later, and out of the way it does not disturb the order of the others. */
static bool comes_first(struct sorter *s, uint32_t x, uint32_t y)
{
	if (work_stopped(s->control))
		s->d->stopped = true;
	if (!read_or_lose(s, x, s->a))
		return true;
	if (!read_or_lose(s, y, s->b))
		return false;
	return memcmp(s->a, s->b, s->d->set->page_bytes) <= 0;
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
		s->spare[out++] = comes_first(s, v[i].page, v[j].page) ? v[i++] : v[j++];
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

		if (!read_or_lose(s, page, s->a))
			continue;
		if (first && page_set_read(s->d->set, first - 1, s->b) < 0) {
			/* Equal to the one before or not, nobody can tell. */
			dedup_lose(s->d, page);
			continue;
		}
		/* Stable: the first of equal pages is the lowest. */
		if (!first || memcmp(s->a, s->b, s->d->set->page_bytes) != 0)
			first = page + 1;
		s->d->classes[page] = first;
	}
}

/* Pages whose first page could not be read are compared with it once more. Those that are equal leave the
 * list; when it cannot be read now either, they are lost. */
static void unread_settle(struct sorter *s, struct collisions *c)
{
	size_t kept = 0;

	for (size_t i = 0; i < c->count; i++) {
		struct collision x = c->v[i];

		if (x.unread) {
			if (page_set_read(s->d->set, x.cls - 1, s->b) < 0)
				dedup_lose(s->d, x.page);
			if (!read_or_lose(s, x.page, s->a) || memcmp(s->a, s->b, s->d->set->page_bytes) == 0)
				continue;
		}
		c->v[kept++] = x;
	}
	c->count = kept;
}

int dedup_resolve(struct dedup *d, struct collisions *c, const struct work_control *control)
{
	auto_free char *a = malloc(d->set->page_bytes);
	auto_free char *b = malloc(d->set->page_bytes);
	auto_free struct collision *spare = calloc(c->count + 1, sizeof(*spare));
	struct sorter s = {d, control, a, b, spare};

	if (!a || !b || !spare)
		return -ENOMEM;
	unread_settle(&s, c);
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
