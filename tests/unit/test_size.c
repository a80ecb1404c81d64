/* SPDX-License-Identifier: Apache-2.0 */
/* Sizes and numbers from outside: what is taken, what is refused. */
#include "base/size.h"

#include <errno.h>

#include "tests/unit/test.h"

TEST(sizes_taken)
{
	static const struct {
		const char *text;
		uint64_t bytes;
	} rows[] = {
		{"0", 0},
		{"4096", 4096},
		{"64K", 65536},
		{"256M", 256 * MIB},
		{"256m", 256 * MIB},
		{"1G", GIB},
		{"1GiB", GIB},
		{"3GB", 3 * GIB},
		{"7B", 7},
		{"16777215T", 16777215ull << 40},
	};

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		uint64_t v = 1;

		assert_int_equal(size_parse(rows[i].text, &v), 0);
		assert_int_equal(v, rows[i].bytes);
	}
}

TEST(sizes_refused)
{
	static const struct {
		const char *text;
		int error;
	} rows[] = {
		{"", -EINVAL},
		{"M", -EINVAL},
		{"-1", -EINVAL},
		{"1X", -EINVAL},
		{"1 M", -EINVAL},
		{"1.5G", -EINVAL},
		{"0x10", -EINVAL},
		{"16777216T", -ERANGE},
		{"18446744073709551616", -ERANGE},
		{"99999999999999999999999", -ERANGE},
	};

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		uint64_t v = 42;

		assert_int_equal(size_parse(rows[i].text, &v), rows[i].error);
		assert_int_equal(v, 42);
	}
}

TEST(numbers)
{
	uint64_t v = 0;

	assert_int_equal(number_parse("32", 32, &v), 0);
	assert_int_equal(v, 32);
	assert_int_equal(number_parse("33", 32, &v), -ERANGE);
	assert_int_equal(number_parse("3x", 32, &v), -EINVAL);
	assert_int_equal(number_parse("", 32, &v), -EINVAL);
}

TEST(ranges_do_not_wrap)
{
	assert_true(range_fits(0, 10, 10));
	assert_true(range_fits(10, 0, 10));
	assert_false(range_fits(11, 0, 10));
	assert_false(range_fits(UINT64_MAX, 2, 10));
	assert_false(range_fits(5, UINT64_MAX, 10));
}

TEST(sizes_for_people)
{
	char buf[32];

	assert_string_equal(size_format(0, buf, sizeof(buf)), "0 B");
	assert_string_equal(size_format(256 * MIB, buf, sizeof(buf)), "256 MiB");
	assert_string_equal(size_format(GIB + GIB / 2, buf, sizeof(buf)), "1.5 GiB");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sizes_taken),	    cmocka_unit_test(sizes_refused),
		cmocka_unit_test(numbers),	    cmocka_unit_test(ranges_do_not_wrap),
		cmocka_unit_test(sizes_for_people),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
