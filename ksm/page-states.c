/* SPDX-License-Identifier: Apache-2.0 */
/* The states of a guest's frames, and the one table of moves between them. */
#include "ksm/page-states.h"

#include "base/cleanup.h"

static const char *const names[] = {
	[PAGE_STATE_UNKNOWN] = "unknown",     [PAGE_STATE_VOLATILE] = "volatile",
	[PAGE_STATE_CANDIDATE] = "candidate", [PAGE_STATE_MATCHED] = "matched",
	[PAGE_STATE_SHARED] = "shared",	      [PAGE_STATE_DROPPED] = "dropped",
	[PAGE_STATE_GIVEN] = "given",
};
_Static_assert(ARRAY_SIZE(names) == PAGE_STATES, "a name for each state");

#define UNKNOWN	  (1u << PAGE_STATE_UNKNOWN)
#define VOLATILE  (1u << PAGE_STATE_VOLATILE)
#define CANDIDATE (1u << PAGE_STATE_CANDIDATE)
#define MATCHED	  (1u << PAGE_STATE_MATCHED)
#define SHARED	  (1u << PAGE_STATE_SHARED)
#define DROPPED	  (1u << PAGE_STATE_DROPPED)
#define GIVEN	  (1u << PAGE_STATE_GIVEN)

/*
 * Everywhere: a frame that is written becomes volatile, one that is seen to be a hole dropped, one that the guest gave
 * back given, and one that turns out not to be ours unknown. Forward it goes one step after the other: what is shared
 * was matched, what is matched or a candidate was read, what is read was volatile.
 */
#define ANYWHERE (UNKNOWN | VOLATILE | DROPPED | GIVEN)

static const unsigned moves[PAGE_STATES] = {
	[PAGE_STATE_UNKNOWN] = VOLATILE | DROPPED | GIVEN,
	[PAGE_STATE_VOLATILE] = UNKNOWN | DROPPED | GIVEN | CANDIDATE,
	[PAGE_STATE_CANDIDATE] = ANYWHERE | MATCHED,
	[PAGE_STATE_MATCHED] = ANYWHERE | SHARED | CANDIDATE, /* back: the twin was none */
	[PAGE_STATE_SHARED] = ANYWHERE,
	[PAGE_STATE_DROPPED] = UNKNOWN | VOLATILE | GIVEN,
	[PAGE_STATE_GIVEN] = UNKNOWN | VOLATILE,
};

const char *page_state_name(enum page_state state)
{
	return names[state];
}

bool page_state_may(enum page_state from, enum page_state to)
{
	return moves[from] & 1u << to;
}
