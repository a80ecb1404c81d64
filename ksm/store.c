/* SPDX-License-Identifier: Apache-2.0 */
/* The page store of one sharing domain: its making and its end, submissions, figures. */
#include "ksm/store.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/random.h>

#include "ksm/store-internal.h"
#include "ksm/store-rcu.h"

/*
 * Theory of operation
 *
 * A content (a key) is in one of four states: unknown; first seen, by one frame (store-records.c); pending, when there is a
 * twin that somebody is to donate (store-pending.c); in the index, when it lies in a segment (store-index.c).
 *
 * Locks: one mutex for everything that changes. A submission looks its records up without it, in a read section of
 * userspace RCU (store-rcu.h), and takes it only for what was not found. Bytes of segments are read, and moved, without
 * it. store_tick() has a second one, taken before it, so that a segment that is being moved stays.
 *
 * A page with STORE_MAPPINGS_MAX references is not handed out any more. The next who asks is wanted, as for a new twin;
 * the copy is what the index leads to from then on.
 *
 * Nothing here keeps a page alive or lets it die: the kernel does, by the descriptors and mappings that clients have.
 */

static int secret_make(struct store *s)
{
	if (getrandom(s->secret, sizeof(s->secret), 0) != (ssize_t)sizeof(s->secret))
		return -EIO;
	s->secret[1] |= 1;
	return 0;
}

int store_new(const struct store_config *config, struct errmsg *err, struct store **ret)
{
	cleanup(store_free_p) struct store *s = calloc(1, sizeof(*s));
	int r;

	if (!s)
		return errmsg_set(err, -ENOMEM, "page store: out of memory");
	pthread_mutex_init(&s->lock, NULL);
	pthread_mutex_init(&s->tick_lock, NULL);
	s->key_mask = config->key_mask ? config->key_mask : UINT64_MAX;
	s->evacuate_after_ns = config->evacuate_after_ns ? config->evacuate_after_ns : STORE_EVACUATE_NS;
	s->segment_limit = config->segment_limit;
	r = secret_make(s);
	if (r < 0)
		return errmsg_set(err, r, "page store: no random numbers: %s", strerror(errno));
	r = store_index_init(s);
	if (r == 0)
		r = store_records_init(s);
	if (r < 0)
		return errmsg_set(err, r, "page store: out of memory");
	*ret = TAKE_PTR(s);
	return 0;
}

