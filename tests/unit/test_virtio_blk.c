/* SPDX-License-Identifier: Apache-2.0 */
/* The block device, with each engine: bytes arrive where they belong, errors reach the guest, and no request
 * can hurt the VMM. */
#include "vmm/virtio-blk.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/virtio_blk.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/fs.h"
#include "tests/unit/test.h"
#include "tests/unit/virtio_driver.h"

#define SECTOR	512u
#define SECTORS 2048u /* 1 MiB */
#define HEADER	DRIVER_DATA
#define STATUS	(DRIVER_DATA + 0x100)
#define DATA	(DRIVER_DATA + 0x1000)
#define PENDING 0xee /* a status byte that was not answered */
#define FLUSH	((uint64_t)1 << VIRTIO_BLK_F_FLUSH)

static enum blk_engine_kind engine; /* of all tests of this run */

struct fixture {
	struct driver d;
	struct virtio_blk *blk;
	int fd; /* of the image, for looking at it from outside */
	char dir[64];
	char path[96];
};

static void open_device(struct fixture *f, bool read_only, bool direct)
{
	struct virtio_blk_options o = {.path = f->path,
				       .read_only = read_only,
				       .direct = direct,
				       .serial = "disk-1",
				       .engine = engine};
	struct errmsg err = {0};

	virtio_blk_free(f->blk);
	f->blk = NULL;
	if (virtio_blk_new(&o, f->d.mem, f->d.loop, &f->d.irq, &err, &f->blk) < 0)
		fail_msg("%s", err.text);
	f->d.mmio = virtio_blk_mmio(f->blk);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	*state = f;
	assert_int_equal(driver_init(&f->d), 0);
	/* In the build tree, not in /tmp, which may be a tmpfs without O_DIRECT. */
	snprintf(f->dir, sizeof(f->dir), "test-blk-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->path, sizeof(f->path), "%s/disk.img", f->dir);
	f->fd = open(f->path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_true(f->fd >= 0);
	assert_int_equal(ftruncate(f->fd, SECTORS * SECTOR), 0);
	open_device(f, false, false);
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	virtio_blk_free(f->blk);
	driver_done(&f->d);
	close(f->fd);
	unlink(f->path);
	rmdir(f->dir);
	free(f);
	return 0;
}

static struct virtio_blk_stats stats(struct fixture *f)
{
	struct virtio_blk_stats s;

	virtio_blk_stats(f->blk, &s);
	return s;
}

/* Lay a request out in descriptors 3 slot, 3 slot + 1, 3 slot + 2. */
static void prepare(struct fixture *f, unsigned slot, uint32_t type, uint64_t sector, uint64_t data,
		    uint32_t len)
{
	struct driver_queue *q = &f->d.queues[0];
	uint16_t i = (uint16_t)(3 * slot);
	uint64_t header = HEADER + 16 * slot;
	uint8_t *h = driver_ptr(&f->d, header, 16);
	bool in = type == VIRTIO_BLK_T_IN || type == VIRTIO_BLK_T_GET_ID;

	store_le32(h, type);
	store_le32(h + 4, 0);
	store_le64(h + 8, sector);
	*(uint8_t *)driver_ptr(&f->d, STATUS + 0x400 + slot, 1) = PENDING;
	driver_desc(q, i, header, 16, VIRTQ_DESC_F_NEXT, (uint16_t)(len ? i + 1 : i + 2));
	driver_desc(q, (uint16_t)(i + 1), data, len,
		    (uint16_t)(VIRTQ_DESC_F_NEXT | (in ? VIRTQ_DESC_F_WRITE : 0)), (uint16_t)(i + 2));
	driver_desc(q, (uint16_t)(i + 2), STATUS + 0x400 + slot, 1, VIRTQ_DESC_F_WRITE, 0);
}

static uint8_t answer(struct fixture *f, unsigned slot)
{
	return *(uint8_t *)driver_ptr(&f->d, STATUS + 0x400 + slot, 1);
}

/* One request, to its answer. */
static uint8_t request(struct fixture *f, uint32_t type, uint64_t sector, uint64_t data, uint32_t len)
{
	prepare(f, 0, type, sector, data, len);
	driver_send(&f->d, 0, 0);
	assert_true(driver_wait(&f->d, 0, 1));
	assert_int_equal(driver_take(&f->d.queues[0], NULL), 0);
	return answer(f, 0);
}

static void fill(struct fixture *f, uint64_t gpa, uint32_t len, uint8_t seed)
{
	uint8_t *p = driver_ptr(&f->d, gpa, len);

	for (uint32_t i = 0; i < len; i++)
		p[i] = (uint8_t)(seed + i * 7 + i / 251);
}

static void assert_image(struct fixture *f, uint64_t sector, uint64_t gpa, uint32_t len)
{
	uint8_t *bytes = malloc(len);

	assert_int_equal(pread_full(f->fd, bytes, len, sector * SECTOR), 0);
	assert_memory_equal(bytes, driver_ptr(&f->d, gpa, len), len);
	free(bytes);
}

static bool image_is(struct fixture *f, uint64_t sector, uint32_t sectors, uint8_t value)
{
	uint8_t bytes[SECTOR];

	for (uint32_t s = 0; s < sectors; s++) {
		assert_int_equal(pread_full(f->fd, bytes, SECTOR, (sector + s) * SECTOR), 0);
		for (unsigned i = 0; i < SECTOR; i++)
			if (bytes[i] != value)
				return false;
	}
	return true;
}

static void reads_and_writes(void **state)
{
	struct fixture *f = *state;

	assert_true(driver_start(&f->d, FLUSH | VIRTIO_FEATURE_EVENT_IDX, 128));
	fill(f, DATA, 8 * SECTOR, 3);
	assert_int_equal(request(f, VIRTIO_BLK_T_OUT, 5, DATA, 8 * SECTOR), VIRTIO_BLK_S_OK);
	assert_image(f, 5, DATA, 8 * SECTOR);
	assert_int_equal(request(f, VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_OK);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 5, DATA + 0x10000, 8 * SECTOR), VIRTIO_BLK_S_OK);
	assert_image(f, 5, DATA + 0x10000, 8 * SECTOR);
	assert_int_equal(request(f, VIRTIO_BLK_T_OUT, SECTORS - 1, DATA, SECTOR),
			 VIRTIO_BLK_S_OK); /* the last */
	assert_int_equal(stats(f).reads, 1);
	assert_int_equal(stats(f).writes, 2);
	assert_int_equal(stats(f).read_bytes, 8 * SECTOR);
	assert_int_equal(stats(f).write_bytes, 9 * SECTOR);
	assert_int_equal(stats(f).flushes, 1);
	assert_int_equal(stats(f).in_flight, 0);
	assert_int_equal(stats(f).engine, engine);
	assert_true(stats(f).virtio.interrupts >= 1);
}

/* Header split, data in odd pieces, status at the end of the last data descriptor; through an indirect table. */
static void any_layout(void **state)
{
	struct fixture *f = *state;
	struct driver_queue *q = &f->d.queues[0];
	struct virtq_desc *table = driver_ptr(&f->d, DRIVER_DATA + 0x800, 16 * 8);
	static const struct {
		uint64_t addr;
		uint32_t len;
		bool write;
	} parts[] = {
		{HEADER, 7, false},    {HEADER + 7, 9, false},	{DATA + 1, 100, true},
		{DATA + 101, 1, true}, {DATA + 102, 924, true},
	};

	assert_true(driver_start(&f->d, FLUSH | VIRTIO_FEATURE_INDIRECT_DESC, 128));
	fill(f, DATA + 0x8000, 2 * SECTOR, 9);
	assert_int_equal(request(f, VIRTIO_BLK_T_OUT, 9, DATA + 0x8000, 2 * SECTOR), VIRTIO_BLK_S_OK);
	prepare(f, 0, VIRTIO_BLK_T_IN, 9, 0, 0);
	for (unsigned i = 0; i < 5; i++) {
		le64_put(&table[i].addr, parts[i].addr);
		le32_put(&table[i].len, parts[i].len);
		le16_put(&table[i].flags, (uint16_t)((parts[i].write ? VIRTQ_DESC_F_WRITE : 0) |
						     (i < 4 ? VIRTQ_DESC_F_NEXT : 0)));
		le16_put(&table[i].next, (uint16_t)(i + 1));
	}
	driver_desc(q, 0, DRIVER_DATA + 0x800, 5 * 16, VIRTQ_DESC_F_INDIRECT, 0);
	driver_send(&f->d, 0, 0);
	assert_true(driver_wait(&f->d, 0, 1));
	assert_image(f, 9, DATA + 1, 2 * SECTOR);
	assert_int_equal(*(uint8_t *)driver_ptr(&f->d, DATA + 1 + 1024, 1), VIRTIO_BLK_S_OK);
}

static void serial_number(void **state)
{
	struct fixture *f = *state;

	assert_true(driver_start(&f->d, 0, 128));
	memset(driver_ptr(&f->d, DATA, 32), 0x55, 32);
	assert_int_equal(request(f, VIRTIO_BLK_T_GET_ID, 0, DATA, 20), VIRTIO_BLK_S_OK);
	assert_memory_equal(driver_ptr(&f->d, DATA, 20), "disk-1\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 20);
	assert_int_equal(*(uint8_t *)driver_ptr(&f->d, DATA + 20, 1), 0x55);
}

/* A range request; the data is the range. */
static uint8_t range_request(struct fixture *f, uint32_t type, uint64_t sector, uint32_t sectors,
			     uint32_t flags)
{
	uint8_t *p = driver_ptr(&f->d, DATA + 0x20000, 16);

	store_le64(p, sector);
	store_le32(p + 8, sectors);
	store_le32(p + 12, flags);
	return request(f, type, 0, DATA + 0x20000, 16);
}

static void zeroes_and_discards(void **state)
{
	struct fixture *f = *state;

	assert_true(driver_start(&f->d, FLUSH, 128));
	memset(driver_ptr(&f->d, DATA, 64 * SECTOR), 0xaa, 64 * SECTOR);
	assert_int_equal(request(f, VIRTIO_BLK_T_OUT, 0, DATA, 64 * SECTOR), VIRTIO_BLK_S_OK);
	assert_int_equal(range_request(f, VIRTIO_BLK_T_WRITE_ZEROES, 1, 7, 0), VIRTIO_BLK_S_OK);
	assert_true(image_is(f, 0, 1, 0xaa));
	assert_true(image_is(f, 1, 7, 0));
	assert_true(image_is(f, 8, 56, 0xaa));
	assert_int_equal(
		range_request(f, VIRTIO_BLK_T_WRITE_ZEROES, 16, 16, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP),
		VIRTIO_BLK_S_OK);
	assert_true(image_is(f, 16, 16, 0));
	assert_true(image_is(f, 32, 32, 0xaa));
	assert_int_equal(range_request(f, VIRTIO_BLK_T_DISCARD, 40, 8, 0), VIRTIO_BLK_S_OK);
	assert_true(image_is(f, 32, 8, 0xaa));
	assert_true(image_is(f, 48, 16, 0xaa));
	assert_int_equal(stats(f).discards, 1);
	assert_int_equal(stats(f).write_zeroes, 2);
}

/* Each row: a request and what it is answered with; the device stays up. */
static const struct error_row {
	const char *what;
	uint32_t type;
	uint64_t sector;
	uint32_t len;
	uint8_t status;
} error_rows[] = {
	{"read beyond the end", VIRTIO_BLK_T_IN, SECTORS, SECTOR, VIRTIO_BLK_S_IOERR},
	{"write beyond the end", VIRTIO_BLK_T_OUT, SECTORS, SECTOR, VIRTIO_BLK_S_IOERR},
	{"write across the end", VIRTIO_BLK_T_OUT, SECTORS - 1, 2 * SECTOR, VIRTIO_BLK_S_IOERR},
	{"sector that wraps", VIRTIO_BLK_T_OUT, UINT64_MAX, SECTOR, VIRTIO_BLK_S_IOERR},
	{"sector that wraps in bytes", VIRTIO_BLK_T_OUT, (uint64_t)1 << 55, SECTOR, VIRTIO_BLK_S_IOERR},
	{"part of a sector", VIRTIO_BLK_T_IN, 0, 511, VIRTIO_BLK_S_IOERR},
	{"nothing to read", VIRTIO_BLK_T_IN, 0, 0, VIRTIO_BLK_S_IOERR},
	{"nothing to write", VIRTIO_BLK_T_OUT, 0, 0, VIRTIO_BLK_S_IOERR},
	{"unknown type", 77, 0, SECTOR, VIRTIO_BLK_S_UNSUPP},
	{"SCSI", VIRTIO_BLK_T_SCSI_CMD, 0, SECTOR, VIRTIO_BLK_S_UNSUPP},
	{"barrier bit", 0x80000001, 0, SECTOR, VIRTIO_BLK_S_UNSUPP},
	{"secure erase", VIRTIO_BLK_T_SECURE_ERASE, 0, 16, VIRTIO_BLK_S_UNSUPP},
	{"discard without a range", VIRTIO_BLK_T_DISCARD, 0, 0, VIRTIO_BLK_S_IOERR},
	{"discard of half a range", VIRTIO_BLK_T_DISCARD, 0, 8, VIRTIO_BLK_S_IOERR},
	{"discard of two ranges", VIRTIO_BLK_T_DISCARD, 0, 32, VIRTIO_BLK_S_UNSUPP},
};

static void errors_reach_the_guest(void **state)
{
	struct fixture *f = *state;

	assert_true(driver_start(&f->d, FLUSH, 128));
	memset(driver_ptr(&f->d, DATA, 4 * SECTOR), 0xbb, 4 * SECTOR);
	for (size_t i = 0; i < ARRAY_SIZE(error_rows); i++) {
		const struct error_row *row = &error_rows[i];
		uint8_t status = request(f, row->type, row->sector, DATA, row->len);

		if (status != row->status)
			fail_msg("%s: status %u", row->what, status);
	}
	assert_int_equal(stats(f).virtio.errors, ARRAY_SIZE(error_rows));
	assert_int_equal(driver_read(&f->d, REG_STAT), STATUS_UP);
	assert_true(image_is(f, 0, SECTORS, 0));
}

static void bad_ranges(void **state)
{
	struct fixture *f = *state;

	assert_true(driver_start(&f->d, FLUSH, 128));
	for (unsigned i = 0; i < 2; i++) {
		uint32_t type = i ? VIRTIO_BLK_T_DISCARD : VIRTIO_BLK_T_WRITE_ZEROES;

		assert_int_equal(range_request(f, type, 0, 0, 0), VIRTIO_BLK_S_IOERR);
		assert_int_equal(range_request(f, type, SECTORS, 1, 0), VIRTIO_BLK_S_IOERR);
		assert_int_equal(range_request(f, type, 1, SECTORS, 0), VIRTIO_BLK_S_IOERR);
		assert_int_equal(range_request(f, type, UINT64_MAX, 2, 0), VIRTIO_BLK_S_IOERR);
		assert_int_equal(range_request(f, type, 0, UINT32_MAX, 0), VIRTIO_BLK_S_IOERR);
		assert_int_equal(range_request(f, type, 0, 1, 2), VIRTIO_BLK_S_UNSUPP);
	}
	assert_int_equal(range_request(f, VIRTIO_BLK_T_DISCARD, 0, 1, 1), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(stats(f).discards + stats(f).write_zeroes, 0); /* none was started */
	assert_int_equal(driver_read(&f->d, REG_STAT), STATUS_UP);
}

static void read_only_disk(void **state)
{
	struct fixture *f = *state;

	open_device(f, true, false);
	driver_write(&f->d, REG_FEATURES_SEL, 0);
	assert_true(driver_read(&f->d, REG_FEATURES) & 1u << VIRTIO_BLK_F_RO);
	assert_false(driver_read(&f->d, REG_FEATURES) & 1u << VIRTIO_BLK_F_DISCARD);
	assert_false(driver_negotiate(&f->d, FLUSH)); /* was not offered */
	assert_true(driver_start(&f->d, 1u << VIRTIO_BLK_F_RO, 128));
	memset(driver_ptr(&f->d, DATA, SECTOR), 0xbb, SECTOR);
	assert_int_equal(request(f, VIRTIO_BLK_T_OUT, 0, DATA, SECTOR), VIRTIO_BLK_S_IOERR);
	assert_int_equal(range_request(f, VIRTIO_BLK_T_DISCARD, 0, 1, 0), VIRTIO_BLK_S_IOERR);
	assert_int_equal(range_request(f, VIRTIO_BLK_T_WRITE_ZEROES, 0, 1, 0), VIRTIO_BLK_S_IOERR);
	assert_int_equal(stats(f).writes + stats(f).discards + stats(f).write_zeroes, 0);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 0, DATA, SECTOR), VIRTIO_BLK_S_OK);
	assert_int_equal(*(uint8_t *)driver_ptr(&f->d, DATA, 1), 0);
}

static void image_that_shrinks(void **state)
{
	struct fixture *f = *state;

	assert_true(driver_start(&f->d, FLUSH, 128));
	assert_int_equal(ftruncate(f->fd, 4 * SECTOR), 0);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 8, DATA, SECTOR), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 2, DATA, 4 * SECTOR), VIRTIO_BLK_S_IOERR); /* in part */
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 2, DATA, 2 * SECTOR), VIRTIO_BLK_S_OK);
	unlink(f->path); /* vanishes: still there for us */
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 0, DATA, SECTOR), VIRTIO_BLK_S_OK);
}

