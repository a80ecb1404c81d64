/* SPDX-License-Identifier: Apache-2.0 */
/* What a VM's memory agent did, as control socket and statistics say it. */
#ifndef SARDINE_VMM_ENGINE_H
#define SARDINE_VMM_ENGINE_H

#include <jansson.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "base/errmsg.h"
#include "ksm/agent.h"
#include "ksm/hold.h"
#include "stats/usage.h"
#include "vmm/control.h"

/* Kernel memory of a mapping: measured are 541 to 653 bytes, and an extent amid other memory makes two. */
#define ENGINE_EXTENT_BYTES (2u * 653u)

/**
 * engine_merge() - The control request `merge`, of a VM with an agent.
 *
 * As control_ops.merge. Looks at @cancel several times a second.
 */
int engine_merge(struct agent *agent, unsigned max_ms, const atomic_bool *cancel, struct errmsg *err,
		 struct control_merged *ret) must_check;

/* The account's part that the agent knows. */
void engine_usage(const struct agent_stats *stats, struct usage_store *ret);

/* What the engine costs this VM: tables, mappings, and a store of its own. */
uint64_t engine_metadata_bytes(const struct agent_stats *stats);

/* "engine" of `stats`; a new reference, or NULL without memory. */
json_t *engine_json(const struct agent_stats *stats);

/* "held" in it: how long the guest was held, from the kick until it goes on. A new reference, or NULL without memory. */
json_t *engine_held_json(const struct hold_stats *stats);

/**
 * engine_quantile_us() - How long the work in holds took.
 * @per_mille: of the holds took at most that long.
 *
 * Return: us; the upper end of the histogram's bucket, at most the longest; 0 without holds.
 */
double engine_quantile_us(const struct extent_stats *apply, unsigned per_mille);

#endif
