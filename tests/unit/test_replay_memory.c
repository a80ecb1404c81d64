/* SPDX-License-Identifier: Apache-2.0 */
/* Replayed memory is what its specification says, knows of every byte, and stands still while held. */
#include "ksm/replay-memory.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "base/fs.h"
#include "ksm/page-hash.h"
#include "ksm/replay-writer.h"
#include "tests/unit/test.h"

#define FRAMES	   1000u
#define DEADLINE_S 30

static const struct replay_run runs[] = {
	{REPLAY_ZERO, 30}, {REPLAY_COPY, 16}, {REPLAY_FILL, 8}, {REPLAY_UNIQUE, 10}, {REPLAY_COPY, 1},
};

static struct replay_spec spec(uint64_t seed)
{
	return (struct replay_spec){.seed = seed, .pool_seed = 7, .pool_pages = 64, .runs = runs, .count = 5};
}

static struct replay_memory *memory(uint64_t seed)
{
	struct replay_spec s = spec(seed);
	struct replay_memory *m;

	assert_int_equal(replay_memory_new(FRAMES, &s, &m), 0);
	return m;
}

static bool frames_equal(const struct replay_memory *a, const struct replay_memory *b, unsigned frame)
{
	return memcmp(replay_memory_at(a, GFN(frame)), replay_memory_at(b, GFN(frame)), PAGE_BYTES) == 0;
}

/* Pages of a range that the kernel holds a frame for. */
static unsigned test_resident(void *at, unsigned pages)
{
	unsigned char in[FRAMES];
	unsigned n = 0;

	assert_int_equal(mincore(at, pages * PAGE_BYTES, in), 0);
	for (unsigned i = 0; i < pages; i++)
		n += in[i] & 1;
	return n;
}

/* The pool's page that a frame holds; -1: none. */
static int pool_page(const struct replay_memory *m, unsigned frame)
{
	uint8_t page[PAGE_BYTES];

	for (int i = 0; i < 64; i++) {
		replay_content(page, replay_pool_number(7, (uint64_t)i));
		if (memcmp(page, replay_memory_at(m, GFN(frame)), PAGE_BYTES) == 0)
			return i;
	}
	return -1;
}

TEST(filled_by_specification)
{
	cleanup(replay_memory_free_p) struct replay_memory *a = memory(1), *again = memory(1), *b = memory(2);

	assert_int_equal((uintptr_t)replay_memory_at(a, GFN(0)) % HUGE_PAGE_BYTES, 0);
	for (unsigned i = 0; i < FRAMES; i++) {
		unsigned at = i % 65;
		enum page_kind kind = page_identify(replay_memory_at(a, GFN(i)), PAGE_BYTES).kind;

		assert_true(frames_equal(a, again, i));
		assert_int_equal(kind, at < 30 ? PAGE_ZERO : at >= 46 && at < 54 ? PAGE_FILL : PAGE_DATA);
		if (at >= 30 && at < 46)
			assert_int_equal(pool_page(a, i), pool_page(a, i - at + 30) + (int)(at - 30));
		assert_true((pool_page(a, i) >= 0) == ((at >= 30 && at < 46) || at == 64));
		if (at >= 54 && at < 64)
			assert_false(frames_equal(a, b, i));
	}
	assert_true(replay_memory_verify(a, GFN(0), FRAMES));
}

TEST(refuses_no_specification)
{
	struct replay_run run = {REPLAY_COPY, 65};
	struct replay_spec s = spec(1);
	struct replay_memory *m;

	s.runs = &run;
	s.count = 1;
	assert_int_equal(replay_memory_new(10, &s, &m), -EINVAL); /* longer than the pool */
	run.frames = 0;
	assert_int_equal(replay_memory_new(10, &s, &m), -EINVAL);
	s.count = 0;
	assert_int_equal(replay_memory_new(10, &s, &m), -EINVAL);
	s = spec(1);
	assert_int_equal(replay_memory_new(0, &s, &m), -EINVAL);
}

TEST(loads_dumps)
{
	cleanup(replay_memory_free_p) struct replay_memory *a = memory(3), *b = NULL;
	struct errmsg err = {0};
	char path[] = "/tmp/sardine-replay-XXXXXX";
	auto_fd fd = mkstemp(path);

	assert_true(fd >= 0);
	assert_int_equal(pwrite_full(fd, replay_memory_at(a, GFN(0)), FRAMES * PAGE_BYTES, 0), 0);
	assert_int_equal(replay_memory_load(path, &err, &b), 0);
	assert_int_equal(replay_memory_frames(b), FRAMES);
	for (unsigned i = 0; i < FRAMES; i++)
		assert_true(frames_equal(a, b, i));
	assert_true(replay_memory_verify(b, GFN(0), FRAMES));
	assert_true(replay_memory_restore(b, GFN(0)));
	assert_int_equal(ftruncate(fd, 4097), 0);
	assert_int_equal(replay_memory_load(path, &err, &a), -EINVAL);
	assert_non_null(strstr(err.text, path));
	assert_int_equal(ftruncate(fd, 0), 0);
	assert_int_equal(replay_memory_load(path, &err, &a), -EINVAL);
	unlink(path);
	assert_int_equal(replay_memory_load(path, &err, &a), -ENOENT);
}