/* The host refuses to write: an image in memory that was sealed after it was opened. */
static void host_errors(void **state)
{
	struct fixture *f = *state;
	auto_fd fd = memfd_create("disk", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	char path[sizeof(f->path)];

	assert_int_equal(ftruncate(fd, SECTORS * SECTOR), 0);
	memcpy(path, f->path, sizeof(path));
	snprintf(f->path, sizeof(f->path), "/proc/self/fd/%d", fd);
	open_device(f, false, false);
	memcpy(f->path, path, sizeof(path));
	assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), 0);
	assert_true(driver_start(&f->d, FLUSH, 128));
	memset(driver_ptr(&f->d, DATA, 4 * SECTOR), 0xbb, 4 * SECTOR);
	assert_int_equal(request(f, VIRTIO_BLK_T_OUT, 0, DATA, 4 * SECTOR), VIRTIO_BLK_S_IOERR);
	assert_int_equal(range_request(f, VIRTIO_BLK_T_WRITE_ZEROES, 0, 4, 0), VIRTIO_BLK_S_IOERR);
	assert_int_equal(range_request(f, VIRTIO_BLK_T_DISCARD, 0, 4, 0), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 0, DATA, SECTOR), VIRTIO_BLK_S_OK);
	assert_int_equal(stats(f).virtio.errors, 3);
	assert_int_equal(driver_read(&f->d, REG_STAT), STATUS_UP);
}

