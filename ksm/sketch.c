/* SPDX-License-Identifier: Apache-2.0 */
/* Sketches: the smallest keys of a set (KMV, "k minimum values"), made and compared. */
#include "ksm/sketch.h"

#include <errno.h>
#include <math.h>
#include <string.h>

#include "ksm/dedup-internal.h"

/* Fill patterns have keys that are not hashes; one more mixing spreads them (the finaliser of MurmurHash3). */
static uint64_t key_mix(uint64_t key)
{
	key ^= key >> 33;
	key *= 0xff51afd7ed558ccdull;
	key ^= key >> 33;
	key *= 0xc4ceb9fe1a85ec53ull;
	return key ^ key >> 33;
}

static void heap_sink(uint64_t *heap, uint32_t count, uint32_t at)
{
	for (uint32_t child; (child = 2 * at + 1) < count; at = child) {
		uint64_t swap = heap[at];

		if (child + 1 < count && heap[child + 1] > heap[child])
			child++;
		if (heap[child] <= swap)
			return;
		heap[at] = heap[child];
		heap[child] = swap;
	}
}

/* Keeps the smallest keys; while adding, keys[] is a heap with the largest on top. */
static void sketch_add(struct sketch *s, uint64_t key)
{
	if (s->key_count < SKETCH_KEYS) {
		s->keys[s->key_count++] = key;
		if (s->key_count == SKETCH_KEYS)
			for (uint32_t i = SKETCH_KEYS / 2; i-- > 0;)
				heap_sink(s->keys, SKETCH_KEYS, i);
		return;
	}
	if (key >= s->keys[0])
		return;
	s->keys[0] = key;
	heap_sink(s->keys, SKETCH_KEYS, 0);
}

static int key_order(const void *a, const void *b)
{
	uint64_t x, y;

	memcpy(&x, a, sizeof(x));
	memcpy(&y, b, sizeof(y));
	return x < y ? -1 : x > y;
}

static void sketch_finish(struct sketch *s)
{
	qsort(s->keys, s->key_count, sizeof(s->keys[0]), key_order);
}

/* Adds the pages of one image. @latest[class - 1]: the last image that had it, 1 and up. */
static void image_sketch(const struct dedup *d, unsigned image_no, uint32_t *latest, struct sketch_file *f)
{
	const struct page_image *image = &d->set->images[image_no];
	struct sketch *s = &f->v[image_no];

	snprintf(s->name, sizeof(s->name), "%s", image->path);
	for (uint64_t page = image->first; page < image->first + image->pages; page++) {
		uint32_t cls = d->classes[page];

		if (cls == 0) {
			bool known = !dedup_bit(d->missing, page);

			s->pages += known;
			s->zero += known;
			continue;
		}
		s->pages++;
		s->nonzero++;
		if (latest[cls - 1] == image_no + 1)
			continue;
		s->distinct++;
		sketch_add(s, key_mix(d->keys[page]));
		if (latest[cls - 1] == 0) {
			f->all.distinct++;
			sketch_add(&f->all, key_mix(d->keys[page]));
		}
		latest[cls - 1] = image_no + 1;
	}
	sketch_finish(s);
	f->all.pages += s->pages;
	f->all.zero += s->zero;
	f->all.nonzero += s->nonzero;
}

int sketch_make(const struct dedup *d, struct sketch_file *ret)
{
	struct sketch_file f = {.page_bytes = (uint32_t)d->set->page_bytes, .count = d->set->image_count};
	uint64_t bytes = d->set->pages * sizeof(uint32_t);
	uint32_t *latest;

	if (f.count > SKETCHES_MAX)
		return -EFBIG;
	f.v = calloc(f.count, sizeof(*f.v));
	latest = big_alloc(bytes);
	if (!f.v || !latest) {
		big_free(latest, bytes);
		free(f.v);
		return -ENOMEM;
	}
	for (unsigned i = 0; i < f.count; i++)
		image_sketch(d, i, latest, &f);
	sketch_finish(&f.all);
	snprintf(f.all.name, sizeof(f.all.name), "all");
	big_free(latest, bytes);
	*ret = f;
	return 0;
}

void sketch_file_done(struct sketch_file *f)
{
	free(f->v);
	f->v = NULL;
	f->count = 0;
}

struct sketch_estimate sketch_compare(const struct sketch *a, const struct sketch *b)
{
	struct sketch_estimate e = {0};
	uint32_t i = 0, j = 0, seen = 0, both = 0;
	double n, contents = (double)a->distinct + (double)b->distinct;

	e.exact = a->key_count == a->distinct && b->key_count == b->distinct;
	while ((e.exact || seen < SKETCH_KEYS) && (i < a->key_count || j < b->key_count)) {
		bool in_a = i < a->key_count && (j >= b->key_count || a->keys[i] <= b->keys[j]);
		bool in_b = j < b->key_count && (i >= a->key_count || b->keys[j] <= a->keys[i]);

		both += in_a && in_b;
		seen++;
		i += in_a;
		j += in_b;
	}
	if (seen == 0)
		return (struct sketch_estimate){.exact = true};
	n = seen;
	e.similarity = both / n;
	if (!e.exact) {
		/* Of a sample, with half a hit more so that none found is not said to be certain. */
		double p = (both + 0.5) / (n + 1);

		e.similarity_error = sqrt(p * (1 - p) / n);
	}
	/* |A and B| = J |A or B|, and |A or B| = |A| + |B| - |A and B|. */
	e.shared = contents * e.similarity / (1 + e.similarity);
	e.shared_error = contents * e.similarity_error / ((1 + e.similarity) * (1 + e.similarity));
	return e;
}
