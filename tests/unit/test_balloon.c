/* SPDX-License-Identifier: Apache-2.0 */
/* The balloon's account is exact whatever the guest says, and frames are given back in as few ranges as there
 * are. */
#include "balloon/balloon.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/test.h"

struct log_entry {
	uint64_t first, frames;
};

struct discard_log {
	struct log_entry entries[64];
	unsigned count;
	int result;
	bool count_only;
};

static int log_discard(void *arg, gfn_t first, uint64_t frames, unsigned *ret_calls)
{
	struct discard_log *log = arg;

	*ret_calls = 1;
	if (log->count_only) {
		log->count++;
		return 0;
	}
	assert_true(log->count < ARRAY_SIZE(log->entries));
	log->entries[log->count++] = (struct log_entry){first.v, frames};
	return log->result;
}

static const struct balloon_ops ops = {.discard = log_discard};

/* Low RAM of 0x100 frames, then a hole, then 0x80 frames from 4 GiB. */
static const struct balloon_region two_regions[] = {{{0}, 0x100}, {{0x100000}, 0x80}};

static struct balloon *make(struct discard_log *log)
{
	struct balloon *b = NULL;

	memset(log, 0, sizeof(*log));
	assert_int_equal(balloon_new(two_regions, 2, &ops, log, &b), 0);
	return b;
}

static struct balloon_counters counters(const struct balloon *b)
{
	struct balloon_counters c;

	balloon_counters(b, &c);
	return c;
}

/* Each row: a message, and the ranges it must be given back in. */
static const struct merge_row {
	const char *what;
	uint32_t pfns[12];
	size_t count;
	struct log_entry ranges[6];
	unsigned range_count;
	uint64_t frames, refused, repeated;
} merge_rows[] = {
	{"one frame", {7}, 1, {{7, 1}}, 1, 1, 0, 0},
	{"descending, as Linux sends them", {9, 8, 7, 6, 5}, 5, {{5, 5}}, 1, 5, 0, 0},
	{"scattered", {1, 3, 5}, 3, {{1, 1}, {3, 1}, {5, 1}}, 3, 3, 0, 0},
	{"two runs, mixed up", {0x21, 3, 0x20, 2, 1, 0x22}, 6, {{1, 3}, {0x20, 3}}, 2, 6, 0, 0},
	{"twice in one message", {4, 5, 4, 5, 6}, 5, {{4, 3}}, 1, 3, 0, 2},
	{"frame 0 and the last of the region", {0xff, 0}, 2, {{0, 1}, {0xff, 1}}, 2, 2, 0, 0},
	{"into the hole", {0xfe, 0xff, 0x100, 0x101}, 4, {{0xfe, 2}}, 1, 2, 2, 0},
	{"both regions", {0x100000, 0xff, 0x100001}, 3, {{0xff, 1}, {0x100000, 2}}, 2, 3, 0, 0},
	{"beyond all RAM", {0x100080, UINT32_MAX, 0x10007f}, 3, {{0x10007f, 1}}, 1, 1, 2, 0},
	{"only garbage", {0x100, 0xfffff, UINT32_MAX}, 3, {{0, 0}}, 0, 0, 3, 0},
	{"garbage between neighbours of two regions",
	 {0xff, 0x100, 0xfffff, 0x100000},
	 4,
	 {{0xff, 1}, {0x100000, 1}},
	 2,
	 2,
	 2,
	 0},
	{"nothing", {0}, 0, {{0, 0}}, 0, 0, 0, 0},
};

TEST(merges)
{
	for (size_t i = 0; i < ARRAY_SIZE(merge_rows); i++) {
		const struct merge_row *row = &merge_rows[i];
		struct discard_log log;
		struct balloon *b = make(&log);
		uint32_t pfns[12];
		struct balloon_counters c;

		memcpy(pfns, row->pfns, sizeof(pfns));
		assert_int_equal(balloon_inflate(b, pfns, row->count), 0);
		c = counters(b);
		if (log.count != row->range_count || c.frames != row->frames)
			fail_msg("%s: %u ranges, %lu frames", row->what, log.count, (unsigned long)c.frames);
		assert_memory_equal(log.entries, row->ranges, log.count * sizeof(log.entries[0]));
		assert_int_equal(c.inflated, row->frames);
		assert_int_equal(c.refused, row->refused);
		assert_int_equal(c.repeated, row->repeated);
		assert_int_equal(c.discard_ranges, row->range_count);
		assert_int_equal(c.discard_calls, row->range_count);
		balloon_free(b);
	}
}

