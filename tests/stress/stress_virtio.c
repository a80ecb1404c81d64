/* SPDX-License-Identifier: Apache-2.0 */
/* A driver's threads against the I/O thread: no notification is lost, no reset leaves I/O behind, and registers may be
 * touched by anybody at any time. */
#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "base/fs.h"
#include "tests/unit/test.h"
#include "tests/unit/virtio_driver.h"
#include "vmm/virtio-balloon.h"
#include "vmm/virtio-blk.h"

#define SECTOR	      512u
#define SECTORS	      2048u
#define HEADER	      DRIVER_DATA
#define STATUS	      (DRIVER_DATA + 0x2000)
#define DATA	      (DRIVER_DATA + 0x4000)
#define MESSAGE	      (DRIVER_DATA + 0x200000)
#define SLOTS	      16u
#define QUEUE_ENTRIES 64
#define DEADLINE_MS   10000

struct stress {
	struct driver d;
	struct virtio_blk *blk;
	struct virtio_balloon *balloon;
	pthread_t io_thread, other_thread;
	atomic_bool stop;
	bool kick_too;		    /* the other thread kicks; not where lost kicks are looked for */
	unsigned interrupts_waited; /* times that the driver slept until an interrupt came */
	unsigned kicks_saved;
};

static unsigned rounds(unsigned quick)
{
	return getenv("SARDINE_FULL") ? 50 * quick : quick;
}

static void *io_main(void *arg)
{
	struct stress *s = arg;

	assert_int_equal(io_loop_run(s->d.loop), 0);
	return NULL;
}

/* Another vCPU, which looks at everything and changes nothing that matters. */
static void *other_main(void *arg)
{
	struct stress *s = arg;

	while (!atomic_load(&s->stop)) {
		for (uint32_t reg = 0; reg < 0x120; reg += 4)
			(void)driver_read(&s->d, reg);
		driver_write(&s->d, REG_FEATURES_SEL, 1);
		if (s->kick_too)
			driver_kick(&s->d, 0);
		if (s->blk) {
			struct virtio_blk_stats stats;

			virtio_blk_stats(s->blk, &stats);
		}
		if (s->balloon) {
			struct virtio_balloon_stats stats;

			virtio_balloon_ask(s->balloon);
			virtio_balloon_stats(s->balloon, &stats);
			assert_int_equal(
				virtio_balloon_set_target(s->balloon, stats.balloon.frames * PAGE_BYTES), 0);
		}
	}
	return NULL;
}

/* An image whose sector n holds the bytes n, n + 1, .. */
static uint8_t pattern(uint64_t sector, unsigned i)
{
	return (uint8_t)(sector * 3 + i);
}

static void make_disk(struct stress *s, enum blk_engine_kind engine, bool direct)
{
	char path[] = "stress-disk-XXXXXX";
	auto_fd fd = mkstemp(path);
	struct virtio_blk_options o = {.path = path, .direct = direct, .engine = engine};
	uint8_t sector[SECTOR];

	assert_true(fd >= 0);
	for (unsigned n = 0; n < SECTORS; n++) {
		for (unsigned i = 0; i < SECTOR; i++)
			sector[i] = pattern(n, i);
		assert_int_equal(pwrite_full(fd, sector, SECTOR, n * SECTOR), 0);
	}
	assert_int_equal(fdatasync(fd), 0);
	assert_int_equal(driver_init(&s->d), 0);
	assert_int_equal(virtio_blk_new(&o, s->d.mem, s->d.loop, &s->d.irq, NULL, &s->blk), 0);
	unlink(path);
	s->d.mmio = virtio_blk_mmio(s->blk);
}

static void threads_start(struct stress *s)
{
	assert_int_equal(pthread_create(&s->io_thread, NULL, io_main, s), 0);
	assert_int_equal(pthread_create(&s->other_thread, NULL, other_main, s), 0);
}

static void threads_stop(struct stress *s)
{
	atomic_store(&s->stop, true);
	pthread_join(s->other_thread, NULL);
	io_loop_stop(s->d.loop);
	pthread_join(s->io_thread, NULL);
	virtio_blk_free(s->blk);
	virtio_balloon_free(s->balloon);
	driver_done(&s->d);
}

