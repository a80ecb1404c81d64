/* SPDX-License-Identifier: Apache-2.0 */
/* Fails the N-th allocation or system call of the code under test. Linked with --wrap, so that only calls
 * from our own objects count: see sardine_fault_test() in CMakeLists.txt. */
#ifndef SARDINE_TESTS_FAULT_FAULT_H
#define SARDINE_TESTS_FAULT_FAULT_H

#include <stdbool.h>

/**
 * fault_arm() - From now on count calls, and let one fail.
 * @nth: which, from 1 on.
 *
 * Context: one thread.
 */
void fault_arm(unsigned nth);

/**
 * fault_disarm() - Stop.
 *
 * Return: the name of the function that failed, or NULL when fewer calls were made.
 */
const char *fault_disarm(void);

/**
 * fault_before() - Have a function called before each call of another, to change the world at that moment.
 * @name: the function that the code under test calls, one of the wrapped.
 * @fn: what to do, or NULL to stop; it may itself call wrapped functions.
 * @arg: for @fn.
 */
void fault_before(const char *name, void (*fn)(void *arg), void *arg);

/* Count nothing for a while: hand what fault_pause() returns to fault_go_on(). */
unsigned fault_pause(void);
void fault_go_on(unsigned left);

/* Whether the call of a function that is being made is the one that fails; sets errno. For wrappers. */
bool fault_fails(const char *name, int code);

/* Open descriptors of this process. */
unsigned fault_open_fds(void);

#endif