TEST(inflating_twice_gives_back_twice_and_counts_once)
{
	struct discard_log log;
	struct balloon *b = make(&log);
	uint32_t a[] = {10, 11}, again[] = {11, 12};

	assert_int_equal(balloon_inflate(b, a, 2), 0);
	assert_int_equal(balloon_inflate(b, again, 2), 0);
	assert_int_equal(log.count, 2);
	assert_int_equal(log.entries[1].first, 11);
	assert_int_equal(log.entries[1].frames, 2);
	assert_int_equal(counters(b).frames, 3);
	assert_int_equal(counters(b).repeated, 1);
	balloon_free(b);
}

TEST(deflates)
{
	struct discard_log log;
	struct balloon *b = make(&log);
	uint32_t in[] = {10, 11, 0x100005}, out[] = {11, 12, 0x100}, rest[] = {10, 0x100005};

	assert_int_equal(balloon_inflate(b, in, 3), 0);
	assert_int_equal(balloon_deflate(b, out, 3), 0);
	assert_int_equal(counters(b).frames, 2);
	assert_int_equal(counters(b).deflated, 1);
	assert_int_equal(counters(b).repeated, 1); /* 12 was never in */
	assert_int_equal(counters(b).refused, 1);
	assert_true(balloon_contains(b, GFN(10)));
	assert_false(balloon_contains(b, GFN(11)));
	assert_true(balloon_contains(b, GFN(0x100005)));
	assert_false(balloon_contains(b, GFN(0x100)));
	assert_int_equal(balloon_deflate(b, rest, 2), 0);
	assert_int_equal(counters(b).frames, 0);
	assert_int_equal(log.count, 2); /* deflating discards nothing */
	balloon_free(b);
}

TEST(reset_empties)
{
	struct discard_log log;
	struct balloon *b = make(&log);
	uint32_t in[] = {10, 11};

	assert_int_equal(balloon_inflate(b, in, 2), 0);
	balloon_reset(b);
	assert_int_equal(counters(b).frames, 0);
	assert_false(balloon_contains(b, GFN(10)));
	assert_int_equal(balloon_inflate(b, in, 2), 0);
	assert_int_equal(counters(b).frames, 2);
	assert_int_equal(counters(b).repeated, 0);
	balloon_free(b);
}

TEST(counts_failed_discards)
{
	struct discard_log log;
	struct balloon *b = make(&log);
	uint32_t in[] = {10, 12};

	log.result = -ENOMEM;
	assert_int_equal(balloon_inflate(b, in, 2), 0);
	assert_int_equal(counters(b).discard_errors, 2);
	assert_int_equal(counters(b).frames, 2);
	balloon_free(b);
}

TEST(bounds_a_message)
{
	struct discard_log log;
	struct balloon *b = make(&log);
	uint32_t *pfns = calloc(BALLOON_MESSAGE_FRAMES_MAX + 1, sizeof(*pfns));

	assert_non_null(pfns);
	assert_int_equal(balloon_inflate(b, pfns, BALLOON_MESSAGE_FRAMES_MAX + 1), -E2BIG);
	assert_int_equal(balloon_deflate(b, pfns, BALLOON_MESSAGE_FRAMES_MAX + 1), -E2BIG);
	assert_int_equal(log.count, 0);
	assert_int_equal(counters(b).frames, 0);
	assert_int_equal(balloon_inflate(b, pfns, BALLOON_MESSAGE_FRAMES_MAX), 0);
	assert_int_equal(counters(b).frames, 1);
	free(pfns);
	balloon_free(b);
}

#define P PAGE_BYTES

/* Each row: what a guest reports, and the ranges it must be given back in. */
static const struct report_row {
	const char *what;
	struct balloon_range ranges[5];
	size_t count;
	struct log_entry discards[3];
	unsigned discard_count;
	uint64_t frames, ignored;
} report_rows[] = {
	{"one", {{{0x10 * P}, 4 * P}}, 1, {{0x10, 4}}, 1, 4, 0},
	{"neighbours, the wrong way round", {{{8 * P}, 8 * P}, {{0}, 8 * P}}, 2, {{0, 16}}, 1, 16, 0},
	{"with a gap", {{{0}, P}, {{2 * P}, P}}, 2, {{0, 1}, {2, 1}}, 2, 2, 0},
	{"overlapping", {{{0}, 4 * P}, {{2 * P}, 4 * P}, {{P}, P}}, 3, {{0, 6}}, 1, 6, 0},
	{"twice", {{{P}, P}, {{P}, P}}, 2, {{1, 1}}, 1, 1, 0},
	{"all of a region", {{{0}, 0x100 * P}}, 1, {{0, 0x100}}, 1, 0x100, 0},
	{"both regions", {{{0x100000 * P}, P}, {{0xff * P}, P}}, 2, {{0xff, 1}, {0x100000, 1}}, 2, 2, 0},
	{"over the end of a region", {{{0xff * P}, 2 * P}}, 1, {{0, 0}}, 0, 0, 1},
	{"in the hole", {{{0x100 * P}, P}}, 1, {{0, 0}}, 0, 0, 1},
	{"behind RAM", {{{0x100080 * P}, P}}, 1, {{0, 0}}, 0, 0, 1},
	{"at the top of all addresses", {{{UINT64_MAX - P + 1}, P}, {{0}, P}}, 2, {{0, 1}}, 1, 1, 1},
	{"longer than all addresses", {{{P}, UINT64_MAX - P + 1}}, 1, {{0, 0}}, 0, 0, 1},
	{"misaligned", {{{P + 8}, P}, {{P}, P - 1}, {{P}, P + 1}}, 3, {{0, 0}}, 0, 0, 3},
	{"empty", {{{P}, 0}}, 1, {{0, 0}}, 0, 0, 1},
	{"bad between good ones", {{{0}, P}, {{P}, P / 2}, {{P}, P}}, 3, {{0, 2}}, 1, 2, 1},
	{"nothing", {{{0}, 0}}, 0, {{0, 0}}, 0, 0, 0},
};

