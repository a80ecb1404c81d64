/* SPDX-License-Identifier: Apache-2.0 */
/* A VM's memory as the engine sees it. */
#include "vmm/guest-memory-view.h"

#include <errno.h>

#include "base/size.h"
#include "ksm/in-flight.h"

static int view_span(void *ctx, gfn_t first, uint64_t frames, hva_t *ret)
{
	const struct guest_memory_view *v = ctx;
	void *at;

	if (frames > UINT64_MAX >> PAGE_SHIFT || first.v > UINT64_MAX >> PAGE_SHIFT ||
	    guest_span(v->mem, gfn_to_gpa(first), frames * PAGE_BYTES, &at) < 0)
		return -EFAULT;
	*ret = hva_of(at);
	return 0;
}

static bool view_is_private(void *ctx, gfn_t first, uint64_t frames)
{
	const struct guest_memory_view *v = ctx;

	while (frames) {
		enum frame_backing backing;
		uint64_t run;

		if (guest_memory_backing(v->mem, first, &backing, &run) < 0 || backing != FRAME_PRIVATE)
			return false;
		run = run < frames ? run : frames;
		first.v += run;
		frames -= run;
	}
	return true;
}

static bool view_in_flight(void *ctx, gfn_t first, uint64_t frames)
{
	const struct guest_memory_view *v = ctx;

	return in_flight_any(guest_memory_in_flight(v->mem), first, frames);
}

static int view_reserve(void *ctx, unsigned extents)
{
	const struct guest_memory_view *v = ctx;

	return guest_memory_promise(v->mem, extents);
}

static int view_while_held(void *ctx, void (*work)(void *arg), void *arg)
{
	const struct guest_memory_view *v = ctx;

	return hold_call(v->hold, work, arg);
}

static int view_advise(void *ctx, hva_t start, uint64_t bytes)
{
	const struct guest_memory_view *v = ctx;

	return guest_memory_advise(v->mem, hva_ptr(start), bytes);
}

static void view_replaced(void *ctx, gfn_t first, uint64_t frames, const struct segment_view *store,
			  uint32_t page)
{
	const struct guest_memory_view *v = ctx;

	(void)store;
	(void)page;
	guest_memory_note_store(v->mem, first, frames);
}

static void view_retaken(void *ctx, gfn_t first, uint64_t frames)
{
	const struct guest_memory_view *v = ctx;

	guest_memory_note_private(v->mem, first, frames);
}

static const struct guest_view_ops view_ops = {
	.span = view_span,
	.is_private = view_is_private,
	.in_flight = view_in_flight,
	.reserve = view_reserve,
	.while_held = view_while_held,
	.advise = view_advise,
	.replaced = view_replaced,
	.retaken = view_retaken,
};

struct guest_view guest_memory_view(struct guest_memory_view *v)
{
	return (struct guest_view){.ops = &view_ops, .ctx = v};
}
