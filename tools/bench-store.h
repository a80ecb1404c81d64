/* SPDX-License-Identifier: Apache-2.0 */
/* Running our store for a benchmark: a daemon of its own, and merges of all VMs at once. */
#ifndef SARDINE_TOOLS_BENCH_STORE_H
#define SARDINE_TOOLS_BENCH_STORE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "tools/bench.h"

/**
 * bench_daemon_start() - Start `sardined` in the benchmark's room and wait until it answers.
 *
 * It is looked for beside the program that runs. It dies with the caller. Return: 0, -ENOTSUP when there is none, or an errno.
 */
int bench_daemon_start(const struct bench_room *room, pid_t *ret_pid, struct errmsg *err) must_check;
void bench_daemon_end(pid_t pid);

/* What the daemon says of itself. */
struct bench_daemon {
	uint64_t index_bytes; /* and records */
	uint64_t mappings;    /* as far as the VMs have told */
	uint64_t saved_pages; /* by the VMs' references */
};

/* Return: 0 or an errno. */
int bench_daemon_read(struct bench_daemon *ret, struct errmsg *err) must_check;

/* Merges of all VMs at once, each on a thread of its own, in rounds until a round shares nothing new. */
struct bench_merges;

int bench_merges_start(const struct bench_vm *vms, unsigned count, struct bench_merges **ret) must_check;
/* Whether all are done. */
bool bench_merges_done(struct bench_merges *m);
/* Wait for the end of the merges under way. Return: 1 when nothing is left to share, 0 when it was ended before, or an errno. */
int bench_merges_end(struct bench_merges *m, struct errmsg *err);

/* What the VMs' engines say of themselves, summed up; holds: of the VM that was held worst. */
struct bench_engines {
	double agent_s;
	uint64_t mapped_pages;			     /* of the store */
	uint64_t extents, scattered, metadata_bytes; /* docs/stats.md */
	double p50_us, p99_us, p999_us, max_us;
};

int bench_engines_read(const struct bench_vm *vms, unsigned count, struct bench_engines *ret,
		       struct errmsg *err) must_check;

#endif
