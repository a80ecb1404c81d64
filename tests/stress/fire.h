/* SPDX-License-Identifier: Apache-2.0 */
/* What the tortures of the engine put replayed memory under: writers at full speed, devices with pinned pages, discards,
 * and contents that come back; every byte is known. */
#ifndef SARDINE_TESTS_STRESS_FIRE_H
#define SARDINE_TESTS_STRESS_FIRE_H

#include <errno.h>
#include <liburing.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "base/fs.h"
#include "ksm/replay-internal.h"
#include "ksm/replay-memory.h"
#include "ksm/replay-writer.h"
#include "tests/unit/test.h"

#define FRAMES	      8192u
#define POOL_SEED     1
#define WRITERS	      2u
#define WINDOW	      64u
#define WRITER_FRAMES (FRAMES / 4)
#define DEVICES	      4u
#define DEVICE_FRAMES ((FRAMES - WRITERS * WRITER_FRAMES) / DEVICES)
#define IO_FRAMES     4u

#if defined(__SANITIZE_THREAD__)
#define UNDER_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define UNDER_TSAN 1
#endif
#endif
#ifndef UNDER_TSAN
#define UNDER_TSAN 0
#endif

/* A device with a thread and a ring of its own, as nobody else writes to its frames. */
struct device {
	struct fire *fire;
	pthread_t thread;
	struct io_uring ring;
	int disk;
	uint64_t first, seed, chances;
	uint64_t fresh; /* the window that was recycled last */
	uint8_t data[IO_FRAMES][PAGE_BYTES];
};

struct fire {
	struct replay_memory *m;
	uint64_t seed;
	struct replay_writer *writers[WRITERS];
	struct device devices[DEVICES];
	_Atomic uint64_t ios;
	_Atomic int device_error;
	atomic_bool stop;
};

static inline uint64_t env_number(const char *name, uint64_t otherwise)
{
	const char *text = getenv(name);

	return text ? strtoull(text, NULL, 10) : otherwise;
}

static inline uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000u + (uint64_t)t.tv_nsec / 1000000u;
}

/* The devices. */

/* The kernel writes to pages that were pinned before, whatever happened to their mappings since. */
static inline int pinned_read(struct device *d, const struct iovec *iov, long delay_ns)
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
static inline int device_io(struct device *d)
{
	struct replay_memory *m = d->fire->m;
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
	atomic_fetch_add_explicit(&d->fire->ios, 1, memory_order_relaxed);
	return r;
}

/* The guest drops what was read, and has there again what can be shared. */
static inline int device_recycle(struct device *d)
{
	struct replay_memory *m = d->fire->m;
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

static inline void *device_main(void *arg)
{
	struct device *d = arg;
	struct hold *hold = replay_memory_hold(d->fire->m);
	int r = 0, none = 0;

	hold_join(hold);
	while (r == 0 && !atomic_load(&d->fire->stop)) {
		hold_attend(hold);
		r = d->chances % 5 == 0 ? device_recycle(d) : device_io(d);
	}
	hold_leave(hold);
	atomic_compare_exchange_strong(&d->fire->device_error, &none, r);
	return NULL;
}

static inline void device_start(struct fire *t, unsigned i)
{
	struct device *d = &t->devices[i];

	d->fire = t;
	d->first = WRITERS * WRITER_FRAMES + i * DEVICE_FRAMES;
	d->seed = t->seed + 200 + i;
	d->disk = memfd_create("disk", MFD_CLOEXEC);
	assert_true(d->disk >= 0);
	assert_int_equal(io_uring_queue_init(4, &d->ring, 0), 0);
	assert_int_equal(pthread_create(&d->thread, NULL, device_main, d), 0);
}

static inline void device_done(struct device *d)
{
	pthread_join(d->thread, NULL);
	io_uring_queue_exit(&d->ring);
	close_fd_p(&d->disk);
}

static inline void fire_start(struct fire *t)
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

/* Returns writes. */
static inline uint64_t fire_stop(struct fire *t)
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

static inline bool fire_is_well(struct fire *t)
{
	return replay_memory_wrong(t->m) == UINT64_MAX && atomic_load(&t->device_error) == 0;
}

static inline void fire_assert_well(struct fire *t)
{
	if (replay_memory_wrong(t->m) != UINT64_MAX)
		fail_msg("seed %llu: frame %llu reads wrong", (unsigned long long)t->seed,
			 (unsigned long long)replay_memory_wrong(t->m));
	assert_int_equal(atomic_load(&t->device_error), 0);
}

/* Whether something can be pinned here. */
static inline bool fire_can(void)
{
	struct io_uring ring;

	if (io_uring_queue_init(4, &ring, 0) < 0)
		return false;
	io_uring_queue_exit(&ring);
	return true;
}

#endif
