/* SPDX-License-Identifier: Apache-2.0 */
/* A store under many threads: clients come, ask, donate, map, move and go while others do and while it is tidied up. What
 * is found has the bytes asked for, and nothing is left in the end. */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#include "base/clock.h"
#include "tests/unit/store_fixture.h"

#define CLIENTS	 6u
#define FRAMES	 256u
#define CONTENTS 3000u
#define BATCH	 32u
#define EVENTS	 512u
#define RUN_NS	 4000000000u
#define LIFE	 25u /* steps */

struct member {
	struct store *s;
	struct store_client *client;
	pthread_t thread;
	pthread_mutex_t lock; /* of events */
	struct store_event events[EVENTS];
	size_t count;
	_Atomic uint64_t recorded[FRAMES / 64];
	uint64_t contents[FRAMES];
	struct {
		bool mapped;
		uint32_t segment, page;
	} maps[FRAMES];
	uint64_t seed, end;
	uint64_t found, late, donated, moved, lives;
};

static int member_event(void *ctx, const struct store_event *event)
{
	struct member *m = ctx;
	int r = -ENOSPC;

	pthread_mutex_lock(&m->lock);
	if (m->count < EVENTS) {
		m->events[m->count++] = *event;
		r = 0;
	}
	pthread_mutex_unlock(&m->lock);
	return r;
}

static uint32_t draw(struct member *m, uint32_t n)
{
	m->seed = m->seed * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)(m->seed >> 33) % n;
}

/* Threads have no cmocka: what is wrong ends the program. */
static void must(bool ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "stress_store: %s\n", what);
	abort();
}

static void unmap(struct member *m, uint32_t f)
{
	if (m->maps[f].mapped)
		must(store_refs(m->client, m->maps[f].segment, m->maps[f].page, 1, -1) == 0, "unmap");
	m->maps[f].mapped = false;
}

static bool map(struct member *m, uint32_t f, uint32_t segment, uint32_t page)
{
	uint8_t got[PAGE_BYTES], wanted[PAGE_BYTES];
	auto_fd fd = -1;

	if (store_refs(m->client, segment, page, 1, 1) < 0) {
		m->late++;
		return false;
	}
	must(store_fetch(m->client, segment, &fd) == 0, "what is referred to is there");
	must(pread(fd, got, PAGE_BYTES, (off_t)(page * PAGE_BYTES)) == (ssize_t)PAGE_BYTES, "pread");
	content_write(wanted, m->contents[f]);
	must(!memcmp(got, wanted, PAGE_BYTES), "bytes");
	unmap(m, f);
	m->maps[f].mapped = true;
	m->maps[f].segment = segment;
	m->maps[f].page = page;
	m->found++;
	return true;
}

static void donate(struct member *m, const uint32_t *frames, uint32_t count)
{
	uint64_t contents[BATCH];
	uint32_t loan, g;

	if (count == 0)
		return;
	for (uint32_t i = 0; i < count; i++)
		contents[i] = m->contents[frames[i]];
	loan = peer_fill(&(struct peer){.client = m->client}, contents, count);
	must(store_offer(m->client, loan, &g) == 0, "offer");
	m->donated += count;
	for (uint32_t i = 0; i < count; i++)
		map(m, frames[i], g, i);
}

static void ask(struct member *m)
{
	struct store_record recs[BATCH];
	struct store_answer answers[BATCH];
	uint32_t wanted[BATCH], n = 0, first = draw(m, FRAMES - BATCH);

	for (uint32_t i = 0; i < BATCH; i++) {
		uint32_t f = first + i;

		unmap(m, f);
		m->contents[f] = 1 + draw(m, CONTENTS);
		recs[i] = (struct store_record){.key = content_key(m->contents[f]), .frame = f};
		atomic_fetch_or_explicit(&m->recorded[f / 64], (uint64_t)1 << f % 64, memory_order_relaxed);
	}
	must(store_submit(m->client, recs, BATCH, answers) == 0, "submit");
	for (uint32_t i = 0; i < BATCH; i++) {
		if (answers[i].kind == STORE_FOUND)
			map(m, first + i, answers[i].segment, answers[i].page);
		if (answers[i].kind == STORE_WANTED && draw(m, 10))
			wanted[n++] = first + i;
	}
	donate(m, wanted, n);
}