TEST(reports)
{
	for (size_t i = 0; i < ARRAY_SIZE(report_rows); i++) {
		const struct report_row *row = &report_rows[i];

		for (int keep = 0; keep < 2; keep++) {
			struct discard_log log;
			struct balloon *b = make(&log);
			struct balloon_range ranges[5];
			struct balloon_counters c;

			memcpy(ranges, row->ranges, sizeof(ranges));
			balloon_report(b, ranges, row->count, keep);
			c = counters(b);
			if (log.count != (keep ? 0 : row->discard_count))
				fail_msg("%s: %u discards", row->what, log.count);
			assert_memory_equal(log.entries, row->discards, log.count * sizeof(log.entries[0]));
			if (c.reported != (keep ? 0 : row->frames) ||
			    c.report_kept != (keep ? row->frames : 0) || c.report_ignored != row->ignored)
				fail_msg("%s: %lu reported, %lu kept, %lu ignored", row->what,
					 (unsigned long)c.reported, (unsigned long)c.report_kept,
					 (unsigned long)c.report_ignored);
			/* They are not in the balloon. */
			assert_int_equal(c.frames, 0);
			balloon_free(b);
		}
	}
}

/* 1 GiB in the messages of a stock guest, and in messages of the largest size: calls are counted by the limits promised. */
TEST(calls_per_gib)
{
	static const struct balloon_region region = {{0}, 0x40000};
	static uint32_t pfns[BALLOON_MESSAGE_FRAMES_MAX];

	for (size_t batch = 256; batch <= ARRAY_SIZE(pfns); batch *= 16) {
		struct discard_log log = {.count_only = true};
		struct balloon *b = NULL;

		assert_int_equal(balloon_new(&region, 1, &ops, &log, &b), 0);
		for (size_t at = 0x40000; at > 0; at -= batch) {
			for (size_t i = 0; i < batch; i++)
				pfns[i] = (uint32_t)(at - 1 - i); /* descending, as Linux allocates */
			assert_int_equal(balloon_inflate(b, pfns, batch), 0);
		}
		assert_int_equal(counters(b).frames, 0x40000);
		/* At most 1,100; at most 64 when each message carries 16 MiB. */
		assert_int_equal(log.count, 0x40000 / batch);
		assert_int_equal(counters(b).discard_calls, 0x40000 / batch);
		balloon_free(b);
	}
}

TEST(refuses_bad_regions)
{
	static const struct {
		struct balloon_region r[2];
		size_t count;
	} rows[] = {
		{{{{0}, 0}}, 1},
		{{{{0}, 1}}, 0},
		{{{{0}, 1}}, BALLOON_REGIONS_MAX + 1},
		{{{{0}, 16}, {{15}, 1}}, 2},
		{{{{16}, 16}, {{0}, 1}}, 2},
		{{{{UINT32_MAX}, 2}}, 1},
		{{{{UINT64_MAX}, 1}}, 1},
	};
	struct balloon *b = NULL;

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		assert_int_equal(balloon_new(rows[i].r, rows[i].count, &ops, NULL, &b), -EINVAL);
	assert_null(b);
	assert_int_equal(balloon_new((struct balloon_region[]){{{UINT32_MAX}, 1}}, 1, &ops, NULL, &b), 0);
	balloon_free(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(merges),
		cmocka_unit_test(inflating_twice_gives_back_twice_and_counts_once),
		cmocka_unit_test(deflates),
		cmocka_unit_test(reset_empties),
		cmocka_unit_test(counts_failed_discards),
		cmocka_unit_test(bounds_a_message),
		cmocka_unit_test(reports),
		cmocka_unit_test(calls_per_gib),
		cmocka_unit_test(refuses_bad_regions),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
