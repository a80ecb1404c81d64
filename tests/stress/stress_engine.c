/* SPDX-License-Identifier: Apache-2.0 */
/* The engine under fire: writers at full speed and devices with pinned pages, while their memory is replaced by the
 * store, broken, discarded and replaced again at random. Every byte is known and checked.
 *
 * SARDINE_TORTURE_PAGES: how many pages to replace; default 200,000, with SARDINE_FULL 10,000,000 (under the thread
 * sanitizer half and a tenth of that). SARDINE_TORTURE_SECONDS: when to stop before that, which is no failure; default 20,
 * with SARDINE_FULL 800. SARDINE_TORTURE_SEED: of what is drawn by chance; the threads' timing is not.
 */
#include <errno.h>
#include <liburing.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "base/fs.h"
#include "ksm/extent-apply.h"
#include "ksm/replay-internal.h"
#include "ksm/replay-memory.h"
#include "ksm/replay-writer.h"
#include "tests/unit/test.h"

#define FRAMES	      8192u
#define SEGMENTS      4u
#define POOL_SEED     1
#define WRITERS	      2u
#define WINDOW	      64u
#define WRITER_FRAMES (FRAMES / 4)
#define DEVICES	      4u
#define DEVICE_FRAMES ((FRAMES - WRITERS * WRITER_FRAMES) / DEVICES)
#define BATCH	      64u
#define IO_FRAMES     4u

#if defined(__SANITIZE_THREAD__)
#define DEFAULT_PAGES 100000
#define FULL_PAGES    1000000
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define DEFAULT_PAGES 100000
#define FULL_PAGES    1000000
#endif
#endif
#ifndef DEFAULT_PAGES
#define DEFAULT_PAGES 200000
#define FULL_PAGES    10000000
#endif

/* A device with a thread and a ring of its own, as nobody else writes to its frames. */
struct device {
	struct torture *t;
	pthread_t thread;
	struct io_uring ring;
	int disk;
	uint64_t first, seed, chances;
	uint64_t fresh; /* the window that was recycled last */
	uint8_t data[IO_FRAMES][PAGE_BYTES];
};

struct torture {
	struct replay_memory *m;
	struct write_tracker *tracker;
	struct extent_applier *applier;
	struct segment_view store[SEGMENTS];
	struct replay_writer *writers[WRITERS];
	uint64_t seed, chances;
	struct device devices[DEVICES];
	_Atomic uint64_t ios;
	_Atomic int device_error;
	atomic_bool stop;
};

static uint64_t env_number(const char *name, uint64_t otherwise)
{
	const char *text = getenv(name);

	return text ? strtoull(text, NULL, 10) : otherwise;
}

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000u + (uint64_t)t.tv_nsec / 1000000u;
}

/* The devices. */

/* The kernel writes to pages that were pinned before, whatever happened to their mappings since. */
static int pinned_read(struct device *d, const struct iovec *iov, long delay_ns)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&d->ring);
	struct io_uring_cqe *cqe;
	int r;

	if (!sqe)
		return -ENOSPC;
	r = io_uring_register_buffers(&d->ring, iov, 1);
	if (r < 0)
		return r;
	/* As long as disks take, and as scans do. */
	nanosleep(&(struct timespec){.tv_nsec = delay_ns}, NULL);
	io_uring_prep_read_fixed(sqe, d->disk, iov->iov_base, (unsigned)iov->iov_len, 0, 0);
	r = io_uring_submit(&d->ring);
	if (r < 0)
		return r;
	r = io_uring_wait_cqe(&d->ring, &cqe);
	if (r < 0)
		return r;
	r = cqe->res == (int)iov->iov_len ? 0 : -EIO;
	io_uring_cqe_seen(&d->ring, cqe);
	return r < 0 ? r : io_uring_unregister_buffers(&d->ring);
}

