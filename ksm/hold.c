/* SPDX-License-Identifier: Apache-2.0 */
/* A flag that asks for attention, and a count of those who pay it, anew for each hold. */
#include "ksm/hold.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "base/clock.h"
#include "ksm/break.h"

/*
 * Theory of operation
 *
 * A hold has a number, its generation. `parked` counts the members that parked for this generation, and begins again at
 * zero with the next: a thread that was released but did not run yet has no part in the count of the next hold, for
 * which it parks again. It waits for the end of its own generation only. Two more rules let everybody get somewhere, however
 * fast holds follow each other: a hold begins only when all who parked for the one before have gone on (`leaving` is 0), and
 * when nobody waits for the mutex to wake or to join (`waiting`).
 *
 * The work is done under the mutex, and nothing else of any length is: whoever wakes, joins or leaves meanwhile waits for the
 * work there. Waking does not wait for other members: while these are still gathering, a member that wakes is one of those to be
 * waited for. So a member may rest and wake with a lock held that others want before they can park. The mutex also
 * orders memory: what members wrote before they parked or rested is seen by the work, what the work did is seen by them.
 *
 * The attention is set before the kick, so whoever was kicked sees it. Who was not in need of a kick sees it sooner or later.
 *
 * A hold whose members do not gather in time is given up: it ends without the work. So a member that parks waits for a bounded
 * time whatever another one does (a system call that blocks, a CPU that it does not get).
 */
struct hold {
	atomic_bool attention;
	atomic_uint waiting; /* to become members, or to wake; with or without the mutex */
	void (*kick)(void *arg);
	void *kick_arg;
	uint64_t patience_ns;
	pthread_mutex_t callers; /* held by the caller that has its turn; taken before the next */
	pthread_mutex_t mutex;
	pthread_cond_t over;  /* a hold has ended */
	pthread_cond_t quiet; /* the next may begin */
	/* Guarded by the mutex: */
	unsigned members, parked, resting;
	unsigned leaving; /* parked, or released and not gone on yet */
	unsigned forbidden;
	uint64_t generation;
	uint64_t kicked_ns;	 /* of this generation, or the last */
	void (*work)(void *arg); /* NULL: no hold */
	void *arg;
	struct hold_stats stats;
};

/* That the thread is a member of. */
static _Thread_local struct hold *this_hold;

int hold_new(void (*kick)(void *arg), void *arg, struct hold **ret)
{
	struct hold *h = calloc(1, sizeof(*h));
	pthread_condattr_t attr;

	if (!h)
		return -ENOMEM;
	h->kick = kick;
	h->kick_arg = arg;
	h->patience_ns = HOLD_PATIENCE_NS;
	pthread_mutex_init(&h->callers, NULL);
	pthread_mutex_init(&h->mutex, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&h->over, &attr);
	pthread_cond_init(&h->quiet, &attr);
	pthread_condattr_destroy(&attr);
	*ret = h;
	return 0;
}

void hold_free(struct hold *h)
{
	if (!h)
		return;
	pthread_cond_destroy(&h->quiet);
	pthread_cond_destroy(&h->over);
	pthread_mutex_destroy(&h->mutex);
	pthread_mutex_destroy(&h->callers);
	free(h);
}

void hold_set_patience(struct hold *h, uint64_t ns)
{
	h->patience_ns = ns;
}

/* Under the mutex. */
static void end_hold(struct hold *h)
{
	h->work = NULL;
	h->generation++;
	if (!broken(BREAK_STALE_PARKED))
		h->parked = 0;
	atomic_store_explicit(&h->attention, false, memory_order_relaxed);
	pthread_cond_broadcast(&h->over);
}

/* Under the mutex. Returns whether the work was done. */
static bool work_if_all(struct hold *h)
{
	if (!h->work || h->parked + h->resting < h->members)
		return false;
	h->work(h->arg);
	h->stats.holds++;
	end_hold(h);
	return true;
}

static void wait_until_over(struct hold *h)
{
	for (uint64_t mine = h->generation; h->work && h->generation == mine;)
		pthread_cond_wait(&h->over, &h->mutex);
}

/* Take the mutex; the next hold lets those through first that wait for it here. */
static void lock_first(struct hold *h)
{
	atomic_fetch_add(&h->waiting, 1);
	pthread_mutex_lock(&h->mutex);
	if (atomic_fetch_sub(&h->waiting, 1) == 1)
		pthread_cond_signal(&h->quiet);
}

