/* SPDX-License-Identifier: Apache-2.0 */
/* The link to a store inside the process: what an agent gets through it, and that nothing stays behind. */
#include "ksm/store-link.h"

#include "tests/unit/store_fixture.h"

#define FRAMES 40000u

struct told {
	struct store_event *events;
	size_t count, stop_at; /* stop_at: take no more than that */
};

static bool take(void *ctx, const struct store_event *event)
{
	struct told *t = ctx;

	t->events[t->count++] = *event;
	return t->count < t->stop_at;
}

struct bench {
	struct store_link *link;
	_Atomic uint64_t *recorded;
	struct told told;
};

static void bench_init(struct bench *b)
{
	struct store_link_config config = {.frames = FRAMES, .vm_name = "vm"};

	memset(b, 0, sizeof(*b));
	assert_int_equal(store_link_local_new(&config, NULL, &b->recorded, &b->link), 0);
	b->told.events = calloc(FRAMES, sizeof(*b->told.events));
	b->told.stop_at = FRAMES;
	assert_non_null(b->told.events);
}

static void bench_done(struct bench *b)
{
	store_link_free(b->link);
	free(b->told.events);
}

static uint32_t donate(struct store_link *l, const uint64_t *contents, uint32_t count)
{
	struct segment *s = NULL;
	uint8_t page[PAGE_BYTES];
	uint32_t segment = 0, at;

	assert_int_equal(l->ops->lend(l, count, &s), 0);
	assert_int_equal(segment_room(s), count);
	for (uint32_t i = 0; i < count; i++) {
		content_write(page, contents[i]);
		assert_int_equal(segment_append(s, page, 1, &at), 0);
	}
	assert_int_equal(l->ops->offer(l, s, &segment), 0);
	return segment;
}

TEST(donate_and_view)
{
	cleanup(bench_done) struct bench b;
	const struct segment_view *view, *again;
	uint8_t page[PAGE_BYTES];
	uint32_t g, first = 0;

	bench_init(&b);
	assert_string_equal(b.link->ops->name(b.link), "local");
	g = donate(b.link, (uint64_t[]){1, 2}, 2);
	assert_int_equal(b.link->ops->view(b.link, g, &view), 0);
	assert_int_equal(view->pages, 2);
	content_write(page, 2);
	assert_memory_equal(view->bytes + PAGE_BYTES, page, PAGE_BYTES);
	assert_int_equal(b.link->ops->view(b.link, g, &again), 0);
	assert_ptr_equal(view, again);
	assert_int_equal(b.link->ops->view(b.link, 0, &again), -ENOENT);
	assert_int_equal(b.link->ops->view(b.link, g + 1, &again), -ENOENT);
	assert_int_equal(b.link->ops->refs(b.link, g, 0, 2, 1), 0);
	assert_int_equal(b.link->ops->refs(b.link, g, 0, 3, 1), -EINVAL);
	assert_int_equal(b.link->ops->refs(b.link, g, 0, 2, -1), 0);
	/* More views than are kept. */
	for (uint64_t i = 10; i < 40; i++) {
		uint32_t n = donate(b.link, &i, 1);

		assert_int_equal(b.link->ops->view(b.link, n, &view), 0);
		content_write(page, i);
		assert_memory_equal(view->bytes, page, PAGE_BYTES);
		first = first ? first : n;
	}
	assert_int_equal(b.link->ops->view(b.link, first, &view), 0);
	content_write(page, 10);
	assert_memory_equal(view->bytes, page, PAGE_BYTES);
}