/* The device's thread rests while only the kernel works, so that pages are pinned and written during holds, too. */
static int device_io(struct device *d)
{
	struct replay_memory *m = d->t->m;
	uint64_t c = replay_mix(d->seed, d->chances++), number = c | (uint64_t)1 << 63;
	unsigned frames = 1 + (unsigned)(c >> 8) % IO_FRAMES;
	gfn_t first = GFN(c & 1 ? d->first + (c >> 16) % (DEVICE_FRAMES - frames)
				: d->fresh + (c >> 16) % (WINDOW - frames));
	struct iovec iov = {replay_memory_at(m, first), frames * PAGE_BYTES};
	int r;

	for (unsigned i = 0; i < frames; i++)
		replay_content(d->data[i], number + i);
	r = pwrite_full(d->disk, d->data, iov.iov_len, 0);
	if (r < 0)
		return r;
	r = in_flight_enter(replay_memory_in_flight(m), first, frames);
	if (r < 0)
		return r;
	hold_rest(replay_memory_hold(m));
	r = pinned_read(d, &iov, (long)((c >> 32) % 3000000));
	hold_wake(replay_memory_hold(m));
	for (unsigned i = 0; i < frames; i++)
		if (r == 0 && !replay_memory_device_wrote(m, GFN(first.v + i), number + i))
			r = -EBADMSG;
	in_flight_leave(replay_memory_in_flight(m), first, frames);
	atomic_fetch_add_explicit(&d->t->ios, 1, memory_order_relaxed);
	return r;
}

/* The guest drops what was read, and has there again what can be shared. */
static int device_recycle(struct device *d)
{
	struct replay_memory *m = d->t->m;
	uint64_t c = replay_mix(d->seed, d->chances++);
	int r;

	d->fresh = d->first + c % (DEVICE_FRAMES / WINDOW) * WINDOW;
	r = replay_memory_discard(m, GFN(d->fresh), WINDOW);
	for (unsigned i = 0; r == 0 && i < WINDOW; i++) {
		hold_attend(replay_memory_hold(m));
		if (!replay_memory_restore(m, GFN(d->fresh + i)))
			r = -EBADMSG;
	}
	return r;
}

static void *device_main(void *arg)
{
	struct device *d = arg;
	struct hold *hold = replay_memory_hold(d->t->m);
	int r = 0, none = 0;

	hold_join(hold);
	while (r == 0 && !atomic_load(&d->t->stop)) {
		hold_attend(hold);
		r = d->chances % 5 == 0 ? device_recycle(d) : device_io(d);
	}
	hold_leave(hold);
	atomic_compare_exchange_strong(&d->t->device_error, &none, r);
	return NULL;
}

static void device_start(struct torture *t, unsigned i)
{
	struct device *d = &t->devices[i];

	d->t = t;
	d->first = WRITERS * WRITER_FRAMES + i * DEVICE_FRAMES;
	d->seed = t->seed + 200 + i;
	d->disk = memfd_create("disk", MFD_CLOEXEC);
	assert_true(d->disk >= 0);
	assert_int_equal(io_uring_queue_init(4, &d->ring, 0), 0);
	assert_int_equal(pthread_create(&d->thread, NULL, device_main, d), 0);
}

static void device_done(struct device *d)
{
	pthread_join(d->thread, NULL);
	io_uring_queue_exit(&d->ring);
	close_fd_p(&d->disk);
}

/* The agent: the test's own thread. */

static uint64_t chance(struct torture *t)
{
	return replay_mix(t->seed, t->chances++);
}

/* What would be shared there; now and then something else, which must be refused. */
static struct extent draw(struct torture *t, uint64_t frame, uint64_t room)
{
	uint64_t c = chance(t), pages = 1 + (c % 4 ? c >> 8 & 15 : c >> 8 & 127), page = frame % 512;

	pages = pages < room ? pages : room;
	pages = pages < 512 - page ? pages : 512 - page;
	return (struct extent){
		.first = GFN(frame),
		.pages = (uint32_t)pages,
		.store = &t->store[(frame / 512 + (c >> 32 & 63 ? 0 : 1)) % SEGMENTS],
		.store_page = (uint32_t)page,
	};
}

