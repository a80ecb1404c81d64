/* SPDX-License-Identifier: Apache-2.0 */
/* Jobs in steps: what each result leads to, and that a ring that fails loses no job. */
#include "vmm/virtio-blk-engine.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>

#include "base/fs.h"
#include "tests/unit/test.h"

/* Each row: a job of 8192 bytes at 4096, the result of a step, and what follows. */
static const struct advance_row {
	const char *what;
	enum blk_op op;
	bool write_through;
	int64_t result;
	int want;
	enum blk_op next;
	uint64_t bytes;
} rows[] = {
	{"whole read", BLK_OP_READ, false, 8192, 0, BLK_OP_READ, 0},
	{"short read", BLK_OP_READ, false, 5000, 1, BLK_OP_READ, 3192},
	{"end of file", BLK_OP_READ, false, 0, -EIO, BLK_OP_READ, 8192},
	{"more than asked for", BLK_OP_READ, false, 8193, -EIO, BLK_OP_READ, 8192},
	{"failed read", BLK_OP_READ, false, -EIO, -EIO, BLK_OP_READ, 8192},
	{"interrupted read", BLK_OP_READ, false, -EINTR, 1, BLK_OP_READ, 8192},
	{"busy write", BLK_OP_WRITE, false, -EAGAIN, 1, BLK_OP_WRITE, 8192},
	{"full disk", BLK_OP_WRITE, false, -ENOSPC, -ENOSPC, BLK_OP_WRITE, 8192},
	{"short write", BLK_OP_WRITE, false, 512, 1, BLK_OP_WRITE, 7680},
	{"write-through write", BLK_OP_WRITE, true, 8192, 0, BLK_OP_WRITE, 0},
	{"write not supported", BLK_OP_WRITE, false, -EOPNOTSUPP, -EOPNOTSUPP, BLK_OP_WRITE, 8192},
	{"sync", BLK_OP_SYNC, false, 0, 0, BLK_OP_SYNC, 8192},
	{"failed sync", BLK_OP_SYNC, false, -EIO, -EIO, BLK_OP_SYNC, 8192},
	{"discard", BLK_OP_DISCARD, false, 0, 0, BLK_OP_DISCARD, 8192},
	{"discard, write-through", BLK_OP_DISCARD, true, 0, 1, BLK_OP_SYNC, 8192},
	{"discard not supported", BLK_OP_DISCARD, false, -EOPNOTSUPP, 0, BLK_OP_DISCARD, 8192},
	{"failed discard", BLK_OP_DISCARD, false, -EIO, -EIO, BLK_OP_DISCARD, 8192},
	{"zeroed", BLK_OP_ZERO, false, 0, 0, BLK_OP_ZERO, 8192},
	{"zeroing not supported", BLK_OP_ZERO, true, -EOPNOTSUPP, 1, BLK_OP_WRITE_ZEROES, 8192},
	{"unmapping not supported", BLK_OP_ZERO_UNMAP, false, -EOPNOTSUPP, 1, BLK_OP_WRITE_ZEROES, 8192},
	{"zeroes written in part", BLK_OP_WRITE_ZEROES, false, 4096, 1, BLK_OP_WRITE_ZEROES, 4096},
	{"zeroes written", BLK_OP_WRITE_ZEROES, false, 8192, 0, BLK_OP_WRITE_ZEROES, 0},
};

TEST(advances)
{
	static char buf[8192];

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		const struct advance_row *row = &rows[i];
		struct iovec iov[2] = {{buf, 4000}, {buf + 4000, 4192}};
		struct blk_job job = {.op = row->op,
				      .write_through = row->write_through,
				      .iov = iov,
				      .iov_count = 2,
				      .offset = 4096,
				      .bytes = 8192};
		int r = blk_job_advance(&job, row->result);

		if (r != row->want || job.op != row->next || job.bytes != row->bytes)
			fail_msg("%s: %d, op %d, %lu bytes", row->what, r, (int)job.op,
				 (unsigned long)job.bytes);
		assert_int_equal(job.offset + job.bytes, 4096 + 8192);
		if (row->result == 5000) {
			assert_int_equal(job.iov_count, 1);
			assert_ptr_equal(job.iov->iov_base, buf + 5000);
		}
	}
}

TEST(retries_end)
{
	struct blk_job job = {.op = BLK_OP_SYNC};
	unsigned n = 0;

	while (blk_job_advance(&job, -EINTR) > 0)
		assert_true(++n < 1000);
}

struct results {
	unsigned ended, failed;
};

static void count_done(void *arg, struct blk_job *job, int result)
{
	struct results *r = arg;

	(void)job;
	r->ended++;
	r->failed += result < 0;
}

