/* SPDX-License-Identifier: Apache-2.0 */
/* Segments that are mostly dead are moved: which, in what order, who is told how often, and what is left in the end. */
#include <fcntl.h>

#include "tests/unit/store_fixture.h"

#define GRACE 100u

struct yard {
	struct store *s;
	struct peer a, b;
	uint64_t now;
};

static void yard_init(struct yard *y)
{
	y->s = store_with((struct store_config){.evacuate_after_ns = GRACE});
	y->now = 1000;
	peer_init(&y->a, y->s);
	peer_init(&y->b, y->s);
}

static void yard_done(struct yard *y)
{
	peer_done(&y->a);
	peer_done(&y->b);
	store_free(y->s);
}

/* A tick after @ns. */
static void later(struct yard *y, uint64_t ns)
{
	y->now += ns;
	assert_true(store_tick(y->s, y->now) > y->now);
}

/* @count contents from @first on, all mapped by @p. */
static uint32_t donate_range(struct peer *p, uint64_t first, uint32_t count)
{
	auto_free uint64_t *contents = calloc(count, sizeof(*contents));
	uint32_t g;

	for (uint32_t i = 0; i < count; i++)
		contents[i] = first + i;
	g = peer_donate(p, contents, count);
	assert_int_equal(store_refs(p->client, g, 0, count, 1), 0);
	return g;
}

/* Do what an agent does with a move. */
static void follow(struct peer *p, const struct store_event *e)
{
	assert_int_equal(e->kind, STORE_EVENT_MOVE);
	for (uint32_t i = 0; i < e->run; i++)
		if (store_refs(p->client, e->segment, e->page + i, 1, -1) == 0)
			assert_int_equal(store_refs(p->client, e->to_segment, e->to_page + i, 1, 1), 0);
}

static void assert_content(struct peer *p, uint32_t segment, uint32_t page, uint64_t content)
{
	uint8_t wanted[PAGE_BYTES], got[PAGE_BYTES];
	auto_fd fd = -1;

	content_write(wanted, content);
	assert_int_equal(store_fetch(p->client, segment, &fd), 0);
	assert_int_equal(pread(fd, got, PAGE_BYTES, (off_t)(page * PAGE_BYTES)), PAGE_BYTES);
	assert_memory_equal(got, wanted, PAGE_BYTES);
}

TEST(live_pages_of_several_go_into_one_in_order)
{
	cleanup(yard_done) struct yard y;
	struct store_answer answer;
	uint32_t g, h, to;

	yard_init(&y);
	g = donate_range(&y.a, 100, 100);
	h = donate_range(&y.b, 300, 100);
	assert_int_equal(store_refs(y.a.client, h, 10, 1, 1), 0);
	assert_int_equal(store_refs(y.a.client, g, 0, 40, -1), 0);
	assert_int_equal(store_refs(y.a.client, g, 50, 30, -1), 0);
	assert_int_equal(store_refs(y.b.client, h, 20, 80, -1), 0);
	later(&y, 0);
	later(&y, GRACE - 1);
	assert_int_equal(y.a.count + y.b.count, 0);
	later(&y, 1);
	/* h is deader: its 20 pages come first, then 10 and 20 of g. */
	assert_int_equal(y.b.count, 1);
	assert_int_equal(y.b.events[0].segment, h);
	assert_int_equal(y.b.events[0].page, 0);
	assert_int_equal(y.b.events[0].run, 20);
	assert_int_equal(y.b.events[0].to_page, 0);
	to = y.b.events[0].to_segment;
	assert_int_equal(y.a.count, 3);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(y.a.events[i].to_segment, to);
	assert_content(&y.a, to, 0, 300);
	assert_content(&y.a, to, 19, 319);
	assert_content(&y.a, to, 20, 140);
	assert_content(&y.a, to, 29, 149);
	assert_content(&y.a, to, 30, 180);
	assert_content(&y.a, to, 49, 199);
	assert_int_equal(stats_of(y.s).moves_pages, 50);
	/* Found there; what was dead is forgotten. */
	answer = peer_submit(&y.a, 0, 185);
	assert_int_equal(answer.segment, to);
	assert_int_equal(answer.page, 35);
	assert_int_equal(peer_submit(&y.a, 0, 100).kind, STORE_UNIQUE);
	/* The old ones go when nobody maps them, the new one stays. */
	assert_int_equal(stats_of(y.s).segments, 3);
	later(&y, GRACE / 2);
	later(&y, GRACE / 2 - 1);
	assert_int_equal(stats_of(y.s).segments, 3);
	for (size_t i = 0; i < 3; i++)
		follow(&y.a, &y.a.events[i]);
	follow(&y.b, &y.b.events[0]);
	later(&y, 1);
	assert_int_equal(stats_of(y.s).segments, 1);
	assert_int_equal(stats_of(y.s).dead_pages, 0);
	assert_int_equal(stats_of(y.s).mappings, 51);
	assert_content(&y.a, to, 35, 185);
}

