/* SPDX-License-Identifier: Apache-2.0 */
/* The memory agent on replayed memory, with a fake store: what can be shared is, what must not be is not, and every
 * byte stays what it was. */
#include "ksm/agent.h"

#include <poll.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "ksm/replay-memory.h"
#include "tests/unit/fake-link.h"

#define FRAMES	  8192u
#define POOL_SEED 7u

/* A VM: memory, agent, link. */
struct guest {
	struct replay_memory *m;
	struct fake_link *link;
	struct agent *agent;
};

static int guest_watch(void *ctx, hva_t start, uint64_t bytes)
{
	return agent_watch(ctx, start, bytes);
}

static void guest_discarded(void *ctx, gfn_t first, uint64_t frames)
{
	agent_discarded(ctx, first, frames);
}

static void guest_open_with(struct guest *g, struct fake_store *s, const struct replay_run *runs,
			    size_t count, uint64_t seed, struct agent_config c)
{
	const struct replay_spec spec = {
		.seed = seed, .pool_seed = POOL_SEED, .pool_pages = 4096, .runs = runs, .count = count};
	const struct agent_range range = {GFN(0), FRAMES};
	struct replay_watcher w = {guest_watch, guest_discarded, NULL};
	struct errmsg err = {0};
	int r;

	assert_int_equal(replay_memory_new(FRAMES, &spec, &g->m), 0);
	g->link = fake_link_new(s, FRAMES);
	c.view = replay_memory_view(g->m);
	c.ranges = &range;
	c.range_count = 1;
	c.link = &g->link->base;
	c.recorded = g->link->recorded;
	c.key_mask = s->key_mask;
	r = agent_new(&c, &err, &g->agent);
	if (r == -ENOTSUP)
		TEST_SKIP(err.text);
	assert_int_equal(r, 0);
	w.ctx = g->agent;
	replay_memory_watch_by(g->m, &w);
	assert_int_equal(agent_start(g->agent), 0);
}

static void guest_open(struct guest *g, struct fake_store *s, const struct replay_run *runs, size_t count,
		       uint64_t seed)
{
	guest_open_with(g, s, runs, count, seed, (struct agent_config){.manual = true});
}

static void verify_work(void *arg)
{
	assert_true(replay_memory_verify(arg, GFN(0), FRAMES));
}

static void guest_close(struct guest *g)
{
	/* The agent may be at work. */
	assert_int_equal(hold_call(replay_memory_hold(g->m), verify_work, g->m), 0);
	replay_memory_watch_by(g->m, NULL);
	agent_free(g->agent);
	assert_true(replay_memory_verify(g->m, GFN(0), FRAMES));
	replay_memory_free(g->m);
}

static struct agent_merge_result merge(struct guest *g)
{
	struct agent_merge_result res = {0};

	assert_int_equal(agent_merge(g->agent, 20000, &res), 0);
	assert_true(res.settled);
	assert_true(replay_memory_verify(g->m, GFN(0), FRAMES));
	return res;
}

static struct agent_stats stats(struct guest *g)
{
	struct agent_stats s;

	agent_stats(g->agent, &s);
	return s;
}

TEST(twins_of_two_guests_are_shared)
{
	const struct replay_run runs[] = {
		{REPLAY_COPY, 4096}, {REPLAY_UNIQUE, 2048}, {REPLAY_ZERO, 1024}, {REPLAY_FILL, 1024}};
	struct fake_store *s = fake_store_new(0);
	struct guest a, b;

	guest_open(&a, s, runs, 4, 1);
	guest_open(&b, s, runs, 4, 2);
	merge(&a);
	/* Its own pattern alone. */
	assert_int_equal(stats(&a).frames[PAGE_STATE_SHARED], 1024);
	assert_int_equal(stats(&a).frames[PAGE_STATE_CANDIDATE], 4096 + 2048);
	assert_int_equal(stats(&a).frames[PAGE_STATE_DROPPED], 1024);
	merge(&b);
	merge(&a);
	for (struct guest *g = &a;; g = &b) {
		assert_int_equal(stats(g).frames[PAGE_STATE_SHARED], 4096 + 1024);
		assert_int_equal(stats(g).frames[PAGE_STATE_CANDIDATE], 2048);
		assert_int_equal(stats(g).frames[PAGE_STATE_VOLATILE], 0);
		assert_in_range(stats(g).extents, 1, 16);
		if (g == &b)
			break;
	}
	assert_int_equal(fake_refs_all(s), 2 * (4096 + 1024));
	guest_close(&a);
	guest_close(&b);
	fake_store_free(s);
}

