/* SPDX-License-Identifier: Apache-2.0 */
/* Exchanging guest memory for equal pages of the store, for holes, or back, without the guest ever seeing anything but
 * its own bytes. */
#ifndef SARDINE_KSM_EXTENT_APPLY_H
#define SARDINE_KSM_EXTENT_APPLY_H

#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "ksm/guest-view.h"
#include "ksm/segment.h"
#include "ksm/write-tracker.h"

/* Pages replaced in one hold at most, with write tracking and without (then they are compared inside). */
#define EXTENT_PAGES_MAX      512u
#define EXTENT_PAGES_MAX_HELD 64u
/* Pages taken back in one hold at most: they are copied inside. */
#define EXTENT_PAGES_MAX_RETAKE 32u
/* A hold in which this much time was spent takes no further extent. */
#define EXTENT_HOLD_NS 100000u

enum extent_kind {
	EXTENT_SHARE,  /* private memory becomes pages of the store */
	EXTENT_DROP,   /* private memory that is zero becomes a hole */
	EXTENT_MOVE,   /* pages of the store become equal pages of the store elsewhere */
	EXTENT_RETAKE, /* pages of the store, and copies of them, become private memory again */
	EXTENT_KINDS,
};

enum extent_outcome {
	EXTENT_REPLACED,
	EXTENT_INVALID,	    /* no frames, too many, not RAM, or not in the segment */
	EXTENT_NOT_PRIVATE, /* backed by a file or the store already; MOVE and RETAKE: not by the store */
	EXTENT_IN_FLIGHT,   /* a device may be writing to it */
	EXTENT_WRITTEN,	    /* not proven to be unwritten since it was protected, or (MOVE) uncopied */
	EXTENT_DIFFERENT,   /* the bytes differ, or are not zero */
	EXTENT_NO_ROOM,	    /* no room in the books, or too near to vm.max_map_count */
	EXTENT_NOT_HELD,    /* the guest could not be held */
	EXTENT_SEVERAL,	    /* lies in several mappings: parts of it can be replaced */
	EXTENT_REFUSED,	    /* the kernel refused a mapping; the guest has its own pages */
	EXTENT_LOST, /* ... and refused to put them back: nothing is mapped there, the VM has to be ended */
	EXTENT_OUTCOMES,
};

/* A word for statistics: "replaced", "invalid", .. */
const char *extent_outcome_name(enum extent_outcome outcome);

struct extent {
	enum extent_kind kind;
	gfn_t first;
	uint32_t pages;			  /* 1 to EXTENT_PAGES_MAX, _HELD or _RETAKE */
	const struct segment_view *store; /* SHARE and MOVE */
	uint32_t store_page;		  /* what the first frame shall become */
	enum extent_outcome outcome;
};

#define EXTENT_HOLD_BUCKETS 16u

struct extent_stats {
	uint64_t extents[EXTENT_OUTCOMES];
	uint64_t pages[EXTENT_OUTCOMES];
	uint64_t holds;
	uint64_t hold_work_ns;	   /* spent working inside holds */
	uint64_t hold_work_max_ns; /* the longest */
	uint64_t hold_work_bucket
		[EXTENT_HOLD_BUCKETS]; /* holds with below 1, 2, 4, .. us of work; the last: any */
	uint64_t advice_failed;	       /* mappings without their advice; bytes are right */
	uint64_t watch_lost; /* extents put back whose writes are no longer watched: never merged again */
};

struct extent_applier;

/**
 * extent_applier_new() - What replaces the memory of one guest.
 * @view: the guest; copied.
 * @tracker: that protects and watches its memory, or NULL: then bytes are compared inside the hold.
 * @ret: freed with extent_applier_free().
 *
 * Return: 0 or -ENOMEM.
 */
int extent_applier_new(const struct guest_view *view, struct write_tracker *tracker,
		       struct extent_applier **ret) must_check;
void extent_applier_free(struct extent_applier *a);
DEFINE_CLEANUP(struct extent_applier, extent_applier_free)

/**
 * extent_apply() - Replace extents whose bytes are those of the store, or zero.
 * @a: the applier.
 * @extents: disjoint; their outcomes are set.
 * @count: of @extents.
 *
 * The guest keeps running but for one or more short holds. With a tracker the frames must have been protected by
 * write_tracker_scan() before; what was written since is refused. MOVE and RETAKE need a tracker, and no protection;
 * RETAKE needs retaken() of the view.
 *
 * Context: one thread at a time, not one that while_held() stops.
 * Return: pages replaced.
 */
uint64_t extent_apply(struct extent_applier *a, struct extent *extents, size_t count);

void extent_applier_stats(const struct extent_applier *a, struct extent_stats *ret);

#endif