static bool all_well(struct torture *t)
{
	return replay_memory_wrong(t->m) == UINT64_MAX && atomic_load(&t->device_error) == 0;
}

/* From somewhere on, in order, with gaps: disjoint. */
static void apply_batch(struct torture *t)
{
	struct extent v[BATCH];
	uint64_t frame = chance(t) % FRAMES;
	size_t n = 0;

	while (n < BATCH && frame < FRAMES) {
		v[n] = draw(t, frame, FRAMES - frame);
		frame += v[n++].pages + chance(t) % 8;
	}
	extent_apply(t->applier, v, n);
	for (size_t i = 0; i < n; i++)
		assert_true(v[i].outcome != EXTENT_LOST && v[i].outcome != EXTENT_INVALID);
}

static void verify_some(void *arg)
{
	struct torture *t = arg;

	(void)replay_memory_verify(t->m, GFN(chance(t) % FRAMES / WINDOW * WINDOW), WINDOW);
}

static void make_store(struct torture *t)
{
	uint8_t page[PAGE_BYTES];

	for (unsigned i = 0; i < SEGMENTS; i++) {
		cleanup(segment_free_p) struct segment *s = NULL;
		auto_fd fd = -1;
		uint32_t first;

		assert_int_equal(segment_new(SEGMENT_PAGES, &s), 0);
		for (unsigned k = 0; k < SEGMENT_PAGES; k++) {
			replay_content(page, replay_pool_number(POOL_SEED, i * SEGMENT_PAGES + k));
			assert_int_equal(segment_append(s, page, 1, &first), 0);
		}
		assert_int_equal(segment_seal(s, &fd), 0);
		assert_int_equal(segment_view_init(fd, &t->store[i], NULL), 0);
	}
}

static void setup(struct torture *t)
{
	/* Frame f begins as page f of the pool, modulo its size. */
	const struct replay_run run = {REPLAY_COPY, SEGMENTS * SEGMENT_PAGES};
	const struct replay_spec spec = {.seed = t->seed,
					 .pool_seed = POOL_SEED,
					 .pool_pages = SEGMENTS * SEGMENT_PAGES,
					 .runs = &run,
					 .count = 1};
	struct errmsg err = {0};
	struct guest_view view;
	struct io_uring ring;
	int r = write_tracker_new(&err, &t->tracker);

	if (r == -ENOTSUP)
		TEST_SKIP(err.text);
	assert_int_equal(r, 0);
	if (io_uring_queue_init(4, &ring, 0) < 0)
		TEST_SKIP("no io_uring here, so nothing is pinned");
	io_uring_queue_exit(&ring);
	assert_int_equal(replay_memory_new(FRAMES, &spec, &t->m), 0);
	assert_int_equal(replay_memory_watch(t->m, t->tracker), 0);
	view = replay_memory_view(t->m);
	assert_int_equal(extent_applier_new(&view, t->tracker, &t->applier), 0);
	make_store(t);
}

static void start(struct torture *t)
{
	for (unsigned i = 0; i < WRITERS; i++) {
		struct replay_writer_config c = {.first = GFN(i * WRITER_FRAMES),
						 .frames = WRITER_FRAMES,
						 .window = WINDOW,
						 .writes = 96,
						 .discard_per_mille = 900,
						 .restore_per_mille = 950,
						 .seed = t->seed + 100 + i};

		assert_int_equal(replay_writer_start(t->m, &c, &t->writers[i]), 0);
	}
	for (unsigned i = 0; i < DEVICES; i++)
		device_start(t, i);
}

static uint64_t stop(struct torture *t)
{
	uint64_t writes = 0;

	for (unsigned i = 0; i < WRITERS; i++) {
		writes += replay_writer_writes(t->writers[i]);
		assert_int_equal(replay_writer_stop(t->writers[i]), 0);
	}
	atomic_store(&t->stop, true);
	for (unsigned i = 0; i < DEVICES; i++)
		device_done(&t->devices[i]);
	return writes;
}

