/* SPDX-License-Identifier: Apache-2.0 */
/* Contents that somebody is to donate: who has promised, who waits, and who is told. */
#include <errno.h>
#include <string.h>

#include "ksm/store-internal.h"

/*
 * States of a content
 *
 *   new --record--> first seen --a twin--> pending --an offer--> in the index
 *
 * pending: one client has promised (its list), the others wait. A promise that is broken passes to the next who waits, by
 * an event; a content of which only one frame is left is first seen again. Nobody promised (an orphan): the event could not
 * be delivered, or promises were broken again and again; a tick tries again, and the next who asks is wanted.
 *
 * What has been donated leaves the table at once. If somebody who waits has no room for the event, the rest stays in the
 * list of late ones, which every call that changes something tries to deliver.
 */

static void list_add(struct store_pending_list *list, struct store_pending *p)
{
	p->next = NULL;
	p->prev = list->last;
	*(list->last ? &list->last->next : &list->first) = p;
	list->last = p;
}

static void list_remove(struct store_pending_list *list, struct store_pending *p)
{
	*(p->prev ? &p->prev->next : &list->first) = p->next;
	*(p->next ? &p->next->prev : &list->last) = p->prev;
	p->next = p->prev = NULL;
}

struct store_pending *store_pending_get(const struct store *s, uint64_t hash)
{
	return id_map_get(&s->pending, hash);
}

static size_t pending_bytes(const struct store_pending *p)
{
	return sizeof(*p) + (p->waiters == p->few ? 0 : p->room * sizeof(p->waiters[0]));
}

static struct store_pending *pending_new(uint64_t hash, uint64_t key)
{
	struct store_pending *p = calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	p->hash = hash;
	p->key = key;
	p->waiters = p->few;
	p->room = STORE_WAITERS_FEW;
	return p;
}

static void waits_for(struct store *s, store_owner_t owner, bool one_more)
{
	struct store_client *c = store_client_of(s, owner);

	if (c)
		c->waiting += one_more ? 1 : -(size_t)1;
}

/* Of no list and no table any more. */
static void pending_free(struct store *s, struct store_pending *p)
{
	for (size_t i = 0; i < p->waiting; i++)
		waits_for(s, p->waiters[i], false);
	if (p->waiters != p->few)
		free(p->waiters);
	free(p);
}

static bool has_room(struct store_pending *p)
{
	size_t room = 2 * p->room;
	store_owner_t *more;

	if (p->waiting < p->room)
		return true;
	more = realloc(p->waiters == p->few ? NULL : p->waiters, room * sizeof(*more));
	if (!more)
		return false;
	if (p->waiters == p->few)
		memcpy(more, p->few, sizeof(p->few));
	p->waiters = more;
	p->room = room;
	return true;
}

/* A client may ask again and again: it waits twice per frame at most. */
#define WAITERS_MORE 256u

static void wait_add(struct store *s, struct store_pending *p, store_owner_t owner)
{
	struct store_client *c = store_client_of(s, owner);

	for (size_t i = p->waiting < 8 ? 0 : p->waiting - 8; i < p->waiting; i++)
		if (p->waiters[i] == owner)
			return;
	if (!c || c->waiting >= 2 * c->config.frames + WAITERS_MORE || !has_room(p)) {
		s->stats.events_lost++;
		return;
	}
	p->waiters[p->waiting++] = owner;
	c->waiting++;
}

static void wait_remove(struct store *s, struct store_pending *p, size_t i)
{
	waits_for(s, p->waiters[i], false);
	p->waiting--;
	memmove(p->waiters + i, p->waiters + i + 1, (p->waiting - i) * sizeof(p->waiters[0]));
}

static void promise(struct store_pending *p, struct store_client *c, uint32_t frame, uint32_t submission)
{
	p->donor = c;
	p->donor_frame = frame;
	p->promised_at = submission;
	p->promised_ns = c->store->now_ns;
	list_add(&c->promised, p);
	atomic_fetch_add_explicit(&c->promises, 1, memory_order_relaxed);
}

static void unpromise(struct store_pending *p)
{
	list_remove(&p->donor->promised, p);
	atomic_fetch_sub_explicit(&p->donor->promises, 1, memory_order_relaxed);
	p->donor = NULL;
}

