/* SPDX-License-Identifier: Apache-2.0 */
/* Which contents lie in which pages of which segments. */
#include <errno.h>

#include "ksm/store-internal.h"

/*
 * Theory of operation
 *
 * A table of words with linear probing: 24 bits of the hash, the number of a segment, the number of a page. The whole key is
 * in the segment's array; a lookup compares it there. The word costs 8 bytes at a load between 0.64 and 0.8, the key 8,
 * the count of references 2: some 22 bytes per page.
 *
 * Readers look up inside a read section of userspace RCU and wait for nobody. Writers hold the lock of the store. A
 * word is written at once, so a reader sees the old entry or the new one. An entry that is taken out leaves a tombstone
 * (unless the next slot is free), so that a reader never stops short. A table that is full is copied into a larger one,
 * which is published with release; readers of the old one miss nothing that was there when they entered. The old table,
 * segments that are let go and their keys are freed after a grace period.
 *
 * A reader may miss what is added while it reads, and find what is taken out: answers are hints. Under the lock a
 * lookup is exact.
 *
 * Rejected: the library's own hash table (cds_lfht). Its nodes, with their key and place, and its buckets cost some 48
 * bytes per page; it aborts the process when memory is short; and it starts threads of its own when it grows beyond
 * 8,192 buckets, which a thread under a system call filter may not.
 */
#define TAG_SHIFT (STORE_SEGMENT_BITS + STORE_PAGE_BITS)
#define SIZE_MIN  512u
#define EMPTY	  0u
#define TOMB	  1u /* segment 0, which no segment is */

_Static_assert(TAG_SHIFT + 24 == 64, "a word is full");

static uint64_t word_of(uint64_t hash, struct store_place to)
{
	return hash << TAG_SHIFT | (uint64_t)to.segment->number << STORE_PAGE_BITS | to.page;
}

static uint32_t word_segment(uint64_t word)
{
	return (uint32_t)(word >> STORE_PAGE_BITS) & STORE_SEGMENTS_MAX;
}

static uint32_t word_page(uint64_t word)
{
	return (uint32_t)word & ((1u << STORE_PAGE_BITS) - 1);
}

static struct store_index_table *table_new(size_t size)
{
	struct store_index_table *t = calloc(1, sizeof(*t) + size * sizeof(t->slots[0]));

	if (t)
		t->size = size;
	return t;
}

int store_index_init(struct store *s)
{
	struct store_index_table *t = table_new(SIZE_MIN);

	if (!t)
		return -ENOMEM;
	atomic_store_explicit(&s->index.table, t, memory_order_release);
	return 0;
}

void store_index_done(struct store *s)
{
	free(atomic_load_explicit(&s->index.table, memory_order_relaxed));
	atomic_store_explicit(&s->index.table, NULL, memory_order_relaxed);
}

/* The slot of @hash, or SIZE_MAX; its place goes to @ret. */
static size_t find(struct store *s, struct store_index_table *t, uint64_t hash, struct store_place *ret)
{
	size_t i = store_scale(hash, t->size);

	for (size_t n = 0; n < t->size; n++) {
		/* Pairs with the release in store_index_set(): the segment's keys are there. */
		uint64_t word = atomic_load_explicit(&t->slots[i], memory_order_acquire);

		if (word == EMPTY)
			return SIZE_MAX;
		if (word != TOMB && (word ^ hash << TAG_SHIFT) >> TAG_SHIFT == 0) {
			struct store_segment *g = store_segment_get(s, word_segment(word));

			/* The number may be another segment's by now. */
			if (g && word_page(word) < g->pages && g->keys[word_page(word)] != 0 &&
			    store_hash(s, g->keys[word_page(word)]) == hash) {
				*ret = (struct store_place){g, word_page(word)};
				return i;
			}
		}
		i = i + 1 == t->size ? 0 : i + 1;
	}
	return SIZE_MAX;
}

bool store_index_find(struct store *s, uint64_t hash, struct store_place *ret)
{
	/* Pairs with the release in rebuild(). */
	struct store_index_table *t = atomic_load_explicit(&s->index.table, memory_order_acquire);

	return find(s, t, hash, ret) != SIZE_MAX;
}

/* Return: whether it took the place of a tombstone. */
static bool insert(struct store_index_table *t, uint64_t hash, uint64_t word)
{
	size_t i = store_scale(hash, t->size);
	uint64_t was;

	while ((was = atomic_load_explicit(&t->slots[i], memory_order_relaxed)) > TOMB)
		i = i + 1 == t->size ? 0 : i + 1;
	atomic_store_explicit(&t->slots[i], word, memory_order_release);
	return was == TOMB;
}

/* A table at a load of 0.64, for @wanted entries. */
static int rebuild(struct store *s, size_t wanted)
{
	struct store_index_table *old = atomic_load_explicit(&s->index.table, memory_order_relaxed), *t;
	size_t size = wanted + wanted / 16 * 9 + 1;

	t = table_new(size < SIZE_MIN ? SIZE_MIN : size);
	if (!t)
		return -ENOMEM;
	for (size_t i = 0; i < old->size; i++) {
		uint64_t word = atomic_load_explicit(&old->slots[i], memory_order_relaxed);
		struct store_segment *g = word > TOMB ? store_segment_get(s, word_segment(word)) : NULL;

		if (g)
			insert(t, store_hash(s, g->keys[word_page(word)]), word);
	}
	s->index.tombs = 0;
	atomic_store_explicit(&s->index.table, t, memory_order_release);
	store_discard(s, &old->garbage);
	return 0;
}

int store_index_reserve(struct store *s, size_t more)
{
	struct store_index_table *t = atomic_load_explicit(&s->index.table, memory_order_relaxed);
	size_t wanted = s->index.entries + more;

	return 5 * (wanted + s->index.tombs) <= 4 * t->size ? 0 : rebuild(s, wanted);
}

void store_index_trim(struct store *s)
{
	struct store_index_table *t = atomic_load_explicit(&s->index.table, memory_order_relaxed);

	if (t->size > SIZE_MIN && t->size > 4 * s->index.entries)
		(void)!rebuild(s, s->index.entries); /* else it stays large */
}

void store_index_set(struct store *s, uint64_t hash, struct store_place to)
{
	struct store_index_table *t = atomic_load_explicit(&s->index.table, memory_order_relaxed);
	struct store_place from;
	size_t i = find(s, t, hash, &from);

	if (i != SIZE_MAX) {
		atomic_store_explicit(&t->slots[i], word_of(hash, to), memory_order_release);
		return;
	}
	s->index.tombs -= insert(t, hash, word_of(hash, to));
	s->index.entries++;
}

void store_index_remove(struct store *s, uint64_t hash, struct store_place from)
{
	struct store_index_table *t = atomic_load_explicit(&s->index.table, memory_order_relaxed);
	struct store_place at;
	size_t i = find(s, t, hash, &at);
	size_t next = i + 1 == t->size ? 0 : i + 1;

	if (i == SIZE_MAX || at.segment != from.segment || at.page != from.page)
		return;
	s->index.entries--;
	if (atomic_load_explicit(&t->slots[next], memory_order_relaxed) == EMPTY) {
		atomic_store_explicit(&t->slots[i], EMPTY, memory_order_release);
		return;
	}
	atomic_store_explicit(&t->slots[i], TOMB, memory_order_release);
	s->index.tombs++;
}

size_t store_index_bytes(const struct store *s)
{
	return atomic_load_explicit(&s->index.table, memory_order_relaxed)->size * sizeof(uint64_t);
}
