/* SPDX-License-Identifier: Apache-2.0 */
/* Guest memory as the engine sees it: an ops table, so that it works on VMs, replayed memory and tests alike. */
#ifndef SARDINE_KSM_GUEST_VIEW_H
#define SARDINE_KSM_GUEST_VIEW_H

#include <stdbool.h>
#include <stdint.h>

#include "base/addr.h"
#include "ksm/segment.h"

struct guest_view_ops {
	/* Where frames lie. Return: 0, or -EFAULT when not all of them are RAM, in one piece. */
	int (*span)(void *ctx, gfn_t first, uint64_t frames, hva_t *ret);
	/* Whether all frames are plain anonymous memory: no file, no store. Also asked while held. */
	bool (*is_private)(void *ctx, gfn_t first, uint64_t frames);
	/* Whether a frame may have device I/O in flight; see ksm/in-flight.h. Also asked while held. */
	bool (*in_flight)(void *ctx, gfn_t first, uint64_t frames);
	/* Make sure that @extents calls of replaced() can be noted. Return: 0 or a negative errno. */
	int (*reserve)(void *ctx, unsigned extents);
	/* Call @work(@arg) once, on some thread, while nobody writes guest memory: vCPUs are out of the guest,
	 * device threads rest; only the kernel may, for I/O in flight. Return: 0, or a negative errno when @work
	 * was not called. */
	int (*while_held)(void *ctx, void (*work)(void *arg), void *arg);
	/* Give a mapping of guest RAM the advice that all of it carries. Called while held. */
	int (*advise)(void *ctx, hva_t start, uint64_t bytes);
	/* Frames are now a private mapping of @store from @page on. Called while held; cannot fail. */
	void (*replaced)(void *ctx, gfn_t first, uint64_t frames, const struct segment_view *store,
			 uint32_t page);
	/* Frames that were pages of the store are plain anonymous memory again, with the region's advice. Called
	 * while held; cannot fail. NULL: extents of this guest are never taken back. */
	void (*retaken)(void *ctx, gfn_t first, uint64_t frames);
};

struct guest_view {
	const struct guest_view_ops *ops;
	void *ctx;
};

#endif
