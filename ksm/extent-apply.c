/* SPDX-License-Identifier: Apache-2.0 */
/* Exchanging guest memory: compare, hold, look again, exchange, release. */
#include "ksm/extent-apply.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "base/size.h"
#include "ksm/break.h"
#include "ksm/guest-bytes.h"
#include "ksm/map-room.h"
#include "ksm/remap.h"

/*
 * Theory of operation (docs/adr/003-replacing-guest-memory.md has the reasons)
 *
 * Vocabulary: a frame is *protected* by the write tracker at some moment, and *unwritten* as long as the tracker proves
 * that nothing wrote it since. A *hold* is a stretch of time in which no thread of ours writes guest memory.
 *
 * I1 (bytes decide) and I2 (no write is lost) follow from this order, per extent:
 *
 *   1. the frames are protected (the caller's scan, at some time before);
 *   2. no I/O is in flight to them;
 *   3. they are unwritten (so they were protected at all);
 *   4. their bytes equal the store's;
 *   --- hold ---
 *   5. no I/O is in flight to them;
 *   6. they are unwritten: their bytes are those that were compared;
 *   7. their pages are moved aside, and the store is mapped in their place;
 *   --- release ---
 *   8. the old pages are freed.
 *
 * Writes by threads (vCPUs, devices, and KVM on a vCPU's behalf) clear the protection in a fault: those between 1 and
 * the hold are found in 6, and there are none between 6 and 7. The kernel's writes for I/O need more. A page that was
 * pinned before 1 is written without a fault: 2 finds that I/O, or it is over, and then 4 reads what it wrote. A page
 * pinned after 1 was faulted in for it, which 6 finds. Work that is entered but not yet pinned may touch the range
 * between the two halves of 7, where a write would go to a page that is about to vanish: 5 finds that.
 *
 * The store's bytes cannot change (ksm/segment.c); the mapping that is compared and the one that is put in show the
 * same pages.
 *
 * Without a tracker 3 and 6 fall away, and 4 is done once more inside the hold after 5, on few pages at a time.
 *
 * The other kinds follow the same steps:
 *
 * - A *drop* compares with zero in 4, and in 7 only moves the pages aside: what is left is a hole, watched as before.
 * - A *move* to equal pages elsewhere in the store needs no protection, since pages of the store do not change. It
 *   compares in 4 what the guest reads with the new pages, and proves in 6 that the kernel shows pages of a file in all
 *   the range, and no copy: then no write came between, and a copy that was compared would be a copy still. 7 maps the
 *   new pages over the old.
 * - A *retake* copies what the guest reads to a buffer, in the hold after 5, and maps anonymous memory over the range,
 *   watched before its first write, into which it copies the bytes back. There is nothing to compare.
 *
 * Failures leave the guest its bytes: up to step 7 nothing was changed; when the store cannot be mapped the old pages
 * go back (remap_back()), and in the one case where the kernel refuses that, too, the frames stay unmapped, so that the
 * guest stops at them instead of reading something else.
 *
 * Threads: extent_apply() on the agent's; hold_work() on whichever thread the view chooses, while the agent waits.
 */
#define MAPPINGS_PER_EXTENT 2u /* what is left on both sides, less the one that was there */

struct prepared {
	struct extent *extent;
	hva_t at;
	hva_t aside; /* 0: nothing is aside */
};

struct extent_applier {
	struct guest_view view;
	struct write_tracker *tracker;
	hva_t hint; /* for pages aside: 2 MiB aligned, free when we last looked */
	struct map_room room;
	uint8_t *buffer; /* of RETAKE, during a call; EXTENT_PAGES_MAX_RETAKE pages */
	struct extent_stats stats;
	/* One hold: */
	struct prepared prepared[EXTENT_PAGES_MAX];
	size_t count;
	size_t done; /* handled by the hold */
	bool held;   /* the work was called */
};

static const char *const outcome_names[] = {
	[EXTENT_REPLACED] = "replaced",
	[EXTENT_INVALID] = "invalid",
	[EXTENT_NOT_PRIVATE] = "not-private",
	[EXTENT_IN_FLIGHT] = "in-flight",
	[EXTENT_WRITTEN] = "written",
	[EXTENT_DIFFERENT] = "different",
	[EXTENT_NO_ROOM] = "no-room",
	[EXTENT_NOT_HELD] = "not-held",
	[EXTENT_SEVERAL] = "several",
	[EXTENT_REFUSED] = "refused",
	[EXTENT_LOST] = "lost",
};
_Static_assert(ARRAY_SIZE(outcome_names) == EXTENT_OUTCOMES, "a name for each outcome");

