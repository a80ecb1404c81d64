/* SPDX-License-Identifier: Apache-2.0 */
/* A limit on lines that somebody else can make us log. */
#include "base/log-limit.h"
#include "base/clock.h"

#include <inttypes.h>

bool log_limit_take(struct log_limit *limit, uint64_t now_ns, uint64_t *ret_left_out)
{
	uint64_t back;
	bool pass;

	pthread_mutex_lock(&limit->mutex);
	back = limit->spent ? (now_ns - limit->since_ns) / LOG_LIMIT_EVERY_NS : 0;
	if (back >= limit->spent)
		limit->spent = 0;
	else
		limit->spent -= (unsigned)back;
	if (limit->spent == 0)
		limit->since_ns = now_ns;
	else
		limit->since_ns += back * LOG_LIMIT_EVERY_NS;
	pass = limit->spent < LOG_LIMIT_BURST;
	if (pass) {
		limit->spent++;
		*ret_left_out = limit->left_out;
		limit->left_out = 0;
	} else {
		limit->left_out++;
	}
	pthread_mutex_unlock(&limit->mutex);
	return pass;
}

bool log_allowed(struct log_limit *limit, enum log_level level)
{
	uint64_t left_out;

	if (!log_limit_take(limit, clock_now_ns(), &left_out))
		return false;
	if (left_out)
		log_line(level, "%" PRIu64 " messages like the next one were left out", left_out);
	return true;
}