static unsigned resident(struct guest *g, uint64_t first, unsigned frames)
{
	static unsigned char in_core[FRAMES];
	unsigned n = 0;

	assert_int_equal(mincore(replay_memory_at(g->m, GFN(first)), frames * PAGE_BYTES, in_core), 0);
	for (unsigned i = 0; i < frames; i++)
		n += in_core[i] & 1;
	return n;
}

static void write_numbers(struct guest *g, uint64_t first, unsigned frames, uint64_t number)
{
	for (unsigned i = 0; i < frames; i++)
		assert_true(replay_memory_write(g->m, GFN(first + i), number ? number + i : 0));
}

static struct agent_merge_result merge_unread(struct guest *g)
{
	struct agent_merge_result res = {0};

	assert_int_equal(agent_merge(g->agent, 20000, &res), 0);
	return res;
}

TEST(zero_pages_are_given_back)
{
	const struct replay_run runs[] = {{REPLAY_UNIQUE, FRAMES}};
	struct fake_store *s = fake_store_new(0);
	struct guest g;
	struct agent_merge_result res;

	guest_open(&g, s, runs, 1, 1);
	write_numbers(&g, 100, 1000, 0);
	write_numbers(&g, 2000, 1, 0);
	/* A border of mappings in the middle of it. */
	assert_int_equal(madvise(replay_memory_at(g.m, GFN(555)), PAGE_BYTES, MADV_DODUMP), 0);
	res = merge_unread(&g);
	assert_int_equal(res.pages_zeroed, 1001);
	assert_int_equal(resident(&g, 0, FRAMES), FRAMES - 1001);
	assert_int_equal(stats(&g).frames[PAGE_STATE_DROPPED], 1001);
	/* Touched again, and given back again. */
	write_numbers(&g, 200, 10, 77 | (uint64_t)1 << 63);
	merge_unread(&g);
	assert_int_equal(stats(&g).frames[PAGE_STATE_DROPPED], 991);
	write_numbers(&g, 200, 10, 0);
	assert_int_equal(merge_unread(&g).pages_zeroed, 10);
	assert_int_equal(stats(&g).moves[PAGE_STATE_DROPPED][PAGE_STATE_VOLATILE], 10);
	guest_close(&g);
	fake_store_free(s);
}

TEST(zero_pages_are_kept_on_demand)
{
	const struct replay_run runs[] = {{REPLAY_UNIQUE, FRAMES}};
	struct fake_store *s = fake_store_new(0);
	struct guest g;

	guest_open_with(&g, s, runs, 1, 1, (struct agent_config){.manual = true, .keep_zero = true});
	write_numbers(&g, 100, 1000, 0);
	assert_int_equal(merge_unread(&g).pages_zeroed, 0);
	assert_int_equal(resident(&g, 0, FRAMES), FRAMES);
	assert_int_equal(s->submitted, FRAMES - 1000); /* nor is the store told */
	guest_close(&g);
	fake_store_free(s);
}

/* Two guests with the same 4096 pages of the pool in front, shared. */
static void two_open(struct guest *a, struct guest *b, struct fake_store *s)
{
	static const struct replay_run runs[] = {{REPLAY_COPY, 4096}, {REPLAY_UNIQUE, 4096}};

	guest_open(a, s, runs, 2, 1);
	guest_open(b, s, runs, 2, 2);
	merge(a);
	merge(b);
	merge(a);
	assert_int_equal(stats(a).frames[PAGE_STATE_SHARED], 4096);
	assert_int_equal(fake_refs_all(s), 2 * 4096);
}

static void two_close(struct guest *a, struct guest *b, struct fake_store *s)
{
	guest_close(a);
	guest_close(b);
	fake_store_free(s);
}