static bool make_pending(struct store *s, uint64_t hash, uint64_t key, struct store_pending **ret)
{
	struct store_pending *p = pending_new(hash, key);

	if (!p || id_map_put(&s->pending, hash, p) < 0) {
		free(p);
		return false;
	}
	*ret = p;
	return true;
}

enum store_answer_kind store_pending_ask(struct store_client *c, uint32_t frame, uint64_t hash, uint64_t key,
					 store_owner_t first)
{
	struct store *s = c->store;
	struct store_pending *p = store_pending_get(s, hash);

	if (!p) {
		if (!make_pending(s, hash, key, &p))
			return STORE_UNIQUE;
		if (first)
			wait_add(s, p, first);
		s->orphans++;
	}
	if (p->donor) {
		if (p->donor == c && p->donor_frame == frame)
			return STORE_WANTED;
		wait_add(s, p, c->base + frame);
		return STORE_WAIT;
	}
	for (size_t i = 0; i < p->waiting; i++) {
		if (p->waiters[i] == c->base + frame) {
			wait_remove(s, p, i);
			break;
		}
	}
	s->orphans--;
	promise(p, c, frame, c->submission);
	return STORE_WANTED;
}

/* Out of the table; it stays in memory. */
static void pending_take(struct store *s, struct store_pending *p)
{
	id_map_remove(&s->pending, p->hash);
	if (p->donor)
		unpromise(p);
	else
		s->orphans--;
}

/* Tell who waits. True when nobody is left. */
static bool deliver(struct store *s, struct store_pending *p)
{
	struct store_event e = {.kind = STORE_EVENT_FOUND,
				.key = p->key,
				.segment = p->place.segment->number,
				.page = p->place.page,
				.run = store_segment_run(p->place.segment, p->place.page)};
	size_t kept = 0;

	for (size_t i = 0; i < p->waiting; i++) {
		struct store_client *c = store_client_of(s, p->waiters[i]);
		int r = -ENOENT;

		if (c) {
			e.frame = (uint32_t)(p->waiters[i] - c->base);
			r = store_send(c, &e);
			if (r != -ENOSPC)
				c->waiting--;
		}
		if (r == -ENOSPC)
			p->waiters[kept++] = p->waiters[i];
	}
	p->waiting = kept;
	return kept == 0;
}

void store_pending_found(struct store *s, uint64_t hash, uint64_t key, struct store_place place,
			 struct store_client *offerer)
{
	struct store_pending *p = store_pending_get(s, hash);
	store_owner_t first = store_records_find(s, hash);
	struct store_client *donor;
	uint32_t donor_frame;

	if (!p && !first)
		return;
	if (first)
		store_records_remove(s, hash);
	if (p) {
		donor = p->donor;
		donor_frame = p->donor_frame;
		pending_take(s, p);
		if (donor && donor != offerer)
			wait_add(s, p, donor->base + donor_frame);
	} else {
		p = pending_new(hash, key);
		if (!p) {
			s->stats.events_lost++;
			return;
		}
	}
	if (first)
		wait_add(s, p, first);
	p->place = place;
	if (deliver(s, p))
		pending_free(s, p);
	else
		list_add(&s->late, p);
}

/* Ask the next who waits. */
static void pass_on(struct store *s, struct store_pending *p)
{
	struct store_event e = {.kind = STORE_EVENT_WANTED, .key = p->key};

	for (size_t i = 0; i < p->waiting; i++) {
		struct store_client *c = store_client_of(s, p->waiters[i]);

		if (!c)
			continue;
		e.frame = (uint32_t)(p->waiters[i] - c->base);
		if (store_send(c, &e) < 0)
			continue;
		wait_remove(s, p, i);
		s->orphans--;
		promise(p, c, e.frame, c->submission + 1);
		return;
	}
}

static void forget_outdated(struct store *s, struct store_pending *p)
{
	size_t kept = 0;

	for (size_t i = 0; i < p->waiting; i++) {
		if (store_owner_holds(s, p->waiters[i]))
			p->waiters[kept++] = p->waiters[i];
		else
			waits_for(s, p->waiters[i], false);
	}
	p->waiting = kept;
}

