/* SPDX-License-Identifier: Apache-2.0 */
/* A limit on lines that somebody else can make us log: a few at once, then one now and then, and how many were left out. */
#ifndef SARDINE_BASE_LOG_LIMIT_H
#define SARDINE_BASE_LOG_LIMIT_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/log.h"

#define LOG_LIMIT_BURST	   10
#define LOG_LIMIT_EVERY_NS 10000000000u /* after a burst: one line every 10 s, 1 MiB a day at most */

/* One per kind of line, or per device and kind. */
struct log_limit {
	pthread_mutex_t mutex; /* guards what follows */
	uint64_t since_ns;     /* the lines that are spent come back from here on */
	unsigned spent;
	uint64_t left_out; /* since the last line */
};

#define LOG_LIMIT_INIT                                                                                       \
	{                                                                                                    \
		.mutex = PTHREAD_MUTEX_INITIALIZER                                                           \
	}

/**
 * log_limit_take() - Whether a line may be written.
 * @now_ns: CLOCK_MONOTONIC.
 * @ret_left_out: lines that were not since the last one that was; set when this one may be.
 *
 * Context: any thread.
 */
bool log_limit_take(struct log_limit *limit, uint64_t now_ns, uint64_t *ret_left_out) must_check;

/* The same, now; says how many were left out before. For reports of several lines. */
bool log_allowed(struct log_limit *limit, enum log_level level) must_check;

/* As log_line(), for what a guest can bring about. */
#define log_limited(limit, level, ...)                                                                       \
	do {                                                                                                 \
		if (log_allowed(limit, level))                                                               \
			log_line(level, __VA_ARGS__);                                                        \
	} while (0)

#endif
