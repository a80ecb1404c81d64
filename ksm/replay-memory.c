/* SPDX-License-Identifier: Apache-2.0 */
/* Replayed memory: bytes, what they must be, and what each frame is made of. */
#include "ksm/replay-memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/fs.h"
#include "base/size.h"
#include "ksm/break.h"
#include "ksm/page-hash.h"
#include "ksm/replay-internal.h"

/*
 * Theory of operation
 *
 * `expected` has the key of what each frame must read as (64 bits of hash: a wrong byte passes with a chance of 2^-64).
 * It is computed from what is to be written, never from what is read back from memory, so that damage is not taken
 * over. A frame's owner changes bytes and key between two looks for attention: while held, both agree.
 *
 * A frame's `state` says what a frame is made of. It is changed by the frame's owner, and by the engine while held; the engine
 * also asks while owners run, and asks the tracker again while held, for which a frame that was discarded and mapped
 * anew meanwhile is not unwritten.
 */
enum frame_state {
	FRAME_ANONYMOUS,
	FRAME_STORE,
	FRAME_COPIED, /* of the store, written */
};

/* 10 s: writers that are more than the CPUs have no guest that would mind. */
#define HOLD_PATIENCE 10000000000u

struct frame_backing {
	_Atomic uint8_t state;
};

#define PAGEMAP_PRESENT ((uint64_t)1 << 63) /* Documentation/admin-guide/mm/pagemap.rst */
#define PAGEMAP_SWAP	((uint64_t)1 << 62)
#define PAGEMAP_ENTRIES 512u

struct replay_memory {
	uint64_t frames;
	int pagemap_fd;	   /* -1: this kernel shows none */
	uint8_t *reserved; /* the mapping, with room to align */
	uint8_t *bytes;
	enum replay_thp thp;
	uint64_t *expected;
	uint64_t *home; /* what it was filled with; NULL for a dump */
	struct frame_backing *backing;
	struct hold *hold;
	struct in_flight *flight;
	struct write_tracker *tracker;
	struct replay_watcher watcher;
	_Atomic uint64_t wrong;
	_Atomic uint64_t breaks, discards, discards_shared;
};

void replay_content(void *page, uint64_t number)
{
	uint64_t *words = page;

	for (uint64_t i = 0; i < PAGE_BYTES / 8; i++)
		words[i] = number < REPLAY_FILLS ? number * 0x0101010101010101u : replay_mix(number, i);
}

/* Far from the fills. */
static uint64_t data_number(uint64_t seed, uint64_t index)
{
	return replay_mix(seed, index) | (uint64_t)1 << 63;
}

uint64_t replay_pool_number(uint64_t pool_seed, uint64_t index)
{
	return data_number(pool_seed ^ 0x706f6f6cu, index);
}

static uint64_t unique_number(uint64_t seed, uint64_t frame)
{
	return data_number(seed ^ 0x756e6971u, frame);
}

uint64_t replay_memory_frames(const struct replay_memory *m)
{
	return m->frames;
}

void *replay_memory_at(const struct replay_memory *m, gfn_t frame)
{
	return m->bytes + frame.v * PAGE_BYTES;
}

struct hold *replay_memory_hold(const struct replay_memory *m)
{
	return m->hold;
}

struct in_flight *replay_memory_in_flight(const struct replay_memory *m)
{
	return m->flight;
}

static uint64_t reserved_bytes(const struct replay_memory *m)
{
	return m->frames * PAGE_BYTES + HUGE_PAGE_BYTES;
}

/* Advice that changes nothing is left out: it would be a call per extent in each hold. */
static enum replay_thp thp_needed(enum replay_thp thp)
{
	char host[16];

	if (file_read_choice("/sys/kernel/mm/transparent_hugepage/enabled", host, sizeof(host)) < 0)
		return thp;
	if (thp == (strcmp(host, "always") == 0 ? REPLAY_THP_ON : REPLAY_THP_OFF))
		return REPLAY_THP_HOST;
	return thp;
}

