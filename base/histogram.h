/* SPDX-License-Identifier: Apache-2.0 */
/* A histogram of durations, or of any numbers: eight buckets for each doubling, so that quantiles are told within 7 %. */
#ifndef SARDINE_BASE_HISTOGRAM_H
#define SARDINE_BASE_HISTOGRAM_H

#include <stdint.h>

/* Buckets of 1 below 16, then eight per doubling. The last one takes all from 15/16 of 2^40 on (18 minutes in ns). */
#define HISTOGRAM_BUCKETS 304u

/* Zeroed is empty. Whoever shares one guards it. */
struct histogram {
	uint64_t count;
	uint64_t sum;
	uint64_t max;
	uint64_t buckets[HISTOGRAM_BUCKETS];
};

/* The bucket of a value, and the least value of a bucket. */
unsigned histogram_bucket(uint64_t value);
uint64_t histogram_bucket_least(unsigned bucket);

/* Some ten instructions; any value. */
void histogram_add(struct histogram *h, uint64_t value);

/**
 * histogram_quantile() - The value that a share of all values does not exceed.
 * @h: the histogram.
 * @ppm: the share in parts per million: 500000 is the median, 999000 what one in a thousand exceeds.
 *
 * Return: the middle of the bucket that it lies in, never above the greatest value; 0 when there are none.
 */
uint64_t histogram_quantile(const struct histogram *h, unsigned ppm);

#endif
