/* SPDX-License-Identifier: Apache-2.0 */
/* Rate limits: the rate holds in the long run whatever the sizes, and nobody waits for ever. */
#include "vmm/token-bucket.h"

#include "base/cleanup.h"
#include "tests/unit/test.h"

#define SECOND 1000000000ull

TEST(without_a_limit_nothing_waits)
{
	struct token_bucket b;

	token_bucket_init(&b, 0, 0, 5);
	for (int i = 0; i < 1000; i++) {
		assert_int_equal(token_bucket_wait_ns(&b, 5), 0);
		token_bucket_take(&b, UINT64_MAX);
	}
}

TEST(a_burst_goes_through_then_the_rate_holds)
{
	struct token_bucket b;
	uint64_t now = 7 * SECOND;
	unsigned taken = 0;

	token_bucket_init(&b, 1000, 0, now); /* burst 100 */
	while (token_bucket_wait_ns(&b, now) == 0) {
		token_bucket_take(&b, 1);
		taken++;
	}
	assert_int_equal(taken, 100);
	for (unsigned i = 0; i < 500; i++) {
		uint64_t wait = token_bucket_wait_ns(&b, now);

		assert_true(wait > 0 && wait <= SECOND / 1000 + 1);
		now += wait;
		assert_int_equal(token_bucket_wait_ns(&b, now), 0);
		token_bucket_take(&b, 1);
	}
	assert_in_range(now - 7 * SECOND, SECOND / 2, SECOND / 2 + 1000);
}

/* Takes @size at a time for ten seconds; what went through is the rate, plus the burst and one request. */
static void rate_holds(uint64_t rate, uint64_t size)
{
	struct token_bucket b;
	uint64_t now = 1, total = 0, end = 1 + 10 * SECOND;

	token_bucket_init(&b, rate, 0, now);
	for (;;) {
		uint64_t wait = token_bucket_wait_ns(&b, now);

		assert_true(wait < 200 * SECOND);
		now += wait;
		if (now > end)
			break;
		token_bucket_take(&b, size);
		total += size;
	}
	assert_true(total <= 10 * rate + b.burst + size);
	assert_true(total + size >= 10 * rate);
}

TEST(the_rate_holds_whatever_the_sizes)
{
	static const uint64_t rates[] = {1, 3, 1000, 4096, 1000003, 1ull << 30};
	static const uint64_t sizes[] = {1, 7, 512, 4096, 1ull << 20};

	for (unsigned r = 0; r < ARRAY_SIZE(rates); r++)
		for (unsigned s = 0; s < ARRAY_SIZE(sizes); s++)
			if (sizes[s] <= rates[r] * 100 && rates[r] / sizes[s] < 100000)
				rate_holds(rates[r], sizes[s]);
}

/* Asking often must not lose the parts of a token that trickled in between. */
TEST(asking_often_loses_nothing)
{
	struct token_bucket b;
	uint64_t now = 1, taken = 0;

	token_bucket_init(&b, 3, 1, now);
	for (; now < 1 + 10 * SECOND; now += 1000003) {
		if (token_bucket_wait_ns(&b, now) == 0) {
			token_bucket_take(&b, 1);
			taken++;
		}
	}
	assert_in_range(taken, 30, 31);
}

TEST(extremes)
{
	struct token_bucket b;

	token_bucket_init(&b, UINT64_MAX, UINT64_MAX, 0);
	assert_int_equal(token_bucket_wait_ns(&b, UINT64_MAX), 0);
	for (int i = 0; i < 100; i++)
		token_bucket_take(&b, UINT64_MAX);
	assert_true(token_bucket_wait_ns(&b, UINT64_MAX) > 0);
	/* A clock that steps back waits, and is no disaster. */
	token_bucket_init(&b, 10, 1, 100 * SECOND);
	token_bucket_take(&b, 2);
	assert_true(token_bucket_wait_ns(&b, 0) > 0);
	assert_int_equal(token_bucket_wait_ns(&b, 101 * SECOND), 0);
}

TEST(the_tighter_limit_counts)
{
	static const struct rate_config config = {.bytes_per_s = 1000, .ops_per_s = 10};
	static const struct rate_config none = {0};
	struct rate_limit limit;

	rate_limit_init(&limit, &config, 0);
	assert_true(rate_limit_is_set(&limit));
	assert_int_equal(rate_limit_wait_ns(&limit, 0), 0);
	rate_limit_take(&limit, 1); /* the one operation of the burst is used up */
	assert_in_range(rate_limit_wait_ns(&limit, 0), SECOND / 10, SECOND / 10 + 2);
	assert_int_equal(rate_limit_wait_ns(&limit, SECOND), 0);
	rate_limit_take(&limit, 2100); /* the bytes are 2000 in debt */
	assert_in_range(rate_limit_wait_ns(&limit, SECOND), 2 * SECOND, 2 * SECOND + SECOND / 500);
	rate_limit_init(&limit, &none, 0);
	assert_false(rate_limit_is_set(&limit));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(without_a_limit_nothing_waits),
		cmocka_unit_test(a_burst_goes_through_then_the_rate_holds),
		cmocka_unit_test(the_rate_holds_whatever_the_sizes),
		cmocka_unit_test(asking_often_loses_nothing),
		cmocka_unit_test(extremes),
		cmocka_unit_test(the_tighter_limit_counts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
