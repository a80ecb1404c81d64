/* SPDX-License-Identifier: Apache-2.0 */
/* Buckets cover all numbers without gaps, and quantiles are within 7 % of what was put in. */
#include "base/histogram.h"

#include "tests/unit/test.h"

TEST(buckets_follow_each_other)
{
	for (unsigned i = 1; i < HISTOGRAM_BUCKETS; i++) {
		uint64_t least = histogram_bucket_least(i), before = histogram_bucket_least(i - 1);

		assert_true(least > before);
		assert_int_equal(histogram_bucket(least), i);
		assert_int_equal(histogram_bucket(least - 1), i - 1);
		/* An eighth at most. */
		assert_true(before < 8 || (least - before) * 8 <= before);
	}
	assert_int_equal(histogram_bucket(0), 0);
	assert_int_equal(histogram_bucket(UINT64_MAX), HISTOGRAM_BUCKETS - 1);
}

static void assert_near(uint64_t value, uint64_t wanted)
{
	assert_true(value >= wanted - wanted / 14 && value <= wanted + wanted / 14);
}

TEST(quantiles)
{
	struct histogram h = {0};

	assert_int_equal(histogram_quantile(&h, 500000), 0);
	for (uint64_t v = 1; v <= 100000; v++)
		histogram_add(&h, v * 1000);
	assert_int_equal(h.count, 100000);
	assert_int_equal(h.max, 100000000);
	assert_int_equal(h.sum, 5000050000000);
	assert_near(histogram_quantile(&h, 500000), 50000000);
	assert_near(histogram_quantile(&h, 990000), 99000000);
	assert_near(histogram_quantile(&h, 999000), 99900000);
	assert_near(histogram_quantile(&h, 1), 1000);
	assert_true(histogram_quantile(&h, 1000000) <= h.max);
}

TEST(one_value_and_extremes)
{
	struct histogram h = {0};

	histogram_add(&h, 12345);
	assert_near(histogram_quantile(&h, 0), 12345);
	assert_near(histogram_quantile(&h, 1000000), 12345);
	assert_true(histogram_quantile(&h, 1000000) <= 12345);
	histogram_add(&h, UINT64_MAX);
	assert_int_equal(histogram_quantile(&h, 1000000), UINT64_MAX);
	assert_near(histogram_quantile(&h, 500000), 12345);
}

/* One in a thousand is above: p99.9 is not yet, the next finer one is. */
TEST(tails)
{
	struct histogram h = {0};

	for (unsigned i = 0; i < 999; i++)
		histogram_add(&h, 100);
	histogram_add(&h, 1000000);
	assert_near(histogram_quantile(&h, 999000), 100);
	assert_near(histogram_quantile(&h, 999001), 1000000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(buckets_follow_each_other),
		cmocka_unit_test(quantiles),
		cmocka_unit_test(one_value_and_extremes),
		cmocka_unit_test(tails),
	};

	return TEST_RUN(tests);
}
