/* SPDX-License-Identifier: Apache-2.0 */
/* Drops, moves and retakes: whatever is written at which moment, the guest reads what it wrote. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "ksm/extent-apply.h"
#include "ksm/replay-memory.h"
#include "tests/unit/test.h"

#define FRAMES 2048u
#define POOL   5u

/* Replayed memory in which things happen just before and just after each hold. */
struct room {
	struct replay_memory *m;
	struct guest_view inner;
	struct write_tracker *tracker;
	struct extent_applier *applier;
	struct segment_view
		store[2]; /* pool pages 0 to 511, twice; the second one from page 1 on, odd pages differ */
	unsigned holds;
	bool held;
	void (*before_work)(struct room *r), (*after_work)(struct room *r);
};

static int room_span(void *ctx, gfn_t first, uint64_t frames, hva_t *ret)
{
	struct room *r = ctx;

	return r->inner.ops->span(r->inner.ctx, first, frames, ret);
}

static bool room_private(void *ctx, gfn_t first, uint64_t frames)
{
	struct room *r = ctx;

	return r->inner.ops->is_private(r->inner.ctx, first, frames);
}

static bool room_in_flight(void *ctx, gfn_t first, uint64_t frames)
{
	struct room *r = ctx;

	return r->inner.ops->in_flight(r->inner.ctx, first, frames);
}

static int room_reserve(void *ctx, unsigned extents)
{
	struct room *r = ctx;

	return r->inner.ops->reserve(r->inner.ctx, extents);
}

static int room_held(void *ctx, void (*work)(void *arg), void *arg)
{
	struct room *r = ctx;

	r->holds++;
	if (r->before_work)
		r->before_work(r);
	r->held = true;
	work(arg);
	r->held = false;
	if (r->after_work)
		r->after_work(r);
	return 0;
}

static int room_advise(void *ctx, hva_t start, uint64_t bytes)
{
	struct room *r = ctx;

	return r->inner.ops->advise(r->inner.ctx, start, bytes);
}

static void room_replaced(void *ctx, gfn_t first, uint64_t frames, const struct segment_view *store,
			  uint32_t page)
{
	struct room *r = ctx;

	assert_true(r->held);
	r->inner.ops->replaced(r->inner.ctx, first, frames, store, page);
}

static void room_retaken(void *ctx, gfn_t first, uint64_t frames)
{
	struct room *r = ctx;

	assert_true(r->held);
	r->inner.ops->retaken(r->inner.ctx, first, frames);
}

static const struct guest_view_ops room_ops = {
	.span = room_span,
	.is_private = room_private,
	.in_flight = room_in_flight,
	.reserve = room_reserve,
	.while_held = room_held,
	.advise = room_advise,
	.replaced = room_replaced,
	.retaken = room_retaken,
};

static void segment_fill(struct segment_view *ret, bool other)
{
	cleanup(segment_free_p) struct segment *s = NULL;
	auto_fd fd = -1;
	uint8_t page[PAGE_BYTES];
	uint32_t at;

	assert_int_equal(segment_new(SEGMENT_PAGES, &s), 0);
	for (unsigned i = 0; i < SEGMENT_PAGES; i++) {
		replay_content(page, replay_pool_number(POOL, i));
		page[100] ^= other && i % 64 == 63;
		assert_int_equal(segment_append(s, page, 1, &at), 0);
	}
	assert_int_equal(segment_seal(s, &fd), 0);
	assert_int_equal(segment_view_init(fd, ret, NULL), 0);
}

static void scan(struct room *r)
{
	assert_int_equal(write_tracker_scan(r->tracker, hva_of(replay_memory_at(r->m, GFN(0))),
					    FRAMES * PAGE_BYTES, NULL),
			 0);
}

