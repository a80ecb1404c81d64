/* SPDX-License-Identifier: Apache-2.0 */
/* A balloon's liveness at given times: a stalled one is told from one that moves, and jitter from progress. */
#include "balloon/liveness.h"

#include <string.h>

#include "tests/unit/test.h"

#define S ((uint64_t)1000000000)

static struct balloon_motion up(uint64_t target, uint64_t now)
{
	struct balloon_motion m = {0};

	balloon_motion_target(&m, target, now);
	balloon_motion_driver(&m, true, now);
	return m;
}

TEST(names)
{
	assert_string_equal(balloon_liveness_name(BALLOON_IDLE), "idle");
	assert_string_equal(balloon_liveness_name(BALLOON_MOVING), "moving");
	assert_string_equal(balloon_liveness_name(BALLOON_STALLED), "stalled");
	assert_string_equal(balloon_liveness_name(BALLOON_NO_DRIVER), "no-driver");
}

TEST(no_driver_whatever_the_target)
{
	struct balloon_motion m = {0};

	assert_int_equal(balloon_liveness(&m, 0), BALLOON_NO_DRIVER);
	balloon_motion_target(&m, 100, 1 * S);
	assert_int_equal(balloon_liveness(&m, 100 * S), BALLOON_NO_DRIVER);
	/* A driver that comes late has its time, too. */
	balloon_motion_driver(&m, true, 100 * S);
	assert_int_equal(balloon_liveness(&m, 104 * S), BALLOON_MOVING);
	assert_int_equal(balloon_liveness(&m, 105 * S), BALLOON_STALLED);
	balloon_motion_driver(&m, false, 106 * S);
	assert_int_equal(balloon_liveness(&m, 106 * S), BALLOON_NO_DRIVER);
}

TEST(moves_stalls_and_arrives)
{
	struct balloon_motion m = up(1000, 10 * S);

	for (uint64_t i = 1; i < 10; i++) {
		balloon_motion_frames(&m, i * 100, (10 + 4 * i) * S);
		assert_int_equal(balloon_liveness(&m, (10 + 4 * i + 4) * S), BALLOON_MOVING);
	}
	assert_int_equal(balloon_liveness(&m, 46 * S + BALLOON_STALL_NS - 1), BALLOON_MOVING);
	assert_int_equal(balloon_liveness(&m, 46 * S + BALLOON_STALL_NS), BALLOON_STALLED);
	balloon_motion_frames(&m, 901, 60 * S);
	assert_int_equal(balloon_liveness(&m, 60 * S), BALLOON_MOVING);
	balloon_motion_frames(&m, 1000, 61 * S);
	assert_int_equal(balloon_liveness(&m, 1000 * S), BALLOON_IDLE);
}

TEST(down_as_well_as_up)
{
	struct balloon_motion m = up(1000, 0);

	balloon_motion_frames(&m, 1000, 1 * S);
	balloon_motion_target(&m, 0, 20 * S);
	assert_int_equal(balloon_liveness(&m, 24 * S), BALLOON_MOVING);
	assert_int_equal(balloon_liveness(&m, 25 * S), BALLOON_STALLED);
	balloon_motion_frames(&m, 744, 30 * S);
	assert_int_equal(balloon_liveness(&m, 34 * S), BALLOON_MOVING);
	balloon_motion_frames(&m, 0, 35 * S);
	assert_int_equal(balloon_liveness(&m, 100 * S), BALLOON_IDLE);
}

/* Compaction moves balloon pages one at a time: one in, one out, for ever. */
TEST(jitter_is_no_progress)
{
	struct balloon_motion m = up(1000, 0);

	balloon_motion_frames(&m, 500, 1 * S);
	for (uint64_t t = 2; t < 60; t++) {
		balloon_motion_frames(&m, 501, t * S);
		balloon_motion_frames(&m, 500, t * S);
	}
	assert_int_equal(balloon_liveness(&m, 60 * S), BALLOON_STALLED);
}

/* The guest took frames back in need (deflate-on-OOM): that is no progress, the way back is. */
TEST(carried_away_and_back)
{
	struct balloon_motion m = up(1000, 0);

	balloon_motion_frames(&m, 1000, 1 * S);
	balloon_motion_frames(&m, 744, 50 * S);
	assert_int_equal(balloon_liveness(&m, 50 * S), BALLOON_STALLED);
	balloon_motion_frames(&m, 800, 60 * S);
	assert_int_equal(balloon_liveness(&m, 60 * S), BALLOON_MOVING);
	assert_int_equal(balloon_liveness(&m, 65 * S), BALLOON_STALLED);
}

TEST(the_same_target_again_hides_no_stall)
{
	struct balloon_motion m = up(1000, 0);

	for (uint64_t t = 1; t < 10; t++)
		balloon_motion_target(&m, 1000, t * S);
	assert_int_equal(balloon_liveness(&m, 10 * S), BALLOON_STALLED);
	balloon_motion_target(&m, 999, 10 * S);
	assert_int_equal(balloon_liveness(&m, 14 * S), BALLOON_MOVING);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names),
		cmocka_unit_test(no_driver_whatever_the_target),
		cmocka_unit_test(moves_stalls_and_arrives),
		cmocka_unit_test(down_as_well_as_up),
		cmocka_unit_test(jitter_is_no_progress),
		cmocka_unit_test(carried_away_and_back),
		cmocka_unit_test(the_same_target_again_hides_no_stall),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
