/* SPDX-License-Identifier: Apache-2.0 */
/* Many clients that behave as agents do, at random, and now and then do not: whoever holds what somebody else holds has it
 * from the store in the end, references are counted exactly, and nothing is left when all have gone. */
#include <fcntl.h>

#include "tests/unit/store_fixture.h"

#define VMS	 100u
#define FRAMES	 64u
#define CONTENTS 4000u
#define STEPS	 20000u
#define GRACE	 50u

struct frame {
	uint64_t content; /* 0: none, or written and not looked at */
	bool mapped;
	uint32_t segment, page;
};

struct vm {
	struct peer p;
	struct frame frames[FRAMES];
	bool wanted[FRAMES]; /* promised */
};

struct world {
	struct store *s;
	struct vm vms[VMS];
	uint64_t seed, now;
	uint64_t events, donated, gone, moved;
};

static uint32_t draw(struct world *w, uint32_t n)
{
	w->seed = w->seed * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)(w->seed >> 33) % n;
}

static void unmap(struct vm *v, struct frame *f)
{
	if (f->mapped)
		assert_int_equal(store_refs(v->p.client, f->segment, f->page, 1, -1), 0);
	f->mapped = false;
}

/* As an agent: references first, then a look at the bytes. */
static bool map(struct world *w, struct vm *v, struct frame *f, uint32_t segment, uint32_t page)
{
	uint8_t got[PAGE_BYTES], wanted[PAGE_BYTES];
	auto_fd fd = -1;

	if (f->mapped)
		return true;
	if (store_refs(v->p.client, segment, page, 1, 1) < 0) {
		w->gone++;
		return false;
	}
	assert_int_equal(store_fetch(v->p.client, segment, &fd), 0);
	assert_int_equal(pread(fd, got, PAGE_BYTES, (off_t)(page * PAGE_BYTES)), PAGE_BYTES);
	content_write(wanted, f->content);
	assert_memory_equal(got, wanted, PAGE_BYTES);
	f->mapped = true;
	f->segment = segment;
	f->page = page;
	return true;
}

static void submit(struct world *w, struct vm *v, const uint32_t *frames, uint32_t count)
{
	struct store_record recs[FRAMES];
	struct store_answer answers[FRAMES];

	for (uint32_t i = 0; i < count; i++) {
		recs[i] = (struct store_record){.key = content_key(v->frames[frames[i]].content),
						.frame = frames[i]};
		peer_holds(&v->p, frames[i], true);
	}
	assert_int_equal(store_submit(v->p.client, recs, count, answers), 0);
	for (uint32_t i = 0; i < count; i++) {
		v->wanted[frames[i]] = answers[i].kind == STORE_WANTED;
		if (answers[i].kind == STORE_FOUND)
			map(w, v, &v->frames[frames[i]], answers[i].segment, answers[i].page);
	}
}

/* The new page first: it may be gone when the event is read late. */
static void follow(struct world *w, struct vm *v, struct frame *f, const struct store_event *e)
{
	struct frame moved = {.content = f->content};

	if (!f->mapped || f->segment != e->segment || f->page - e->page >= e->run ||
	    !map(w, v, &moved, e->to_segment, e->to_page + (f->page - e->page)))
		return;
	unmap(v, f);
	*f = moved;
	w->moved++;
}

static void take_events(struct world *w, struct vm *v)
{
	size_t count = v->p.count;

	for (size_t i = 0; i < count; i++) {
		struct store_event e = v->p.events[i];
		struct frame *f = &v->frames[e.frame];

		w->events++;
		if (e.kind == STORE_EVENT_MOVE) {
			for (uint32_t k = 0; k < FRAMES; k++)
				follow(w, v, &v->frames[k], &e);
			continue;
		}
		if (!f->content || e.key != content_key(f->content) || f->mapped)
			continue;
		if (e.kind == STORE_EVENT_WANTED)
			v->wanted[e.frame] = true;
		else if (!map(w, v, f, e.segment, e.page))
			submit(w, v, &e.frame, 1);
	}
	v->p.count -= count;
	memmove(v->p.events, v->p.events + count, v->p.count * sizeof(v->p.events[0]));
}

static void donate(struct world *w, struct vm *v)
{
	uint64_t contents[FRAMES];
	uint32_t frames[FRAMES], n = 0, g;

	for (uint32_t i = 0; i < FRAMES; i++) {
		if (v->wanted[i] && v->frames[i].content && !v->frames[i].mapped) {
			contents[n] = v->frames[i].content;
			frames[n++] = i;
		}
		v->wanted[i] = false;
	}
	if (n == 0)
		return;
	w->donated += n;
	g = peer_donate(&v->p, contents, n);
	for (uint32_t i = 0; i < n; i++)
		if (!map(w, v, &v->frames[frames[i]], g, i))
			submit(w, v, &frames[i], 1);
}

