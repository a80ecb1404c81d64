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

#define STATS_QUEUE 2
#define ALL                                                                                                  \
	(VIRTIO_BALLOON_STATS_VQ | VIRTIO_BALLOON_DEFLATE_ON_OOM | VIRTIO_BALLOON_PAGE_POISON |              \
	 VIRTIO_BALLOON_REPORTING)
#define CONFIG_POISON 12

struct fixture {
	struct driver d;
	struct virtio_balloon *balloon;
};

static uint64_t clock_ns;

static uint64_t test_clock(void)
{
	return clock_ns;
}

static void make(struct fixture *f, const struct virtio_balloon_options *options)
{
	virtio_balloon_free(f->balloon);
	f->balloon = NULL;
	assert_int_equal(virtio_balloon_new(options, f->d.mem, f->d.loop, &f->d.irq, &f->balloon), 0);
	f->d.mmio = virtio_balloon_mmio(f->balloon);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	*state = f;
	assert_int_equal(driver_init(&f->d), 0);
	clock_ns = 1000000000;
	make(f, &(struct virtio_balloon_options){
			.stats = true,
			.deflate_on_oom = true,
			.reporting = true,
			.poison = true,
			.now_ns = test_clock,
		});
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
	driver_write(&f->d, REG_CONFIG + 8, 1); /* of the device, ignored */
	assert_int_equal(driver_read(&f->d, REG_STAT), STATUS_UP);
	driver_write(&f->d, REG_CONFIG + 16, 1);
	assert_true(driver_read(&f->d, REG_STAT) & VIRTIO_STATUS_NEEDS_RESET);
	assert_int_equal(stats(f).virtio.hostile, 1);
	assert_int_equal(config32(f, 8), 0);
	assert_int_equal(config32(f, 16), 0);
	assert_int_equal(config32(f, 0xefc), 0);
}

/* Each feature is offered when it is switched on, and refused otherwise. */
static void features_are_switches(void **state)
{
	static const struct {
		struct virtio_balloon_options options;
		uint64_t offered;
	} rows[] = {
		{{.stats = true}, VIRTIO_BALLOON_STATS_VQ},
		{{.deflate_on_oom = true}, VIRTIO_BALLOON_DEFLATE_ON_OOM},
		{{.poison = true}, VIRTIO_BALLOON_PAGE_POISON},
		{{.reporting = true}, VIRTIO_BALLOON_REPORTING},
		{{.stats = false}, 0},
	};
	struct fixture *f = *state;

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		make(f, &rows[i].options);
		driver_write(&f->d, REG_FEATURES_SEL, 0);
		assert_int_equal(driver_read(&f->d, REG_FEATURES) & 0xffffff, rows[i].offered);
		for (unsigned bit = 0; bit < 6; bit++)
			assert_int_equal(driver_negotiate(&f->d, (uint64_t)1 << bit),
					 rows[i].offered >> bit & 1);
	}
}

/* Queue numbers by features: the specification's (reporting is 4), and those of Linux, which counts what is there. */
static void queues_by_features(void **state)
{
	static const struct {
		uint64_t features;
		bool there[6];
	} rows[] = {
		{0, {true, true}},
		{VIRTIO_BALLOON_STATS_VQ, {true, true, true}},
		{VIRTIO_BALLOON_REPORTING, {true, true, true, false, true}},
		{ALL, {true, true, true, true, true}},
	};
	struct fixture *f = *state;

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		assert_true(driver_negotiate(&f->d, rows[i].features));
		for (unsigned q = 0; q < 6; q++) {
			driver_write(&f->d, REG_QSEL, q);
			assert_int_equal(driver_read(&f->d, REG_QNUM_MAX) != 0, rows[i].there[q]);
			if (q < 5)
				assert_int_equal(driver_queue_setup(&f->d, q, 64), rows[i].there[q]);
		}
	}
	/* Linux stops its queues after the reset that ends the driver: nothing to remark on. */
	driver_write(&f->d, REG_STAT, 0);
	uint64_t ignored = stats(f).virtio.ignored;
	for (unsigned q = 0; q < 5; q++) {
		driver_write(&f->d, REG_QSEL, q);
		driver_write(&f->d, REG_QREADY, 0);
	}
	assert_int_equal(stats(f).virtio.ignored, ignored);
}

