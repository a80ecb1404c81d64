/* SPDX-License-Identifier: Apache-2.0 */
/* First-seen frames: which frame had a content first that has no twin so far, in one word each. */
#include <errno.h>
#include <string.h>

#include "ksm/store-internal.h"

/*
 * Theory of operation
 *
 * A content is a place x of 36 bits (the top of its hash), or its other place y: the upper 20 bits changed by what the
 * lower 16 say, so that each gives the other. Buckets of eight words (a cache line) divide the places evenly: bucket i of
 * n has those from i * 2^36 / n on. A word holds the lower 28 bits of the place where it lies and 36 bits of the owner;
 * with at least 256 buckets there is just one place in a bucket with these lower bits. So a word says exactly which
 * two places it may have, for any number of buckets: the table grows by an eighth at a time, not by doubling, and costs
 * 8.9 to 10 bytes per record (load 0.9 to 0.8). A false twin: one in 2^35 per record that is there.
 *
 * A word goes to the emptier of its buckets. If both are full one of the sixteen moves to its other bucket, if that has
 * room. If none can, one goes: first one that does not hold any more (its owner says so in a bitmap that the store
 * reads), else the oldest: one record in some 30,000 below the load at which the table grows. Words of a bucket are
 * packed, oldest first.
 *
 * Before it grows, the table drops what does not hold any more. It does not grow beyond the frames of all clients: what
 * is more than that is outdated.
 */
#define PLACE_BITS 36u
#define LOW_BITS   28u
#define LOW_MASK   (((uint64_t)1 << LOW_BITS) - 1)
#define OWNER_MASK (((uint64_t)1 << STORE_OWNER_BITS) - 1)
/* 4 TiB without a twin: products of places and buckets fit 64 bits. */
#define FRAMES_BOUND ((uint64_t)1 << 30)
#define BUCKETS_MIN  (1u << (PLACE_BITS - LOW_BITS))

_Static_assert(LOW_BITS + STORE_OWNER_BITS == 64, "a word is full");

static uint64_t place_of(uint64_t hash)
{
	return hash >> (64 - PLACE_BITS);
}

static uint64_t other_place(uint64_t place)
{
	uint64_t change = ((place & 0xffff) + 1) * 0x9e3779b97f4a7c15u >> 44;

	return place ^ change << 16;
}

static size_t bucket_of(const struct store_records *r, uint64_t place)
{
	return (size_t)(place * r->buckets >> PLACE_BITS);
}

static uint64_t first_place(const struct store_records *r, size_t b)
{
	return (((uint64_t)b << PLACE_BITS) + r->buckets - 1) / r->buckets;
}

/* The place of a word in the bucket whose first place is @first. */
static uint64_t place_in(uint64_t first, uint64_t word)
{
	return first + (((word >> STORE_OWNER_BITS) - first) & LOW_MASK);
}

static uint64_t *bucket(const struct store_records *r, size_t b)
{
	return r->slots + b * STORE_BUCKET;
}

static unsigned used(const uint64_t *words)
{
	unsigned n = 0;

	while (n < STORE_BUCKET && words[n])
		n++;
	return n;
}

static void take_out(uint64_t *words, unsigned i)
{
	memmove(words + i, words + i + 1, (STORE_BUCKET - 1 - i) * sizeof(*words));
	words[STORE_BUCKET - 1] = 0;
}

/* True when there was room. */
static bool append(uint64_t *words, uint64_t place, store_owner_t owner)
{
	unsigned n = used(words);

	if (n == STORE_BUCKET)
		return false;
	words[n] = place << STORE_OWNER_BITS | owner;
	return true;
}

/* True when a word of bucket @b moved to its other bucket. */
static bool make_room(const struct store_records *r, size_t b)
{
	uint64_t *words = bucket(r, b), first = first_place(r, b);

	for (unsigned i = 0; i < STORE_BUCKET; i++) {
		uint64_t other = other_place(place_in(first, words[i]));

		if (bucket_of(r, other) != b &&
		    append(bucket(r, bucket_of(r, other)), other, words[i] & OWNER_MASK)) {
			take_out(words, i);
			return true;
		}
	}
	return false;
}

static bool try_add(const struct store_records *r, uint64_t place, store_owner_t owner)
{
	uint64_t other = other_place(place);
	size_t a = bucket_of(r, place), b = bucket_of(r, other);

	if (used(bucket(r, b)) < used(bucket(r, a)))
		return append(bucket(r, b), other, owner);
	if (append(bucket(r, a), place, owner))
		return true;
	if (make_room(r, a))
		return append(bucket(r, a), place, owner);
	return make_room(r, b) && append(bucket(r, b), other, owner);
}

static size_t buckets_for(size_t entries)
{
	size_t n = (entries * 10 / 8 + STORE_BUCKET - 1) / STORE_BUCKET; /* a load of 0.8 */

	return n < BUCKETS_MIN ? BUCKETS_MIN : n;
}

static bool is_full(const struct store_records *r)
{
	return 10 * (r->entries + 1) > 9 * r->buckets * STORE_BUCKET;
}

static int table_init(struct store_records *r, size_t buckets)
{
	uint64_t *slots = calloc(buckets, STORE_BUCKET * sizeof(*slots));

	if (!slots)
		return -ENOMEM;
	*r = (struct store_records){.slots = slots, .buckets = buckets};
	return 0;
}