/* More requests at once than there are slots; each one sector, all different. */
static void many_at_once(void **state)
{
	struct fixture *f = *state;
	struct driver_queue *q = &f->d.queues[0];

	assert_true(driver_start(&f->d, FLUSH | VIRTIO_FEATURE_EVENT_IDX, 128));
	for (unsigned round = 0; round < 8; round++) {
		bool seen[42] = {false};

		for (unsigned slot = 0; slot < 42; slot++) {
			fill(f, DATA + slot * SECTOR, SECTOR, (uint8_t)(slot + round));
			prepare(f, slot, VIRTIO_BLK_T_OUT, slot * 3, DATA + slot * SECTOR, SECTOR);
			driver_offer(q, (uint16_t)(3 * slot));
		}
		driver_kick(&f->d, 0);
		assert_true(driver_wait(&f->d, 0, 42));
		for (unsigned slot = 0; slot < 42; slot++) {
			uint32_t id = driver_take(q, NULL);

			assert_true(id % 3 == 0 && id / 3 < 42 && !seen[id / 3]);
			seen[id / 3] = true;
			assert_int_equal(answer(f, slot), VIRTIO_BLK_S_OK);
			assert_image(f, slot * 3, DATA + slot * SECTOR, SECTOR);
		}
	}
	assert_int_equal(stats(f).in_flight, 0);
}

