/* SPDX-License-Identifier: Apache-2.0 */
/* Plans of extents: valid, within the budget, and as good as a slow search finds; donors are laid out in runs. */
#include "ksm/extent-plan.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "ksm/store-layout.h"
#include "tests/unit/test.h"

#define FRAMES_MAX 10u
#define FILL_KEY   0xccu

static uint64_t random_state = 1;

static unsigned any(unsigned below)
{
	random_state = random_state * 6364136223846793005u + 1442695040888963407u;
	return (unsigned)(random_state >> 33) % below;
}

static bool fits(const struct plan_input *in, size_t i, size_t end)
{
	const struct plan_frame *f = in->frames;

	for (size_t k = i; k < end; k++) {
		if (f[k].mapped || f[k].gfn.v != f[i].gfn.v + (k - i))
			return false;
		if (f[i].at.segment == STORE_SEGMENT_NONE) {
			if (in->fill_count == 0 || f[k].at.segment != STORE_SEGMENT_NONE ||
			    f[k].key != in->fills[0].key || end - i > in->fills[0].pages)
				return false;
		} else if (f[k].at.segment != f[i].at.segment || f[k].at.page != f[i].at.page + (k - i)) {
			return false;
		}
	}
	return true;
}

static bool follows(const struct plan_frame *a, const struct plan_frame *b)
{
	return b->gfn.v == a->gfn.v + 1 && a->at.segment != STORE_SEGMENT_NONE &&
	       a->at.segment == b->at.segment && b->at.page == a->at.page + 1;
}

static bool joins(const struct plan_input *in, size_t i, size_t end)
{
	return (i > 0 && in->frames[i - 1].mapped && follows(&in->frames[i - 1], &in->frames[i])) ||
	       (end < in->frame_count && in->frames[end].mapped &&
		follows(&in->frames[end - 1], &in->frames[end]));
}

/* The most frames from @i on that @budget new extents can cover: every choice is tried. */
static uint64_t best(const struct plan_input *in, size_t i, uint64_t budget)
{
	uint64_t most;

	if (i == in->frame_count)
		return 0;
	most = best(in, i + 1, budget);
	for (size_t end = i + 1; end <= in->frame_count && fits(in, i, end); end++) {
		bool free_of_cost = joins(in, i, end);
		uint64_t pages;

		if (!free_of_cost && (budget == 0 || end - i < in->pages_min))
			continue;
		pages = end - i + best(in, end, budget - !free_of_cost);
		if (pages > most)
			most = pages;
	}
	return most;
}

static size_t frame_index(const struct plan_input *in, uint64_t gfn)
{
	for (size_t i = 0; i < in->frame_count; i++)
		if (in->frames[i].gfn.v == gfn)
			return i;
	fail_msg("frame %lu is not in the input", (unsigned long)gfn);
	return 0;
}

static void assert_valid(const struct plan_input *in, const struct extent_plan *plan)
{
	uint64_t pages = 0, fresh = 0, end = 0;

	for (size_t i = 0; i < plan->count; i++) {
		const struct plan_extent *x = &plan->v[i];
		size_t at = frame_index(in, x->first.v);
		const struct plan_frame *f = &in->frames[at];

		assert_true(x->pages > 0 && x->first.v >= end);
		end = x->first.v + x->pages;
		assert_true(at + x->pages <= in->frame_count);
		assert_true(fits(in, at, at + x->pages));
		if (f->at.segment != STORE_SEGMENT_NONE)
			assert_true(x->at.segment == f->at.segment && x->at.page == f->at.page);
		else
			assert_true(x->at.segment == in->fills[0].first.segment &&
				    x->at.page == in->fills[0].first.page);
		assert_int_equal(x->joins, joins(in, at, at + x->pages));
		if (!x->joins)
			assert_true(x->pages >= in->pages_min && x->pages >= plan->shortest);
		fresh += !x->joins;
		pages += x->pages;
	}
	assert_true(fresh <= in->extents_max);
	assert_int_equal(pages, plan->pages);
}