static void prepare_read(struct stress *s, unsigned slot, uint64_t sector, uint32_t sectors)
{
	struct driver_queue *q = &s->d.queues[0];
	uint16_t i = (uint16_t)(3 * slot);
	uint8_t *h = driver_ptr(&s->d, HEADER + 16 * slot, 16);

	store_le32(h, VIRTIO_BLK_T_IN);
	store_le64(h + 8, sector);
	*(uint8_t *)driver_ptr(&s->d, STATUS + slot, 1) = 0xee;
	driver_desc(q, i, HEADER + 16 * slot, 16, VIRTQ_DESC_F_NEXT, (uint16_t)(i + 1));
	driver_desc(q, (uint16_t)(i + 1), DATA + slot * 0x1000, sectors * SECTOR,
		    VIRTQ_DESC_F_NEXT | VIRTQ_DESC_F_WRITE, (uint16_t)(i + 2));
	driver_desc(q, (uint16_t)(i + 2), STATUS + slot, 1, VIRTQ_DESC_F_WRITE, 0);
}

static uint16_t used_idx(const struct driver_queue *q)
{
	return le16_get_acquire(&q->used->idx);
}

/* Kick as Linux does: only when the device asked for it (pair: virtqueue_kicks_on()). */
static void kick_if_wanted(struct stress *s, unsigned queue, uint16_t old)
{
	struct driver_queue *q = &s->d.queues[queue];
	uint16_t event;

	atomic_thread_fence(memory_order_seq_cst);
	event = le16_get((const le16_t *)(const void *)&q->used->ring[q->size]);
	if ((uint16_t)(q->avail_idx - event - 1) < (uint16_t)(q->avail_idx - old))
		driver_kick(&s->d, queue);
	else
		s->kicks_saved++;
}

/* Sleep until used entry number @want is there, with interrupts asked for as Linux does. */
static void wait_used(struct stress *s, unsigned queue, uint16_t want)
{
	struct driver_queue *q = &s->d.queues[queue];

	while ((int16_t)(used_idx(q) - want) < 0) {
		struct pollfd p = {.fd = s->d.irq.fd, .events = POLLIN};

		le16_put(&q->avail->ring[q->size], (uint16_t)(want - 1)); /* used_event */
		atomic_thread_fence(memory_order_seq_cst);
		if ((int16_t)(used_idx(q) - want) >= 0)
			break;
		s->interrupts_waited++;
		if (poll(&p, 1, DEADLINE_MS) != 1)
			fail_msg("an interrupt or a kick was lost: used %u, wanted %u", used_idx(q), want);
		driver_interrupts(&s->d);
		driver_write(&s->d, REG_ACK, driver_read(&s->d, REG_ISR));
	}
}

static void assert_read(struct stress *s, unsigned slot, uint64_t sector, uint32_t sectors)
{
	const uint8_t *data = driver_ptr(&s->d, DATA + slot * 0x1000, sectors * SECTOR);

	assert_int_equal(*(uint8_t *)driver_ptr(&s->d, STATUS + slot, 1), VIRTIO_BLK_S_OK);
	for (unsigned i = 0; i < sectors * SECTOR; i++)
		if (data[i] != pattern(sector + i / SECTOR, i % SECTOR))
			fail_msg("slot %u, byte %u", slot, i);
}

/* Batches of all lengths; the driver kicks and sleeps only as the ring tells it. */
static void notifications(enum blk_engine_kind engine)
{
	static struct stress s;
	unsigned total = rounds(2000);

	memset(&s, 0, sizeof(s));
	make_disk(&s, engine, false);
	threads_start(&s);
	assert_true(driver_start(&s.d, VIRTIO_FEATURE_EVENT_IDX | 1u << VIRTIO_BLK_F_FLUSH, QUEUE_ENTRIES));
	for (unsigned round = 0; round < total; round++) {
		struct driver_queue *q = &s.d.queues[0];
		unsigned count = 1 + round % SLOTS;
		uint16_t first = q->avail_idx;

		for (unsigned slot = 0; slot < count; slot++) {
			uint16_t old = q->avail_idx;

			prepare_read(&s, slot, (round + slot * 8) % (SECTORS - 8), 1 + slot % 8);
			driver_offer(q, (uint16_t)(3 * slot));
			kick_if_wanted(&s, 0, old);
		}
		wait_used(&s, 0, (uint16_t)(first + count));
		for (unsigned slot = 0; slot < count; slot++)
			assert_read(&s, slot, (round + slot * 8) % (SECTORS - 8), 1 + slot % 8);
	}
	threads_stop(&s);
	/* The test is one only if the driver did sleep, and did leave kicks out. */
	assert_true(s.interrupts_waited > 0);
	assert_true(s.kicks_saved > 0);
}

