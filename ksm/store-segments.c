/* SPDX-License-Identifier: Apache-2.0 */
/* The segments that a store holds: their numbers, their keys, and their end. */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fs.h"
#include "ksm/store-internal.h"
#include "ksm/store-rcu.h"

/*
 * A segment has a number, which is not given to another one soon: numbers go up and start anew at the end. They lead to
 * segments through chunks of pointers, which readers follow without a lock; a chunk without segments is let go.
 *
 * Keys are computed by reading the file piece by piece, not by mapping it: no mapping, no page tables, and a hole in a file
 * that somebody brings stays a hole. Files are told apart by device and inode, which the kernel does not use again while
 * the store has the descriptor.
 */
#define PIECE_PAGES 16u

struct store_segment *store_segment_get(struct store *s, uint32_t number)
{
	struct store_chunk *chunk;

	if (number == 0 || number > STORE_SEGMENTS_MAX)
		return NULL;
	chunk = atomic_load_explicit(&s->chunks[number >> STORE_CHUNK_BITS], memory_order_acquire);
	if (!chunk)
		return NULL;
	/* Pairs with the release in publish(): its keys are there. */
	return atomic_load_explicit(&chunk->segments[number % STORE_CHUNK], memory_order_acquire);
}

uint32_t store_segment_run(const struct store_segment *g, uint32_t page)
{
	uint32_t end = page + 1;

	while (end < g->pages && g->keys[end] == g->keys[page])
		end++;
	return end - page;
}

uint32_t store_segment_total(const struct store_segment *g, uint32_t page)
{
	return atomic_load_explicit(&g->totals[page], memory_order_relaxed);
}

static size_t segment_bytes(uint32_t pages)
{
	return sizeof(struct store_segment) + pages * (sizeof(uint64_t) + sizeof(uint16_t));
}

static int read_keys(const struct store *s, struct store_segment *g, int fd)
{
	auto_free uint8_t *piece = malloc(PIECE_PAGES * PAGE_BYTES);

	if (!piece)
		return -ENOMEM;
	for (uint32_t first = 0; first < g->pages; first += PIECE_PAGES) {
		uint32_t n = g->pages - first < PIECE_PAGES ? g->pages - first : PIECE_PAGES;
		int r = pread_full(fd, piece, n * PAGE_BYTES, first * PAGE_BYTES);

		if (r < 0)
			return r;
		for (uint32_t i = 0; i < n; i++) {
			struct page_id id = page_identify(piece + i * PAGE_BYTES, PAGE_BYTES);
			uint64_t key = page_store_key(id) & s->key_mask;

			g->keys[first + i] = id.kind == PAGE_ZERO ? 0 : key;
		}
	}
	return 0;
}

int store_segment_new(struct store *s, int fd, uint32_t pages, struct store_segment **ret)
{
	auto_free struct store_segment *g = calloc(1, segment_bytes(pages));
	struct stat st;
	int r;

	if (!g)
		return -ENOMEM;
	if (fstat(fd, &st) < 0)
		return -errno;
	g->dev = st.st_dev;
	g->ino = st.st_ino;
	g->pages = pages;
	g->totals = (_Atomic uint16_t *)&g->keys[pages];
	r = read_keys(s, g, fd);
	if (r < 0)
		return r;
	g->fd = fd;
	*ret = TAKE_PTR(g);
	return 0;
}

void store_segment_free(struct store_segment *g)
{
	if (!g)
		return;
	close_fd_p(&g->fd);
	free(g);
}

bool store_room_for_segment(const struct store *s)
{
	uint64_t limit = s->segment_limit && s->segment_limit < STORE_SEGMENTS_MAX ? s->segment_limit
										   : STORE_SEGMENTS_MAX;

	return s->stats.segments + s->loans < limit;
}

static int set_pointer(struct store *s, uint32_t number, struct store_segment *g)
{
	_Atomic(struct store_chunk *) *at = &s->chunks[number >> STORE_CHUNK_BITS];
	struct store_chunk *chunk = atomic_load_explicit(at, memory_order_relaxed);

	if (!chunk) {
		chunk = calloc(1, sizeof(*chunk));
		if (!chunk)
			return -ENOMEM;
		atomic_store_explicit(at, chunk, memory_order_release);
	}
	atomic_store_explicit(&chunk->segments[number % STORE_CHUNK], g, memory_order_release);
	chunk->used += g ? 1 : -1u;
	if (chunk->used == 0) {
		atomic_store_explicit(at, NULL, memory_order_release);
		store_discard(s, &chunk->garbage);
	}
	return 0;
}

static uint32_t free_number(struct store *s)
{
	do {
		s->last_number = s->last_number == STORE_SEGMENTS_MAX ? 1 : s->last_number + 1;
	} while (store_segment_get(s, s->last_number));
	return s->last_number;
}

/* Memory files of one boot have one device; should there be more, their inodes are mixed with it. */
static uint64_t inode_id(const struct store_segment *g)
{
	return (uint64_t)g->ino ^ (uint64_t)g->dev << 44;
}

