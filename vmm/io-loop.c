/* SPDX-License-Identifier: Apache-2.0 */
/* The event loop of the VMM's one I/O thread. */
#include "vmm/io-loop.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "ksm/break.h"
#include "ksm/hold.h"

/*
 * Theory of operation
 *
 * One epoll set, level-triggered. A round takes at most ROUND_EVENTS events and calls the sources they name.
 * A callback may free any source, also one whose event of this round is still to be delivered: a freed source
 * is taken out of epoll at once but only marked dead, and its memory is released after the round.
 *
 * Posted work and the stop request come through one eventfd. Posts are a list under a mutex that is never
 * held while a callback runs, so a post from inside a callback runs in the next round.
 *
 * Callbacks are where an I/O thread writes guest memory. Between two of them it holds no lock, so there it parks when the guest
 * is held; a hold does not wait for a loop that has nothing to do, nor wake it.
 */
#define ROUND_EVENTS 16

struct io_source {
	struct io_loop *loop;
	int fd;
	bool is_timer;
	bool dead;
	io_source_fn fn;
	void *arg;
	struct io_source *next_dead;
};

struct post {
	void (*fn)(void *arg);
	void *arg;
	struct post *next;
};

struct io_loop {
	int epoll_fd;
	int wake_fd;
	struct hold *hold; /* NULL: none */
	atomic_bool stop;
	bool in_round;
	struct io_source *dead;
	pthread_mutex_t mutex;
	struct post *posts; /* guarded by mutex, in order */
	struct post **posts_tail;
};

int io_loop_new(struct io_loop **ret)
{
	cleanup(io_loop_free_p) struct io_loop *loop = calloc(1, sizeof(*loop));
	struct epoll_event ev = {.events = EPOLLIN, .data.ptr = NULL};

	if (!loop)
		return -ENOMEM;
	loop->wake_fd = -1;
	loop->posts_tail = &loop->posts;
	pthread_mutex_init(&loop->mutex, NULL);
	loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (loop->epoll_fd < 0)
		return -errno;
	loop->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (loop->wake_fd < 0)
		return -errno;
	if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, loop->wake_fd, &ev) < 0)
		return -errno;
	*ret = TAKE_PTR(loop);
	return 0;
}

static void io_loop_bury(struct io_loop *loop)
{
	while (loop->dead) {
		struct io_source *s = loop->dead;

		loop->dead = s->next_dead;
		free(s);
	}
}

void io_loop_free(struct io_loop *loop)
{
	if (!loop)
		return;
	io_loop_bury(loop);
	while (loop->posts) {
		struct post *p = loop->posts;

		loop->posts = p->next;
		free(p);
	}
	pthread_mutex_destroy(&loop->mutex);
	if (loop->wake_fd >= 0)
		close(loop->wake_fd);
	if (loop->epoll_fd >= 0)
		close(loop->epoll_fd);
	free(loop);
}

int io_source_new(struct io_loop *loop, int fd, uint32_t events, io_source_fn fn, void *arg,
		  struct io_source **ret)
{
	struct io_source *s = calloc(1, sizeof(*s));
	struct epoll_event ev = {.events = events, .data.ptr = s};

	if (!s)
		return -ENOMEM;
	*s = (struct io_source){.loop = loop, .fd = fd, .fn = fn, .arg = arg};
	if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &ev) < 0) {
		int r = -errno;

		free(s);
		return r;
	}
	*ret = s;
	return 0;
}

int io_source_set_events(struct io_source *source, uint32_t events)
{
	struct epoll_event ev = {.events = events, .data.ptr = source};

	return epoll_ctl(source->loop->epoll_fd, EPOLL_CTL_MOD, source->fd, &ev) < 0 ? -errno : 0;
}

void io_source_free(struct io_source *source)
{
	struct io_loop *loop;

	if (!source)
		return;
	loop = source->loop;
	epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, source->fd, NULL);
	if (source->is_timer)
		close(source->fd);
	if (!loop->in_round) {
		free(source);
		return;
	}
	source->dead = true;
	source->next_dead = loop->dead;
	loop->dead = source;
}

