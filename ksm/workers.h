/* SPDX-License-Identifier: Apache-2.0 */
/* A loop over numbered pieces of work, shared by threads, that can be stopped and watched. */
#ifndef SARDINE_KSM_WORKERS_H
#define SARDINE_KSM_WORKERS_H

#include <stdatomic.h>
#include <stdint.h>

#include "base/cleanup.h"

#define WORKERS_MAX 256

/* How a long computation talks to its caller. Zeroed: one thread, never stopped, silent. */
struct work_control {
	unsigned threads;	/* 0 is 1 */
	const atomic_int *stop; /* not NULL: stop soon after it becomes nonzero */
	void (*progress)(void *ctx, const char *phase, uint64_t done,
			 uint64_t total); /* some 10 times a second */
	void *progress_ctx;
};

/* True once the caller wants the work to end. */
static inline int work_stopped(const struct work_control *control)
{
	return control->stop && atomic_load_explicit(control->stop, memory_order_relaxed);
}

/* One piece. @thread is below the number of threads. A negative errno ends the loop. */
typedef int (*work_fn)(void *ctx, unsigned thread, uint64_t piece);

/**
 * workers_run() - Call @fn for each piece in [0, pieces), in rising order per thread.
 * @control: threads, stop flag and progress.
 * @phase: a word for people, handed to progress.
 * @pieces: how many.
 * @fn: the work; runs on several threads at once.
 * @ctx: for @fn.
 *
 * Context: starts and joins threads; progress runs on the calling thread. When threads cannot be started the
 * calling thread does the work.
 * Return: 0, -ECANCELED when stopped before all pieces were done, or the first error of @fn.
 */
int workers_run(const struct work_control *control, const char *phase, uint64_t pieces, work_fn fn,
		void *ctx) must_check;

#endif
