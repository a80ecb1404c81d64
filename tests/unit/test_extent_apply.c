/* SPDX-License-Identifier: Apache-2.0 */
/* Replacing memory by the store: the guest's bytes stay its bytes, whatever is written, claimed or refused at which
 * moment. */
#include "ksm/extent-apply.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <string.h>
#include <sys/mman.h>

#include "base/fs.h"
#include "ksm/in-flight.h"
#include "ksm/map-room.h"
#include "ksm/remap.h"
#include "tests/unit/test.h"

#define FRAMES	     2048u
#define BASE_GFN     0x100u /* the guest's memory begins here */
#define STORE_PAGES  512u
#define REGION_BYTES (FRAMES * PAGE_BYTES)

/* A guest of one thread: what happens during a hold is done by a function of the test. */
struct room {
	uint8_t *mem;
	uint8_t copy[FRAMES][PAGE_BYTES]; /* what the guest must read */
	bool shared[FRAMES];
	struct write_tracker *tracker;
	struct in_flight *flight;
	struct segment_view store;
	struct extent_applier *applier;
	unsigned holds, reserved;
	bool refuse_hold, refuse_reserve;
	void (*before_work)(struct room *r); /* the last moment before the hold */
	void (*after_work)(struct room *r);  /* the first moment after it */
};

static struct room room; /* one at a time */

static int room_span(void *ctx, gfn_t first, uint64_t frames, hva_t *ret)
{
	struct room *r = ctx;

	if (first.v < BASE_GFN || first.v - BASE_GFN > FRAMES || frames > FRAMES - (first.v - BASE_GFN))
		return -EFAULT;
	*ret = hva_of(r->mem + (first.v - BASE_GFN) * PAGE_BYTES);
	return 0;
}

static bool room_private(void *ctx, gfn_t first, uint64_t frames)
{
	struct room *r = ctx;

	for (uint64_t i = 0; i < frames; i++)
		if (r->shared[first.v - BASE_GFN + i])
			return false;
	return true;
}

static bool room_in_flight(void *ctx, gfn_t first, uint64_t frames)
{
	return in_flight_any(((struct room *)ctx)->flight, first, frames);
}

static int room_reserve(void *ctx, unsigned extents)
{
	struct room *r = ctx;

	if (r->refuse_reserve)
		return -ENOSPC;
	r->reserved = extents;
	return 0;
}

static int room_held(void *ctx, void (*work)(void *arg), void *arg)
{
	struct room *r = ctx;

	if (r->refuse_hold)
		return -EBUSY;
	r->holds++;
	if (r->before_work)
		r->before_work(r);
	work(arg);
	if (r->after_work)
		r->after_work(r);
	return 0;
}

static int room_advise(void *ctx, hva_t start, uint64_t bytes)
{
	(void)ctx;
	return madvise(hva_ptr(start), bytes, MADV_DONTDUMP) < 0 ? -errno : 0;
}

static void room_replaced(void *ctx, gfn_t first, uint64_t frames, const struct segment_view *store,
			  uint32_t page)
{
	struct room *r = ctx;

	assert_true(r->reserved-- > 0);
	assert_ptr_equal(store, &r->store);
	assert_true(page + frames <= STORE_PAGES);
	for (uint64_t i = 0; i < frames; i++)
		r->shared[first.v - BASE_GFN + i] = true;
}

static const struct guest_view_ops room_ops = {
	.span = room_span,
	.is_private = room_private,
	.in_flight = room_in_flight,
	.reserve = room_reserve,
	.while_held = room_held,
	.advise = room_advise,
	.replaced = room_replaced,
};

static void content(uint8_t *page, unsigned number)
{
	memset(page, (int)(number % 250) + 1, PAGE_BYTES);
	memcpy(page, &number, sizeof(number));
}

/* Writes to a frame as the guest does. */
static void guest_set(struct room *r, unsigned frame, unsigned number)
{
	content(r->copy[frame], number);
	memcpy(r->mem + frame * PAGE_BYTES, r->copy[frame], PAGE_BYTES);
}

static void assert_guest(const struct room *r)
{
	for (unsigned i = 0; i < FRAMES; i++)
		if (memcmp(r->mem + i * PAGE_BYTES, r->copy[i], PAGE_BYTES) != 0)
			fail_msg("frame %u reads wrong", i);
}

static void scan(struct room *r)
{
	if (r->tracker)
		assert_int_equal(write_tracker_scan(r->tracker, hva_of(r->mem), REGION_BYTES, NULL), 0);
}

