/* SPDX-License-Identifier: Apache-2.0 */
/* Which pages of segments are mapped, by whom, and how often. */
#include <errno.h>

#include "base/size.h"
#include "ksm/store-internal.h"

/*
 * Counts are what clients say, and decide nothing but when a segment is let go or moved and whether a page gets another
 * mapping: a client that lies wastes memory of its own domain, for as long as it is there.
 *
 * A client's count of a page is a byte that stays at its maximum once it got there, until the client goes: one that maps
 * a page more than 254 times is not asked to remember it exactly. The total of a page is the sum over the clients; at
 * its maximum it is not changed any more but counted anew, from the clients' counts.
 */

static struct store_refs *refs_of(struct store_client *c, struct store_segment *g, bool make)
{
	struct store_refs *refs = id_map_get(&c->refs, g->number);

	if (refs || !make)
		return refs;
	refs = calloc(1, sizeof(*refs) + g->pages);
	if (!refs || id_map_put(&c->refs, g->number, refs) < 0) {
		free(refs);
		return NULL;
	}
	refs->client = c;
	refs->segment = g;
	refs->next = g->refs;
	g->refs = refs;
	c->store->stats.index_bytes += sizeof(*refs) + g->pages;
	return refs;
}

void store_refs_free(struct store *s, struct store_refs *refs)
{
	struct store_refs **at = &refs->segment->refs;

	while (*at != refs)
		at = &(*at)->next;
	*at = refs->next;
	s->stats.index_bytes -= sizeof(*refs) + refs->segment->pages;
	free(refs);
}

static void total_set(struct store_segment *g, uint32_t page, uint64_t total)
{
	atomic_store_explicit(&g->totals[page], (uint16_t)(total < UINT16_MAX ? total : UINT16_MAX),
			      memory_order_relaxed);
}

static uint64_t total_counted(const struct store_segment *g, uint32_t page)
{
	uint64_t total = 0;

	for (const struct store_refs *r = g->refs; r; r = r->next)
		total += r->counts[page];
	return total;
}

static void add(struct store *s, struct store_refs *refs, uint32_t page)
{
	struct store_segment *g = refs->segment;
	uint32_t total = store_segment_total(g, page);

	if (refs->counts[page] == UINT8_MAX)
		return;
	refs->pages += refs->counts[page]++ == 0;
	s->stats.mappings++;
	g->live += total == 0;
	total_set(g, page, (uint64_t)total + 1);
}

/* Take @count of the client's references away; its count is at least that. */
static void sub(struct store *s, struct store_refs *refs, uint32_t page, uint8_t count)
{
	struct store_segment *g = refs->segment;
	uint32_t total = store_segment_total(g, page);

	refs->counts[page] = (uint8_t)(refs->counts[page] - count);
	refs->pages -= refs->counts[page] == 0;
	s->stats.mappings -= count;
	total_set(g, page, total == UINT16_MAX ? total_counted(g, page) : total - count);
	g->live -= store_segment_total(g, page) == 0;
}

static int change(struct store_client *c, struct store_segment *g, uint32_t page, uint32_t pages, int delta)
{
	struct store_refs *refs;

	if (!range_fits(page, pages, g->pages) || pages == 0 || (delta != 1 && delta != -1))
		return -EINVAL;
	refs = refs_of(c, g, delta > 0);
	if (!refs)
		return delta > 0 ? -ENOMEM : -EINVAL;
	if (delta < 0)
		for (uint32_t i = page; i < page + pages; i++)
			if (refs->counts[i] == 0)
				return -EINVAL;
	for (uint32_t i = page; i < page + pages; i++) {
		if (delta > 0)
			add(c->store, refs, i);
		else if (refs->counts[i] < UINT8_MAX)
			sub(c->store, refs, i, 1);
	}
	if (refs->pages == 0) {
		id_map_remove(&c->refs, g->number);
		store_refs_free(c->store, refs);
	}
	return 0;
}

int store_refs(struct store_client *c, uint32_t segment, uint32_t page, uint32_t pages, int delta)
{
	struct store *s = c->store;
	struct store_segment *g;
	int r;

	pthread_mutex_lock(&s->lock);
	g = store_segment_get(s, segment);
	r = g ? change(c, g, page, pages, delta) : -ENOENT;
	pthread_mutex_unlock(&s->lock);
	if (r == -EINVAL)
		atomic_fetch_add_explicit(&s->counters.refused, 1, memory_order_relaxed);
	return r;
}

void store_refs_drop_client(struct store_client *c)
{
	for (size_t i = 0; i < c->refs.size; i++) {
		struct store_refs *refs = c->refs.slots[i].value;

		if (!refs)
			continue;
		for (uint32_t p = 0; p < refs->segment->pages; p++)
			if (refs->counts[p])
				sub(c->store, refs, p, refs->counts[p]);
		store_refs_free(c->store, refs);
	}
	id_map_done(&c->refs);
}