/* 128 requests of one descriptor each (in an indirect table), all on one batch: twice the slots. */
static void more_than_slots(void **state)
{
	struct fixture *f = *state;
	struct driver_queue *q = &f->d.queues[0];

	assert_true(driver_start(&f->d, FLUSH | VIRTIO_FEATURE_INDIRECT_DESC, 128));
	for (unsigned i = 0; i < 128; i++) {
		uint64_t table = DATA + 0x100000 + i * 0x1000;
		struct virtq_desc *t = driver_ptr(&f->d, table, 0x1000);
		uint8_t *h = driver_ptr(&f->d, table + 0x100, 16);

		store_le32(h, VIRTIO_BLK_T_OUT);
		store_le64(h + 8, i);
		memset(driver_ptr(&f->d, table + 0x400, SECTOR), (int)i + 1, SECTOR);
		*(uint8_t *)driver_ptr(&f->d, table + 0x200, 1) = PENDING;
		t[0] = (struct virtq_desc){
			{htole64(table + 0x100)}, {htole32(16)}, {htole16(VIRTQ_DESC_F_NEXT)}, {htole16(2)}};
		t[2] = (struct virtq_desc){{htole64(table + 0x400)},
					   {htole32(SECTOR)},
					   {htole16(VIRTQ_DESC_F_NEXT)},
					   {htole16(1)}};
		t[1] = (struct virtq_desc){
			{htole64(table + 0x200)}, {htole32(1)}, {htole16(VIRTQ_DESC_F_WRITE)}, {0}};
		driver_desc(q, (uint16_t)i, table, 48, VIRTQ_DESC_F_INDIRECT, 0);
		driver_offer(q, (uint16_t)i);
	}
	driver_kick(&f->d, 0);
	assert_true(driver_wait(&f->d, 0, 128));
	for (unsigned i = 0; i < 128; i++)
		assert_true(image_is(f, i, 1, (uint8_t)(i + 1)));
	assert_int_equal(stats(f).virtio.requests, 128);
}