static void make_store(struct room *r)
{
	cleanup(segment_free_p) struct segment *s = NULL;
	auto_fd fd = -1;
	uint8_t page[PAGE_BYTES];
	uint32_t first;

	assert_int_equal(segment_new(STORE_PAGES, &s), 0);
	for (unsigned i = 0; i < STORE_PAGES; i++) {
		content(page, i);
		assert_int_equal(segment_append(s, page, 1, &first), 0);
	}
	assert_int_equal(segment_seal(s, &fd), 0);
	assert_int_equal(segment_view_init(fd, &r->store, NULL), 0);
}

/* Frame i holds store page i % STORE_PAGES. */
static struct room *setup(bool tracked, int advice)
{
	struct room *r = &room;
	struct guest_view view = {.ops = &room_ops, .ctx = r};
	uint8_t *p = mmap(NULL, REGION_BYTES + HUGE_PAGE_BYTES, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	assert_true(p != MAP_FAILED);
	memset(r, 0, sizeof(*r));
	r->mem = p + (-(uintptr_t)p & (HUGE_PAGE_BYTES - 1));
	assert_int_equal(madvise(r->mem, REGION_BYTES, MADV_DONTDUMP), 0);
	if (advice)
		(void)madvise(r->mem, REGION_BYTES, advice);
	if (tracked) {
		struct errmsg err = {0};
		int e = write_tracker_new(&err, &r->tracker);

		if (e == -ENOTSUP)
			TEST_SKIP(err.text);
		assert_int_equal(e, 0);
		assert_int_equal(write_tracker_add(r->tracker, hva_of(r->mem), REGION_BYTES), 0);
	}
	for (unsigned i = 0; i < FRAMES; i++)
		guest_set(r, i, i % STORE_PAGES);
	assert_int_equal(in_flight_new(BASE_GFN + FRAMES, &r->flight), 0);
	make_store(r);
	assert_int_equal(extent_applier_new(&view, r->tracker, &r->applier), 0);
	scan(r);
	return r;
}

static void teardown(struct room *r)
{
	assert_guest(r);
	extent_applier_free(r->applier);
	segment_view_done(&r->store);
	assert_guest(r); /* the mappings keep the segment */
	in_flight_free(r->flight);
	write_tracker_free(r->tracker);
	munmap(r->mem, REGION_BYTES);
}

static struct extent extent(struct room *r, unsigned frame, unsigned pages, unsigned page)
{
	return (struct extent){.first = GFN(BASE_GFN + frame),
			       .pages = pages,
			       .store = &r->store,
			       .store_page = page,
			       .outcome = EXTENT_OUTCOMES};
}

static enum extent_outcome apply(struct room *r, unsigned frame, unsigned pages, unsigned page)
{
	struct extent x = extent(r, frame, pages, page);
	uint64_t replaced = extent_apply(r->applier, &x, 1);

