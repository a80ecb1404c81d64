/* SPDX-License-Identifier: Apache-2.0 */
/* Specifications of replayed memory: what is understood, and what is refused with a word about where. */
#include "tools/replay-spec.h"

#include <errno.h>
#include <string.h>

#include "tests/unit/test.h"

static struct replay_spec parse(const char *text)
{
	struct errmsg err = {0};
	struct replay_spec spec;

	if (replay_spec_parse(text, &err, &spec) < 0)
		fail_msg("%s: %s", text, err.text);
	return spec;
}

TEST(runs_in_their_order)
{
	struct replay_spec s = parse("zero:50,copy:2x512,fill:16,pool:9000,unique:8,pool-seed:77");
	static const struct replay_run want[] = {
		{REPLAY_ZERO, 50}, {REPLAY_COPY, 512}, {REPLAY_COPY, 512},
		{REPLAY_FILL, 16}, {REPLAY_UNIQUE, 8},
	};

	assert_int_equal(s.count, ARRAY_SIZE(want));
	for (size_t i = 0; i < s.count; i++) {
		assert_int_equal(s.runs[i].kind, want[i].kind);
		assert_int_equal(s.runs[i].frames, want[i].frames);
	}
	assert_int_equal(s.pool_pages, 9000);
	assert_int_equal(s.pool_seed, 77);
	replay_spec_done(&s);
	assert_null(s.runs);
}

TEST(groups)
{
	struct replay_spec s = parse("3x(fill:1,unique:2x3),(zero:1)");

	assert_int_equal(s.count, 10);
	for (size_t i = 0; i < 9; i++) {
		assert_int_equal(s.runs[i].kind, i % 3 ? REPLAY_UNIQUE : REPLAY_FILL);
		assert_int_equal(s.runs[i].frames, i % 3 ? 3 : 1);
	}
	assert_int_equal(s.runs[9].kind, REPLAY_ZERO);
	assert_int_equal(s.pool_pages, REPLAY_SPEC_POOL_PAGES);
	assert_int_equal(s.pool_seed, REPLAY_SPEC_POOL_SEED);
	replay_spec_done(&s);
}

TEST(presets_are_specifications)
{
	for (size_t i = 0; replay_presets[i].name; i++) {
		struct replay_spec s = parse(replay_presets[i].name), same = parse(replay_presets[i].spec);
		struct replay_memory *m;

		assert_int_equal(s.count, same.count);
		assert_int_equal(replay_memory_new(100, &s, &m), 0);
		replay_memory_free(m);
		replay_spec_done(&s);
		replay_spec_done(&same);
	}
}

TEST(refused)
{
	static const struct {
		const char *text, *word;
		int error;
	} rows[] = {
		{"", "is wanted at \"\"", -EINVAL},
		{"guest", "is wanted at \"guest\"", -EINVAL},
		{"zero", "is wanted", -EINVAL},
		{"zero:", "a number is missing", -EINVAL},
		{"zero:0", "pages must be 1 to", -E2BIG},
		{"zero:-1", "a number is missing at \"-1\"", -EINVAL},
		{"zero:268435457", "pages must be", -E2BIG},
		{"zero:99999999999999999999999999", "pages must be", -E2BIG},
		{"zero:1,", "is wanted at \"\"", -EINVAL},
		{"zero:1;fill:1", "a comma is wanted at \";fill:1\"", -EINVAL},
		{"zero:0x5", "a count of runs must be 1 to", -E2BIG},
		{"zero:3x", "a number is missing", -EINVAL},
		{"zero:70000x1", "a count of runs", -E2BIG},
		{"zero:65536x1,zero:1", "more than 65536 runs", -E2BIG},
		{"(zero:1", "a ) is missing", -EINVAL},
		{"()", "is wanted at \")\"", -EINVAL},
		{"2x((zero:1))", "is wanted at \"(zero:1))\"", -EINVAL},
		{"2xzero:1", "is wanted", -EINVAL},
		{"pool:4", "no runs", -EINVAL},
		{"copy:5,pool:4", "copy:5 is longer than the pool of 4 pages", -EINVAL},
		{"copy:16385", "longer than the pool of 16384", -EINVAL},
		{"unique:1,pool-seed:x", "a number is missing", -EINVAL},
	};

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct errmsg err = {0};
		struct replay_spec s = {.seed = 42};

		if (replay_spec_parse(rows[i].text, &err, &s) != rows[i].error || s.seed != 42 ||
		    !strstr(err.text, rows[i].word))
			fail_msg("%s: %s", rows[i].text, err.text);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(runs_in_their_order),
		cmocka_unit_test(groups),
		cmocka_unit_test(presets_are_specifications),
		cmocka_unit_test(refused),
	};

	return TEST_RUN(tests);
}