static void direct_io(void **state)
{
	struct fixture *f = *state;

	open_device(f, false, true);
	assert_true(driver_start(&f->d, FLUSH, 128));
	fill(f, DATA, 16 * SECTOR, 1);
	assert_int_equal(request(f, VIRTIO_BLK_T_OUT, 8, DATA, 16 * SECTOR), VIRTIO_BLK_S_OK);
	assert_int_equal(stats(f).misaligned, 0);
	assert_image(f, 8, DATA, 16 * SECTOR);
	/* A buffer at an odd address, then ones that lie well. */
	fill(f, DATA + 0x8001, 8 * SECTOR, 77);
	assert_int_equal(request(f, VIRTIO_BLK_T_OUT, 8, DATA + 0x8001, 8 * SECTOR), VIRTIO_BLK_S_OK);
	assert_int_equal(stats(f).misaligned, 1);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 8, DATA + 0x10000, 8 * SECTOR), VIRTIO_BLK_S_OK);
	assert_memory_equal(driver_ptr(&f->d, DATA + 0x8001, 8 * SECTOR),
			    driver_ptr(&f->d, DATA + 0x10000, 8 * SECTOR), 8 * SECTOR);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 9, DATA + 0x20001, SECTOR), VIRTIO_BLK_S_OK);
	assert_memory_equal(driver_ptr(&f->d, DATA + 0x20001, SECTOR),
			    driver_ptr(&f->d, DATA + 0x8001 + SECTOR, SECTOR), SECTOR);
	assert_int_equal(range_request(f, VIRTIO_BLK_T_WRITE_ZEROES, 9, 3, 0), VIRTIO_BLK_S_OK);
	assert_true(image_is(f, 9, 3, 0));
	assert_int_equal(request(f, VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_OK);
}

