/* SPDX-License-Identifier: Apache-2.0 */
/* What a store answers and tells: twins, promises, waits, wrong calls, references, the end. */
#include "ksm/store.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "tests/unit/store_fixture.h"

TEST(a_twin_is_wanted_donated_and_found)
{
	cleanup(store_free_p) struct store *s = store_with((struct store_config){0});
	cleanup(peer_done) struct peer a, b, c;
	struct store_answer answer;
	struct store_event e;
	uint32_t segment;

	peer_init(&a, s);
	peer_init(&b, s);
	peer_init(&c, s);
	assert_int_equal(peer_submit(&a, 5, 1).kind, STORE_UNIQUE);
	assert_int_equal(peer_submit(&a, 5, 1).kind, STORE_UNIQUE); /* said again */
	assert_int_equal(peer_submit(&a, 6, 2).kind, STORE_UNIQUE);
	assert_int_equal(peer_submit(&b, 5, 1).kind, STORE_WANTED);
	assert_int_equal(peer_submit(&c, 9, 1).kind, STORE_WAIT);
	assert_int_equal(a.count + b.count + c.count, 0);
	segment = peer_donate(&b, (uint64_t[]){3, 1}, 2);
	e = peer_told(&a);
	assert_int_equal(e.kind, STORE_EVENT_FOUND);
	assert_int_equal(e.frame, 5);
	assert_true(e.key == content_key(1));
	assert_int_equal(e.segment, segment);
	assert_int_equal(e.page, 1);
	assert_int_equal(e.run, 1);
	assert_int_equal(peer_told(&c).frame, 9);
	assert_int_equal(b.count, 0); /* it knows */
	answer = peer_submit(&b, 77, 1);
	assert_int_equal(answer.kind, STORE_FOUND);
	assert_int_equal(answer.segment, segment);
	assert_int_equal(answer.page, 1);
	/* What came along is found, too, and content 2 is as unique as before. */
	assert_int_equal(peer_submit(&c, 10, 3).kind, STORE_FOUND);
	assert_int_equal(peer_submit(&a, 6, 2).kind, STORE_UNIQUE);
	assert_int_equal(stats_of(s).records, 1);
}

TEST(twins_within_a_batch_of_one_client)
{
	cleanup(store_free_p) struct store *s = store_with((struct store_config){0});
	cleanup(peer_done) struct peer a;
	struct store_record recs[4];
	struct store_answer answers[4];
	uint32_t told = 0;

	peer_init(&a, s);
	for (uint32_t i = 0; i < 4; i++) {
		recs[i] = (struct store_record){.key = content_key(7), .frame = 100 + i};
		peer_holds(&a, 100 + i, true);
	}
	assert_int_equal(store_submit(a.client, recs, 4, answers), 0);
	assert_int_equal(answers[0].kind, STORE_UNIQUE);
	assert_int_equal(answers[1].kind, STORE_WANTED);
	assert_int_equal(answers[2].kind, STORE_WAIT);
	assert_int_equal(answers[3].kind, STORE_WAIT);
	peer_donate(&a, (uint64_t[]){7}, 1);
	/* All but the one that was donated. */
	assert_int_equal(a.count, 3);
	for (uint32_t i = 0; i < 3; i++) {
		assert_int_equal(a.events[i].kind, STORE_EVENT_FOUND);
		told |= 1u << (a.events[i].frame - 100);
	}
	assert_int_equal(told, 1 | 4 | 8);
}

TEST(what_was_written_since_is_no_twin)
{
	cleanup(store_free_p) struct store *s = store_with((struct store_config){0});
	cleanup(peer_done) struct peer a, b;

	peer_init(&a, s);
	peer_init(&b, s);
	assert_int_equal(peer_submit(&a, 5, 1).kind, STORE_UNIQUE);
	peer_holds(&a, 5, false);
	assert_int_equal(peer_submit(&b, 6, 1).kind, STORE_UNIQUE);
	assert_int_equal(peer_submit(&a, 7, 1).kind, STORE_WANTED);
	assert_int_equal(stats_of(s).records, 0);
}

