/* SPDX-License-Identifier: Apache-2.0 */
/* A VM's memory as the engine sees it: what may be replaced, what is kept of it, and who is told when it changes. */
#include "vmm/guest-memory-view.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "base/size.h"
#include "ksm/extent-apply.h"
#include "ksm/segment.h"
#include "ksm/write-tracker.h"
#include "tests/unit/test.h"
#include "vmm/frame-extents.h"
#include "vmm/guest-flight.h"

#define SIZE   (5 * GIB) /* two regions */
#define FRAMES (3 * GIB / PAGE_BYTES)
#define HIGH   (GUEST_MEMORY_HIGH / PAGE_BYTES)

struct fixture {
	struct guest_memory *mem;
	struct hold *hold;
	struct guest_memory_view ctx;
	struct guest_view view;
	/* What was told, and who watches. */
	struct write_tracker *tracker;
	unsigned remapped, discarded, begun, ended;
	uint64_t remapped_frames, discarded_frames;
	gfn_t first;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	if (!f || guest_memory_new(SIZE, false, &f->mem) < 0 || hold_new(NULL, NULL, &f->hold) < 0)
		return -1;
	f->ctx = (struct guest_memory_view){f->mem, f->hold};
	f->view = guest_memory_view(&f->ctx);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	write_tracker_free(f->tracker);
	guest_memory_free(f->mem);
	hold_free(f->hold);
	free(f);
	return 0;
}

/* A segment whose page i is filled with i + 1. */
static struct segment_view segment_of(uint32_t pages)
{
	cleanup(segment_free_p) struct segment *s = NULL;
	struct segment_view view;
	uint8_t page[PAGE_BYTES];
	auto_fd fd = -1;
	uint32_t at;

	assert_int_equal(segment_new(pages, &s), 0);
	for (uint32_t i = 0; i < pages; i++) {
		memset(page, (int)i + 1, sizeof(page));
		assert_int_equal(segment_append(s, page, 1, &at), 0);
	}
	assert_int_equal(segment_seal(s, &fd), 0);
	assert_int_equal(segment_view_init(fd, &view, NULL), 0);
	return view;
}

static uint8_t *bytes_of(struct fixture *f, uint64_t gfn, uint64_t frames)
{
	hva_t at;

	assert_int_equal(f->view.ops->span(f->view.ctx, GFN(gfn), frames, &at), 0);
	return hva_ptr(at);
}

static void spans(void **state)
{
	struct fixture *f = *state;
	const struct guest_view_ops *ops = f->view.ops;
	hva_t at;

	assert_ptr_equal(bytes_of(f, 5, 3), guest_memory_region(f->mem, 0)->hva + 5 * PAGE_BYTES);
	assert_ptr_equal(bytes_of(f, HIGH, 1), guest_memory_region(f->mem, 1)->hva);
	assert_int_equal(ops->span(f->view.ctx, GFN(FRAMES - 1), 2, &at), -EFAULT);
	assert_int_equal(ops->span(f->view.ctx, GFN(FRAMES), 1, &at), -EFAULT);
	assert_int_equal(ops->span(f->view.ctx, GFN(UINT64_MAX), 1, &at), -EFAULT);
	assert_int_equal(ops->span(f->view.ctx, GFN(1), UINT64_MAX, &at), -EFAULT);
}

static void host_addresses_are_frames(void **state)
{
	struct fixture *f = *state;
	const uint8_t *low = guest_memory_region(f->mem, 0)->hva, *high = guest_memory_region(f->mem, 1)->hva;
	gfn_t gfn;

	assert_int_equal(guest_frame_at(f->mem, low, &gfn), 0);
	assert_int_equal(gfn.v, 0);
	assert_int_equal(guest_frame_at(f->mem, low + 3 * GIB - 1, &gfn), 0);
	assert_int_equal(gfn.v, FRAMES - 1);
	assert_int_equal(guest_frame_at(f->mem, high + 5 * PAGE_BYTES + 7, &gfn), 0);
	assert_int_equal(gfn.v, HIGH + 5);
	assert_int_equal(guest_frame_at(f->mem, high + 2 * GIB, &gfn), -EFAULT);
	assert_int_equal(guest_frame_at(f->mem, &gfn, &gfn), -EFAULT);
}

