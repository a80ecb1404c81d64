/* SPDX-License-Identifier: Apache-2.0 */
/* Whichever allocation, mapping or other system call of a memory agent and its store fails: the guest reads what it wrote,
 * nothing leaks, and the agent goes on. */
#include <errno.h>
#include <poll.h>
#include <string.h>

#include "base/clock.h"
#include "ksm/agent.h"
#include "ksm/replay-memory.h"
#include "ksm/store.h"
#include "tests/fault/fault.h"
#include "tests/unit/test.h"

#define CALLS_MAX 3000u
#define FRAMES	  1024u
#define PASSES	  6u

struct guest {
	struct replay_memory *m;
	struct agent *agent;
};

static void verify_work(void *arg)
{
	(void)replay_memory_verify(arg, GFN(0), FRAMES);
}

static void assert_right(struct guest *g, unsigned nth, const char *failed)
{
	assert_int_equal(hold_call(replay_memory_hold(g->m), verify_work, g->m), 0);
	if (replay_memory_wrong(g->m) != UINT64_MAX)
		fail_msg("call %u, %s: frame %llu reads wrong", nth, failed,
			 (unsigned long long)replay_memory_wrong(g->m));
}

static void passes(struct guest *g)
{
	uint64_t end = clock_now_ns() + 20000000000u, want;
	struct agent_stats s;

	agent_stats(g->agent, &s);
	for (want = s.passes + PASSES; s.passes < want; agent_stats(g->agent, &s)) {
		assert_true(clock_now_ns() < end);
		poll(NULL, 0, 1);
	}
}

static int guest_watch(void *ctx, hva_t start, uint64_t bytes)
{
	return agent_watch(ctx, start, bytes);
}

static void guest_discarded(void *ctx, gfn_t first, uint64_t frames)
{
	agent_discarded(ctx, first, frames);
}

/* Twice the same 256 pages, zero pages, and others. */
static struct replay_memory *memory(void)
{
	static const struct replay_run runs[] = {
		{REPLAY_COPY, 256}, {REPLAY_COPY, 256}, {REPLAY_UNIQUE, 512}};
	const struct replay_spec spec = {
		.seed = 1, .pool_seed = 3, .pool_pages = 256, .runs = runs, .count = 3};
	struct replay_memory *m;

	assert_int_equal(replay_memory_new(FRAMES, &spec, &m), 0);
	for (unsigned i = 600; i < 700; i++)
		assert_true(replay_memory_write(m, GFN(i), 0));
	return m;
}

/* The store's own beginning is another test's. */
static int agent_open(struct guest *g, unsigned nth, struct errmsg *err)
{
	const struct agent_range range = {GFN(0), FRAMES};
	const struct store_link_config link = {.frames = FRAMES, .vm_name = "fault"};
	struct agent_config c = {.ranges = &range, .range_count = 1, .interval_ms = 1};
	int r;

	assert_int_equal(store_link_local_new(&link, err, &c.recorded, &c.link), 0);
	fault_arm(nth);
	c.view = replay_memory_view(g->m);
	r = agent_new(&c, err, &g->agent);
	return r < 0 ? r : agent_start(g->agent);
}

/* What is shared is written, here and there and in one piece, and some of it given back. */
static void scenario(struct guest *g)
{
	struct hold *hold = replay_memory_hold(g->m);
	struct replay_watcher w = {guest_watch, guest_discarded, g->agent};
	unsigned paused;

	passes(g);
	hold_join(hold);
	for (unsigned i = 0; i < 40; i++) {
		hold_attend(hold);
		(void)replay_memory_write_word(g->m, GFN(i < 32 ? i : 7 * i), 3, i + 1);
	}
	replay_memory_watch_by(g->m, &w);
	paused = fault_pause(); /* the guest's own calls do not count */
	assert_int_equal(replay_memory_discard(g->m, GFN(300), 20), 0);
	fault_go_on(paused);
	replay_memory_watch_by(g->m, NULL);
	hold_leave(hold);
	passes(g);
}

/* False when the n-th call was never made. */
static bool attempt(unsigned nth)
{
	struct guest g = {memory(), NULL};
	unsigned fds = fault_open_fds();
	struct errmsg err = {0};
	struct agent_stats s = {0};
	const char *failed;
	int r;

	r = agent_open(&g, nth, &err);
	if (r == -ENOTSUP && nth == 0) {
		replay_memory_free(g.m);
		TEST_SKIP(err.text);
	}
	if (r == 0)
		scenario(&g);
	failed = fault_disarm();
	assert_right(&g, nth, failed);
	if (r == 0) {
		passes(&g);
		agent_stats(g.agent, &s);
		assert_int_equal(s.apply.extents[EXTENT_LOST], 0);
	}
	if (nth == 0) {
		assert_int_equal(r, 0);
		/* What was discarded is shared no more, what was written in a run was taken back. */
		assert_in_range(s.extent_pages, 400, 512 - 20 - 32);
		assert_true(s.zeroed >= 100 && s.retaken >= 32 && s.errors == 0);
	}
	agent_free(g.agent);
	assert_right(&g, nth, failed);
	if (fault_open_fds() != fds)
		fail_msg("call %u, %s: descriptors leak", nth, failed);
	replay_memory_free(g.m);
	return failed != NULL;
}

TEST(every_call)
{
	unsigned nth = 1;

	assert_false(attempt(0));
	while (nth < CALLS_MAX && attempt(nth))
		nth++;
	print_message("%u calls\n", nth - 1);
	assert_in_range(nth, 100, CALLS_MAX - 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(every_call)};

	return TEST_RUN(tests);
}