TEST(runs_of_a_pattern)
{
	cleanup(store_free_p) struct store *s = store_with((struct store_config){0});
	cleanup(peer_done) struct peer a;
	struct store_answer answer;
	uint32_t longer;

	peer_init(&a, s);
	peer_donate(&a, (uint64_t[]){FILL, FILL, 0, 4}, 4);
	answer = peer_submit(&a, 1, FILL);
	assert_int_equal(answer.kind, STORE_FOUND);
	assert_int_equal(answer.page, 0);
	assert_int_equal(answer.run, 2);
	/* The longest stretch is what is found. */
	longer = peer_donate(&a, (uint64_t[]){4, FILL, FILL, FILL, FILL + 1}, 5);
	answer = peer_submit(&a, 1, FILL);
	assert_int_equal(answer.segment, longer);
	assert_int_equal(answer.page, 1);
	assert_int_equal(answer.run, 3);
	assert_true(peer_submit(&a, 1, 4).segment != longer);
	/* Zero pages are not found, whatever is asked. */
	assert_int_equal(peer_submit(&a, 1, 0).kind, STORE_UNIQUE);
}

TEST(broken_promises_pass_on)
{
	cleanup(store_free_p) struct store *s = store_with((struct store_config){0});
	cleanup(peer_done) struct peer a, b, c;
	struct store_event e;

	peer_init(&a, s);
	peer_init(&b, s);
	peer_init(&c, s);
	assert_int_equal(peer_submit(&a, 1, 1).kind, STORE_UNIQUE);
	assert_int_equal(peer_submit(&b, 2, 1).kind, STORE_WANTED);
	assert_int_equal(peer_submit(&c, 3, 1).kind, STORE_WAIT);
	peer_submit(&b, 10, 50);
	assert_int_equal(stats_of(s).promises_broken, 0);
	peer_submit(&b, 11, 51);
	assert_int_equal(stats_of(s).promises_broken, 1);
	e = peer_told(&a); /* who was first */
	assert_int_equal(e.kind, STORE_EVENT_WANTED);
	assert_int_equal(e.frame, 1);
	assert_true(e.key == content_key(1));
	/* The event's promise lasts one submission longer. */
	peer_submit(&a, 10, 52);
	peer_submit(&a, 11, 53);
	assert_int_equal(c.count, 0);
	peer_submit(&a, 12, 54);
	assert_int_equal(peer_told(&c).kind, STORE_EVENT_WANTED);
	peer_donate(&c, (uint64_t[]){1}, 1);
	/* Those who broke their promise still have it. */
	assert_int_equal(peer_told(&a).frame, 1);
	assert_int_equal(peer_told(&b).frame, 2);
	assert_int_equal(c.count, 0);
}

TEST(who_has_it_no_more_is_not_asked)
{
	cleanup(store_free_p) struct store *s = store_with((struct store_config){0});
	cleanup(peer_done) struct peer a, b, c;

	peer_init(&a, s);
	peer_init(&b, s);
	peer_init(&c, s);
	assert_int_equal(peer_submit(&a, 1, 1).kind, STORE_UNIQUE);
	assert_int_equal(peer_submit(&b, 2, 1).kind, STORE_WANTED);
	assert_int_equal(peer_submit(&c, 3, 1).kind, STORE_WAIT);
	peer_holds(&a, 1, false);
	peer_submit(&b, 10, 50);
	peer_submit(&b, 11, 51);
	assert_int_equal(peer_told(&c).kind, STORE_EVENT_WANTED);
	assert_int_equal(a.count, 0);
	/* Only one is left: first seen again, as if nothing had been. */
	peer_holds(&b, 2, false);
	for (uint32_t i = 0; i < 3; i++)
		peer_submit(&c, 10 + i, 60 + i);
	assert_int_equal(a.count + b.count + c.count, 0);
	assert_int_equal(peer_submit(&c, 3, 1).kind, STORE_UNIQUE);
}