const char *extent_outcome_name(enum extent_outcome outcome)
{
	return outcome_names[outcome];
}

/* An address range with room for one hold's pages, free at the moment; it is a hint and no more. */
static hva_t find_hint(void)
{
	uint64_t bytes = 2 * HUGE_PAGE_BYTES;
	void *p = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		return (hva_t){0};
	munmap(p, bytes);
	return (hva_t){((uintptr_t)p + HUGE_PAGE_BYTES - 1) & ~(uintptr_t)(HUGE_PAGE_BYTES - 1)};
}

int extent_applier_new(const struct guest_view *view, struct write_tracker *tracker,
		       struct extent_applier **ret)
{
	struct extent_applier *a = calloc(1, sizeof(*a));

	if (!a)
		return -ENOMEM;
	a->view = *view;
	a->tracker = tracker;
	a->hint = find_hint();
	map_room_open(&a->room);
	*ret = a;
	return 0;
}

void extent_applier_free(struct extent_applier *a)
{
	if (!a)
		return;
	map_room_close(&a->room);
	free(a);
}

static uint32_t pages_max(const struct extent_applier *a, enum extent_kind kind)
{
	if (kind == EXTENT_RETAKE)
		return EXTENT_PAGES_MAX_RETAKE;
	return a->tracker ? EXTENT_PAGES_MAX : EXTENT_PAGES_MAX_HELD;
}

static const uint8_t *store_bytes(const struct extent *x)
{
	return x->store->bytes + x->store_page * PAGE_BYTES;
}

static bool bytes_right(const struct extent *x, hva_t at)
{
	uint64_t bytes = x->pages * PAGE_BYTES;

	switch (x->kind) {
	case EXTENT_SHARE:
		return broken(BREAK_NO_COMPARE) || guest_bytes_equal(hva_ptr(at), store_bytes(x), bytes);
	case EXTENT_MOVE:
		return broken(BREAK_MOVE_NO_COMPARE) || guest_bytes_equal(hva_ptr(at), store_bytes(x), bytes);
	case EXTENT_DROP:
		return broken(BREAK_ZERO_NO_COMPARE) || guest_bytes_zero(hva_ptr(at), bytes);
	case EXTENT_RETAKE:
	case EXTENT_KINDS:
		break;
	}
	return true;
}

static bool in_flight(const struct extent_applier *a, const struct extent *x)
{
	return a->view.ops->in_flight(a->view.ctx, x->first, x->pages);
}

static bool unwritten(const struct extent_applier *a, const struct extent *x, hva_t at)
{
	return write_tracker_unwritten(a->tracker, at, x->pages * PAGE_BYTES) == 1;
}

static bool from_private(const struct extent *x)
{
	return x->kind == EXTENT_SHARE || x->kind == EXTENT_DROP;
}

/* None of its frames may be private, which the view answers for one at a time. */
static bool all_of_store(const struct extent_applier *a, const struct extent *x)
{
	for (uint32_t i = 0; i < x->pages; i++)
		if (a->view.ops->is_private(a->view.ctx, GFN(x->first.v + i), 1))
			return false;
	return true;
}

static bool backing_right(const struct extent_applier *a, const struct extent *x)
{
	return from_private(x) ? a->view.ops->is_private(a->view.ctx, x->first, x->pages)
			       : all_of_store(a, x);
}

static bool extent_valid(const struct extent_applier *a, const struct extent *x)
{
	if (x->kind >= EXTENT_KINDS || x->pages == 0 || x->pages > pages_max(a, x->kind) ||
	    (!from_private(x) && !a->tracker) || (x->kind == EXTENT_RETAKE && !a->view.ops->retaken))
		return false;
	return x->kind == EXTENT_DROP || x->kind == EXTENT_RETAKE ||
	       (x->store && range_fits(x->store_page, x->pages, x->store->pages));
}

/* Steps 2 to 4, while the guest runs. EXTENT_REPLACED stands for "go on". */
static enum extent_outcome prepare(struct extent_applier *a, struct extent *x, hva_t *ret_at)
{
	const struct guest_view *v = &a->view;

