/* SPDX-License-Identifier: Apache-2.0 */
/* The states of frames: which moves are allowed, and what each is called. */
#include "ksm/page-states.h"

#include <string.h>

#include "tests/unit/test.h"

TEST(moves)
{
	/* From (rows) to (columns), in the order of the enum. */
	static const char *const may[PAGE_STATES] = {
		"-y...yy", /* unknown */
		"y-y..yy", /* volatile */
		"yy-y.yy", /* candidate */
		"yyy-yyy", /* matched */
		"yy..-yy", /* shared */
		"yy...-y", /* dropped */
		"yy....-", /* given */
	};

	for (unsigned from = 0; from < PAGE_STATES; from++)
		for (unsigned to = 0; to < PAGE_STATES; to++)
			assert_int_equal(page_state_may(from, to), may[from][to] == 'y');
}

/* Nothing becomes shared but what was matched, which was read before: what a written frame holds counts for nothing. */
TEST(the_way_to_the_store)
{
	for (unsigned from = 0; from < PAGE_STATES; from++) {
		assert_int_equal(page_state_may(from, PAGE_STATE_SHARED), from == PAGE_STATE_MATCHED);
		assert_int_equal(page_state_may(from, PAGE_STATE_MATCHED), from == PAGE_STATE_CANDIDATE);
		assert_true(from == PAGE_STATE_VOLATILE || page_state_may(from, PAGE_STATE_VOLATILE));
	}
}

TEST(names)
{
	for (unsigned i = 0; i < PAGE_STATES; i++)
		for (unsigned k = 0; k < i; k++)
			assert_string_not_equal(page_state_name(i), page_state_name(k));
	assert_string_equal(page_state_name(PAGE_STATE_CANDIDATE), "candidate");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(moves),
		cmocka_unit_test(the_way_to_the_store),
		cmocka_unit_test(names),
	};

	return TEST_RUN(tests);
}
