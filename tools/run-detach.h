/* SPDX-License-Identifier: Apache-2.0 */
/* `run --detach`: the VM in a process of its own, whose starter waits until it runs or has failed. */
#ifndef SARDINE_TOOLS_RUN_DETACH_H
#define SARDINE_TOOLS_RUN_DETACH_H

#include <sys/types.h>

#include "base/cleanup.h"
#include "base/errmsg.h"

/**
 * detach_fork() - Fork; the child leads a session of its own with /dev/null as its three files.
 * @ret_fd: in the child, where detach_report() goes; close-on-exec.
 * @err: one line on failure.
 *
 * Context: before other threads exist.
 * Return: the child's pid in the parent, with its end of the pipe in @ret_fd; 0 in the child; a negative
 * errno.
 */
pid_t detach_fork(int *ret_fd, struct errmsg *err) must_check;

/**
 * detach_wait() - In the parent: wait for the child's report.
 * @fd: from detach_fork().
 * @ret_code: the exit code it gave; CLI_FAILED when it died without a report.
 * @text: its line; says so when it died.
 */
void detach_wait(int fd, int *ret_code, struct errmsg *text);

/**
 * detach_report() - In the child: tell the parent once, then close.
 * @fd: from detach_fork(); closed and set to -1.
 * @code: CLI_OK once the VM runs.
 * @text: the line on failure, else "".
 *
 * Return: 0 or -EPIPE when the parent is gone.
 */
int detach_report(int *fd, int code, const char *text) must_check;

#endif
