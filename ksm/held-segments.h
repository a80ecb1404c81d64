/* SPDX-License-Identifier: Apache-2.0 */
/* The segments that a VM knows, under numbers of its own, and how often it maps which of their pages. */
#ifndef SARDINE_KSM_HELD_SEGMENTS_H
#define SARDINE_KSM_HELD_SEGMENTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"

/*
 * Numbers of the store are good for as long as that store lives; numbers here are good for as long as the VM does: they are never
 * used again. 32 bytes per segment ever heard of, and 2 bytes per page of those that are mapped.
 */
#define HELD_NO_NUMBER UINT32_MAX

struct held_segment {
	uint32_t number;  /* of the store; HELD_NO_NUMBER: it does not have it */
	uint32_t pages;	  /* while there are references */
	uint64_t refs;	  /* of all pages */
	uint16_t *counts; /* of each page */
	int fd;		  /* while there are references; else -1 */
};

struct held_slot {
	uint32_t number, own; /* own + 1; 0: free */
};

struct held_segments {
	struct held_segment *all; /* by own number */
	uint32_t count, room;
	struct held_slot *slots; /* store's number to own */
	uint32_t slots_used, slot_mask;
	uint64_t refs; /* of all */
	uint32_t fds;
};

void held_done(struct held_segments *h);

/**
 * held_own() - Our number of a segment of the store: a new one when it was not heard of.
 *
 * Return: 0, -EPROTO for HELD_NO_NUMBER, or -ENOMEM.
 */
int held_own(struct held_segments *h, uint32_t number, uint32_t *ret_own) must_check;
/* NULL when there is none. Valid until the next held_own(). */
struct held_segment *held_get(struct held_segments *h, uint32_t own);

/* The store is gone, and its numbers with it. */
void held_forget_numbers(struct held_segments *h);
/* A segment that had no number has one now. Return: 0, -EPROTO (no number, or another segment has it), -ENOMEM. */
int held_set_number(struct held_segments *h, uint32_t own, uint32_t number) must_check;

/**
 * held_keep() - Make a segment ready for references.
 * @fd: of @pages; taken on success.
 *
 * Return: 0 or -ENOMEM.
 */
int held_keep(struct held_segments *h, uint32_t own, int fd, uint32_t pages) must_check;

/**
 * held_refs() - More (1) or less (-1) mappings of pages. With the last one the descriptor is closed.
 *
 * Return: 0; -ENOENT: it is not kept; -EINVAL: beyond the segment, more taken away than there were, or above 65,535; nothing is changed then.
 */
int held_refs(struct held_segments *h, uint32_t own, uint32_t page, uint32_t pages, int delta) must_check;

/**
 * held_each_range() - References as ranges, each to be counted once.
 * @fn: called until it returns something else than 0, which is returned.
 */
int held_each_range(const struct held_segment *s, int (*fn)(void *ctx, uint32_t page, uint32_t pages),
		    void *ctx);

#endif