/* What all of it carries, so that what is mapped anew merges with its neighbours. */
static int advise(const struct replay_memory *m, void *at, uint64_t bytes)
{
	if (madvise(at, bytes, MADV_DONTDUMP) < 0)
		return -errno;
	if (m->thp != REPLAY_THP_HOST &&
	    madvise(at, bytes, m->thp == REPLAY_THP_ON ? MADV_HUGEPAGE : MADV_NOHUGEPAGE) < 0)
		return -errno;
	return 0;
}

int replay_memory_new_empty(uint64_t frames, enum replay_thp thp, struct replay_memory **ret)
{
	cleanup(replay_memory_free_p) struct replay_memory *m = calloc(1, sizeof(*m));
	void *p;
	int r;

	if (!m)
		return -ENOMEM;
	m->pagemap_fd = -1;
	if (frames == 0 || frames > UINT64_MAX >> (PAGE_SHIFT + 1))
		return -EINVAL;
	m->frames = frames;
	m->thp = thp_needed(thp);
	atomic_init(&m->wrong, UINT64_MAX);
	p = mmap(NULL, reserved_bytes(m), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
		 -1, 0);
	if (p == MAP_FAILED)
		return -ENOMEM;
	m->reserved = p;
	m->bytes = m->reserved + (-(uintptr_t)p & (HUGE_PAGE_BYTES - 1));
	m->expected = calloc(frames, sizeof(*m->expected)); /* the zero page's key is 0 */
	m->backing = calloc(frames, sizeof(*m->backing));
	if (!m->expected || !m->backing)
		return -ENOMEM;
	r = advise(m, m->bytes, frames * PAGE_BYTES);
	if (r < 0)
		return r;
	m->pagemap_fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	r = hold_new(NULL, NULL, &m->hold);
	if (r < 0)
		return r;
	hold_set_patience(m->hold, HOLD_PATIENCE);
	r = in_flight_new(frames, &m->flight);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(m);
	return 0;
}

void replay_memory_free(struct replay_memory *m)
{
	if (!m)
		return;
	if (m->reserved)
		munmap(m->reserved, reserved_bytes(m));
	close_fd_p(&m->pagemap_fd);
	in_flight_free(m->flight);
	hold_free(m->hold);
	free(m->expected);
	free(m->home);
	free(m->backing);
	free(m);
}

static bool spec_good(const struct replay_spec *spec)
{
	for (size_t i = 0; i < spec->count; i++)
		if (spec->runs[i].frames == 0 ||
		    (spec->runs[i].kind == REPLAY_COPY && spec->runs[i].frames > spec->pool_pages))
			return false;
	return spec->count > 0;
}

static uint64_t run_number(const struct replay_spec *spec, const struct replay_run *run, uint64_t chance,
			   uint64_t frame, uint64_t offset)
{
	switch (run->kind) {
	case REPLAY_ZERO:
		return 0;
	case REPLAY_FILL:
		return 1 + chance % (REPLAY_FILLS - 1);
	case REPLAY_COPY:
		return replay_pool_number(spec->pool_seed,
					  chance % (spec->pool_pages - run->frames + 1) + offset);
	case REPLAY_UNIQUE:
		break;
	}
	return unique_number(spec->seed, frame);
}

void replay_memory_put(struct replay_memory *m, gfn_t frame, const void *page)
{
	m->expected[frame.v] = page_identify(page, PAGE_BYTES).key;
	if (m->expected[frame.v] != 0)
		memcpy(replay_memory_at(m, frame), page, PAGE_BYTES);
}

int replay_memory_fill(struct replay_memory *m, const struct replay_spec *spec)
{
	uint64_t page[PAGE_BYTES / 8];
	uint64_t frame = 0;

	if (!spec_good(spec))
		return -EINVAL;
	m->home = calloc(m->frames, sizeof(*m->home));
	if (!m->home)
		return -ENOMEM;
	for (uint64_t n = 0; frame < m->frames; n++) {
		const struct replay_run *run = &spec->runs[n % spec->count];
		uint64_t chance = replay_mix(spec->seed, n);

		for (uint64_t i = 0; i < run->frames && frame < m->frames; i++, frame++) {
			m->home[frame] = run_number(spec, run, chance, frame, i);
			if (m->home[frame] == 0)
				continue;
			replay_content(page, m->home[frame]);
			replay_memory_put(m, GFN(frame), page);
		}
	}
	return 0;
}

