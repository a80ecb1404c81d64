/* SPDX-License-Identifier: Apache-2.0 */
/* The table of extents against an array that has the backing of each frame, for many random changes; and its limits. */
#include "vmm/frame-extents.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/test.h"

#define FRAMES 200

static void assert_same(const struct frame_extents *x, const enum frame_backing *model)
{
	size_t of[FRAME_BACKINGS] = {0}, at = 0;

	for (uint64_t f = 0; f < FRAMES; f++) {
		size_t i = frame_extents_after(x, f);
		enum frame_backing b =
			i < x->count && x->list[i].first <= f ? x->list[i].backing : FRAME_PRIVATE;

		assert_int_equal(b, model[f]);
		if (model[f] != FRAME_PRIVATE && (f == 0 || model[f - 1] != model[f]))
			at++, of[model[f]]++;
	}
	/* No more extents than there must be. */
	assert_int_equal(x->count, at);
	for (enum frame_backing b = 0; b < FRAME_BACKINGS; b++) {
		uint64_t frames = 0;

		assert_int_equal(x->of[b], of[b]);
		for (uint64_t f = 0; f < FRAMES; f++)
			frames += model[f] == b;
		if (b != FRAME_PRIVATE)
			assert_int_equal(frame_extents_frames(x, b), frames);
	}
}

TEST(random_changes)
{
	struct frame_extents x = {0};
	enum frame_backing model[FRAMES] = {FRAME_PRIVATE};
	unsigned seed = 1;

	for (unsigned round = 0; round < 5000; round++) {
		uint64_t first = (uint64_t)rand_r(&seed) % FRAMES;
		uint64_t end = first + 1 + (uint64_t)rand_r(&seed) % (round % 3 ? 8 : FRAMES - first);
		enum frame_backing backing = (enum frame_backing)((unsigned)rand_r(&seed) % FRAME_BACKINGS);

		end = end > FRAMES ? FRAMES : end;
		assert_int_equal(frame_extents_reserve(&x, first, end, backing), 0);
		frame_extents_set(&x, first, end, backing);
		for (uint64_t f = first; f < end; f++)
			model[f] = backing;
		assert_same(&x, model);
	}
	frame_extents_done(&x);
}

/* Each backing has its own limit, for mapping and for being cut. */
TEST(limits)
{
	struct frame_extents x = {0};
	uint64_t far = 1 << 20;

	assert_int_equal(frame_extents_reserve(&x, far, far + 10, FRAME_STORE), 0);
	frame_extents_set(&x, far, far + 10, FRAME_STORE);
	for (uint64_t i = 0; i < FRAME_EXTENTS_BOOT_MAX; i++) {
		assert_int_equal(frame_extents_reserve(&x, 4 * i, 4 * i + 3, FRAME_BOOT_FILE), 0);
		frame_extents_set(&x, 4 * i, 4 * i + 3, FRAME_BOOT_FILE);
	}
	assert_int_equal(frame_extents_reserve(&x, far - 2, far - 1, FRAME_BOOT_FILE), -ENOSPC);
	/* In the middle of one: it would be two. At its end: it would not. */
	assert_int_equal(frame_extents_reserve(&x, 1, 2, FRAME_PRIVATE), -ENOSPC);
	assert_int_equal(frame_extents_reserve(&x, 1, 2, FRAME_STORE), -ENOSPC);
	assert_int_equal(frame_extents_reserve(&x, 2, 3, FRAME_PRIVATE), 0);
	assert_int_equal(frame_extents_reserve(&x, far + 4, far + 5, FRAME_PRIVATE), 0);
	assert_int_equal(frame_extents_reserve(&x, far - 2, far - 1, FRAME_STORE), 0);
	frame_extents_done(&x);
}

/* Room that was promised is there, however much others take meanwhile. */
TEST(promises_are_kept)
{
	struct frame_extents x = {0};
	uint64_t far = 1 << 20;
	size_t room;

	assert_int_equal(frame_extents_promise(&x, FRAME_EXTENTS_STORE_MAX + 1), -ENOSPC);
	assert_int_equal(frame_extents_promise(&x, 100), 0);
	for (uint64_t i = 0; i < FRAME_EXTENTS_BOOT_MAX; i++) {
		assert_int_equal(frame_extents_reserve(&x, 4 * i, 4 * i + 3, FRAME_BOOT_FILE), 0);
		frame_extents_set(&x, 4 * i, 4 * i + 3, FRAME_BOOT_FILE);
		assert_true(x.count + 100 <= x.room);
	}
	room = x.room;
	for (uint64_t i = 0; i < 100; i++)
		frame_extents_keep(&x, far + 2 * i, far + 2 * i + 1, FRAME_STORE);
	assert_int_equal(x.room, room);
	assert_int_equal(x.promised, 0);
	/* A promise replaces the one before. */
	assert_int_equal(frame_extents_promise(&x, FRAME_EXTENTS_STORE_MAX - 100), 0);
	assert_int_equal(frame_extents_promise(&x, FRAME_EXTENTS_STORE_MAX - 100), 0);
	assert_int_equal(frame_extents_promise(&x, FRAME_EXTENTS_STORE_MAX - 99), -ENOSPC);
	assert_int_equal(x.promised, 0);
	/* Others do not get what is promised: one extent could still be cut in two. */
	frame_extents_set(&x, far, far + 10, FRAME_STORE);
	assert_int_equal(frame_extents_promise(&x, FRAME_EXTENTS_STORE_MAX - x.of[FRAME_STORE]), 0);
	assert_int_equal(frame_extents_reserve(&x, far + 2, far + 3, FRAME_PRIVATE), -ENOSPC);
	assert_int_equal(frame_extents_promise(&x, 1), 0);
	assert_int_equal(frame_extents_reserve(&x, far + 2, far + 3, FRAME_PRIVATE), 0);
	/* One that is taken back may be cut, too. */
	frame_extents_keep(&x, far + 2, far + 3, FRAME_PRIVATE);
	assert_int_equal(x.promised, 0);
	frame_extents_done(&x);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(random_changes), cmocka_unit_test(limits),
					   cmocka_unit_test(promises_are_kept)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