	assert_int_equal(replaced, x.outcome == EXTENT_REPLACED ? pages : 0);
	assert_guest(r);
	return x.outcome;
}

/* Mappings that touch the guest's memory. */
static unsigned mappings(const struct room *r)
{
	FILE *f = fopen("/proc/self/maps", "re");
	char line[512];
	unsigned n = 0;

	assert_non_null(f);
	while (fgets(line, sizeof(line), f)) {
		unsigned long start, end;

		if (sscanf(line, "%lx-%lx", &start, &end) == 2)
			n += end > (uintptr_t)r->mem && start < (uintptr_t)r->mem + REGION_BYTES;
	}
	fclose(f);
	return n;
}

TEST(replaces_and_copies_on_write)
{
	for (unsigned tracked = 0; tracked < 2; tracked++) {
		struct room *r = setup(tracked, 0);
		uint8_t page[PAGE_BYTES];

		assert_int_equal(apply(r, 100, 50, 100), EXTENT_REPLACED);
		assert_int_equal(r->holds, 1);
		assert_int_equal(mappings(r), 3);
		assert_int_equal(apply(r, 100, 50, 100), EXTENT_NOT_PRIVATE);
		guest_set(r, 110, 999); /* a copy; the store stays */
		assert_guest(r);
		content(page, 110);
		assert_memory_equal(r->store.bytes + 110 * PAGE_BYTES, page, PAGE_BYTES);
		/* The same store page elsewhere, and next to it, where it becomes one mapping. */
		assert_int_equal(apply(r, 512 + 100, 50, 100), EXTENT_REPLACED);
		assert_int_equal(apply(r, 512 + 150, 14, 150), EXTENT_REPLACED);
		assert_int_equal(mappings(r), 5);
		teardown(r);
	}
}

TEST(many_extents_in_one_call)
{
	struct room *r = setup(true, 0);
	static struct extent v[300];
	struct extent_stats stats;
	uint64_t buckets = 0;

	for (unsigned i = 0; i < 300; i++)
		v[i] = extent(r, i * 6, 5, i * 6 % STORE_PAGES);
	guest_set(r, 6 * 7, 5000);	    /* written: refused */
	v[9].store_page = 0;		    /* different */
	v[11].pages = EXTENT_PAGES_MAX + 1; /* invalid */
	for (unsigned i = 0; i < 300; i++)
		if (v[i].store_page + 5 > STORE_PAGES)
			v[i].store_page = STORE_PAGES - 2; /* beyond the store */
	extent_apply(r->applier, v, 300);
	for (unsigned i = 0; i < 300; i++) {
		enum extent_outcome wanted = EXTENT_REPLACED;

		if (i == 7)
			wanted = EXTENT_WRITTEN;
		else if (i == 9)
			wanted = EXTENT_DIFFERENT;
		else if (i == 11 || v[i].store_page == STORE_PAGES - 2)
			wanted = EXTENT_INVALID;
		if (v[i].outcome != wanted)
			fail_msg("extent %u: %s", i, extent_outcome_name(v[i].outcome));
	}
	extent_applier_stats(r->applier, &stats);
	assert_int_equal(stats.holds, r->holds);
	assert_true(stats.holds >= 3); /* at most 512 pages each */
	for (unsigned i = 0; i < EXTENT_HOLD_BUCKETS; i++)
		buckets += stats.hold_work_bucket[i];
	assert_int_equal(buckets, stats.holds);
	assert_true(stats.hold_work_max_ns <= stats.hold_work_ns);
	assert_int_equal(stats.extents[EXTENT_WRITTEN], 1);
	assert_int_equal(stats.pages[EXTENT_DIFFERENT], 5);
	teardown(r);
}

static void write_late(struct room *r)
{
	guest_set(r, 20, 4711);
}

static void discard_late(struct room *r)
{
	memset(r->copy[20], 0, PAGE_BYTES);
	assert_int_equal(madvise(r->mem + 20 * PAGE_BYTES, PAGE_BYTES, MADV_DONTNEED), 0);
}

static void enter_late(struct room *r)
{
	assert_int_equal(in_flight_enter(r->flight, GFN(BASE_GFN + 20), 1), 0);
}

/* What happens between the comparison and the hold, and is undone again, is seen or does no harm. */
TEST(what_comes_late_is_seen)
{
	for (unsigned tracked = 0; tracked < 2; tracked++) {
		struct room *r = setup(tracked, 0);

		r->before_work = write_late;
		assert_int_equal(apply(r, 16, 16, 16), tracked ? EXTENT_WRITTEN : EXTENT_DIFFERENT);
		r->before_work = NULL;
		guest_set(r, 20, 20);
		scan(r);
		r->before_work = discard_late;
		assert_int_equal(apply(r, 16, 16, 16), tracked ? EXTENT_WRITTEN : EXTENT_DIFFERENT);
		r->before_work = NULL;
		guest_set(r, 20, 20);
		scan(r);
		r->before_work = enter_late;
		assert_int_equal(apply(r, 16, 16, 16), EXTENT_IN_FLIGHT);
		assert_int_equal(r->holds, 3);
		r->before_work = NULL;
		assert_int_equal(apply(r, 16, 16, 16), EXTENT_IN_FLIGHT);
		assert_int_equal(r->holds, 3); /* not even held */
		in_flight_leave(r->flight, GFN(BASE_GFN + 20), 1);
		assert_int_equal(apply(r, 16, 16, 16), EXTENT_REPLACED);
		teardown(r);
	}
}

/* The guest goes on at once: its first writes are not those that the exchange throws away. */
TEST(what_comes_after_stays)
{
	struct room *r = setup(true, 0);

	r->after_work = write_late;
	assert_int_equal(apply(r, 16, 16, 16), EXTENT_REPLACED);
	teardown(r);
}

/* A device that has pinned a page, and writes to it without a fault, whenever it likes. */
static struct io_uring ring;

static void pinned_write(struct room *r, unsigned frame, unsigned number)
{
	auto_fd file = memfd_create("io", MFD_CLOEXEC);
	struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);
	struct io_uring_cqe *cqe;