/* Frames 0 to 511 hold the pool's pages, and are the store's; 512 to 1023 are zero, but not holes. */
static void setup(struct room *r)
{
	static const struct replay_run runs[] = {{REPLAY_COPY, 512}, {REPLAY_UNIQUE, FRAMES - 512}};
	const struct replay_spec spec = {
		.seed = 1, .pool_seed = POOL, .pool_pages = 512, .runs = runs, .count = 2};
	struct guest_view view = {.ops = &room_ops, .ctx = r};
	struct extent share = {.first = GFN(0), .pages = 512, .store = &r->store[0]};
	struct errmsg err = {0};
	int e;

	*r = (struct room){0};
	e = write_tracker_new(&err, &r->tracker);
	if (e == -ENOTSUP)
		TEST_SKIP(err.text);
	assert_int_equal(e, 0);
	assert_int_equal(replay_memory_new(FRAMES, &spec, &r->m), 0);
	assert_int_equal(replay_memory_watch(r->m, r->tracker), 0);
	for (unsigned i = 512; i < 1024; i++)
		assert_true(replay_memory_write(r->m, GFN(i), 0));
	segment_fill(&r->store[0], false);
	segment_fill(&r->store[1], true);
	r->inner = replay_memory_view(r->m);
	assert_int_equal(extent_applier_new(&view, r->tracker, &r->applier), 0);
	scan(r);
	assert_int_equal(extent_apply(r->applier, &share, 1), 512);
}

static void teardown(struct room *r)
{
	assert_true(replay_memory_verify(r->m, GFN(0), FRAMES));
	extent_applier_free(r->applier);
	segment_view_done(&r->store[0]);
	segment_view_done(&r->store[1]);
	assert_true(replay_memory_verify(r->m, GFN(0), FRAMES));
	replay_memory_free(r->m);
	write_tracker_free(r->tracker);
}

static enum extent_outcome apply(struct room *r, struct extent x)
{
	extent_apply(r->applier, &x, 1);
	assert_true(replay_memory_verify(r->m, GFN(0), FRAMES));
	return x.outcome;
}

static enum extent_outcome apply_unread(struct room *r, struct extent x)
{
	extent_apply(r->applier, &x, 1);
	return x.outcome;
}

static unsigned resident(struct room *r, uint64_t first, unsigned frames)
{
	unsigned char in_core[FRAMES];
	unsigned n = 0;

	assert_int_equal(mincore(replay_memory_at(r->m, GFN(first)), (size_t)frames * PAGE_BYTES, in_core),
			 0);
	for (unsigned i = 0; i < frames; i++)
		n += in_core[i] & 1;
	return n;
}

static struct extent drop(uint64_t first, uint32_t pages)
{
	return (struct extent){.kind = EXTENT_DROP, .first = GFN(first), .pages = pages};
}

static void write_one(struct room *r)
{
	assert_true(replay_memory_write_word(r->m, GFN(700), 9, 4711));
}

static void write_shared(struct room *r)
{
	assert_true(replay_memory_write_word(r->m, GFN(7), 9, 4712));
}

TEST(zero_is_dropped)
{
	struct room r;

	setup(&r);
	assert_int_equal(resident(&r, 512, 512), 512);
	assert_int_equal(apply_unread(&r, drop(512, 512)), EXTENT_REPLACED);
	assert_int_equal(resident(&r, 512, 512), 0);
	/* Watched as before: what is written there is seen. */
	write_one(&r);
	scan(&r);
	assert_int_equal(
		write_tracker_unwritten(r.tracker, hva_of(replay_memory_at(r.m, GFN(700))), PAGE_BYTES), 1);
	teardown(&r);
}

TEST(what_is_not_zero_is_not_dropped)
{
	struct room r;

	setup(&r);
	assert_int_equal(apply(&r, drop(1023, 2)), EXTENT_DIFFERENT);
	assert_int_equal(apply(&r, drop(1024, 1)), EXTENT_DIFFERENT);
	assert_true(replay_memory_write_word(r.m, GFN(600), 511, 1)); /* the last bytes */
	scan(&r);
	assert_int_equal(apply(&r, drop(512, 512)), EXTENT_DIFFERENT);
	assert_int_equal(resident(&r, 512, 512), 512);
	assert_int_equal(apply(&r, drop(0, 512)), EXTENT_NOT_PRIVATE);
	teardown(&r);
}

TEST(what_is_written_is_not_dropped)
{
	struct room r;

	setup(&r);
	r.before_work = write_one;
	assert_int_equal(apply(&r, drop(512, 512)), EXTENT_WRITTEN);
	assert_int_equal(r.holds, 2); /* it was found in the hold */
	r.before_work = NULL;
	assert_int_equal(in_flight_enter(replay_memory_in_flight(r.m), GFN(800), 1), 0);
	assert_int_equal(apply(&r, drop(799, 2)), EXTENT_IN_FLIGHT);
	in_flight_leave(replay_memory_in_flight(r.m), GFN(800), 1);
	r.after_work = write_one;
	assert_int_equal(apply(&r, drop(700, 1)), EXTENT_WRITTEN);
	scan(&r);
	teardown(&r);
}

