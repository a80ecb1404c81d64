/* SPDX-License-Identifier: Apache-2.0 */
/* The memory agent on replayed memory, with a fake store: what can be shared is, what must not be is not, and every
 * byte stays what it was. */
#include "ksm/agent.h"

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

static void guest_close(struct guest *g)
{
	assert_true(replay_memory_verify(g->m, GFN(0), FRAMES));
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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(twins_of_two_guests_are_shared),
	};

	return TEST_RUN(tests);
}