int io_timer_new(struct io_loop *loop, io_source_fn fn, void *arg, struct io_source **ret)
{
	auto_fd fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	struct io_source *s;
	int r;

	if (fd < 0)
		return -errno;
	r = io_source_new(loop, fd, EPOLLIN, fn, arg, &s);
	if (r < 0)
		return r;
	TAKE_FD(fd);
	s->is_timer = true;
	*ret = s;
	return 0;
}

int io_timer_set(struct io_source *timer, uint64_t after_ns)
{
	struct itimerspec spec = {
		.it_value = {.tv_sec = (time_t)(after_ns / 1000000000),
			     .tv_nsec = (long)(after_ns % 1000000000)},
	};

	return timerfd_settime(timer->fd, 0, &spec, NULL) < 0 ? -errno : 0;
}

static void io_loop_wake(struct io_loop *loop)
{
	uint64_t one = 1;

	if (write(loop->wake_fd, &one, sizeof(one)) < 0) {
		/* EAGAIN: it is awake already. */
	}
}

int io_loop_post(struct io_loop *loop, void (*fn)(void *arg), void *arg)
{
	struct post *p = malloc(sizeof(*p));

	if (!p)
		return -ENOMEM;
	*p = (struct post){.fn = fn, .arg = arg};
	pthread_mutex_lock(&loop->mutex);
	*loop->posts_tail = p;
	loop->posts_tail = &p->next;
	pthread_mutex_unlock(&loop->mutex);
	io_loop_wake(loop);
	return 0;
}

static void io_loop_run_posts(struct io_loop *loop)
{
	uint64_t count;
	struct post *list;

	if (read(loop->wake_fd, &count, sizeof(count)) < 0) {
		/* EAGAIN: nothing to clear. */
	}
	pthread_mutex_lock(&loop->mutex);
	list = loop->posts;
	loop->posts = NULL;
	loop->posts_tail = &loop->posts;
	pthread_mutex_unlock(&loop->mutex);
	while (list) {
		struct post *p = list;

		list = p->next;
		p->fn(p->arg);
		free(p);
		hold_attend(loop->hold);
	}
}

static void io_source_fire(struct io_source *s, uint32_t events)
{
	uint64_t expirations;

	if (s->dead)
		return;
	if (!s->is_timer)
		s->fn(s->arg, events);
	else if (read(s->fd, &expirations, sizeof(expirations)) > 0)
		s->fn(s->arg, 0);
}

void io_loop_set_hold(struct io_loop *loop, struct hold *hold)
{
	loop->hold = hold;
}

struct hold *io_loop_hold(const struct io_loop *loop)
{
	return loop->hold;
}

/* Return: as epoll_wait(), with a negative errno. */
static int wait_for_events(struct io_loop *loop, struct epoll_event *events)
{
	int n;

	hold_rest(loop->hold);
	n = epoll_wait(loop->epoll_fd, events, ROUND_EVENTS, -1);
	if (n < 0)
		n = -errno;
	hold_wake(loop->hold);
	return n;
}

static int run_rounds(struct io_loop *loop)
{
	while (!atomic_load_explicit(&loop->stop, memory_order_acquire)) {
		struct epoll_event events[ROUND_EVENTS];
		int n = wait_for_events(loop, events);

		if (n == -EINTR)
			continue;
		if (n < 0)
			return n;
		loop->in_round = true;
		for (int i = 0; i < n; i++) {
			hold_attend(loop->hold);
			if (events[i].data.ptr)
				io_source_fire(events[i].data.ptr, events[i].events);
			else
				io_loop_run_posts(loop);
		}
		loop->in_round = false;
		io_loop_bury(loop);
	}
	return 0;
}

int io_loop_run(struct io_loop *loop)
{
	int r;

	if (!broken(BREAK_LOOP_FREE))
		hold_join(loop->hold);
	r = run_rounds(loop);
	hold_leave(loop->hold);
	if (r == 0)
		atomic_store_explicit(&loop->stop, false, memory_order_release);
	return r;
}

void io_loop_stop(struct io_loop *loop)
{
	atomic_store_explicit(&loop->stop, true, memory_order_release);
	io_loop_wake(loop);
}

DEFINE_SYSCALLS(io_loop_syscalls, SYSCALL(epoll_wait), SYSCALL(epoll_ctl), SYSCALL(timerfd_create),
		SYSCALL(timerfd_settime), SYSCALL(read), SYSCALL(write));