TEST(zero_in_several_mappings_is_dropped_in_parts)
{
	struct room r;

	setup(&r);
	assert_int_equal(madvise(replay_memory_at(r.m, GFN(700)), 100 * PAGE_BYTES, MADV_DODUMP), 0);
	assert_int_equal(apply(&r, drop(512, 512)), EXTENT_SEVERAL);
	assert_int_equal(apply_unread(&r, drop(512, 188)), EXTENT_REPLACED);
	assert_int_equal(apply_unread(&r, drop(700, 100)), EXTENT_REPLACED);
	assert_int_equal(resident(&r, 512, 512), 512 - 288);
	teardown(&r);
}

static struct extent move(struct room *r, uint64_t first, uint32_t pages, unsigned to)
{
	return (struct extent){.kind = EXTENT_MOVE,
			       .first = GFN(first),
			       .pages = pages,
			       .store = &r->store[to],
			       .store_page = (uint32_t)first};
}

static void populate(struct room *r)
{
	assert_true(replay_memory_verify(r->m, GFN(0), 512));
}

TEST(pages_move_within_the_store)
{
	struct room r;

	setup(&r);
	populate(&r);
	assert_int_equal(apply(&r, move(&r, 0, 63, 1)), EXTENT_REPLACED);
	assert_int_equal(apply(&r, move(&r, 0, 63, 0)), EXTENT_REPLACED);
	assert_int_equal(apply(&r, move(&r, 64, 64, 1)), EXTENT_DIFFERENT);
	assert_int_equal(apply(&r, move(&r, 512, 1, 1)), EXTENT_INVALID);
	assert_int_equal(apply(&r, (struct extent){.kind = EXTENT_MOVE,
						   .first = GFN(512),
						   .pages = 1,
						   .store = &r.store[1]}),
			 EXTENT_NOT_PRIVATE);
	teardown(&r);
}

TEST(what_was_written_does_not_move)
{
	struct room r;

	setup(&r);
	populate(&r);
	r.before_work = write_shared;
	assert_int_equal(apply(&r, move(&r, 0, 32, 1)), EXTENT_WRITTEN);
	r.before_work = NULL;
	/* A copy with the same bytes is one all the same. */
	assert_true(replay_memory_restore(r.m, GFN(7)));
	assert_int_equal(apply(&r, move(&r, 0, 32, 1)), EXTENT_WRITTEN);
	assert_int_equal(in_flight_enter(replay_memory_in_flight(r.m), GFN(40), 1), 0);
	assert_int_equal(apply(&r, move(&r, 32, 16, 1)), EXTENT_IN_FLIGHT);
	in_flight_leave(replay_memory_in_flight(r.m), GFN(40), 1);
	teardown(&r);
}

static void discard_shared(struct room *r)
{
	assert_int_equal(replay_memory_discard(r->m, GFN(0), 32), 0);
}

TEST(what_was_discarded_does_not_move)
{
	struct room r;

	setup(&r);
	populate(&r);
	r.before_work = discard_shared;
	assert_int_equal(apply(&r, move(&r, 0, 32, 1)), EXTENT_WRITTEN);
	teardown(&r);
}

static struct extent retake(uint64_t first, uint32_t pages)
{
	return (struct extent){.kind = EXTENT_RETAKE, .first = GFN(first), .pages = pages};
}

TEST(what_is_retaken_is_watched)
{
	struct room r;

	setup(&r);
	write_shared(&r);
	r.before_work = write_shared; /* the last moment before, and the first after */
	r.after_work = write_shared;
	assert_int_equal(apply(&r, retake(0, 32)), EXTENT_REPLACED);
	r.before_work = r.after_work = NULL;
	assert_true(r.inner.ops->is_private(r.inner.ctx, GFN(0), 32));
	assert_false(r.inner.ops->is_private(r.inner.ctx, GFN(32), 1));
	scan(&r);
	assert_int_equal(
		write_tracker_unwritten(r.tracker, hva_of(replay_memory_at(r.m, GFN(0))), 32 * PAGE_BYTES),
		1);
	assert_true(replay_memory_restore(r.m, GFN(7)));
	scan(&r);
	assert_int_equal(apply(&r, (struct extent){.first = GFN(0), .pages = 32, .store = &r.store[0]}),
			 EXTENT_REPLACED);
	teardown(&r);
}