/* Report one range per descriptor to a queue and wait until it was taken. */
static bool report(struct fixture *f, unsigned queue, const struct balloon_range *ranges, uint16_t count)
{
	struct driver_queue *q = &f->d.queues[queue];

	for (uint16_t i = 0; i < count; i++)
		driver_desc(q, i, ranges[i].first.v, (uint32_t)ranges[i].bytes,
			    (uint16_t)(VIRTQ_DESC_F_WRITE | (i + 1 < count ? VIRTQ_DESC_F_NEXT : 0)),
			    (uint16_t)(i + 1));
	driver_send(&f->d, queue, 0);
	return driver_wait(&f->d, queue, 1) && driver_take(q, NULL) == 0;
}

static void reports(void **state)
{
	static const struct {
		uint64_t features;
		unsigned queue;
	} rows[] = {
		{ALL, 3},
		{ALL, 4},
		{VIRTIO_BALLOON_REPORTING, 2},
		{VIRTIO_BALLOON_REPORTING, 4},
		{VIRTIO_BALLOON_REPORTING | VIRTIO_BALLOON_STATS_VQ | VIRTIO_FEATURE_INDIRECT_DESC, 3},
	};
	static const struct balloon_range ranges[] = {
		{{0x804 * PAGE_BYTES}, 4 * PAGE_BYTES},
		{{0x800 * PAGE_BYTES}, 4 * PAGE_BYTES},
		{{0x810 * PAGE_BYTES}, PAGE_BYTES},
	};
	struct fixture *f = *state;

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		uint64_t before = stats(f).balloon.reported, calls = stats(f).balloon.discard_calls;

		assert_true(driver_start(&f->d, rows[i].features, 64));
		memset(driver_ptr(&f->d, 0x800 * PAGE_BYTES, 0x11 * PAGE_BYTES), 0xaa, 0x11 * PAGE_BYTES);
		assert_true(report(f, rows[i].queue, ranges, 3));
		for (unsigned gfn = 0x800; gfn <= 0x810; gfn++) {
			bool gone = gfn < 0x808 || gfn == 0x810;

			assert_int_equal(resident(f, gfn), !gone);
			assert_int_equal(*(uint8_t *)driver_ptr(&f->d, gfn * PAGE_BYTES, 1), gone ? 0 : 0xaa);
		}
		assert_int_equal(stats(f).balloon.reported, before + 9);
		assert_int_equal(stats(f).balloon.discard_calls, calls + 2);
		assert_int_equal(stats(f).balloon.frames, 0);
		assert_int_equal(driver_read(&f->d, REG_STAT), STATUS_UP);
	}
}

/* Ranges that are none are counted and left alone; the device goes on. */
static void bad_reports(void **state)
{
	static const struct balloon_range ranges[] = {
		{{0x800 * PAGE_BYTES + 8}, PAGE_BYTES},
		{{0x801 * PAGE_BYTES}, PAGE_BYTES - 1},
		{{DRIVER_RAM}, PAGE_BYTES},
		{{DRIVER_RAM - PAGE_BYTES}, 2 * PAGE_BYTES},
		{{UINT64_MAX - PAGE_BYTES + 1}, PAGE_BYTES},
	};
	struct fixture *f = *state;
	struct driver_queue *q;

	assert_true(driver_start(&f->d, ALL, 64));
	memset(driver_ptr(&f->d, 0x800 * PAGE_BYTES, 2 * PAGE_BYTES), 0xaa, 2 * PAGE_BYTES);
	assert_true(report(f, 3, ranges, ARRAY_SIZE(ranges)));
	assert_int_equal(stats(f).balloon.report_ignored, ARRAY_SIZE(ranges));
	assert_int_equal(stats(f).balloon.reported, 0);
	assert_int_equal(stats(f).balloon.discard_calls, 0);
	assert_int_equal(*(uint8_t *)driver_ptr(&f->d, 0x801 * PAGE_BYTES, 1), 0xaa);
	/* What we were to read is not free. */
	q = &f->d.queues[3];
	driver_desc(q, 0, 0x800 * PAGE_BYTES, PAGE_BYTES, 0, 0);
	driver_send(&f->d, 3, 0);
	assert_true(driver_wait(&f->d, 3, 1));
	assert_int_equal(stats(f).balloon.report_ignored, ARRAY_SIZE(ranges) + 1);
	assert_int_equal(*(uint8_t *)driver_ptr(&f->d, 0x800 * PAGE_BYTES, 1), 0xaa);
	assert_int_equal(driver_read(&f->d, REG_STAT), STATUS_UP);
}

