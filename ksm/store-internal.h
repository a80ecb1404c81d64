/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the store, and their tests, know of one another. */
#ifndef SARDINE_KSM_STORE_INTERNAL_H
#define SARDINE_KSM_STORE_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/types.h>

#include "base/addr.h"
#include "ksm/id-map.h"
#include "ksm/segment.h"
#include "ksm/store.h"

#define STORE_PAGE_BITS	   18u /* of a number of a page in a segment */
#define STORE_SEGMENT_BITS 22u /* of a number of a segment: 8 TiB in segments of 2 MiB */
#define STORE_CHUNK_BITS   11u
#define STORE_CHUNK	   (1u << STORE_CHUNK_BITS)
#define STORE_CHUNKS	   (1u << (STORE_SEGMENT_BITS - STORE_CHUNK_BITS))
#define STORE_SEGMENTS_MAX ((1u << STORE_SEGMENT_BITS) - 1)
#define STORE_LOANS_MAX	   16u
#define STORE_EVACUATE_NS  2000000000u
#define STORE_PROMISE_NS   10000000000u
#define STORE_PROMISES_MAX                                                                                   \
	4u /* that are broken for one content, until there is a pause of STORE_PROMISE_NS */
#define STORE_OWNER_BITS  36u /* of a frame of any VM: 256 TiB in all */
#define STORE_WAITERS_FEW 2u

_Static_assert(SEGMENT_PAGES_MAX <= 1u << STORE_PAGE_BITS, "a page's number fits");

/* What readers may still look at when it is taken out: freed after a grace period. First member of such things. */
struct store_garbage {
	struct store_garbage *next;
};

/* References of one client on one segment. */
struct store_refs {
	struct store_client *client;
	struct store_segment *segment;
	struct store_refs *next; /* of the segment */
	uint32_t pages;		 /* with a count above 0 */
	uint8_t counts[];	 /* stay at UINT8_MAX once there, until the client goes */
};

/* Pages of a segment that were copied to another one. */
struct store_move {
	uint32_t page, run, to_page;
};

/* Written under the lock; what readers read (number, pages, keys) before it is published, and never again; totals are
 * atomic. */
struct store_segment {
	struct store_garbage garbage;
	uint32_t number, pages;
	int fd;
	dev_t dev;
	ino_t ino;
	uint32_t live;	 /* pages with references */
	bool has_copies; /* of what is found in it there are others, which are not */
	struct store_refs *refs;
	uint64_t unused_since, dead_since; /* ns; 0: it is not */
	/* After it was moved: where to. The target stays as long as somebody is to move there. */
	struct store_segment *moved_to;
	struct store_move *moves;
	uint32_t move_count, move_tries, sources;
	uint32_t left_alone; /* not to be moved while it has so many live pages; 0: it may */
	uint64_t move_again;
	_Atomic uint16_t *totals; /* references of all clients; stay at UINT16_MAX, then are counted anew */
	uint64_t keys[];	  /* 0: zero page, never looked for */
};

/* Pointers to segments, by the lower part of their numbers. */
struct store_chunk {
	struct store_garbage garbage;
	uint32_t used; /* under the lock */
	_Atomic(struct store_segment *) segments[STORE_CHUNK];
};

struct store_place {
	struct store_segment *segment;
	uint32_t page;
};

/* One word per entry: tag, segment, page. Replaced as a whole when it grows. */
struct store_index_table {
	struct store_garbage garbage;
	size_t size;
	_Atomic uint64_t slots[];
};

struct store_index {
	_Atomic(struct store_index_table *) table;
	size_t entries, tombs;
};

#define STORE_BUCKET 8u

/* First-seen frames: theory of operation in store-records.c. */
struct store_records {
	uint64_t *slots;
	size_t buckets;
	size_t entries;
	size_t patience; /* so many more before it is looked whether to grow */
};

/* A frame of any VM: its client's base plus its number. Never 0. */
typedef uint64_t store_owner_t;