TEST(full_batches_count_as_one_submission)
{
	cleanup(store_free_p) struct store *s = store_with((struct store_config){0});
	cleanup(peer_done) struct peer a, b;
	auto_free struct store_record *recs = calloc(STORE_BATCH_MAX, sizeof(*recs));
	auto_free struct store_answer *answers = calloc(STORE_BATCH_MAX, sizeof(*answers));

	peer_init(&a, s);
	peer_init(&b, s);
	for (uint32_t i = 0; i < STORE_BATCH_MAX; i++)
		recs[i] = (struct store_record){.key = i + 1, .frame = i % PEER_FRAMES};
	assert_int_equal(peer_submit(&a, 1, 1).kind, STORE_UNIQUE);
	assert_int_equal(peer_submit(&b, 2, 1).kind, STORE_WANTED);
	for (unsigned i = 0; i < 5; i++)
		assert_int_equal(store_submit(b.client, recs, STORE_BATCH_MAX, answers), 0);
	peer_submit(&b, 10, 50);
	assert_int_equal(a.count, 0);
	peer_submit(&b, 10, 51);
	assert_int_equal(peer_told(&a).kind, STORE_EVENT_WANTED);
}

TEST(promises_end_with_time_and_with_their_client)
{
	cleanup(store_free_p) struct store *s = store_with((struct store_config){0});
	cleanup(peer_done) struct peer a, b, c;
	uint64_t now = 1;

	peer_init(&a, s);
	peer_init(&b, s);
	peer_init(&c, s);
	store_tick(s, now);
	assert_int_equal(peer_submit(&a, 1, 1).kind, STORE_UNIQUE);
	assert_int_equal(peer_submit(&b, 2, 1).kind, STORE_WANTED);
	assert_int_equal(peer_submit(&c, 3, 1).kind, STORE_WAIT);
	store_tick(s, now + 10000000000);
	assert_int_equal(a.count, 0);
	store_tick(s, now + 10000000001);
	assert_int_equal(peer_told(&a).kind, STORE_EVENT_WANTED);
	store_client_free(TAKE_PTR(a.client));
	assert_int_equal(peer_told(&c).kind, STORE_EVENT_WANTED);
	store_client_free(TAKE_PTR(c.client));
	/* The only one left is as good as the first seen. */
	assert_int_equal(b.count, 0);
	assert_int_equal(stats_of(s).records, 1);
	assert_int_equal(peer_submit(&b, 4, 1).kind, STORE_WANTED);
}

TEST(who_leaves_is_forgotten)
{
	cleanup(store_free_p) struct store *s = store_with((struct store_config){0});
	cleanup(peer_done) struct peer a, b, c;

	peer_init(&a, s);
	peer_init(&b, s);
	assert_int_equal(peer_submit(&a, 1, 1).kind, STORE_UNIQUE);
	assert_int_equal(peer_submit(&a, 2, 2).kind, STORE_UNIQUE);
	assert_int_equal(peer_submit(&b, 2, 2).kind, STORE_WANTED);
	store_client_free(TAKE_PTR(a.client));
	assert_int_equal(stats_of(s).records, 0);
	/* Its place is taken; its records are not. */
	peer_init(&c, s);
	assert_int_equal(peer_submit(&b, 1, 1).kind, STORE_UNIQUE);
	peer_donate(&b, (uint64_t[]){2}, 1);
	assert_int_equal(b.count + c.count, 0);
}