/* With page poison what is in free pages stays; with a value of 0, or without the feature, it goes. */
static void poison(void **state)
{
	static const struct {
		uint64_t features;
		uint32_t value;
		bool kept;
	} rows[] = {
		{ALL, 0xaaaaaaaa, true},
		{ALL, 0x100, true},
		{ALL, 0, false},
		{ALL & ~VIRTIO_BALLOON_PAGE_POISON, 0xaaaaaaaa, false},
	};
	static const struct balloon_range range = {{0x800 * PAGE_BYTES}, PAGE_BYTES};
	struct fixture *f = *state;
	uint64_t kept = 0;

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		uint8_t *page = driver_ptr(&f->d, 0x800 * PAGE_BYTES, PAGE_BYTES);

		assert_true(driver_start(&f->d, rows[i].features, 64));
		driver_write(&f->d, REG_CONFIG + CONFIG_POISON, rows[i].value);
		memset(page, 0xaa, PAGE_BYTES);
		assert_true(report(f, 3, &range, 1));
		assert_int_equal(*page, rows[i].kept ? 0xaa : 0);
		kept += rows[i].kept;
		assert_int_equal(stats(f).balloon.report_kept, kept);
		/* The value is this driver's; the next one's begins at 0. */
		driver_write(&f->d, REG_STAT, 0);
		assert_int_equal(config32(f, CONFIG_POISON), 0);
	}
	/* Where poison is switched off there is no such field. */
	make(f, &(struct virtio_balloon_options){.reporting = true, .now_ns = test_clock});
	assert_true(driver_start(&f->d, VIRTIO_BALLOON_REPORTING, 64));
	driver_write(&f->d, REG_CONFIG + CONFIG_POISON, 1);
	assert_int_equal(config32(f, CONFIG_POISON), 0);
	assert_int_equal(driver_read(&f->d, REG_STAT), STATUS_UP);
}

/* Make statistics available as the driver's one buffer. */
static void stats_offer(struct fixture *f, uint64_t free_bytes, uint16_t head)
{
	uint8_t *m = driver_ptr(&f->d, MESSAGE, 2 * GUEST_STAT_BYTES);

	store_le16(m, GUEST_STAT_FREE);
	store_le64(m + 2, free_bytes);
	store_le16(m + 10, 99); /* a tag of the future */
	store_le64(m + 12, 1);
	driver_desc(&f->d.queues[STATS_QUEUE], head, MESSAGE, 2 * GUEST_STAT_BYTES, 0, 0);
	driver_send(&f->d, STATS_QUEUE, head);
	driver_loop(&f->d);
}

static bool stats_returned(struct fixture *f)
{
	return driver_take(&f->d.queues[STATS_QUEUE], NULL) != UINT32_MAX;
}