TEST(what_is_written_is_found_taken_back_and_shared_again)
{
	struct fake_store *s = fake_store_new(0);
	struct guest a, b;

	two_open(&a, &b, s);
	/* A few here and there stay copies; a run is taken back. */
	for (unsigned i = 0; i < 5; i++)
		assert_true(replay_memory_write_word(a.m, GFN(3000 + 100 * i), 3, 4711 + i));
	for (unsigned i = 0; i < 40; i++)
		assert_true(replay_memory_write_word(a.m, GFN(1000 + i), 3, 4711 + i));
	merge(&a);
	assert_int_equal(stats(&a).broken, 45);
	assert_int_equal(stats(&a).retaken, 40);
	assert_int_equal(stats(&a).frames[PAGE_STATE_SHARED], 4096 - 45);
	assert_int_equal(stats(&a).frames[PAGE_STATE_VOLATILE], 5);
	assert_int_equal(fake_refs_all(s), 2 * 4096 - 45);
	for (unsigned i = 0; i < 40; i++)
		assert_true(replay_memory_restore(a.m, GFN(1000 + i)));
	merge(&a);
	assert_int_equal(stats(&a).frames[PAGE_STATE_SHARED], 4096 - 5);
	assert_int_equal(fake_refs_all(s), 2 * 4096 - 5);
	two_close(&a, &b, s);
}

TEST(extents_that_are_mostly_copies_are_taken_back_whole)
{
	struct fake_store *s = fake_store_new(0);
	struct guest a, b;

	two_open(&a, &b, s);
	for (unsigned i = 0; i < 4096; i += 2) /* no run of 16 */
		assert_true(replay_memory_write_word(a.m, GFN(i), 3, 4711 + i));
	/* At most 1,024 per pass. */
	for (unsigned i = 0; i < 8; i++)
		merge(&a);
	assert_in_range(stats(&a).retaken, 2048, 4096);
	for (unsigned i = 0; i < 4096; i += 2)
		assert_true(replay_memory_restore(a.m, GFN(i)));
	merge(&a);
	assert_int_equal(stats(&a).frames[PAGE_STATE_SHARED], 4096);
	two_close(&a, &b, s);
}

TEST(discards_leave_the_store)
{
	struct fake_store *s = fake_store_new(0);
	struct guest a, b;

	two_open(&a, &b, s);
	assert_int_equal(replay_memory_discard(a.m, GFN(100), 300), 0);
	assert_int_equal(replay_memory_discard(a.m, GFN(4096), 100), 0);
	/* Some of it is filled again, some before, some after the agent looks. */
	write_numbers(&a, 150, 10, 5 | (uint64_t)1 << 63);
	merge_unread(&a);
	assert_int_equal(stats(&a).frames[PAGE_STATE_GIVEN], 300 - 10 + 100);
	assert_int_equal(stats(&a).frames[PAGE_STATE_SHARED], 4096 - 300);
	assert_int_equal(fake_refs_all(s), 2 * 4096 - 300);
	for (unsigned i = 0; i < 300; i++)
		assert_true(replay_memory_restore(a.m, GFN(100 + i)));
	merge(&a);
	assert_int_equal(stats(&a).frames[PAGE_STATE_SHARED], 4096);
	assert_int_equal(fake_refs_all(s), 2 * 4096);
	two_close(&a, &b, s);
}

/* What is written is read anew: nothing else would find that it has a twin now. */
TEST(candidates_that_change_are_read_again)
{
	static const struct replay_run unique[] = {{REPLAY_UNIQUE, FRAMES}};
	struct fake_store *s = fake_store_new(0);
	struct guest g;

	guest_open(&g, s, unique, 1, 1);
	merge(&g);
	assert_int_equal(stats(&g).frames[PAGE_STATE_CANDIDATE], FRAMES);
	write_numbers(&g, 100, 50, (uint64_t)1 << 63);
	write_numbers(&g, 1100, 50, (uint64_t)1 << 63);
	merge(&g);
	merge(&g);
	assert_int_equal(stats(&g).frames[PAGE_STATE_SHARED], 100);
	guest_close(&g);
	fake_store_free(s);
}

