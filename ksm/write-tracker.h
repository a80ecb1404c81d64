/* SPDX-License-Identifier: Apache-2.0 */
/* Which pages of memory were written: a tracker watches ranges, reports pages written since they were last protected,
 * and proves of others that they were not. */
#ifndef SARDINE_KSM_WRITE_TRACKER_H
#define SARDINE_KSM_WRITE_TRACKER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/addr.h"
#include "base/cleanup.h"
#include "base/errmsg.h"
#include "base/syscalls.h"

/* Pages that lie one after the other and are alike. */
struct write_range {
	hva_t start;
	uint64_t bytes;
	bool hole; /* nothing is there: never touched, or discarded, or only ever read; reads as zero */
	bool huge; /* mapped by huge pages */
};

/* How a scan talks to its caller; see write_tracker_scan(). */
struct write_scan {
	/* NULL, or: shall the written range be protected again? false leaves it as it is, so that it is reported
	 * by the next scan, too. It may shorten the range; the rest is asked for again. Not asked for holes, which
	 * are never protected. */
	bool (*protect)(void *ctx, struct write_range *range);
	/* Called with each range that was written, after it was protected: what is read from there on is either
	 * what stays, or is reported by the next scan. A negative errno ends the scan. */
	int (*report)(void *ctx, const struct write_range *range);
	void *ctx;
};

struct write_tracker;

/**
 * write_tracker_new() - The best tracker that this kernel has.
 * @err: one line that says why there is none.
 * @ret: freed with write_tracker_free().
 *
 * Today that is userfaultfd with asynchronous write protection and PAGEMAP_SCAN (Linux 6.7), without privilege.
 *
 * Return: 0, -ENOTSUP when the kernel (or a seccomp filter) grants no tracker, or another errno.
 */
int write_tracker_new(struct errmsg *err, struct write_tracker **ret) must_check;
/* Also ends the watch of all ranges. NULL is allowed. */
void write_tracker_free(struct write_tracker *t);
DEFINE_CLEANUP(struct write_tracker, write_tracker_free)

/* A word for statistics: "uffd-wp-async". */
const char *write_tracker_name(const struct write_tracker *t);

/**
 * write_tracker_add() - Watch a range of private anonymous memory.
 * @t: the tracker.
 * @start: page aligned.
 * @bytes: a multiple of the page size.
 *
 * Pages of it count as written until a scan protects them. What is mapped over a watched range later is not watched,
 * and must be added.
 *
 * Context: any thread.
 * Return: 0, -EINVAL (alignment; memory that is not private anonymous), -EBUSY when another userfaultfd watches it,
 * -ENOMEM.
 */
int write_tracker_add(struct write_tracker *t, hva_t start, uint64_t bytes) must_check;

/* Stop watching; errors as above. What was protected is protected no longer, without a fault. */
int write_tracker_remove(struct write_tracker *t, hva_t start, uint64_t bytes) must_check;

/**
 * write_tracker_scan() - Report what was written, and protect it again.
 * @t: the tracker.
 * @start, @bytes: where to look; parts that are not watched are passed over in silence.
 * @scan: whom to ask and tell; NULL protects all and reports nothing.
 *
 * The whole range is looked at without changing it, and only what was written is protected: to protect a range makes
 * KVM drop its mappings of all of it, whether anything in it was written or not.
 *
 * Exactness: a page that is not reported was not written since the end of the scan that last protected it. Discarding
 * a page counts as writing it. Writes through pinned pages (I/O in flight, vhost, VFIO) are not seen: the page must
 * have been pinned, which counts as a write, before it was protected; see ksm/in-flight.h. A page may be reported
 * without having been written (after a merge by the kernel, for instance).
 *
 * Context: one thread at a time; others may write, add and remove meanwhile.
 * Return: 0, what @report returned, or the errno of the kernel.
 */
int write_tracker_scan(struct write_tracker *t, hva_t start, uint64_t bytes,
		       const struct write_scan *scan) must_check;

/* Scans that ended well. "Clean since generation g": reported by scan g, and by none after it. */
uint64_t write_tracker_generation(const struct write_tracker *t);

/**
 * write_tracker_unwritten() - Prove that a range was not written since it was protected.
 * @t: the tracker.
 * @start, @bytes: the range.
 *
 * Context: any thread, also while a scan runs.
 * Return: 1 when every page is watched, protected and unwritten; 0 when not; or a negative errno. Take anything but 1
 * for "written".
 */
int write_tracker_unwritten(struct write_tracker *t, hva_t start, uint64_t bytes) must_check;

/**
 * write_tracker_uncopied() - Prove that a range shows pages of a file, and nothing else.
 *
 * Context: any thread, also while a scan runs.
 * Return: 1 when every page is in memory and a file's, not a copy of it; 0 when not, or when it is not mapped at the
 * moment; or a negative errno. Take anything but 1 for "copied".
 */
int write_tracker_uncopied(struct write_tracker *t, hva_t start, uint64_t bytes) must_check;

/**
 * write_tracker_copies() - Find the private copies in private mappings of files.
 * @t: the tracker.
 * @start, @bytes: where; private file mappings of it, watched or not. Anonymous memory in it is reported, too.
 * @report: called with each range of pages that are not the file's any more, in memory or swapped.
 * @ctx: for @report.
 *
 * Context: one thread at a time, as write_tracker_scan().
 * Return: 0, what @report returned, or the errno of the kernel.
 */
int write_tracker_copies(struct write_tracker *t, hva_t start, uint64_t bytes,
			 int (*report)(void *ctx, const struct write_range *range), void *ctx) must_check;

extern const struct syscall_list write_tracker_syscalls;

#endif
