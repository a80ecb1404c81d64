/* SPDX-License-Identifier: Apache-2.0 */
/* The memory agent: a thread per VM that finds out what its guest's pages hold, and shares and gives back what it can. */
#ifndef SARDINE_KSM_AGENT_H
#define SARDINE_KSM_AGENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/addr.h"
#include "base/cleanup.h"
#include "base/errmsg.h"
#include "ksm/extent-apply.h"
#include "ksm/guest-view.h"
#include "ksm/page-states.h"
#include "ksm/store-link.h"
#include "ksm/write-tracker.h"

#define AGENT_INTERVAL_MS 1000u

/* RAM of the guest; [first, first + frames). */
struct agent_range {
	gfn_t first;
	uint64_t frames;
};

struct agent_config {
	struct guest_view view;		  /* copied; its context outlives the agent */
	const struct agent_range *ranges; /* rising, disjoint; copied */
	size_t range_count;
	struct store_link *link;    /* the agent's from now on, also on failure */
	_Atomic uint64_t *recorded; /* of the link */
	unsigned interval_ms;	    /* between passes, after the first ones; up to 8 times as long while nothing is written. 0: AGENT_INTERVAL_MS */
	uint64_t key_mask;	    /* 0, or the bits of keys to keep: tests make hashes collide with it */
	bool manual;		    /* passes only by agent_merge(): for benchmarks and tests */
	bool keep_zero;		    /* leave zero pages alone */
	void (*thread_begins)(void *arg); /* NULL, or called by the thread before all else: it gives up what it does not need */
	void *thread_arg;
};

struct agent;

/**
 * agent_new() - Watch a guest's memory.
 * @ret: freed with agent_free(). Nothing happens before agent_start().
 *
 * Return: 0, -ENOTSUP when no write tracker is to be had (@err says why), or another errno.
 */
int agent_new(const struct agent_config *config, struct errmsg *err, struct agent **ret) must_check;
/* Stops it. Memory stays shared as it is. NULL is allowed. */
void agent_free(struct agent *a);
DEFINE_CLEANUP(struct agent, agent_free)

/* Start the thread (kind: see base/signals.h). Return: 0 or the errno of pthread_create. */
int agent_start(struct agent *a) must_check;

/* No pass runs from the return of agent_suspend() on until agent_resume(). @forget: the guest's RAM is given back and
 * filled anew meanwhile (a reboot): all states and references are dropped, all ranges watched again. Any thread but
 * the agent's, and none that a hold stops. */
void agent_suspend(struct agent *a);
int agent_resume(struct agent *a, bool forget) must_check;

/* Frames were given back by the guest (balloon, reporting) or dropped by us elsewhere. Any thread, also one that a hold
 * stops; never waits. The caller has watched the new mapping already, if it made one: agent_watch(). */
void agent_discarded(struct agent *a, gfn_t first, uint64_t frames);
/* Anonymous memory was mapped anew at @start. Any thread. */
int agent_watch(struct agent *a, hva_t start, uint64_t bytes) must_check;

struct agent_merge_result {
	uint64_t pages_shared, pages_zeroed; /* by this call */
	uint64_t passes;
	uint64_t cpu_ns; /* of the agent's thread */
	uint64_t elapsed_ns;
	uint64_t holds;
	bool settled; /* a last pass found nothing more to do (but waits for other VMs) */
};

/**
 * agent_merge() - Passes now, one after the other, until one finds nothing more to share.
 * @max_ms: give up after this.
 *
 * Context: any thread that no hold stops; waits. One at a time: others queue up.
 * Return: 0, -ETIMEDOUT (what was done is in @ret), -ECANCELED when the agent is being freed, -EBUSY while suspended.
 */
int agent_merge(struct agent *a, unsigned max_ms, struct agent_merge_result *ret) must_check;

struct agent_stats {
	const char *tracker, *link;		  /* "uffd-wp-async"; "local", "sardined" */
	uint64_t frames[PAGE_STATES];		  /* now, by state */
	uint64_t moves[PAGE_STATES][PAGE_STATES]; /* ever, from, to */
	uint64_t passes, pass_ns, cpu_ns;	  /* cpu: of the thread, CLOCK_THREAD_CPUTIME_ID */
	uint64_t scanned_written, hashed, zeroed, donated, found;
	uint64_t extents, extent_pages; /* mapped now, as the agent knows */
	uint64_t broken, retaken; /* frames of extents that were written; taken back into plain memory */
	uint64_t scattered;   /* frames with a twin in the store that no extent within the budget covers */
	uint64_t hot_blocks;  /* blocks left alone because the guest writes them */
	uint64_t table_bytes; /* per-page state and lists */
	uint64_t errors;      /* passes that ended early; the last one's errno: */
	int last_error;
	struct extent_stats apply;
	struct store_shares shares; /* of the store, at the end of the last pass */
};
/* Any thread. */
void agent_stats(struct agent *a, struct agent_stats *ret);

#endif