/* Keys of 4 bits: nearly every answer of the store is wrong. */
TEST(weak_keys_merge_no_different_pages)
{
	const struct replay_run runs[] = {
		{REPLAY_COPY, 1024}, {REPLAY_UNIQUE, 1024}, {REPLAY_ZERO, 64}, {REPLAY_FILL, 64}};
	struct fake_store *s = fake_store_new(0xf);
	struct guest a, b;

	guest_open(&a, s, runs, 4, 1);
	guest_open(&b, s, runs, 4, 2);
	for (unsigned i = 0; i < 3; i++) {
		merge(&a);
		merge(&b);
	}
	assert_true(stats(&a).apply.extents[EXTENT_DIFFERENT] > 0);
	two_close(&a, &b, s);
}

TEST(io_in_flight_is_left_alone)
{
	static const struct replay_run runs[] = {{REPLAY_COPY, 4096}, {REPLAY_UNIQUE, 4096}};
	struct fake_store *s = fake_store_new(0);
	struct guest a, b;

	guest_open(&a, s, runs, 2, 1);
	guest_open(&b, s, runs, 2, 2);
	assert_int_equal(in_flight_enter(replay_memory_in_flight(a.m), GFN(160), 1), 0);
	merge(&a);
	merge(&b);
	merge(&a);
	assert_int_equal(stats(&a).frames[PAGE_STATE_SHARED], 4096 - 16);
	assert_int_equal(stats(&a).frames[PAGE_STATE_VOLATILE], 16);
	in_flight_leave(replay_memory_in_flight(a.m), GFN(160), 1);
	merge(&b);
	merge(&a);
	assert_int_equal(stats(&a).frames[PAGE_STATE_SHARED], 4096);
	two_close(&a, &b, s);
}

TEST(borders_of_mappings_cost_no_sharing)
{
	static const struct replay_run runs[] = {{REPLAY_COPY, 4096}, {REPLAY_UNIQUE, 4096}};
	struct fake_store *s = fake_store_new(0);
	struct guest a, b;

	guest_open(&a, s, runs, 2, 1);
	guest_open(&b, s, runs, 2, 2);
	for (unsigned i = 100; i < 4096; i += 333)
		assert_int_equal(madvise(replay_memory_at(b.m, GFN(i)), 7 * PAGE_BYTES, MADV_DODUMP), 0);
	merge(&a);
	merge(&b);
	assert_int_equal(stats(&b).frames[PAGE_STATE_SHARED], 4096);
	assert_true(stats(&b).apply.extents[EXTENT_SEVERAL] > 0);
	two_close(&a, &b, s);
}

TEST(patterns_are_mapped_in_long_runs)
{
	const struct replay_run runs[] = {{REPLAY_UNIQUE, 1024}, {REPLAY_FILL, 1024}, {REPLAY_UNIQUE, 63}};
	struct fake_store *s = fake_store_new(0);
	struct guest g;

	guest_open(&g, s, runs, 2, 1);
	merge(&g);
	merge(&g);
	assert_int_equal(stats(&g).frames[PAGE_STATE_SHARED], 4 * 1024);
	assert_in_range(stats(&g).extents, 8, 16);
	assert_in_range(s->offered_pages, 512, 2048);
	guest_close(&g);
	fake_store_free(s);
}

TEST(what_the_store_forgot_is_said_again)
{
	struct fake_store *s = fake_store_new(0);
	struct guest a, b;
	uint64_t before;

	two_open(&a, &b, s);
	before = s->submitted;
	merge(&a);
	assert_int_equal(s->submitted, before);
	pthread_mutex_lock(&s->mutex);
	fake_event(a.link, (struct store_event){.kind = STORE_EVENT_RESET});
	pthread_mutex_unlock(&s->mutex);
	merge(&a);
	assert_int_equal(s->submitted, before + 4096); /* all but what is shared */
	two_close(&a, &b, s);
}

