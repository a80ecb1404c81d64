/* SPDX-License-Identifier: Apache-2.0 */
/* Which frames a guest has put into its balloon, and giving them back in ranges. */
/*
 * Theory of operation
 *
 * A message is a list of frame numbers in the guest's order (Linux: roughly descending, by allocation). It is
 * sorted, and runs of consecutive frames inside one region become one discard each. Numbers outside RAM fall
 * out on the way.
 *
 * What is in the balloon is a bitmap over all regions, one after the other. It makes the account exact
 * whatever the guest says twice or out of order, and is never the reason to discard anything: only a message
 * is. It is mapped, not allocated, so that it occupies memory only where bits were set (32 KiB for each GiB
 * that a guest inflates), and a reset gives it back.
 *
 * Cost of a message of n frames: n log n to sort, n bit operations, one discard per run.
 */
#include "balloon/balloon.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>

struct region {
	uint64_t first; /* gfn */
	uint64_t end;
	uint64_t bit; /* of the first frame */
};

struct balloon {
	const struct balloon_ops *ops;
	void *arg;
	size_t region_count;
	struct region regions[BALLOON_REGIONS_MAX];
	uint64_t *bitmap;
	size_t bitmap_bytes;
	struct balloon_counters counters;
};

static int regions_copy(struct balloon *b, const struct balloon_region *regions, size_t count,
			uint64_t *ret_frames)
{
	uint64_t bit = 0, after = 0;

	if (count == 0 || count > BALLOON_REGIONS_MAX)
		return -EINVAL;
	for (size_t i = 0; i < count; i++) {
		uint64_t first = regions[i].first.v, frames = regions[i].frames;

		if (frames == 0 || first < after || first > UINT32_MAX ||
		    frames > (uint64_t)UINT32_MAX + 1 - first)
			return -EINVAL;
		b->regions[i] = (struct region){.first = first, .end = first + frames, .bit = bit};
		after = first + frames;
		bit += frames;
	}
	b->region_count = count;
	*ret_frames = bit;
	return 0;
}

int balloon_new(const struct balloon_region *regions, size_t count, const struct balloon_ops *ops, void *arg,
		struct balloon **ret)
{
	cleanup(balloon_free_p) struct balloon *b = calloc(1, sizeof(*b));
	uint64_t frames;
	void *bitmap;
	int r;

