/* SPDX-License-Identifier: Apache-2.0 */
/* Memory agents under fire: two, with one store, while writers and devices work on their guests' memory, discard and
 * refill it, and the store moves its pages. Every byte is known and checked.
 *
 * SARDINE_TORTURE_PAGES: how many pages to replace; default 200,000, with SARDINE_FULL 10,000,000 (under the thread
 * sanitizer a quarter of that). SARDINE_TORTURE_SECONDS: when to stop before that, which is no failure; default 20, with
 * SARDINE_FULL 800. SARDINE_TORTURE_SEED: of what is drawn by chance; the threads' timing is not.
 */
#include "ksm/agent.h"

#include "ksm/store.h"
#include "tests/stress/fire.h"

#define GUESTS	      2u
#define DEFAULT_PAGES (UNDER_TSAN ? 50000 : 200000)
#define FULL_PAGES    (UNDER_TSAN ? 2500000 : 10000000)

struct guest {
	struct fire fire;
	struct agent *agent;
};

struct torture {
	struct store *store;
	struct guest guests[GUESTS];
	uint64_t seed, chances;
};

static uint64_t chance(struct torture *t)
{
	return replay_mix(t->seed, t->chances++);
}

static int guest_watch(void *ctx, hva_t start, uint64_t bytes)
{
	return agent_watch(ctx, start, bytes);
}

static void guest_discarded(void *ctx, gfn_t first, uint64_t frames)
{
	agent_discarded(ctx, first, frames);
}

static void guest_open(struct torture *t, unsigned i)
{
	/* What all guests have, in the same frames; what some have; what nobody has. */
	static const struct replay_run runs[] = {
		{REPLAY_COPY, 1536}, {REPLAY_FILL, 256}, {REPLAY_UNIQUE, 192}, {REPLAY_ZERO, 64}};
	const struct replay_spec spec = {
		.seed = 1, .pool_seed = POOL_SEED, .pool_pages = 1536, .runs = runs, .count = 4};
	const struct agent_range range = {GFN(0), FRAMES};
	struct guest *g = &t->guests[i];
	struct store_link_config link = {.frames = FRAMES, .vm_name = "torture"};
	struct agent_config c = {.ranges = &range, .range_count = 1, .interval_ms = 4};
	struct replay_watcher w = {guest_watch, guest_discarded, NULL};
	struct errmsg err = {0};
	int r;

	g->fire.seed = t->seed + 1000 * i;
	assert_int_equal(replay_memory_new(FRAMES, &spec, &g->fire.m), 0);
	assert_int_equal(store_link_shared_new(&link, t->store, &err, &c.recorded, &c.link), 0);
	c.view = replay_memory_view(g->fire.m);
	r = agent_new(&c, &err, &g->agent);
	if (r == -ENOTSUP)
		TEST_SKIP(err.text);
	assert_int_equal(r, 0);
	w.ctx = g->agent;
	replay_memory_watch_by(g->fire.m, &w);
	assert_int_equal(agent_start(g->agent), 0);
}

static void setup(struct torture *t)
{
	const struct store_config c = {.evacuate_after_ns = 200000000};
	struct errmsg err = {0};

	if (!fire_can())
		TEST_SKIP("no io_uring here, so nothing is pinned");
	assert_int_equal(store_new(&c, &err, &t->store), 0);
	for (unsigned i = 0; i < GUESTS; i++)
		guest_open(t, i);
	for (unsigned i = 0; i < GUESTS; i++)
		fire_start(&t->guests[i].fire);
}

struct verifying {
	struct replay_memory *m;
	uint64_t first, frames;
};

static void verify_work(void *arg)
{
	struct verifying *v = arg;

	(void)replay_memory_verify(v->m, GFN(v->first), v->frames);
}

/* In a hold, also when nobody writes any more: the agent is at work. */
static void verify(struct guest *g, uint64_t first, uint64_t frames)
{
	struct verifying v = {g->fire.m, first, frames};

	assert_int_equal(hold_call(replay_memory_hold(g->fire.m), verify_work, &v), 0);
}

/* What others ask of an agent while it works. */
static void disturb(struct torture *t, struct guest *g)
{
	uint64_t c = chance(t);
	struct agent_merge_result res;

	verify(g, c % (FRAMES / WINDOW) * WINDOW, WINDOW);
	if (c >> 32 & 63)
		return;
	if (c >> 40 & 1) {
		int r = agent_merge(g->agent, 30, &res);

		assert_true(r == 0 || r == -ETIMEDOUT);
		return;
	}
	agent_suspend(g->agent);
	assert_int_equal(agent_merge(g->agent, 30, &res), -EBUSY);
	assert_int_equal(agent_resume(g->agent, false), 0);
}