/* A content that more than one frame has, and no segment yet; or one of which some have still to be told. */
struct store_pending {
	uint64_t hash, key;
	struct store_client *donor; /* who promised, or NULL */
	uint32_t donor_frame;
	uint32_t promised_at;		   /* submission of the donor */
	uint64_t promised_ns;		   /* of the last tick */
	uint32_t broken;		   /* promises, so far */
	struct store_pending *next, *prev; /* of the donor, oldest first; of store.late */
	struct store_place place;	   /* in store.late only */
	size_t waiting, room;
	store_owner_t few[STORE_WAITERS_FEW], *waiters; /* &few, or more on the heap */
};

struct store_pending_list {
	struct store_pending *first, *last;
};

struct store_loan {
	uint32_t number; /* 0: free */
	uint32_t pages;
	int fd;
};

struct store_client {
	struct store *store;
	struct store_client_config config;
	store_owner_t base; /* of its frames among all VMs' */
	struct id_map refs; /* by number of segment */
	struct store_loan loans[STORE_LOANS_MAX];
	uint32_t loans_made;
	uint32_t submission; /* the client's own */
	bool continued;
	size_t waiting; /* frames in lists of waiters */
	struct store_pending_list promised;
	_Atomic size_t promises; /* in that list */
};

/* Counted without the lock. */
struct store_counters {
	_Atomic uint64_t submitted, found, wanted, waits, refused;
};

struct store {
	uint64_t key_mask, evacuate_after_ns, segment_limit;
	uint64_t secret[2];
	struct store_counters counters;
	/* Read without the lock, in read sections. */
	struct store_index index;
	_Atomic(struct store_chunk *) chunks[STORE_CHUNKS];

	pthread_mutex_t lock;	       /* for all that follows, and to write what precedes */
	struct store_client **clients; /* rising by base */
	size_t client_count, client_room;
	uint64_t frames; /* of all clients */
	struct store_records records;
	struct id_map pending; /* by hash */
	size_t orphans;	       /* in pending, promised by nobody */
	struct store_pending_list late;
	struct id_map inodes; /* segments */
	uint32_t last_number;
	uint64_t loans;
	bool lost_places; /* contents are not found any more of which there are copies */
	struct store_garbage *garbage;
	uint64_t now_ns;	  /* of the last tick */
	struct store_stats stats; /* those that are kept up, not computed */

	pthread_mutex_t tick_lock; /* one tick at a time; before lock */
};

/* The hash of a key: one to one, so that equal hashes are equal keys; nobody outside can make buckets collide. */
static inline uint64_t store_hash(const struct store *s, uint64_t key)
{
	uint64_t x = key ^ s->secret[0];

	x ^= x >> 32;
	x *= s->secret[1]; /* odd */
	x ^= x >> 29;
	x *= 0xd6e8feb86659fd93u;
	return x ^ x >> 32;
}

/* Scale @x of [0, 2^64) to [0, n). */
static inline size_t store_scale(uint64_t x, size_t n)
{
	__extension__ typedef unsigned __int128 wide;

	return (size_t)((wide)x * n >> 64);
}

/* --- store-index.c --- */

int store_index_init(struct store *s) must_check;
void store_index_done(struct store *s);
/* In a read section or under the lock. Whether @hash is there. */
bool store_index_find(struct store *s, uint64_t hash, struct store_place *ret);
/* The rest under the lock. Room for @more entries. Return: 0 or -ENOMEM. */
int store_index_reserve(struct store *s, size_t more) must_check;
/* Let @hash lead to @to, whether it was there or not; needs room. */
void store_index_set(struct store *s, uint64_t hash, struct store_place to);
/* Take @hash out if it leads to @from. */
void store_index_remove(struct store *s, uint64_t hash, struct store_place from);
/* Give back memory that few entries need. */
void store_index_trim(struct store *s);
size_t store_index_bytes(const struct store *s);

/* --- store-records.c; all under the lock --- */