static void take_event(struct member *m, const struct store_event *e)
{
	if (e->kind == STORE_EVENT_MOVE) {
		for (uint32_t f = 0; f < FRAMES; f++)
			if (m->maps[f].mapped && m->maps[f].segment == e->segment &&
			    m->maps[f].page - e->page < e->run)
				m->moved += map(m, f, e->to_segment, e->to_page + m->maps[f].page - e->page);
		return;
	}
	if (m->maps[e->frame].mapped || !m->contents[e->frame] ||
	    content_key(m->contents[e->frame]) != e->key)
		return;
	if (e->kind == STORE_EVENT_FOUND)
		map(m, e->frame, e->segment, e->page);
	else
		donate(m, &e->frame, 1);
}

static void take_events(struct member *m)
{
	struct store_event events[EVENTS];
	size_t count;

	pthread_mutex_lock(&m->lock);
	count = m->count;
	memcpy(events, m->events, count * sizeof(events[0]));
	m->count = 0;
	pthread_mutex_unlock(&m->lock);
	for (size_t i = 0; i < count; i++)
		take_event(m, &events[i]);
}

static void live(struct member *m)
{
	struct store_client_config config = {
		.frames = FRAMES, .recorded = m->recorded, .event = member_event, .ctx = m};

	m->count = 0;
	memset(m->contents, 0, sizeof(m->contents));
	memset(m->maps, 0, sizeof(m->maps));
	must(store_client_new(m->s, &config, &m->client) == 0, "join");
	for (unsigned i = 0; i < LIFE && clock_now_ns() < m->end; i++) {
		ask(m);
		take_events(m);
	}
	store_client_free(m->client);
	m->lives++;
}

static void *member_thread(void *arg)
{
	struct member *m = arg;

	while (clock_now_ns() < m->end)
		live(m);
	return NULL;
}

static void *tick_thread(void *arg)
{
	struct member *m = arg;
	struct store_stats st;

	while (clock_now_ns() < m->end) {
		store_tick(m->s, clock_now_ns());
		store_stats(m->s, &st);
		must(st.dead_pages <= st.segment_pages && st.pages_saved <= st.mappings, "figures");
		sched_yield();
	}
	return NULL;
}

TEST(many_clients)
{
	static struct member members[CLIENTS];
	struct store *s = store_with((struct store_config){.evacuate_after_ns = 2000000});
	struct member tidier = {.s = s, .end = clock_now_ns() + RUN_NS};
	uint64_t found = 0, late = 0, donated = 0, moved = 0, lives = 0;

	assert_int_equal(pthread_create(&tidier.thread, NULL, tick_thread, &tidier), 0);
	for (unsigned i = 0; i < CLIENTS; i++) {
		members[i].s = s;
		members[i].seed = i + 1;
		members[i].end = tidier.end;
		pthread_mutex_init(&members[i].lock, NULL);
		assert_int_equal(pthread_create(&members[i].thread, NULL, member_thread, &members[i]), 0);
	}
	pthread_join(tidier.thread, NULL);
	for (unsigned i = 0; i < CLIENTS; i++) {
		pthread_join(members[i].thread, NULL);
		pthread_mutex_destroy(&members[i].lock);
		found += members[i].found;
		late += members[i].late;
		donated += members[i].donated;
		moved += members[i].moved;
		lives += members[i].lives;
	}
	print_message("%llu lives: %llu found, %llu too late, %llu donated, %llu moved\n",
		      (unsigned long long)lives, (unsigned long long)found, (unsigned long long)late,
		      (unsigned long long)donated, (unsigned long long)moved);
	assert_true(found > 100 && donated > 100);
	assert_int_equal(stats_of(s).segments, 0);
	assert_int_equal(stats_of(s).mappings, 0);
	assert_int_equal(stats_of(s).records, 0);
	assert_int_equal(stats_of(s).refused, 0);
	assert_int_equal(segment_fds(), 0);
	store_free(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(many_clients),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