/* Without FLUSH each write is synchronous; only that it works can be seen from here. */
static void write_through(void **state)
{
	struct fixture *f = *state;

	assert_true(driver_start(&f->d, 0, 128));
	fill(f, DATA, 4 * SECTOR, 5);
	assert_int_equal(request(f, VIRTIO_BLK_T_OUT, 1, DATA, 4 * SECTOR), VIRTIO_BLK_S_OK);
	assert_image(f, 1, DATA, 4 * SECTOR);
	assert_int_equal(range_request(f, VIRTIO_BLK_T_WRITE_ZEROES, 1, 2, 1), VIRTIO_BLK_S_OK);
	assert_true(image_is(f, 1, 2, 0));
	assert_int_equal(range_request(f, VIRTIO_BLK_T_DISCARD, 1, 2, 0), VIRTIO_BLK_S_OK);
}

/* What cannot be answered breaks the device. */
static void hostile_requests(void **state)
{
	struct fixture *f = *state;
	struct driver_queue *q = &f->d.queues[0];

	for (unsigned row = 0; row < 6; row++) {
		uint64_t before = stats(f).virtio.hostile;

		assert_true(driver_start(&f->d, FLUSH, 128));
		prepare(f, 0, VIRTIO_BLK_T_IN, 0, DATA, SECTOR);
		switch (row) {
		case 0: /* no status */
			driver_desc(q, 0, HEADER, 16, 0, 0);
			break;
		case 1: /* short header */
			driver_desc(q, 0, HEADER, 15, VIRTQ_DESC_F_NEXT, 2);
			break;
		case 2: /* no header */
			driver_desc(q, 0, STATUS, 1, VIRTQ_DESC_F_WRITE, 0);
			break;
		case 3: /* data outside RAM */
			driver_desc(q, 1, DRIVER_RAM - 1, SECTOR, VIRTQ_DESC_F_WRITE | VIRTQ_DESC_F_NEXT, 2);
			break;
		case 4: /* loop */
			driver_desc(q, 2, STATUS, 1, VIRTQ_DESC_F_WRITE | VIRTQ_DESC_F_NEXT, 1);
			break;
		default: /* configuration space */
			driver_write(&f->d, REG_CONFIG + sizeof(struct virtio_blk_config), 1);
			break;
		}
		driver_send(&f->d, 0, 0);
		driver_loop(&f->d);
		if (driver_read(&f->d, REG_STAT) != (STATUS_UP | VIRTIO_STATUS_NEEDS_RESET))
			fail_msg("row %u: not broken", row);
		assert_int_equal(stats(f).virtio.hostile, before + 1);
		assert_int_equal(answer(f, 0), PENDING);
		assert_int_equal(le16_get(&q->used->idx), 0);
	}
	/* A reset brings it back. */
	assert_true(driver_start(&f->d, FLUSH, 128));
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 0, DATA, SECTOR), VIRTIO_BLK_S_OK);
}

