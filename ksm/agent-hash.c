/* SPDX-License-Identifier: Apache-2.0 */
/* The memory agent's reading: frames that stayed unwritten for an interval are read once, and the store is told. */
#include <errno.h>
#include <string.h>

#include "ksm/agent-internal.h"
#include "ksm/guest-bytes.h"
#include "ksm/in-flight.h"
#include "ksm/page-hash.h"

/* Frames read before the store is asked, at most; a tenth of the frames of a small VM. */
#define READ_BATCH_MIN 1024u

static int batch_open(struct agent *a)
{
	size_t room = a->block_count * BLOCK_FRAMES / 8;

	if (room < READ_BATCH_MIN)
		room = READ_BATCH_MIN;
	if (room > STORE_BATCH_MAX)
		room = STORE_BATCH_MAX;
	a->records = calloc(room, sizeof(*a->records));
	a->answers = calloc(room, sizeof(*a->answers));
	a->fill_of = calloc(room, sizeof(*a->fill_of));
	a->record_count = 0;
	a->record_room = room;
	return a->records && a->answers && a->fill_of ? 0 : -ENOMEM;
}

static void batch_close(struct agent *a)
{
	free(TAKE_PTR(a->records));
	free(TAKE_PTR(a->answers));
	free(TAKE_PTR(a->fill_of));
	a->record_count = a->record_room = 0;
}

void agent_match(struct agent *a, uint32_t frame, uint32_t segment, uint32_t page)
{
	if (agent_frame_state(a, frame) == PAGE_STATE_CANDIDATE)
		agent_frame_move(a, frame, PAGE_STATE_MATCHED, 0);
	/* Without memory it waits until it is written, and read again. */
	if (agent_room(&a->new_matches, 1) < 0)
		return;
	a->new_matches.v[a->new_matches.count++] = (struct agent_match){frame, segment, page};
	a->sums.found++;
	a->replan = true;
}

void agent_fill_known(struct agent *a, uint32_t segment, uint32_t page, uint32_t run)
{
	for (size_t i = 0; i < a->fills.count; i++)
		if (a->fills.v[i].segment == segment && a->fills.v[i].page == page) {
			if (run > a->fills.v[i].run)
				a->fills.v[i].run = run;
			return;
		}
	if (a->fills.count < FILL_TALLIES && agent_room(&a->fills, 1) == 0)
		a->fills.v[a->fills.count++] =
			(struct agent_fill){.segment = segment, .page = page, .run = run};
}

static void found(struct agent *a, uint32_t frame, uint32_t segment, uint32_t page, uint32_t run)
{
	if (run > 1)
		agent_fill_known(a, segment, page, run);
	agent_match(a, frame, segment, page);
}

static void want(struct agent *a, uint32_t frame, uint64_t key, bool have)
{
	if (agent_room(&a->wanted, 1) < 0)
		return; /* somebody else donates it, or it is asked for again */
	a->wanted.v[a->wanted.count++] = (struct agent_wanted){.frame = frame, .have = have, .key = key};
}

static bool take_event(void *ctx, const struct store_event *e)
{
	struct agent *a = ctx;
	bool ours = e->frame < a->block_count * BLOCK_FRAMES &&
		    agent_frame_state(a, e->frame) == PAGE_STATE_CANDIDATE;

	switch ((enum store_event_kind)e->kind) {
	case STORE_EVENT_FOUND:
		if (ours)
			found(a, e->frame, e->segment, e->page, e->run);
		break;
	case STORE_EVENT_WANTED:
		if (ours)
			want(a, e->frame, e->key, false);
		break;
	case STORE_EVENT_MOVE:
		if (agent_room(&a->moving, 1) == 0)
			a->moving.v[a->moving.count++] = *e;
		break;
	case STORE_EVENT_RESET:
		a->reset = true;
		break;
	case STORE_EVENTS:
		break;
	}
	return true;
}

int agent_events(struct agent *a)
{
	int r = a->link->ops->events(a->link, take_event, a);

	if (r < 0)
		return r;
	if (a->reset) {
		a->reset = false;
		a->wanted.count = 0;
		agent_frames_forget_records(a);
	}
	return agent_donate(a);
}

