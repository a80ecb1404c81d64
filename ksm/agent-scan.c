/* SPDX-License-Identifier: Apache-2.0 */
/* The memory agent's scan: what was written becomes volatile, what is a hole dropped; hot blocks are left alone. */
#include <errno.h>
#include <string.h>

#include "ksm/agent-internal.h"
#include "ksm/break.h"

/*
 * Hot blocks. To protect a page costs its guest a fault at the next write (10 us through this machine's KVM), and a
 * huge page its size. A block that was written in HOT_STREAK passes in a row, each time after it was protected, is left
 * unprotected for 2 passes, when it is written again at once after that for 4, and so on up to 64. A block that was left
 * in peace for a pass starts one level lower next time. Only what was written is left unprotected: other frames of the
 * block stay protected, recorded and shared.
 */
#define HOT_STREAK    2u
#define HOT_LEVEL_MAX 6u

/* Try all; then only what is plain memory: boot files lie between. */
static int watch_range(struct agent *a, uint64_t first, uint64_t end)
{
	hva_t at;
	uint64_t n = agent_frames_span(a, first, end, &at);

	if (n != end - first)
		return -EFAULT;
	return write_tracker_add(a->tracker, at, n * PAGE_BYTES);
}

static bool is_private(const struct agent *a, uint64_t first, uint64_t end)
{
	return a->view.ops->is_private(a->view.ctx, GFN(first), end - first);
}

/* Where plain memory ends that begins at @f, or @f. */
static uint64_t private_until(const struct agent *a, uint64_t f, uint64_t end)
{
	while (f < end) {
		uint64_t next = (f / BLOCK_FRAMES + 1) * BLOCK_FRAMES;

		if (next > end)
			next = end;
		if (!is_private(a, f, next)) {
			while (f < next && is_private(a, f, f + 1))
				f++;
			return f;
		}
		f = next;
	}
	return f;
}

static int watch_parts(struct agent *a, uint64_t f, uint64_t end)
{
	int r = 0;

	while (r == 0 && f < end) {
		uint64_t until = private_until(a, f, end);

		if (until > f)
			r = watch_range(a, f, until);
		f = until > f ? until : f + 1;
	}
	return r;
}

int agent_watch_all(struct agent *a)
{
	int r = 0;
	hva_t at;

	for (size_t i = 0; r == 0 && i < a->range_count; i++) {
		uint64_t first = a->ranges[i].first.v, end = first + a->ranges[i].frames;

		if (agent_frames_span(a, first, end, &at) != end - first)
			return -EFAULT;
		r = is_private(a, first, end) ? watch_range(a, first, end) : watch_parts(a, first, end);
	}
	return r;
}

/* Once per pass and block, at the first written range in it. */
static void block_touch(struct agent *a, struct agent_block *b)
{
	uint16_t now = (uint16_t)a->pass_number;

	if (b->touched == now)
		return;
	if (b->skip) {
		b->skip--;
	} else if (b->touched == (uint16_t)(now - 1)) {
		if (b->streak < HOT_STREAK) {
			b->streak++;
		} else {
			if (b->level < HOT_LEVEL_MAX)
				b->level++;
			b->skip = (uint8_t)(1u << b->level);
		}
	} else {
		b->streak = 0;
		if (b->level)
			b->level--;
	}
	b->touched = now;
	b->leave = b->skip && !a->forced;
	a->sums.hot_blocks += b->leave;
}

static uint64_t frame_of(const struct agent *a, hva_t at)
{
	return a->scanned->first.v + (at.v - a->scanned_at.v) / PAGE_BYTES;
}

/* All blocks of the range that are to be treated alike. */
static bool scan_protect(void *ctx, struct write_range *range)
{
	struct agent *a = ctx;
	uint64_t f = frame_of(a, range->start), first = f, end = f + range->bytes / PAGE_BYTES;
	bool leave;

	block_touch(a, &a->blocks[f / BLOCK_FRAMES]);
	leave = a->blocks[f / BLOCK_FRAMES].leave;
	for (f = (f / BLOCK_FRAMES + 1) * BLOCK_FRAMES; f < end; f += BLOCK_FRAMES) {
		block_touch(a, &a->blocks[f / BLOCK_FRAMES]);
		if (a->blocks[f / BLOCK_FRAMES].leave != leave)
			break;
	}
	if (f < end)
		range->bytes = (f - first) * PAGE_BYTES;
	return !leave;
}