/* Into a table of another size. Return: 0 or -ENOMEM, with nothing changed. */
static int resize(struct store *s, size_t buckets)
{
	struct store_records *old = &s->records, r;
	int err = table_init(&r, buckets);

	if (err < 0)
		return err;
	for (size_t b = 0; b < old->buckets; b++) {
		const uint64_t *words = bucket(old, b);
		uint64_t first = first_place(old, b);

		for (unsigned i = 0; i < STORE_BUCKET && words[i]; i++) {
			uint64_t place = place_in(first, words[i]);
			store_owner_t owner = words[i] & OWNER_MASK;

			/* Places rise with b, so that this writes in order. */
			if (append(bucket(&r, bucket_of(&r, place)), place, owner) ||
			    try_add(&r, place, owner))
				r.entries++;
			else
				s->stats.records_evicted++;
		}
	}
	free(old->slots);
	r.patience = old->patience;
	*old = r;
	return 0;
}

int store_records_init(struct store *s)
{
	return table_init(&s->records, BUCKETS_MIN);
}

void store_records_done(struct store *s)
{
	free(s->records.slots);
	s->records = (struct store_records){0};
}

static uint64_t *word_of(const struct store_records *r, uint64_t hash)
{
	uint64_t places[2] = {place_of(hash), other_place(place_of(hash))};

	for (unsigned k = 0; k < 2; k++) {
		uint64_t *words = bucket(r, bucket_of(r, places[k]));

		for (unsigned i = 0; i < STORE_BUCKET && words[i]; i++)
			if (words[i] >> STORE_OWNER_BITS == (places[k] & LOW_MASK))
				return words + i;
	}
	return NULL;
}

store_owner_t store_records_find(const struct store *s, uint64_t hash)
{
	const uint64_t *word = word_of(&s->records, hash);

	return word ? *word & OWNER_MASK : 0;
}

static void drop(struct store_records *r, uint64_t *word)
{
	size_t i = (size_t)(word - r->slots);

	take_out(bucket(r, i / STORE_BUCKET), i % STORE_BUCKET);
	r->entries--;
}

void store_records_remove(struct store *s, uint64_t hash)
{
	uint64_t *word = word_of(&s->records, hash);

	if (word)
		drop(&s->records, word);
}

/* Drop what belongs to [first, end), or with @end 0 what does not hold. */
static size_t sweep(struct store *s, store_owner_t first, store_owner_t end)
{
	struct store_records *r = &s->records;
	size_t dropped = 0;

	for (size_t b = 0; b < r->buckets; b++) {
		uint64_t *words = bucket(r, b);
		unsigned kept = 0, i;

		for (i = 0; i < STORE_BUCKET && words[i]; i++) {
			store_owner_t owner = words[i] & OWNER_MASK;

			if (end ? owner < first || owner >= end : store_owner_holds(s, owner))
				words[kept++] = words[i];
		}
		dropped += i - kept;
		while (kept < i)
			words[kept++] = 0;
	}
	r->entries -= dropped;
	return dropped;
}

/* Room for one more, unless memory or the bound forbids. */
static void grow(struct store *s)
{
	struct store_records *r = &s->records;
	size_t bound = buckets_for(s->frames < FRAMES_BOUND ? s->frames : FRAMES_BOUND);

	/* If that does not help, not at every record. */
	r->patience = r->buckets / 2;
	s->stats.records_evicted += sweep(s, 0, 0);
	if (20 * r->entries < 17 * r->buckets * STORE_BUCKET) /* a load of 0.85: not soon again */
		return;
	if (r->buckets < bound)
		(void)!resize(s, r->buckets + r->buckets / 8 < bound ? r->buckets + r->buckets / 8 : bound);
}

/* The word to give up for one with these places. */
static uint64_t *victim(const struct store *s, uint64_t place)
{
	const struct store_records *r = &s->records;
	size_t buckets[2] = {bucket_of(r, place), bucket_of(r, other_place(place))};

	for (unsigned k = 0; k < 2; k++)
		for (unsigned i = 0; i < STORE_BUCKET; i++)
			if (!store_owner_holds(s, bucket(r, buckets[k])[i] & OWNER_MASK))
				return bucket(r, buckets[k]) + i;
	return bucket(r, buckets[0]);
}

void store_records_add(struct store *s, uint64_t hash, store_owner_t owner)
{
	struct store_records *r = &s->records;
	uint64_t place = place_of(hash);

	if (r->patience)
		r->patience--;
	else if (is_full(r))
		grow(s);
	if (!try_add(r, place, owner)) {
		drop(r, victim(s, place));
		s->stats.records_evicted++;
		if (!try_add(r, place, owner))
			return; /* cannot be: there is a free word */
	}
	r->entries++;
}

void store_records_purge(struct store *s, store_owner_t first, store_owner_t end)
{
	sweep(s, first, end);
	if (s->records.buckets > BUCKETS_MIN && s->records.buckets > 2 * buckets_for(s->records.entries))
		(void)!resize(s, buckets_for(s->records.entries));
}

size_t store_records_bytes(const struct store *s)
{
	return s->records.buckets * STORE_BUCKET * sizeof(uint64_t);
}