int replay_memory_new(uint64_t frames, const struct replay_spec *spec, struct replay_memory **ret)
{
	cleanup(replay_memory_free_p) struct replay_memory *m = NULL;
	int r = replay_memory_new_empty(frames, REPLAY_THP_HOST, &m);

	if (r == 0)
		r = replay_memory_fill(m, spec);
	if (r == 0)
		*ret = TAKE_PTR(m);
	return r;
}

static int load_frame(struct replay_memory *m, int fd, uint64_t frame)
{
	_Alignas(8) uint8_t page[PAGE_BYTES];
	int r = pread_full(fd, page, sizeof(page), frame * PAGE_BYTES);

	if (r == 0)
		replay_memory_put(m, GFN(frame), page);
	return r;
}

int replay_memory_load(const char *path, struct errmsg *err, struct replay_memory **ret)
{
	cleanup(replay_memory_free_p) struct replay_memory *m = NULL;
	auto_fd fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct stat st;
	int r;

	if (fd < 0 || fstat(fd, &st) < 0)
		return errmsg_set(err, -errno, "%s: cannot read this dump: %s", path, strerror(errno));
	if (!S_ISREG(st.st_mode) || st.st_size <= 0 || (uint64_t)st.st_size & PAGE_MASK)
		return errmsg_set(err, -EINVAL,
				  "%s: not a raw dump: wanted is a file of whole pages of 4096 bytes", path);
	r = replay_memory_new_empty((uint64_t)st.st_size / PAGE_BYTES, REPLAY_THP_HOST, &m);
	for (uint64_t i = 0; r == 0 && i < m->frames; i++)
		r = load_frame(m, fd, i);
	if (r < 0)
		return errmsg_set(err, r, "%s: cannot load this dump: %s", path, strerror(-r));
	*ret = TAKE_PTR(m);
	return 0;
}

int replay_memory_mergeable(struct replay_memory *m)
{
	return madvise(m->bytes, m->frames * PAGE_BYTES, MADV_MERGEABLE) < 0 ? -errno : 0;
}

int replay_memory_watch(struct replay_memory *m, struct write_tracker *tracker)
{
	int r = write_tracker_add(tracker, hva_of(m->bytes), m->frames * PAGE_BYTES);

	if (r == 0)
		m->tracker = tracker;
	return r;
}

void replay_memory_watch_by(struct replay_memory *m, const struct replay_watcher *watcher)
{
	m->watcher = watcher ? *watcher : (struct replay_watcher){0};
}

/* Whether these bytes are what the frame must read as. */
static bool bytes_good(struct replay_memory *m, gfn_t frame, const void *bytes)
{
	uint64_t none = UINT64_MAX;

	if (page_identify(bytes, PAGE_BYTES).key == m->expected[frame.v])
		return true;
	atomic_compare_exchange_strong(&m->wrong, &none, frame.v);
	return false;
}

static bool frame_good(struct replay_memory *m, gfn_t frame)
{
	return bytes_good(m, frame, replay_memory_at(m, frame));
}

bool replay_memory_check(struct replay_memory *m, gfn_t frame)
{
	return frame_good(m, frame);
}

static void note_break(struct replay_memory *m, gfn_t frame)
{
	if (atomic_load_explicit(&m->backing[frame.v].state, memory_order_relaxed) != FRAME_STORE)
		return;
	atomic_store_explicit(&m->backing[frame.v].state, FRAME_COPIED, memory_order_relaxed);
	atomic_fetch_add_explicit(&m->breaks, 1, memory_order_relaxed);
}

bool replay_memory_write_word(struct replay_memory *m, gfn_t frame, unsigned word, uint64_t value)
{
	uint64_t *at = replay_memory_at(m, frame);
	uint64_t copy[PAGE_BYTES / 8];

	/* The copy is what is checked: what is read twice could be two things. */
	memcpy(copy, at, sizeof(copy));
	if (!bytes_good(m, frame, copy))
		return false;
	copy[word] = value;
	m->expected[frame.v] = page_identify(copy, sizeof(copy)).key;
	at[word] = value;
	note_break(m, frame);
	return true;
}