	if (!sqe)
		abort();
	content(r->copy[frame], number);
	assert_int_equal(pwrite_full(file, r->copy[frame], PAGE_BYTES, 0), 0);
	io_uring_prep_read_fixed(sqe, file, r->mem + frame * PAGE_BYTES, PAGE_BYTES, 0, 0);
	assert_int_equal(io_uring_submit_and_wait(&ring, 1), 1);
	assert_int_equal(io_uring_wait_cqe(&ring, &cqe), 0);
	assert_int_equal(cqe->res, PAGE_BYTES);
	io_uring_cqe_seen(&ring, cqe);
}

static void pinned_io_ends(struct room *r)
{
	pinned_write(r, 20, 4711);
	in_flight_leave(r->flight, GFN(BASE_GFN + 20), 1);
}

/* I/O that began before the page was protected, and ends between the comparison and the hold: the tracker does not see
 * it, and the table does not have it any more when it is asked the second time. */
TEST(pinned_pages_are_not_trusted)
{
	struct room *r = setup(true, 0);
	struct iovec iov = {r->mem + 20 * PAGE_BYTES, PAGE_BYTES};

	if (io_uring_queue_init(4, &ring, 0) < 0)
		TEST_SKIP("no io_uring here");
	assert_int_equal(io_uring_register_buffers(&ring, &iov, 1), 0);
	assert_int_equal(in_flight_enter(r->flight, GFN(BASE_GFN + 20), 1), 0);
	scan(r);
	r->before_work = pinned_io_ends;
	assert_int_equal(apply(r, 16, 16, 16), EXTENT_IN_FLIGHT);
	assert_int_equal(r->holds, 0);
	r->before_work = NULL;
	pinned_io_ends(r);
	/* That it is needed: nothing else noticed. */
	assert_int_equal(write_tracker_unwritten(r->tracker, hva_of(r->mem + 20 * PAGE_BYTES), PAGE_BYTES),
			 1);
	assert_int_equal(apply(r, 16, 16, 16), EXTENT_DIFFERENT);
	io_uring_queue_exit(&ring);
	teardown(r);
}

TEST(not_protected_is_not_unwritten)
{
	struct room *r = setup(true, 0);

	guest_set(r, 3, 3); /* the same bytes: still a write */
	assert_int_equal(apply(r, 0, 8, 0), EXTENT_WRITTEN);
	scan(r);
	assert_int_equal(apply(r, 0, 8, 0), EXTENT_REPLACED);
	assert_int_equal(write_tracker_remove(r->tracker, hva_of(r->mem + 1000 * PAGE_BYTES), PAGE_BYTES), 0);
	assert_int_equal(apply(r, 1000, 8, 1000 % STORE_PAGES), EXTENT_WRITTEN);
	assert_int_equal(r->holds, 1);
	teardown(r);
}

TEST(one_byte_decides)
{
	struct room *r = setup(true, 0);

	for (unsigned i = 0; i < 64; i++) {
		unsigned frame = 64 + i, byte = (i * 67 + 8) % PAGE_BYTES;

		r->copy[frame][byte] ^= 1;
		r->mem[frame * PAGE_BYTES + byte] ^= 1;
		scan(r);
		assert_int_equal(apply(r, 64, 64, 64), EXTENT_DIFFERENT);
		guest_set(r, frame, frame);
	}
	assert_int_equal(r->holds, 0);
	teardown(r);
}

TEST(refuses_nonsense)
{
	struct room *r = setup(true, 0);
	struct extent x = extent(r, 0, 1, 0);

	assert_int_equal(apply(r, 0, 0, 0), EXTENT_INVALID);
	assert_int_equal(apply(r, FRAMES - 1, 2, 511), EXTENT_INVALID);
	assert_int_equal(apply(r, FRAMES - 2, 2, 511), EXTENT_INVALID);
	assert_int_equal(apply(r, 0, 1, UINT32_MAX), EXTENT_INVALID);
	x.first = GFN(UINT64_MAX);
	assert_int_equal(extent_apply(r->applier, &x, 1), 0);
	assert_int_equal(x.outcome, EXTENT_INVALID);
	x.first = GFN(BASE_GFN);
	x.store = NULL;
	assert_int_equal(extent_apply(r->applier, &x, 1), 0);
	assert_int_equal(x.outcome, EXTENT_INVALID);
	x.store = &r->store;
	x.pages = UINT32_MAX;
	assert_int_equal(extent_apply(r->applier, &x, 1), 0);
	assert_int_equal(x.outcome, EXTENT_INVALID);
	assert_int_equal(extent_apply(r->applier, NULL, 0), 0);
	r->refuse_hold = true;
	assert_int_equal(apply(r, 0, 8, 0), EXTENT_NOT_HELD);
	r->refuse_hold = false;
	r->refuse_reserve = true;
	assert_int_equal(apply(r, 0, 8, 0), EXTENT_NO_ROOM);
	assert_int_equal(r->holds, 0);
	teardown(r);
}

