/* SPDX-License-Identifier: Apache-2.0 */
/* The balloon device: inflated frames are gone when the guest hears of it, and no message can hurt the VMM. */
#include "vmm/virtio-balloon.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>

#include "tests/unit/test.h"
#include "tests/unit/virtio_driver.h"

#define MESSAGE DRIVER_DATA
#define FRAMES	(DRIVER_RAM / PAGE_BYTES)

struct fixture {
	struct driver d;
	struct virtio_balloon *balloon;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	*state = f;
	assert_int_equal(driver_init(&f->d), 0);
	assert_int_equal(virtio_balloon_new(f->d.mem, f->d.loop, &f->d.irq, &f->balloon), 0);
	f->d.mmio = virtio_balloon_mmio(f->balloon);
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	virtio_balloon_free(f->balloon);
	driver_done(&f->d);
	free(f);
	return 0;
}

static struct virtio_balloon_stats stats(struct fixture *f)
{
	struct virtio_balloon_stats s;

	virtio_balloon_stats(f->balloon, &s);
	return s;
}

/* Send frame numbers to a queue and wait until they were taken. */
static bool tell(struct fixture *f, unsigned queue, const uint32_t *pfns, unsigned count)
{
	struct driver_queue *q = &f->d.queues[queue];

	for (unsigned i = 0; i < count; i++)
		store_le32((char *)driver_ptr(&f->d, MESSAGE, 4 * count) + 4 * i, pfns[i]);
	driver_desc(q, 0, MESSAGE, 4 * count, 0, 0);
	driver_send(&f->d, queue, 0);
	return driver_wait(&f->d, queue, 1) && driver_take(q, NULL) == 0;
}

static bool resident(struct fixture *f, uint64_t gfn)
{
	unsigned char vec = 0;

	assert_int_equal(mincore(driver_ptr(&f->d, gfn * PAGE_BYTES, PAGE_BYTES), PAGE_BYTES, &vec), 0);
	return vec & 1;
}

static void inflate_and_deflate(void **state)
{
	struct fixture *f = *state;
	static const uint32_t pfns[] = {0x802, 0x800, 0x801, 0x810};

	assert_true(driver_start(&f->d, VIRTIO_FEATURE_EVENT_IDX, 64));
	for (unsigned i = 0; i < 4; i++)
		memset(driver_ptr(&f->d, pfns[i] * PAGE_BYTES, PAGE_BYTES), 0xaa, PAGE_BYTES);
	memset(driver_ptr(&f->d, 0x803 * PAGE_BYTES, PAGE_BYTES), 0xbb, PAGE_BYTES);
	assert_true(resident(f, 0x801));
	driver_interrupts(&f->d);
	assert_true(tell(f, 0, pfns, 4));
	assert_int_equal(driver_interrupts(&f->d), 1);
	for (unsigned i = 0; i < 4; i++) {
		assert_false(resident(f, pfns[i]));
		assert_int_equal(*(uint8_t *)driver_ptr(&f->d, pfns[i] * PAGE_BYTES, 1), 0);
	}
	assert_int_equal(*(uint8_t *)driver_ptr(&f->d, 0x803 * PAGE_BYTES, 1), 0xbb);
	assert_int_equal(stats(f).balloon.frames, 4);
	assert_int_equal(stats(f).balloon.discard_calls, 2);
	assert_true(tell(f, 1, pfns, 3));
	assert_int_equal(stats(f).balloon.frames, 1);
	assert_int_equal(stats(f).virtio.requests, 2);
}

