/* SPDX-License-Identifier: Apache-2.0 */
/* Running the kernel's ksmd for a benchmark, and seeing what it did. */
#ifndef SARDINE_TOOLS_BENCH_KSMD_H
#define SARDINE_TOOLS_BENCH_KSMD_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "tools/bench.h"

/**
 * bench_ksmd_refuse() - Is there a reason not to run ksmd here?
 *
 * Others whose memory is mergeable would be merged, too, and counted; whoever else turns the knobs would fight us.
 *
 * Context: before VMs are started. Return: 0, or -ENOTSUP with the reason in @err.
 */
int bench_ksmd_refuse(struct errmsg *err) must_check;

/* Set KSM for an engine, ksmd stopped. Return: 0 or an errno. */
int bench_ksmd_set(enum bench_engine engine, struct errmsg *err) must_check;
/* Start it, or stop it with all merges kept. */
int bench_ksmd_run(bool on) must_check;

struct bench_ksmd {
	pid_t pid;		       /* of the kernel thread */
	unsigned scans;		       /* without any news, after which it counts as settled */
	uint64_t sharing, full_scans;  /* last seen, with sharing's last change */
	uint64_t cpu_start_ns, cpu_ns; /* at the start; of ksmd up to that change */
};

int bench_ksmd_begin(enum bench_engine engine, struct bench_ksmd *ret, struct errmsg *err) must_check;
/* Look how it is going. Return: 1 once it has settled, 0, or an errno. */
int bench_ksmd_look(struct bench_ksmd *k) must_check;

/* Bytes of the kernel's own that the merges of these VMs cost: an rmap_item of 64 bytes per page scanned, a node of 64 bytes per
 * merged page (mm/ksm.c). */
uint64_t bench_ksmd_meta_bytes(const struct bench_vm *vms, unsigned count);

/* CPU time of all threads of a process, by the scheduler's account. 0: it is gone. */
uint64_t bench_cpu_ns(pid_t pid);

#endif