/* What is entered is what the buffers touch, once each where they lie side by side, and it all goes again. */
static void buffers_in_flight(void **state)
{
	struct fixture *f = *state;
	uint8_t *low = bytes_of(f, 0, 1), *high = bytes_of(f, HIGH, 1);
	const struct iovec iov[] = {
		{low + 100 * PAGE_BYTES + 4000, 200}, /* two frames */
		{low + 101 * PAGE_BYTES + 104, 10},   /* in the second one */
		{low + 102 * PAGE_BYTES, 0},
		{low + 102 * PAGE_BYTES, PAGE_BYTES}, /* the next one */
		{high, 1},
		{low + 1000 * PAGE_BYTES, 64 * PAGE_BYTES},
	};
	struct guest_flight flights[ARRAY_SIZE(iov)];
	const struct guest_view_ops *ops = f->view.ops;

	assert_int_equal(guest_flight_enter(f->mem, iov, ARRAY_SIZE(iov), flights), 3);
	assert_int_equal(flights[0].first, 100);
	assert_int_equal(flights[0].frames, 3);
	assert_true(ops->in_flight(f->view.ctx, GFN(100), 1));
	assert_true(ops->in_flight(f->view.ctx, GFN(102), 1));
	assert_true(ops->in_flight(f->view.ctx, GFN(HIGH), 1));
	assert_true(ops->in_flight(f->view.ctx, GFN(1063), 1));
	assert_true(ops->in_flight(f->view.ctx, GFN(0), FRAMES));
	assert_false(ops->in_flight(f->view.ctx, GFN(0), 96));
	assert_false(ops->in_flight(f->view.ctx, GFN(112), 800));
	guest_flight_leave(f->mem, flights, 3);
	assert_false(ops->in_flight(f->view.ctx, GFN(0), FRAMES));
	assert_false(ops->in_flight(f->view.ctx, GFN(HIGH), 16));
	assert_int_equal(guest_flight_enter(f->mem, NULL, 0, flights), 0);
}

/* Replaced frames are the store's, the others stay private, and what is taken back is private again. */
static void the_books_are_kept(void **state)
{
	struct fixture *f = *state;
	struct segment_view store = segment_of(64);
	struct extent_applier *a;
	struct extent x = {.first = GFN(HIGH + 3), .pages = 64, .store = &store};
	const struct guest_view_ops *ops = f->view.ops;
	uint8_t *p = bytes_of(f, HIGH + 3, 64);

	for (unsigned i = 0; i < 64; i++)
		memset(p + i * PAGE_BYTES, (int)i + 1, PAGE_BYTES);
	assert_int_equal(extent_applier_new(&f->view, NULL, &a), 0);
	assert_true(ops->is_private(f->view.ctx, GFN(HIGH), 512));
	assert_int_equal(extent_apply(a, &x, 1), 64);
	assert_int_equal(guest_memory_frames(f->mem, FRAME_STORE), 64);
	assert_int_equal(guest_memory_frames(f->mem, FRAME_PRIVATE), SIZE / PAGE_BYTES - 64);
	assert_true(ops->is_private(f->view.ctx, GFN(HIGH), 3));
	assert_false(ops->is_private(f->view.ctx, GFN(HIGH), 4));
	assert_true(ops->is_private(f->view.ctx, GFN(HIGH + 67), 100));
	assert_false(ops->is_private(f->view.ctx, GFN(FRAMES - 1), 2));
	assert_int_equal(extent_apply(a, &x, 1), 0);
	assert_int_equal(x.outcome, EXTENT_NOT_PRIVATE);
	assert_int_equal(ops->reserve(f->view.ctx, 1), 0);
	ops->retaken(f->view.ctx, GFN(HIGH + 10), 8);
	assert_int_equal(guest_memory_frames(f->mem, FRAME_STORE), 56);
	assert_true(ops->is_private(f->view.ctx, GFN(HIGH + 10), 8));
	/* The hold is asked. */
	hold_forbid(f->hold);
	x = (struct extent){.first = GFN(0), .pages = 1, .store = &store};
	bytes_of(f, 0, 1)[0] = 1;
	memset(bytes_of(f, 0, 1), 1, PAGE_BYTES);
	assert_int_equal(extent_apply(a, &x, 1), 0);
	assert_int_equal(x.outcome, EXTENT_NOT_HELD);
	hold_allow(f->hold);
	assert_int_equal(extent_apply(a, &x, 1), 1);
	extent_applier_free(a);
	segment_view_done(&store);
}

static void remapped(void *arg, gfn_t first, uint64_t frames, hva_t at)
{
	struct fixture *f = arg;

	f->remapped++;
	f->remapped_frames += frames;
	f->first = first;
	if (f->tracker)
		assert_int_equal(write_tracker_add(f->tracker, at, frames * PAGE_BYTES), 0);
}