TEST(events_without_room_come_later)
{
	cleanup(store_free_p) struct store *s = store_with((struct store_config){0});
	cleanup(peer_done) struct peer a, b, c;
	struct store_record recs[3];
	struct store_answer answers[3];

	peer_init(&a, s);
	peer_init(&b, s);
	peer_init(&c, s);
	a.room = 1;
	for (uint32_t i = 1; i <= 3; i++) {
		assert_int_equal(peer_submit(&a, i, i).kind, STORE_UNIQUE);
		recs[i - 1] = (struct store_record){.key = content_key(i), .frame = i};
	}
	assert_int_equal(store_submit(b.client, recs, 3, answers), 0);
	assert_int_equal(answers[2].kind, STORE_WANTED);
	assert_int_equal(peer_submit(&c, 1, 3).kind, STORE_WAIT);
	peer_donate(&b, (uint64_t[]){1, 2, 3}, 3);
	assert_int_equal(peer_told(&a).frame, 1);
	assert_int_equal(peer_told(&c).frame, 1);
	peer_submit(&c, 9, 99);
	assert_int_equal(peer_told(&a).frame, 2);
	store_tick(s, 5);
	assert_int_equal(peer_told(&a).frame, 3);
	store_tick(s, 6);
	assert_int_equal(a.count + c.count, 0);
	assert_int_equal(stats_of(s).events_lost, 0);
	/* A donor that cannot be asked is asked later. */
	a.room = 0;
	assert_int_equal(peer_submit(&a, 1, 10).kind, STORE_UNIQUE);
	assert_int_equal(peer_submit(&b, 1, 10).kind, STORE_WANTED);
	peer_holds(&b, 1, false);
	assert_int_equal(peer_submit(&a, 2, 10).kind, STORE_WAIT);
	store_client_free(TAKE_PTR(b.client));
	assert_int_equal(a.count, 0);
	a.room = 1;
	store_tick(s, 7);
	assert_int_equal(peer_told(&a).kind, STORE_EVENT_WANTED);
}

TEST(a_page_with_many_mappings_gets_a_copy)
{
	cleanup(store_free_p) struct store *s = store_with((struct store_config){0});
	cleanup(peer_done) struct peer a, b;
	uint32_t first, second;

	peer_init(&a, s);
	peer_init(&b, s);
	first = peer_donate(&a, (uint64_t[]){1}, 1);
	for (unsigned i = 0; i < STORE_MAPPINGS_MAX; i++) {
		assert_int_equal(peer_submit(&b, i, 1).kind, STORE_FOUND);
		assert_int_equal(store_refs(i % 2 ? a.client : b.client, first, 0, 1, 1), 0);
	}
	assert_int_equal(peer_submit(&b, 1000, 1).kind, STORE_WANTED);
	assert_int_equal(peer_submit(&a, 1000, 1).kind, STORE_WAIT);
	second = peer_donate(&b, (uint64_t[]){1}, 1);
	assert_int_equal(peer_told(&a).segment, second);
	assert_int_equal(peer_submit(&a, 1001, 1).segment, second);
	assert_int_equal(stats_of(s).mappings, STORE_MAPPINGS_MAX);
	assert_int_equal(stats_of(s).pages_saved, STORE_MAPPINGS_MAX - 1);
	/* Less than the limit again: no harm. */
	assert_int_equal(store_refs(a.client, first, 0, 1, -1), 0);
	assert_int_equal(peer_submit(&a, 1001, 1).segment, second);
}

TEST(references)
{
	cleanup(store_free_p) struct store *s = store_with((struct store_config){0});
	cleanup(peer_done) struct peer a, b;
	uint32_t g;

	peer_init(&a, s);
	peer_init(&b, s);
	g = peer_donate(&a, (uint64_t[]){1, 2, 3, 4}, 4);
	assert_int_equal(store_refs(a.client, g, 0, 4, 1), 0);
	assert_int_equal(store_refs(a.client, g, 1, 2, 1), 0);
	assert_int_equal(store_refs(b.client, g, 1, 1, 1), 0);
	assert_int_equal(stats_of(s).mappings, 7);
	assert_int_equal(stats_of(s).pages_saved, 3);
	assert_int_equal(stats_of(s).dead_pages, 0);
	/* All or nothing, and only what one has. */
	assert_int_equal(store_refs(b.client, g, 1, 2, -1), -EINVAL);
	assert_int_equal(store_refs(b.client, g, 2, 1, -1), -EINVAL);
	assert_int_equal(store_refs(a.client, g, 3, 2, 1), -EINVAL);
	assert_int_equal(store_refs(a.client, g, 4, 1, 1), -EINVAL);
	assert_int_equal(store_refs(a.client, g, UINT32_MAX, 2, 1), -EINVAL);
	assert_int_equal(store_refs(a.client, g, 0, 0, 1), -EINVAL);
	assert_int_equal(store_refs(a.client, g, 0, 1, 2), -EINVAL);
	assert_int_equal(store_refs(a.client, g + 1, 0, 1, 1), -ENOENT);
	assert_int_equal(store_refs(a.client, 0, 0, 1, 1), -ENOENT);
	assert_int_equal(store_refs(a.client, UINT32_MAX, 0, 1, 1), -ENOENT);
	assert_int_equal(stats_of(s).mappings, 7);
	assert_int_equal(store_refs(a.client, g, 0, 2, -1), 0);
	assert_int_equal(stats_of(s).dead_pages, 1);
	store_client_free(TAKE_PTR(a.client));
	assert_int_equal(stats_of(s).mappings, 1);
	assert_int_equal(stats_of(s).dead_pages, 3);
}