bool replay_memory_write(struct replay_memory *m, gfn_t frame, uint64_t number)
{
	uint64_t page[PAGE_BYTES / 8];

	if (!frame_good(m, frame))
		return false;
	replay_content(page, number);
	m->expected[frame.v] = page_identify(page, sizeof(page)).key;
	memcpy(replay_memory_at(m, frame), page, sizeof(page));
	note_break(m, frame);
	return true;
}

bool replay_memory_restore(struct replay_memory *m, gfn_t frame)
{
	uint64_t number = m->home ? m->home[frame.v] : 0;

	return replay_memory_write(m, frame, number ? number : unique_number(0, frame.v));
}

bool replay_memory_device_wrote(struct replay_memory *m, gfn_t frame, uint64_t number)
{
	uint64_t page[PAGE_BYTES / 8];

	replay_content(page, number);
	m->expected[frame.v] = page_identify(page, sizeof(page)).key;
	note_break(m, frame);
	return frame_good(m, frame);
}

static int discard_anonymous(struct replay_memory *m, gfn_t first, uint64_t frames)
{
	return madvise(replay_memory_at(m, first), frames * PAGE_BYTES, MADV_DONTNEED) < 0 ? -errno : 0;
}

/* Advice and watch come before the first write, so that mappings merge with their neighbours. */
static int discard_shared(struct replay_memory *m, gfn_t first, uint64_t frames)
{
	void *at = replay_memory_at(m, first);
	uint64_t bytes = frames * PAGE_BYTES;
	int r;

	if (mmap(at, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED,
		 -1, 0) == MAP_FAILED)
		return -errno;
	r = advise(m, at, bytes);
	if (r < 0)
		return r;
	atomic_fetch_add_explicit(&m->discards_shared, frames, memory_order_relaxed);
	if (m->watcher.watch)
		return m->watcher.watch(m->watcher.ctx, hva_of(at), bytes);
	return m->tracker ? write_tracker_add(m->tracker, hva_of(at), bytes) : 0;
}

static bool frame_anonymous(const struct replay_memory *m, uint64_t frame)
{
	return atomic_load_explicit(&m->backing[frame].state, memory_order_relaxed) == FRAME_ANONYMOUS;
}

int replay_memory_discard(struct replay_memory *m, gfn_t first, uint64_t frames)
{
	uint64_t end = first.v + frames, next;

	if (!range_fits(first.v, frames, m->frames))
		return -EFAULT;
	for (uint64_t i = first.v; i < end; i = next) {
		bool anonymous = frame_anonymous(m, i);
		int r;

		for (next = i + 1; next < end && frame_anonymous(m, next) == anonymous;)
			next++;
		r = anonymous || broken(BREAK_SHARED_DONTNEED) ? discard_anonymous(m, GFN(i), next - i)
							       : discard_shared(m, GFN(i), next - i);
		if (r < 0)
			return r;
		for (uint64_t k = i; k < next; k++) {
			m->expected[k] = 0;
			atomic_store_explicit(&m->backing[k].state, FRAME_ANONYMOUS, memory_order_relaxed);
		}
	}
	if (m->watcher.discarded)
		m->watcher.discarded(m->watcher.ctx, first, frames);
	atomic_fetch_add_explicit(&m->discards, frames, memory_order_relaxed);
	return 0;
}

/* Which of these frames nothing is behind: reading them would populate them where the kernel has no zero page for reads. */
static uint64_t find_holes(const struct replay_memory *m, uint64_t first, uint64_t frames,
			   bool holes[PAGEMAP_ENTRIES])
{
	uint64_t entries[PAGEMAP_ENTRIES];
	uint64_t n = frames < PAGEMAP_ENTRIES ? frames : PAGEMAP_ENTRIES;
	uint64_t at = ((uintptr_t)m->bytes >> PAGE_SHIFT) + first;
	bool known = m->pagemap_fd >= 0 &&
		     pread_full(m->pagemap_fd, entries, n * sizeof(*entries), at * sizeof(*entries)) == 0;

	for (uint64_t i = 0; i < n; i++)
		holes[i] = known && !(entries[i] & (PAGEMAP_PRESENT | PAGEMAP_SWAP)) &&
			   frame_anonymous(m, first + i);
	return n;
}