void hold_join(struct hold *h)
{
	if (!h)
		return;
	assert(!this_hold);
	lock_first(h);
	h->members++;
	pthread_mutex_unlock(&h->mutex);
	this_hold = h;
}

void hold_leave(struct hold *h)
{
	if (!h || this_hold != h)
		return;
	this_hold = NULL;
	pthread_mutex_lock(&h->mutex);
	h->members--;
	work_if_all(h);
	pthread_mutex_unlock(&h->mutex);
}

void hold_attend(struct hold *h)
{
	/* Acquire: pairs with the release of hold_call(), for what its kick tells this thread. */
	if (!h || !atomic_load_explicit(&h->attention, memory_order_acquire) || this_hold != h)
		return;
	pthread_mutex_lock(&h->mutex);
	if (h->work) {
		h->parked++;
		h->leaving++;
		if (!work_if_all(h))
			wait_until_over(h);
		if (--h->leaving == 0) {
			histogram_add(&h->stats.held_ns, clock_now_ns() - h->kicked_ns);
			pthread_cond_signal(&h->quiet);
		}
	}
	pthread_mutex_unlock(&h->mutex);
}

void hold_rest(struct hold *h)
{
	if (!h || this_hold != h)
		return;
	pthread_mutex_lock(&h->mutex);
	h->resting++;
	work_if_all(h);
	pthread_mutex_unlock(&h->mutex);
}

void hold_wake(struct hold *h)
{
	if (!h || this_hold != h)
		return;
	lock_first(h);
	h->resting--;
	pthread_mutex_unlock(&h->mutex);
}

/* Wait for the end of the hold that began as generation @mine. Under the mutex. Return: 0 or -ETIMEDOUT. */
static int wait_or_give_up(struct hold *h, uint64_t mine)
{
	uint64_t until = h->kicked_ns + h->patience_ns;
	struct timespec t = {.tv_sec = (time_t)(until / 1000000000), .tv_nsec = (long)(until % 1000000000)};

	while (h->generation == mine) {
		if (pthread_cond_timedwait(&h->over, &h->mutex, &t) != ETIMEDOUT || h->generation != mine)
			continue;
		h->stats.given_up++;
		end_hold(h);
		return -ETIMEDOUT;
	}
	return 0;
}

/* Under the mutex. */
static int call_locked(struct hold *h, void (*work)(void *arg), void *arg)
{
	uint64_t mine;

	while (atomic_load(&h->waiting) || h->leaving)
		pthread_cond_wait(&h->quiet, &h->mutex);
	if (h->forbidden) {
		h->stats.forbidden++;
		return -EBUSY;
	}
	mine = h->generation;
	h->work = work;
	h->arg = arg;
	h->kicked_ns = clock_now_ns();
	atomic_store_explicit(&h->attention, true, memory_order_release);
	if (work_if_all(h)) {
		h->stats.by_caller++;
		return 0;
	}
	if (h->kick && !broken(BREAK_NO_KICK)) {
		pthread_mutex_unlock(&h->mutex);
		h->kick(h->kick_arg);
		pthread_mutex_lock(&h->mutex);
	}
	return wait_or_give_up(h, mine);
}

int hold_call(struct hold *h, void (*work)(void *arg), void *arg)
{
	int r;

	assert(this_hold != h);
	pthread_mutex_lock(&h->callers);
	pthread_mutex_lock(&h->mutex);
	r = call_locked(h, work, arg);
	pthread_mutex_unlock(&h->mutex);
	pthread_mutex_unlock(&h->callers);
	return r;
}

void hold_forbid(struct hold *h)
{
	assert(this_hold != h);
	pthread_mutex_lock(&h->mutex);
	h->forbidden++;
	wait_until_over(h);
	pthread_mutex_unlock(&h->mutex);
}

void hold_allow(struct hold *h)
{
	pthread_mutex_lock(&h->mutex);
	h->forbidden--;
	pthread_mutex_unlock(&h->mutex);
}

void hold_stats(struct hold *h, struct hold_stats *ret)
{
	pthread_mutex_lock(&h->mutex);
	*ret = h->stats;
	pthread_mutex_unlock(&h->mutex);
}
