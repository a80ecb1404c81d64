/* SPDX-License-Identifier: Apache-2.0 */
/* Rate limits by token buckets: bytes and operations per second of one device. Time is given, never asked for. */
#ifndef SARDINE_VMM_TOKEN_BUCKET_H
#define SARDINE_VMM_TOKEN_BUCKET_H

#include <stdbool.h>
#include <stdint.h>

/* Largest rate that is kept exactly; larger ones are cut to it (1 TiB/s: above what any device does). */
#define TOKEN_RATE_MAX ((uint64_t)1 << 40)

/*
 * A bucket fills at `rate` tokens a second up to `burst` and starts full. What is taken may exceed what is in it, once: the
 * bucket is then in debt and gives nothing until that is paid off. So a request of any size goes through at last, and the rate
 * holds in the long run.
 */
struct token_bucket {
	uint64_t rate; /* tokens a second; 0: no limit */
	uint64_t burst;
	int64_t tokens;	  /* below 0: debt */
	uint64_t last_ns; /* when tokens was right, up to a part of a token */
};

/**
 * token_bucket_init() - A full bucket.
 * @rate: tokens a second, 0 for no limit.
 * @burst: its size; 0 stands for a tenth of a second's tokens, at least one.
 * @now_ns: CLOCK_MONOTONIC.
 */
void token_bucket_init(struct token_bucket *b, uint64_t rate, uint64_t burst, uint64_t now_ns);

/* How long to wait until anything may be taken, in ns, rounded up; 0: now. */
uint64_t token_bucket_wait_ns(struct token_bucket *b, uint64_t now_ns);

/* Take tokens, after token_bucket_wait_ns() said 0. */
void token_bucket_take(struct token_bucket *b, uint64_t tokens);

/* The limits of a device, as bw= and iops= of its option. */
struct rate_config {
	uint64_t bytes_per_s; /* 0: no limit */
	uint64_t ops_per_s;   /* 0: no limit */
};

struct rate_limit {
	struct token_bucket bytes;
	struct token_bucket ops;
};

void rate_limit_init(struct rate_limit *limit, const struct rate_config *config, uint64_t now_ns);

static inline bool rate_limit_is_set(const struct rate_limit *limit)
{
	return limit->bytes.rate || limit->ops.rate;
}

/* How long until the next operation may begin, in ns; 0: now. */
uint64_t rate_limit_wait_ns(struct rate_limit *limit, uint64_t now_ns);

/* An operation of so many bytes begins. */
void rate_limit_take(struct rate_limit *limit, uint64_t bytes);

#endif
