/* SPDX-License-Identifier: Apache-2.0 */
/* Signals to a running VM: the first asks its guest to power off, the second kills it; SIGHUP reopens files. */
#ifndef SARDINE_TOOLS_RUN_SIGNALS_H
#define SARDINE_TOOLS_RUN_SIGNALS_H

#include <stdbool.h>

#include "base/errmsg.h"
#include "vmm/io-loop.h"

struct run_signals;

/* What signals do to the VM. Context: the loop's thread. */
struct run_signals_ops {
	/* SIGHUP. @by_kernel: the terminal hung up. Return: false to have it count as a request to stop. */
	bool (*hangup)(void *arg, bool by_kernel);
	void (*stop)(void *arg); /* power button, and a kill when it does not help */
	void (*kill)(void *arg);
};

/**
 * run_signals_block() - From here on SIGTERM, SIGINT and SIGHUP wait for run_signals_new(); SIGPIPE is
 * ignored.
 *
 * Context: before other threads exist, which inherit it.
 */
void run_signals_block(void);

/* Whoever started us wants hang-ups ignored, as nohup does. */
bool run_signals_hangup_ignored(void);

/* One of them waits already, other than a hang-up.  Context: before the loop runs. */
bool run_signals_pending(void);

/**
 * run_signals_new() - Let the loop receive them.
 * @loop: outlives the object.
 * @ops, @arg: what they do.
 * @err: one line on failure.
 * @ret: freed with run_signals_free().
 *
 * Return: 0 or an errno.
 */
int run_signals_new(struct io_loop *loop, const struct run_signals_ops *ops, void *arg, struct errmsg *err,
		    struct run_signals **ret) must_check;
void run_signals_free(struct run_signals *s);
DEFINE_CLEANUP(struct run_signals, run_signals_free)

#endif