static uint64_t replaced(struct torture *t)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < GUESTS; i++) {
		struct agent_stats s;

		agent_stats(t->guests[i].agent, &s);
		n += s.apply.pages[EXTENT_REPLACED];
	}
	return n;
}

static void report(const struct agent_stats *s, struct guest *g, uint64_t writes)
{
	struct replay_stats x;

	replay_memory_stats(g->fire.m, &x);
	printf("torture: %llu pages replaced in %llu extents and %llu holds, %llu broken, %llu retaken, %llu "
	       "zeroed, %llu donated, %llu hashed, %llu passes, %llu discards (%llu shared), %llu writes, "
	       "%llu "
	       "pinned I/Os, %llu errors (%d)\n",
	       (unsigned long long)s->apply.pages[EXTENT_REPLACED],
	       (unsigned long long)s->apply.extents[EXTENT_REPLACED], (unsigned long long)s->apply.holds,
	       (unsigned long long)s->broken, (unsigned long long)s->retaken, (unsigned long long)s->zeroed,
	       (unsigned long long)s->donated, (unsigned long long)s->hashed, (unsigned long long)s->passes,
	       (unsigned long long)x.discards, (unsigned long long)x.discards_shared,
	       (unsigned long long)writes, (unsigned long long)atomic_load(&g->fire.ios),
	       (unsigned long long)s->errors, s->last_error);
	printf("torture: refused:");
	for (unsigned i = EXTENT_REPLACED + 1; i < EXTENT_OUTCOMES; i++)
		printf(" %s %llu", extent_outcome_name(i), (unsigned long long)s->apply.extents[i]);
	printf("; work in a hold: mean %.0f us, max %.0f us\n",
	       s->apply.holds ? (double)s->apply.hold_work_ns / 1e3 / (double)s->apply.holds : 0,
	       (double)s->apply.hold_work_max_ns / 1e3);
}

/* Its peace: all that rests is shared, and right. */
static void finish(struct guest *g)
{
	uint64_t writes = fire_stop(&g->fire);
	struct agent_merge_result res;
	struct agent_stats s;

	verify(g, 0, FRAMES);
	assert_int_equal(agent_merge(g->agent, 30000, &res), 0);
	verify(g, 0, FRAMES);
	agent_stats(g->agent, &s);
	report(&s, g, writes);
	fire_assert_well(&g->fire);
	/* It was a torture. */
	assert_true(s.extent_pages > 0 && s.broken > 0 && s.donated > 0);
	assert_true(s.apply.extents[EXTENT_WRITTEN] > 0 && s.apply.extents[EXTENT_LOST] == 0);
}

static void done(struct torture *t)
{
	struct store_stats s;

	for (unsigned i = 0; i < GUESTS; i++) {
		struct guest *g = &t->guests[i];

		replay_memory_watch_by(g->fire.m, NULL);
		agent_free(g->agent);
		assert_true(replay_memory_verify(g->fire.m, GFN(0), FRAMES));
		replay_memory_free(g->fire.m);
	}
	store_stats(t->store, &s);
	printf("torture: store: %llu pages moved, %llu promises broken, %llu events lost, %llu refused\n",
	       (unsigned long long)s.moves_pages, (unsigned long long)s.promises_broken,
	       (unsigned long long)s.events_lost, (unsigned long long)s.refused);
	assert_int_equal(s.mappings, 0);
	assert_int_equal(s.refused, 0);
	store_free(t->store);
}

TEST(every_byte_stays)
{
	static struct torture t;
	bool full = getenv("SARDINE_FULL");
	uint64_t pages = env_number("SARDINE_TORTURE_PAGES", full ? FULL_PAGES : DEFAULT_PAGES);
	uint64_t seconds = env_number("SARDINE_TORTURE_SECONDS", full ? 800 : 20);
	uint64_t start_ms = now_ms();

	t.seed = env_number("SARDINE_TORTURE_SEED", (uint64_t)time(NULL));
	setup(&t);
	for (unsigned i = 0; replaced(&t) < pages && now_ms() - start_ms < seconds * 1000; i++) {
		struct guest *g = &t.guests[i % GUESTS];

		if (!fire_is_well(&g->fire))
			break;
		disturb(&t, g);
	}
	printf("torture: seed %llu: %llu pages replaced in %.1f s\n", (unsigned long long)t.seed,
	       (unsigned long long)replaced(&t), (double)(now_ms() - start_ms) / 1000);
	for (unsigned i = 0; i < GUESTS; i++)
		finish(&t.guests[i]);
	done(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(every_byte_stays)};

	return TEST_RUN(tests);
}
