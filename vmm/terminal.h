/* SPDX-License-Identifier: Apache-2.0 */
/* The user's terminal in raw mode, given back on every way out of the process; and the escape key. */
#ifndef SARDINE_VMM_TERMINAL_H
#define SARDINE_VMM_TERMINAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/syscalls.h"

/**
 * terminal_raw() - Put the terminal into raw mode until terminal_restore().
 * @fd: the terminal; must stay open until it is restored.
 *
 * From then on the old mode comes back at exit(), before the process dies of a signal whose default would end
 * it (signals that have a handler or are blocked at this moment are their owner's business), and by
 * terminal_restore(). After SIGSTOP and `fg`, raw mode is set again (SIGCONT). Output processing is left as
 * it is, so that log lines do not turn into stairs.
 *
 * Not covered: SIGKILL, and a stack overflow, for which no handler can run.
 *
 * Context: one thread, before or after others exist; one terminal per process.
 * Return: 0, -ENOTTY when it is no terminal, -EBUSY when a terminal is raw already, -EPERM when the process
 * is in the background of it (reading would stop the process), or the errno of tcsetattr.
 */
int terminal_raw(int fd) must_check;

/* Give the terminal back its mode; does nothing when it is not raw. Async-signal-safe. */
void terminal_restore(void);

#define TERMINAL_ESCAPE 0x01 /* Ctrl-A */

/* The escape key's state; zeroed is the start. */
struct terminal_escape {
	bool armed; /* the last key was the escape key */
};

/**
 * terminal_escape_filter() - Take the escape sequences out of what was typed.
 * @state: kept between calls.
 * @buf: the bytes; what the guest shall see is left at its start.
 * @len: in: bytes typed; out: bytes left. It never grows.
 *
 * Ctrl-A x (or X) asks to leave; Ctrl-A a and Ctrl-A Ctrl-A stand for one Ctrl-A; Ctrl-A with another key is
 * dropped. What follows a request to leave in the same buffer is dropped.
 *
 * Return: true when leaving was asked for.
 */
bool terminal_escape_filter(struct terminal_escape *state, uint8_t *buf, size_t *len);

extern const struct syscall_list terminal_syscalls;

#endif