/* After the status write returned nothing changes guest memory any more. */
/* What was in flight is finished when the hold begins; what comes then stays in the ring, and is served after it. */
static void held_device_leaves_memory_alone(void **state)
{
	struct fixture *f = *state;

	assert_true(driver_start(&f->d, FLUSH, 128));
	fill(f, DATA, 8 * SECTOR, 3);
	assert_int_equal(request(f, VIRTIO_BLK_T_OUT, 5, DATA, 8 * SECTOR), VIRTIO_BLK_S_OK);
	for (unsigned slot = 0; slot < 8; slot++) {
		prepare(f, slot, VIRTIO_BLK_T_IN, 5, DATA + 0x10000 + slot * 0x1000, 8 * SECTOR);
		driver_send(&f->d, 0, (uint16_t)(3 * slot));
	}
	driver_loop(&f->d);
	virtio_mmio_hold(f->d.mmio);
	virtio_mmio_hold(f->d.mmio); /* nests */
	assert_int_equal(stats(f).in_flight, 0);
	memset(driver_ptr(&f->d, DATA + 0x20000, SECTOR), 0x55, SECTOR);
	prepare(f, 20, VIRTIO_BLK_T_IN, 5, DATA + 0x20000, SECTOR);
	driver_send(&f->d, 0, 60);
	driver_loop(&f->d);
	virtio_mmio_release(f->d.mmio);
	driver_loop(&f->d);
	assert_int_equal(answer(f, 20), PENDING);
	assert_int_equal(*(uint8_t *)driver_ptr(&f->d, DATA + 0x20000, 1), 0x55);
	virtio_mmio_release(f->d.mmio);
	assert_true(driver_wait(&f->d, 0, 9));
	assert_int_equal(answer(f, 20), VIRTIO_BLK_S_OK);
	assert_image(f, 5, DATA + 0x20000, SECTOR);
	for (unsigned slot = 0; slot < 8; slot++)
		assert_image(f, 5, DATA + 0x10000 + slot * 0x1000, 8 * SECTOR);
}

static void reset_rounds(struct fixture *f, unsigned rounds)
{
	struct driver_queue *q = &f->d.queues[0];

	for (unsigned round = 0; round < rounds; round++) {
		assert_true(driver_start(&f->d, FLUSH, 128));
		for (unsigned slot = 0; slot < 32; slot++) {
			prepare(f, slot, VIRTIO_BLK_T_IN, slot * 8, DATA + slot * 0x1000, 8 * SECTOR);
			driver_offer(q, (uint16_t)(3 * slot));
		}
		driver_kick(&f->d, 0);
		if (round % 2)
			driver_loop(&f->d);
		driver_write(&f->d, REG_STAT, 0);
		assert_int_equal(stats(f).in_flight, 0);
		memset(driver_ptr(&f->d, DATA, 32 * 0x1000), 0x77, 32 * 0x1000);
		memset(driver_ptr(&f->d, DRIVER_QUEUES, 0x10000), 0x77, 0x10000);
		driver_loop(&f->d);
		driver_loop(&f->d);
		for (unsigned i = 0; i < 32 * 0x1000; i += 64)
			assert_int_equal(*(uint8_t *)driver_ptr(&f->d, DATA + i, 1), 0x77);
		assert_int_equal(*(uint8_t *)driver_ptr(&f->d, DRIVER_QUEUES + 0x8002, 1), 0x77);
	}
	assert_true(driver_start(&f->d, FLUSH, 128));
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 0, DATA, SECTOR), VIRTIO_BLK_S_OK);
}

static void reset_in_flight(void **state)
{
	struct fixture *f = *state;
	char bytes[SECTOR];

	reset_rounds(f, 100);
	/* Real blocks, and past the page cache, so that reads are still on their way. */
	memset(bytes, 0x11, sizeof(bytes));
	for (unsigned i = 0; i < SECTORS; i++)
		assert_int_equal(pwrite_full(f->fd, bytes, SECTOR, i * SECTOR), 0);
	assert_int_equal(fdatasync(f->fd), 0);
	open_device(f, false, true);
	reset_rounds(f, 100);
}