/* Resets at any moment of a batch; afterwards the memory is the guest's alone. */
static void resets(enum blk_engine_kind engine, bool direct)
{
	static struct stress s;
	unsigned total = rounds(300);
	uint8_t *data;

	memset(&s, 0, sizeof(s));
	make_disk(&s, engine, direct);
	data = driver_ptr(&s.d, DATA, SLOTS * 0x1000);
	s.kick_too = true;
	threads_start(&s);
	for (unsigned round = 0; round < total; round++) {
		struct driver_queue *q;

		/* The other vCPU's FEATURES_SEL writes do not disturb this. */
		assert_true(driver_start(&s.d, VIRTIO_FEATURE_EVENT_IDX | 1u << VIRTIO_BLK_F_FLUSH,
					 QUEUE_ENTRIES));
		q = &s.d.queues[0];
		for (unsigned slot = 0; slot < SLOTS; slot++) {
			prepare_read(&s, slot, slot * 8, 8);
			driver_offer(q, (uint16_t)(3 * slot));
			if (slot % 4 == 3)
				driver_kick(&s.d, 0);
		}
		for (unsigned spin = 0; spin < round % 50 && used_idx(q) == 0; spin++)
			(void)driver_read(&s.d, REG_ISR);
		driver_write(&s.d, REG_STAT, 0);
		assert_int_equal(driver_read(&s.d, REG_STAT), 0);
		memset(data, 0x77, SLOTS * 0x1000);
		memset(driver_ptr(&s.d, q->gpa, 0x10000), 0x77, 0x10000);
		(void)driver_read(&s.d, REG_ISR);
		for (unsigned i = 0; i < SLOTS * 0x1000; i++)
			if (data[i] != 0x77)
				fail_msg("written after the reset: byte %u in round %u", i, round);
		assert_int_equal(load_le16(&q->used->idx), 0x7777);
	}
	threads_stop(&s);
}

/* Inflating and deflating with targets changing and resets in between. */
static void balloon(void **state)
{
	static struct stress s;
	static const struct virtio_balloon_options options = {
		.stats = true, .deflate_on_oom = true, .reporting = true, .poison = true};
	unsigned total = rounds(500);

	(void)state;
	memset(&s, 0, sizeof(s));
	assert_int_equal(driver_init(&s.d), 0);
	assert_int_equal(virtio_balloon_new(&options, s.d.mem, s.d.loop, &s.d.irq, &s.balloon), 0);
	s.d.mmio = virtio_balloon_mmio(s.balloon);
	threads_start(&s);
	for (unsigned round = 0; round < total; round++) {
		unsigned queue = round % 2;
		struct driver_queue *q = &s.d.queues[queue];
		struct virtio_balloon_stats stats;

		if (round % 20 == 0)
			assert_true(driver_start(&s.d, VIRTIO_FEATURE_EVENT_IDX, QUEUE_ENTRIES));
		for (unsigned i = 0; i < 256; i++) {
			uint32_t gfn = 0xc00 + (i * 7 % 256);

			store_le32((char *)driver_ptr(&s.d, MESSAGE, 1024) + 4 * i, gfn);
			if (queue == 0)
				*(uint8_t *)driver_ptr(&s.d, gfn * PAGE_BYTES, 1) = 0xaa;
		}
		driver_desc(q, 0, MESSAGE, 1024, 0, 0);
		driver_offer(q, 0);
		kick_if_wanted(&s, queue, (uint16_t)(q->avail_idx - 1));
		wait_used(&s, queue, q->avail_idx);
		for (unsigned i = 0; i < 256 && queue == 0; i++)
			assert_int_equal(*(uint8_t *)driver_ptr(&s.d, (0xc00 + i) * PAGE_BYTES, 1), 0);
		virtio_balloon_stats(s.balloon, &stats);
		assert_int_equal(stats.balloon.frames, queue == 0 ? 256 : 0);
	}
	threads_stop(&s);
}

/* Report one range of free pages. */
static void prepare_report(struct stress *s, unsigned queue, uint64_t first, uint32_t pages)
{
	struct driver_queue *q = &s->d.queues[queue];

	driver_desc(q, 0, first * PAGE_BYTES, pages / 2 * (uint32_t)PAGE_BYTES,
		    VIRTQ_DESC_F_WRITE | VIRTQ_DESC_F_NEXT, 1);
	driver_desc(q, 1, (first + pages / 2) * PAGE_BYTES, (pages - pages / 2) * (uint32_t)PAGE_BYTES,
		    VIRTQ_DESC_F_WRITE, 0);
	driver_offer(q, 0);
}

static void assert_zero(struct stress *s, uint64_t first, unsigned pages)
{
	for (unsigned i = 0; i < pages; i++)
		assert_int_equal(*(uint8_t *)driver_ptr(&s->d, (first + i) * PAGE_BYTES, 1), 0);
}