TEST(every_byte_is_known)
{
	cleanup(replay_memory_free_p) struct replay_memory *m = memory(4);
	uint8_t *page = replay_memory_at(m, GFN(31));

	assert_true(replay_memory_write(m, GFN(31), 4711));
	assert_true(replay_memory_write_word(m, GFN(31), 511, 42));
	assert_int_equal(((uint64_t *)replay_memory_at(m, GFN(31)))[511], 42);
	assert_int_equal(replay_memory_discard(m, GFN(100), 10), 0);
	assert_true(replay_memory_write(m, GFN(101), 1));
	assert_int_equal(replay_memory_discard(m, GFN(FRAMES - 1), 2), -EFAULT);
	assert_true(replay_memory_verify(m, GFN(0), FRAMES));
	assert_int_equal(replay_memory_wrong(m), UINT64_MAX);
	page[4095] ^= 1;
	assert_false(replay_memory_check(m, GFN(31)));
	assert_false(replay_memory_write_word(m, GFN(31), 0, 1)); /* does not write over the evidence */
	assert_false(replay_memory_write(m, GFN(31), 1));
	assert_false(replay_memory_verify(m, GFN(0), FRAMES));
	assert_int_equal(replay_memory_wrong(m), 31);
	assert_int_equal(in_flight_enter(replay_memory_in_flight(m), GFN(31), 1), 0);
	assert_true(replay_memory_verify(m, GFN(0), FRAMES)); /* not now */
	in_flight_leave(replay_memory_in_flight(m), GFN(31), 1);
}

/* Pages from elsewhere; holes stay holes; the advice is on all of it, also on what is mapped anew. */
TEST(put_from_elsewhere)
{
	cleanup(replay_memory_free_p) struct replay_memory *m = NULL;
	uint64_t page[PAGE_BYTES / 8] = {0};
	struct guest_view view;
	struct replay_spec s = spec(1);

	assert_int_equal(replay_memory_new_empty(0, REPLAY_THP_HOST, &m), -EINVAL);
	assert_int_equal(replay_memory_new_empty(FRAMES, REPLAY_THP_OFF, &m), 0);
	replay_memory_put(m, GFN(3), page);
	replay_content(page, 4711);
	replay_memory_put(m, GFN(4), page);
	assert_int_equal(test_resident(replay_memory_at(m, GFN(0)), FRAMES), 1);
	assert_true(replay_memory_verify(m, GFN(0), FRAMES));
	assert_int_equal(test_resident(replay_memory_at(m, GFN(0)), FRAMES), 1);
	assert_memory_equal(replay_memory_at(m, GFN(4)), page, sizeof(page));
	view = replay_memory_view(m);
	assert_int_equal(view.ops->advise(view.ctx, hva_of(replay_memory_at(m, GFN(0))), PAGE_BYTES), 0);
	assert_true(replay_memory_write_word(m, GFN(4), 0, 1));
	assert_int_equal(madvise(replay_memory_at(m, GFN(4)), PAGE_BYTES, MADV_DONTNEED), 0);
	assert_false(replay_memory_verify(m, GFN(0), FRAMES)); /* lost behind its back */
	assert_int_equal(replay_memory_wrong(m), 4);
	s.count = 0;
	assert_int_equal(replay_memory_fill(m, &s), -EINVAL);
}

static void verify_all(void *arg)
{
	(void)replay_memory_verify(arg, GFN(0), FRAMES);
}

static uint64_t seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec;
}

TEST(writers_write_what_is_known)
{
	cleanup(replay_memory_free_p) struct replay_memory *m = memory(5);
	struct replay_writer *fast, *slow, *none;
	struct replay_writer_config c = {.first = GFN(0),
					 .frames = 480,
					 .window = 16,
					 .writes = 50,
					 .discard_per_mille = 300,
					 .restore_per_mille = 500,
					 .seed = 9};
	struct replay_stats stats;
	uint64_t deadline = seconds() + DEADLINE_S, start = seconds();

	assert_int_equal(replay_writer_start(m, &c, &fast), 0);
	c.first = GFN(480);
	c.writes_per_s = 200;
	assert_int_equal(replay_writer_start(m, &c, &slow), 0);
	while (replay_writer_writes(fast) < 20000 || replay_writer_writes(slow) < 20) {
		assert_int_equal(hold_call(replay_memory_hold(m), verify_all, m), 0);
		assert_true(seconds() < deadline);
	}
	assert_true(replay_writer_writes(slow) <= 200 * (seconds() - start + 1) + 1);
	assert_int_equal(replay_writer_stop(fast), 0);
	assert_int_equal(replay_writer_stop(slow), 0);
	assert_true(replay_memory_verify(m, GFN(0), FRAMES));
	replay_memory_stats(m, &stats);
	assert_true(stats.discards > 0);
	c.first = GFN(600);
	assert_int_equal(replay_writer_start(m, &c, &none), -EINVAL);
	c.first = GFN(0);
	c.window = 7;
	assert_int_equal(replay_writer_start(m, &c, &none), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(filled_by_specification),
		cmocka_unit_test(refuses_no_specification),
		cmocka_unit_test(loads_dumps),
		cmocka_unit_test(every_byte_is_known),
		cmocka_unit_test(put_from_elsewhere),
		cmocka_unit_test(writers_write_what_is_known),
	};

	return TEST_RUN(tests);
}
