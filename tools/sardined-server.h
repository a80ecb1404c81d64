/* SPDX-License-Identifier: Apache-2.0 */
/* The daemon's connections: accepted on the loop, worked on by threads, one store per user. */
#ifndef SARDINE_TOOLS_SARDINED_SERVER_H
#define SARDINE_TOOLS_SARDINED_SERVER_H

#include <jansson.h>

#include "base/errmsg.h"
#include "vmm/io-loop.h"

#define SERVER_THREADS_MAX     64u
#define SERVER_CONNECTIONS_MAX 16384u

struct server;

/**
 * server_new() - Listen, and serve.
 * @loop: accepts, and does the stores' due work.
 * @path: of the socket.
 * @threads: that work on calls, 1 to SERVER_THREADS_MAX.
 * @err: one line on failure.
 *
 * Return: 0, -EADDRINUSE when a daemon serves this socket, or an errno.
 */
int server_new(struct io_loop *loop, const char *path, unsigned threads, struct errmsg *err,
	       struct server **ret) must_check;
/* Ends all connections, and removes the socket. Context: the loop's thread, or after it ended. NULL is allowed. */
void server_free(struct server *s);
DEFINE_CLEANUP(struct server, server_free)

/**
 * server_add() - Serve a socket that was handed to a VM.
 * @fd: our end, with SO_PASSCRED set; taken in any case.
 *
 * Context: any thread.
 * Return: 0, -EUSERS with too many connections, or an errno.
 */
int server_add(struct server *s, int fd) must_check;

/* What is served, as JSON; a new reference, NULL without memory. Any thread. */
json_t *server_json(struct server *s);

#endif
