/* SPDX-License-Identifier: Apache-2.0 */
/* The daemon's side of one connection: checks what a VM says, and calls the store. Knows nothing of sockets. */
#ifndef SARDINE_KSM_STORE_SERVE_H
#define SARDINE_KSM_STORE_SERVE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "ksm/store-wire.h"
#include "ksm/store.h"

struct store_serve;

struct store_serve_ops {
	/* The store of who said HELLO; let go again when the connection is freed. 0, -EACCES, or an errno. */
	int (*domain_get)(void *ctx, uint32_t uid, struct store **ret);
	void (*domain_put)(void *ctx, struct store *store);
	/* Tell the client that events lie in its ring. Any thread; may not wait, nor call anything here. */
	void (*bell)(void *ctx);
	/* A memory file with the daemon's figures as JSON. 0, -EPERM when this peer may not see them, or an errno. */
	int (*stats)(void *ctx, int *ret_fd, uint32_t *ret_bytes);
};

struct store_serve_reply {
	struct store_wire_answer answer;
	int fd; /* goes with it, and is the caller's to close; -1: none */
};

/**
 * store_serve_new() - A connection that has said nothing yet.
 * @ops, @ctx: outlive it.
 *
 * Return: 0 or -ENOMEM.
 */
int store_serve_new(const struct store_serve_ops *ops, void *ctx, struct store_serve **ret) must_check;
/* Takes back what the client has of the store. NULL is allowed. */
void store_serve_free(struct store_serve *s);
DEFINE_CLEANUP(struct store_serve, store_serve_free)

/**
 * store_serve_message() - Work on one message.
 * @m: as received: no word of it is trusted. Descriptors stay the caller's to close (store_wire_message_done()).
 * @ret: what to send back.
 *
 * Context: one thread at a time.
 * Return: 0; -EPROTO: the client broke the protocol, -ECONNRESET: it said goodbye; -ENOMEM. The connection
 * is to be ended then, with no reply.
 */
int store_serve_message(struct store_serve *s, const struct store_wire_message *m,
			struct store_serve_reply *ret) must_check;

/* Let the VM read what the whole store comes to. Any thread, while the connection is not being freed; before HELLO nothing happens. */
void store_serve_figures(struct store_serve *s, uint64_t mappings, uint64_t saved);

/* The VM's name, of printable characters; "" before HELLO. And who it is. */
const char *store_serve_name(const struct store_serve *s);
uint32_t store_serve_pid(const struct store_serve *s);

#endif
