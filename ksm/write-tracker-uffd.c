/* SPDX-License-Identifier: Apache-2.0 */
/* Write tracking by userfaultfd with asynchronous write protection (WP_ASYNC) and PAGEMAP_SCAN, Linux 6.7. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#include "base/uapi-mm.h"
#include "ksm/write-tracker-internal.h"

/*
 * Theory of operation
 *
 * A page is protected when its page table entry carries the userfaultfd write-protect bit. A write, by a guest, a
 * thread or the kernel, clears the bit in the fault, without waiting for anybody; so does everything that takes the
 * page away. "Written" is the absence of the bit. The kernel keeps it over swapping, migration, and splits of huge
 * pages. It is the only state there is: this file remembers nothing about pages.
 *
 * A scan has two steps per piece: read which pages are written (WPALLOWED, so in a watched mapping, and WRITTEN), then
 * protect just those. Between the two steps more may be written, within what is protected anyway. A page written after
 * the second step is found by the next scan; hence the caller may trust what it reads from a page only after that
 * step, which is when report() is called.
 *
 * Holes have no page table entry, count as written, and are reported as holes, in every scan: one range each, however
 * large. They are not protected: that would give each of them a marker in a page table. Filling a hole makes it a page
 * that is written. A hole that was only read shows the kernel's zero page, and is still one: a write puts another page there.
 *
 * A proof (unwritten) asks for the contrary, the pages that are watched and not written, and wants to see the whole
 * range; what is unmapped or not watched is thereby never taken for unwritten.
 */
#define SCAN_REGIONS 256

struct uffd_tracker {
	struct write_tracker base;
	int uffd;
	int pagemap;
	struct uapi_page_region regions[SCAN_REGIONS]; /* of the scanning thread */
};

static struct uffd_tracker *uffd_tracker_of(struct write_tracker *t)
{
	return container_of(t, struct uffd_tracker, base);
}

static void uffd_free(struct write_tracker *t)
{
	struct uffd_tracker *u = uffd_tracker_of(t);

	close_fd_p(&u->uffd);
	close_fd_p(&u->pagemap);
	free(u);
}

static int uffd_add(struct write_tracker *t, hva_t start, uint64_t bytes)
{
	struct uffdio_register reg = {
		.range = {.start = start.v, .len = bytes},
		.mode = UFFDIO_REGISTER_MODE_WP,
	};

	return ioctl(uffd_tracker_of(t)->uffd, UFFDIO_REGISTER, &reg) < 0 ? -errno : 0;
}

static int uffd_remove(struct write_tracker *t, hva_t start, uint64_t bytes)
{
	struct uffdio_range range = {.start = start.v, .len = bytes};

	return ioctl(uffd_tracker_of(t)->uffd, UFFDIO_UNREGISTER, &range) < 0 ? -errno : 0;
}

/* Reads on from @arg->start. Returns the regions found, and moves @arg->start to where the walk ended. */
static int pagemap_scan(const struct uffd_tracker *u, struct uapi_pm_scan_arg *arg)
{
	int r;

	do
		r = ioctl(u->pagemap, UAPI_PAGEMAP_SCAN, arg);
	while (r < 0 && errno == EINTR);
	if (r < 0)
		return -errno;
	if (arg->walk_end <= arg->start)
		return -EIO; /* never seen; would loop */
	arg->start = arg->walk_end;
	return r;
}

static int protect(const struct uffd_tracker *u, const struct write_range *range)
{
	struct uapi_pm_scan_arg arg = {
		.size = sizeof(arg),
		.flags = UAPI_PM_SCAN_WP_MATCHING,
		.start = range->start.v,
		.end = range->start.v + range->bytes,
		.category_mask = UAPI_PAGE_IS_WPALLOWED | UAPI_PAGE_IS_WRITTEN,
		.category_anyof_mask = UAPI_PAGE_IS_PRESENT | UAPI_PAGE_IS_SWAPPED,
	};

	while (arg.start < arg.end) {
		int r = pagemap_scan(u, &arg);

		if (r < 0)
			return r;
	}
	return 0;
}

/* In pieces, as the caller wants them. */
static int handle_range(const struct uffd_tracker *u, const struct write_scan *scan,
			const struct write_range *range)
{
	uint64_t end = range->start.v + range->bytes;
	struct write_range piece = *range;
	int r = 0;

	while (r == 0 && piece.start.v < end) {
		piece.bytes = end - piece.start.v;
		if (!piece.hole && (!scan->protect || scan->protect(scan->ctx, &piece)))
			r = protect(u, &piece);
		if (r == 0 && scan->report)
			r = scan->report(scan->ctx, &piece);
		piece.start.v += piece.bytes;
	}
	return r;
}

static int uffd_scan(struct write_tracker *t, hva_t start, uint64_t bytes, const struct write_scan *scan)
{
	struct uffd_tracker *u = uffd_tracker_of(t);
	struct uapi_pm_scan_arg arg = {
		.size = sizeof(arg),
		.start = start.v,
		.end = start.v + bytes,
		.vec = (uintptr_t)u->regions,
		.vec_len = SCAN_REGIONS,
		.category_mask = UAPI_PAGE_IS_WPALLOWED | UAPI_PAGE_IS_WRITTEN,
		.return_mask = UAPI_PAGE_IS_PRESENT | UAPI_PAGE_IS_SWAPPED | UAPI_PAGE_IS_HUGE |
			       UAPI_PAGE_IS_PFNZERO,
	};

	while (arg.start < arg.end) {
		int count = pagemap_scan(u, &arg);

		if (count < 0)
			return count;
		for (int i = 0; i < count; i++) {
			const struct uapi_page_region *x = &u->regions[i];
			struct write_range range = {
				.start = {x->start},
				.bytes = x->end - x->start,
				.hole = !(x->categories & (UAPI_PAGE_IS_PRESENT | UAPI_PAGE_IS_SWAPPED)) ||
					x->categories & UAPI_PAGE_IS_PFNZERO,
				.huge = x->categories & UAPI_PAGE_IS_HUGE,
			};
			int r = handle_range(u, scan, &range);

			if (r < 0)
				return r;
		}
	}
	return 0;
}