static void guest_statistics(void **state)
{
	struct fixture *f = *state;
	const uint64_t second = 1000000000;

	virtio_balloon_ask(f->balloon); /* nobody is there */
	assert_true(driver_start(&f->d, ALL, 64));
	virtio_balloon_ask(f->balloon);
	assert_false(stats(f).guest_known);
	stats_offer(f, 1000, 0);
	assert_true(stats(f).guest_known);
	assert_int_equal(stats(f).guest.values[GUEST_STAT_FREE], 1000);
	assert_int_equal(stats(f).guest_ignored, 1);
	clock_ns += 3 * second;
	assert_int_equal(stats(f).guest_age_ns, 3 * second);
	assert_false(stats_returned(f)); /* it is kept until somebody asks */
	driver_interrupts(&f->d);
	virtio_balloon_ask(f->balloon);
	assert_int_equal(driver_interrupts(&f->d), 1);
	assert_true(stats_returned(f));
	/* No second question before the answer, however long that takes. */
	clock_ns += 100 * second;
	virtio_balloon_ask(f->balloon);
	assert_false(stats_returned(f));
	stats_offer(f, 2000, 0);
	assert_int_equal(stats(f).guest.values[GUEST_STAT_FREE], 2000);
	assert_int_equal(stats(f).guest_age_ns, 0);
	assert_int_equal(stats(f).guest_samples, 2);
	virtio_balloon_ask(f->balloon);
	assert_true(stats_returned(f));
	stats_offer(f, 3000, 0);
	/* At most once in a second. */
	clock_ns += second - 1;
	virtio_balloon_ask(f->balloon);
	assert_false(stats_returned(f));
	clock_ns += 1;
	virtio_balloon_ask(f->balloon);
	assert_true(stats_returned(f));
	stats_offer(f, 4000, 0);
	/* Nothing is written to a guest that is held. */
	clock_ns += second;
	virtio_mmio_hold(f->d.mmio);
	virtio_balloon_ask(f->balloon);
	assert_false(stats_returned(f));
	virtio_mmio_release(f->d.mmio);
	virtio_balloon_ask(f->balloon);
	assert_true(stats_returned(f));
	/* The next driver's statistics are its own. */
	driver_write(&f->d, REG_STAT, 0);
	assert_false(stats(f).guest_known);
	clock_ns += second;
	virtio_balloon_ask(f->balloon);
	assert_int_equal(stats(f).guest_samples, 4);
	assert_int_equal(stats(f).virtio.hostile, 0);
}

static void statistics_of_rude_drivers(void **state)
{
	struct fixture *f = *state;
	struct driver_queue *q = &f->d.queues[STATS_QUEUE];
	uint64_t ignored;

	assert_true(driver_start(&f->d, ALL, 64));
	stats_offer(f, 1, 0);
	stats_offer(f, 2, 1); /* a second buffer: the first comes back */
	assert_int_equal(driver_take(q, NULL), 0);
	assert_int_equal(stats(f).guest.values[GUEST_STAT_FREE], 2);
	/* For writing, of an odd length, and of 1 MiB: counted, no more. */
	ignored = stats(f).guest_ignored;
	driver_desc(q, 2, MESSAGE, 64, VIRTQ_DESC_F_WRITE, 0);
	driver_send(&f->d, STATS_QUEUE, 2);
	driver_loop(&f->d);
	assert_int_equal(stats(f).guest_ignored, ignored + 1);
	assert_false(stats(f).guest_known);
	driver_desc(q, 3, MESSAGE, 7, 0, 0);
	driver_send(&f->d, STATS_QUEUE, 3);
	driver_loop(&f->d);
	assert_int_equal(stats(f).guest_ignored, ignored + 2);
	driver_desc(q, 4, MESSAGE, 0x100000, 0, 0);
	driver_send(&f->d, STATS_QUEUE, 4);
	driver_loop(&f->d);
	assert_true(stats(f).guest_ignored > ignored + 2);
	assert_int_equal(driver_read(&f->d, REG_STAT), STATUS_UP);
	assert_int_equal(stats(f).virtio.hostile, 0);
	/* A descriptor that is nowhere does break the queue. */
	driver_desc(q, 5, DRIVER_RAM, 10, 0, 0);
	driver_send(&f->d, STATS_QUEUE, 5);
	driver_loop(&f->d);
	assert_true(driver_read(&f->d, REG_STAT) & VIRTIO_STATUS_NEEDS_RESET);
	clock_ns += 2000000000;
	virtio_balloon_ask(f->balloon);
}

/* With an interval the device asks by itself. */
static void statistics_by_interval(void **state)
{
	struct fixture *f = *state;

	make(f, &(struct virtio_balloon_options){.stats = true, .stats_interval_s = 1});
	assert_true(driver_start(&f->d, ALL & VIRTIO_BALLOON_STATS_VQ, 64));
	stats_offer(f, 1, 0);
	assert_true(driver_wait(&f->d, STATS_QUEUE, 1));
	stats_offer(f, 2, 0);
	assert_true(driver_wait(&f->d, STATS_QUEUE, 2));
}