/* Many references of many clients: counts stop somewhere, and are right again when clients go. */
TEST(references_without_end)
{
	cleanup(store_free_p) struct store *s = store_with((struct store_config){0});
	struct store_client_config config = {.frames = 1, .event = peer_event};
	struct store_client *clients[300];
	cleanup(peer_done) struct peer a;
	uint32_t g;

	peer_init(&a, s);
	g = peer_donate(&a, (uint64_t[]){1, 2}, 2);
	for (unsigned i = 0; i < 300; i++) {
		assert_int_equal(store_client_new(s, &config, &clients[i]), 0);
		for (unsigned k = 0; k < 260; k++)
			assert_int_equal(store_refs(clients[i], g, 0, 1, 1), 0);
	}
	assert_int_equal(stats_of(s).mappings, 300 * 255);
	assert_int_equal(stats_of(s).dead_pages, 1);
	/* A count that has reached the top stays there. */
	assert_int_equal(store_refs(clients[0], g, 0, 1, -1), 0);
	for (unsigned i = 0; i < 300; i++) {
		assert_int_equal(stats_of(s).dead_pages, 1);
		store_client_free(clients[i]);
	}
	assert_int_equal(stats_of(s).mappings, 0);
	assert_int_equal(stats_of(s).dead_pages, 2);
}

TEST(wrong_calls)
{
	cleanup(store_free_p) struct store *s = store_with((struct store_config){.segment_limit = 20});
	cleanup(peer_done) struct peer a, b;
	struct store_client_config bad = {.frames = 0, .event = peer_event};
	struct store_record rec = {.key = 1, .frame = PEER_FRAMES};
	struct store_answer answer = {.kind = 99};
	struct store_client *none = NULL;
	uint32_t loan, loans[16], g = 0;
	int fd = -1;

	peer_init(&a, s);
	peer_init(&b, s);
	assert_int_equal(store_client_new(s, &bad, &none), -EINVAL);
	bad.frames = (uint64_t)STORE_FRAMES_MAX + 1;
	assert_int_equal(store_client_new(s, &bad, &none), -EINVAL);
	assert_int_equal(store_submit(a.client, &rec, 1, &answer), -EINVAL);
	rec = (struct store_record){.key = 1, .reserved = 1};
	assert_int_equal(store_submit(a.client, &rec, 1, &answer), -EINVAL);
	assert_int_equal(store_submit(a.client, &rec, STORE_BATCH_MAX + 1, &answer), -EINVAL);
	assert_int_equal(answer.kind, 99);
	assert_int_equal(store_submit(a.client, &rec, 0, &answer), 0);
	/* Loans */
	assert_int_equal(store_lend(a.client, 0, &loan, &fd), -EINVAL);
	assert_int_equal(store_lend(a.client, SEGMENT_PAGES + 1, &loan, &fd), -EINVAL);
	assert_int_equal(store_offer(a.client, 0, &g), -ENOENT);
	assert_int_equal(store_offer(a.client, 12345, &g), -ENOENT);
	assert_int_equal(store_lend(a.client, 1, &loan, &fd), 0);
	assert_int_equal(ftruncate(fd, 2 * PAGE_BYTES), -1); /* it cannot grow */
	assert_int_equal(store_offer(b.client, loan, &g), -ENOENT);
	assert_int_equal(store_offer(a.client, loan, &g), -EPERM); /* not sealed */
	assert_int_equal(store_offer(a.client, loan, &g), -ENOENT);
	close(fd);
	loan = peer_fill(&a, (uint64_t[]){1}, 1);
	assert_int_equal(store_offer(a.client, loan, &g), 0);
	assert_int_equal(store_offer(a.client, loan, &g), -ENOENT); /* twice */
	for (unsigned i = 0; i < 16; i++) {
		assert_int_equal(store_lend(a.client, 1, &loans[i], &fd), 0);
		close(fd);
	}
	assert_int_equal(store_lend(a.client, 1, &loan, &fd), -EMFILE);
	/* 1 segment and 16 loans of 20 */
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(store_lend(b.client, 1, &loan, &fd), 0);
		close(fd);
	}
	assert_int_equal(store_lend(b.client, 1, &loan, &fd), -ENOSPC);
	for (unsigned i = 0; i < 16; i++)
		assert_int_equal(store_offer(a.client, loans[i], &g), -EPERM);
	assert_int_equal(store_lend(b.client, 1, &loan, &fd), 0);
	close(fd);
	assert_int_equal(store_fetch(a.client, 0, &fd), -ENOENT);
	assert_int_equal(store_fetch(a.client, 999, &fd), -ENOENT);
	assert_int_equal(stats_of(s).refused, 27);
}

