/* SPDX-License-Identifier: Apache-2.0 */
/* Token buckets. */
#include "vmm/token-bucket.h"

#define NS_PER_S 1000000000ull

void token_bucket_init(struct token_bucket *b, uint64_t rate, uint64_t burst, uint64_t now_ns)
{
	if (rate > TOKEN_RATE_MAX)
		rate = TOKEN_RATE_MAX;
	if (burst > TOKEN_RATE_MAX)
		burst = TOKEN_RATE_MAX;
	if (burst == 0)
		burst = rate / 10 ? rate / 10 : 1;
	*b = (struct token_bucket){.rate = rate, .burst = burst, .tokens = (int64_t)burst, .last_ns = now_ns};
}

/* a * b / c, where the result fits. */
static uint64_t mul_div(uint64_t a, uint64_t b, uint64_t c)
{
	__extension__ typedef unsigned __int128 wide;

	return (uint64_t)((wide)a * b / c);
}

static void refill(struct token_bucket *b, uint64_t now_ns)
{
	uint64_t elapsed_ns = now_ns > b->last_ns ? now_ns - b->last_ns : 0;
	uint64_t room = (uint64_t)((int64_t)b->burst - b->tokens); /* both at most 2^62 in size */
	uint64_t added;

	/* Whatever fills the bucket is enough to know; this also keeps the product below small. */
	if (elapsed_ns >= mul_div(room, NS_PER_S, b->rate) + 1) {
		b->tokens = (int64_t)b->burst;
		b->last_ns = now_ns;
		return;
	}
	added = mul_div(elapsed_ns, b->rate, NS_PER_S);
	b->tokens += (int64_t)added;
	/* The part of a token that has not come in yet stays in last_ns. */
	b->last_ns += mul_div(added, NS_PER_S, b->rate);
}

uint64_t token_bucket_wait_ns(struct token_bucket *b, uint64_t now_ns)
{
	uint64_t missing, wait_ns;

	if (b->rate == 0)
		return 0;
	refill(b, now_ns);
	if (b->tokens > 0)
		return 0;
	missing = (uint64_t)(1 - b->tokens);
	wait_ns = mul_div(missing, NS_PER_S, b->rate) + 1;
	return b->last_ns + wait_ns > now_ns ? b->last_ns + wait_ns - now_ns : 1;
}

void token_bucket_take(struct token_bucket *b, uint64_t tokens)
{
	if (b->rate)
		b->tokens -= (int64_t)(tokens < TOKEN_RATE_MAX ? tokens : TOKEN_RATE_MAX);
}

void rate_limit_init(struct rate_limit *limit, const struct rate_config *config, uint64_t now_ns)
{
	token_bucket_init(&limit->bytes, config->bytes_per_s, 0, now_ns);
	token_bucket_init(&limit->ops, config->ops_per_s, 0, now_ns);
}

uint64_t rate_limit_wait_ns(struct rate_limit *limit, uint64_t now_ns)
{
	uint64_t bytes_ns = token_bucket_wait_ns(&limit->bytes, now_ns);
	uint64_t ops_ns = token_bucket_wait_ns(&limit->ops, now_ns);

	return bytes_ns > ops_ns ? bytes_ns : ops_ns;
}

void rate_limit_take(struct rate_limit *limit, uint64_t bytes)
{
	token_bucket_take(&limit->bytes, bytes);
	token_bucket_take(&limit->ops, 1);
}