static struct blk_image memory_image(uint64_t bytes)
{
	struct blk_image image = {.fd = memfd_create("disk", MFD_CLOEXEC), .bytes = bytes};

	assert_true(image.fd >= 0);
	assert_int_equal(ftruncate(image.fd, (off_t)bytes), 0);
	return image;
}

static bool start_engine(struct blk_engine *e, const struct blk_image *image, enum blk_engine_kind kind,
			 struct results *results)
{
	int r = blk_engine_init(e, image, kind, count_done, results);

	if (r == -ENOTSUP && kind == BLK_ENGINE_IO_URING)
		return false;
	assert_int_equal(r, 0);
	return true;
}

/* To its end. */
static void run_job(struct blk_engine *e, struct blk_job *job)
{
	blk_engine_start(e, job);
	blk_engine_submit(e);
	while (e->in_flight) {
		struct pollfd p = {.fd = e->event_fd, .events = POLLIN};

		assert_int_equal(poll(&p, 1, 10000), 1);
		blk_engine_reap(e);
	}
}

/* Zeroing by hand: several steps, of all of the range and nothing beside it. */
static void zeroes_by_hand(enum blk_engine_kind kind)
{
	const uint64_t bytes = 3 * 1048576 + 512;
	struct blk_image image = memory_image(bytes + 1024);
	struct results results = {0};
	struct blk_engine e;
	bool started;
	struct blk_job job = {
		.op = BLK_OP_WRITE_ZEROES, .offset = 512, .bytes = bytes, .write_through = true};
	char *map = mmap(NULL, bytes + 1024, PROT_READ | PROT_WRITE, MAP_SHARED, image.fd, 0);

	assert_ptr_not_equal(map, MAP_FAILED);
	memset(map, 0x33, bytes + 1024);
	started = start_engine(&e, &image, kind, &results);
	if (started) {
		run_job(&e, &job);
		assert_int_equal(results.ended, 1);
		assert_int_equal(results.failed, 0);
		assert_int_equal(map[511], 0x33);
		assert_int_equal(map[512 + bytes], 0x33);
		for (uint64_t i = 512; i < 512 + bytes; i++)
			if (map[i])
				fail_msg("byte %lu", (unsigned long)i);
		blk_engine_done(&e);
	}
	munmap(map, bytes + 1024);
	blk_image_close(&image);
	if (!started)
		TEST_SKIP("no io_uring here");
}

TEST(zeroes_by_hand_plain)
{
	zeroes_by_hand(BLK_ENGINE_PLAIN);
}

TEST(zeroes_by_hand_ring)
{
	zeroes_by_hand(BLK_ENGINE_IO_URING);
}

/* A drain waits for the step that a job is in, and takes none of its others. */
static void drains(enum blk_engine_kind kind, bool submitted)
{
	enum { BYTES = 3 << 20, STEP = 64 << 10 };
	struct blk_image image = memory_image(BYTES);
	struct results results = {0};
	struct blk_engine e;
	bool started;
	struct blk_job job = {.op = BLK_OP_WRITE_ZEROES, .bytes = BYTES};
	char *map = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, image.fd, 0);

	assert_ptr_not_equal(map, MAP_FAILED);
	memset(map, 0x33, BYTES);
	started = start_engine(&e, &image, kind, &results);
	if (started) {
		blk_engine_start(&e, &job);
		if (submitted)
			blk_engine_submit(&e);
		blk_engine_drain(&e);
		assert_int_equal(e.in_flight, 0);
		assert_int_equal(results.ended, 1);
		assert_int_equal(results.failed, 1);
		assert_int_equal(map[0], submitted ? 0 : 0x33);
		assert_int_equal(map[STEP], 0x33);
		assert_int_equal(map[BYTES - 1], 0x33);
		/* Later jobs have all of their steps. */
		job = (struct blk_job){.op = BLK_OP_WRITE_ZEROES, .bytes = BYTES};
		run_job(&e, &job);
		assert_int_equal(results.ended, 2);
		assert_int_equal(results.failed, 1);
		assert_int_equal(map[BYTES - 1], 0);
		blk_engine_done(&e);
	}
	munmap(map, BYTES);
	blk_image_close(&image);
	if (!started)
		TEST_SKIP("no io_uring here");
}

TEST(drains_plain)
{
	drains(BLK_ENGINE_PLAIN, false);
}

TEST(drains_ring)
{
	drains(BLK_ENGINE_IO_URING, false);
}

TEST(drains_ring_in_flight)
{
	drains(BLK_ENGINE_IO_URING, true);
}