/* Frames with few gaps and few breaks, so that runs occur; some mapped, some of a fill pattern. */
static void random_frames(struct plan_frame *f, size_t count)
{
	uint64_t gfn = any(3);
	uint32_t page = any(3), segment = any(2);

	for (size_t i = 0; i < count; i++) {
		gfn += any(6) == 0 ? 2 : 1;
		page = any(5) == 0 ? any(6) : page + 1;
		segment = any(8) == 0 ? any(2) : segment;
		f[i] = (struct plan_frame){.gfn = GFN(gfn), .key = 1 + any(1000), .at = {segment, page}};
		f[i].mapped = any(5) == 0;
		if (any(3) == 0) {
			f[i].mapped = false;
			f[i].at = (struct store_page){STORE_SEGMENT_NONE, 0};
			if (any(3))
				f[i].key = FILL_KEY;
		}
		if (i && any(2) && f[i - 1].at.segment == STORE_SEGMENT_NONE)
			f[i] = (struct plan_frame){
				.gfn = GFN(gfn), .key = f[i - 1].key, .at = {STORE_SEGMENT_NONE, 0}};
	}
}

TEST(no_plan_is_better)
{
	for (unsigned round = 0; round < 60000; round++) {
		struct plan_frame frames[FRAMES_MAX];
		struct plan_fill fill = {.key = FILL_KEY, .first = {7, 3}, .pages = 1 + any(4)};
		struct plan_input in = {.frames = frames, .frame_count = any(FRAMES_MAX + 1)};
		struct extent_plan plan;
		uint64_t wanted;

		in.fills = &fill;
		in.fill_count = any(4) > 0;
		in.extents_max = any(5);
		in.pages_min = any(3) ? 1 : 1 + any(4);
		random_frames(frames, in.frame_count);
		assert_int_equal(extent_plan_make(&in, &plan), 0);
		assert_valid(&in, &plan);
		wanted = best(&in, 0, in.extents_max);
		/* A run of a fill pattern is cut into long pieces and a rest; with a shortest length two middling
		 * ones may cover more. That is the only difference. */
		if (in.pages_min == 1 || in.fill_count == 0)
			assert_int_equal(plan.pages, wanted);
		else
			assert_true(plan.pages <= wanted);
		extent_plan_done(&plan);
	}
}

TEST(longest_first_lowest_first)
{
	static struct plan_frame f[9];
	struct plan_input in = {.frames = f, .frame_count = 9, .extents_max = 2, .pages_min = 1};
	static const uint64_t gfns[] = {0, 1, 10, 11, 12, 20, 21, 30, 31};
	struct extent_plan plan;

	for (uint32_t i = 0; i < 9; i++)
		f[i] = (struct plan_frame){.gfn = GFN(gfns[i]), .at = {1, i}};
	assert_int_equal(extent_plan_make(&in, &plan), 0);
	assert_int_equal(plan.count, 2);
	assert_int_equal(plan.v[0].first.v, 0);
	assert_int_equal(plan.v[1].first.v, 10);
	assert_int_equal(plan.pages, 5);
	assert_int_equal(plan.pages_dropped, 4);
	assert_int_equal(plan.shortest, 2);
	extent_plan_done(&plan);
	in.pages_min = 3;
	assert_int_equal(extent_plan_make(&in, &plan), 0);
	assert_int_equal(plan.count, 1);
	extent_plan_done(&plan);
	in.extents_max = 0;
	assert_int_equal(extent_plan_make(&in, &plan), 0);
	assert_int_equal(plan.count, 0);
	assert_int_equal(plan.pages_dropped, 9);
	extent_plan_done(&plan);
}

TEST(refuses_disorder)
{
	struct plan_frame f[2] = {{.gfn = {5}, .at = {0, 0}}, {.gfn = {5}, .at = {0, 1}}};
	struct plan_input in = {.frames = f, .frame_count = 2, .extents_max = 9, .pages_min = 1};
	struct extent_plan plan;

	assert_int_equal(extent_plan_make(&in, &plan), -EINVAL);
	f[1].gfn.v = 4;
	assert_int_equal(extent_plan_make(&in, &plan), -EINVAL);
	f[1].gfn.v = 6;
	in.pages_min = 0;
	assert_int_equal(extent_plan_make(&in, &plan), -EINVAL);
	/* Page numbers that wrap are no run. */
	in.pages_min = 1;
	f[0].at.page = UINT32_MAX;
	f[1].at.page = 0;
	assert_int_equal(extent_plan_make(&in, &plan), 0);
	assert_int_equal(plan.count, 2);
	extent_plan_done(&plan);
}

TEST(budget_of_extents)
{
	assert_int_equal(extent_budget(262144, 0), 2000);
	assert_int_equal(extent_budget(131072, 1), 999);
	assert_int_equal(extent_budget(262144, 2000), 0);
	assert_int_equal(extent_budget(262144, UINT64_MAX), 0);
	assert_true(extent_budget(UINT64_MAX / PAGE_BYTES, 0) > 1000000);
}