	if (!extent_valid(a, x) || v->ops->span(v->ctx, x->first, x->pages, ret_at) < 0)
		return EXTENT_INVALID;
	if (!backing_right(a, x))
		return EXTENT_NOT_PRIVATE;
	if (!broken(BREAK_NO_FLIGHT_FIRST) && in_flight(a, x))
		return EXTENT_IN_FLIGHT;
	if (a->tracker && from_private(x) && !unwritten(a, x, *ret_at))
		return EXTENT_WRITTEN;
	if (!bytes_right(x, *ret_at))
		return EXTENT_DIFFERENT;
	if (map_room_take(&a->room, MAPPINGS_PER_EXTENT) < 0)
		return EXTENT_NO_ROOM;
	if (from_private(x) && !broken(BREAK_NO_SPLIT))
		remap_split(*ret_at, x->pages * PAGE_BYTES);
	return EXTENT_REPLACED;
}

static bool break_skips_recheck(const struct extent *x)
{
	return broken(x->kind == EXTENT_DROP ? BREAK_ZERO_NO_RECHECK : BREAK_NO_RECHECK);
}

/* Steps 5 and 6, while the guest is held. */
static enum extent_outcome look_again(const struct extent_applier *a, const struct prepared *p)
{
	const struct extent *x = p->extent;

	if (!broken(BREAK_NO_FLIGHT_HELD) && in_flight(a, x))
		return EXTENT_IN_FLIGHT;
	if (x->kind == EXTENT_MOVE)
		return broken(BREAK_MOVE_NO_RECHECK) ||
				       write_tracker_uncopied(a->tracker, p->at, x->pages * PAGE_BYTES) == 1
			       ? EXTENT_REPLACED
			       : EXTENT_WRITTEN;
	if (x->kind == EXTENT_RETAKE)
		return all_of_store(a, x) ? EXTENT_REPLACED : EXTENT_NOT_PRIVATE;
	if (a->tracker)
		return break_skips_recheck(x) || unwritten(a, x, p->at) ? EXTENT_REPLACED : EXTENT_WRITTEN;
	if (!backing_right(a, x))
		return EXTENT_NOT_PRIVATE;
	return bytes_right(x, p->at) ? EXTENT_REPLACED : EXTENT_DIFFERENT;
}

static enum extent_outcome put_back(struct extent_applier *a, struct prepared *p)
{
	uint64_t bytes = p->extent->pages * PAGE_BYTES;
	int r = remap_back(p->at, bytes, p->aside);

	if (r < 0)
		return EXTENT_LOST;
	p->aside = (hva_t){0};
	/* Not watched, it counts as written for ever, which is safe. */
	if (r == 1 && a->tracker && write_tracker_add(a->tracker, p->at, bytes) < 0)
		a->stats.watch_lost++;
	return EXTENT_REFUSED;
}

static void advise(struct extent_applier *a, const struct prepared *p)
{
	if (a->view.ops->advise(a->view.ctx, p->at, p->extent->pages * PAGE_BYTES) < 0)
		a->stats.advice_failed++;
}

static enum extent_outcome retake(struct extent_applier *a, struct prepared *p)
{
	const struct extent *x = p->extent;
	uint64_t bytes = x->pages * PAGE_BYTES;
	int r;

	memcpy(a->buffer, hva_ptr(p->at), bytes);
	r = remap_fresh(p->at, bytes);
	if (r < 0)
		return remap_is_mapped(p->at, bytes) ? EXTENT_REFUSED : EXTENT_LOST;
	advise(a, p);
	if (write_tracker_add(a->tracker, p->at, bytes) < 0)
		a->stats.watch_lost++;
	memcpy(hva_ptr(p->at), a->buffer, bytes);
	a->view.ops->retaken(a->view.ctx, x->first, x->pages);
	return EXTENT_REPLACED;
}

/* Step 7. */
static enum extent_outcome exchange(struct extent_applier *a, struct prepared *p)
{
	const struct guest_view *v = &a->view;
	const struct extent *x = p->extent;
	uint64_t bytes = x->pages * PAGE_BYTES;
	int r;

	if (x->kind == EXTENT_RETAKE)
		return retake(a, p);
	if (from_private(x)) {
		r = remap_aside(p->at, bytes, a->hint, &p->aside);
		if (r < 0)
			return r == -EFAULT ? EXTENT_SEVERAL : EXTENT_REFUSED;
	}
	if (x->kind == EXTENT_DROP)
		return EXTENT_REPLACED;
	if (x->kind == EXTENT_MOVE) {
		if (remap_in(p->at, bytes, x->store->fd, x->store_page * PAGE_BYTES) < 0)
			return remap_is_mapped(p->at, bytes) ? EXTENT_REFUSED : EXTENT_LOST;
	} else if (remap_in(p->at, bytes, x->store->fd, x->store_page * PAGE_BYTES) < 0)
		return put_back(a, p);
	advise(a, p);
	v->ops->replaced(v->ctx, x->first, x->pages, x->store, x->store_page);
	return EXTENT_REPLACED;
}

