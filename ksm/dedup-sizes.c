/* SPDX-License-Identifier: Apache-2.0 */
/* Equal blocks of larger sizes, from the classes of pages, without reading anything again.
 *
 * Two blocks are equal exactly if their halves are. So a block of the next size is the pair of its halves'
 * numbers, equal pairs get the same number, and so on upwards: exact at each size, and cheap, as a pair with
 * a unique half is itself unique and needs no look-up. Blocks are aligned by address; a block that lacks a
 * page (at the end of a range, or missing) does not exist. */
#include <errno.h>
#include <string.h>

#include "base/addr.h"
#include "base/size.h"
#include "ksm/dedup-count.h"
#include "ksm/dedup-internal.h"

/* The number of a block's content. */
#define BLOCK_ZERO   0u
#define BLOCK_UNIQUE UINT32_MAX

/* Blocks with adjacent addresses. */
struct block_span {
	uint64_t at; /* in blocks[] */
	uint64_t blocks;
	uint64_t address; /* in blocks */
};

struct level {
	const struct dedup *d;
	const uint32_t *uses;
	uint32_t *blocks;
	struct block_span *spans;
	size_t span_count, span_space;
};

static int span_add(struct level *l, uint64_t at, uint64_t blocks, uint64_t address)
{
	if (l->span_count == l->span_space) {
		size_t space = l->span_space ? l->span_space * 2 : 64;
		struct block_span *v = realloc(l->spans, space * sizeof(*v));

		if (!v)
			return -ENOMEM;
		l->spans = v;
		l->span_space = space;
	}
	l->spans[l->span_count++] = (struct block_span){at, blocks, address};
	return 0;
}

/* The first level: a page's number is its class; spans end at missing pages. */
static int span_first(void *ctx, uint64_t first, uint64_t pages, uint64_t address)
{
	struct level *l = ctx;
	uint64_t from = first, end = first + pages;

	for (uint64_t page = first; page <= end; page++) {
		uint32_t cls;

		if (page == end || dedup_bit(l->d->missing, page)) {
			if (page > from && span_add(l, from, page - from, address + from - first) < 0)
				return -ENOMEM;
			from = page + 1;
			continue;
		}
		cls = l->d->classes[page];
		if (cls)
			l->blocks[page] = l->uses[cls - 1] == 1 ? BLOCK_UNIQUE : cls;
	}
	return 0;
}

struct pairs {
	uint64_t *keys; /* the two halves; distinct ones only */
	uint32_t *counts;
	uint32_t *slots; /* 1 + place in keys */
	uint64_t mask;
	uint64_t count;
};

static uint32_t pair_number(struct pairs *p, uint32_t a, uint32_t b)
{
	uint64_t key = (uint64_t)a << 32 | b, hash = key * 0x9e3779b97f4a7c15ull;
	uint64_t slot = (hash ^ hash >> 32) & p->mask;

	for (; p->slots[slot]; slot = (slot + 1) & p->mask) {
		if (p->keys[p->slots[slot] - 1] == key) {
			p->counts[p->slots[slot] - 1]++;
			return p->slots[slot];
		}
	}
	p->keys[p->count] = key;
	p->counts[p->count] = 1;
	p->slots[slot] = (uint32_t)++p->count;
	return p->slots[slot];
}

/* Blocks of twice the size that lie in a span. */
static struct block_span span_halved(const struct block_span *s)
{
	uint64_t skip = s->address & 1;

	if (s->blocks < skip + 2)
		return (struct block_span){s->at, 0, 0};
	return (struct block_span){s->at + skip, (s->blocks - skip) / 2, (s->address + skip) / 2};
}

static bool pair_is_open(const uint32_t *half)
{
	return half[0] != BLOCK_UNIQUE && half[1] != BLOCK_UNIQUE &&
	       !(half[0] == BLOCK_ZERO && half[1] == BLOCK_ZERO);
}