static void liveness(void **state)
{
	struct fixture *f = *state;
	static const uint32_t pfns[] = {0x800, 0x801};
	const uint64_t second = 1000000000;

	assert_int_equal(stats(f).liveness, BALLOON_NO_DRIVER);
	assert_true(driver_start(&f->d, ALL, 64));
	assert_int_equal(stats(f).liveness, BALLOON_IDLE);
	assert_int_equal(virtio_balloon_set_target(f->balloon, 4 * PAGE_BYTES), 0);
	assert_int_equal(stats(f).liveness, BALLOON_MOVING);
	clock_ns += 5 * second;
	assert_int_equal(stats(f).liveness, BALLOON_STALLED);
	assert_true(tell(f, 0, pfns, 2));
	assert_int_equal(stats(f).liveness, BALLOON_MOVING);
	assert_int_equal(virtio_balloon_set_target(f->balloon, 2 * PAGE_BYTES), 0);
	assert_int_equal(stats(f).liveness, BALLOON_IDLE);
	/* A driver that broke its device does nothing more. */
	driver_write(&f->d, REG_CONFIG + 0x100, 1);
	assert_int_equal(stats(f).liveness, BALLOON_NO_DRIVER);
	driver_write(&f->d, REG_STAT, 0);
	assert_int_equal(stats(f).liveness, BALLOON_NO_DRIVER);
}

/* Huge pages that messages cut are split once the target is reached, at a report, at a deflate, and when the driver goes. */
static void cut_huge_pages(void **state)
{
	struct fixture *f = *state;
	static const uint32_t pfns[] = {0x800, 0x801, 0x802, 0x803};
	static const struct balloon_range range = {{0x810 * PAGE_BYTES}, PAGE_BYTES};

	guest_memory_expect_huge(f->d.mem, true);
	assert_int_equal(virtio_balloon_set_target(f->balloon, 4 * PAGE_BYTES), 0);
	assert_true(driver_start(&f->d, ALL, 64));
	assert_true(tell(f, 0, pfns, 2));
	assert_int_equal(stats(f).balloon.discard_calls, 1);
	assert_true(tell(f, 0, pfns + 2, 2));
	assert_int_equal(stats(f).balloon.discard_calls, 3);
	assert_true(report(f, 3, &range, 1));
	assert_int_equal(stats(f).balloon.discard_calls, 5);
	assert_int_equal(virtio_balloon_set_target(f->balloon, 8 * PAGE_BYTES), 0);
	assert_true(tell(f, 0, pfns, 2));
	assert_int_equal(stats(f).balloon.discard_calls, 6);
	assert_true(tell(f, 1, pfns, 2));
	assert_int_equal(stats(f).balloon.discard_calls, 7);
	assert_true(tell(f, 0, pfns, 2));
	driver_write(&f->d, REG_STAT, 0);
	assert_int_equal(stats(f).balloon.discard_calls, 9);
	assert_int_equal(guest_memory_settle(f->d.mem), 0);
}

static void first_target(void **state)
{
	struct fixture *f = *state;
	struct virtio_balloon *none = NULL;
	struct virtio_balloon_options o = {.target_bytes = DRIVER_RAM + 1};

	assert_int_equal(virtio_balloon_new(&o, f->d.mem, f->d.loop, &f->d.irq, &none), -EINVAL);
	o.target_bytes = 3 * PAGE_BYTES;
	make(f, &o);
	assert_true(driver_start(&f->d, 0, 64));
	assert_int_equal(config32(f, 0), 3);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(inflate_and_deflate),
		T(frames_that_a_file_backs),
		T(bad_frames_are_ignored),
		T(target_and_actual),
		T(reset_keeps_the_target),
		T(the_longest_message),
		T(hostile_messages),
		T(config_writes_outside),
		T(features_are_switches),
		T(queues_by_features),
		T(reports),
		T(bad_reports),
		T(poison),
		T(guest_statistics),
		T(statistics_of_rude_drivers),
		T(statistics_by_interval),
		T(liveness),
		T(first_target),
		T(cut_huge_pages),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
