/* SPDX-License-Identifier: Apache-2.0 */
/* The includes that cmocka wants, in the order that it wants. */
#ifndef SARDINE_TESTS_UNIT_TEST_H
#define SARDINE_TESTS_UNIT_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

/* A test function; cmocka passes a state that most tests do not use. */
#define TEST(name) static void name(void **state __attribute__((unused)))

/* What ctest takes for a skip. */
#define TEST_SKIPPED 77

static bool test_skipped __attribute__((unused));

/* Instead of cmocka's skip(), with which the program would end well. */
#define TEST_SKIP(why)                                                                                       \
	do {                                                                                                 \
		fprintf(stderr, "skipped: %s: %s\n", __func__, why);                                         \
		test_skipped = true;                                                                         \
		skip();                                                                                      \
	} while (0)

/* The exit code of a program with skips: 1 when a test failed, else 77 when one was skipped. */
#define TEST_RUN(tests) test_exit_code(cmocka_run_group_tests(tests, NULL, NULL))

static inline int test_exit_code(int failed)
{
	if (failed)
		return 1;
	return test_skipped ? TEST_SKIPPED : 0;
}

#endif
