/* SPDX-License-Identifier: Apache-2.0 */
/* Shared loops: every piece once, errors and stops end them, progress is told. */
#include "ksm/workers.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#include "tests/unit/test.h"

#define PIECES 5000u

struct seen {
	_Atomic unsigned count[PIECES];
	_Atomic unsigned highest_thread;
	uint64_t bad_piece; /* fails with -EPROTO */
	atomic_int *stop;
	uint64_t stop_piece;
	unsigned reports;
	uint64_t last_done;
};

static int see(void *ctx, unsigned thread, uint64_t piece)
{
	struct seen *s = ctx;

	assert_true(piece < PIECES);
	s->count[piece]++;
	if (thread > s->highest_thread)
		s->highest_thread = thread;
	if (s->stop && piece == s->stop_piece)
		atomic_store(s->stop, 1);
	return piece == s->bad_piece ? -EPROTO : 0;
}

static void report(void *ctx, const char *phase, uint64_t done, uint64_t total)
{
	struct seen *s = ctx;

	assert_string_equal(phase, "testing");
	assert_true(done <= total && total == PIECES && done >= s->last_done);
	s->last_done = done;
	s->reports++;
}

TEST(every_piece_once)
{
	static const unsigned threads[] = {0, 1, 2, 7, WORKERS_MAX, WORKERS_MAX + 1};

	for (size_t i = 0; i < ARRAY_SIZE(threads); i++) {
		static struct seen s;
		struct work_control control = {.threads = threads[i], .progress = report, .progress_ctx = &s};

		memset(&s, 0, sizeof(s));
		s.bad_piece = UINT64_MAX;
		assert_int_equal(workers_run(&control, "testing", PIECES, see, &s), 0);
		for (unsigned k = 0; k < PIECES; k++)
			assert_int_equal(s.count[k], 1);
		assert_true(s.highest_thread < (threads[i] ? threads[i] : 1));
		assert_true(s.reports >= 1);
		assert_int_equal(s.last_done, PIECES);
	}
}

TEST(nothing_to_do)
{
	static struct seen s;
	struct work_control control = {.threads = 4};

	assert_int_equal(workers_run(&control, "testing", 0, see, &s), 0);
}

TEST(an_error_ends_it)
{
	for (unsigned threads = 0; threads < 4; threads++) {
		static struct seen s;
		struct work_control control = {.threads = threads};
		unsigned done = 0;

		memset(&s, 0, sizeof(s));
		s.bad_piece = 100;
		assert_int_equal(workers_run(&control, "testing", PIECES, see, &s), -EPROTO);
		for (unsigned k = 0; k < PIECES; k++)
			done += s.count[k];
		assert_true(done >= 1);
		assert_int_equal(s.count[100], 1);
		if (threads < 2)
			assert_int_equal(done, 101);
	}
}

TEST(a_stop_ends_it)
{
	static struct seen s;
	atomic_int stop = 0;
	struct work_control control = {.threads = 1, .stop = &stop};

	s.bad_piece = UINT64_MAX;
	s.stop = &stop;
	s.stop_piece = 10;
	assert_int_equal(workers_run(&control, "testing", PIECES, see, &s), -ECANCELED);
	assert_int_equal(s.count[10], 1);
	assert_int_equal(s.count[11], 0);
	/* When the last piece is done it is whole, stopped or not. */
	stop = 0;
	memset(&s, 0, sizeof(s));
	s.bad_piece = UINT64_MAX;
	s.stop = &stop;
	s.stop_piece = PIECES - 1;
	assert_int_equal(workers_run(&control, "testing", PIECES, see, &s), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_piece_once),
		cmocka_unit_test(nothing_to_do),
		cmocka_unit_test(an_error_ends_it),
		cmocka_unit_test(a_stop_ends_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
