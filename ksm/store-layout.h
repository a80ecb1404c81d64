/* SPDX-License-Identifier: Apache-2.0 */
/* In which order new pages go into the store, so that runs of frames stay runs there. */
#ifndef SARDINE_KSM_STORE_LAYOUT_H
#define SARDINE_KSM_STORE_LAYOUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/addr.h"
#include "base/cleanup.h"

/* Repeats that are laid again rather than cut a run in two: they cost pages once, a cut costs an extent in each VM. */
#define LAYOUT_REPEATS_MAX 8u

/* A frame of the donor whose content is wanted in the store. */
struct layout_frame {
	gfn_t gfn;
	uint64_t key; /* of its content, not 0 */
	bool have;    /* the store has it elsewhere */
};

struct store_layout {
	uint32_t *order; /* numbers of frames, in the order in which to append them */
	size_t count;
	size_t huge_blocks; /* the first 512 * huge_blocks of them are whole blocks of 2 MiB; each fills a segment */
};

/**
 * store_layout_make() - Order the pages of a donor.
 * @frames: rising by gfn.
 * @count: of @frames, below UINT32_MAX.
 * @ret: ended with store_layout_done().
 *
 * First whole, aligned blocks of 2 MiB of which at least one page is new, so that they can become huge pages; then the
 * rest in order of frames. There a content that was laid before, or that the store has, is left out, unless no more
 * than LAYOUT_REPEATS_MAX of those lie between new pages of one run of frames.
 *
 * Context: pure.
 * Return: 0, -EINVAL when @frames is out of order, -ENOMEM.
 */
int store_layout_make(const struct layout_frame *frames, size_t count, struct store_layout *ret) must_check;
void store_layout_done(struct store_layout *layout);

#endif