int store_records_init(struct store *s) must_check;
void store_records_done(struct store *s);
/* The frame that was first seen with @hash, or 0. */
store_owner_t store_records_find(const struct store *s, uint64_t hash);
/* @hash is not there. Something else may have to go. */
void store_records_add(struct store *s, uint64_t hash, store_owner_t owner);
void store_records_remove(struct store *s, uint64_t hash);
/* Drop those of owners in [first, end), and shrink. */
void store_records_purge(struct store *s, store_owner_t first, store_owner_t end);
size_t store_records_bytes(const struct store *s);

/* --- store-clients.c --- */

/* Whose frame that is, or NULL. */
struct store_client *store_client_of(const struct store *s, store_owner_t owner);
/* Whether the owner says that what it recorded still holds. */
bool store_owner_holds(const struct store *s, store_owner_t owner);
/* Return: of the handler. */
int store_send(struct store_client *c, const struct store_event *event) must_check;

/* --- store-segments.c; under the lock --- */

/* In a read section or under the lock: the segment of that number, or NULL. */
struct store_segment *store_segment_get(struct store *s, uint32_t number);
/* So many pages from there on are equal. */
uint32_t store_segment_run(const struct store_segment *g, uint32_t page);
uint32_t store_segment_total(const struct store_segment *g, uint32_t page);
/* Read the pages of a sealed file and compute their keys. Without the lock. @fd: taken on success. */
int store_segment_new(struct store *s, int fd, uint32_t pages, struct store_segment **ret) must_check;
void store_segment_free(struct store_segment *g); /* never published, or after a grace period */
/* Give it a number, or find the one that it has (then @g is freed). On failure it is the caller's still. */
int store_segment_publish(struct store *s, struct store_segment **g) must_check;
/* Let its contents be found, and tell those who wait; @offerer, or NULL. Needs room in the index. */
void store_segment_index(struct store *s, struct store_segment *g, struct store_client *offerer);
/* Let those be found that are mapped and are in no other segment. Return: 0 or -ENOMEM. */
int store_segment_reindex(struct store *s, struct store_segment *g) must_check;
/* Let its contents be found in it no more. */
void store_segment_unindex(struct store *s, struct store_segment *g);
/* Forget it. Nobody is to move to it. */
void store_segment_drop(struct store *s, struct store_segment *g);
void store_segment_drop_all(struct store *s);
/* The next after @number, or NULL. */
struct store_segment *store_segment_next(struct store *s, uint32_t number);
/* Leave something to store_reclaim(). */
void store_discard(struct store *s, struct store_garbage *garbage);
/* Without the lock: free what was discarded, after a grace period. */
void store_reclaim(struct store *s);
bool store_room_for_segment(const struct store *s);

/* --- store-refs.c; under the lock --- */

void store_refs_drop_client(struct store_client *c);
void store_refs_free(struct store *s, struct store_refs *refs);

/* --- store-pending.c; under the lock --- */

/* What to say to @c about a content that is not to be had from the index (@first: or of which another copy is wanted, then
 * 0). Return: STORE_UNIQUE without memory, else STORE_WANTED or STORE_WAIT. */
enum store_answer_kind store_pending_ask(struct store_client *c, uint32_t frame, uint64_t hash, uint64_t key,
					 store_owner_t first);
struct store_pending *store_pending_get(const struct store *s, uint64_t hash);
/* The content of @hash lies at @place now: tell those who wait, and the first seen. */
void store_pending_found(struct store *s, uint64_t hash, uint64_t key, struct store_place place,
			 struct store_client *offerer);
/* Promises of submissions before @before count as broken. */
void store_promises_end(struct store_client *c, uint32_t before);
void store_pending_tick(struct store *s);
void store_pending_deliver_late(struct store *s);
void store_pending_drop_client(struct store_client *c);
void store_pending_drop_segment(struct store *s, const struct store_segment *g);
void store_pending_done(struct store *s);
size_t store_pending_bytes(const struct store *s);

/* --- store-evacuate.c --- */

/* Under the lock: nobody is to move from @g any more. */
void store_move_end(struct store_segment *g);

#endif
