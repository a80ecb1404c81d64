/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the memory agent share. All of it belongs to the agent's thread but where it says otherwise. */
#ifndef SARDINE_KSM_AGENT_INTERNAL_H
#define SARDINE_KSM_AGENT_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "ksm/agent.h"
#include "ksm/extent-plan.h"

#define BLOCK_FRAMES 512u /* 2 MiB */

/* A frame's byte: its state, and what goes with it. */
#define FRAME_STATE  0x07u
#define FRAME_FRESH  0x08u /* volatile: reported by the latest scan */
#define FRAME_BROKEN 0x10u /* volatile: a copy inside an extent, which is not watched */
#define FRAME_GIVEN  0x20u /* the guest gave it back; the next scan shows whether it is a hole still */

/* A block's summary, so that blocks without work cost nothing. */
struct agent_block {
	uint16_t pending; /* volatile frames that are watched */
	uint16_t holes;	  /* dropped or given */
	uint16_t shared;
	uint16_t touched; /* the pass (its low bits) in which something of it was last reported as written */
	uint8_t streak;	  /* passes in a row in which it was */
	uint8_t level;	  /* 2^level passes without protection */
	uint8_t skip;	  /* of these, to go */
	bool listed;	  /* in agent.pending */
	bool leave;	  /* what is written is not protected in this pass */
};

struct agent_match {
	uint32_t frame, segment, page;
};

/* A mapping of the store. Frames of it that were written are volatile and FRAME_BROKEN. */
struct agent_extent {
	uint32_t first, pages, segment, page;
	uint32_t broken;
	uint32_t broken_before; /* when it was looked at before */
};

/* A stretch of the store with one fill pattern. */
struct agent_fill {
	uint32_t segment, page, run;
	uint32_t mapped; /* extents that begin there */
};

/* How often a fill pattern was read in this VM. */
struct fill_tally {
	uint64_t key, store_key;
	uint32_t frames;
	uint32_t last, run; /* the frame read last, and how many in a row up to it */
	uint32_t longest;   /* run */
	uint32_t donated;   /* pages of the longest stretch that we know */
	bool wanted;
};
#define FILL_TALLIES 128u /* patterns that are counted; others are data */
#define FILL_FRAMES  64u  /* a stretch is worth it */

struct agent_wanted {
	uint32_t frame;
	bool have; /* known to the store; only helps to keep runs together */
	uint64_t key;
};

/* Growing arrays: count and room; see agent_room(). */
struct u32_list {
	uint32_t *v;
	size_t count, room;
};
struct match_list {
	struct agent_match *v;
	size_t count, room;
};
struct extent_list {
	struct agent_extent *v;
	size_t count, room;
};
struct fill_list {
	struct agent_fill *v;
	size_t count, room;
};
struct wanted_list {
	struct agent_wanted *v;
	size_t count, room;
};
struct move_list {
	struct store_event *v;
	size_t count, room;
};
struct work_list { /* for the applier; store_page and segment are the plan's */
	struct agent_work {
		struct extent x;
		uint32_t segment;
	} * v;
	size_t count, room;
};

struct pass_result {
	uint64_t shared, zeroed, donated, hashed;
	uint64_t due; /* frames that the next pass may read */
	uint64_t retaken, moved;
};

enum agent_phase {
	AGENT_NEW,
	AGENT_RUNS,
	AGENT_STOPS,
};

struct agent {
	struct guest_view view;
	struct store_link *link;
	_Atomic uint64_t *recorded;
	uint64_t interval_ns;
	uint64_t key_mask;
	bool manual, keep_zero;
	void (*thread_begins)(void *arg);
	void *thread_arg;
	struct agent_range *ranges;
	size_t range_count;
	struct write_tracker *tracker;
	struct extent_applier *applier;

	/* The table. */
	uint8_t *frames;
	struct agent_block *blocks;
	size_t block_count;
	uint64_t frame_counts[PAGE_STATES];
	uint64_t moves[PAGE_STATES][PAGE_STATES];
	struct u32_list pending;	       /* blocks */
	_Atomic uint64_t *given, *given_words; /* frames; words of `given` that are not 0. Any thread */

	/* The scan that runs. */
	const struct agent_range *scanned;
	hva_t scanned_at;
	uint64_t pass_number;
	bool forced; /* blocks that the guest writes again and again are not left alone */

	/* What was read, for one submission. */
	struct store_record *records;
	struct store_answer *answers;
	uint8_t *fill_of; /* index of its tally + 1, or 0 */
	size_t record_count, record_room;
	struct fill_tally fills_seen[FILL_TALLIES];
	struct work_list zeros;
	struct wanted_list wanted;