void store_free(struct store *s)
{
	if (!s)
		return;
	/* The segments went with the last client. */
	store_pending_done(s);
	store_reclaim(s);
	store_records_done(s);
	store_index_done(s);
	id_map_done(&s->inodes);
	free(s->clients);
	pthread_mutex_destroy(&s->tick_lock);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

static void answer_found(struct store_answer *a, struct store_place place)
{
	*a = (struct store_answer){.kind = STORE_FOUND,
				   .segment = place.segment->number,
				   .page = place.page,
				   .run = store_segment_run(place.segment, place.page)};
}

static bool has_mappings_left(struct store_place place)
{
	return store_segment_total(place.segment, place.page) < STORE_MAPPINGS_MAX;
}

/* Look all up without the lock. Return: how many were not found; their kind is STORE_ANSWERS. */
static size_t look_up(struct store *s, const struct store_record *records, size_t count,
		      struct store_answer *answers)
{
	size_t missed = 0;

	store_read_lock();
	for (size_t i = 0; i < count; i++) {
		struct store_place place;

		answers[i] = (struct store_answer){.kind = STORE_ANSWERS};
		if (store_index_find(s, store_hash(s, records[i].key & s->key_mask), &place) &&
		    has_mappings_left(place))
			answer_found(&answers[i], place);
		else
			missed++;
	}
	store_read_unlock(s);
	return missed;
}

/* Under the lock. */
static void ask(struct store_client *c, const struct store_record *rec, struct store_answer *a)
{
	struct store *s = c->store;
	uint64_t key = rec->key & s->key_mask, hash = store_hash(s, key);
	store_owner_t owner = c->base + rec->frame, first = 0;
	struct store_place place;
	bool indexed = store_index_find(s, hash, &place);

	if (indexed && has_mappings_left(place)) {
		answer_found(a, place);
		return;
	}
	if (!indexed && !store_pending_get(s, hash)) {
		first = store_records_find(s, hash);
		if (!first || first == owner || !store_owner_holds(s, first)) {
			if (first)
				store_records_remove(s, hash);
			store_records_add(s, hash, owner);
			a->kind = STORE_UNIQUE;
			return;
		}
	}
	a->kind = store_pending_ask(c, rec->frame, hash, key, first);
	if (first && a->kind != STORE_UNIQUE)
		store_records_remove(s, hash);
}

static bool is_valid(const struct store_client *c, const struct store_record *records, size_t count)
{
	if (count > STORE_BATCH_MAX)
		return false;
	for (size_t i = 0; i < count; i++)
		if (records[i].frame >= c->config.frames || records[i].reserved)
			return false;
	return true;
}

static void count_answers(struct store *s, const struct store_answer *answers, size_t count)
{
	uint64_t n[STORE_ANSWERS] = {0};

	for (size_t i = 0; i < count; i++)
		n[answers[i].kind]++;
	atomic_fetch_add_explicit(&s->counters.submitted, count, memory_order_relaxed);
	atomic_fetch_add_explicit(&s->counters.found, n[STORE_FOUND], memory_order_relaxed);
	atomic_fetch_add_explicit(&s->counters.wanted, n[STORE_WANTED], memory_order_relaxed);
	atomic_fetch_add_explicit(&s->counters.waits, n[STORE_WAIT], memory_order_relaxed);
}

int store_submit(struct store_client *c, const struct store_record *records, size_t count,
		 struct store_answer *answers)
{
	struct store *s = c->store;
	size_t missed;

	if (!is_valid(c, records, count)) {
		atomic_fetch_add_explicit(&s->counters.refused, 1, memory_order_relaxed);
		return -EINVAL;
	}
	missed = look_up(s, records, count, answers);
	if (missed || atomic_load_explicit(&c->promises, memory_order_relaxed)) {
		pthread_mutex_lock(&s->lock);
		if (!c->continued)
			store_promises_end(c, c->submission);
		c->submission += !c->continued;
		for (size_t i = 0; i < count; i++)
			if (answers[i].kind == STORE_ANSWERS)
				ask(c, &records[i], &answers[i]);
		store_pending_deliver_late(s);
		pthread_mutex_unlock(&s->lock);
	}
	c->continued = count == STORE_BATCH_MAX;
	count_answers(s, answers, count);
	return 0;
}

void store_stats(struct store *s, struct store_stats *ret)
{
	uint64_t live = 0;

	pthread_mutex_lock(&s->lock);
	*ret = s->stats;
	for (struct store_segment *g = store_segment_next(s, 0); g; g = store_segment_next(s, g->number))
		live += g->live;
	ret->clients = s->client_count;
	ret->dead_pages = ret->segment_pages - live;
	ret->pages_saved = ret->mappings - live;
	ret->records = s->records.entries;
	ret->index_bytes += store_index_bytes(s) + id_map_bytes(&s->inodes);
	ret->table_bytes = store_records_bytes(s) + store_pending_bytes(s);
	pthread_mutex_unlock(&s->lock);
	ret->submitted = atomic_load_explicit(&s->counters.submitted, memory_order_relaxed);
	ret->found = atomic_load_explicit(&s->counters.found, memory_order_relaxed);
	ret->wanted = atomic_load_explicit(&s->counters.wanted, memory_order_relaxed);
	ret->waits = atomic_load_explicit(&s->counters.waits, memory_order_relaxed);
	ret->refused = atomic_load_explicit(&s->counters.refused, memory_order_relaxed);
}

/* Grace periods (liburcu), besides what segments take. */
DEFINE_SYSCALLS(store_syscalls, SYSCALL(membarrier), SYSCALL(poll), SYSCALL(getrandom), SYSCALL(pread64),
		SYSCALL_IF(fcntl, 1, F_DUPFD_CLOEXEC), SYSCALL_IF(newfstatat, 3, AT_EMPTY_PATH));
