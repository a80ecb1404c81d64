/* SPDX-License-Identifier: Apache-2.0 */
/* Reset by every way through the keyboard controller, and probes that get their answers. */
#include "vmm/i8042.h"

#include "tests/unit/test.h"
#include "vmm/layout.h"

#define PORT_DATA   0x60
#define PORT_B	    0x61
#define PORT_STATUS 0x64

struct fixture {
	struct bus bus;
	struct i8042 *k;
	unsigned resets;
};

static void on_reset(void *arg)
{
	struct fixture *f = arg;

	f->resets++;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	assert_int_equal(i8042_new(on_reset, f, &f->k), 0);
	assert_int_equal(bus_add(&f->bus, LAYOUT_I8042, LAYOUT_I8042_LEN, &i8042_bus_ops, f->k), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	i8042_free(f->k);
	free(f);
	return 0;
}

static uint8_t in(struct fixture *f, unsigned port)
{
	uint8_t v = 0xee;

	assert_true(bus_read(&f->bus, port, &v, 1));
	return v;
}

static void out(struct fixture *f, unsigned port, uint8_t v)
{
	assert_true(bus_write(&f->bus, port, &v, 1));
}

TEST(resets)
{
	struct fixture *f = *state;

	assert_int_equal(in(f, PORT_STATUS) & 0x03, 0); /* Linux waits for bit 1 clear before it writes */
	out(f, PORT_STATUS, 0xfe);
	assert_int_equal(f->resets, 1);
	out(f, PORT_STATUS, 0xd1);
	assert_int_equal(f->resets, 1);
	out(f, PORT_DATA, 0xfe);
	assert_int_equal(f->resets, 2);
	out(f, PORT_STATUS, 0xd1);
	out(f, PORT_DATA, 0xdf); /* A20 on, reset line high */
	out(f, PORT_STATUS, 0xff);
	out(f, PORT_DATA, 0xfe); /* data, not a command */
	out(f, PORT_STATUS, 0xd1);
	out(f, PORT_STATUS, 0xad); /* another command: the one before gets no data any more */
	out(f, PORT_DATA, 0xfe);
	assert_int_equal(f->resets, 2);
}

/* Linux's i8042 driver: flush, self test, command byte, look for a mouse. No step may lack its answer. */
TEST(probe)
{
	struct fixture *f = *state;

	assert_int_equal(in(f, PORT_STATUS) & 1, 0);
	out(f, PORT_STATUS, 0xaa);
	assert_int_equal(in(f, PORT_STATUS) & 1, 1);
	assert_int_equal(in(f, PORT_DATA), 0x55);
	assert_int_equal(in(f, PORT_STATUS) & 1, 0);
	out(f, PORT_STATUS, 0x60);
	out(f, PORT_DATA, 0x34);
	out(f, PORT_STATUS, 0x20);
	assert_int_equal(in(f, PORT_STATUS) & 1, 1);
	assert_int_equal(in(f, PORT_DATA), 0x34);
	out(f, PORT_STATUS, 0xd3);
	out(f, PORT_DATA, 0x5a);
	assert_int_equal(in(f, PORT_STATUS) & 1, 1);
	assert_int_not_equal(in(f, PORT_DATA), 0x5a);
	out(f, PORT_STATUS, 0xa9);
	assert_int_equal(in(f, PORT_DATA), 0x01);
	assert_int_equal(f->resets, 0);
}

TEST(port_b)
{
	struct fixture *f = *state;
	uint8_t a, b;

	out(f, PORT_B, 0xff);
	a = in(f, PORT_B);
	b = in(f, PORT_B);
	assert_int_equal(a & 0x2f, 0x2f); /* timer 2 output set: no calibration loop waits for it */
	assert_int_equal(a & 0xc0, 0);	  /* no NMI reason */
	assert_int_equal((a ^ b), 0x10);
	assert_int_equal(in(f, 0x62), 0xff);
}

TEST(reset_by_the_machine)
{
	struct fixture *f = *state;

	out(f, PORT_STATUS, 0x60);
	out(f, PORT_DATA, 0x34);
	out(f, PORT_STATUS, 0xaa);
	out(f, PORT_B, 0x0f);
	out(f, PORT_STATUS, 0xd1);
	i8042_reset(f->k);
	out(f, PORT_DATA, 0xfe); /* nobody waits for it */
	assert_int_equal(f->resets, 0);
	assert_int_equal(in(f, PORT_STATUS), 0x04);
	assert_int_equal(in(f, PORT_B) & 0x0f, 0);
	out(f, PORT_STATUS, 0x20);
	assert_int_equal(in(f, PORT_DATA), 0);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {T(resets), T(probe), T(port_b), T(reset_by_the_machine)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
