/* SPDX-License-Identifier: Apache-2.0 */
/* What a guest writes to the panic port, and what comes of it. */
#include "vmm/pvpanic.h"

#include "tests/unit/test.h"
#include "vmm/layout.h"

struct told {
	unsigned panicked, crash_loaded, shutdown;
};

static void on_panicked(void *arg)
{
	((struct told *)arg)->panicked++;
}

static void on_crash_loaded(void *arg)
{
	((struct told *)arg)->crash_loaded++;
}

static void on_shutdown(void *arg)
{
	((struct told *)arg)->shutdown++;
}

TEST(events)
{
	static const struct {
		uint8_t written;
		struct told told;
	} rows[] = {
		{0, {0}},
		{1, {.panicked = 1}},
		{2, {.crash_loaded = 1}},
		{3, {.panicked = 1}},
		{4, {.shutdown = 1}},
		{7, {.panicked = 1}},
		{6, {.crash_loaded = 1}},
		{0xf8, {0}},
		{0xff, {.panicked = 1}},
	};
	(void)state;

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		cleanup(pvpanic_free_p) struct pvpanic *p = NULL;
		struct told told = {0};
		struct bus bus = {0};
		uint8_t v = 0;

		assert_int_equal(pvpanic_new(&(struct pvpanic_config){.panicked = on_panicked,
								      .crash_loaded = on_crash_loaded,
								      .shutdown = on_shutdown,
								      .arg = &told},
					     &p),
				 0);
		assert_int_equal(bus_add(&bus, LAYOUT_PVPANIC, LAYOUT_PVPANIC_LEN, &pvpanic_bus_ops, p), 0);
		assert_true(bus_read(&bus, LAYOUT_PVPANIC, &v, 1));
		assert_int_equal(v, 7);
		assert_true(bus_write(&bus, LAYOUT_PVPANIC, &rows[i].written, 1));
		assert_memory_equal(&told, &rows[i].told, sizeof(told));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(events)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
