/* SPDX-License-Identifier: Apache-2.0 */
/* The memory agent's donations: wanted frames are copied into segments, in an order that keeps runs together. */
#include <errno.h>
#include <string.h>

#include "ksm/agent-internal.h"
#include "ksm/guest-bytes.h"
#include "ksm/page-hash.h"
#include "ksm/store-layout.h"

/* New pages that a whole block must have to be laid as one: else pages that the store has are stored again in vain. */
#define BLOCK_NEW_MIN (BLOCK_FRAMES * 3 / 4)

/* A segment that is being filled, and which frames went into it. */
struct donation {
	struct agent *a;
	struct segment *s;
	uint32_t frames[SEGMENT_PAGES];
	uint32_t count;
};

static int by_frame(const void *x, const void *y)
{
	const struct agent_wanted *a = x, *b = y;

	if (a->frame != b->frame)
		return a->frame < b->frame ? -1 : 1;
	return (int)a->have - (int)b->have; /* wanted first */
}

static bool still_there(const struct agent *a, const struct agent_wanted *w)
{
	enum page_state s = agent_frame_state(a, w->frame);

	return s == PAGE_STATE_CANDIDATE || (s == PAGE_STATE_MATCHED && w->have);
}

/* Each frame once, and only those whose record holds. */
static void tidy(struct agent *a)
{
	struct wanted_list *l = &a->wanted;
	size_t n = 0;

	qsort(l->v, l->count, sizeof(*l->v), by_frame);
	for (size_t i = 0; i < l->count; i++)
		if (still_there(a, &l->v[i]) && (n == 0 || l->v[n - 1].frame != l->v[i].frame))
			l->v[n++] = l->v[i];
	l->count = n;
}

/* Take a frame out of blocks that are whole, but have little that is new. */
static void open_old_blocks(struct wanted_list *l)
{
	size_t n = 0;

	for (size_t i = 0, end; i < l->count; i = end) {
		uint32_t block = l->v[i].frame / BLOCK_FRAMES, new = 0;
		bool left_out = false;

		for (end = i; end < l->count && l->v[end].frame / BLOCK_FRAMES == block; end++)
			new += !l->v[end].have;
		for (size_t k = i; k < end; k++) {
			if (!left_out && end - i == BLOCK_FRAMES && new < BLOCK_NEW_MIN && l->v[k].have) {
				left_out = true;
				continue;
			}
			l->v[n++] = l->v[k];
		}
	}
	l->count = n;
}

static int append(struct donation *d, const uint8_t *bytes, uint32_t pages)
{
	_Alignas(8) uint8_t room[PAGE_BYTES];
	uint32_t at;

	if (guest_bytes_read(bytes, room, sizeof(room)) == bytes)
		return segment_append(d->s, bytes, pages, &at);
	for (uint32_t i = 0; i < pages; i++) {
		int r = segment_append(d->s, guest_bytes_read(bytes + i * PAGE_BYTES, room, sizeof(room)), 1,
				       &at);

		if (r < 0)
			return r;
	}
	return 0;
}

/* Copy frames [first, first + n). */
static int append_run(struct donation *d, uint32_t first, uint32_t n)
{
	uint64_t f = first, end = f + n;
	int r = 0;

	while (r == 0 && f < end) {
		hva_t at;
		uint64_t piece = agent_frames_span(d->a, f, end, &at);

		if (piece == 0)
			return -EFAULT;
		r = append(d, hva_ptr(at), (uint32_t)piece);
		f += piece;
	}
	for (uint32_t i = 0; i < n; i++)
		d->frames[d->count++] = first + i;
	return r;
}

/* A loan that comes to nothing ends all the same; half full, it is of some use even. @s: NULL is allowed. */
static void give_back(struct agent *a, struct segment *s)
{
	uint32_t segment;

	if (s)
		(void)!a->link->ops->offer(a->link, s, &segment);
}