static bool in_book(uint8_t byte)
{
	return (byte & FRAME_STATE) == PAGE_STATE_SHARED || byte & FRAME_BROKEN;
}

/*
 * Frames that were the store's, and are plain memory now: somebody mapped it there. Without memory to cut an extent in
 * two the book keeps what is gone; the scan goes on, since what it protected is not reported again.
 */
static void leave_book(struct agent *a, uint64_t f, uint64_t end)
{
	for (uint64_t next; f < end; f = next) {
		next = f + 1;
		if (!in_book(a->frames[f]))
			continue;
		while (next < end && in_book(a->frames[next]))
			next++;
		if (agent_extents_forget(a, (uint32_t)f, (uint32_t)(next - f)) < 0)
			a->sums.errors++;
	}
}

/* Eight bytes that all say the same. */
static bool eight_are(const uint8_t *frames, uint8_t byte)
{
	uint64_t v;

	memcpy(&v, frames, sizeof(v));
	return v == 0x0101010101010101u * byte;
}

static void holes_in_block(struct agent *a, uint64_t f, uint64_t end)
{
	if (a->blocks[f / BLOCK_FRAMES].holes == BLOCK_FRAMES)
		return;
	if (a->extents.count)
		leave_book(a, f, end);
	for (; f < end; f++) {
		uint8_t byte = a->frames[f];

		if (f % 8 == 0 && end - f >= 8 &&
		    (eight_are(a->frames + f, PAGE_STATE_DROPPED) ||
		     eight_are(a->frames + f, PAGE_STATE_GIVEN))) {
			f += 7;
			continue;
		}
		if (byte == PAGE_STATE_DROPPED || byte == PAGE_STATE_GIVEN)
			continue;
		agent_frame_move(a, f, byte & FRAME_GIVEN ? PAGE_STATE_GIVEN : PAGE_STATE_DROPPED, 0);
	}
}

static void written_in_block(struct agent *a, uint64_t f, uint64_t end)
{
	agent_block_list(a, f / BLOCK_FRAMES);
	if (a->extents.count)
		leave_book(a, f, end);
	block_touch(a, &a->blocks[f / BLOCK_FRAMES]);
	for (; f < end; f++) {
		if (a->frames[f] == (PAGE_STATE_VOLATILE | FRAME_FRESH) ||
		    (broken(BREAK_REPORT_LOST) && agent_frame_state(a, f) == PAGE_STATE_CANDIDATE))
			continue;
		agent_frame_move(a, f, PAGE_STATE_VOLATILE, FRAME_FRESH);
	}
}

static int scan_report(void *ctx, const struct write_range *range)
{
	struct agent *a = ctx;
	uint64_t f = frame_of(a, range->start), end = f + range->bytes / PAGE_BYTES, next;

	if (!range->hole)
		a->sums.scanned_written += end - f;
	for (; f < end; f = next) {
		next = (f / BLOCK_FRAMES + 1) * BLOCK_FRAMES;
		if (next > end)
			next = end;
		if (range->hole)
			holes_in_block(a, f, next);
		else
			written_in_block(a, f, next);
	}
	return 0;
}

int agent_scan(struct agent *a)
{
	const struct write_scan scan = {.protect = scan_protect, .report = scan_report, .ctx = a};
	int r = 0;

	a->pass_number++;
	a->sums.hot_blocks = 0;
	for (size_t i = 0; r == 0 && i < a->range_count; i++) {
		a->scanned = &a->ranges[i];
		if (agent_frames_span(a, a->scanned->first.v, a->scanned->first.v + a->scanned->frames,
				      &a->scanned_at) != a->scanned->frames)
			return -EFAULT;
		r = write_tracker_scan(a->tracker, a->scanned_at, a->scanned->frames * PAGE_BYTES, &scan);
	}
	return r;
}