static void touch(struct stress *s, uint64_t first, unsigned pages)
{
	for (unsigned i = 0; i < pages; i++)
		*(uint8_t *)driver_ptr(&s->d, (first + i) * PAGE_BYTES, 1) = 0xaa;
}

/* A thread that gives other frames back, as the page store does, and maps segments. */
static void *engine_main(void *arg)
{
	struct stress *s = arg;
	auto_fd fd = memfd_create("segment", MFD_CLOEXEC);

	assert_int_equal(ftruncate(fd, 16 * PAGE_BYTES), 0);
	while (!atomic_load(&s->stop)) {
		assert_int_equal(guest_memory_map_store(s->d.mem, GFN(0xe00), fd, 0, 16), 0);
		assert_int_equal(guest_memory_discard(s->d.mem, GFN(0xe04), 8, NULL), 0);
		assert_int_equal(guest_memory_discard(s->d.mem, GFN(0xdf0), 48, NULL), 0);
	}
	return NULL;
}

/* Reports, messages, statistics and questions for them, resets at any moment, and discards by another thread: what was
 * acknowledged is zero, what was not is whole, and nothing is written after a reset. */
static void balloon_queues(void **state)
{
	static struct stress s;
	static const struct virtio_balloon_options options = {
		.stats = true, .deflate_on_oom = true, .reporting = true, .poison = true};
	unsigned total = rounds(400);
	pthread_t engine;

	(void)state;
	memset(&s, 0, sizeof(s));
	assert_int_equal(driver_init(&s.d), 0);
	assert_int_equal(virtio_balloon_new(&options, s.d.mem, s.d.loop, &s.d.irq, &s.balloon), 0);
	s.d.mmio = virtio_balloon_mmio(s.balloon);
	threads_start(&s);
	assert_int_equal(pthread_create(&engine, NULL, engine_main, &s), 0);
	for (unsigned round = 0; round < total; round++) {
		struct driver_queue *q;

		if (round % 4 == 0)
			assert_true(driver_start(&s.d,
						 VIRTIO_FEATURE_EVENT_IDX | VIRTIO_BALLOON_STATS_VQ |
							 VIRTIO_BALLOON_REPORTING,
						 QUEUE_ENTRIES));
		if (round % 4 == 0) {
			driver_desc(&s.d.queues[2], 0, MESSAGE, 160, 0, 0);
			driver_send(&s.d, 2, 0);
		}
		q = &s.d.queues[3];
		touch(&s, 0xc00, 64);
		prepare_report(&s, 3, 0xc00, 64);
		if (round % 4 == 3) {
			/* The reset comes before, while or after the report is worked on. */
			driver_kick(&s.d, 3);
			for (unsigned spin = 0; spin < round % 64; spin++)
				(void)driver_read(&s.d, REG_ISR);
			driver_write(&s.d, REG_STAT, 0);
			touch(&s, 0xc00, 64);
			memset(driver_ptr(&s.d, q->gpa, 0x10000), 0x77, 0x10000);
			(void)driver_read(&s.d, REG_ISR);
			for (unsigned i = 0; i < 64; i++)
				assert_int_equal(*(uint8_t *)driver_ptr(&s.d, (0xc00 + i) * PAGE_BYTES, 1),
						 0xaa);
			assert_int_equal(load_le16(&q->used->idx), 0x7777);
			continue;
		}
		kick_if_wanted(&s, 3, (uint16_t)(q->avail_idx - 1));
		wait_used(&s, 3, q->avail_idx);
		assert_zero(&s, 0xc00, 64);
	}
	atomic_store(&s.stop, true);
	pthread_join(engine, NULL);
	threads_stop(&s);
}

static void notifications_plain(void **state)
{
	(void)state;
	notifications(BLK_ENGINE_PLAIN);
}

static void notifications_auto(void **state)
{
	(void)state;
	notifications(BLK_ENGINE_AUTO);
}

static void resets_plain(void **state)
{
	(void)state;
	resets(BLK_ENGINE_PLAIN, false);
}

static void resets_auto(void **state)
{
	(void)state;
	resets(BLK_ENGINE_AUTO, false);
}

static void resets_auto_direct(void **state)
{
	(void)state;
	resets(BLK_ENGINE_AUTO, true);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(notifications_plain), cmocka_unit_test(notifications_auto),
		cmocka_unit_test(resets_plain),	       cmocka_unit_test(resets_auto),
		cmocka_unit_test(resets_auto_direct),  cmocka_unit_test(balloon),
		cmocka_unit_test(balloon_queues),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
