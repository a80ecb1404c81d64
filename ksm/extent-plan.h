/* SPDX-License-Identifier: Apache-2.0 */
/* Which frames of a VM to replace by which pages of the store: few long extents rather than many short ones. */
#ifndef SARDINE_KSM_EXTENT_PLAN_H
#define SARDINE_KSM_EXTENT_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/addr.h"
#include "base/cleanup.h"

#define STORE_SEGMENT_NONE UINT32_MAX

/* Extents that a VM may have for each GiB of its memory: 541-653 bytes of kernel memory and 0.5 us of each scan apiece. */
#define EXTENTS_PER_GIB 2000u

/* A page of the store. Pages of one segment follow one another; those of two segments do not. */
struct store_page {
	uint32_t segment; /* STORE_SEGMENT_NONE: not in the store */
	uint32_t page;
};

/* A frame whose content may be in the store. */
struct plan_frame {
	gfn_t gfn;
	uint64_t key;	      /* of its content; used for fill patterns only */
	struct store_page at; /* what seems to equal it */
	bool mapped;	      /* is that page already */
};

/* A stretch of the store in which one fill pattern repeats. */
struct plan_fill {
	uint64_t key;
	struct store_page first;
	uint32_t pages;
};

/* Frames [first, first + pages) seem to equal store pages [at, at + pages). */
struct plan_extent {
	gfn_t first;
	uint32_t pages;
	struct store_page at;
	bool joins; /* continues an extent that is mapped, in memory and in the store: costs no new one */
};

struct plan_input {
	const struct plan_frame *frames; /* rising by gfn */
	size_t frame_count;
	const struct plan_fill *fills; /* each key once */
	size_t fill_count;
	uint64_t extents_max; /* new extents at most; see extent_budget() */
	uint32_t pages_min;   /* the shortest new extent; at least 1 */
};

struct extent_plan {
	struct plan_extent *v; /* rising by frame, disjoint */
	size_t count;
	uint64_t pages;		/* in all of them */
	uint64_t pages_dropped; /* frames that the store has and that no extent covers */
	uint32_t shortest;	/* pages of the shortest new extent; 0 without any */
};

/**
 * extent_plan_make() - Choose extents.
 * @in: frames, fill patterns and limits.
 * @ret: ended with extent_plan_done().
 *
 * An extent is a run of consecutive frames that equal consecutive pages of the store, as long as it can be. Frames that
 * are mapped already are in no extent. A frame without a place in the store (STORE_SEGMENT_NONE) whose key is that of a
 * fill pattern goes to that pattern's stretch; runs longer than the stretch take several extents. The longest extents
 * are taken first, lower frames first among equals, until @extents_max are; what joins a mapped extent costs nothing.
 *
 * The plan is a guess: whoever applies it compares the bytes.
 *
 * Context: pure; n log n.
 * Return: 0, -EINVAL when @in is out of order, -ENOMEM.
 */
int extent_plan_make(const struct plan_input *in, struct extent_plan *ret) must_check;
void extent_plan_done(struct extent_plan *plan);

/**
 * extent_budget() - How many more extents a VM may have.
 * @frames: of the VM.
 * @extents: that it has.
 */
uint64_t extent_budget(uint64_t frames, uint64_t extents);

#endif