/* Whether all pages of a range have the categories of @arg. Return: 1, 0, or an errno. */
static int all_are(struct write_tracker *t, hva_t start, uint64_t bytes, struct uapi_pm_scan_arg arg)
{
	uint64_t end = start.v + bytes;
	struct uapi_page_region region = {0};
	int r;

	arg.size = sizeof(arg);
	arg.start = start.v;
	arg.end = end;
	arg.vec = (uintptr_t)&region;
	arg.vec_len = 1;
	r = pagemap_scan(uffd_tracker_of(t), &arg);
	if (r < 0)
		return r;
	return r == 1 && region.start == start.v && region.end == end;
}

static int uffd_unwritten(struct write_tracker *t, hva_t start, uint64_t bytes)
{
	return all_are(t, start, bytes,
		       (struct uapi_pm_scan_arg){
			       .category_inverted = UAPI_PAGE_IS_WRITTEN,
			       .category_mask = UAPI_PAGE_IS_WPALLOWED | UAPI_PAGE_IS_WRITTEN,
			       .return_mask = UAPI_PAGE_IS_WPALLOWED,
		       });
}

static int uffd_uncopied(struct write_tracker *t, hva_t start, uint64_t bytes)
{
	return all_are(t, start, bytes,
		       (struct uapi_pm_scan_arg){
			       .category_mask = UAPI_PAGE_IS_FILE | UAPI_PAGE_IS_PRESENT,
			       .return_mask = UAPI_PAGE_IS_FILE,
		       });
}

static int uffd_copies(struct write_tracker *t, hva_t start, uint64_t bytes,
		       int (*report)(void *ctx, const struct write_range *range), void *ctx)
{
	struct uffd_tracker *u = uffd_tracker_of(t);
	struct uapi_pm_scan_arg arg = {
		.size = sizeof(arg),
		.start = start.v,
		.end = start.v + bytes,
		.vec = (uintptr_t)u->regions,
		.vec_len = SCAN_REGIONS,
		.category_inverted = UAPI_PAGE_IS_FILE,
		.category_mask = UAPI_PAGE_IS_FILE,
		.category_anyof_mask = UAPI_PAGE_IS_PRESENT | UAPI_PAGE_IS_SWAPPED,
		.return_mask = UAPI_PAGE_IS_HUGE,
	};

	while (arg.start < arg.end) {
		int count = pagemap_scan(u, &arg);

		if (count < 0)
			return count;
		for (int i = 0; i < count; i++) {
			struct write_range range = {
				.start = {u->regions[i].start},
				.bytes = u->regions[i].end - u->regions[i].start,
				.huge = u->regions[i].categories & UAPI_PAGE_IS_HUGE,
			};
			int r = report(ctx, &range);

			if (r < 0)
				return r;
		}
	}
	return 0;
}

static const struct write_tracker_ops uffd_ops = {
	.name = "uffd-wp-async",
	.free = uffd_free,
	.add = uffd_add,
	.remove = uffd_remove,
	.scan = uffd_scan,
	.unwritten = uffd_unwritten,
	.uncopied = uffd_uncopied,
	.copies = uffd_copies,
};

static int uffd_open(struct errmsg *err)
{
	struct uffdio_api api = {
		.api = UFFD_API,
		.features = (uint64_t)UFFD_FEATURE_WP_ASYNC | (uint64_t)UFFD_FEATURE_WP_UNPOPULATED,
	};
	/* User mode only needs no privilege; with WP_ASYNC the kernel handles its own faults all the same. */
	auto_fd fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);

	if (fd < 0 && (errno == ENOSYS || errno == EPERM || errno == EINVAL || errno == EACCES))
		return errmsg_set(err, -ENOTSUP, "write tracking: userfaultfd is not to be had here: %s",
				  strerror(errno));
	if (fd < 0)
		return errmsg_set(err, -errno, "write tracking: userfaultfd: %s", strerror(errno));
	if (ioctl(fd, UFFDIO_API, &api) < 0)
		return errmsg_set(
			err, -ENOTSUP,
			"write tracking: this kernel's userfaultfd has no asynchronous write protection; "
			"it is in Linux 6.7 and later");
	return TAKE_FD(fd);
}

int write_tracker_uffd_new(struct errmsg *err, struct write_tracker **ret)
{
	struct uffd_tracker *u = malloc(sizeof(*u));

	if (!u)
		return -ENOMEM;
	*u = (struct uffd_tracker){.base.ops = &uffd_ops, .uffd = -1, .pagemap = -1};
	u->uffd = uffd_open(err);
	if (u->uffd < 0) {
		int r = u->uffd;

		uffd_free(&u->base);
		return r;
	}
	u->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (u->pagemap < 0) {
		int r = errmsg_set(err, -errno, "write tracking: /proc/self/pagemap: %s", strerror(errno));

		uffd_free(&u->base);
		return r;
	}
	*ret = &u->base;
	return 0;
}

/* Once it is open. */
DEFINE_SYSCALLS(write_tracker_syscalls, SYSCALL_IF(ioctl, 1, UAPI_PAGEMAP_SCAN),
		SYSCALL_IF(ioctl, 1, UFFDIO_REGISTER), SYSCALL_IF(ioctl, 1, UFFDIO_UNREGISTER));
