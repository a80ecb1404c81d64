/* SPDX-License-Identifier: Apache-2.0 */
/* The event loop: events reach their sources, freed sources stay silent, posts come from any thread. */
#include "vmm/io-loop.h"

#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(freed_sources_are_silent),
		cmocka_unit_test(posts_from_other_threads),
		cmocka_unit_test(timers_fire_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
