/* SPDX-License-Identifier: Apache-2.0 */
/* The host's side of vsock: the Unix socket PATH for programs that connect to the guest, and PATH_PORT for those that the guest
 * connects to. */
#ifndef SARDINE_VMM_VSOCK_HOST_H
#define SARDINE_VMM_VSOCK_HOST_H

#include <stdint.h>

#include "base/cleanup.h"
#include "base/errmsg.h"
#include "base/syscalls.h"
#include "vmm/unix-server.h"

/* Longest file name of PATH, so that PATH_PORT has a place in a socket's address however long its folder is. */
#define VSOCK_HOST_NAME_MAX 64

struct vsock_host;

/**
 * vsock_host_new() - Listen on PATH, mode 0600; a socket on which nobody listens any more is replaced.
 * @loop: the loop.
 * @path: PATH, absolute or not.
 * @fn, @arg: called on the loop's thread for each program of our own uid, or of root's, that connects.
 * @err: one line on failure.
 * @ret: freed with vsock_host_free(), which removes the file.
 *
 * Return: as unix_listen(), -ENAMETOOLONG, -ENOMEM.
 */
int vsock_host_new(struct io_loop *loop, const char *path, unix_server_fn fn, void *arg, struct errmsg *err,
		   struct vsock_host **ret) must_check;
void vsock_host_free(struct vsock_host *host);
DEFINE_CLEANUP(struct vsock_host, vsock_host_free)

/**
 * vsock_host_set_folder() - From now on PATH_PORT is looked for in another folder: the same one, as a confined process
 * sees it.
 * @folder: "/" after a chroot into it.
 *
 * Return: 0 or -ENOMEM.
 */
int vsock_host_set_folder(struct vsock_host *host, const char *folder) must_check;

/* From now on PATH is left behind in the end. */
void vsock_host_leave_file(struct vsock_host *host);

/**
 * vsock_host_connect() - Connect to PATH_PORT, without waiting.
 * @ret_fd: non-blocking.
 *
 * Return: 0, -ENOENT or -ECONNREFUSED when nobody listens, -EAGAIN when too many wait there, or an errno.
 */
int vsock_host_connect(const struct vsock_host *host, uint32_t port, int *ret_fd) must_check;

/**
 * vsock_hello_read() - Read on in a program's first line, "CONNECT PORT\n", and no byte behind it.
 * @fd: the program's socket, non-blocking.
 * @line: what was read before, *@len bytes of it; room for @max.
 * @ret_port: the port.
 *
 * Return: 1 when the line is complete, 0 when it is not yet, -EPROTO when it is another line or too long, or the errno of
 * reading (-ECONNRESET at the end of the stream).
 */
int vsock_hello_read(int fd, char *line, unsigned max, unsigned *len, uint32_t *ret_port) must_check;

extern const struct syscall_list vsock_host_syscalls;

#endif
