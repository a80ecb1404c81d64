/* SPDX-License-Identifier: Apache-2.0 */
/* The clock that all deadlines and measurements go by. */
#ifndef SARDINE_BASE_CLOCK_H
#define SARDINE_BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

/* CLOCK_MONOTONIC in ns. Any thread. */
static inline uint64_t clock_now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

#endif