/* One more frame with a pattern. Returns the index of its tally + 1, or 0. */
static unsigned tally(struct agent *a, uint64_t key, uint64_t store_key)
{
	unsigned start = (unsigned)(key >> 32) % FILL_TALLIES;

	for (unsigned i = 0; i < 8; i++) {
		struct fill_tally *t = &a->fills_seen[(start + i) % FILL_TALLIES];

		if (t->frames == 0)
			*t = (struct fill_tally){.key = key, .store_key = store_key};
		if (t->key != key)
			continue;
		t->frames += t->frames < UINT32_MAX;
		return (start + i) % FILL_TALLIES + 1;
	}
	return 0;
}

static void answers_take(struct agent *a)
{
	bool wanted = false;

	for (size_t i = 0; i < a->record_count; i++) {
		const struct store_answer *x = &a->answers[i];
		const struct store_record *rec = &a->records[i];
		struct fill_tally *t = a->fill_of[i] ? &a->fills_seen[a->fill_of[i] - 1] : NULL;

		if (x->kind == STORE_FOUND) {
			found(a, rec->frame, x->segment, x->page, x->run);
			if (t && x->run > t->donated)
				t->donated = x->run;
		} else if (x->kind == STORE_WANTED && t && t->frames >= FILL_FRAMES) {
			t->wanted = true;
		} else if (x->kind == STORE_WANTED) {
			want(a, rec->frame, rec->key, false);
			wanted = true;
		}
	}
	/* Pages that the store has between those that it wants keep runs together. */
	for (size_t i = 0; wanted && i < a->record_count; i++)
		if (!a->fill_of[i] && (a->answers[i].kind == STORE_FOUND || a->answers[i].kind == STORE_WAIT))
			want(a, a->records[i].frame, a->records[i].key, true);
}

static int batch_submit(struct agent *a)
{
	int r;

	if (a->record_count == 0)
		return 0;
	/* The bit first: the store may ask for a twin of it at once. */
	for (size_t i = 0; i < a->record_count; i++) {
		uint32_t f = a->records[i].frame;

		agent_frame_move(a, f, PAGE_STATE_CANDIDATE, 0);
		atomic_fetch_or_explicit(&a->recorded[f / 64], (uint64_t)1 << f % 64, memory_order_relaxed);
	}
	r = a->link->ops->submit(a->link, a->records, a->record_count, a->answers);
	if (r < 0) {
		for (size_t i = 0; i < a->record_count; i++)
			agent_frame_move(a, a->records[i].frame, PAGE_STATE_VOLATILE, 0);
		a->record_count = 0;
		return r;
	}
	answers_take(a);
	agent_donate_fills(a);
	a->record_count = 0;
	return agent_donate(a);
}

static int note_zero(struct agent *a, uint64_t frame)
{
	struct work_list *z = &a->zeros;
	struct extent *last = z->count ? &z->v[z->count - 1].x : NULL;
	int r;

	if (a->keep_zero) {
		agent_frame_move(a, frame, PAGE_STATE_CANDIDATE, 0);
		return 0;
	}
	if (last && last->first.v + last->pages == frame && last->pages < EXTENT_PAGES_MAX &&
	    frame % BLOCK_FRAMES) {
		last->pages++;
		return 0;
	}
	if (z->count >= EXTENT_PAGES_MAX) {
		r = agent_drop_zeros(a);
		if (r < 0)
			return r;
	}
	r = agent_room(z, 1);
	if (r < 0)
		return r;
	z->v[z->count++] = (struct agent_work){.x = {.kind = EXTENT_DROP, .first = GFN(frame), .pages = 1}};
	return 0;
}

/* The longest run says how long a stretch of a pattern should be. */
static void note_fill(struct agent *a, uint32_t frame, uint64_t key, uint64_t store_key)
{
	unsigned i = tally(a, key, store_key);
	struct fill_tally *t = i ? &a->fills_seen[i - 1] : NULL;

	a->fill_of[a->record_count] = (uint8_t)i;
	if (!t)
		return;
	t->run = frame == t->last + 1 && t->run < SEGMENT_PAGES ? t->run + 1 : 1;
	t->last = frame;
	if (t->run > t->longest)
		t->longest = t->run;
}