/* Bit 22 of /proc/kpageflags: the page belongs to a huge folio. -1 when it cannot be known. */
static int is_huge(const uint8_t *at)
{
	auto_fd pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	auto_fd flags = open("/proc/kpageflags", O_RDONLY | O_CLOEXEC);
	uint64_t entry, pfn, bits;

	if (pagemap < 0 || flags < 0 || pread_full(pagemap, &entry, 8, (uintptr_t)at / PAGE_BYTES * 8) < 0)
		return -1;
	pfn = entry & (((uint64_t)1 << 55) - 1);
	if (pfn == 0 || pread_full(flags, &bits, 8, pfn * 8) < 0)
		return -1;
	return bits >> 22 & 1;
}

/* Part of a huge page: the rest must not keep the replaced part alive. */
TEST(huge_pages_are_split_first)
{
	struct room *r = setup(true, MADV_HUGEPAGE);
	int before = is_huge(r->mem);

	assert_int_equal(apply(r, 100, 50, 100), EXTENT_REPLACED);
	if (before == 1) {
		assert_int_equal(is_huge(r->mem), 0);
		assert_int_equal(is_huge(r->mem + 511 * PAGE_BYTES), 0);
		assert_int_equal(is_huge(r->mem + 512 * PAGE_BYTES), 1);
	}
	assert_int_equal(apply(r, 512, 512, 0), EXTENT_REPLACED); /* a whole one */
	assert_int_equal(apply(r, 1024 + 500, 24, 500 - 0), EXTENT_INVALID);
	assert_int_equal(apply(r, 1024 + 500, 12, 500), EXTENT_REPLACED);
	scan(r);
	teardown(r);
	if (before != 1)
		TEST_SKIP("no huge page, or not root: whether it was split was not looked at");
}

/* The kernel refuses, at each step. */
static bool fail_aside, fail_in, fail_in_unmaps, fail_back;

int __real_remap_aside(hva_t start, uint64_t bytes, hva_t hint, hva_t *ret);
int __wrap_remap_aside(hva_t start, uint64_t bytes, hva_t hint, hva_t *ret);
int __wrap_remap_aside(hva_t start, uint64_t bytes, hva_t hint, hva_t *ret)
{
	return fail_aside ? -ENOMEM : __real_remap_aside(start, bytes, hint, ret);
}

int __real_remap_in(hva_t start, uint64_t bytes, int fd, uint64_t offset);
int __wrap_remap_in(hva_t start, uint64_t bytes, int fd, uint64_t offset);
int __wrap_remap_in(hva_t start, uint64_t bytes, int fd, uint64_t offset)
{
	if (fail_in_unmaps)
		assert_int_equal(munmap(hva_ptr(start), bytes), 0);
	return fail_in || fail_in_unmaps ? -ENOMEM : __real_remap_in(start, bytes, fd, offset);
}

int __real_remap_back(hva_t start, uint64_t bytes, hva_t aside);
int __wrap_remap_back(hva_t start, uint64_t bytes, hva_t aside);
int __wrap_remap_back(hva_t start, uint64_t bytes, hva_t aside)
{
	return fail_back ? -ENOMEM : __real_remap_back(start, bytes, aside);
}

