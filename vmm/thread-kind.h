/* SPDX-License-Identifier: Apache-2.0 */
/* The kinds of threads of a VM, and how one gives up what it does not need. */
#ifndef SARDINE_VMM_THREAD_KIND_H
#define SARDINE_VMM_THREAD_KIND_H

enum thread_kind {
	THREAD_LOOP, /* the I/O loop: the main thread; all others are started by it */
	THREAD_VCPU,
	THREAD_WORKER, /* short-lived: a dump, statistics, a pause, the next boot */
	THREAD_AGENT,  /* the memory agent */
	THREAD_KINDS,
};

const char *thread_kind_name(enum thread_kind kind);

/*
 * What a thread calls first of all, on itself: from then on it may do what its kind needs, and no more. Ends the process when that
 * fails. NULL: nothing is given up.
 */
typedef void (*thread_confine_fn)(enum thread_kind kind);

#endif
