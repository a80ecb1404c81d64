/* SPDX-License-Identifier: Apache-2.0 */
/* The time in every register, the warning before it changes, and that a guest cannot set it. */
#include "vmm/rtc.h"

#include <stdlib.h>

#include "tests/unit/test.h"
#include "vmm/layout.h"

struct fixture {
	struct bus bus;
	struct rtc *rtc;
	struct timespec now;
};

static struct timespec fixture_now(void *arg)
{
	const struct fixture *f = arg;

	return f->now;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	f->now.tv_sec = 951827696; /* Tuesday 29 February 2000, 12:34:56 UTC */
	assert_int_equal(rtc_new(fixture_now, f, &f->rtc), 0);
	assert_int_equal(bus_add(&f->bus, LAYOUT_RTC, LAYOUT_RTC_LEN, &rtc_bus_ops, f->rtc), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	rtc_free(f->rtc);
	free(f);
	return 0;
}

static void out(struct fixture *f, unsigned port, uint8_t v)
{
	assert_true(bus_write(&f->bus, port, &v, 1));
}

static uint8_t get(struct fixture *f, uint8_t reg)
{
	uint8_t v = 0xee;

	out(f, 0x70, reg);
	assert_true(bus_read(&f->bus, 0x71, &v, 1));
	return v;
}

TEST(tells_the_time_in_bcd)
{
	struct fixture *f = *state;

	assert_int_equal(get(f, 0x00), 0x56);
	assert_int_equal(get(f, 0x02), 0x34);
	assert_int_equal(get(f, 0x04), 0x12);
	assert_int_equal(get(f, 0x06), 0x03);
	assert_int_equal(get(f, 0x07), 0x29);
	assert_int_equal(get(f, 0x08), 0x02);
	assert_int_equal(get(f, 0x09), 0x00);
	assert_int_equal(get(f, 0x32), 0x20);
	assert_int_equal(get(f, 0x0b) & 0x86, 0x02); /* not being set, BCD, 24 hours */
	assert_int_equal(get(f, 0x0d), 0x80);
	f->now.tv_sec = 4102444799; /* 31 December 2099, 23:59:59 */
	assert_int_equal(get(f, 0x04), 0x23);
	assert_int_equal(get(f, 0x08), 0x12);
	assert_int_equal(get(f, 0x09), 0x99);
	assert_int_equal(get(f, 0x80 | 0x09), 0x99); /* with NMI masked */
}

TEST(warns_before_the_second_changes)
{
	struct fixture *f = *state;

	assert_int_equal(get(f, 0x0a), 0x26);
	f->now.tv_nsec = 999755999;
	assert_int_equal(get(f, 0x0a), 0x26);
	f->now.tv_nsec = 999756000;
	assert_int_equal(get(f, 0x0a), 0xa6);
	f->now.tv_nsec = 999999999;
	assert_int_equal(get(f, 0x0a), 0xa6);
}

TEST(cannot_be_set)
{
	struct fixture *f = *state;

	for (unsigned reg = 0; reg < 256; reg++) {
		uint8_t before = get(f, (uint8_t)reg);

		out(f, 0x71, (uint8_t)~before);
		assert_int_equal(get(f, (uint8_t)reg), before);
	}
}

TEST(odd_accesses)
{
	struct fixture *f = *state;
	uint8_t word[4] = {0xee, 0xee, 0xee, 0xee};

	out(f, 0x70, 0x02);
	assert_true(bus_read(&f->bus, 0x70, word, 1)); /* write-only */
	assert_int_equal(word[0], 0xff);
	assert_true(bus_read(&f->bus, 0x70, word, 2));
	assert_int_equal(word[1], 0x34);
	word[0] = 0x04;
	assert_true(bus_write(&f->bus, 0x70, word, 2));
	assert_int_equal(get(f, 0x02), 0x34);
}

TEST(host_time_by_default)
{
	struct rtc *rtc = NULL;
	uint8_t index = 0x32;
	uint8_t century = 0;

	(void)state;
	assert_int_equal(rtc_new(NULL, NULL, &rtc), 0);
	rtc_bus_ops.write(rtc, 0, &index, 1);
	rtc_bus_ops.read(rtc, 1, &century, 1);
	assert_int_equal(century, 0x20);
	rtc_free(rtc);
	rtc_free(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(tells_the_time_in_bcd, setup, teardown),
		cmocka_unit_test_setup_teardown(warns_before_the_second_changes, setup, teardown),
		cmocka_unit_test_setup_teardown(cannot_be_set, setup, teardown),
		cmocka_unit_test_setup_teardown(odd_accesses, setup, teardown),
		cmocka_unit_test(host_time_by_default),
	};

	/* The clock tells UTC, whatever the host shows its users. */
	setenv("TZ", "EST5", 1);
	tzset();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
