/* SPDX-License-Identifier: Apache-2.0 */
/* A directory for all inputs of a fuzz target, removed when it exits. */
#ifndef SARDINE_TESTS_FUZZ_TEMPDIR_H
#define SARDINE_TESTS_FUZZ_TEMPDIR_H

#include "tests/unit/tempdir.h"

static struct tempdir tempdir_of_target;

static inline void tempdir_remove_at_exit(void)
{
	tempdir_remove(&tempdir_of_target);
}

/* Once per target. It stays when the target dies of a finding. */
static inline struct tempdir tempdir_make_until_exit(void)
{
	tempdir_of_target = tempdir_make();
	atexit(tempdir_remove_at_exit);
	return tempdir_of_target;
}

#endif
