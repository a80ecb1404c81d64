/* SPDX-License-Identifier: Apache-2.0 */
#include "base/log-limit.h"

#include "tests/unit/test.h"

#define SECOND 1000000000ull

static void a_burst_then_one_now_and_then(void **state)
{
	struct log_limit limit = LOG_LIMIT_INIT;
	uint64_t left_out = 99, now = 5 * SECOND;

	(void)state;
	for (unsigned i = 0; i < LOG_LIMIT_BURST; i++) {
		assert_true(log_limit_take(&limit, now, &left_out));
		assert_int_equal(left_out, 0);
	}
	for (unsigned i = 0; i < 1000; i++)
		assert_false(log_limit_take(&limit, now + i, &left_out));
	assert_false(log_limit_take(&limit, now + LOG_LIMIT_EVERY_NS - 1, &left_out));
	assert_true(log_limit_take(&limit, now + LOG_LIMIT_EVERY_NS, &left_out));
	assert_int_equal(left_out, 1001);
	assert_false(log_limit_take(&limit, now + LOG_LIMIT_EVERY_NS, &left_out));
	/* Said once. */
	assert_true(log_limit_take(&limit, now + 2 * LOG_LIMIT_EVERY_NS, &left_out));
	assert_int_equal(left_out, 1);
	/* A quiet time gives the burst back, and no more than that. */
	now += 1000 * LOG_LIMIT_EVERY_NS;
	for (unsigned i = 0; i < LOG_LIMIT_BURST; i++)
		assert_true(log_limit_take(&limit, now, &left_out));
	assert_false(log_limit_take(&limit, now, &left_out));
}

/* A guest that never stops: lines over a day. */
static void a_day_of_noise_is_bounded(void **state)
{
	struct log_limit limit = LOG_LIMIT_INIT;
	uint64_t left_out, lines = 0, said = 0, tries = 0;

	(void)state;
	for (uint64_t now = 0; now < 86400 * SECOND; now += SECOND / 10, tries++) {
		if (!log_limit_take(&limit, now, &left_out))
			continue;
		lines++;
		said += left_out;
	}
	assert_in_range(lines, 8640, 8640 + LOG_LIMIT_BURST);
	assert_in_range(tries - lines - said, 0,
			100); /* each one is written or counted; the last are still to be said */
}

static void events_far_apart_all_pass(void **state)
{
	struct log_limit limit = LOG_LIMIT_INIT;
	uint64_t left_out;

	(void)state;
	for (uint64_t i = 0; i < 1000; i++) {
		assert_true(log_limit_take(&limit, i * LOG_LIMIT_EVERY_NS, &left_out));
		assert_int_equal(left_out, 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_burst_then_one_now_and_then),
		cmocka_unit_test(a_day_of_noise_is_bounded),
		cmocka_unit_test(events_far_apart_all_pass),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