/* Buffers that O_DIRECT would refuse: the bytes arrive nevertheless, 64 KiB at a step. (The file is in memory
 * and would take them: only that they are bounced is seen here.) */
static void bounces(enum blk_engine_kind kind)
{
	enum { BYTES = 200 * 1024, STEPS = 4 };
	struct blk_image image = memory_image(BYTES + 8192);
	struct results results = {0};
	struct blk_engine e;
	bool started;
	char *out = test_malloc(BYTES + 1), *in = test_malloc(BYTES + 2);

	image.direct = true;
	image.memory_align = image.offset_align = 512;
	for (unsigned i = 0; i <= BYTES; i++)
		out[i] = (char)(i * 7 + i / 251);
	memset(in, 0x44, BYTES + 2);
	started = start_engine(&e, &image, kind, &results);
	if (started) {
		struct iovec from[] = {{out + 1, 70001}, {out + 70002, BYTES - 70001}};
		struct iovec to[] = {{in + 1, 513}, {in + 514, BYTES - 513}};
		struct blk_job write = {
			.op = BLK_OP_WRITE, .iov = from, .iov_count = 2, .offset = 4096, .bytes = BYTES};
		struct blk_job read = {
			.op = BLK_OP_READ, .iov = to, .iov_count = 2, .offset = 4096, .bytes = BYTES};

		run_job(&e, &write);
		assert_int_equal(e.misaligned, STEPS);
		run_job(&e, &read);
		assert_int_equal(e.misaligned, 2 * STEPS);
		assert_int_equal(results.ended, 2);
		assert_int_equal(results.failed, 0);
		assert_null(write.bounce.iov_base);
		assert_memory_equal(in + 1, out + 1, BYTES);
		assert_int_equal(in[0], 0x44);
		assert_int_equal(in[BYTES + 1], 0x44);
		assert_int_equal(pread_full(image.fd, in, BYTES, 4096), 0);
		assert_memory_equal(in, out + 1, BYTES);
		blk_engine_done(&e);
	}
	test_free(in);
	test_free(out);
	blk_image_close(&image);
	if (!started)
		TEST_SKIP("no io_uring here");
}

TEST(bounces_plain)
{
	bounces(BLK_ENGINE_PLAIN);
}

TEST(bounces_ring)
{
	bounces(BLK_ENGINE_IO_URING);
}

/* The ring's descriptor goes bad under it: all jobs end, plainly, and so do later ones. */
TEST(a_ring_that_fails)
{
	struct blk_image image = memory_image(1 << 20);
	struct results results = {0};
	struct blk_engine e;
	struct blk_job jobs[BLK_JOBS_MAX];
	struct iovec iov[BLK_JOBS_MAX];
	char buf[BLK_JOBS_MAX][512], back[512];
	auto_fd null = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (!start_engine(&e, &image, BLK_ENGINE_IO_URING, &results)) {
		blk_image_close(&image);
		TEST_SKIP("no io_uring here");
	}
	assert_int_equal(dup2(null, e.ring.ring_fd), e.ring.ring_fd);
	for (unsigned round = 1; round <= 2; round++) {
		for (unsigned i = 0; i < BLK_JOBS_MAX; i++) {
			memset(buf[i], (int)(i + round), 512);
			iov[i] = (struct iovec){buf[i], 512};
			jobs[i] = (struct blk_job){.op = BLK_OP_WRITE,
						   .iov = &iov[i],
						   .iov_count = 1,
						   .offset = 512 * i,
						   .bytes = 512};
			blk_engine_start(&e, &jobs[i]);
		}
		blk_engine_submit(&e);
		assert_false(e.ring_on);
		assert_int_equal(results.ended, round * BLK_JOBS_MAX);
		assert_int_equal(results.failed, 0);
		assert_int_equal(e.in_flight, 0);
		for (unsigned i = 0; i < BLK_JOBS_MAX; i++) {
			assert_int_equal(pread_full(image.fd, back, 512, 512 * i), 0);
			assert_int_equal(back[511], i + round);
		}
	}
	blk_engine_reap(&e); /* a late event */
	blk_engine_done(&e);
	blk_image_close(&image);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(advances),
		cmocka_unit_test(retries_end),
		cmocka_unit_test(zeroes_by_hand_plain),
		cmocka_unit_test(zeroes_by_hand_ring),
		cmocka_unit_test(drains_plain),
		cmocka_unit_test(drains_ring),
		cmocka_unit_test(drains_ring_in_flight),
		cmocka_unit_test(bounces_plain),
		cmocka_unit_test(bounces_ring),
		cmocka_unit_test(a_ring_that_fails),
	};

	return TEST_RUN(tests);
}
