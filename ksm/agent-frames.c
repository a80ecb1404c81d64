/* SPDX-License-Identifier: Apache-2.0 */
/* The memory agent's table: a byte per frame, a summary per 2 MiB, and the moves between states. */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "base/size.h"
#include "ksm/agent-internal.h"

int agent_grow(void **v, size_t *room, size_t want, size_t size)
{
	size_t more = *room ? *room : 64;
	void *p;

	if (want <= *room)
		return 0;
	while (more < want)
		more += more / 2;
	p = realloc(*v, more * size);
	if (!p)
		return -ENOMEM;
	*v = p;
	*room = more;
	return 0;
}

void agent_fit(void **v, size_t *room, size_t count, size_t size)
{
	void *p;

	if (*room - count < 64)
		return;
	p = count ? realloc(*v, count * size) : NULL;
	if (!p && count)
		return;
	if (!p)
		free(*v);
	*v = p;
	*room = count;
}

int agent_frames_init(struct agent *a)
{
	const struct agent_range *last = &a->ranges[a->range_count - 1];
	uint64_t end = last->first.v + last->frames, words;

	a->block_count = (end + BLOCK_FRAMES - 1) / BLOCK_FRAMES;
	words = a->block_count * BLOCK_FRAMES / 64;
	/* Of which only what is used takes memory: large ones are mappings. */
	a->frames = calloc(a->block_count, BLOCK_FRAMES);
	a->blocks = calloc(a->block_count, sizeof(*a->blocks));
	a->given = calloc(words, sizeof(*a->given));
	a->given_words = calloc((words + 63) / 64, sizeof(*a->given_words));
	if (!a->frames || !a->blocks || !a->given || !a->given_words ||
	    agent_room(&a->pending, a->block_count) < 0)
		return -ENOMEM;
	for (size_t i = 0; i < a->range_count; i++)
		a->frame_counts[PAGE_STATE_UNKNOWN] += a->ranges[i].frames;
	return 0;
}

void agent_frames_done(struct agent *a)
{
	free(a->frames);
	free(a->blocks);
	free(a->given);
	free(a->given_words);
	free(a->pending.v);
}

uint64_t agent_frames_bytes(const struct agent *a)
{
	return a->block_count * (BLOCK_FRAMES + sizeof(*a->blocks) + BLOCK_FRAMES / 8) +
	       a->pending.room * sizeof(*a->pending.v) + a->matches.room * sizeof(*a->matches.v) +
	       a->new_matches.room * sizeof(*a->new_matches.v) + a->extents.room * sizeof(*a->extents.v) +
	       a->wanted.room * sizeof(*a->wanted.v) + a->zeros.room * sizeof(*a->zeros.v);
}

static bool has_record(enum page_state s)
{
	return s == PAGE_STATE_CANDIDATE || s == PAGE_STATE_MATCHED;
}

static void count_in_block(struct agent_block *b, uint8_t byte, int by)
{
	switch ((enum page_state)(byte & FRAME_STATE)) {
	case PAGE_STATE_VOLATILE:
		if (!(byte & FRAME_BROKEN))
			b->pending = (uint16_t)(b->pending + by);
		break;
	case PAGE_STATE_SHARED:
		b->shared = (uint16_t)(b->shared + by);
		break;
	case PAGE_STATE_DROPPED:
	case PAGE_STATE_GIVEN:
		b->holes = (uint16_t)(b->holes + by);
		break;
	case PAGE_STATE_UNKNOWN:
	case PAGE_STATE_CANDIDATE:
	case PAGE_STATE_MATCHED:
	case PAGE_STATES:
		break;
	}
}

void agent_frame_move(struct agent *a, uint64_t frame, enum page_state to, uint8_t flags)
{
	struct agent_block *b = &a->blocks[frame / BLOCK_FRAMES];
	uint8_t old = a->frames[frame], new = (uint8_t)(to | flags);
	enum page_state from = (enum page_state)(old & FRAME_STATE);

	if (from != to) {
#ifdef SARDINE_DEV
		assert(page_state_may(from, to));
#endif
		a->moves[from][to]++;
		a->frame_counts[from]--;
		a->frame_counts[to]++;
		if (has_record(from) && !has_record(to))
			atomic_fetch_and_explicit(&a->recorded[frame / 64], ~((uint64_t)1 << frame % 64),
						  memory_order_relaxed);
	}
	count_in_block(b, old, -1);
	count_in_block(b, new, 1);
	a->frames[frame] = new;
}

