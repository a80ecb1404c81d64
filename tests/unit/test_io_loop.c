/* SPDX-License-Identifier: Apache-2.0 */
/* The event loop: events reach their sources, freed sources stay silent, posts come from any thread. */
#include "vmm/io-loop.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "ksm/hold.h"
#include "tests/unit/loop-thread.h"
#include "tests/unit/test.h"

struct pair {
	struct io_loop *loop;
	struct io_source *source[2];
	int fd[2];
	unsigned calls;
};

/* Frees both sources from inside the first callback: the second must not be called in the same round. */
static void free_both(void *arg, uint32_t events)
{
	struct pair *p = arg;

	assert_true(events & EPOLLIN);
	p->calls++;
	io_source_free(p->source[0]);
	io_source_free(p->source[1]);
	io_loop_stop(p->loop);
}

TEST(freed_sources_are_silent)
{
	cleanup(io_loop_free_p) struct io_loop *loop = NULL;
	struct pair p = {0};
	uint64_t one = 1;

	assert_int_equal(io_loop_new(&loop), 0);
	p.loop = loop;
	for (int i = 0; i < 2; i++) {
		p.fd[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		assert_int_equal(io_source_new(loop, p.fd[i], EPOLLIN, free_both, &p, &p.source[i]), 0);
		assert_int_equal(write(p.fd[i], &one, sizeof(one)), sizeof(one));
	}
	assert_int_equal(io_loop_run(loop), 0);
	assert_int_equal(p.calls, 1);
	for (int i = 0; i < 2; i++)
		close(p.fd[i]);
}

struct counter {
	struct io_loop *loop;
	unsigned count, stop_at;
	pthread_t ran_on;
};

static void count_up(void *arg)
{
	struct counter *c = arg;

	c->ran_on = pthread_self();
	if (++c->count == c->stop_at)
		io_loop_stop(c->loop);
}

static void *post_thousand(void *arg)
{
	struct counter *c = arg;

	for (int i = 0; i < 1000; i++)
		assert_int_equal(io_loop_post(c->loop, count_up, c), 0);
	return NULL;
}

TEST(posts_from_other_threads)
{
	cleanup(io_loop_free_p) struct io_loop *loop = NULL;
	struct counter c = {.stop_at = 4000};
	pthread_t threads[4];

	assert_int_equal(io_loop_new(&loop), 0);
	c.loop = loop;
	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, post_thousand, &c), 0);
	assert_int_equal(io_loop_run(loop), 0);
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(c.count, 4000);
	assert_true(pthread_equal(c.ran_on, pthread_self()));
}

static void timer_fired(void *arg, uint32_t events)
{
	assert_int_equal(events, 0);
	count_up(arg);
}

TEST(timers_fire_once)
{
	cleanup(io_loop_free_p) struct io_loop *loop = NULL;
	struct io_source *early = NULL, *late = NULL;
	struct counter a = {.stop_at = 100}, b = {.stop_at = 1};

	assert_int_equal(io_loop_new(&loop), 0);
	a.loop = b.loop = loop;
	assert_int_equal(io_timer_new(loop, timer_fired, &a, &early), 0);
	assert_int_equal(io_timer_new(loop, timer_fired, &b, &late), 0);
	assert_int_equal(io_timer_set(early, 1000000), 0);
	assert_int_equal(io_timer_set(late, 30000000), 0);
	assert_int_equal(io_loop_run(loop), 0);
	assert_int_equal(a.count, 1);
	io_source_free(early);
	io_source_free(late);
}

/* A loop that always has something to do. */
struct busy {
	struct loop_thread loop;
	struct hold *hold;
	_Atomic uint64_t calls;
	atomic_bool stop;
	uint64_t plain; /* TSan looks after it */
	unsigned moved, works, kicks;
};

static void do_more(void *arg)
{
	struct busy *b = arg;

	b->plain++;
	atomic_fetch_add(&b->calls, 1);
	if (!atomic_load(&b->stop) && io_loop_post(b->loop.loop, do_more, b) < 0)
		abort();
}

static void look(void *arg)
{
	struct busy *b = arg;
	uint64_t calls = atomic_load(&b->calls);

	b->plain++;
	b->works++;
	for (unsigned i = 0; i < 20; i++)
		sched_yield();
	b->moved += atomic_load(&b->calls) != calls;
}

static void kicked(void *arg)
{
	((struct busy *)arg)->kicks++;
}

/* No callback runs while the work of a hold is done. A loop that waits for events is not waited for. */
TEST(a_hold_stops_the_loop)
{
	struct busy b = {0};
	struct hold_stats stats;
	uint64_t calls;

	assert_int_equal(hold_new(kicked, &b, &b.hold), 0);
	hold_set_patience(b.hold, 20000000000u);
	assert_int_equal(io_loop_new(&b.loop.loop), 0);
	io_loop_set_hold(b.loop.loop, b.hold);
	assert_ptr_equal(io_loop_hold(b.loop.loop), b.hold);
	loop_thread_start(&b.loop);
	assert_int_equal(io_loop_post(b.loop.loop, do_more, &b), 0);
	while (atomic_load(&b.calls) == 0)
		sched_yield();
	for (unsigned i = 0; i < 500; i++)
		assert_int_equal(hold_call(b.hold, look, &b), 0);
	assert_int_equal(b.works, 500);
	assert_int_equal(b.moved, 0);
	hold_stats(b.hold, &stats);
	assert_true(stats.by_caller < 500);
	atomic_store(&b.stop, true);
	do {
		calls = atomic_load(&b.calls);
		poll(NULL, 0, 2);
	} while (atomic_load(&b.calls) != calls);
	b.kicks = 0;
	hold_stats(b.hold, &stats);
	calls = stats.by_caller;
	for (unsigned i = 0; i < 100; i++)
		assert_int_equal(hold_call(b.hold, look, &b), 0);
	hold_stats(b.hold, &stats);
	/* The loop may have been just on its way to sleep. */
	assert_true(stats.by_caller >= calls + 98);
	assert_true(b.kicks <= 2);
	loop_thread_stop(&b.loop);
	io_loop_set_hold(b.loop.loop, NULL);
	io_loop_free(b.loop.loop);
	hold_free(b.hold);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(freed_sources_are_silent),
		cmocka_unit_test(posts_from_other_threads),
		cmocka_unit_test(timers_fire_once),
		cmocka_unit_test(a_hold_stops_the_loop),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
