/* SPDX-License-Identifier: Apache-2.0 */
/* Where a link's store is: in the daemon, or in this process as long as there is none. For store-remote.c. */
#ifndef SARDINE_KSM_STORE_BACKEND_H
#define SARDINE_KSM_STORE_BACKEND_H

#include <stdbool.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/syscalls.h"
#include "ksm/store-link.h"
#include "ksm/store-wire.h"

/* How long the daemon may take for an answer. */
#define STORE_DEADLINE_NS 2000000000ull

struct store_backend;

/* Calls are as those of store.h, with the store's own numbers. -ENOTCONN: it is gone, for good; free it. */
struct store_backend_ops {
	const char *name;
	void (*free)(struct store_backend *b);
	int (*submit)(struct store_backend *b, const struct store_record *records, uint32_t count,
		      struct store_answer *answers); /* at most STORE_WIRE_BATCH */
	int (*lend)(struct store_backend *b, uint32_t pages, uint32_t *ret_loan, int *ret_fd);
	int (*offer)(struct store_backend *b, uint32_t loan, uint32_t *ret_number);
	int (*adopt)(struct store_backend *b, int fd, uint32_t *ret_number);
	int (*fetch)(struct store_backend *b, uint32_t number, int *ret_fd);
	/* What cannot be done is left out, and counted. At most STORE_WIRE_BATCH. */
	int (*refs)(struct store_backend *b, const struct store_wire_ref *refs, uint32_t count,
		    uint64_t *refused);
	/* The next event. Never waits. Return: 1, 0: there is none, -ENOTCONN. */
	int (*event)(struct store_backend *b, struct store_event *ret);
	/* As struct store_link_ops. */
	void (*shares)(struct store_backend *b, struct store_shares *ret);
	bool (*alive)(struct store_backend *b);
	/* Due work, if any. */
	void (*tick)(struct store_backend *b, uint64_t now_ns);
};

struct store_backend {
	const struct store_backend_ops *ops;
};

static inline void store_backend_free(struct store_backend *b)
{
	if (b)
		b->ops->free(b);
}
DEFINE_CLEANUP(struct store_backend, store_backend_free)

/**
 * store_own_new() - A store in this process.
 * @recorded: the bitmap.
 * @wake: an eventfd, written when an event has come.
 *
 * Return: as store_new() and store_client_new().
 */
int store_own_new(const struct store_link_config *config, const _Atomic uint64_t *recorded, int wake,
		  struct store_backend **ret) must_check;

/**
 * store_daemon_connect() - Connect to the daemon's socket, without waiting.
 *
 * Return: 0, -ENOENT or -ECONNREFUSED when there is none, -EAGAIN when it is too busy, or another errno.
 */
int store_daemon_connect(const char *path, int *ret_fd) must_check;

/**
 * store_daemon_new() - Say HELLO on a connected socket.
 * @fd: not trusted; taken in any case.
 * @recorded: the bitmap: a shared mapping with the same bits takes the place of what is there. One that another thread
 *   changes meanwhile may change back; it is a hint.
 * @epoll: watches the socket from now on, until it is freed.
 *
 * Return: 0, -EACCES when it is not our own or root's, -EPROTONOSUPPORT when its release is too far from ours, -ETIMEDOUT, -ENOTCONN, or another errno.
 */
int store_daemon_new(const struct store_link_config *config, int fd, _Atomic uint64_t *recorded, int epoll,
		     struct store_backend **ret) must_check;

extern const struct syscall_list store_daemon_syscalls;

#endif
