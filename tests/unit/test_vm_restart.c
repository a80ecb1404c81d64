/* SPDX-License-Identifier: Apache-2.0 */
/* How long the next boot waits: a guest that resets or crashes without end costs the host little. */
#include "tests/unit/test.h"
#include "vmm/vm-internal.h"

#define MS	1000000ull
#define SECONDS 1000000000ull

TEST(resets_have_a_space_between_them)
{
	unsigned row = 0;

	(void)state;
	assert_int_equal(vm_restart_space_ns(false, 0, &row), 50 * MS);
	assert_int_equal(vm_restart_space_ns(false, 20 * MS, &row), 30 * MS);
	assert_int_equal(vm_restart_space_ns(false, 50 * MS, &row), 0);
	assert_int_equal(vm_restart_space_ns(false, 3600 * SECONDS, &row), 0);
	assert_int_equal(row, 0);
}

TEST(crashes_in_a_row_wait_longer_and_longer)
{
	uint64_t space = 0, sum = 0;
	unsigned row = 0;

	(void)state;
	for (unsigned i = 0; i < 100; i++) {
		uint64_t next = vm_restart_space_ns(true, 5 * MS, &row);

		assert_true(next >= space && next >= 100 * MS && next <= 60 * SECONDS);
		space = next;
		sum += next;
	}
	assert_int_equal(space, 60 * SECONDS);
	assert_true(sum > 90 * 60 * SECONDS);
}

TEST(a_boot_that_lasted_ends_the_row)
{
	unsigned row = 0;

	(void)state;
	for (unsigned i = 0; i < 5; i++)
		assert_int_equal(vm_restart_space_ns(true, 59 * SECONDS, &row), (100 * MS) << i);
	/* A reset between crashes does not. */
	assert_int_equal(vm_restart_space_ns(false, 59 * SECONDS, &row), 0);
	assert_int_equal(vm_restart_space_ns(true, 59 * SECONDS, &row), 3200 * MS);
	assert_int_equal(vm_restart_space_ns(true, 60 * SECONDS, &row), 100 * MS);
	assert_int_equal(vm_restart_space_ns(true, 1 * SECONDS, &row), 200 * MS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(resets_have_a_space_between_them),
		cmocka_unit_test(crashes_in_a_row_wait_longer_and_longer),
		cmocka_unit_test(a_boot_that_lasted_ends_the_row),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