/* Sealed, but smaller, or with a hole: it is what its bytes are. */
TEST(loans_that_are_not_as_lent)
{
	cleanup(store_free_p) struct store *s = store_with((struct store_config){0});
	cleanup(peer_done) struct peer a;
	uint8_t page[PAGE_BYTES];
	uint32_t loan, g;
	auto_fd fd = -1;

	peer_init(&a, s);
	assert_int_equal(store_lend(a.client, 8, &loan, &fd), 0);
	content_write(page, 5);
	assert_int_equal(pwrite(fd, page, PAGE_BYTES, PAGE_BYTES), PAGE_BYTES);
	assert_int_equal(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, PAGE_BYTES), 0);
	assert_int_equal(ftruncate(fd, 2 * PAGE_BYTES), 0);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_SEAL), 0);
	assert_int_equal(store_offer(a.client, loan, &g), 0);
	assert_int_equal(stats_of(s).segment_pages, 2);
	assert_int_equal(peer_submit(&a, 0, 5).page, 1);
	assert_int_equal(store_refs(a.client, g, 2, 1, 1), -EINVAL);
}

TEST(pages_are_charged_to_the_lender)
{
	cleanup(store_free_p) struct store *s = store_with((struct store_config){0});
	cleanup(peer_done) struct peer a;
	struct stat st;
	auto_fd fd = -1;
	uint32_t loan;

	peer_init(&a, s);
	assert_int_equal(store_lend(a.client, SEGMENT_PAGES, &loan, &fd), 0);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_blocks * 512, SEGMENT_PAGES * PAGE_BYTES);
}

TEST(the_same_file_has_the_same_number)
{
	cleanup(store_free_p) struct store *s = store_with((struct store_config){0});
	cleanup(store_free_p) struct store *next = store_with((struct store_config){0});
	cleanup(peer_done) struct peer a, b, c;
	uint32_t g, h, i, pages;
	auto_fd fd = -1, again = -1, plain = memfd_create("plain", MFD_CLOEXEC);

	peer_init(&a, s);
	peer_init(&b, next);
	peer_init(&c, next);
	g = peer_donate(&a, (uint64_t[]){1, 2}, 2);
	assert_int_equal(store_fetch(a.client, g, &fd), 0);
	assert_int_equal(segment_check(fd, &pages, NULL), 0);
	assert_int_equal(pages, 2);
	assert_int_equal(peer_submit(&b, 5, 2).kind, STORE_UNIQUE);
	assert_int_equal(store_adopt(c.client, fd, &h), 0);
	assert_int_equal(peer_told(&b).page, 1); /* who waited for it */
	assert_int_equal(store_fetch(c.client, h, &again), 0);
	assert_int_equal(store_adopt(b.client, again, &i), 0);
	assert_int_equal(h, i);
	assert_int_equal(stats_of(next).segments, 1);
	assert_int_equal(peer_submit(&c, 0, 1).segment, h);
	assert_int_equal(store_adopt(c.client, plain, &h), -EPERM);
	assert_int_equal(store_adopt(c.client, -1, &h), -EINVAL);
}

