/* SPDX-License-Identifier: Apache-2.0 */
/* The seccomp program that is put together when a VM starts. */
#ifndef SARDINE_TOOLS_CONFINE_START_H
#define SARDINE_TOOLS_CONFINE_START_H

#include <stdbool.h>

#include "base/cleanup.h"
#include "base/errmsg.h"
#include "vmm/config.h"

/**
 * confine_start_filter() - Refuse all threads what this VM does not need of what the tables allow; see confine-start.c.
 * @mode: what happens to a call that is refused (on: the VM is killed; log: it is logged), or off: nothing is done.
 * @vsock: whether sockets are made.
 * @reopens: whether a file is opened anew on SIGHUP.
 * @err: one line on failure.
 *
 * Context: no_new_privs is set, and this is the only thread: those that it starts inherit the program.
 * Return: 0 or an errno.
 */
int confine_start_filter(enum config_seccomp mode, bool vsock, bool reopens, struct errmsg *err) must_check;

#endif