static void frames_that_a_file_backs(void **state)
{
	struct fixture *f = *state;
	auto_fd fd = memfd_create("boot", MFD_CLOEXEC);
	static const uint32_t pfns[] = {0x900, 0x901, 0x902, 0x903};
	enum frame_backing backing = FRAME_BACKINGS;
	uint8_t page[PAGE_BYTES];

	memset(page, 0xcc, sizeof(page));
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(write(fd, page, sizeof(page)), sizeof(page));
	assert_int_equal(guest_memory_map_file(f->d.mem, GPA(0x901 * PAGE_BYTES), fd, 0, 2 * PAGE_BYTES), 0);
	assert_true(driver_start(&f->d, 0, 64));
	assert_int_equal(*(uint8_t *)driver_ptr(&f->d, 0x901 * PAGE_BYTES, 1), 0xcc);
	assert_true(tell(f, 0, pfns, 4));
	assert_int_equal(*(uint8_t *)driver_ptr(&f->d, 0x901 * PAGE_BYTES, 1), 0);
	assert_int_equal(guest_memory_backing(f->d.mem, GFN(0x901), &backing, NULL), 0);
	assert_int_equal(backing, FRAME_PRIVATE);
	assert_true(tell(f, 0, pfns, 4)); /* twice */
	assert_int_equal(stats(f).balloon.frames, 4);
	assert_int_equal(stats(f).balloon.repeated, 4);
}

static void bad_frames_are_ignored(void **state)
{
	struct fixture *f = *state;
	static const uint32_t pfns[] = {FRAMES, FRAMES - 1, UINT32_MAX, 0x100000};

	assert_true(driver_start(&f->d, 0, 64));
	assert_true(tell(f, 0, pfns, 4));
	assert_int_equal(stats(f).balloon.frames, 1);
	assert_int_equal(stats(f).balloon.refused, 3);
	assert_int_equal(driver_read(&f->d, REG_STAT), STATUS_UP);
}

static uint32_t config32(struct fixture *f, uint32_t offset)
{
	return driver_read(&f->d, REG_CONFIG + offset);
}

static void target_and_actual(void **state)
{
	struct fixture *f = *state;
	uint32_t generation = driver_read(&f->d, REG_GENERATION);

	/* Before a driver: kept, no interrupt. */
	assert_int_equal(virtio_balloon_set_target(f->balloon, 3 * PAGE_BYTES + 1), 0);
	assert_int_equal(driver_interrupts(&f->d), 0);
	assert_int_not_equal(driver_read(&f->d, REG_GENERATION), generation);
	assert_true(driver_start(&f->d, 0, 64));
	assert_int_equal(config32(f, 0), 3);
	assert_int_equal(virtio_balloon_set_target(f->balloon, 5 * PAGE_BYTES), 0);
	assert_int_equal(driver_interrupts(&f->d), 1);
	assert_int_equal(driver_read(&f->d, REG_ISR), 2);
	driver_write(&f->d, REG_ACK, 2);
	assert_int_equal(driver_read(&f->d, REG_ISR), 0);
	assert_int_equal(config32(f, 0), 5);
	driver_write(&f->d, REG_CONFIG + 4, 4);
	assert_int_equal(stats(f).actual_bytes, 4 * PAGE_BYTES);
	assert_int_equal(stats(f).target_bytes, 5 * PAGE_BYTES);
	assert_int_equal(virtio_balloon_set_target(f->balloon, DRIVER_RAM + 1), -EINVAL);
	assert_int_equal(stats(f).target_bytes, 5 * PAGE_BYTES);
	/* Not the driver's field; more than there is. */
	driver_write(&f->d, REG_CONFIG, 77);
	assert_int_equal(config32(f, 0), 5);
	driver_write(&f->d, REG_CONFIG + 4, FRAMES + 1);
	assert_int_equal(config32(f, 4), 4);
	assert_int_equal(driver_read(&f->d, REG_STAT), STATUS_UP);
}