void agent_block_list(struct agent *a, uint64_t block)
{
	if (a->blocks[block].listed)
		return;
	a->pending.v[a->pending.count++] = (uint32_t)block;
	a->blocks[block].listed = true;
}

/* The bit first, then its word's: whoever takes the word's bit finds the bit. */
void agent_discarded(struct agent *a, gfn_t first, uint64_t frames)
{
	uint64_t end = first.v + frames;

	if (!range_fits(first.v, frames, a->block_count * BLOCK_FRAMES))
		return;
	for (uint64_t f = first.v, next; f < end; f = next) {
		uint64_t word = f / 64, bits;

		next = (word + 1) * 64 < end ? (word + 1) * 64 : end;
		bits = (next - f == 64 ? UINT64_MAX : ((uint64_t)1 << (next - f)) - 1) << f % 64;
		atomic_fetch_or_explicit(&a->given[word], bits, memory_order_relaxed);
		atomic_fetch_or_explicit(&a->given_words[word / 64], (uint64_t)1 << word % 64,
					 memory_order_release); /* pairs with take_given */
	}
}

static void give(struct agent *a, uint64_t frame)
{
	switch (agent_frame_state(a, frame)) {
	case PAGE_STATE_DROPPED:
		agent_frame_move(a, frame, PAGE_STATE_GIVEN, 0);
		break;
	case PAGE_STATE_GIVEN:
		break;
	case PAGE_STATE_UNKNOWN:
	case PAGE_STATE_VOLATILE:
	case PAGE_STATE_CANDIDATE:
	case PAGE_STATE_MATCHED:
	case PAGE_STATE_SHARED:
	case PAGE_STATES:
		/* It may be filled again already; the scan that follows tells. */
		a->frames[frame] |= FRAME_GIVEN;
		break;
	}
}

void agent_frames_take_given(struct agent *a)
{
	size_t words = a->block_count * BLOCK_FRAMES / 64;

	for (size_t i = 0; i < (words + 63) / 64; i++) {
		uint64_t some;

		if (!atomic_load_explicit(&a->given_words[i], memory_order_relaxed))
			continue;
		some = atomic_exchange_explicit(&a->given_words[i], 0, memory_order_acquire);
		for (; some; some &= some - 1) {
			size_t word = i * 64 + (size_t)__builtin_ctzll(some);
			uint64_t bits = atomic_exchange_explicit(&a->given[word], 0, memory_order_relaxed);

			for (; bits; bits &= bits - 1)
				give(a, word * 64 + (uint64_t)__builtin_ctzll(bits));
		}
	}
}

static const struct agent_range *range_of(const struct agent *a, uint64_t frame)
{
	for (size_t i = 0; i < a->range_count; i++)
		if (frame >= a->ranges[i].first.v && frame - a->ranges[i].first.v < a->ranges[i].frames)
			return &a->ranges[i];
	return NULL;
}

uint64_t agent_frames_span(const struct agent *a, uint64_t frame, uint64_t end, hva_t *ret)
{
	const struct agent_range *range = range_of(a, frame);

	if (!range)
		return 0;
	if (end > range->first.v + range->frames)
		end = range->first.v + range->frames;
	if (a->view.ops->span(a->view.ctx, GFN(frame), end - frame, ret) < 0)
		return 0;
	return end - frame;
}

void agent_frames_forget_records(struct agent *a)
{
	for (uint64_t f = 0; f < a->block_count * BLOCK_FRAMES; f++)
		if (agent_frame_state(a, f) == PAGE_STATE_CANDIDATE) {
			agent_block_list(a, f / BLOCK_FRAMES);
			agent_frame_move(a, f, PAGE_STATE_VOLATILE, a->frames[f] & FRAME_GIVEN);
		}
}

void agent_frames_forget(struct agent *a)
{
	for (uint64_t f = 0; f < a->block_count * BLOCK_FRAMES; f++) {
		enum page_state s = agent_frame_state(a, f);

		if (s != PAGE_STATE_UNKNOWN)
			agent_frame_move(a, f, PAGE_STATE_UNKNOWN, 0);
		a->frames[f] = PAGE_STATE_UNKNOWN;
	}
	for (size_t i = 0; i < a->block_count; i++)
		a->blocks[i] = (struct agent_block){0};
	a->pending.count = 0;
	for (size_t i = 0; i < a->block_count * BLOCK_FRAMES / 64; i++)
		if (atomic_load_explicit(&a->given[i], memory_order_relaxed))
			atomic_store_explicit(&a->given[i], 0, memory_order_relaxed);
}
