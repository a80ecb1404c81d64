/* SPDX-License-Identifier: Apache-2.0 */
/* A flag that asks for attention, and a count of those who pay it, anew for each hold. */
#include "ksm/replay-hold.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>

#include "ksm/break.h"

/*
 * Theory of operation
 *
 * A hold has a number, its generation. `parked` counts the members that parked for this generation, and begins again at
 * zero with the next: a thread that was released but did not run yet has no part in the count of the next hold, for
 * which it parks again. It waits for the end of its own generation only, so that a hold that follows at once cannot
 * keep it for ever, nor take it for parked when it is on its way out. Those who rest count as held until they are awake; a
 * hold begins only when nobody waits to wake, or holds in a row would keep them from it.
 *
 * The work is done under the mutex; whoever wakes, joins or leaves meanwhile waits for it there. The mutex also orders
 * memory: what members wrote before they parked is seen by the work, what the work did is seen by them.
 */
struct replay_hold {
	atomic_bool attention;
	atomic_uint waiting; /* to become members, or to wake; with or without the mutex */
	pthread_mutex_t mutex;
	pthread_cond_t over;
	/* Guarded by the mutex: */
	unsigned members, parked, resting;
	uint64_t generation;
	void (*work)(void *arg); /* NULL: no hold */
	void *arg;
	struct replay_hold_stats stats;
};

int replay_hold_new(struct replay_hold **ret)
{
	struct replay_hold *h = calloc(1, sizeof(*h));

	if (!h)
		return -ENOMEM;
	pthread_mutex_init(&h->mutex, NULL);
	pthread_cond_init(&h->over, NULL);
	*ret = h;
	return 0;
}

void replay_hold_free(struct replay_hold *h)
{
	if (!h)
		return;
	pthread_cond_destroy(&h->over);
	pthread_mutex_destroy(&h->mutex);
	free(h);
}

/* Under the mutex. Returns whether the work was done. */
static bool work_if_all(struct replay_hold *h)
{
	if (!h->work || h->parked + h->resting < h->members)
		return false;
	h->work(h->arg);
	h->work = NULL;
	h->generation++;
	if (!broken(BREAK_STALE_PARKED))
		h->parked = 0;
	h->stats.holds++;
	atomic_store_explicit(&h->attention, false, memory_order_relaxed);
	pthread_cond_broadcast(&h->over);
	return true;
}

static void wait_until_over(struct replay_hold *h)
{
	for (uint64_t mine = h->generation; h->work && h->generation == mine;)
		pthread_cond_wait(&h->over, &h->mutex);
}

/* Take the mutex when no hold is on. The next hold lets those through first that wait here, also for the mutex. */
static void lock_when_free(struct replay_hold *h)
{
	atomic_fetch_add(&h->waiting, 1);
	pthread_mutex_lock(&h->mutex);
	if (h->work)
		wait_until_over(h);
	if (atomic_fetch_sub(&h->waiting, 1) == 1)
		pthread_cond_broadcast(&h->over);
}

void replay_hold_join(struct replay_hold *h)
{
	lock_when_free(h);
	h->members++;
	pthread_mutex_unlock(&h->mutex);
}

void replay_hold_leave(struct replay_hold *h)
{
	pthread_mutex_lock(&h->mutex);
	h->members--;
	work_if_all(h);
	pthread_mutex_unlock(&h->mutex);
}

void replay_hold_attend(struct replay_hold *h)
{
	if (!atomic_load_explicit(&h->attention, memory_order_relaxed))
		return;
	pthread_mutex_lock(&h->mutex);
	if (h->work) {
		h->parked++;
		if (!work_if_all(h))
			wait_until_over(h);
	}
	pthread_mutex_unlock(&h->mutex);
}

void replay_hold_rest(struct replay_hold *h)
{
	pthread_mutex_lock(&h->mutex);
	h->resting++;
	work_if_all(h);
	pthread_mutex_unlock(&h->mutex);
}

void replay_hold_wake(struct replay_hold *h)
{
	lock_when_free(h);
	h->resting--;
	pthread_mutex_unlock(&h->mutex);
}

void replay_hold_call(struct replay_hold *h, void (*work)(void *arg), void *arg)
{
	pthread_mutex_lock(&h->mutex);
	while (atomic_load(&h->waiting))
		pthread_cond_wait(&h->over, &h->mutex);
	h->work = work;
	h->arg = arg;
	atomic_store_explicit(&h->attention, true, memory_order_relaxed);
	if (work_if_all(h))
		h->stats.by_caller++;
	else
		wait_until_over(h);
	pthread_mutex_unlock(&h->mutex);
}

void replay_hold_stats(struct replay_hold *h, struct replay_hold_stats *ret)
{
	pthread_mutex_lock(&h->mutex);
	*ret = h->stats;
	pthread_mutex_unlock(&h->mutex);
}
