/* SPDX-License-Identifier: Apache-2.0 */
/* Stream sockets in the file system: listening, connecting, and telling a dead socket file from a live one. */
#ifndef SARDINE_VMM_UNIX_SOCKET_H
#define SARDINE_VMM_UNIX_SOCKET_H

#include <sys/stat.h>
#include <sys/types.h>

#include "base/cleanup.h"
#include "base/errmsg.h"

/* A listening socket and the file that it is; zeroed with fd -1 is none. */
struct unix_listener {
	int fd;
	char *path;
	dev_t dev; /* of the file, so that only our own is removed */
	ino_t ino;
};

#define UNIX_LISTENER_NONE ((struct unix_listener){.fd = -1})

/**
 * unix_listen() - Listen on a path, mode 0600, non-blocking and close-on-exec.
 * @path: where; paths too long for sockaddr_un are reached through their directory.
 * @what: the option or thing, for messages, e.g. "--console unix:/tmp/c".
 * @err: one line on failure.
 * @ret: the listener; unix_listener_close() ends it.
 *
 * A socket file on which nobody listens any more is replaced; a live one, or a file of another kind, is not.
 *
 * Return: 0, -EADDRINUSE when somebody listens there, -EEXIST when it is no socket, or an errno.
 */
int unix_listen(const char *path, const char *what, struct errmsg *err, struct unix_listener *ret) must_check;

/* The same for sockets of another type: SOCK_SEQPACKET. */
int unix_listen_type(const char *path, int type, const char *what, struct errmsg *err,
		     struct unix_listener *ret) must_check;

/* Close, and remove the file if it is still ours. A listener that is none is allowed. */
void unix_listener_close(struct unix_listener *listener);

/* From now on the file stays when the listener is closed: it is out of reach, or somebody else's to remove. */
void unix_listener_leave(struct unix_listener *listener);

/**
 * unix_connect() - Connect to a path.
 * @ret_fd: a blocking, close-on-exec descriptor.
 *
 * Return: 0, -ENOENT, -ECONNREFUSED when nobody listens, or an errno.
 */
int unix_connect(const char *path, int *ret_fd) must_check;

/**
 * unix_connect_now() - Connect to a path without waiting.
 * @ret_fd: a non-blocking, close-on-exec descriptor.
 *
 * Return: as unix_connect(), -EAGAIN when the listener has too many connections that it has not accepted.
 */
int unix_connect_now(const char *path, int *ret_fd) must_check;

/**
 * unix_peer_uid() - Who is at the other end (SO_PEERCRED).
 *
 * Return: 0 or an errno.
 */
int unix_peer_uid(int fd, uid_t *ret_uid) must_check;

#endif
