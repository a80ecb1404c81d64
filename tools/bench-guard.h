/* SPDX-License-Identifier: Apache-2.0 */
/* What a benchmark changes on the host, put back also when it is killed: by a process of its own, or by the next benchmark. */
#ifndef SARDINE_TOOLS_BENCH_GUARD_H
#define SARDINE_TOOLS_BENCH_GUARD_H

#include <stdbool.h>
#include <stddef.h>

#include "base/cleanup.h"
#include "base/errmsg.h"

#define BENCH_KSM_SETTINGS 6u

/* Settings of KSM, by file; "": this kernel does not have it. */
struct bench_ksm {
	char value[BENCH_KSM_SETTINGS][32];
};

/* In the order in which they are written: an advisor keeps others from being set, and `run` comes last. */
extern const char *const bench_ksm_files[BENCH_KSM_SETTINGS];
enum { BENCH_KSM_RUN = BENCH_KSM_SETTINGS - 1 };

/* @root: KSM_SYSFS or a folder like it. Return: 0 or an errno. */
int bench_ksm_read(const char *root, struct bench_ksm *ret) must_check;
/* Write what is not "". A `run` of 2 is written as 0: it would undo the merges of others. Return: 0 or the first errno. */
int bench_ksm_write(const char *root, const struct bench_ksm *settings) must_check;

/* What there is to put back. Paths are borrowed. */
struct bench_mess {
	const char *state;   /* file that remembers all this; NULL: only the process does */
	const char *ksm;     /* KSM_SYSFS or a folder like it; NULL: KSM is left alone */
	const char *cgroup;  /* folder to remove once it is empty; NULL */
	const char *runtime; /* folder to remove with the files in it; NULL */
};

struct bench_guard;

/**
 * bench_guard_start() - Remember the host's state, and have a process put it back once the caller is gone.
 * @mess: what will be changed, as it is now.
 * @err: one line on failure.
 * @ret: ended with bench_guard_end().
 *
 * Context: before threads are started.
 * Return: 0, -EBUSY when another benchmark holds the state file, or an errno.
 */
int bench_guard_start(const struct bench_mess *mess, struct errmsg *err, struct bench_guard **ret) must_check;

/* Put everything back. Return: 0 or an errno: something could not be. NULL is allowed. */
int bench_guard_end(struct bench_guard *g);

/**
 * bench_guard_repair() - Put back what a benchmark that was killed, its guard with it, has left.
 * @state: the state file.
 * @err: one line on failure.
 *
 * Return: 1 when there was something, 0 when not, -EBUSY while a benchmark runs, -EPERM when the file is somebody else's,
 * or an errno.
 */
int bench_guard_repair(const char *state, struct errmsg *err) must_check;

#endif
