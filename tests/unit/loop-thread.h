/* SPDX-License-Identifier: Apache-2.0 */
/* An I/O loop on a thread of its own, so that a test can be the guest and the clients at once. */
#ifndef SARDINE_TESTS_UNIT_LOOP_THREAD_H
#define SARDINE_TESTS_UNIT_LOOP_THREAD_H

#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "vmm/io-loop.h"

#define TEST_DEADLINE_MS 10000

struct loop_thread {
	struct io_loop *loop;
	pthread_t thread;
};

static inline int64_t test_now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static inline void *loop_thread_main(void *arg)
{
	if (io_loop_run(arg) < 0)
		abort();
	return NULL;
}

static inline void loop_thread_start(struct loop_thread *t)
{
	if (pthread_create(&t->thread, NULL, loop_thread_main, t->loop))
		abort();
}

static inline void loop_thread_stop(struct loop_thread *t)
{
	io_loop_stop(t->loop);
	pthread_join(t->thread, NULL);
}

struct loop_call {
	void (*fn)(void *arg);
	void *arg;
	sem_t done;
};

static inline void loop_call_run(void *arg)
{
	struct loop_call *call = arg;

	call->fn(call->arg);
	sem_post(&call->done);
}

/* Run on the loop's thread and wait for it. */
static inline void loop_thread_call(struct loop_thread *t, void (*fn)(void *arg), void *arg)
{
	struct loop_call call = {.fn = fn, .arg = arg};

	sem_init(&call.done, 0, 0);
	if (io_loop_post(t->loop, loop_call_run, &call) < 0)
		abort();
	while (sem_wait(&call.done) < 0)
		;
	sem_destroy(&call.done);
}

/* Wait until cond() holds. False when the deadline passed. */
static inline bool test_wait(bool (*cond)(void *arg), void *arg)
{
	int64_t deadline = test_now_ms() + TEST_DEADLINE_MS;

	while (!cond(arg)) {
		if (test_now_ms() > deadline)
			return false;
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	}
	return true;
}

/* Read up to @len bytes, until they are there, the end, or the deadline. Return: how many. */
static inline size_t test_read(int fd, void *buf, size_t len)
{
	int64_t deadline = test_now_ms() + TEST_DEADLINE_MS;
	size_t have = 0;

	while (have < len && test_now_ms() < deadline) {
		struct pollfd p = {.fd = fd, .events = POLLIN};
		ssize_t n;

		if (poll(&p, 1, 100) <= 0)
			continue;
		n = read(fd, (char *)buf + have, len - have);
		if (n <= 0)
			break;
		have += (size_t)n;
	}
	return have;
}

#endif