static void assert_well(struct torture *t)
{
	if (replay_memory_wrong(t->m) != UINT64_MAX)
		fail_msg("seed %llu: frame %llu reads wrong", (unsigned long long)t->seed,
			 (unsigned long long)replay_memory_wrong(t->m));
	assert_int_equal(atomic_load(&t->device_error), 0);
}

static void report(struct torture *t, uint64_t writes, uint64_t ms)
{
	struct extent_stats x;
	struct replay_stats s;
	struct hold_stats h;

	extent_applier_stats(t->applier, &x);
	replay_memory_stats(t->m, &s);
	hold_stats(replay_memory_hold(t->m), &h);
	printf("torture: seed %llu: %llu pages replaced in %llu extents, %llu breaks, %llu discards (%llu "
	       "shared), %llu writes, "
	       "%llu pinned I/Os, %llu holds; %.1f s\n",
	       (unsigned long long)t->seed, (unsigned long long)x.pages[EXTENT_REPLACED],
	       (unsigned long long)x.extents[EXTENT_REPLACED], (unsigned long long)s.breaks,
	       (unsigned long long)s.discards, (unsigned long long)s.discards_shared,
	       (unsigned long long)writes, (unsigned long long)atomic_load(&t->ios),
	       (unsigned long long)h.holds, (double)ms / 1000);
	printf("torture: refused:");
	for (unsigned i = EXTENT_REPLACED + 1; i < EXTENT_OUTCOMES; i++)
		printf(" %s %llu", extent_outcome_name(i), (unsigned long long)x.extents[i]);
	printf("; work in a hold: mean %.0f us, max %.0f us\n",
	       x.holds ? (double)x.hold_work_ns / 1e3 / (double)x.holds : 0,
	       (double)x.hold_work_max_ns / 1e3);
}

static void done(struct torture *t)
{
	extent_applier_free(t->applier);
	for (unsigned i = 0; i < SEGMENTS; i++)
		segment_view_done(&t->store[i]);
	write_tracker_free(t->tracker);
	replay_memory_free(t->m);
}

TEST(every_byte_stays)
{
	static struct torture t;
	bool full = getenv("SARDINE_FULL");
	uint64_t pages = env_number("SARDINE_TORTURE_PAGES", full ? FULL_PAGES : DEFAULT_PAGES);
	uint64_t seconds = env_number("SARDINE_TORTURE_SECONDS", full ? 800 : 20);
	uint64_t start_ms = now_ms(), writes;
	struct extent_stats x = {0};

	t.seed = env_number("SARDINE_TORTURE_SEED", (uint64_t)time(NULL));
	setup(&t);
	start(&t);
	while (x.pages[EXTENT_REPLACED] < pages && now_ms() - start_ms < seconds * 1000 && all_well(&t)) {
		assert_int_equal(write_tracker_scan(t.tracker, hva_of(replay_memory_at(t.m, GFN(0))),
						    FRAMES * PAGE_BYTES, NULL),
				 0);
		for (unsigned i = 0; i < 8; i++)
			apply_batch(&t);
		(void)!hold_call(replay_memory_hold(t.m), verify_some, &t);
		extent_applier_stats(t.applier, &x);
	}
	writes = stop(&t);
	(void)replay_memory_verify(t.m, GFN(0), FRAMES);
	report(&t, writes, now_ms() - start_ms);
	assert_well(&t);
	/* It was a torture. */
	assert_true(x.pages[EXTENT_REPLACED] > 0 && x.extents[EXTENT_WRITTEN] > 0 &&
		    x.extents[EXTENT_DIFFERENT] > 0 && x.extents[EXTENT_IN_FLIGHT] > 0);
	done(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(every_byte_stays)};

	return TEST_RUN(tests);
}