TEST(refusals_leave_the_guest_its_pages)
{
	struct room *r = setup(true, 0);
	struct extent x = extent(r, 300, 4, 300);

	fail_aside = true;
	assert_int_equal(apply(r, 40, 20, 40), EXTENT_REFUSED);
	fail_aside = false;
	fail_in = true;
	assert_int_equal(apply(r, 40, 20, 40), EXTENT_REFUSED);
	fail_in = false;
	assert_int_equal(mappings(r), 1);
	fail_in_unmaps = true; /* Linux 6.1 */
	assert_int_equal(apply(r, 80, 20, 80), EXTENT_REFUSED);
	/* All is watched as before, and can be replaced the next time. */
	guest_set(r, 85, 85);
	assert_int_equal(write_tracker_unwritten(r->tracker, hva_of(r->mem + 85 * PAGE_BYTES), PAGE_BYTES),
			 0);
	scan(r);
	assert_int_equal(write_tracker_unwritten(r->tracker, hva_of(r->mem + 85 * PAGE_BYTES), PAGE_BYTES),
			 1);
	guest_set(r, 85, 85);
	assert_int_equal(write_tracker_unwritten(r->tracker, hva_of(r->mem + 85 * PAGE_BYTES), PAGE_BYTES),
			 0);
	fail_in_unmaps = false;
	scan(r);
	assert_int_equal(apply(r, 40, 20, 40), EXTENT_REPLACED);
	assert_int_equal(apply(r, 80, 20, 80), EXTENT_REPLACED);
	/* Both refused: nothing is there rather than something wrong. */
	fail_in_unmaps = fail_back = true;
	assert_int_equal(extent_apply(r->applier, &x, 1), 0);
	fail_in_unmaps = fail_back = false;
	assert_int_equal(x.outcome, EXTENT_LOST);
	assert_int_equal(madvise(r->mem + 300 * PAGE_BYTES, 4 * PAGE_BYTES, MADV_NORMAL), -1);
	assert_int_equal(errno, ENOMEM);
	assert_true(mmap(r->mem + 300 * PAGE_BYTES, 4 * PAGE_BYTES, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED);
	for (unsigned i = 300; i < 304; i++)
		guest_set(r, i, i);
	teardown(r);
}

/* Our own count only falls: mappings that are gone again are found by looking. */
TEST(room_for_mappings_comes_back)
{
	struct map_room r;

	map_room_open(&r);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(map_room_take(&r, 2), 0);
		assert_true(r.left > 0);
		assert_int_equal(map_room_take(&r, r.left), 0);
	}
	assert_int_equal(map_room_take(&r, UINT64_MAX), -ENOSPC);
	assert_int_equal(map_room_take(&r, 2), 0);
	map_room_close(&r);
}

TEST(in_flight_counts)
{
	cleanup(in_flight_free_p) struct in_flight *t = NULL;

	assert_int_equal(in_flight_new(1000, &t), 0);
	assert_int_equal(in_flight_enter(t, GFN(999), 2), -EFAULT);
	assert_int_equal(in_flight_enter(t, GFN(UINT64_MAX), 2), -EFAULT);
	assert_int_equal(in_flight_enter(t, GFN(1001), 0), -EFAULT);
	assert_false(in_flight_any(t, GFN(0), 1000));
	assert_true(in_flight_any(t, GFN(0), 1001)); /* not known */
	assert_int_equal(in_flight_enter(t, GFN(31), 2), 0);
	assert_int_equal(in_flight_enter(t, GFN(40), 1), 0);
	assert_false(in_flight_any(t, GFN(0), 16));
	assert_true(in_flight_any(t, GFN(16), 1));
	assert_true(in_flight_any(t, GFN(0), 1000));
	assert_false(in_flight_any(t, GFN(20), 0));
	in_flight_leave(t, GFN(31), 2);
	assert_false(in_flight_any(t, GFN(16), 16));
	assert_true(in_flight_any(t, GFN(32), 1));
	in_flight_leave(t, GFN(40), 1);
	assert_false(in_flight_any(t, GFN(0), 1000));
	assert_int_equal(in_flight_enter(t, GFN(999), 1), 0);
	assert_true(in_flight_any(t, GFN(999), 1));
	in_flight_leave(t, GFN(999), 1);
	assert_int_equal(in_flight_new(UINT64_MAX, &t), -ENOMEM);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(replaces_and_copies_on_write),
		cmocka_unit_test(many_extents_in_one_call),
		cmocka_unit_test(what_comes_late_is_seen),
		cmocka_unit_test(what_comes_after_stays),
		cmocka_unit_test(pinned_pages_are_not_trusted),
		cmocka_unit_test(not_protected_is_not_unwritten),
		cmocka_unit_test(one_byte_decides),
		cmocka_unit_test(refuses_nonsense),
		cmocka_unit_test(huge_pages_are_split_first),
		cmocka_unit_test(refusals_leave_the_guest_its_pages),
		cmocka_unit_test(room_for_mappings_comes_back),
		cmocka_unit_test(in_flight_counts),
	};

	return TEST_RUN(tests);
}