	if (!b)
		return -ENOMEM;
	b->ops = ops;
	b->arg = arg;
	r = regions_copy(b, regions, count, &frames);
	if (r < 0)
		return r;
	b->bitmap_bytes = (size_t)page_up((frames + 7) / 8);
	bitmap = mmap(NULL, b->bitmap_bytes, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (bitmap == MAP_FAILED)
		return -ENOMEM;
	b->bitmap = bitmap;
	*ret = TAKE_PTR(b);
	return 0;
}

void balloon_free(struct balloon *b)
{
	if (!b)
		return;
	if (b->bitmap)
		munmap(b->bitmap, b->bitmap_bytes);
	free(b);
}

static const struct region *region_of(const struct balloon *b, uint64_t gfn)
{
	for (size_t i = 0; i < b->region_count; i++)
		if (gfn >= b->regions[i].first && gfn < b->regions[i].end)
			return &b->regions[i];
	return NULL;
}

static bool bit_get(const struct balloon *b, uint64_t bit)
{
	return b->bitmap[bit / 64] >> (bit % 64) & 1;
}

static void bit_flip(struct balloon *b, uint64_t bit)
{
	b->bitmap[bit / 64] ^= (uint64_t)1 << (bit % 64);
}

static int compare_pfns(const void *a, const void *b)
{
	uint32_t x, y;

	memcpy(&x, a, sizeof(x));
	memcpy(&y, b, sizeof(y));
	return (x > y) - (x < y);
}

/* Put a frame in or take it out; say whether that changed anything. */
static bool frame_mark(struct balloon *b, uint64_t bit, bool in)
{
	if (bit_get(b, bit) == in) {
		b->counters.repeated++;
		return false;
	}
	bit_flip(b, bit);
	return true;
}

static void give_back(struct balloon *b, uint64_t first, uint64_t frames)
{
	unsigned calls = 0;

	if (frames == 0)
		return;
	b->counters.discard_ranges++;
	if (b->ops->discard(b->arg, GFN(first), frames, &calls) < 0)
		b->counters.discard_errors++;
	b->counters.discard_calls += calls;
}

int balloon_inflate(struct balloon *b, uint32_t *pfns, size_t count)
{
	const struct region *run_region = NULL;
	uint64_t run_first = 0, run_end = 0; /* the run that is being collected */

	if (count > BALLOON_MESSAGE_FRAMES_MAX)
		return -E2BIG;
	qsort(pfns, count, sizeof(*pfns), compare_pfns);
	for (size_t i = 0; i < count; i++) {
		const struct region *r = region_of(b, pfns[i]);

		if (!r) {
			b->counters.refused++;
			continue;
		}
		if (frame_mark(b, r->bit + (pfns[i] - r->first), true)) {
			b->counters.frames++;
			b->counters.inflated++;
		}
		if (r == run_region && pfns[i] < run_end)
			continue; /* twice in one message */
		if (r == run_region && pfns[i] == run_end) {
			run_end++;
			continue;
		}
		give_back(b, run_first, run_end - run_first);
		run_region = r;
		run_first = pfns[i];
		run_end = run_first + 1;
	}
	give_back(b, run_first, run_end - run_first);
	return 0;
}

int balloon_deflate(struct balloon *b, uint32_t *pfns, size_t count)
{
	if (count > BALLOON_MESSAGE_FRAMES_MAX)
		return -E2BIG;
	for (size_t i = 0; i < count; i++) {
		const struct region *r = region_of(b, pfns[i]);

		if (!r) {
			b->counters.refused++;
		} else if (frame_mark(b, r->bit + (pfns[i] - r->first), false)) {
			b->counters.frames--;
			b->counters.deflated++;
		}
	}
	return 0;
}

static int compare_ranges(const void *a, const void *b)
{
	const struct balloon_range *x = a, *y = b;

	return (x->first.v > y->first.v) - (x->first.v < y->first.v);
}

/* Whether a range is whole frames of one region, which is then in @ret. */
static bool range_check(const struct balloon *b, const struct balloon_range *range, const struct region **ret)
{
	const struct region *r;

	if ((range->first.v | range->bytes) & PAGE_MASK || range->bytes == 0)
		return false;
	r = region_of(b, gpa_to_gfn(range->first).v);
	if (!r || range->bytes >> PAGE_SHIFT > r->end - gpa_to_gfn(range->first).v)
		return false;
	*ret = r;
	return true;
}

static void report_run(struct balloon *b, uint64_t first, uint64_t end, bool keep)
{
	if (keep) {
		b->counters.report_kept += end - first;
		return;
	}
	b->counters.reported += end - first;
	give_back(b, first, end - first);
}

void balloon_report(struct balloon *b, struct balloon_range *ranges, size_t count, bool keep)
{
	const struct region *run_region = NULL;
	uint64_t run_first = 0, run_end = 0; /* the run that is being collected */

	qsort(ranges, count, sizeof(*ranges), compare_ranges);
	for (size_t i = 0; i < count; i++) {
		uint64_t first = gpa_to_gfn(ranges[i].first).v;
		uint64_t end = first + (ranges[i].bytes >> PAGE_SHIFT);
		const struct region *r;

		if (!range_check(b, &ranges[i], &r)) {
			b->counters.report_ignored++;
		} else if (r == run_region && first <= run_end) {
			if (end > run_end)
				run_end = end;
		} else {
			report_run(b, run_first, run_end, keep);
			run_region = r;
			run_first = first;
			run_end = end;
		}
	}
	report_run(b, run_first, run_end, keep);
}

void balloon_settle(struct balloon *b)
{
	if (b->ops->settle)
		b->counters.discard_calls += b->ops->settle(b->arg);
}

void balloon_reset(struct balloon *b)
{
	balloon_settle(b);
	b->counters.frames = 0;
	/* Private anonymous memory reads as zero afterwards; memory that is locked cannot be dropped. */
	if (madvise(b->bitmap, b->bitmap_bytes, MADV_DONTNEED) < 0)
		memset(b->bitmap, 0, b->bitmap_bytes);
}

bool balloon_contains(const struct balloon *b, gfn_t gfn)
{
	const struct region *r = region_of(b, gfn.v);

	return r && bit_get(b, r->bit + (gfn.v - r->first));
}

void balloon_counters(const struct balloon *b, struct balloon_counters *ret)
{
	*ret = b->counters;
}