static bool hole_good(struct replay_memory *m, uint64_t frame)
{
	uint64_t none = UINT64_MAX;

	if (m->expected[frame] == 0)
		return true;
	atomic_compare_exchange_strong(&m->wrong, &none, frame);
	return false;
}

bool replay_memory_verify(struct replay_memory *m, gfn_t first, uint64_t frames)
{
	uint64_t end = first.v < m->frames && frames < m->frames - first.v ? first.v + frames : m->frames;
	bool holes[PAGEMAP_ENTRIES];
	bool good = true;

	for (uint64_t at = first.v; at < end;) {
		uint64_t n = find_holes(m, at, end - at, holes);

		for (uint64_t i = 0; i < n; i++, at++) {
			if (in_flight_any(m->flight, GFN(at), 1))
				continue;
			good = (holes[i] ? hole_good(m, at) : frame_good(m, GFN(at))) && good;
		}
	}
	return good;
}

uint64_t replay_memory_wrong(const struct replay_memory *m)
{
	return atomic_load(&m->wrong);
}

void replay_memory_stats(const struct replay_memory *m, struct replay_stats *ret)
{
	ret->breaks = atomic_load(&m->breaks);
	ret->discards = atomic_load(&m->discards);
	ret->discards_shared = atomic_load(&m->discards_shared);
}

/* The engine's view. */

static int view_span(void *ctx, gfn_t first, uint64_t frames, hva_t *ret)
{
	struct replay_memory *m = ctx;

	if (!range_fits(first.v, frames, m->frames))
		return -EFAULT;
	*ret = hva_of(replay_memory_at(m, first));
	return 0;
}

static bool view_is_private(void *ctx, gfn_t first, uint64_t frames)
{
	for (uint64_t i = 0; i < frames; i++)
		if (!frame_anonymous(ctx, first.v + i))
			return false;
	return true;
}

static bool view_in_flight(void *ctx, gfn_t first, uint64_t frames)
{
	return in_flight_any(((struct replay_memory *)ctx)->flight, first, frames);
}

static int view_reserve(void *ctx, unsigned extents)
{
	(void)ctx; /* a byte per frame is there from the start */
	(void)extents;
	return 0;
}

static int view_while_held(void *ctx, void (*work)(void *arg), void *arg)
{
	return hold_call(((struct replay_memory *)ctx)->hold, work, arg);
}

static int view_advise(void *ctx, hva_t start, uint64_t bytes)
{
	return advise(ctx, hva_ptr(start), bytes);
}

static void view_replaced(void *ctx, gfn_t first, uint64_t frames, const struct segment_view *store,
			  uint32_t page)
{
	struct replay_memory *m = ctx;

	(void)store;
	(void)page;
	for (uint64_t i = 0; i < frames; i++)
		atomic_store_explicit(&m->backing[first.v + i].state, FRAME_STORE, memory_order_relaxed);
}

static void view_retaken(void *ctx, gfn_t first, uint64_t frames)
{
	struct replay_memory *m = ctx;

	for (uint64_t i = 0; i < frames; i++)
		atomic_store_explicit(&m->backing[first.v + i].state, FRAME_ANONYMOUS, memory_order_relaxed);
}

static const struct guest_view_ops view_ops = {
	.span = view_span,
	.is_private = view_is_private,
	.in_flight = view_in_flight,
	.reserve = view_reserve,
	.while_held = view_while_held,
	.advise = view_advise,
	.replaced = view_replaced,
	.retaken = view_retaken,
};

struct guest_view replay_memory_view(struct replay_memory *m)
{
	return (struct guest_view){.ops = &view_ops, .ctx = m};
}
