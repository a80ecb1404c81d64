/* SPDX-License-Identifier: Apache-2.0 */
/* Tells a service manager how the VM fares (sd_notify(3)), when there is one. */
#ifndef SARDINE_TOOLS_RUN_NOTIFY_H
#define SARDINE_TOOLS_RUN_NOTIFY_H

#include "base/errmsg.h"

struct run_notify {
	int fd; /* connected; -1: nobody listens */
};

#define RUN_NOTIFY_NONE ((struct run_notify){.fd = -1})

/**
 * run_notify_open() - Connect to $NOTIFY_SOCKET, and take it out of the environment.
 * @n: filled; ended with run_notify_close() also after a failure.
 * @err: one line on failure.
 *
 * The address is a path, or the name of an abstract socket behind '@'. Without the variable nothing is ever sent.
 *
 * Context: before other threads exist.
 * Return: 0; -EAFNOSUPPORT for an address of another kind; or an errno.
 */
int run_notify_open(struct run_notify *n, struct errmsg *err);
void run_notify_close(struct run_notify *n);

/**
 * run_notify_send() - Send "READY=1", "STOPPING=1", "STATUS=..", or several of them on lines of their own.
 *
 * Waits for at most a second when the manager does not read. Context: any thread.
 */
void run_notify_send(const struct run_notify *n, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
