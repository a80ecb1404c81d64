/* SPDX-License-Identifier: Apache-2.0 */
/* The limits of a disk, by a clock of the test's: requests wait in the ring until the limits allow them, and none is lost. */
#include "vmm/virtio-blk.h"

#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "tests/unit/tempdir.h"
#include "tests/unit/test.h"
#include "tests/unit/virtio_driver.h"

#define SECTOR	512u
#define SECTORS 4096u
#define HEADER	DRIVER_DATA
#define STATUS	(DRIVER_DATA + 0x1000)
#define DATA	(DRIVER_DATA + 0x10000)
#define SLOTS	16u
#define MS	1000000ull

struct fixture {
	struct driver d;
	struct tempdir dir;
	struct virtio_blk *blk;
	uint64_t now_ns;
};

static uint64_t clock_of_test(void *arg)
{
	return ((struct fixture *)arg)->now_ns;
}

static void start(struct fixture *f, uint64_t bw, uint64_t iops)
{
	char path[256];
	struct virtio_blk_options o = {
		.path = path,
		.rate = {.bytes_per_s = bw, .ops_per_s = iops},
		.now_ns = clock_of_test,
		.now_arg = f,
	};
	struct errmsg err = {0};
	int fd;

	*f = (struct fixture){.dir = tempdir_make(), .now_ns = 1000 * MS};
	assert_int_equal(driver_init(&f->d), 0);
	snprintf(path, sizeof(path), "%s/disk", f->dir.path);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_int_equal(ftruncate(fd, SECTORS * SECTOR), 0);
	close(fd);
	if (virtio_blk_new(&o, f->d.mem, f->d.loop, &f->d.irq, &err, &f->blk) < 0)
		fail_msg("%s", err.text);
	f->d.mmio = virtio_blk_mmio(f->blk);
	assert_true(driver_start(&f->d, 0, 64));
}

static void end(struct fixture *f)
{
	virtio_blk_free(f->blk);
	driver_done(&f->d);
	tempdir_remove(&f->dir);
}

static uint64_t throttled(struct fixture *f)
{
	struct virtio_blk_stats s;

	virtio_blk_stats(f->blk, &s);
	return s.throttled;
}

static void offer(struct fixture *f, unsigned slot, uint32_t type, uint32_t len)
{
	struct driver_queue *q = &f->d.queues[0];
	uint16_t i = (uint16_t)(3 * slot);
	uint8_t *h = driver_ptr(&f->d, HEADER + 16 * slot, 16);
	bool in = type == VIRTIO_BLK_T_IN;

	store_le32(h, type);
	store_le32(h + 4, 0);
	store_le64(h + 8, 0);
	driver_desc(q, i, HEADER + 16 * slot, 16, VIRTQ_DESC_F_NEXT, (uint16_t)(len ? i + 1 : i + 2));
	driver_desc(q, (uint16_t)(i + 1), DATA, len,
		    (uint16_t)(VIRTQ_DESC_F_NEXT | (in ? VIRTQ_DESC_F_WRITE : 0)), (uint16_t)(i + 2));
	driver_desc(q, (uint16_t)(i + 2), STATUS + slot, 1, VIRTQ_DESC_F_WRITE, 0);
	driver_send(&f->d, 0, i);
}

/* Answers that come by themselves within a while. */
static unsigned answers(struct fixture *f, unsigned wanted)
{
	unsigned n = 0;

	while (n < wanted && driver_wait(&f->d, 0, 1))
		while (driver_take(&f->d.queues[0], NULL) != UINT32_MAX)
			n++;
	return n;
}

/* What is there now, and no more. */
static unsigned answered(struct fixture *f)
{
	unsigned n = 0;

	for (unsigned round = 0; round < 20; round++) {
		driver_loop(&f->d);
		while (driver_take(&f->d.queues[0], NULL) != UINT32_MAX)
			n++;
	}
	return n;
}

TEST(requests_wait_for_their_time)
{
	struct fixture f;

	(void)state;
	start(&f, 0, 20); /* two at once, then one each 50 ms */
	for (unsigned i = 0; i < SLOTS; i++)
		offer(&f, i, VIRTIO_BLK_T_OUT, SECTOR);
	assert_int_equal(answers(&f, 2), 2);
	assert_int_equal(answered(&f), 0);
	assert_true(throttled(&f) >= 1);
	for (unsigned i = 2; i < SLOTS; i++) {
		f.now_ns += 51 * MS;
		assert_int_equal(answers(&f, 1), 1); /* the timer comes by itself */
		assert_int_equal(answered(&f), 0);
	}
	end(&f);
}

/* A request larger than the limit goes through, and the next one pays for it. */
TEST(bytes_count)
{
	struct fixture f;

	(void)state;
	start(&f, 64 * SECTOR, 0);
	offer(&f, 0, VIRTIO_BLK_T_OUT, 32 * SECTOR); /* half a second's worth */
	offer(&f, 1, VIRTIO_BLK_T_IN, SECTOR);
	assert_int_equal(answers(&f, 1), 1);
	f.now_ns += 390 * MS; /* a tenth of a second's was there */
	assert_int_equal(answered(&f), 0);
	f.now_ns += 30 * MS;
	assert_int_equal(answers(&f, 1), 1);
	/* Flushes move no bytes; but they wait behind what does. */
	f.now_ns += 1000 * MS;
	for (unsigned i = 0; i < SLOTS; i++)
		offer(&f, i, VIRTIO_BLK_T_FLUSH, 0);
	assert_int_equal(answers(&f, SLOTS), SLOTS);
	end(&f);
}

/* A held device takes nothing, whatever the limits say; a reset forgets what waited, but not what was spent. */
TEST(hold_and_reset)
{
	struct fixture f;

	(void)state;
	start(&f, 0, 10);
	offer(&f, 0, VIRTIO_BLK_T_OUT, SECTOR);
	offer(&f, 1, VIRTIO_BLK_T_OUT, SECTOR);
	assert_int_equal(answers(&f, 1), 1);
	virtio_mmio_hold(f.d.mmio);
	f.now_ns += 1000 * MS;
	assert_int_equal(answered(&f), 0);
	virtio_mmio_release(f.d.mmio);
	assert_int_equal(answers(&f, 1), 1);
	offer(&f, 2, VIRTIO_BLK_T_OUT, SECTOR);
	assert_int_equal(answered(&f), 0);
	assert_true(driver_start(&f.d, 0, 64));
	f.now_ns += 1000 * MS;
	assert_int_equal(answered(&f), 0);
	offer(&f, 3, VIRTIO_BLK_T_OUT, SECTOR);
	assert_int_equal(answers(&f, 1), 1);
	assert_true(driver_start(&f.d, 0, 64));
	offer(&f, 4, VIRTIO_BLK_T_OUT, SECTOR);
	assert_int_equal(answered(&f), 0); /* a reset is no way around the limit */
	end(&f);
}

TEST(no_limit_no_wait)
{
	struct fixture f;

	(void)state;
	start(&f, 0, 0);
	for (unsigned i = 0; i < SLOTS; i++)
		offer(&f, i, VIRTIO_BLK_T_OUT, 16 * SECTOR);
	assert_int_equal(answers(&f, SLOTS), SLOTS);
	assert_int_equal(throttled(&f), 0);
	end(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(requests_wait_for_their_time),
		cmocka_unit_test(bytes_count),
		cmocka_unit_test(hold_and_reset),
		cmocka_unit_test(no_limit_no_wait),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
