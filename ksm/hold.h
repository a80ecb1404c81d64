/* SPDX-License-Identifier: Apache-2.0 */
/* Holding the threads that write a guest's memory, for as long as a short piece of work takes: vCPUs, the I/O thread, or what
 * stands for them. */
#ifndef SARDINE_KSM_HOLD_H
#define SARDINE_KSM_HOLD_H

#include <stdint.h>

#include "base/cleanup.h"
#include "base/histogram.h"

/*
 * Members are the threads of ours that write the guest's memory. A thread is a member of one hold at most. A member is
 * working, parked or resting; the work is done while none is working. All functions of members do nothing when the
 * calling thread is no member of @h, or @h is NULL: code that runs on several kinds of threads need not know.
 */
struct hold;

/*
 * How long members are kept waiting for the last one of them; then the hold is given up. For what should not happen (a member in a
 * system call that blocks): above what a busy host's scheduler makes of it, where a thread may wait some 10 ms for a CPU.
 */
#define HOLD_PATIENCE_NS 100000000u

struct hold_stats {
	uint64_t holds;	    /* in which the work was done */
	uint64_t by_caller; /* of these: nobody had to be waited for, so the caller did the work */
	uint64_t given_up;  /* a member did not park in time; the work was not done */
	uint64_t forbidden; /* calls that were refused */
	/* ns from the kick until the last of those who had parked went on: one value per hold that somebody parked for, given
	 * up or not. For a vCPU that is from the kick to its next entry into the guest. */
	struct histogram held_ns;
};

/**
 * hold_new() - A hold without members.
 * @kick: makes members look for attention that would not soon by themselves (vCPUs in the guest); on the caller's
 *        thread of hold_call(), without locks held. Must not lose anybody: see vmm/vcpu.c. NULL: none needs it.
 * @arg: for @kick.
 * @ret: freed with hold_free().
 *
 * Return: 0 or -ENOMEM.
 */
int hold_new(void (*kick)(void *arg), void *arg, struct hold **ret) must_check;
/* No thread may be a member any more. NULL is allowed. */
void hold_free(struct hold *h);
DEFINE_CLEANUP(struct hold, hold_free)

/* Instead of HOLD_PATIENCE_NS. Context: before the first call. */
void hold_set_patience(struct hold *h, uint64_t ns);

/* The calling thread writes memory from now on, and no longer. Joining waits for work that is being done. */
void hold_join(struct hold *h);
void hold_leave(struct hold *h);

/*
 * Park while held. A member calls it as often as it can: one load when nobody wants anything. It may hold no lock then that
 * another member may wait for. It waits for the other members, no longer than the patience, and for the work.
 */
void hold_attend(struct hold *h);

/**
 * hold_rest() - The calling member does not touch memory until it wakes; holds do not wait for it.
 * hold_wake() - It does again. Waits for work that is being done, and for nothing else, so it may hold locks.
 *
 * For a thread that sleeps, or waits for the kernel: only the kernel may read or write meanwhile, and only frames that are entered
 * as in flight (ksm/in-flight.h). Does not nest. A member that woke is working, and parks when it attends.
 */
void hold_rest(struct hold *h);
void hold_wake(struct hold *h);

/**
 * hold_call() - Call a function once while every member is parked or rests.
 * @h: the hold.
 * @work: called on the thread of the last member that parks, or on the caller's when there is none to wait for.
 * @arg: for @work.
 *
 * Context: not a member; callers queue up. Returns after @work, when the members may go on.
 * Return: 0; -ETIMEDOUT when a member did not park in time, -EBUSY while holds are forbidden: then @work was not called.
 */
int hold_call(struct hold *h, void (*work)(void *arg), void *arg) must_check;

/*
 * From the return of hold_forbid() to hold_allow() no work is done: for those who want memory to stay as it is mapped without
 * being members (a dump reads what a hold would move), or who write it while all members are stopped otherwise. Nests.
 * Context: hold_forbid(): not a member; waits for the end of a hold. hold_allow(): any thread.
 */
void hold_forbid(struct hold *h);
void hold_allow(struct hold *h);

/* Any thread; takes the hold's lock. */
void hold_stats(struct hold *h, struct hold_stats *ret);

#endif
