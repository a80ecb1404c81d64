/* SPDX-License-Identifier: Apache-2.0 */
/* Write trackers: the choice of one, and the checks that all need. */
#include "ksm/write-tracker.h"

#include <errno.h>

#include "ksm/write-tracker-internal.h"

int write_tracker_new(struct errmsg *err, struct write_tracker **ret)
{
	return write_tracker_uffd_new(err, ret);
}

void write_tracker_free(struct write_tracker *t)
{
	if (t)
		t->ops->free(t);
}

const char *write_tracker_name(const struct write_tracker *t)
{
	return t->ops->name;
}

static bool range_valid(hva_t start, uint64_t bytes)
{
	return !((start.v | bytes) & PAGE_MASK) && bytes != 0 && bytes <= UINTPTR_MAX - start.v;
}

int write_tracker_add(struct write_tracker *t, hva_t start, uint64_t bytes)
{
	return range_valid(start, bytes) ? t->ops->add(t, start, bytes) : -EINVAL;
}

int write_tracker_remove(struct write_tracker *t, hva_t start, uint64_t bytes)
{
	return range_valid(start, bytes) ? t->ops->remove(t, start, bytes) : -EINVAL;
}

int write_tracker_scan(struct write_tracker *t, hva_t start, uint64_t bytes, const struct write_scan *scan)
{
	static const struct write_scan silent;
	int r;

	if (!range_valid(start, bytes))
		return -EINVAL;
	r = t->ops->scan(t, start, bytes, scan ? scan : &silent);
	if (r == 0)
		t->generation++;
	return r;
}

uint64_t write_tracker_generation(const struct write_tracker *t)
{
	return t->generation;
}

int write_tracker_unwritten(struct write_tracker *t, hva_t start, uint64_t bytes)
{
	return range_valid(start, bytes) ? t->ops->unwritten(t, start, bytes) : -EINVAL;
}

int write_tracker_uncopied(struct write_tracker *t, hva_t start, uint64_t bytes)
{
	return range_valid(start, bytes) ? t->ops->uncopied(t, start, bytes) : -EINVAL;
}

int write_tracker_copies(struct write_tracker *t, hva_t start, uint64_t bytes,
			 int (*report)(void *ctx, const struct write_range *range), void *ctx)
{
	return range_valid(start, bytes) ? t->ops->copies(t, start, bytes, report, ctx) : -EINVAL;
}