static void count_hold(struct extent_stats *s, uint64_t ns)
{
	unsigned bucket = 0;

	while (bucket < EXTENT_HOLD_BUCKETS - 1 && ns >= (uint64_t)1000 << bucket)
		bucket++;
	s->holds++;
	s->hold_work_ns += ns;
	s->hold_work_bucket[bucket]++;
	if (ns > s->hold_work_max_ns)
		s->hold_work_max_ns = ns;
}

/* Whether a broken engine exchanges it after the release. */
static bool late(const struct extent *x)
{
	return broken(x->kind == EXTENT_RETAKE ? BREAK_RETAKE_RUNNING : BREAK_EARLY_RELEASE);
}

/* At least one extent per hold, so that there is an end. */
static void hold_work(void *arg)
{
	struct extent_applier *a = arg;
	uint64_t start = clock_now_ns();

	a->held = true;
	do {
		struct prepared *p = &a->prepared[a->done++];

		p->extent->outcome = look_again(a, p);
		if (p->extent->outcome == EXTENT_REPLACED && !late(p->extent))
			p->extent->outcome = exchange(a, p);
	} while (a->done < a->count && clock_now_ns() - start < EXTENT_HOLD_NS);
	count_hold(&a->stats, clock_now_ns() - start);
}

/* Hold as often as it takes for all that is prepared. */
static void hold_all(struct extent_applier *a)
{
	const struct guest_view *v = &a->view;

	while (a->done < a->count) {
		size_t first = a->done;

		a->held = false;
		if (v->ops->reserve(v->ctx, (unsigned)(a->count - first)) < 0) {
			while (a->done < a->count)
				a->prepared[a->done++].extent->outcome = EXTENT_NO_ROOM;
			return;
		}
		if (v->ops->while_held(v->ctx, hold_work, a) < 0 || !a->held) {
			while (a->done < a->count)
				a->prepared[a->done++].extent->outcome = EXTENT_NOT_HELD;
			return;
		}
		for (size_t i = first; i < a->done; i++) {
			struct prepared *p = &a->prepared[i];

			if (p->extent->outcome == EXTENT_REPLACED && late(p->extent))
				p->extent->outcome = exchange(a, p);
			if (p->aside.v && p->extent->outcome != EXTENT_LOST)
				remap_drop(p->aside, p->extent->pages * PAGE_BYTES);
		}
	}
}

/* The buffer of those that are taken back, for a call. */
static int buffer_open(struct extent_applier *a, const struct extent *extents, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (extents[i].kind == EXTENT_RETAKE) {
			a->buffer = malloc(EXTENT_PAGES_MAX_RETAKE * PAGE_BYTES);
			return a->buffer ? 0 : -ENOMEM;
		}
	return 0;
}

/* Whether one more can go into the hold that is being prepared, which has @pages. */
static bool hold_takes(const struct extent_applier *a, const struct extent *x, uint32_t pages)
{
	return pages == 0 || (uint64_t)pages + x->pages <= pages_max(a, x->kind);
}

uint64_t extent_apply(struct extent_applier *a, struct extent *extents, size_t count)
{
	uint64_t before = a->stats.pages[EXTENT_REPLACED];

	if (buffer_open(a, extents, count) < 0) {
		for (size_t i = 0; i < count; i++)
			extents[i].outcome = EXTENT_NO_ROOM;
		return 0;
	}

	for (size_t i = 0; i < count;) {
		size_t first = i;
		uint32_t pages = 0;

		a->count = a->done = 0;
		for (; i < count && hold_takes(a, &extents[i], pages); i++) {
			struct prepared p = {.extent = &extents[i]};

			extents[i].outcome = prepare(a, &extents[i], &p.at);
			if (extents[i].outcome != EXTENT_REPLACED)
				continue;
			pages += extents[i].pages;
			a->prepared[a->count++] = p;
		}
		hold_all(a);
		for (size_t k = first; k < i; k++) {
			a->stats.extents[extents[k].outcome]++;
			a->stats.pages[extents[k].outcome] += extents[k].pages;
		}
	}
	free(TAKE_PTR(a->buffer));
	return a->stats.pages[EXTENT_REPLACED] - before;
}

void extent_applier_stats(const struct extent_applier *a, struct extent_stats *ret)
{
	*ret = a->stats;
}