static void reset_keeps_the_target(void **state)
{
	struct fixture *f = *state;
	static const uint32_t pfns[] = {0x800};

	assert_true(driver_start(&f->d, 0, 64));
	assert_int_equal(virtio_balloon_set_target(f->balloon, 2 * PAGE_BYTES), 0);
	assert_true(tell(f, 0, pfns, 1));
	driver_write(&f->d, REG_CONFIG + 4, 1);
	driver_write(&f->d, REG_STAT, 0);
	assert_int_equal(driver_read(&f->d, REG_STAT), 0);
	assert_int_equal(stats(f).balloon.frames, 0);
	assert_int_equal(stats(f).actual_bytes, 0);
	assert_int_equal(stats(f).target_bytes, 2 * PAGE_BYTES);
	assert_true(driver_start(&f->d, 0, 64));
	assert_int_equal(config32(f, 0), 2);
	assert_true(tell(f, 0, pfns, 1));
	assert_int_equal(stats(f).balloon.frames, 1);
	assert_int_equal(stats(f).balloon.repeated, 0);
}

static void the_longest_message(void **state)
{
	struct fixture *f = *state;
	struct driver_queue *q = &f->d.queues[0];

	assert_true(driver_start(&f->d, 0, 64));
	for (uint32_t i = 0; i < BALLOON_MESSAGE_FRAMES_MAX; i++)
		store_le32((char *)driver_ptr(&f->d, MESSAGE + 2 + 4 * i, 4), 0x800 + i % 0x400);
	/* In pieces that split numbers. */
	driver_desc(q, 0, MESSAGE + 2, 1001, VIRTQ_DESC_F_NEXT, 1);
	driver_desc(q, 1, MESSAGE + 1003, 4 * BALLOON_MESSAGE_FRAMES_MAX - 1001, 0, 0);
	driver_send(&f->d, 0, 0);
	assert_true(driver_wait(&f->d, 0, 1));
	assert_int_equal(stats(f).balloon.frames, 0x400);
	assert_int_equal(stats(f).balloon.discard_ranges, 1);
}

/* Each row breaks the device in its own way. */
static const struct hostile_row {
	const char *what;
	uint32_t len;
	uint16_t flags;
} hostile_rows[] = {
	{"no whole frame number", 3, 0},
	{"a frame number and a half", 6, 0},
	{"too many", 4 * BALLOON_MESSAGE_FRAMES_MAX + 4, 0},
	{"writable", 4, VIRTQ_DESC_F_WRITE},
	{"empty", 0, 0},
	{"outside RAM", DRIVER_RAM, 0},
};

static void hostile_messages(void **state)
{
	struct fixture *f = *state;

	for (size_t i = 0; i < ARRAY_SIZE(hostile_rows); i++) {
		const struct hostile_row *row = &hostile_rows[i];

		for (unsigned queue = 0; queue < 2; queue++) {
			uint64_t before = stats(f).virtio.hostile;

			assert_true(driver_start(&f->d, 0, 64));
			driver_interrupts(&f->d);
			driver_desc(&f->d.queues[queue], 0, MESSAGE, row->len, row->flags, 0);
			driver_send(&f->d, queue, 0);
			driver_loop(&f->d);
			if (driver_read(&f->d, REG_STAT) != (STATUS_UP | VIRTIO_STATUS_NEEDS_RESET))
				fail_msg("%s: not broken", row->what);
			assert_int_equal(driver_interrupts(&f->d), 1);
			assert_int_equal(driver_read(&f->d, REG_ISR), 2);
			assert_int_equal(stats(f).virtio.hostile, before + 1);
			assert_int_equal(le16_get(&f->d.queues[queue].used->idx), 0);
		}
	}
}

static void config_writes_outside(void **state)
{
	struct fixture *f = *state;

	assert_true(driver_start(&f->d, 0, 64));
	driver_write(&f->d, REG_CONFIG + 8, 1);
	assert_true(driver_read(&f->d, REG_STAT) & VIRTIO_STATUS_NEEDS_RESET);
	assert_int_equal(stats(f).virtio.hostile, 1);
	assert_int_equal(config32(f, 8), 0);
	assert_int_equal(config32(f, 0xefc), 0);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(inflate_and_deflate), T(frames_that_a_file_backs), T(bad_frames_are_ignored),
		T(target_and_actual),	T(reset_keeps_the_target),   T(the_longest_message),
		T(hostile_messages),	T(config_writes_outside),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