/* What a layout must hold whatever the donor: every content that is new is there, runs stay runs. */
TEST(layouts_are_complete)
{
	for (unsigned round = 0; round < 3000; round++) {
		struct layout_frame f[64];
		size_t n = any(65);
		bool laid[64] = {false};
		struct store_layout l;
		uint64_t gfn = 0;

		for (size_t i = 0; i < n; i++) {
			gfn += any(8) == 0 ? 2 : 1;
			f[i] = (struct layout_frame){
				.gfn = GFN(gfn), .key = 1 + any(40), .have = any(6) == 0};
		}
		assert_int_equal(store_layout_make(f, n, &l), 0);
		assert_int_equal(l.huge_blocks, 0);
		for (size_t i = 0; i < l.count; i++) {
			assert_true(l.order[i] < n && !laid[l.order[i]]);
			laid[l.order[i]] = true;
			if (i)
				assert_true(l.order[i] > l.order[i - 1]);
		}
		for (size_t i = 0; i < n; i++) {
			bool first = !f[i].have;

			for (size_t k = 0; k < i; k++)
				first = first && f[k].key != f[i].key;
			if (first)
				assert_true(laid[i]);
		}
		store_layout_done(&l);
	}
}

/* Lays out frames that are described by letters: a content each, lower case when the store has it, '.' a gap. */
static void assert_layout(const char *frames, const char *wanted)
{
	struct layout_frame f[64];
	size_t n = 0;
	struct store_layout l;
	char got[65] = "";

	for (size_t i = 0; frames[i]; i++)
		if (frames[i] != '.')
			f[n++] = (struct layout_frame){
				.gfn = GFN(i), .key = (uint64_t)frames[i], .have = frames[i] >= 'a'};
	assert_int_equal(store_layout_make(f, n, &l), 0);
	for (size_t i = 0; i < l.count; i++)
		got[i] = (char)f[l.order[i]].key;
	assert_string_equal(got, wanted);
	store_layout_done(&l);
}

TEST(repeats_are_kept_inside_runs_only)
{
	assert_layout("ABC.DE", "ABCDE");
	assert_layout("ABCABD", "ABCABD"); /* two repeats between new pages */
	assert_layout("ABCAB", "ABC");	   /* nothing new follows */
	assert_layout("ABC.ABD", "ABCD");  /* nothing new before */
	assert_layout("AxB", "AxB");	   /* what the store has, inside a run */
	assert_layout("xxAxx", "A");
	assert_layout("AxxxxxxxxB", "AxxxxxxxxB");
	assert_layout("AxxxxxxxxxB", "AB"); /* too many */
	assert_layout("AAAA", "A");
	assert_layout("xyz", "");
	assert_layout("", "");
}

TEST(whole_blocks_come_first)
{
	struct layout_frame *f = calloc(3000, sizeof(*f));
	struct store_layout l;

	assert_non_null(f);
	for (size_t i = 0; i < 3000; i++) /* frames 100 to 3099: blocks 1 to 5 are whole */
		f[i] = (struct layout_frame){.gfn = GFN(100 + i), .key = 1 + i};
	for (size_t i = 1024; i < 1536; i++)
		f[i - 100].have = true; /* block 2 is there already */
	assert_int_equal(store_layout_make(f, 3000, &l), 0);
	assert_int_equal(l.huge_blocks, 4);
	for (size_t i = 0; i < 512; i++) {
		assert_int_equal(f[l.order[i]].gfn.v, 512 + i);
		assert_int_equal(f[l.order[512 + i]].gfn.v, 1536 + i);
	}
	assert_int_equal(l.count, 3000 - 512);
	assert_int_equal(f[l.order[2048]].gfn.v, 100);
	store_layout_done(&l);
	f[5].gfn.v = 1;
	assert_int_equal(store_layout_make(f, 3000, &l), -EINVAL);
	free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_plan_is_better),
		cmocka_unit_test(longest_first_lowest_first),
		cmocka_unit_test(refuses_disorder),
		cmocka_unit_test(budget_of_extents),
		cmocka_unit_test(layouts_are_complete),
		cmocka_unit_test(repeats_are_kept_inside_runs_only),
		cmocka_unit_test(whole_blocks_come_first),
	};

	return TEST_RUN(tests);
}
