/* SPDX-License-Identifier: Apache-2.0 */
/* A listening Unix socket on the I/O loop: accepts, checks who it is, survives a lack of descriptors. */
#ifndef SARDINE_VMM_UNIX_SERVER_H
#define SARDINE_VMM_UNIX_SERVER_H

#include "base/errmsg.h"
#include "base/syscalls.h"
#include "vmm/io-loop.h"
#include "vmm/unix-socket.h"

struct unix_server;

/* @fd: a new connection of our own uid or of root, non-blocking and close-on-exec; the callee's. */
typedef void (*unix_server_fn)(void *arg, int fd);

/**
 * unix_server_new() - Listen on a path and accept on the loop.
 * @loop: the loop.
 * @path: where, see unix_listen().
 * @what: for messages.
 * @fn, @arg: called on the loop's thread for each connection.
 * @err: one line on failure.
 * @ret: freed with unix_server_free(), which removes the file.
 *
 * Return: as unix_listen(), or an errno.
 */
int unix_server_new(struct io_loop *loop, const char *path, const char *what, unix_server_fn fn, void *arg,
		    struct errmsg *err, struct unix_server **ret) must_check;
void unix_server_free(struct unix_server *server);

/* From now on unix_server_free() leaves the file. NULL is allowed. */
void unix_server_leave(struct unix_server *server);

extern const struct syscall_list unix_server_syscalls;

#endif
