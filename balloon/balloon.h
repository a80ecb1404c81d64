/* SPDX-License-Identifier: Apache-2.0 */
/* Which frames a guest has put into its balloon, and giving them back to the host in as few calls as
 * possible. */
#ifndef SARDINE_BALLOON_BALLOON_H
#define SARDINE_BALLOON_BALLOON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/addr.h"
#include "base/cleanup.h"

/*
 * The most frames of one message. Linux and FreeBSD send 256, Windows 1024; the limit bounds the time that a
 * guest can take on the thread that calls.
 */
#define BALLOON_MESSAGE_FRAMES_MAX 4096

/* At most this many ranges of RAM. */
#define BALLOON_REGIONS_MAX 8

/* A range of guest RAM. */
struct balloon_region {
	gfn_t first;
	uint64_t frames;
};

/* How the balloon reaches guest memory. */
struct balloon_ops {
	/*
	 * Give frames back to the host: they occupy nothing and read as zero afterwards. The range lies in
	 * one region. Writes to @ret_calls how many system calls it took. Return: 0 or a negative errno.
	 */
	int (*discard)(void *arg, gfn_t first, uint64_t frames, unsigned *ret_calls);
	/*
	 * No more frames are to be expected soon: finish what discards left for later. NULL: they leave nothing. Return: system
	 * calls made.
	 */
	unsigned (*settle)(void *arg);
};

/* A range of guest physical memory as a guest names it, unchecked. */
struct balloon_range {
	gpa_t first;
	uint64_t bytes;
};

/* Since the balloon was made, but for `frames`. */
struct balloon_counters {
	uint64_t frames;	 /* in the balloon now, by the guest's messages */
	uint64_t inflated;	 /* frames that went in */
	uint64_t deflated;	 /* frames that came out */
	uint64_t repeated;	 /* frames inflated that were in already, or deflated that were out */
	uint64_t refused;	 /* frame numbers outside RAM: ignored */
	uint64_t discard_ranges; /* ranges given back */
	uint64_t discard_calls;	 /* system calls that took */
	uint64_t discard_errors; /* ranges that could not be given back */
	uint64_t reported;	 /* frames that the guest reported as free, and that were given back */
	uint64_t report_kept;	 /* frames reported that had to keep what is in them */
	uint64_t report_ignored; /* ranges reported that are not whole frames of RAM: ignored */
};

struct balloon;

/**
 * balloon_new() - Make an empty balloon.
 * @regions: guest RAM, sorted and disjoint; copied.
 * @count: regions, 1 to BALLOON_REGIONS_MAX.
 * @ops: constant; outlives the balloon.
 * @arg: passed to @ops.
 * @ret: freed with balloon_free().
 *
 * Costs one bit per frame of RAM, which occupies memory only where frames were inflated.
 *
 * Return: 0, -EINVAL for regions that are empty, unsorted, overlapping or above 32 bits of frame number
 * (virtio 1.2, 5.5.6: a frame number has 32 bits), -ENOMEM.
 */
int balloon_new(const struct balloon_region *regions, size_t count, const struct balloon_ops *ops, void *arg,
		struct balloon **ret) must_check;
void balloon_free(struct balloon *balloon);
DEFINE_CLEANUP(struct balloon, balloon_free)

/**
 * balloon_inflate() - The guest gives frames up: merge them into ranges and give those back.
 * @balloon: the balloon.
 * @pfns: frame numbers as the guest sent them, any order, repeated or not; sorted in place.
 * @count: how many, at most BALLOON_MESSAGE_FRAMES_MAX.
 *
 * A frame outside RAM is counted and ignored. A frame that is in the balloon already is given back again: the
 * guest may have touched it since. When giving back fails, the frame counts as inflated all the same, and the
 * failure is counted.
 *
 * Context: one thread at a time for a balloon.
 * Return: 0, or -E2BIG with nothing done.
 */
int balloon_inflate(struct balloon *balloon, uint32_t *pfns, size_t count) must_check;

/**
 * balloon_deflate() - The guest takes frames out again. They need no host call: they read as zero until
 * written.
 *
 * Arguments, context and return as for balloon_inflate().
 */
int balloon_deflate(struct balloon *balloon, uint32_t *pfns, size_t count) must_check;

/**
 * balloon_report() - The guest does not use these ranges now (free page reporting): merge them and give them back.
 * @balloon: the balloon.
 * @ranges: as the guest sent them, any order, overlapping or not; sorted in place.
 * @count: how many.
 * @keep: what is in the frames must stay (page poison): they are counted only.
 *
 * Reported frames are the guest's all the same and are not in the balloon. A range that is empty, not of whole pages or not
 * inside one region of RAM is counted and ignored.
 *
 * Context: as balloon_inflate().
 */
void balloon_report(struct balloon *balloon, struct balloon_range *ranges, size_t count, bool keep);

/* No more messages are to be expected soon. Context: as balloon_inflate(). */
void balloon_settle(struct balloon *balloon);

/* The guest's driver is gone: all frames are the guest's again. Counters stay, but for `frames`. */
void balloon_reset(struct balloon *balloon);

/* Whether a frame is in the balloon. */
bool balloon_contains(const struct balloon *balloon, gfn_t gfn);

/* Context: as balloon_inflate(). */
void balloon_counters(const struct balloon *balloon, struct balloon_counters *ret);

#endif
