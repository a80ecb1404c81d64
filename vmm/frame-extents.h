/* SPDX-License-Identifier: Apache-2.0 */
/* Which frames of guest RAM are mapped from files: a sorted table of extents, for guest-memory.c. */
#ifndef SARDINE_VMM_FRAME_EXTENTS_H
#define SARDINE_VMM_FRAME_EXTENTS_H

#include <stddef.h>
#include <stdint.h>

#include "vmm/guest-memory.h"

/* At most so many extents of each backing. A guest can cut extents by discarding frames inside of them, and each piece costs
 * mappings of the process (two: the piece, and the gap): with both tables full that is 40,960 of the 65,530 that
 * vm.max_map_count allows by default. */
#define FRAME_EXTENTS_BOOT_MAX	4096
#define FRAME_EXTENTS_STORE_MAX 16384

/* Frames [first, end) have this backing, which is not FRAME_PRIVATE. */
struct frame_extent {
	uint64_t first;
	uint64_t end;
	enum frame_backing backing;
};

/* Sorted by frame and disjoint; neighbours of one backing are one extent. Frames outside all of them are private. Zeroed is empty. */
struct frame_extents {
	struct frame_extent *list;
	size_t count;
	size_t room;
	size_t of[FRAME_BACKINGS]; /* how many of each backing */
	size_t promised;	   /* extents of the store that are yet to come: room that nobody else gets */
};

void frame_extents_done(struct frame_extents *x);

/* Index of the first extent that ends after a frame; `count` when there is none. */
size_t frame_extents_after(const struct frame_extents *x, uint64_t gfn);

/**
 * frame_extents_reserve() - Make sure that one frame_extents_set() of this range cannot fail.
 * @backing: what the range is to become.
 *
 * Return: 0, -ENOSPC when it might take more extents of a backing than there may be, -ENOMEM.
 */
int frame_extents_reserve(struct frame_extents *x, uint64_t first, uint64_t end,
			  enum frame_backing backing) must_check;

/* Frames [first, end) have this backing from now on, whatever they had. Reserved before. */
void frame_extents_set(struct frame_extents *x, uint64_t first, uint64_t end, enum frame_backing backing);

/**
 * frame_extents_promise() - Make sure that so many frame_extents_keep() cannot fail, whatever is reserved and set meanwhile.
 * @count: instead of what was promised before.
 *
 * Return: 0, -ENOSPC, -ENOMEM: nothing is promised then.
 */
int frame_extents_promise(struct frame_extents *x, size_t count) must_check;

/* As frame_extents_set(), promised before: private frames become the store's, or frames of the store private. */
void frame_extents_keep(struct frame_extents *x, uint64_t first, uint64_t end, enum frame_backing backing);

/* Frames with this backing. */
uint64_t frame_extents_frames(const struct frame_extents *x, enum frame_backing backing);

#endif