TEST(who_does_not_move_is_told_again_and_left_alone_in_the_end)
{
	cleanup(yard_done) struct yard y;
	uint32_t g, told = 0;

	yard_init(&y);
	g = donate_range(&y.a, 100, 10);
	assert_int_equal(store_refs(y.a.client, g, 0, 8, -1), 0);
	y.a.room = 0; /* the first is lost */
	later(&y, 0);
	later(&y, GRACE);
	assert_int_equal(stats_of(y.s).moves_pages, 2);
	y.a.room = PEER_EVENTS;
	later(&y, GRACE - 1);
	assert_int_equal(y.a.count, 0);
	later(&y, 1);
	assert_int_equal(peer_told(&y.a).kind, STORE_EVENT_MOVE);
	for (unsigned i = 0; i < 100; i++) {
		later(&y, GRACE);
		told += (uint32_t)y.a.count;
		y.a.count = 0;
	}
	assert_int_equal(told, 3);
	/* The copy is gone; one that changes is tried again. */
	assert_int_equal(stats_of(y.s).segments, 1);
	assert_int_equal(stats_of(y.s).moves_pages, 2);
	assert_int_equal(store_refs(y.a.client, g, 8, 1, -1), 0);
	later(&y, GRACE);
	assert_int_equal(peer_told(&y.a).page, 9);
	assert_int_equal(stats_of(y.s).moves_pages, 3);
}

TEST(pages_that_come_alive_meanwhile_are_moved_too)
{
	cleanup(yard_done) struct yard y;
	uint32_t g, to;

	yard_init(&y);
	g = donate_range(&y.a, 100, 10);
	assert_int_equal(store_refs(y.a.client, g, 2, 8, -1), 0);
	later(&y, 0);
	later(&y, GRACE);
	assert_int_equal(y.a.count, 1);
	/* It was found before, and is mapped only now. */
	assert_int_equal(store_refs(y.b.client, g, 5, 1, 1), 0);
	follow(&y.a, &y.a.events[0]);
	later(&y, GRACE);
	later(&y, 1);
	to = peer_told(&y.b).to_segment;
	assert_content(&y.b, to, y.b.events[0].to_page, 105);
	follow(&y.b, &y.b.events[0]);
	later(&y, GRACE);
	assert_int_equal(stats_of(y.s).dead_pages, 0);
}

