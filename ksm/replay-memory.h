/* SPDX-License-Identifier: Apache-2.0 */
/* Replayed guest memory: RAM without vCPUs, of which it is known at any time what every byte must be. */
#ifndef SARDINE_KSM_REPLAY_MEMORY_H
#define SARDINE_KSM_REPLAY_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/addr.h"
#include "base/cleanup.h"
#include "base/errmsg.h"
#include "ksm/guest-view.h"
#include "ksm/hold.h"
#include "ksm/in-flight.h"
#include "ksm/write-tracker.h"

/*
 * Contents have numbers: 0 is the zero page, below REPLAY_FILLS a fill pattern, above that data that looks random.
 * Equal numbers are equal bytes, in every process.
 */
#define REPLAY_FILLS 256u
void replay_content(void *page, uint64_t number);

/* The number of page @index of the pool that all memories with this seed share. */
uint64_t replay_pool_number(uint64_t pool_seed, uint64_t index);

enum replay_kind {
	REPLAY_ZERO,   /* never touched */
	REPLAY_FILL,   /* one fill pattern, chosen by the memory's seed */
	REPLAY_COPY,   /* consecutive pages of the pool, from a place chosen by the memory's seed */
	REPLAY_UNIQUE, /* found nowhere else */
};

struct replay_run {
	enum replay_kind kind;
	uint32_t frames;
};

/* Runs, laid one after the other, over and over, until the memory is full. */
struct replay_spec {
	uint64_t seed;
	uint64_t pool_seed;
	uint64_t pool_pages; /* at least the longest REPLAY_COPY */
	const struct replay_run *runs;
	size_t count;
};

struct replay_memory;

/* What the kernel is told about huge pages. */
enum replay_thp {
	REPLAY_THP_HOST, /* nothing: as the host is set */
	REPLAY_THP_ON,
	REPLAY_THP_OFF,
};

/**
 * replay_memory_new_empty() - Memory that was never touched.
 * @frames: its size, from frame 0 on.
 * @thp: for all of it, now and when it is mapped anew.
 * @ret: freed with replay_memory_free().
 *
 * Return: 0, -EINVAL without frames or with too many, -ENOMEM, or the errno of the advice.
 */
int replay_memory_new_empty(uint64_t frames, enum replay_thp thp, struct replay_memory **ret) must_check;

/* Fill memory that nobody writes yet. Return: 0, -EINVAL as replay_memory_new(), -ENOMEM. */
int replay_memory_fill(struct replay_memory *m, const struct replay_spec *spec) must_check;

/* Put a page from elsewhere into a frame that was never touched, while nobody writes; zeros stay a hole. */
void replay_memory_put(struct replay_memory *m, gfn_t frame, const void *page);

/* Let the kernel's KSM merge it, once it is filled. Return: 0 or the errno of madvise. */
int replay_memory_mergeable(struct replay_memory *m) must_check;

/**
 * replay_memory_new() - Memory by a specification.
 * @frames: its size, from frame 0 on.
 * @spec: what to fill it with.
 * @ret: freed with replay_memory_free().
 *
 * Return: 0, -EINVAL when the specification is none (no runs, an empty one, one longer than the pool), -ENOMEM.
 */
int replay_memory_new(uint64_t frames, const struct replay_spec *spec, struct replay_memory **ret) must_check;

/**
 * replay_memory_load() - Memory from a raw dump.
 * @path: the file: RAM from frame 0 on, without a header; zero pages become holes.
 * @err: one line.
 * @ret: freed with replay_memory_free().
 *
 * Return: 0, -EINVAL when it is not whole pages, -ENOMEM, or the errno of reading.
 */
int replay_memory_load(const char *path, struct errmsg *err, struct replay_memory **ret) must_check;
/* NULL is allowed. */
void replay_memory_free(struct replay_memory *m);
DEFINE_CLEANUP(struct replay_memory, replay_memory_free)

uint64_t replay_memory_frames(const struct replay_memory *m);
void *replay_memory_at(const struct replay_memory *m, gfn_t frame);
/* What holds the threads that write; what they enter their I/O into. Owned by the memory. */
struct hold *replay_memory_hold(const struct replay_memory *m);
struct in_flight *replay_memory_in_flight(const struct replay_memory *m);

/* The engine's view of it; valid as long as the memory. Holding works with and without members of the hold. */
struct guest_view replay_memory_view(struct replay_memory *m);

/**
 * replay_memory_watch() - Have a tracker watch all of it, and what is mapped anew later.
 * @tracker: must live longer.
 *
 * Return: as write_tracker_add().
 */
int replay_memory_watch(struct replay_memory *m, struct write_tracker *tracker) must_check;

/* Who is told of discards, in the place of a tracker: a memory agent, which has its own. Called by owners of frames. */
struct replay_watcher {
	int (*watch)(void *ctx, hva_t start, uint64_t bytes);	       /* mapped anew, not written yet */
	void (*discarded)(void *ctx, gfn_t first, uint64_t frames); /* after that */
	void *ctx;
};
/* From now on. NULL: nobody. Nobody may discard meanwhile. */
void replay_memory_watch_by(struct replay_memory *m, const struct replay_watcher *watcher);

/*
 * Writing. A frame has one owner, which alone calls these for it: a member of the hold that attends between calls, or
 * anybody while there is none. Each looks first whether the frame reads as it must; the first that does not is kept
 * (replay_memory_wrong()) and the write is not done.
 */

/* Return: whether the frame reads as it must. */
bool replay_memory_check(struct replay_memory *m, gfn_t frame);
/* Store one word of 8 bytes; @word below 512. Return: as above. */
bool replay_memory_write_word(struct replay_memory *m, gfn_t frame, unsigned word, uint64_t value);
/* Write the whole page. Return: as above. */
bool replay_memory_write(struct replay_memory *m, gfn_t frame, uint64_t number);
/* Write what the memory was filled with; for a dump, and zero pages, a content of its own. Return: as above. */
bool replay_memory_restore(struct replay_memory *m, gfn_t frame);
/* A device has written this content (the kernel did, through I/O in flight). Return: whether it is there. */
bool replay_memory_device_wrote(struct replay_memory *m, gfn_t frame, uint64_t number);

/**
 * replay_memory_discard() - Give frames back, as a balloon does; they read as zero.
 *
 * Anonymous memory is dropped, extents of the store are mapped over by anonymous memory, watched as before.
 *
 * Return: 0, -EFAULT, or the errno of the kernel (then some of them may be discarded).
 */
int replay_memory_discard(struct replay_memory *m, gfn_t first, uint64_t frames) must_check;

/**
 * replay_memory_verify() - Check every byte of a range.
 *
 * Frames with I/O in flight are passed over. Frames that nothing is behind stay so.
 *
 * Context: while held, or nobody writes.
 * Return: true when all reads as it must.
 */
bool replay_memory_verify(struct replay_memory *m, gfn_t first, uint64_t frames);

/* The first frame that was seen to read wrong, or UINT64_MAX. */
uint64_t replay_memory_wrong(const struct replay_memory *m);

struct replay_stats {
	uint64_t breaks;   /* frames of the store that were written: a copy each */
	uint64_t discards; /* frames, of these: */
	uint64_t discards_shared;
};
void replay_memory_stats(const struct replay_memory *m, struct replay_stats *ret);

#endif
