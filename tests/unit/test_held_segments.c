/* SPDX-License-Identifier: Apache-2.0 */
/* Segments under a VM's own numbers: numbers outlive the store's, references are counted per page. */
#include "ksm/held-segments.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "tests/unit/test.h"

#define MANY 5000u

static int file(void)
{
	int fd = memfd_create("held", MFD_CLOEXEC);

	assert_true(fd >= 0);
	return fd;
}

TEST(numbers_are_our_own_and_stay)
{
	cleanup(held_done) struct held_segments h = {0};
	uint32_t own, again;

	for (uint32_t i = 0; i < MANY; i++) {
		assert_int_equal(held_own(&h, i * 64, &own), 0);
		assert_int_equal(own, i);
	}
	for (uint32_t i = 0; i < MANY; i++) {
		assert_int_equal(held_own(&h, i * 64, &own), 0);
		assert_int_equal(own, i);
		assert_int_equal(held_get(&h, own)->number, i * 64);
	}
	assert_null(held_get(&h, MANY));
	assert_int_equal(held_own(&h, HELD_NO_NUMBER, &own), -EPROTO);
	held_forget_numbers(&h);
	assert_int_equal(held_get(&h, 7)->number, HELD_NO_NUMBER);
	assert_int_equal(held_set_number(&h, 7, 64), 0);
	assert_int_equal(held_set_number(&h, 8, 64), -EPROTO);
	assert_int_equal(held_own(&h, 64, &own), 0);
	assert_int_equal(own, 7);
	assert_int_equal(held_own(&h, 128, &again), 0);
	assert_int_equal(again, MANY); /* never one that was used */
}

TEST(references_are_counted_per_page)
{
	cleanup(held_done) struct held_segments h = {0};
	uint32_t own;

	assert_int_equal(held_own(&h, 3, &own), 0);
	assert_int_equal(held_refs(&h, own, 0, 1, 1), -ENOENT);
	assert_int_equal(held_keep(&h, own, file(), 8), 0);
	assert_int_equal(held_refs(&h, own, 2, 4, 1), 0);
	assert_int_equal(held_refs(&h, own, 5, 3, 1), 0);
	assert_int_equal(h.refs, 7);
	assert_int_equal(held_refs(&h, own, 5, 4, 1), -EINVAL); /* beyond */
	assert_int_equal(held_refs(&h, own, 9, UINT32_MAX, 1), -EINVAL);
	assert_int_equal(held_refs(&h, own, 1, 2, -1), -EINVAL); /* page 1 has none */
	assert_int_equal(held_refs(&h, own, 2, 1, 2), -EINVAL);
	assert_int_equal(h.refs, 7);
	assert_int_equal(held_refs(&h, own, 2, 6, -1), 0);
	assert_int_equal(h.refs, 1);
	assert_int_equal(h.fds, 1);
	assert_int_equal(held_refs(&h, own, 5, 1, -1), 0);
	assert_int_equal(h.fds, 0);
	assert_int_equal(held_get(&h, own)->fd, -1);
	/* A page cannot be counted above what there is room for. */
	assert_int_equal(held_keep(&h, own, file(), 1), 0);
	for (unsigned i = 0; i < UINT16_MAX; i++)
		assert_int_equal(held_refs(&h, own, 0, 1, 1), 0);
	assert_int_equal(held_refs(&h, own, 0, 1, 1), -EINVAL);
	assert_int_equal(h.refs, UINT16_MAX);
}

struct ranges {
	unsigned counts[8];
	unsigned calls, stop_at;
};

static int on_range(void *ctx, uint32_t page, uint32_t pages)
{
	struct ranges *r = ctx;

	assert_true(pages > 0);
	for (uint32_t i = page; i < page + pages; i++)
		r->counts[i]++;
	return ++r->calls == r->stop_at ? -EPIPE : 0;
}

TEST(ranges_say_every_reference_once)
{
	cleanup(held_done) struct held_segments h = {0};
	static const unsigned want[8] = {0, 2, 2, 3, 1, 0, 0, 5};
	struct ranges r = {{0}, 0, 0};
	uint32_t own;

	assert_int_equal(held_own(&h, 3, &own), 0);
	assert_int_equal(held_keep(&h, own, file(), 8), 0);
	assert_int_equal(held_each_range(held_get(&h, own), on_range, &r), 0);
	assert_int_equal(r.calls, 0);
	for (uint32_t page = 0; page < 8; page++)
		for (unsigned i = 0; i < want[page]; i++)
			assert_int_equal(held_refs(&h, own, page, 1, 1), 0);
	assert_int_equal(held_each_range(held_get(&h, own), on_range, &r), 0);
	assert_memory_equal(r.counts, want, sizeof(want));
	assert_int_equal(r.calls, 8); /* 1-4 and 7, 1-3 and 7, 3 and 7, 7, 7 */
	r = (struct ranges){.stop_at = 2};
	assert_int_equal(held_each_range(held_get(&h, own), on_range, &r), -EPIPE);
	assert_int_equal(r.calls, 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(numbers_are_our_own_and_stay),
		cmocka_unit_test(references_are_counted_per_page),
		cmocka_unit_test(ranges_say_every_reference_once),
	};

	return TEST_RUN(tests);
}