	/* What is known of the store. */
	struct match_list matches, new_matches; /* rising, and as they came */
	struct extent_list extents;		/* rising */
	struct fill_list fills;
	struct move_list moving;
	bool replan;
	bool reset;	    /* the store has forgotten the records */
	size_t copies_next; /* extent that is looked at next */

	struct pass_result pass;
	uint64_t scanned_ns; /* end of the last scan */

	/* Commands, under the mutex, which is never held while the guest is. */
	pthread_t thread;
	pthread_mutex_t mutex;
	pthread_cond_t changed;
	int wake_fd;
	enum agent_phase phase;
	unsigned suspended;
	bool in_pass;
	atomic_bool interrupt; /* somebody wants the pass to end early */
	bool forget;	       /* before the next pass */
	struct agent_merge_job *jobs;
	struct agent_stats published;

	/* The thread's own sums. */
	struct agent_stats sums;
};

/* Make room for @more in a list. Return: 0 or -ENOMEM. */
#define agent_room(list, more)                                                                               \
	agent_grow((void **)&(list)->v, &(list)->room, (list)->count + (more), sizeof(*(list)->v))
/* Give back what a list has no use for, at the end of a pass. */
#define agent_shrink(list) agent_fit((void **)&(list)->v, &(list)->room, (list)->count, sizeof(*(list)->v))
void agent_fit(void **v, size_t *room, size_t count, size_t size);
int agent_grow(void **v, size_t *room, size_t want, size_t size) must_check;

/* agent-frames.c: the table. */
int agent_frames_init(struct agent *a) must_check;
void agent_frames_done(struct agent *a);
uint64_t agent_frames_bytes(const struct agent *a);
static inline enum page_state agent_frame_state(const struct agent *a, uint64_t frame)
{
	return (enum page_state)(a->frames[frame] & FRAME_STATE);
}
/* A move, by the table; @flags of the byte replace those that were there. */
void agent_frame_move(struct agent *a, uint64_t frame, enum page_state to, uint8_t flags);
/* Put a block on the list of those with volatile frames, if it is not on it. */
void agent_block_list(struct agent *a, uint64_t block);
/* Discards since the last call: marks frames FRAME_GIVEN. */
void agent_frames_take_given(struct agent *a);
/* All frames with a record have to be read again. */
void agent_frames_forget_records(struct agent *a);
/* All is unknown again. */
void agent_frames_forget(struct agent *a);
/* Frames from @frame on, up to @end, that lie in one piece; and where. 0: not RAM. */
uint64_t agent_frames_span(const struct agent *a, uint64_t frame, uint64_t end, hva_t *ret);

/* agent-scan.c: what was written. */
int agent_watch_all(struct agent *a) must_check;
int agent_scan(struct agent *a) must_check;

/* agent-hash.c: reading, and talking about it. */
int agent_read(struct agent *a) must_check;
int agent_events(struct agent *a) must_check;
void agent_match(struct agent *a, uint32_t frame, uint32_t segment, uint32_t page);
/* The stretch becomes known. @run: pages that are equal from there on. */
void agent_fill_known(struct agent *a, uint32_t segment, uint32_t page, uint32_t run);

/* agent-donate.c */
/* What is wanted and still there. */
int agent_donate(struct agent *a) must_check;
/* Stretches of patterns that are worth it; frames with them are in the batch, or hear of it by events. */
void agent_donate_fills(struct agent *a);

/* agent-extents.c: the book. */
struct agent_extent *agent_extent_at(struct agent *a, uint32_t frame);
/* Frames are not the store's any more, whatever they are. */
int agent_extents_forget(struct agent *a, uint32_t first, uint32_t frames) must_check;
/* Frames are the store's now; room for them was reserved. */
int agent_extents_reserve(struct agent *a, size_t more) must_check;
void agent_extents_add(struct agent *a, const struct extent_list *added); /* rising */
void agent_extents_drop_all(struct agent *a);
/* Take over what came, and throw out what no longer holds. */
int agent_matches_merge(struct agent *a) must_check;

/* agent-plan.c */
int agent_plan(struct agent *a) must_check;
int agent_drop_zeros(struct agent *a) must_check;

/* agent-breaks.c: extents that were written, and pages that move within the store. */
int agent_breaks(struct agent *a, bool all) must_check;
int agent_move(struct agent *a) must_check;

#endif
