/* SPDX-License-Identifier: Apache-2.0 */
/* The engine under fire: writers at full speed and devices with pinned pages, while their memory is replaced by the
 * store, broken, discarded and replaced again at random. Every byte is known and checked.
 *
 * SARDINE_TORTURE_PAGES: how many pages to replace; default 60,000, with SARDINE_FULL 10,000,000 (under the thread
 * sanitizer half and a tenth of that). SARDINE_TORTURE_SECONDS: when to stop before that, which is no failure; default 10,
 * with SARDINE_FULL 800. SARDINE_TORTURE_SEED: of what is drawn by chance; the threads' timing is not.
 */
#include "ksm/extent-apply.h"
#include "tests/stress/fire.h"

#define SEGMENTS 4u
#define BATCH	 64u

#define DEFAULT_PAGES (UNDER_TSAN ? 30000 : 60000)
#define FULL_PAGES    (UNDER_TSAN ? 1000000 : 10000000)

struct torture {
	struct fire fire;
	struct write_tracker *tracker;
	struct extent_applier *applier;
	struct segment_view store[SEGMENTS];
	uint64_t chances;
};

/* The agent: the test's own thread. */

static uint64_t chance(struct torture *t)
{
	return replay_mix(t->fire.seed, t->chances++);
}

/* What would be shared there; now and then something else, which must be refused. */
static struct extent draw(struct torture *t, uint64_t frame, uint64_t room)
{
	uint64_t c = chance(t), pages = 1 + (c % 4 ? c >> 8 & 15 : c >> 8 & 127), page = frame % 512;

	pages = pages < room ? pages : room;
	pages = pages < 512 - page ? pages : 512 - page;
	return (struct extent){
		.first = GFN(frame),
		.pages = (uint32_t)pages,
		.store = &t->store[(frame / 512 + (c >> 32 & 63 ? 0 : 1)) % SEGMENTS],
		.store_page = (uint32_t)page,
	};
}

/* From somewhere on, in order, with gaps: disjoint. */
static void apply_batch(struct torture *t)
{
	struct extent v[BATCH];
	uint64_t frame = chance(t) % FRAMES;
	size_t n = 0;

	while (n < BATCH && frame < FRAMES) {
		v[n] = draw(t, frame, FRAMES - frame);
		frame += v[n++].pages + chance(t) % 8;
	}
	extent_apply(t->applier, v, n);
	for (size_t i = 0; i < n; i++)
		assert_true(v[i].outcome != EXTENT_LOST && v[i].outcome != EXTENT_INVALID);
}

static void verify_some(void *arg)
{
	struct torture *t = arg;

	(void)replay_memory_verify(t->fire.m, GFN(chance(t) % FRAMES / WINDOW * WINDOW), WINDOW);
}

static void make_store(struct torture *t)
{
	uint8_t page[PAGE_BYTES];

	for (unsigned i = 0; i < SEGMENTS; i++) {
		cleanup(segment_free_p) struct segment *s = NULL;
		auto_fd fd = -1;
		uint32_t first;

		assert_int_equal(segment_new(SEGMENT_PAGES, &s), 0);
		for (unsigned k = 0; k < SEGMENT_PAGES; k++) {
			replay_content(page, replay_pool_number(POOL_SEED, i * SEGMENT_PAGES + k));
			assert_int_equal(segment_append(s, page, 1, &first), 0);
		}
		assert_int_equal(segment_seal(s, &fd), 0);
		assert_int_equal(segment_view_init(fd, &t->store[i], NULL), 0);
	}
}

static void setup(struct torture *t)
{
	/* Frame f begins as page f of the pool, modulo its size. */
	const struct replay_run run = {REPLAY_COPY, SEGMENTS * SEGMENT_PAGES};
	const struct replay_spec spec = {.seed = t->fire.seed,
					 .pool_seed = POOL_SEED,
					 .pool_pages = SEGMENTS * SEGMENT_PAGES,
					 .runs = &run,
					 .count = 1};
	struct errmsg err = {0};
	struct guest_view view;
	int r = write_tracker_new(&err, &t->tracker);

	if (r == -ENOTSUP)
		TEST_SKIP(err.text);
	assert_int_equal(r, 0);
	if (!fire_can())
		TEST_SKIP("no io_uring here, so nothing is pinned");
	assert_int_equal(replay_memory_new(FRAMES, &spec, &t->fire.m), 0);
	assert_int_equal(replay_memory_watch(t->fire.m, t->tracker), 0);
	view = replay_memory_view(t->fire.m);
	assert_int_equal(extent_applier_new(&view, t->tracker, &t->applier), 0);
	make_store(t);
}

