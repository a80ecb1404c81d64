/* SPDX-License-Identifier: Apache-2.0 */
/* A guest's statistics: all tags are read, what is none is ignored and counted. */
#include "balloon/guest-stats.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "tests/unit/test.h"

static size_t put(uint8_t *message, size_t at, uint16_t tag, uint64_t value)
{
	store_le16(message + at, tag);
	store_le64(message + at + 2, value);
	return at + GUEST_STAT_BYTES;
}

TEST(reads_every_tag)
{
	uint8_t message[GUEST_STATS * GUEST_STAT_BYTES];
	struct guest_stats stats;
	size_t at = 0;

	for (uint16_t tag = 0; tag < GUEST_STATS; tag++)
		at = put(message, at, tag, 1000u + tag);
	assert_int_equal(guest_stats_parse(message, at, &stats), 0);
	assert_int_equal(stats.known, 0xffff); /* ten classic tags and six newer ones */
	for (unsigned tag = 0; tag < GUEST_STATS; tag++)
		assert_int_equal(stats.values[tag], 1000 + tag);
}

/* The numbers of the tags, and what they are called, are for others to rely on. */
TEST(tags_are_those_of_linux)
{
	assert_int_equal(GUEST_STAT_FREE, 4);
	assert_int_equal(GUEST_STAT_AVAILABLE, 6);
	assert_int_equal(GUEST_STAT_HUGETLB_FAILS, 9);
	assert_int_equal(GUEST_STAT_OOM_KILLS, 10);
	assert_int_equal(GUEST_STAT_DIRECT_RECLAIM, 15);
	assert_string_equal(guest_stat_name(GUEST_STAT_FREE), "free_bytes");
	for (enum guest_stat a = 0; a < GUEST_STATS; a++)
		for (enum guest_stat b = 0; b < a; b++)
			assert_string_not_equal(guest_stat_name(a), guest_stat_name(b));
}

TEST(ignores_and_counts)
{
	uint8_t message[(GUEST_STATS_ENTRIES_MAX + 2) * GUEST_STAT_BYTES] = {0};
	struct guest_stats stats;
	size_t at;

	at = put(message, 0, GUEST_STATS, 1);
	at = put(message, at, 0xffff, 2);
	at = put(message, at, GUEST_STAT_FREE, 3);
	at = put(message, at, GUEST_STAT_TOTAL, UINT64_MAX);
	at = put(message, at, GUEST_STAT_TOTAL, (uint64_t)INT64_MAX + 1);
	assert_int_equal(guest_stats_parse(message, at, &stats), 4);
	assert_int_equal(stats.known, 1u << GUEST_STAT_FREE);
	assert_int_equal(stats.values[GUEST_STAT_FREE], 3);
	/* Half an entry at the end. */
	assert_int_equal(guest_stats_parse(message, at + 3, &stats), 5);
	assert_int_equal(stats.known, 1u << GUEST_STAT_FREE);
	/* Nothing at all, and less than an entry. */
	assert_int_equal(guest_stats_parse(message, 0, &stats), 0);
	assert_int_equal(stats.known, 0);
	assert_int_equal(guest_stats_parse(message, 9, &stats), 1);
	assert_int_equal(stats.known, 0);
	/* Too many: the first are read. */
	for (size_t i = 0, to = 0; i < GUEST_STATS_ENTRIES_MAX + 2; i++)
		to = put(message, to, GUEST_STAT_FREE, i);
	assert_int_equal(guest_stats_parse(message, sizeof(message), &stats), 1);
	assert_int_equal(stats.values[GUEST_STAT_FREE], GUEST_STATS_ENTRIES_MAX - 1);
}

TEST(the_last_of_a_tag_counts)
{
	uint8_t message[2 * GUEST_STAT_BYTES];
	struct guest_stats stats;

	put(message, put(message, 0, GUEST_STAT_CACHES, 7), GUEST_STAT_CACHES, 8);
	assert_int_equal(guest_stats_parse(message, sizeof(message), &stats), 0);
	assert_int_equal(stats.values[GUEST_STAT_CACHES], 8);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reads_every_tag),
		cmocka_unit_test(tags_are_those_of_linux),
		cmocka_unit_test(ignores_and_counts),
		cmocka_unit_test(the_last_of_a_tag_counts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