TEST(a_twentieth_of_the_store_may_be_dead)
{
	cleanup(yard_done) struct yard y;
	uint32_t g[20];

	yard_init(&y);
	for (uint32_t i = 0; i < 20; i++)
		g[i] = donate_range(&y.a, 1 + 100 * i, 100);
	/* 2.5 %: nothing is more than half dead */
	assert_int_equal(store_refs(y.a.client, g[3], 0, 50, -1), 0);
	later(&y, 0);
	later(&y, GRACE);
	assert_int_equal(stats_of(y.s).moves_pages, 0);
	/* 10 %: the deadest go, until 5 % are left */
	for (uint32_t i = 4; i < 9; i++)
		assert_int_equal(store_refs(y.a.client, g[i], 0, 30, -1), 0);
	later(&y, 0);
	later(&y, GRACE);
	assert_int_equal(stats_of(y.s).moves_pages, 50 + 2 * 70);
	for (size_t i = 0; i < y.a.count; i++)
		follow(&y.a, &y.a.events[i]);
	later(&y, 1);
	assert_int_equal(stats_of(y.s).dead_pages, 90);
	assert_int_equal(stats_of(y.s).segment_pages, 1890);
}

/* Of two copies one is found. When it goes, the other one is, if somebody maps it. */
TEST(copies_are_found_when_the_first_has_gone)
{
	cleanup(yard_done) struct yard y;
	uint32_t g, h;

	yard_init(&y);
	g = peer_donate(&y.a, (uint64_t[]){1, 2}, 2);
	h = donate_range(&y.b, 1, 2);
	assert_int_equal(store_refs(y.b.client, h, 1, 1, -1), 0);
	assert_int_equal(peer_submit(&y.a, 0, 1).segment, g);
	later(&y, 0);
	later(&y, GRACE);
	/* h is half dead by now, and was moved. */
	assert_int_equal(peer_told(&y.b).segment, h);
	assert_int_equal(peer_submit(&y.a, 0, 1).segment, y.b.events[0].to_segment);
	assert_int_equal(peer_submit(&y.a, 1, 2).kind, STORE_UNIQUE);
}

TEST(copies_are_found_again)
{
	cleanup(yard_done) struct yard y;
	uint32_t g, h;

	yard_init(&y);
	g = peer_donate(&y.a, (uint64_t[]){1, 2}, 2);
	h = donate_range(&y.b, 1, 2);
	assert_int_equal(peer_submit(&y.a, 0, 2).segment, g);
	later(&y, 0);
	later(&y, GRACE);
	assert_int_equal(peer_submit(&y.a, 0, 2).segment, h);
	assert_int_equal(stats_of(y.s).segments, 1);
}

/* Everything that a long life left behind is gone with the last VM, also in the middle of a move. */
TEST(nothing_is_left_of_a_move)
{
	cleanup(yard_done) struct yard y;
	uint32_t g;

	yard_init(&y);
	g = donate_range(&y.a, 100, 10);
	assert_int_equal(store_refs(y.a.client, g, 1, 9, -1), 0);
	later(&y, 0);
	later(&y, GRACE);
	assert_int_equal(segment_fds(), 2);
	store_client_free(TAKE_PTR(y.a.client));
	later(&y, 1);
	assert_int_equal(segment_fds(), 1);
	later(&y, GRACE);
	later(&y, GRACE);
	assert_int_equal(segment_fds(), 0);
	g = donate_range(&y.b, 100, 10);
	assert_int_equal(store_refs(y.b.client, g, 1, 9, -1), 0);
	later(&y, 0);
	later(&y, GRACE);
	assert_int_equal(segment_fds(), 2);
	store_client_free(TAKE_PTR(y.b.client));
	assert_int_equal(segment_fds(), 0);
	assert_int_equal(stats_of(y.s).segments, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(live_pages_of_several_go_into_one_in_order),
		cmocka_unit_test(who_does_not_move_is_told_again_and_left_alone_in_the_end),
		cmocka_unit_test(pages_that_come_alive_meanwhile_are_moved_too),
		cmocka_unit_test(a_twentieth_of_the_store_may_be_dead),
		cmocka_unit_test(copies_are_found_when_the_first_has_gone),
		cmocka_unit_test(copies_are_found_again),
		cmocka_unit_test(nothing_is_left_of_a_move),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