static void write_more(struct room *r)
{
	static uint64_t value;

	for (unsigned i = 0; i < 16; i++)
		assert_true(replay_memory_write_word(r->m, GFN(i), 5, ++value));
}

TEST(no_write_is_lost_to_a_retake)
{
	struct room r;

	setup(&r);
	r.before_work = r.after_work = write_more;
	assert_int_equal(apply(&r, retake(0, 16)), EXTENT_REPLACED);
	assert_int_equal(apply(&r, retake(0, 16)), EXTENT_NOT_PRIVATE);
	assert_int_equal(apply(&r, retake(16, 33)), EXTENT_INVALID);
	assert_int_equal(in_flight_enter(replay_memory_in_flight(r.m), GFN(40), 1), 0);
	assert_int_equal(apply(&r, retake(32, 16)), EXTENT_IN_FLIGHT);
	in_flight_leave(replay_memory_in_flight(r.m), GFN(40), 1);
	teardown(&r);
}

#define KPF_THP 22

static uint64_t read_word(int fd, uint64_t index)
{
	uint64_t v = 0;

	assert_int_equal(pread(fd, &v, sizeof(v), (off_t)(index * sizeof(v))), sizeof(v));
	return v;
}

/* A huge page of which a part is replaced is none any more: else the part would not be freed. */
TEST(parts_of_huge_pages_are_freed)
{
	static const struct replay_run runs[] = {{REPLAY_COPY, 512}, {REPLAY_UNIQUE, FRAMES - 512}};
	const struct replay_spec spec = {
		.seed = 1, .pool_seed = POOL, .pool_pages = 512, .runs = runs, .count = 2};
	auto_fd flags = open("/proc/kpageflags", O_RDONLY | O_CLOEXEC);
	auto_fd pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	struct room r;
	uint64_t pfn;

	setup(&r);
	extent_applier_free(r.applier);
	replay_memory_free(r.m);
	assert_int_equal(replay_memory_new_empty(FRAMES, REPLAY_THP_ON, &r.m), 0);
	assert_int_equal(replay_memory_fill(r.m, &spec), 0);
	assert_int_equal(replay_memory_watch(r.m, r.tracker), 0);
	r.inner = replay_memory_view(r.m);
	assert_int_equal(
		extent_applier_new(&(struct guest_view){.ops = &room_ops, .ctx = &r}, r.tracker, &r.applier),
		0);
	scan(&r);
	pfn = read_word(pagemap, (uintptr_t)replay_memory_at(r.m, GFN(300)) / PAGE_BYTES) &
	      (((uint64_t)1 << 55) - 1);
	if (flags >= 0 && pfn && read_word(flags, pfn) >> KPF_THP & 1) {
		assert_int_equal(
			apply(&r, (struct extent){.first = GFN(0), .pages = 256, .store = &r.store[0]}),
			EXTENT_REPLACED);
		pfn = read_word(pagemap, (uintptr_t)replay_memory_at(r.m, GFN(300)) / PAGE_BYTES) &
		      (((uint64_t)1 << 55) - 1);
		assert_false(read_word(flags, pfn) >> KPF_THP & 1);
	} else {
		print_message("no huge pages to be had, or not root\n");
	}
	teardown(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(zero_is_dropped),
		cmocka_unit_test(what_is_not_zero_is_not_dropped),
		cmocka_unit_test(what_is_written_is_not_dropped),
		cmocka_unit_test(zero_in_several_mappings_is_dropped_in_parts),
		cmocka_unit_test(pages_move_within_the_store),
		cmocka_unit_test(what_was_written_does_not_move),
		cmocka_unit_test(what_was_discarded_does_not_move),
		cmocka_unit_test(what_is_retaken_is_watched),
		cmocka_unit_test(no_write_is_lost_to_a_retake),
		cmocka_unit_test(parts_of_huge_pages_are_freed),
	};

	return TEST_RUN(tests);
}