static void discarded(void *arg, gfn_t first, uint64_t frames)
{
	struct fixture *f = arg;

	(void)first;
	f->discarded++;
	f->discarded_frames += frames;
}

static void reset_begins(void *arg)
{
	((struct fixture *)arg)->begun++;
}

static void reset_ended(void *arg)
{
	((struct fixture *)arg)->ended++;
}

static const struct guest_memory_watch watch = {remapped, discarded, reset_begins, reset_ended};

static void the_watch_is_told(void **state)
{
	struct fixture *f = *state;
	auto_fd fd = memfd_create("file", MFD_CLOEXEC);

	assert_int_equal(ftruncate(fd, 16 * PAGE_BYTES), 0);
	assert_int_equal(guest_memory_map_store(f->mem, GFN(32), fd, 0, 16), 0);
	guest_memory_set_watch(f->mem, &watch, f);
	assert_int_equal(guest_memory_discard(f->mem, GFN(0), 8, NULL), 0);
	assert_int_equal(f->remapped, 0);
	assert_int_equal(f->discarded, 1);
	assert_int_equal(guest_memory_discard(f->mem, GFN(30), 10, NULL), 0);
	assert_int_equal(f->remapped, 1);
	assert_int_equal(f->remapped_frames, 8);
	assert_int_equal(f->first.v, 32);
	assert_int_equal(f->discarded_frames, 18);
	guest_memory_reset_begins(f->mem);
	assert_int_equal(f->begun, 1);
	guest_memory_reset_ended(f->mem);
	assert_int_equal(f->ended, 1);
	guest_memory_set_watch(f->mem, NULL, NULL);
	assert_int_equal(guest_memory_discard(f->mem, GFN(30), 18, NULL), 0);
	guest_memory_reset_begins(f->mem);
	assert_int_equal(f->remapped + f->discarded + f->begun, 4);
}

/* Mappings of RAM in smaps. */
static unsigned mappings(struct fixture *f)
{
	const struct guest_region *r = guest_memory_region(f->mem, 0);
	auto_file file = fopen("/proc/self/maps", "re");
	unsigned long start, stop;
	char line[512];
	unsigned n = 0;

	while (fgets(line, sizeof(line), file))
		n += sscanf(line, "%lx-%lx", &start, &stop) == 2 && start >= (uintptr_t)r->hva &&
		     stop <= (uintptr_t)r->hva + r->bytes;
	return n;
}

/* Frames of the store that are given back are watched again, so that they can be merged again, and cost no mapping. */
static void what_was_given_back_is_watched(void **state)
{
	struct fixture *f = *state;
	struct segment_view store = segment_of(64);
	struct extent_applier *a;
	struct extent x = {.first = GFN(128), .pages = 64, .store = &store};
	uint8_t *p = bytes_of(f, 0, 1);
	struct errmsg err = {0};

	if (write_tracker_new(&err, &f->tracker) < 0)
		TEST_SKIP(err.text);
	assert_int_equal(write_tracker_add(f->tracker, hva_of(p), 3 * GIB), 0);
	guest_memory_set_watch(f->mem, &watch, f);
	memset(p, 1, 512 * PAGE_BYTES);
	assert_int_equal(extent_applier_new(&f->view, f->tracker, &a), 0);
	for (unsigned round = 0; round < 3; round++) {
		for (unsigned i = 0; i < 64; i++)
			memset(p + (128 + i) * PAGE_BYTES, (int)i + 1, PAGE_BYTES);
		assert_int_equal(write_tracker_scan(f->tracker, hva_of(p), 512 * PAGE_BYTES, NULL), 0);
		assert_int_equal(extent_apply(a, &x, 1), 64);
		assert_int_equal(mappings(f), 3);
		p[130 * PAGE_BYTES] = 9; /* a copy */
		assert_int_equal(guest_memory_discard(f->mem, GFN(128), 64, NULL), 0);
		assert_int_equal(f->remapped, round + 1);
		assert_int_equal(p[130 * PAGE_BYTES], 0);
		assert_int_equal(mappings(f), 1);
	}
	extent_applier_free(a);
	segment_view_done(&store);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(spans),
		T(host_addresses_are_frames),
		T(buffers_in_flight),
		T(the_books_are_kept),
		T(the_watch_is_told),
		T(what_was_given_back_is_watched),
	};

	return TEST_RUN(tests);
}
