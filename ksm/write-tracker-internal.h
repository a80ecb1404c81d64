/* SPDX-License-Identifier: Apache-2.0 */
/* What a kind of write tracker implements. Others (KVM's dirty log, rehashing) get a table of their own. */
#ifndef SARDINE_KSM_WRITE_TRACKER_INTERNAL_H
#define SARDINE_KSM_WRITE_TRACKER_INTERNAL_H

#include "ksm/write-tracker.h"

struct write_tracker_ops {
	const char *name;
	void (*free)(struct write_tracker *t);
	int (*add)(struct write_tracker *t, hva_t start, uint64_t bytes);
	int (*remove)(struct write_tracker *t, hva_t start, uint64_t bytes);
	int (*scan)(struct write_tracker *t, hva_t start, uint64_t bytes, const struct write_scan *scan);
	int (*unwritten)(struct write_tracker *t, hva_t start, uint64_t bytes);
	int (*uncopied)(struct write_tracker *t, hva_t start, uint64_t bytes);
	int (*copies)(struct write_tracker *t, hva_t start, uint64_t bytes,
		      int (*report)(void *ctx, const struct write_range *range), void *ctx);
};

struct write_tracker {
	const struct write_tracker_ops *ops;
	uint64_t generation;
};

/* See write_tracker_new(). */
int write_tracker_uffd_new(struct errmsg *err, struct write_tracker **ret) must_check;

#endif
