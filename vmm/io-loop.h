/* SPDX-License-Identifier: Apache-2.0 */
/* The event loop of the VMM's one I/O thread: descriptors, timers, and work posted by other threads. */
#ifndef SARDINE_VMM_IO_LOOP_H
#define SARDINE_VMM_IO_LOOP_H

#include <stdint.h>

#include "base/cleanup.h"
#include "base/syscalls.h"

struct hold;
struct io_loop;
struct io_source;

/* @events: EPOLL* bits that are ready. Context: the thread in io_loop_run(). It may free any source, its own
 * too. */
typedef void (*io_source_fn)(void *arg, uint32_t events);

int io_loop_new(struct io_loop **ret) must_check;
void io_loop_free(struct io_loop *loop);
DEFINE_CLEANUP(struct io_loop, io_loop_free)

/**
 * io_source_new() - Watch a descriptor.
 * @loop: the loop.
 * @fd: the descriptor; stays the caller's, who closes it after io_source_free().
 * @events: EPOLLIN, EPOLLOUT.. (level-triggered); 0 watches nothing for now (errors are reported all the
 * same).
 * @fn, @arg: what to call.
 * @ret: the source; the caller frees it.
 *
 * Context: the loop's thread, or before it runs.
 * Return: 0 or a negative errno.
 */
int io_source_new(struct io_loop *loop, int fd, uint32_t events, io_source_fn fn, void *arg,
		  struct io_source **ret) must_check;
/* Change the events watched. */
int io_source_set_events(struct io_source *source, uint32_t events) must_check;
/* Stop watching; no callback of it runs afterwards. NULL is allowed. */
void io_source_free(struct io_source *source);
DEFINE_CLEANUP(struct io_source, io_source_free)

/**
 * io_timer_new() - A timer on the loop, disarmed (timerfd on CLOCK_MONOTONIC; an idle VM has none armed).
 * @fn: called with events 0 when it fires.
 *
 * Freed by io_source_free().
 */
int io_timer_new(struct io_loop *loop, io_source_fn fn, void *arg, struct io_source **ret) must_check;
/* Fire once after @after_ns; 0 disarms. */
int io_timer_set(struct io_source *timer, uint64_t after_ns) must_check;

/**
 * io_loop_post() - Run a function on the loop's thread soon.
 *
 * Context: any thread; never blocks on the loop.
 * Return: 0 or -ENOMEM.
 */
int io_loop_post(struct io_loop *loop, void (*fn)(void *arg), void *arg) must_check;

/**
 * io_loop_set_hold() - The loop's thread writes a guest's memory: it is a member of its hold while the loop runs, and rests while it
 * waits for events. It attends between two callbacks.
 *
 * Context: before the loop runs, or after. @hold: outlives the run; NULL: none.
 */
void io_loop_set_hold(struct io_loop *loop, struct hold *hold);
/* NULL: none. */
struct hold *io_loop_hold(const struct io_loop *loop);

/* Run until io_loop_stop(). Return: 0 or the errno of epoll_wait. */
int io_loop_run(struct io_loop *loop) must_check;
/* Make io_loop_run() return after the current round. Any thread. */
void io_loop_stop(struct io_loop *loop);

extern const struct syscall_list io_loop_syscalls;

#endif
