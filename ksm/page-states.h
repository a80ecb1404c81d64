/* SPDX-License-Identifier: Apache-2.0 */
/* What the memory agent knows of each frame of its guest: a byte per frame, and the moves that are allowed. */
#ifndef SARDINE_KSM_PAGE_STATES_H
#define SARDINE_KSM_PAGE_STATES_H

#include <stdbool.h>

/* DESIGN names: volatile -> candidate -> shared -> (written) volatile; zero -> dropped -> (touched) volatile; given. */
enum page_state {
	PAGE_STATE_UNKNOWN,   /* not looked at, or not ours to touch (boot files) */
	PAGE_STATE_VOLATILE,  /* written since the pass before */
	PAGE_STATE_CANDIDATE, /* unwritten for an interval, read, recorded; no twin so far */
	PAGE_STATE_MATCHED,   /* has a twin in the store, not covered by an extent (yet) */
	PAGE_STATE_SHARED,    /* a page of the store */
	PAGE_STATE_DROPPED,   /* was zero or never touched: a hole */
	PAGE_STATE_GIVEN,     /* given back by the guest: ballooned or reported */
	PAGE_STATES,
};

/* A word for statistics: "unknown", "volatile", .. */
const char *page_state_name(enum page_state state);

/* Whether the table of allowed moves (ksm/page-states.c) has this one. Staying is no move. */
bool page_state_may(enum page_state from, enum page_state to);

#endif
