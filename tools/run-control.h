/* SPDX-License-Identifier: Apache-2.0 */
/* The control socket of a running VM: what its requests do to VM and console. */
#ifndef SARDINE_TOOLS_RUN_CONTROL_H
#define SARDINE_TOOLS_RUN_CONTROL_H

#include "tools/run-confine.h"
#include "vmm/console.h"
#include "vmm/control.h"
#include "vmm/vm.h"

struct run_control;

/**
 * run_control_new() - Serve a VM's control socket.
 * @loop: the loop.
 * @path: of the socket.
 * @vm, @console, @name: outlive the object.
 * @err: one line on failure.
 * @ret: freed with run_control_free().
 *
 * Return: 0 or an errno.
 */
int run_control_new(struct io_loop *loop, const char *path, struct vm *vm, struct console *console,
		    const char *name, struct errmsg *err, struct run_control **ret) must_check;
void run_control_free(struct run_control *rc);

/* What becomes of a daemon's socket: @attach takes it, on the loop's thread. Until then, and with NULL, none is taken. */
void run_control_set_attach(struct run_control *rc, void (*attach)(void *arg, int fd), void *arg);

/* The process is confined, as @done says: threads call @confine first, and the socket's file is left in the end if @leave_file. */
void run_control_confined(struct run_control *rc, const struct confine_done *done, thread_confine_fn confine,
			  bool leave_file);
DEFINE_CLEANUP(struct run_control, run_control_free)

/* As control_stop(), control_rebooted() and control_ended(). */
void run_control_stop(struct run_control *rc, uint64_t timeout_ns);
void run_control_rebooted(struct run_control *rc);
void run_control_ended(struct run_control *rc, const char *end, const char *detail);

#endif
