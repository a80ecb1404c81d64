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

/* Open descriptors of this process. */
unsigned fault_open_fds(void);

#endif
