/* SPDX-License-Identifier: Apache-2.0 */
/* Threads that leave signals to the main thread. */
#include "base/signals.h"

int signals_thread_create(pthread_t *ret, void *(*thread_main)(void *arg), void *arg)
{
	sigset_t all, old;
	int r;

	/* A thread begins with its creator's mask: there is no moment in which it takes a signal. */
	signals_fill_but_faults(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = pthread_create(ret, NULL, thread_main, arg);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return -r;
}
