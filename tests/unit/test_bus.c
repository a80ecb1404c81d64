/* SPDX-License-Identifier: Apache-2.0 */
/* Dispatch: each address reaches its device, and nothing reaches a device outside its range. */
#include "vmm/bus.h"

#include <errno.h>
#include <string.h>

#include "tests/unit/test.h"

struct probe {
	uint64_t offset;
	uint32_t len;
	unsigned calls;
};

static void probe_read(void *dev, uint64_t offset, uint8_t *data, uint32_t len)
{
	struct probe *p = dev;

	*p = (struct probe){.offset = offset, .len = len, .calls = p->calls + 1};
	memset(data, 0x5a, len);
}

static void probe_write(void *dev, uint64_t offset, const uint8_t *data, uint32_t len)
{
	struct probe *p = dev;

	(void)data;
	*p = (struct probe){.offset = offset, .len = len, .calls = p->calls + 1};
}

static const struct bus_ops probe_ops = {.read = probe_read, .write = probe_write};

TEST(dispatches)
{
	struct bus bus = {0};
	struct probe a = {0}, b = {0};
	uint8_t data[4] = {0};

	assert_int_equal(bus_add(&bus, 0x3f8, 8, &probe_ops, &a), 0);
	assert_int_equal(bus_add(&bus, 0x400, 0x1000, &probe_ops, &b), 0);
	assert_true(bus_read(&bus, 0x3fd, data, 1));
	assert_int_equal(a.offset, 5);
	assert_int_equal(data[0], 0x5a);
	assert_true(bus_write(&bus, 0x404, data, 4));
	assert_int_equal(b.offset, 4);
	assert_int_equal(b.len, 4);
	assert_int_equal(a.calls, 1);
}

TEST(nobody_answers)
{
	struct bus bus = {0};
	struct probe a = {0};
	uint8_t data[4] = {0};

	assert_int_equal(bus_add(&bus, 0x3f8, 8, &probe_ops, &a), 0);
	assert_false(bus_read(&bus, 0x3fe, data, 4)); /* across the end */
	assert_int_equal(data[3], 0xff);
	assert_false(bus_read(&bus, 0x3f7, data, 1));
	assert_false(bus_write(&bus, UINT64_MAX, data, 4));
	assert_int_equal(a.calls, 0);
}

TEST(refuses_overlaps)
{
	struct bus bus = {0};

	assert_int_equal(bus_add(&bus, 0x10, 8, &probe_ops, NULL), 0);
	assert_int_equal(bus_add(&bus, 0x17, 1, &probe_ops, NULL), -EEXIST);
	assert_int_equal(bus_add(&bus, 0x0f, 2, &probe_ops, NULL), -EEXIST);
	assert_int_equal(bus_add(&bus, 0x18, 1, &probe_ops, NULL), 0);
	assert_int_equal(bus_add(&bus, 0x20, 0, &probe_ops, NULL), -EINVAL);
	assert_int_equal(bus_add(&bus, UINT64_MAX, 2, &probe_ops, NULL), -EINVAL);
	for (unsigned i = bus.count; i < BUS_RANGES_MAX; i++)
		assert_int_equal(bus_add(&bus, 0x1000 + i, 1, &probe_ops, NULL), 0);
	assert_int_equal(bus_add(&bus, 0x5000, 1, &probe_ops, NULL), -ENOSPC);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(dispatches),
		cmocka_unit_test(nobody_answers),
		cmocka_unit_test(refuses_overlaps),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