/* All keys are equal: everything is a twin of everything, and only bytes could tell. */
TEST(forged_keys)
{
	cleanup(store_free_p) struct store *s =
		store_with((struct store_config){.key_mask = (uint64_t)1 << 63});
	cleanup(peer_done) struct peer a, b;
	unsigned kinds[STORE_ANSWERS] = {0};

	peer_init(&a, s);
	peer_init(&b, s);
	for (uint32_t i = 1; i < 100; i++)
		kinds[peer_submit(&a, i, i).kind]++;
	assert_int_equal(kinds[STORE_FOUND], 0);
	assert_in_range(kinds[STORE_UNIQUE], 1, 2);
	peer_donate(&a, (uint64_t[]){1, 2, 3, 4, 5, 6, 7, 8, 9}, 9);
	assert_true(a.count > 0);
	for (uint32_t i = 200; i < 300; i++)
		kinds[peer_submit(&b, i, i).kind]++;
	assert_true(kinds[STORE_FOUND] > 10);
	assert_true(stats_of(s).records <= 2);
}

TEST(unused_segments_go_after_a_while_and_all_with_the_last_vm)
{
	cleanup(store_free_p) struct store *s = store_with((struct store_config){.evacuate_after_ns = 100});
	cleanup(peer_done) struct peer a, b;
	uint32_t g, h;
	int fd;

	peer_init(&a, s);
	peer_init(&b, s);
	g = peer_donate(&a, (uint64_t[]){1}, 1);
	h = peer_donate(&a, (uint64_t[]){2}, 1);
	assert_int_equal(store_refs(a.client, g, 0, 1, 1), 0);
	store_tick(s, 1000);
	store_tick(s, 1099);
	assert_int_equal(store_refs(a.client, h, 0, 1, 1), 0);
	assert_int_equal(store_refs(a.client, h, 0, 1, -1), 0);
	assert_int_equal(stats_of(s).segments, 2);
	assert_in_range(store_tick(s, 1100), 1101, 1200);
	assert_int_equal(stats_of(s).segments, 1);
	assert_int_equal(peer_submit(&b, 0, 1).kind, STORE_FOUND);
	assert_int_equal(peer_submit(&b, 1, 2).kind, STORE_UNIQUE);
	assert_int_equal(store_fetch(b.client, h, &fd), -ENOENT);
	assert_int_equal(store_refs(b.client, h, 0, 1, 1), -ENOENT);
	assert_int_equal(segment_fds(), 1);
	store_client_free(TAKE_PTR(a.client));
	assert_int_equal(segment_fds(), 1);
	store_client_free(TAKE_PTR(b.client));
	assert_int_equal(segment_fds(), 0);
	assert_int_equal(stats_of(s).segments, 0);
	assert_int_equal(stats_of(s).records, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_twin_is_wanted_donated_and_found),
		cmocka_unit_test(twins_within_a_batch_of_one_client),
		cmocka_unit_test(what_was_written_since_is_no_twin),
		cmocka_unit_test(runs_of_a_pattern),
		cmocka_unit_test(broken_promises_pass_on),
		cmocka_unit_test(who_has_it_no_more_is_not_asked),
		cmocka_unit_test(full_batches_count_as_one_submission),
		cmocka_unit_test(promises_end_with_time_and_with_their_client),
		cmocka_unit_test(who_leaves_is_forgotten),
		cmocka_unit_test(events_without_room_come_later),
		cmocka_unit_test(a_page_with_many_mappings_gets_a_copy),
		cmocka_unit_test(references),
		cmocka_unit_test(references_without_end),
		cmocka_unit_test(wrong_calls),
		cmocka_unit_test(loans_that_are_not_as_lent),
		cmocka_unit_test(pages_are_charged_to_the_lender),
		cmocka_unit_test(the_same_file_has_the_same_number),
		cmocka_unit_test(forged_keys),
		cmocka_unit_test(unused_segments_go_after_a_while_and_all_with_the_last_vm),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