/* Copies a segment; @damage changes every 100th page. */
static uint32_t copy_segment(struct guest *g, struct fake_store *s, uint32_t from, bool damage)
{
	uint8_t page[PAGE_BYTES];
	struct segment *copy;
	uint32_t to, at;

	assert_int_equal(segment_new(s->views[from].pages, &copy), 0);
	for (uint32_t i = 0; i < s->views[from].pages; i++) {
		memcpy(page, s->views[from].bytes + i * PAGE_BYTES, PAGE_BYTES);
		page[4000] ^= damage && i % 100 == 50;
		assert_int_equal(segment_append(copy, page, 1, &at), 0);
	}
	assert_int_equal(fake_offer(&g->link->base, copy, &to), 0);
	return to;
}

static int64_t refs_of(const struct fake_store *s, uint32_t segment)
{
	int64_t n = 0;

	for (unsigned i = 0; i < SEGMENT_PAGES; i++)
		n += s->refs[segment][i];
	return n;
}

static void tell_move(struct guest *g, struct fake_store *s, uint32_t from, uint32_t to)
{
	pthread_mutex_lock(&s->mutex);
	fake_event(g->link, (struct store_event){.kind = STORE_EVENT_MOVE,
						 .segment = from,
						 .page = 10,
						 .run = 400,
						 .to_segment = to,
						 .to_page = 10});
	pthread_mutex_unlock(&s->mutex);
}

TEST(extents_move_within_the_store)
{
	struct fake_store *s = fake_store_new(0);
	struct guest a, b;
	uint32_t to, bad;

	two_open(&a, &b, s);
	assert_int_equal(refs_of(s, 0), 2 * SEGMENT_PAGES);
	to = copy_segment(&a, s, 0, false);
	bad = copy_segment(&a, s, 0, true);
	assert_true(replay_memory_write_word(a.m, GFN(20), 3, 4711));
	tell_move(&a, s, 0, to);
	merge(&a);
	assert_int_equal(refs_of(s, to), 399);
	assert_int_equal(refs_of(s, 0), 2 * SEGMENT_PAGES - 400);
	assert_int_equal(stats(&a).frames[PAGE_STATE_SHARED], 4095);
	/* What only claims to be equal is not taken: page 50 of it is not, and frame 20 parts two extents. */
	tell_move(&a, s, to, bad);
	merge(&a);
	assert_int_equal(refs_of(s, bad), 10);
	two_close(&a, &b, s);
}

TEST(a_reboot_starts_anew)
{
	struct fake_store *s = fake_store_new(0);
	struct agent_merge_result res;
	struct guest a, b;

	two_open(&a, &b, s);
	agent_suspend(a.agent);
	assert_int_equal(agent_merge(a.agent, 1000, &res), -EBUSY);
	assert_int_equal(replay_memory_discard(a.m, GFN(0), FRAMES), 0);
	for (unsigned i = 0; i < 2048; i++)
		assert_true(replay_memory_restore(a.m, GFN(i)));
	assert_int_equal(agent_resume(a.agent, true), 0);
	merge_unread(&a);
	assert_int_equal(stats(&a).frames[PAGE_STATE_SHARED], 2048);
	assert_int_equal(fake_refs_all(s), 4096 + 2048);
	two_close(&a, &b, s);
}

struct merging {
	struct guest *g;
	int result;
};

static void *merge_main(void *arg)
{
	struct merging *m = arg;
	struct agent_merge_result res;

	m->result = agent_merge(m->g->agent, 20000, &res);
	return NULL;
}

TEST(merges_queue_up)
{
	struct fake_store *s = fake_store_new(0);
	struct merging m[3];
	pthread_t threads[3];
	struct guest a, b;

	two_open(&a, &b, s);
	for (unsigned i = 0; i < 3; i++) {
		m[i] = (struct merging){&a, 1};
		assert_int_equal(pthread_create(&threads[i], NULL, merge_main, &m[i]), 0);
	}
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(pthread_join(threads[i], NULL), 0);
		assert_int_equal(m[i].result, 0);
	}
	two_close(&a, &b, s);
}

static bool until(bool (*good)(struct guest *g), struct guest *g)
{
	uint64_t end = clock_now_ns() + 20000000000u;

	while (!good(g)) {
		if (clock_now_ns() > end)
			return false;
		poll(NULL, 0, 1);
	}
	return true;
}

static bool half_is_shared(struct guest *g)
{
	return stats(g).frames[PAGE_STATE_SHARED] == 4096;
}

