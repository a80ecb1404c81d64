/* SPDX-License-Identifier: Apache-2.0 */
/* The signal mask of threads that leave signals to the main thread. */
#ifndef SARDINE_BASE_SIGNALS_H
#define SARDINE_BASE_SIGNALS_H

#include <pthread.h>
#include <signal.h>

#include "base/cleanup.h"

/*
 * All signals but those that a fault of the thread itself raises: the kernel kills a process whose thread blocks
 * its own fault without running the handler, which gives the terminal back.
 */
static inline void signals_fill_but_faults(sigset_t *set)
{
	static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT};

	sigfillset(set);
	for (unsigned i = 0; i < sizeof(faults) / sizeof(faults[0]); i++)
		sigdelset(set, faults[i]);
}

/**
 * signals_thread_create() - Start a thread that leaves signals to the others: it has them all blocked but its own faults.
 * @ret: written on success.
 *
 * Return: 0, or the negative errno of pthread_create.
 */
int signals_thread_create(pthread_t *ret, void *(*thread_main)(void *arg), void *arg) must_check;

#endif