/* Without a donor: is it still one of several frames? */
static void settle(struct store *s, struct store_pending *p)
{
	forget_outdated(s, p);
	if (p->waiting > 1) {
		if (p->broken >= STORE_PROMISES_MAX && s->now_ns - p->promised_ns < STORE_PROMISE_NS)
			return;
		p->broken = p->broken < STORE_PROMISES_MAX ? p->broken : 0;
		pass_on(s, p);
		return;
	}
	pending_take(s, p);
	if (p->waiting && store_records_find(s, p->hash) == 0)
		store_records_add(s, p->hash, p->waiters[0]);
	pending_free(s, p);
}

static void promise_broken(struct store *s, struct store_pending *p)
{
	struct store_client *donor = p->donor;
	store_owner_t owner = donor->base + p->donor_frame;

	unpromise(p);
	s->orphans++;
	p->broken++;
	s->stats.promises_broken++;
	/* It may have it still, and did not get to it: it waits now. */
	if (store_owner_holds(s, owner))
		wait_add(s, p, owner);
	settle(s, p);
}

void store_promises_end(struct store_client *c, uint32_t before)
{
	while (c->promised.first && (int32_t)(c->promised.first->promised_at - before) < 0)
		promise_broken(c->store, c->promised.first);
}

void store_pending_deliver_late(struct store *s)
{
	struct store_pending *next;

	for (struct store_pending *p = s->late.first; p; p = next) {
		next = p->next;
		if (deliver(s, p)) {
			list_remove(&s->late, p);
			pending_free(s, p);
		}
	}
}

void store_pending_tick(struct store *s)
{
	store_pending_deliver_late(s);
	for (size_t i = 0; i < s->client_count; i++) {
		struct store_client *c = s->clients[i];

		while (c->promised.first && s->now_ns - c->promised.first->promised_ns > STORE_PROMISE_NS)
			promise_broken(s, c->promised.first);
	}
	/* Settling takes some out of the table: look at each slot until it stays. */
	for (size_t i = 0; s->orphans && i < s->pending.size;) {
		struct store_pending *p = s->pending.slots[i].value;
		size_t used = s->pending.used;

		if (p && !p->donor)
			settle(s, p);
		i += used == s->pending.used;
	}
}

static void forget_waiters(struct store_pending *p, store_owner_t first, store_owner_t end)
{
	size_t kept = 0;

	for (size_t i = 0; i < p->waiting; i++)
		if (p->waiters[i] < first || p->waiters[i] >= end)
			p->waiters[kept++] = p->waiters[i];
	p->waiting = kept;
}

void store_pending_drop_client(struct store_client *c)
{
	struct store *s = c->store;
	store_owner_t first = c->base, end = c->base + c->config.frames;
	struct store_pending *next, *p;

	for (size_t i = 0; i < s->pending.size; i++)
		if (s->pending.slots[i].value)
			forget_waiters(s->pending.slots[i].value, first, end);
	for (p = s->late.first; p; p = next) {
		next = p->next;
		forget_waiters(p, first, end);
	}
	store_pending_deliver_late(s); /* those of which nobody is left */
	while ((p = c->promised.first)) {
		unpromise(p);
		s->orphans++;
		settle(s, p);
	}
}

void store_pending_drop_segment(struct store *s, const struct store_segment *g)
{
	struct store_pending *next;

	for (struct store_pending *p = s->late.first; p; p = next) {
		next = p->next;
		if (p->place.segment != g)
			continue;
		list_remove(&s->late, p);
		s->stats.events_lost += p->waiting;
		pending_free(s, p);
	}
}

void store_pending_done(struct store *s)
{
	struct store_pending *p;

	for (size_t i = 0; i < s->pending.size; i++) {
		p = s->pending.slots[i].value;
		if (p)
			pending_free(s, p);
	}
	id_map_done(&s->pending);
	while ((p = s->late.first)) {
		list_remove(&s->late, p);
		pending_free(s, p);
	}
}

size_t store_pending_bytes(const struct store *s)
{
	size_t bytes = id_map_bytes(&s->pending);

	for (size_t i = 0; i < s->pending.size; i++)
		if (s->pending.slots[i].value)
			bytes += pending_bytes(s->pending.slots[i].value);
	for (const struct store_pending *p = s->late.first; p; p = p->next)
		bytes += pending_bytes(p);
	return bytes;
}