static int note_page(struct agent *a, uint64_t frame, struct page_id id)
{
	uint64_t key = page_store_key(id);

	a->sums.hashed++;
	a->pass.hashed++;
	if (id.kind == PAGE_ZERO)
		return note_zero(a, frame);
	if (a->key_mask)
		key &= a->key_mask;
	if (a->record_count == a->record_room) {
		int r = batch_submit(a);

		if (r < 0)
			return r;
	}
	a->fill_of[a->record_count] = 0;
	if (id.kind == PAGE_FILL)
		note_fill(a, (uint32_t)frame, id.key, key);
	a->records[a->record_count++] = (struct store_record){.key = key, .frame = (uint32_t)frame};
	return 0;
}

static int read_chunk(struct agent *a, uint64_t f, uint64_t end)
{
	_Alignas(8) uint8_t room[PAGE_BYTES];
	int r = 0;

	while (r == 0 && f < end) {
		hva_t at;
		uint64_t n = agent_frames_span(a, f, end, &at);

		if (n == 0)
			return -EFAULT;
		for (uint64_t i = 0; r == 0 && i < n; i++) {
			const uint8_t *page = (const uint8_t *)hva_ptr(at) + i * PAGE_BYTES;

			__builtin_prefetch(page + PAGE_BYTES);
			__builtin_prefetch(page + PAGE_BYTES + 64);
			r = note_page(a, f + i,
				      page_identify(guest_bytes_read(page, room, PAGE_BYTES), PAGE_BYTES));
		}
		f += n;
	}
	return r;
}

/* Frames that may have I/O in flight stay as they are, for the next pass. */
static int read_run(struct agent *a, uint64_t f, uint64_t end)
{
	bool all = !a->view.ops->in_flight(a->view.ctx, GFN(f), end - f);
	int r = 0;

	for (uint64_t next; r == 0 && f < end; f = next) {
		next = all ? end : (f / IN_FLIGHT_FRAMES + 1) * IN_FLIGHT_FRAMES;
		if (next > end)
			next = end;
		if (all || !a->view.ops->in_flight(a->view.ctx, GFN(f), next - f))
			r = read_chunk(a, f, next);
	}
	return r;
}

static int read_block(struct agent *a, uint64_t f)
{
	uint64_t end = f + BLOCK_FRAMES;
	int r = 0;

	while (r == 0 && f < end) {
		uint8_t byte = a->frames[f] & (uint8_t)~FRAME_GIVEN;
		uint64_t next = f + 1;

		if (byte == (PAGE_STATE_VOLATILE | FRAME_FRESH)) {
			a->frames[f] &= (uint8_t)~FRAME_FRESH;
			a->pass.due++;
		} else if (byte == PAGE_STATE_VOLATILE) {
			while (next < end && (a->frames[next] & (uint8_t)~FRAME_GIVEN) == PAGE_STATE_VOLATILE)
				next++;
			r = read_run(a, f, next);
		}
		f = next;
	}
	return r;
}

static int by_number(const void *x, const void *y)
{
	uint32_t a = *(const uint32_t *)x, b = *(const uint32_t *)y;

	return a < b ? -1 : a > b;
}

static bool is_rising(const struct u32_list *l)
{
	for (size_t i = 1; i < l->count; i++)
		if (l->v[i] < l->v[i - 1])
			return false;
	return true;
}

/* Blocks that keep volatile frames stay on the list. */
static int read_blocks(struct agent *a)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < a->pending.count; i++) {
		struct agent_block *b = &a->blocks[a->pending.v[i]];

		if (atomic_load_explicit(&a->interrupt, memory_order_relaxed))
			return -ECANCELED;
		if (b->pending && !(b->leave && b->touched == (uint16_t)a->pass_number))
			r = read_block(a, (uint64_t)a->pending.v[i] * BLOCK_FRAMES);
	}
	if (r == 0)
		r = batch_submit(a);
	return r;
}

int agent_read(struct agent *a)
{
	size_t kept = 0;
	int r;

	if (a->pending.count == 0)
		return 0;
	if (!is_rising(&a->pending))
		qsort(a->pending.v, a->pending.count, sizeof(*a->pending.v), by_number);
	r = batch_open(a);
	if (r == 0)
		r = read_blocks(a);
	batch_close(a);
	if (r == 0)
		r = agent_drop_zeros(a);
	a->zeros.count = 0;
	for (size_t i = 0; i < a->pending.count; i++) {
		struct agent_block *b = &a->blocks[a->pending.v[i]];

		b->listed = b->pending > 0;
		if (b->listed)
			a->pending.v[kept++] = a->pending.v[i];
	}
	a->pending.count = kept;
	return r;
}