/* Writes the blocks of the next level over those of this one, which lie further back, and counts uses. */
static void spans_pair(struct level *l, struct pairs *p)
{
	uint64_t out = 0;
	size_t kept = 0;

	for (size_t i = 0; i < l->span_count; i++) {
		struct block_span s = span_halved(&l->spans[i]);
		uint64_t at = out;

		for (uint64_t b = 0; b < s.blocks; b++) {
			const uint32_t *half = &l->blocks[s.at + 2 * b];

			uint32_t number = BLOCK_ZERO;

			if (pair_is_open(half))
				number = pair_number(p, half[0], half[1]);
			else if (half[0] == BLOCK_UNIQUE || half[1] == BLOCK_UNIQUE)
				number = BLOCK_UNIQUE;
			if (l->blocks[out] != number) /* leaves the memory over holes untouched */
				l->blocks[out] = number;
			out++;
		}
		if (s.blocks)
			l->spans[kept++] = (struct block_span){at, s.blocks, s.address};
	}
	l->span_count = kept;
	for (uint64_t b = 0; b < out; b++)
		if (l->blocks[b] != BLOCK_ZERO && l->blocks[b] != BLOCK_UNIQUE &&
		    p->counts[l->blocks[b] - 1] == 1)
			l->blocks[b] = BLOCK_UNIQUE;
}

static int level_up(struct level *l)
{
	uint64_t open = 0, slots = 16;
	struct pairs p = {0};
	int r = -ENOMEM;

	for (size_t i = 0; i < l->span_count; i++) {
		struct block_span s = span_halved(&l->spans[i]);

		for (uint64_t b = 0; b < s.blocks; b++)
			open += pair_is_open(&l->blocks[s.at + 2 * b]);
	}
	while (slots < open + open / 2)
		slots *= 2;
	p.mask = slots - 1;
	p.keys = big_alloc(open * sizeof(*p.keys));
	p.counts = big_alloc(open * sizeof(*p.counts));
	p.slots = big_alloc(slots * sizeof(*p.slots));
	if (p.keys && p.counts && p.slots) {
		spans_pair(l, &p);
		r = 0;
	}
	big_free(p.keys, open * sizeof(*p.keys));
	big_free(p.counts, open * sizeof(*p.counts));
	big_free(p.slots, slots * sizeof(*p.slots));
	return r;
}

/* A number that is not unique occurs at least twice; the first time it is met makes a content. The marks lie
 * in a bitmap over numbers, which are below 2^32 and mostly dense. */
static void level_count(const struct level *l, uint64_t *seen, struct count_size *c)
{
	for (size_t i = 0; i < l->span_count; i++) {
		const struct block_span *s = &l->spans[i];

		c->blocks += s->blocks;
		for (uint64_t b = 0; b < s->blocks; b++) {
			uint32_t number = l->blocks[s->at + b];

			if (number == BLOCK_ZERO) {
				c->zero++;
				continue;
			}
			if (number == BLOCK_UNIQUE) {
				c->distinct++;
				continue;
			}
			c->duplicate++;
			if (!dedup_bit(seen, number)) {
				dedup_bit_set(seen, number);
				c->distinct++;
			}
		}
	}
	c->saved = c->blocks - c->zero - c->distinct;
}

static int levels_run(struct level *l, struct count_size *ret, unsigned *ret_count)
{
	uint64_t seen_bytes = (l->d->set->pages / 64 + 2) * 8;
	unsigned count = 0;

	for (uint64_t bytes = l->d->set->page_bytes; bytes <= HUGE_PAGE_BYTES; bytes *= 2) {
		uint64_t *seen;

		if (count && level_up(l) < 0)
			return -ENOMEM;
		seen = big_alloc(seen_bytes);
		if (!seen)
			return -ENOMEM;
		ret[count] = (struct count_size){.block_bytes = bytes};
		level_count(l, seen, &ret[count++]);
		big_free(seen, seen_bytes);
	}
	*ret_count = count;
	return 0;
}

int dedup_count_sizes(const struct dedup *d, const uint32_t *uses, struct count_size *ret,
		      unsigned *ret_count)
{
	struct level l = {.d = d, .uses = uses};
	uint64_t bytes = d->set->pages * sizeof(*l.blocks);
	int r = -ENOMEM;

	l.blocks = big_alloc(bytes);
	if (l.blocks) {
		r = page_set_spans(d->set, span_first, &l);
		if (r == 0)
			r = levels_run(&l, ret, ret_count);
	}
	big_free(l.blocks, bytes);
	free(l.spans);
	return r;
}