static void report(struct torture *t, uint64_t writes, uint64_t ms)
{
	struct extent_stats x;
	struct replay_stats s;
	struct hold_stats h;

	extent_applier_stats(t->applier, &x);
	replay_memory_stats(t->fire.m, &s);
	hold_stats(replay_memory_hold(t->fire.m), &h);
	printf("torture: seed %llu: %llu pages replaced in %llu extents, %llu breaks, %llu discards (%llu "
	       "shared), %llu writes, "
	       "%llu pinned I/Os, %llu holds; %.1f s\n",
	       (unsigned long long)t->fire.seed, (unsigned long long)x.pages[EXTENT_REPLACED],
	       (unsigned long long)x.extents[EXTENT_REPLACED], (unsigned long long)s.breaks,
	       (unsigned long long)s.discards, (unsigned long long)s.discards_shared,
	       (unsigned long long)writes, (unsigned long long)atomic_load(&t->fire.ios),
	       (unsigned long long)h.holds, (double)ms / 1000);
	printf("torture: refused:");
	for (unsigned i = EXTENT_REPLACED + 1; i < EXTENT_OUTCOMES; i++)
		printf(" %s %llu", extent_outcome_name(i), (unsigned long long)x.extents[i]);
	printf("; work in a hold: mean %.0f us, max %.0f us\n",
	       x.holds ? (double)x.hold_work_ns / 1e3 / (double)x.holds : 0,
	       (double)x.hold_work_max_ns / 1e3);
}

static void done(struct torture *t)
{
	extent_applier_free(t->applier);
	for (unsigned i = 0; i < SEGMENTS; i++)
		segment_view_done(&t->store[i]);
	write_tracker_free(t->tracker);
	replay_memory_free(t->fire.m);
}

TEST(every_byte_stays)
{
	static struct torture t;
	bool full = getenv("SARDINE_FULL");
	uint64_t pages = env_number("SARDINE_TORTURE_PAGES", full ? FULL_PAGES : DEFAULT_PAGES);
	uint64_t seconds = env_number("SARDINE_TORTURE_SECONDS", full ? 800 : 10);
	uint64_t start_ms = now_ms(), writes;
	struct extent_stats x = {0};

	t.fire.seed = env_number("SARDINE_TORTURE_SEED", (uint64_t)time(NULL));
	setup(&t);
	fire_start(&t.fire);
	while (x.pages[EXTENT_REPLACED] < pages && now_ms() - start_ms < seconds * 1000 &&
	       fire_is_well(&t.fire)) {
		assert_int_equal(write_tracker_scan(t.tracker, hva_of(replay_memory_at(t.fire.m, GFN(0))),
						    FRAMES * PAGE_BYTES, NULL),
				 0);
		for (unsigned i = 0; i < 8; i++)
			apply_batch(&t);
		(void)!hold_call(replay_memory_hold(t.fire.m), verify_some, &t);
		extent_applier_stats(t.applier, &x);
	}
	writes = fire_stop(&t.fire);
	(void)replay_memory_verify(t.fire.m, GFN(0), FRAMES);
	report(&t, writes, now_ms() - start_ms);
	fire_assert_well(&t.fire);
	/* It was a torture. */
	assert_true(x.pages[EXTENT_REPLACED] > 0 && x.extents[EXTENT_WRITTEN] > 0 &&
		    x.extents[EXTENT_DIFFERENT] > 0 && x.extents[EXTENT_IN_FLIGHT] > 0);
	done(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(every_byte_stays)};

	return TEST_RUN(tests);
}
