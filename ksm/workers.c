/* SPDX-License-Identifier: Apache-2.0 */
/* A loop over numbered pieces of work, shared by threads. */
#include "ksm/workers.h"

#include <errno.h>
#include <pthread.h>
#include <time.h>

#define PROGRESS_INTERVAL_NS 100000000

struct pool {
	const struct work_control *control;
	work_fn fn;
	void *ctx;
	uint64_t pieces;
	_Atomic uint64_t next; /* relaxed: it only deals out numbers */
	_Atomic uint64_t done;
	atomic_int error;
	pthread_mutex_t lock;
	pthread_cond_t ended;
	unsigned running; /* under lock */
};

struct worker {
	struct pool *pool;
	unsigned thread;
	pthread_t id;
};

static void pool_work(struct pool *pool, unsigned thread)
{
	for (;;) {
		uint64_t piece;
		int expected = 0, r;

		if (work_stopped(pool->control) || atomic_load_explicit(&pool->error, memory_order_relaxed))
			return;
		piece = atomic_fetch_add_explicit(&pool->next, 1, memory_order_relaxed);
		if (piece >= pool->pieces)
			return;
		r = pool->fn(pool->ctx, thread, piece);
		if (r < 0) {
			atomic_compare_exchange_strong(&pool->error, &expected, r);
			return;
		}
		atomic_fetch_add_explicit(&pool->done, 1, memory_order_relaxed);
	}
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;
	struct pool *pool = w->pool;

	pool_work(pool, w->thread);
	pthread_mutex_lock(&pool->lock);
	pool->running--;
	pthread_cond_signal(&pool->ended);
	pthread_mutex_unlock(&pool->lock);
	return NULL;
}

static void report(struct pool *pool, const char *phase)
{
	if (pool->control->progress)
		pool->control->progress(pool->control->progress_ctx, phase,
					atomic_load_explicit(&pool->done, memory_order_relaxed),
					pool->pieces);
}

/* Waits for the threads, and reports while it waits. */
static void pool_wait(struct pool *pool, const char *phase)
{
	pthread_mutex_lock(&pool->lock);
	while (pool->running) {
		struct timespec at;

		clock_gettime(CLOCK_MONOTONIC, &at);
		at.tv_nsec += PROGRESS_INTERVAL_NS;
		if (at.tv_nsec >= 1000000000) {
			at.tv_nsec -= 1000000000;
			at.tv_sec++;
		}
		if (pthread_cond_timedwait(&pool->ended, &pool->lock, &at) == ETIMEDOUT)
			report(pool, phase);
	}
	pthread_mutex_unlock(&pool->lock);
}

int workers_run(const struct work_control *control, const char *phase, uint64_t pieces, work_fn fn, void *ctx)
{
	struct pool pool = {.control = control, .fn = fn, .ctx = ctx, .pieces = pieces};
	struct worker workers[WORKERS_MAX];
	unsigned wanted = control->threads, started = 0;
	pthread_condattr_t attr;
	int r;

	if (wanted > WORKERS_MAX)
		wanted = WORKERS_MAX;
	if (wanted > pieces)
		wanted = (unsigned)pieces;
	pthread_mutex_init(&pool.lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&pool.ended, &attr);
	pthread_condattr_destroy(&attr);
	pthread_mutex_lock(&pool.lock);
	for (; started < wanted; started++) {
		workers[started].pool = &pool;
		workers[started].thread = started;
		if (pthread_create(&workers[started].id, NULL, worker_main, &workers[started]) != 0)
			break;
		pool.running++;
	}
	pthread_mutex_unlock(&pool.lock);
	if (started == 0)
		pool_work(&pool, 0);
	else
		pool_wait(&pool, phase);
	for (unsigned i = 0; i < started; i++)
		pthread_join(workers[i].id, NULL);
	pthread_cond_destroy(&pool.ended);
	pthread_mutex_destroy(&pool.lock);
	report(&pool, phase);
	r = atomic_load(&pool.error);
	if (r == 0 && atomic_load(&pool.done) < pieces)
		r = -ECANCELED;
	return r;
}
