/* SPDX-License-Identifier: Apache-2.0 */
/* A histogram with eight buckets for each doubling. */
#include "base/histogram.h"

#define SUB_BITS 3
#define SUBS	 (1u << SUB_BITS)

unsigned histogram_bucket(uint64_t value)
{
	unsigned exponent, bucket;

	if (value < SUBS)
		return (unsigned)value;
	exponent = 63 - (unsigned)__builtin_clzll(value);
	bucket = (exponent - SUB_BITS + 1) * SUBS + (unsigned)(value >> (exponent - SUB_BITS) & (SUBS - 1));
	return bucket < HISTOGRAM_BUCKETS ? bucket : HISTOGRAM_BUCKETS - 1;
}

uint64_t histogram_bucket_least(unsigned bucket)
{
	unsigned exponent = bucket / SUBS + SUB_BITS - 1;

	if (bucket < SUBS)
		return bucket;
	return (uint64_t)(SUBS + bucket % SUBS) << (exponent - SUB_BITS);
}

void histogram_add(struct histogram *h, uint64_t value)
{
	h->count++;
	h->sum += value;
	h->max = value > h->max ? value : h->max;
	h->buckets[histogram_bucket(value)]++;
}

uint64_t histogram_quantile(const struct histogram *h, unsigned ppm)
{
	/* The first value has number 1; rounded up, in halves so that nothing overflows. */
	uint64_t wanted = h->count / 1000000 * ppm + (h->count % 1000000 * ppm + 999999) / 1000000, seen = 0;

	wanted = wanted ? wanted : 1;
	for (unsigned i = 0; i + 1 < HISTOGRAM_BUCKETS; i++) {
		uint64_t least = histogram_bucket_least(i), middle;

		seen += h->buckets[i];
		if (seen < wanted)
			continue;
		middle = least + (histogram_bucket_least(i + 1) - least) / 2;
		return middle < h->max ? middle : h->max;
	}
	return h->max;
}
