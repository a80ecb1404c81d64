/* SPDX-License-Identifier: Apache-2.0 */
/* What a store and those who use it say to one another; the same words inside a process and between processes. */
#ifndef SARDINE_KSM_STORE_TYPES_H
#define SARDINE_KSM_STORE_TYPES_H

#include <stdint.h>

#include "ksm/page-hash.h"

/* Frames of a VM that are numbered in a record: 16 TiB. */
#define STORE_FRAMES_MAX UINT32_MAX
/* Records of one submission at most. */
#define STORE_BATCH_MAX 16384u
/* Mappings of one canonical page at most, of all VMs; the kernel's reverse walks cost 0.6 us for each. */
#define STORE_MAPPINGS_MAX 256u

/* A frame that stayed unwritten, and the key of what it held when it was read. Zero pages are never recorded. */
struct store_record {
	uint64_t key; /* page_store_key() */
	uint32_t frame;
	uint32_t reserved; /* 0 */
};

enum store_answer_kind {
	STORE_UNIQUE, /* nobody else has it so far; a FOUND or WANTED event comes when somebody does */
	STORE_FOUND,  /* the store has it: segment, page, run */
	STORE_WANTED, /* it has a twin but is not in the store: please donate it */
	STORE_WAIT,   /* somebody is about to donate it; an event comes */
	STORE_ANSWERS,
};

/* The answer to the record of the same index. */
struct store_answer {
	uint32_t kind;	  /* enum store_answer_kind */
	uint32_t segment; /* FOUND only, as all below */
	uint32_t page;
	uint32_t run; /* so many pages from there on are equal: above 1 in a stretch of a fill pattern */
};

enum store_event_kind {
	STORE_EVENT_FOUND,  /* a frame recorded earlier is in the store now: frame, key, segment, page, run */
	STORE_EVENT_WANTED, /* a frame recorded earlier has a twin; please donate it: frame, key */
	STORE_EVENT_MOVE, /* pages of one segment are in another one, too; please use that: segment, page, pages, to_* */
	STORE_EVENT_RESET, /* the store has forgotten all records: please submit everything again */
	STORE_EVENTS,
};

struct store_event {
	uint32_t kind; /* enum store_event_kind */
	uint32_t frame;
	uint64_t key;
	uint32_t segment, page, run; /* run: of FOUND; number of pages of MOVE */
	uint32_t to_segment, to_page;
	uint32_t reserved; /* 0 */
};

_Static_assert(sizeof(struct store_record) == 16 && sizeof(struct store_answer) == 16 &&
		       sizeof(struct store_event) == 40,
	       "these cross process boundaries");

/* One key for contents of all kinds: what fill patterns and data have in common is a coincidence like any other. */
static inline uint64_t page_store_key(struct page_id id)
{
	return id.kind == PAGE_FILL ? id.key * 0x9e3779b97f4a7c15u ^ 0xf111f111f111f111u : id.key;
}

#endif
