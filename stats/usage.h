/* SPDX-License-Identifier: Apache-2.0 */
/* The account of a VM's memory, and of the host's: what is used, what is shared, what that saves. */
#ifndef SARDINE_STATS_USAGE_H
#define SARDINE_STATS_USAGE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "stats/ksm-usage.h"
#include "stats/smaps.h"

/* Of `stats --json`; grows by one when a reader would have to know. */
#define USAGE_SCHEMA 1

/* What the VM's memory agent and its store know. Zeroed: there is none. */
struct usage_store {
	bool known;
	uint64_t mapped_bytes; /* of guest RAM that is pages of the store, in memory or not yet touched */
	/* Of the whole store: mappings of its pages by all VMs, and those beyond the first of each page. */
	uint64_t mappings;
	uint64_t saved;
};

/* What is known of a VM before it is accounted for. */
struct usage_input {
	uint64_t configured_bytes;
	uint64_t ballooned_bytes;
	bool mergeable;
	struct smaps_sum guest;
	struct smaps_sum rest; /* of the VMM */
	bool file_pss_known;
	uint64_t file_pss; /* of all of the process (smaps_rollup_read()) */
	struct ksm_process_usage ksm;
	struct ksm_host_usage ksm_host;
	struct usage_store store;
};

/* docs/stats.md defines each. All in bytes. */
struct vm_usage {
	uint64_t configured;
	uint64_t populated; /* = private + shared_from_birth + merged + store */
	uint64_t private;
	uint64_t shared_from_birth;
	uint64_t merged;
	uint64_t store;
	uint64_t ballooned;
	uint64_t huge;
	uint64_t swapped;
	uint64_t zero;	   /* where zero_known */
	uint64_t occupied; /* = populated - saved_total */
	uint64_t vmm_private;
	uint64_t saved_birth;
	uint64_t saved_ksm;
	uint64_t saved_store;
	uint64_t saved_total; /* = saved_birth + saved_ksm + saved_store */
	uint64_t saved_zero;  /* where zero_known; not in the total */
	bool zero_known;
	bool mergeable;
};

/**
 * vm_usage_account() - Work out the account. Pure.
 *
 * The kernel's figures are of slightly different moments; they are bounded so that the equations hold.
 */
void vm_usage_account(const struct usage_input *input, struct vm_usage *ret);

/* The host: sums over VMs. Zeroed is no VM. */
struct host_usage {
	unsigned vms;
	struct vm_usage sum; /* zero: of those VMs where it is known */
	struct ksm_host_usage ksm;
};

void host_usage_add(struct host_usage *host, const struct vm_usage *vm);

/* What the guests would occupy without sharing, as a multiple of what they occupy; 1 when there is nothing. */
double host_usage_ratio(const struct host_usage *host);

/* New references, or NULL without memory: the values of "memory" and "saved" of a VM, and of "host". */
json_t *vm_usage_memory_json(const struct vm_usage *vm);
json_t *vm_usage_saved_json(const struct vm_usage *vm);
json_t *host_usage_json(const struct host_usage *host);

/**
 * vm_usage_from_json() - Read back the statistics of a VM.
 * @vm: the answer to `stats`.
 *
 * Return: 0 or -EINVAL when a figure is missing.
 */
int vm_usage_from_json(const json_t *vm, struct vm_usage *ret) must_check;

#endif