/* More records than a batch, and more events than the queue has room for. */
TEST(any_number_of_records_and_events)
{
	cleanup(bench_done) struct bench b;
	auto_free struct store_record *recs = calloc(FRAMES, sizeof(*recs));
	auto_free struct store_answer *answers = calloc(FRAMES, sizeof(*answers));
	auto_free bool *seen = calloc(FRAMES, sizeof(*seen));
	size_t before = 0;

	bench_init(&b);
	for (uint32_t i = 0; i < FRAMES; i++) {
		recs[i] = (struct store_record){.key = content_key(FILL), .frame = i};
		b.recorded[i / 64] |= (uint64_t)1 << i % 64;
	}
	assert_int_equal(b.link->ops->submit(b.link, recs, FRAMES, answers), 0);
	assert_int_equal(answers[0].kind, STORE_UNIQUE);
	assert_int_equal(answers[1].kind, STORE_WANTED);
	for (uint32_t i = 2; i < FRAMES; i++)
		assert_int_equal(answers[i].kind, STORE_WAIT);
	donate(b.link, (uint64_t[]){FILL, FILL, FILL}, 3);
	b.told.stop_at = 100;
	assert_int_equal(b.link->ops->events(b.link, take, &b.told), 0);
	assert_int_equal(b.told.count, 100);
	b.told.stop_at = FRAMES;
	while (b.told.count > before) {
		before = b.told.count;
		assert_int_equal(b.link->ops->events(b.link, take, &b.told), 0);
	}
	assert_int_equal(b.told.count, FRAMES - 1);
	for (uint32_t i = 0; i < FRAMES - 1; i++) {
		assert_int_equal(b.told.events[i].kind, STORE_EVENT_FOUND);
		assert_int_equal(b.told.events[i].run, 3);
		assert_false(seen[b.told.events[i].frame]);
		seen[b.told.events[i].frame] = true;
	}
	assert_int_equal(b.link->ops->submit(b.link, recs, 0, answers), 0);
}

TEST(offers_that_fail_end_the_loan)
{
	cleanup(bench_done) struct bench b;
	struct segment *s = NULL, *lent[17];
	uint8_t page[PAGE_BYTES] = {1};
	uint32_t g = 0, at;

	bench_init(&b);
	for (unsigned i = 0; i < 40; i++) {
		assert_int_equal(b.link->ops->lend(b.link, 4, &s), 0);
		assert_int_equal(b.link->ops->offer(b.link, s, &g), -EINVAL); /* empty */
	}
	assert_int_equal(g, 0);
	/* Not from here. */
	assert_int_equal(segment_new(1, &s), 0);
	assert_int_equal(b.link->ops->offer(b.link, s, &g), -EINVAL);
	assert_int_equal(b.link->ops->lend(b.link, 0, &s), -EINVAL);
	/* As many as there are; then the oldest ends. */
	for (unsigned i = 0; i < 17; i++)
		assert_int_equal(b.link->ops->lend(b.link, 4, &lent[i]), 0);
	for (unsigned i = 0; i < 17; i++) {
		assert_int_equal(segment_append(lent[i], page, 1, &at), 0);
		assert_int_equal(b.link->ops->offer(b.link, lent[i], &g), i ? 0 : -ENOENT);
	}
}

/* By an agent that could not fill them. */
TEST(segments_that_are_freed_end_their_loans)
{
	cleanup(bench_done) struct bench b;
	struct segment *s = NULL;
	uint64_t content = 5;

	bench_init(&b);
	for (unsigned i = 0; i < 100; i++) {
		assert_int_equal(b.link->ops->lend(b.link, 4, &s), 0);
		segment_free(s);
		donate(b.link, &content, 1);
	}
	assert_in_range(segment_fds(), 100, 100 + 16);
}

TEST(nothing_stays)
{
	struct bench b;
	const struct segment_view *view;
	unsigned fds = segment_fds();
	uint32_t g;

	bench_init(&b);
	g = donate(b.link, (uint64_t[]){1, 2}, 2);
	assert_int_equal(b.link->ops->refs(b.link, g, 0, 2, 1), 0);
	assert_int_equal(b.link->ops->view(b.link, g, &view), 0);
	assert_int_equal(segment_fds(), fds + 2);
	bench_done(&b);
	assert_int_equal(segment_fds(), fds);
}

TEST(wrong_sizes)
{
	struct store_link_config config = {.frames = 0};
	_Atomic uint64_t *recorded;
	struct store_link *link;
	struct errmsg err = {0};

	assert_int_equal(store_link_local_new(&config, &err, &recorded, &link), -EINVAL);
	assert_true(err.text[0]);
	config.frames = (uint64_t)STORE_FRAMES_MAX + 1;
	assert_int_equal(store_link_local_new(&config, &err, &recorded, &link), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(donate_and_view),
		cmocka_unit_test(any_number_of_records_and_events),
		cmocka_unit_test(offers_that_fail_end_the_loan),
		cmocka_unit_test(segments_that_are_freed_end_their_loans),
		cmocka_unit_test(nothing_stays),
		cmocka_unit_test(wrong_sizes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