static void vm_start(struct world *w, struct vm *v)
{
	memset(v, 0, sizeof(*v));
	peer_init(&v->p, w->s);
}

static void write_some(struct world *w, struct vm *v)
{
	uint32_t frames[8], n = 1 + draw(w, 8);

	for (uint32_t i = 0; i < n; i++) {
		struct frame *f = &v->frames[frames[i] = draw(w, FRAMES / 8) * 8 + i];

		peer_holds(&v->p, frames[i], false);
		unmap(v, f);
		f->content = 1 + draw(w, 1 + draw(w, CONTENTS)); /* some are frequent */
	}
	submit(w, v, frames, n);
}

/* Against the sums over all frames; totals of each page by a table as large as it gets. */
static void assert_stats(struct world *w)
{
	struct store_stats st = stats_of(w->s);
	auto_free uint32_t *pages = calloc((size_t)VMS * FRAMES, sizeof(*pages));
	uint64_t mappings = 0, distinct = 0, seen;

	for (uint32_t v = 0; v < VMS; v++)
		for (uint32_t i = 0; i < FRAMES; i++) {
			const struct frame *f = &w->vms[v].frames[i];

			if (!f->mapped)
				continue;
			for (seen = 0; seen < distinct; seen++)
				if (pages[seen] == f->segment * 512 + f->page)
					break;
			pages[seen] = f->segment * 512 + f->page;
			distinct += seen == distinct;
			mappings++;
		}
	assert_int_equal(st.mappings, mappings);
	assert_int_equal(st.pages_saved, mappings - distinct);
	assert_int_equal(st.dead_pages, st.segment_pages - distinct);
}

static void step(struct world *w)
{
	struct vm *v = &w->vms[draw(w, VMS)];
	uint32_t what = draw(w, 100);

	if (what < 45)
		write_some(w, v);
	else if (what < 70)
		take_events(w, v);
	else if (what < 90)
		donate(w, v);
	else if (what < 92)
		memset(v->wanted, 0, sizeof(v->wanted)); /* forgets what it promised */
	else if (what < 99)
		store_tick(w->s, w->now += 1 + draw(w, GRACE / 4));
	else if (draw(w, 4) == 0) {
		peer_done(&v->p);
		vm_start(w, v);
	}
}

/* All do what they have to, until nothing happens any more. */
static void settle(struct world *w)
{
	for (unsigned i = 0; i < 40; i++) {
		for (uint32_t v = 0; v < VMS; v++) {
			take_events(w, &w->vms[v]);
			donate(w, &w->vms[v]);
		}
		store_tick(w->s, w->now += 3000000000);
	}
}

TEST(whoever_has_a_twin_shares_it)
{
	static struct world w;
	unsigned have[CONTENTS + 1] = {0}, alone = 0, shared = 0;

	/* Another course of things. */
	const char *seed = getenv("SARDINE_STORE_SEED");

	w = (struct world){.seed = seed ? strtoull(seed, NULL, 0) : 1, .now = 1};
	w.s = store_with((struct store_config){.evacuate_after_ns = GRACE});
	for (uint32_t v = 0; v < VMS; v++)
		vm_start(&w, &w.vms[v]);
	for (uint32_t i = 0; i < STEPS; i++) {
		step(&w);
		if (i % 1000 == 0)
			assert_stats(&w);
	}
	settle(&w);
	assert_stats(&w);
	for (uint32_t v = 0; v < VMS; v++)
		for (uint32_t i = 0; i < FRAMES; i++)
			have[w.vms[v].frames[i].content]++;
	for (uint32_t v = 0; v < VMS; v++)
		for (uint32_t i = 0; i < FRAMES; i++) {
			const struct frame *f = &w.vms[v].frames[i];

			if (f->content && have[f->content] > 1 && !f->mapped)
				fail_msg("vm %u frame %u: content %llu, which %u frames have, is not shared",
					 v, i, (unsigned long long)f->content, have[f->content]);
			alone += f->content && have[f->content] == 1;
			shared += f->mapped;
		}
	print_message("%u frames shared, %u alone; %llu events, %llu pages donated, %llu moved, %llu answers "
		      "too late\n",
		      shared, alone, (unsigned long long)w.events, (unsigned long long)w.donated,
		      (unsigned long long)w.moved, (unsigned long long)w.gone);
	assert_true(w.moved > 100 && w.donated > 1000 && stats_of(w.s).promises_broken > 100);
	assert_int_equal(stats_of(w.s).refused, 0);
	assert_int_equal(stats_of(w.s).events_lost, 0);
	assert_true(stats_of(w.s).dead_pages * 10 <= stats_of(w.s).segment_pages);
	for (uint32_t v = 0; v < VMS; v++)
		peer_done(&w.vms[v].p);
	assert_int_equal(stats_of(w.s).segments, 0);
	assert_int_equal(stats_of(w.s).records, 0);
	assert_int_equal(segment_fds(), 0);
	store_free(w.s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(whoever_has_a_twin_shares_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
