/* SPDX-License-Identifier: Apache-2.0 */
/* Huge pages that were cut: none is forgotten before it is dropped whole or split, and the frame to split at is one that is left. */
#include "vmm/huge-cuts.h"

#include <stdlib.h>
#include <string.h>

#include "tests/unit/test.h"

#define BLOCKS 8

struct model {
	bool dropped[BLOCKS * HUGE_FRAMES];
};

/* Whether a block was cut and is neither whole nor untouched. */
static bool is_cut(const struct model *m, uint64_t block)
{
	unsigned n = 0;

	for (uint64_t f = block * HUGE_FRAMES; f < (block + 1) * HUGE_FRAMES; f++)
		n += m->dropped[f];
	return n > 0 && n < HUGE_FRAMES;
}

static void split(struct model *m, uint64_t frame)
{
	assert_true(is_cut(m, frame / HUGE_FRAMES));
	assert_false(m->dropped[frame]);
	/* As if it were a new block: what was dropped is free. */
	memset(&m->dropped[frame / HUGE_FRAMES * HUGE_FRAMES], 0, HUGE_FRAMES);
}

TEST(random_cuts)
{
	struct huge_cuts c = {.count = 0};
	struct model *m = calloc(1, sizeof(*m));
	unsigned seed = 1, splits = 0, wholes = 0;

	assert_non_null(m);
	for (unsigned round = 0; round < 20000; round++) {
		uint64_t block = (uint64_t)rand_r(&seed) % BLOCKS, frame;
		uint64_t unit = round % 2 ? 1 : HUGE_FRAMES / 4; /* whole blocks now and then */
		uint64_t from = (uint64_t)rand_r(&seed) % HUGE_FRAMES / unit * unit;
		uint64_t first = block * HUGE_FRAMES + from;
		uint64_t end = first + unit * (1 + (uint64_t)rand_r(&seed) % ((HUGE_FRAMES - from) / unit));
		unsigned waiting = 0;

		if (round % 50 == 49) {
			huge_cuts_forget(&c, block * HUGE_FRAMES, (block + 2) * HUGE_FRAMES);
			for (uint64_t b = block; b < block + 2 && b < BLOCKS; b++)
				memset(&m->dropped[b * HUGE_FRAMES], 0, HUGE_FRAMES);
		} else {
			if (huge_cuts_add(&c, first, end, &frame)) {
				split(m, frame);
				splits++;
			}
			memset(&m->dropped[first], 1, end - first);
			if (!is_cut(m, block)) {
				memset(&m->dropped[block * HUGE_FRAMES], 0, HUGE_FRAMES);
				wholes++;
			}
		}
		for (uint64_t b = 0; b < BLOCKS; b++)
			waiting += is_cut(m, b);
		assert_int_equal(c.count, waiting);
		assert_true(waiting <= HUGE_CUTS_MAX);
	}
	for (uint64_t frame; huge_cuts_take(&c, &frame);)
		split(m, frame);
	for (uint64_t b = 0; b < BLOCKS; b++)
		assert_false(is_cut(m, b));
	assert_true(splits > 1000 && wholes > 100);
	free(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(random_cuts)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