/* What the store wants is only good for it when it is there soon; a failure costs sharing, no more. */
static int pour(struct agent *a, const struct store_layout *l, size_t first, uint32_t pages)
{
	struct donation d = {.a = a};
	uint32_t segment;
	int r = a->link->ops->lend(a->link, pages, &d.s);

	for (size_t i = first, end; r == 0 && i < first + pages; i = end) {
		uint32_t frame = a->wanted.v[l->order[i]].frame;

		for (end = i + 1;
		     end < first + pages && a->wanted.v[l->order[end]].frame == frame + (end - i);)
			end++;
		r = append_run(&d, frame, (uint32_t)(end - i));
	}
	if (r < 0) {
		give_back(a, d.s);
		return r;
	}
	r = a->link->ops->offer(a->link, d.s, &segment);
	if (r < 0)
		return r;
	a->sums.donated += pages;
	a->pass.donated += pages;
	for (uint32_t i = 0; i < d.count; i++)
		if (agent_frame_state(a, d.frames[i]) == PAGE_STATE_CANDIDATE)
			agent_match(a, d.frames[i], segment, i);
	return 0;
}

static int pour_all(struct agent *a, const struct store_layout *l)
{
	int r = 0;

	/* Whole blocks come first: each fills a segment, which is a huge page. */
	for (size_t i = 0; r == 0 && i < l->count; i += SEGMENT_PAGES) {
		size_t n = l->count - i < SEGMENT_PAGES ? l->count - i : SEGMENT_PAGES;

		r = pour(a, l, i, (uint32_t)n);
	}
	return r;
}

int agent_donate(struct agent *a)
{
	struct store_layout l = {0};
	struct layout_frame *f;
	int r;

	if (a->wanted.count == 0)
		return 0;
	tidy(a);
	open_old_blocks(&a->wanted);
	f = calloc(a->wanted.count + 1, sizeof(*f));
	if (!f)
		return -ENOMEM;
	for (size_t i = 0; i < a->wanted.count; i++) {
		const struct agent_wanted *w = &a->wanted.v[i];

		/* The layout's keys are never 0. */
		f[i] = (struct layout_frame){
			.gfn = GFN(w->frame), .key = w->key + (w->key != UINT64_MAX), .have = w->have};
	}
	r = store_layout_make(f, a->wanted.count, &l);
	free(f);
	if (r == 0) {
		r = pour_all(a, &l);
		store_layout_done(&l);
	}
	a->wanted.count = 0;
	return r;
}

/* Pages of a stretch: as the longest run, but not so many that they cost more than half of what they save. */
static uint32_t stretch_pages(const struct fill_tally *t)
{
	uint32_t pages = 1;

	while (pages < SEGMENT_PAGES && pages < t->longest && pages * 4 <= t->frames)
		pages *= 2;
	return pages;
}

static int fill_stretch(struct agent *a, struct fill_tally *t, uint32_t pages)
{
	uint64_t page[PAGE_BYTES / sizeof(uint64_t)], word = page_fill_word(t->key);
	struct segment *s = NULL;
	uint32_t segment, at;
	int r = a->link->ops->lend(a->link, pages, &s);

	if (r < 0)
		return r;
	for (size_t i = 0; i < ARRAY_SIZE(page); i++)
		page[i] = word;
	for (uint32_t i = 0; r == 0 && i < pages; i++)
		r = segment_append(s, page, 1, &at);
	if (r < 0) {
		give_back(a, s);
		return r;
	}
	r = a->link->ops->offer(a->link, s, &segment);
	if (r < 0)
		return r;
	a->sums.donated += pages;
	a->pass.donated += pages;
	t->donated = pages;
	if (pages > 1)
		agent_fill_known(a, segment, 0, pages);
	for (size_t i = 0; i < a->record_count; i++)
		if (a->records[i].key == t->store_key && a->fill_of[i] &&
		    agent_frame_state(a, a->records[i].frame) == PAGE_STATE_CANDIDATE)
			agent_match(a, a->records[i].frame, segment, 0);
	return 0;
}

void agent_donate_fills(struct agent *a)
{
	for (size_t i = 0; i < FILL_TALLIES; i++) {
		struct fill_tally *t = &a->fills_seen[i];
		uint32_t pages;

		if (t->frames < FILL_FRAMES)
			continue;
		pages = stretch_pages(t);
		/* A longer one is worth it when it saves three extents of four. */
		if (t->wanted || pages >= 4 * t->donated)
			(void)fill_stretch(a, t, pages);
		t->wanted = false;
	}
}