TEST(by_itself_it_shares_soon)
{
	static const struct replay_run runs[] = {{REPLAY_COPY, 4096}, {REPLAY_UNIQUE, 4096}};
	const struct agent_config c = {.interval_ms = 0};
	struct fake_store *s = fake_store_new(0);
	struct guest a, b;

	guest_open_with(&a, s, runs, 2, 1, c);
	guest_open_with(&b, s, runs, 2, 2, c);
	assert_true(until(half_is_shared, &a) && until(half_is_shared, &b));
	two_close(&a, &b, s);
}

static bool many_passes(struct guest *g)
{
	return stats(g).passes > 40;
}

/* Written between any two passes: soon it is not protected any more, but for now and then. */
static bool one_is_hot(struct guest *g)
{
	static uint64_t n;

	hold_join(replay_memory_hold(g->m));
	for (unsigned i = 0; i < 512; i++) {
		hold_attend(replay_memory_hold(g->m));
		assert_true(replay_memory_write_word(g->m, GFN(512 + i), 3, ++n));
	}
	hold_leave(replay_memory_hold(g->m));
	return stats(g).hot_blocks == 1 && stats(g).passes > 20;
}

TEST(hot_blocks_are_left_alone)
{
	const struct replay_run runs[] = {{REPLAY_UNIQUE, FRAMES}};
	const struct agent_config c = {.interval_ms = 20};
	struct fake_store *s = fake_store_new(0);
	struct guest g;

	guest_open_with(&g, s, runs, 1, 1, c);
	assert_true(until(one_is_hot, &g));
	assert_true(until(many_passes, &g));
	guest_close(&g);
	fake_store_free(s);
}

TEST(bad_ranges_are_refused)
{
	struct fake_store *s = fake_store_new(0);
	const struct agent_range bad[][2] = {
		{{GFN(0), 0}, {GFN(10), 1}},
		{{GFN(0), 10}, {GFN(9), 1}},
		{{GFN(0), 1}, {GFN(STORE_FRAMES_MAX), 2}},
		{{GFN(0), FRAMES + 1}, {GFN(2 * FRAMES), 1}}, /* not RAM */
	};
	const struct replay_run run = {REPLAY_UNIQUE, 16};
	const struct replay_spec spec = {.seed = 1, .runs = &run, .count = 1};
	struct replay_memory *m;

	assert_int_equal(replay_memory_new(FRAMES, &spec, &m), 0);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct fake_link *l = fake_link_new(s, FRAMES);
		struct agent_config c = {.view = replay_memory_view(m),
					 .ranges = bad[i],
					 .range_count = 2,
					 .link = &l->base,
					 .recorded = l->recorded};
		struct agent *a = NULL;
		int r = agent_new(&c, NULL, &a);

		if (r == -ENOTSUP)
			TEST_SKIP("no write tracker");
		assert_int_equal(r, i < 3 ? -EINVAL : -EFAULT);
		assert_null(a);
	}
	replay_memory_free(m);
	fake_store_free(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(twins_of_two_guests_are_shared),
		cmocka_unit_test(zero_pages_are_given_back),
		cmocka_unit_test(zero_pages_are_kept_on_demand),
		cmocka_unit_test(what_is_written_is_found_taken_back_and_shared_again),
		cmocka_unit_test(extents_that_are_mostly_copies_are_taken_back_whole),
		cmocka_unit_test(discards_leave_the_store),
		cmocka_unit_test(candidates_that_change_are_read_again),
		cmocka_unit_test(weak_keys_merge_no_different_pages),
		cmocka_unit_test(io_in_flight_is_left_alone),
		cmocka_unit_test(borders_of_mappings_cost_no_sharing),
		cmocka_unit_test(patterns_are_mapped_in_long_runs),
		cmocka_unit_test(what_the_store_forgot_is_said_again),
		cmocka_unit_test(extents_move_within_the_store),
		cmocka_unit_test(a_reboot_starts_anew),
		cmocka_unit_test(merges_queue_up),
		cmocka_unit_test(by_itself_it_shares_soon),
		cmocka_unit_test(hot_blocks_are_left_alone),
		cmocka_unit_test(bad_ranges_are_refused),
	};

	return TEST_RUN(tests);
}
