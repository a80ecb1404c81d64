/* SPDX-License-Identifier: Apache-2.0 */
/* Holding the threads that write replayed memory, as a VM holds its vCPUs: whoever parks last does the work. */
#ifndef SARDINE_KSM_REPLAY_HOLD_H
#define SARDINE_KSM_REPLAY_HOLD_H

#include <stdatomic.h>
#include <stdint.h>

#include "base/cleanup.h"

struct replay_hold;

struct replay_hold_stats {
	uint64_t holds;
	uint64_t by_caller; /* of these: nobody had to be waited for, so the caller did the work */
};

/* Return: 0 or -ENOMEM. */
int replay_hold_new(struct replay_hold **ret) must_check;
/* No thread may be a member any more. NULL is allowed. */
void replay_hold_free(struct replay_hold *h);
DEFINE_CLEANUP(struct replay_hold, replay_hold_free)

/* The calling thread writes memory from now on (waits for the end of a hold), and no longer. */
void replay_hold_join(struct replay_hold *h);
void replay_hold_leave(struct replay_hold *h);

/* Park while held. A member calls it between two writes, as often as it can: one load when nobody wants anything. */
void replay_hold_attend(struct replay_hold *h);

/**
 * replay_hold_rest() - The calling member does not touch memory until it wakes; holds do not wait for it.
 * replay_hold_wake() - It does again; waits for the end of a hold.
 *
 * For a thread that sleeps, or a device that waits for the kernel: only the kernel may write meanwhile.
 */
void replay_hold_rest(struct replay_hold *h);
void replay_hold_wake(struct replay_hold *h);

/**
 * replay_hold_call() - Call a function once while every member is parked or rests.
 * @h: the hold.
 * @work: called on the thread of the last member that parks, or on the caller's when there is none to wait for.
 * @arg: for @work.
 *
 * Context: not a member; one thread at a time. Returns after @work, when the members may go on.
 */
void replay_hold_call(struct replay_hold *h, void (*work)(void *arg), void *arg);

void replay_hold_stats(struct replay_hold *h, struct replay_hold_stats *ret);

#endif
