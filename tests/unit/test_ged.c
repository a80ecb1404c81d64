/* SPDX-License-Identifier: Apache-2.0 */
/* The power button reaches the guest once per press; only the right values power off and reset. */
#include "vmm/ged.h"

#include <sys/eventfd.h>

#include "tests/unit/test.h"
#include "vmm/layout.h"

struct fixture {
	struct bus bus;
	struct ged *g;
	int irq;
	unsigned offs, resets;
};

static void on_off(void *arg)
{
	((struct fixture *)arg)->offs++;
}

static void on_reset(void *arg)
{
	((struct fixture *)arg)->resets++;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	f->irq = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	assert_true(f->irq >= 0);
	assert_int_equal(ged_new(&(struct ged_config){.irq = {.fd = f->irq, .gsi = LAYOUT_GSI_GED},
						      .power_off = on_off,
						      .reset = on_reset,
						      .arg = f},
				 &f->g),
			 0);
	assert_int_equal(bus_add(&f->bus, LAYOUT_GED, LAYOUT_GED_BYTES, &ged_bus_ops, f->g), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	ged_free(f->g);
	close(f->irq);
	free(f);
	return 0;
}

static uint8_t in(struct fixture *f, unsigned reg)
{
	uint8_t v = 0xee;

	assert_true(bus_read(&f->bus, LAYOUT_GED + reg, &v, 1));
	return v;
}

static void out(struct fixture *f, unsigned reg, uint8_t v)
{
	assert_true(bus_write(&f->bus, LAYOUT_GED + reg, &v, 1));
}

TEST(button)
{
	struct fixture *f = *state;
	uint64_t n = 0;

	assert_int_equal(in(f, LAYOUT_GED_EVENT), 0);
	ged_power_button(f->g);
	assert_int_equal(read(f->irq, &n, sizeof(n)), sizeof(n));
	assert_int_equal(n, 1);
	assert_int_equal(in(f, LAYOUT_GED_EVENT), GED_EVENT_POWER_BUTTON);
	assert_int_equal(in(f, LAYOUT_GED_EVENT), 0);
	ged_power_button(f->g);
	assert_int_equal(in(f, LAYOUT_GED_EVENT), GED_EVENT_POWER_BUTTON);
	assert_int_equal(f->offs + f->resets, 0);
}

/* An edge that the guest could not take is raised again until it reads the register. */
TEST(button_is_remembered)
{
	struct fixture *f = *state;
	uint64_t n = 0;

	assert_false(ged_remind(f->g));
	assert_int_equal(read(f->irq, &n, sizeof(n)), -1);
	ged_power_button(f->g);
	assert_int_equal(read(f->irq, &n, sizeof(n)), sizeof(n)); /* lost on a masked pin */
	assert_true(ged_remind(f->g));
	assert_int_equal(read(f->irq, &n, sizeof(n)), sizeof(n));
	assert_int_equal(in(f, LAYOUT_GED_EVENT), GED_EVENT_POWER_BUTTON);
	assert_false(ged_remind(f->g));
}

TEST(power_off)
{
	struct fixture *f = *state;

	for (unsigned v = 0; v < 0x100; v++)
		if ((v & 0x3c) != (0x20 | LAYOUT_GED_SLP_TYP_S5 << 2))
			out(f, LAYOUT_GED_SLEEP_CONTROL, (uint8_t)v);
	out(f, LAYOUT_GED_SLEEP_STATUS, 0x80);
	assert_int_equal(f->offs, 0);
	out(f, LAYOUT_GED_SLEEP_CONTROL, 0x20 | LAYOUT_GED_SLP_TYP_S5 << 2);
	assert_int_equal(f->offs, 1);
	assert_int_equal(in(f, LAYOUT_GED_SLEEP_STATUS), 0);
	assert_int_equal(f->resets, 0);
}

TEST(resets)
{
	struct fixture *f = *state;

	for (unsigned v = 0; v < 0x100; v++)
		if (v != LAYOUT_GED_RESET_VALUE)
			out(f, LAYOUT_GED_RESET, (uint8_t)v);
	assert_int_equal(f->resets, 0);
	out(f, LAYOUT_GED_RESET, LAYOUT_GED_RESET_VALUE);
	assert_int_equal(f->resets, 1);
	assert_int_equal(f->offs, 0);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {T(button), T(button_is_remembered), T(power_off), T(resets)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
