/* SPDX-License-Identifier: Apache-2.0 */
/* Huge pages of which a part was dropped, and that are still to be split or dropped as a whole; for guest-memory.c. */
#ifndef SARDINE_VMM_HUGE_CUTS_H
#define SARDINE_VMM_HUGE_CUTS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/addr.h"

#define HUGE_FRAMES (HUGE_PAGE_BYTES / PAGE_BYTES)

/* So many are waited for: what the kernel may keep meanwhile is less than 8 MiB. A guest that gives up contiguous memory in
 * messages cuts one at each end of a message. */
#define HUGE_CUTS_MAX 4

/* Blocks of HUGE_FRAMES frames, the oldest cut first, each with the frames that were dropped. Zeroed is empty. */
struct huge_cuts {
	struct {
		uint64_t block; /* frame / HUGE_FRAMES */
		uint64_t dropped[HUGE_FRAMES / 64];
	} cuts[HUGE_CUTS_MAX];
	unsigned count;
};

/**
 * huge_cuts_add() - Frames [first, end) of one block were dropped.
 * @ret_frame: a frame of the block that has waited longest, which must be split now to make room; it was not dropped.
 *
 * A block of which all is dropped is waited for no longer: the kernel has it back.
 *
 * Return: whether there is such a frame.
 */
bool huge_cuts_add(struct huge_cuts *c, uint64_t first, uint64_t end, uint64_t *ret_frame);

/* Wait no longer for the blocks that lie in [first, end) as a whole: they are dropped, or no huge pages any more. */
void huge_cuts_forget(struct huge_cuts *c, uint64_t first, uint64_t end);

/* Wait no longer for one block, which must be split at the frame returned. Return: false when there is none. */
bool huge_cuts_take(struct huge_cuts *c, uint64_t *ret_frame);

#endif