int store_segment_publish(struct store *s, struct store_segment **g)
{
	struct store_segment *known = id_map_get(&s->inodes, inode_id(*g));
	int r;

	if (known && known->dev == (*g)->dev && known->ino == (*g)->ino) {
		store_segment_free(*g);
		*g = known;
		return 0;
	}
	if (known || !store_room_for_segment(s))
		return -ENOSPC;
	r = id_map_put(&s->inodes, inode_id(*g), *g);
	if (r < 0)
		return r;
	(*g)->number = free_number(s);
	r = set_pointer(s, (*g)->number, *g);
	if (r < 0) {
		id_map_remove(&s->inodes, inode_id(*g));
		return r;
	}
	s->stats.segments++;
	s->stats.segment_pages += (*g)->pages;
	s->stats.index_bytes += segment_bytes((*g)->pages);
	return 0;
}

/* Whether page @page of @g is to be found rather than what the index has. */
static bool is_better(struct store *s, uint64_t hash, struct store_segment *g, uint32_t page)
{
	struct store_place have;

	if (!store_index_find(s, hash, &have))
		return true;
	if (have.segment->moved_to || store_segment_total(have.segment, have.page) >= STORE_MAPPINGS_MAX ||
	    store_segment_run(g, page) > store_segment_run(have.segment, have.page)) {
		g->has_copies = true;
		return true;
	}
	have.segment->has_copies = true;
	return false;
}

void store_segment_index(struct store *s, struct store_segment *g, struct store_client *offerer)
{
	for (uint32_t page = 0; page < g->pages; page += store_segment_run(g, page)) {
		struct store_place place = {g, page};
		uint64_t hash = store_hash(s, g->keys[page]);

		if (g->keys[page] == 0)
			continue;
		if (is_better(s, hash, g, page))
			store_index_set(s, hash, place);
		store_pending_found(s, hash, g->keys[page], place, offerer);
	}
}

int store_segment_reindex(struct store *s, struct store_segment *g)
{
	struct store_place have;
	int r = g->moved_to ? 0 : store_index_reserve(s, g->pages);

	for (uint32_t page = 0; r == 0 && !g->moved_to && page < g->pages; page++) {
		uint64_t hash = store_hash(s, g->keys[page]);

		if (g->keys[page] == 0 || store_segment_total(g, page) == 0 ||
		    store_index_find(s, hash, &have))
			continue;
		store_index_set(s, hash, (struct store_place){g, page});
		store_pending_found(s, hash, g->keys[page], (struct store_place){g, page}, NULL);
	}
	return r;
}

void store_segment_unindex(struct store *s, struct store_segment *g)
{
	s->lost_places |= g->has_copies;
	for (uint32_t page = 0; page < g->pages; page++)
		if (g->keys[page])
			store_index_remove(s, store_hash(s, g->keys[page]), (struct store_place){g, page});
}

void store_segment_drop(struct store *s, struct store_segment *g)
{
	store_move_end(g);
	store_segment_unindex(s, g);
	store_pending_drop_segment(s, g);
	while (g->refs) { /* none, unless all clients go */
		id_map_remove(&g->refs->client->refs, g->number);
		store_refs_free(s, g->refs);
	}
	id_map_remove(&s->inodes, inode_id(g));
	(void)!set_pointer(s, g->number, NULL); /* its chunk is there */
	s->stats.segments--;
	s->stats.segment_pages -= g->pages;
	s->stats.index_bytes -= segment_bytes(g->pages);
	close_fd_p(&g->fd);
	g->fd = -1;
	store_discard(s, &g->garbage);
}

void store_segment_drop_all(struct store *s)
{
	struct store_segment *g;

	for (g = store_segment_next(s, 0); g; g = store_segment_next(s, g->number))
		store_move_end(g);
	for (g = store_segment_next(s, 0); g; g = store_segment_next(s, g->number))
		store_segment_drop(s, g);
	store_index_trim(s);
}

struct store_segment *store_segment_next(struct store *s, uint32_t number)
{
	while (number < STORE_SEGMENTS_MAX) {
		struct store_segment *g;

		number++;
		if (!atomic_load_explicit(&s->chunks[number >> STORE_CHUNK_BITS], memory_order_relaxed)) {
			number |= STORE_CHUNK - 1;
			continue;
		}
		g = store_segment_get(s, number);
		if (g)
			return g;
	}
	return NULL;
}

void store_discard(struct store *s, struct store_garbage *garbage)
{
	garbage->next = s->garbage;
	s->garbage = garbage;
}

void store_reclaim(struct store *s)
{
	struct store_garbage *g;

	pthread_mutex_lock(&s->lock);
	g = TAKE_PTR(s->garbage);
	pthread_mutex_unlock(&s->lock);
	if (!g)
		return;
	store_synchronize(s);
	while (g) {
		struct store_garbage *next = g->next;

		free(g);
		g = next;
	}
}
