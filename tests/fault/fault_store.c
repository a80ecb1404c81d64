/* SPDX-License-Identifier: Apache-2.0 */
/* Whichever allocation or system call of a store fails: a clear error or less sharing, never a wrong answer; the next
 * attempt succeeds, nothing leaks, and nothing is left when the clients have gone. */
#include "tests/fault/fault.h"
#include "tests/unit/store_fixture.h"

#define CALLS_MAX 2000u
#define PAGES	  40u
#define GRACE	  100u

/* What went on; false means that a call failed with an error. */
static bool allowed(int r)
{
	return r == -ENOMEM || r == -EMFILE || r == -ENOSPC || r == -EIO || r == -EINVAL || r == -EPERM;
}

#define TRY(call)                                                                                            \
	do {                                                                                                 \
		int try_ = (call);                                                                           \
		if (try_ < 0) {                                                                              \
			if (!allowed(try_))                                                                  \
				fail_msg("%s: %d", #call, try_);                                             \
			return false;                                                                        \
		}                                                                                            \
	} while (0)

/* A segment from @first on; its number, or 0 with the loan ended. */
static int donate(struct peer *p, uint64_t first, uint32_t count, uint32_t *ret)
{
	struct segment *seg = NULL;
	uint8_t page[PAGE_BYTES];
	uint32_t loan = 0, at;
	int fd = -1, sealed = -1, r, e;

	*ret = 0;
	r = store_lend(p->client, count, &loan, &fd);
	if (r < 0)
		return r;
	r = segment_adopt_file(fd, count, &seg);
	if (r < 0)
		close(fd);
	for (uint32_t i = 0; r == 0 && i < count; i++) {
		content_write(page, first + i);
		r = segment_append(seg, page, 1, &at);
	}
	if (r == 0)
		r = segment_seal(seg, &sealed);
	if (sealed >= 0)
		close(sealed);
	segment_free(seg);
	e = store_offer(p->client, loan, ret);
	return r < 0 ? r : e;
}

static bool submit(struct peer *p, uint64_t first, uint32_t count)
{
	struct store_record recs[PAGES];
	struct store_answer answers[PAGES];

	for (uint32_t i = 0; i < count; i++) {
		recs[i] = (struct store_record){.key = content_key(first + i), .frame = i};
		peer_holds(p, i, true);
	}
	TRY(store_submit(p->client, recs, count, answers));
	return true;
}

/* Twins, more than one waits, a donation, references, a move, an adoption. */
static bool scenario(struct store *s, struct peer *a, struct peer *b, struct peer *c)
{
	uint32_t g, h;
	int fd = -1, r;

	if (!submit(a, 1, PAGES) || !submit(b, 1, PAGES) || !submit(c, 1, PAGES) || !submit(c, 1, PAGES))
		return false;
	TRY(donate(b, 1, PAGES, &g));
	TRY(store_refs(b->client, g, 0, PAGES, 1));
	TRY(store_refs(c->client, g, 30, 5, 1));
	TRY(store_refs(b->client, g, 0, PAGES, -1));
	TRY(store_refs(b->client, g, 0, 2, 1));
	TRY(store_fetch(c->client, g, &fd));
	r = store_adopt(a->client, fd, &h);
	close(fd);
	TRY(r);
	assert_int_equal(g, h);
	store_tick(s, 1000);
	store_tick(s, 1000 + GRACE);
	return true;
}

static bool attempt(unsigned nth)
{
	unsigned fds = fault_open_fds();
	struct peer a = {0}, b = {0}, c = {0};
	struct store_client_config config = {
		.frames = PEER_FRAMES, .event = peer_event, .recorded = a.recorded};
	struct peer *all[] = {&a, &b, &c};
	struct store *s = NULL;
	const char *failed;
	bool joined = true;

	for (unsigned i = 0; i < 3; i++) {
		all[i]->events = calloc(PEER_EVENTS, sizeof(*a.events));
		all[i]->room = PEER_EVENTS;
	}
	fault_arm(nth);
	if (store_new(&(struct store_config){.evacuate_after_ns = GRACE}, NULL, &s) < 0)
		s = NULL;
	for (unsigned i = 0; s && joined && i < 3; i++) {
		config.ctx = all[i];
		config.recorded = all[i]->recorded;
		joined = store_client_new(s, &config, &all[i]->client) == 0;
	}
	if (s && joined)
		scenario(s, &a, &b, &c);
	failed = fault_disarm();
	if (!s || !joined)
		assert_non_null(failed);
	if (s && joined) {
		struct store_stats st = stats_of(s);

		assert_true(st.dead_pages <= st.segment_pages && st.pages_saved <= st.mappings);
		/* And now without a failure: twins come together again. */
		store_tick(s, 1000 + 2 * GRACE);
		assert_true(submit(&a, 1000, 5) && submit(&b, 1000, 5));
		assert_int_equal(donate(&b, 1000, 5, &(uint32_t){0}), 0);
		assert_true(a.count >= 5);
		assert_int_equal(a.events[a.count - 1].kind, STORE_EVENT_FOUND);
	}
	for (unsigned i = 0; i < 3; i++)
		peer_done(all[i]);
	if (s) {
		assert_int_equal(stats_of(s).segments, 0);
		assert_int_equal(stats_of(s).records, 0);
	}
	store_free(s);
	if (fault_open_fds() != fds)
		fail_msg("call %u, %s: descriptors leak", nth, failed);
	return failed != NULL;
}

TEST(every_call)
{
	unsigned nth = 1;

	assert_false(attempt(0));
	while (nth < CALLS_MAX && attempt(nth))
		nth++;
	print_message("%u calls\n", nth - 1);
	assert_in_range(nth, 80, CALLS_MAX - 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_call),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