/* A reset amid a request of many steps (a misaligned buffer past the page cache): the rest is not taken. */
static void reset_between_steps(void **state)
{
	struct fixture *f = *state;
	const uint32_t len = 512 * SECTOR;

	open_device(f, false, true);
	assert_true(driver_start(&f->d, FLUSH, 128));
	memset(driver_ptr(&f->d, DATA + 1, len), 0x77, len);
	prepare(f, 0, VIRTIO_BLK_T_OUT, 0, DATA + 1, len);
	driver_send(&f->d, 0, 0);
	driver_loop(&f->d);
	driver_write(&f->d, REG_STAT, 0);
	assert_int_equal(stats(f).in_flight, 0);
	/* The plain engine was through before; in the ring, each step would have waited for a round of the
	 * loop. */
	if (engine == BLK_ENGINE_IO_URING)
		assert_true(image_is(f, 511, 1, 0));
	assert_true(driver_start(&f->d, FLUSH, 128));
	assert_int_equal(request(f, VIRTIO_BLK_T_OUT, 0, DATA + 1, len), VIRTIO_BLK_S_OK);
	assert_true(image_is(f, 511, 1, 0x77));
}

static void stopping_a_queue(void **state)
{
	struct fixture *f = *state;

	assert_true(driver_start(&f->d, FLUSH, 128));
	prepare(f, 0, VIRTIO_BLK_T_IN, 0, DATA, SECTOR);
	driver_send(&f->d, 0, 0);
	driver_loop(&f->d);
	driver_write(&f->d, REG_QSEL, 0);
	driver_write(&f->d, REG_QREADY, 0);
	assert_int_equal(driver_read(&f->d, REG_QREADY), 0);
	assert_int_equal(le16_get(&f->d.queues[0].used->idx), 1); /* what was in flight was answered */
	driver_send(&f->d, 0, 0);
	driver_loop(&f->d);
	assert_int_equal(le16_get(&f->d.queues[0].used->idx), 1);
	driver_write(&f->d, REG_QREADY, 1); /* not before a reset */
	assert_int_equal(driver_read(&f->d, REG_QREADY), 0);
}

static void configuration(void **state)
{
	struct fixture *f = *state;
	uint8_t bytes[8];

	assert_int_equal(driver_read(&f->d, REG_CONFIG), SECTORS);
	assert_int_equal(driver_read(&f->d, REG_CONFIG + 4), 0);
	assert_int_equal(driver_read(&f->d, REG_CONFIG + offsetof(struct virtio_blk_config, seg_max)), 126);
	assert_int_equal(driver_read(&f->d, REG_CONFIG + offsetof(struct virtio_blk_config, blk_size)), 512);
	virtio_mmio_bus_ops.read(f->d.mmio, REG_CONFIG, bytes, 8);
	assert_int_equal(load_le64(bytes), SECTORS);
	/* A write to a field that is not the driver's does nothing. */
	driver_write(&f->d, REG_CONFIG, 1);
	assert_int_equal(driver_read(&f->d, REG_CONFIG), SECTORS);
	assert_int_equal(driver_read(&f->d, REG_STAT), 0);
	assert_int_equal(driver_read(&f->d, 0x008), 2);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

/* Whether the host lets us have io_uring at all. */
static bool have_ring(void)
{
	struct io_uring ring;

	if (io_uring_queue_init(2, &ring, 0) < 0)
		return false;
	io_uring_queue_exit(&ring);
	return true;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		T(reads_and_writes),
		T(any_layout),
		T(serial_number),
		T(zeroes_and_discards),
		T(bad_ranges),
		T(read_only_disk),
		T(image_that_shrinks),
		T(host_errors),
		T(errors_reach_the_guest),
		T(many_at_once),
		T(more_than_slots),
		T(direct_io),
		T(write_through),
		T(hostile_requests),
		T(reset_in_flight),
		T(reset_between_steps),
		T(stopping_a_queue),
		T(configuration),
		T(held_device_leaves_memory_alone),
	};

	engine = argc > 1 && strcmp(argv[1], "io_uring") == 0 ? BLK_ENGINE_IO_URING : BLK_ENGINE_PLAIN;
	if (engine == BLK_ENGINE_IO_URING && !have_ring()) {
		fprintf(stderr, "skipped: this host has no io_uring\n");
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
