/* SPDX-License-Identifier: Apache-2.0 */
/* The includes that cmocka wants, in the order that it wants. */
#ifndef SARDINE_TESTS_UNIT_TEST_H
#define SARDINE_TESTS_UNIT_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

/* A test function; cmocka passes a state that most tests do not use. */
#define TEST(name) static void name(void **state __attribute__((unused)))

#endif
