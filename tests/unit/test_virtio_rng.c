/* SPDX-License-Identifier: Apache-2.0 */
/* The random number device: buffers are filled, never beyond the bounds, and no guest or kernel can stop the loop. */
#include "vmm/virtio-rng.h"

#include <errno.h>
#include <sched.h>
#include <string.h>
#include <time.h>

#include "tests/unit/test.h"
#include "tests/unit/virtio_driver.h"

#define DATA DRIVER_DATA

struct fixture {
	struct driver d;
	struct virtio_rng *rng;
	/* What the kernel's stand-in does next. */
	int error;	/* fail with this */
	size_t portion; /* give at most so many bytes a call */
	unsigned calls;
};

static ssize_t fill(void *arg, void *buf, size_t len)
{
	struct fixture *f = arg;
	size_t n = len < f->portion ? len : f->portion;

	f->calls++;
	if (f->error)
		return f->error;
	memset(buf, 0x5a, n);
	return (ssize_t)n;
}

static void open_device(struct fixture *f, bool stand_in, struct rate_config rate)
{
	struct virtio_rng_options o = {.rate = rate, .fill = stand_in ? fill : NULL, .arg = f};

	virtio_rng_free(f->rng);
	assert_int_equal(virtio_rng_new(&o, f->d.mem, f->d.loop, &f->d.irq, &f->rng), 0);
	f->d.mmio = virtio_rng_mmio(f->rng);
	f->portion = SIZE_MAX;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	*state = f;
	assert_int_equal(driver_init(&f->d), 0);
	open_device(f, true, (struct rate_config){0});
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	virtio_rng_free(f->rng);
	driver_done(&f->d);
	free(f);
	return 0;
}

static struct virtio_rng_stats stats(struct fixture *f)
{
	struct virtio_rng_stats s;

	virtio_rng_stats(f->rng, &s);
	return s;
}

static uint8_t *data(struct fixture *f, uint32_t offset)
{
	return driver_ptr(&f->d, DATA + offset, 1);
}

/* Ask for random bytes in one buffer. Return: how many came. */
static uint32_t ask(struct fixture *f, uint32_t len)
{
	struct driver_queue *q = &f->d.queues[0];
	uint32_t written = 0;

	driver_desc(q, 0, DATA, len, VIRTQ_DESC_F_WRITE, 0);
	driver_send(&f->d, 0, 0);
	assert_true(driver_wait(&f->d, 0, 1));
	assert_int_equal(driver_take(q, &written), 0);
	return written;
}

static void kernel_bytes(void **state)
{
	struct fixture *f = *state;
	uint8_t first[512];
	unsigned zeroes = 0;

	open_device(f, false, (struct rate_config){0});
	assert_true(driver_start(&f->d, VIRTIO_FEATURE_EVENT_IDX, 8));
	assert_int_equal(driver_read(&f->d, 0x008), 4);
	memset(data(f, 0), 0, 1024);
	assert_int_equal(ask(f, sizeof(first)), sizeof(first));
	assert_int_equal(driver_interrupts(&f->d), 1);
	memcpy(first, data(f, 0), sizeof(first));
	for (size_t i = 0; i < sizeof(first); i++)
		zeroes += first[i] == 0;
	assert_true(zeroes < 64);
	for (size_t i = sizeof(first); i < 1024; i++)
		assert_int_equal(*data(f, (uint32_t)i), 0);
	assert_int_equal(ask(f, sizeof(first)), sizeof(first));
	assert_memory_not_equal(first, data(f, 0), sizeof(first));
	assert_int_equal(stats(f).bytes, 2 * sizeof(first));
	assert_int_equal(stats(f).virtio.requests, 2);
}

static void bounded_requests(void **state)
{
	struct fixture *f = *state;
	struct driver_queue *q = &f->d.queues[0];
	uint32_t written;

	assert_true(driver_start(&f->d, 0, 8));
	memset(data(f, 0), 0, 0x40000);
	assert_int_equal(ask(f, 0x40000), RNG_REQUEST_BYTES_MAX);
	assert_int_equal(*data(f, RNG_REQUEST_BYTES_MAX - 1), 0x5a);
	assert_int_equal(*data(f, RNG_REQUEST_BYTES_MAX), 0);
	/* In pieces, the last of which is cut. */
	memset(data(f, 0), 0, 0x40000);
	driver_desc(q, 0, DATA, 3, VIRTQ_DESC_F_WRITE | VIRTQ_DESC_F_NEXT, 1);
	driver_desc(q, 1, DATA + 0x100, 4000, VIRTQ_DESC_F_WRITE | VIRTQ_DESC_F_NEXT, 2);
	driver_desc(q, 2, DATA + 0x2000, 4000, VIRTQ_DESC_F_WRITE, 0);
	driver_send(&f->d, 0, 0);
	assert_true(driver_wait(&f->d, 0, 1));
	driver_take(q, &written);
	assert_int_equal(written, RNG_REQUEST_BYTES_MAX);
	assert_int_equal(*data(f, 2), 0x5a);
	assert_int_equal(*data(f, 3), 0);
	assert_int_equal(*data(f, 0x100 + 3999), 0x5a);
	assert_int_equal(*data(f, 0x2000 + RNG_REQUEST_BYTES_MAX - 4003 - 1), 0x5a);
	assert_int_equal(*data(f, 0x2000 + RNG_REQUEST_BYTES_MAX - 4003), 0);
}

/* All that is offered at once is answered, but not in one round of the loop. */
static void bounded_rounds(void **state)
{
	struct fixture *f = *state;
	struct driver_queue *q = &f->d.queues[0];
	unsigned first;

	assert_true(driver_start(&f->d, VIRTIO_FEATURE_EVENT_IDX, 64));
	driver_loop(&f->d);
	for (uint16_t i = 0; i < 64; i++) {
		driver_desc(q, i, DATA, 4096, VIRTQ_DESC_F_WRITE, 0);
		driver_offer(q, i);
	}
	driver_kick(&f->d, 0);
	driver_loop(&f->d);
	first = le16_get(&q->used->idx);
	assert_in_range(first, 1, 16);
	assert_true(driver_wait(&f->d, 0, 64));
	assert_int_equal(stats(f).bytes, 64 * 4096);
}

static void partial_answers(void **state)
{
	struct fixture *f = *state;

	assert_true(driver_start(&f->d, 0, 8));
	f->portion = 100; /* as by a signal */
	assert_int_equal(ask(f, 1000), 1000);
	assert_int_equal(f->calls, 10);
	assert_int_equal(*data(f, 999), 0x5a);
}

/* A kernel without random numbers: the request stays, the loop goes on, and the answer comes when there are some. */
static void nothing_to_give(void **state)
{
	static const int errors[] = {-EAGAIN, -EFAULT, -ENOSYS};
	struct fixture *f = *state;
	struct driver_queue *q = &f->d.queues[0];
	time_t deadline = time(NULL) + 10;

	for (size_t i = 0; i < ARRAY_SIZE(errors); i++) {
		uint64_t before = stats(f).no_data;

		assert_true(driver_start(&f->d, VIRTIO_FEATURE_EVENT_IDX, 8));
		q = &f->d.queues[0];
		f->error = errors[i];
		driver_desc(q, 0, DATA, 64, VIRTQ_DESC_F_WRITE, 0);
		driver_send(&f->d, 0, 0);
		/* The timer looks again and again, and no more often than that. */
		while (stats(f).no_data < before + 3 && time(NULL) < deadline) {
			driver_loop(&f->d);
			sched_yield();
		}
		assert_in_range(stats(f).no_data, before + 3, before + 6);
		assert_int_equal(le16_get(&q->used->idx), 0);
		f->error = 0;
		assert_true(driver_wait(&f->d, 0, 1));
		assert_int_equal(driver_take(q, NULL), 0);
	}
	/* A reset ends the wait. */
	f->error = -EAGAIN;
	driver_desc(q, 0, DATA, 64, VIRTQ_DESC_F_WRITE, 0);
	driver_send(&f->d, 0, 0);
	driver_loop(&f->d);
	driver_write(&f->d, REG_STAT, 0);
	f->error = 0;
	f->calls = 0;
	for (time_t end = time(NULL) + 1; time(NULL) <= end; sched_yield())
		driver_loop(&f->d);
	assert_int_equal(f->calls, 0);
}

/* The limits hold from below; how late the timer is depends on the machine. A reset buys nothing. */
static void limits(void **state)
{
	static const struct rate_config rates[] = {{.ops_per_s = 20}, {.bytes_per_s = 20 * 1000}};
	struct fixture *f = *state;

	for (size_t i = 0; i < ARRAY_SIZE(rates); i++) {
		struct timespec start, end;
		int64_t ms;

		open_device(f, true, rates[i]);
		clock_gettime(CLOCK_MONOTONIC, &start);
		for (unsigned n = 0; n < 8; n++) {
			if (n % 4 == 0)
				assert_true(driver_start(&f->d, VIRTIO_FEATURE_EVENT_IDX, 8));
			assert_int_equal(ask(f, 1000), 1000);
		}
		clock_gettime(CLOCK_MONOTONIC, &end);
		ms = (end.tv_sec - start.tv_sec) * 1000 + (end.tv_nsec - start.tv_nsec) / 1000000;
		/* 8 at 20 a second, 2 of which are the burst and one may be owed. */
		assert_in_range(ms, 240, 9000);
		assert_in_range(stats(f).throttled, 5, 20);
		assert_int_equal(stats(f).virtio.requests, 8);
	}
}

static void held_device_leaves_memory_alone(void **state)
{
	struct fixture *f = *state;
	struct driver_queue *q = &f->d.queues[0];
	time_t end = time(NULL) + 1;
	uint64_t before;

	assert_true(driver_start(&f->d, VIRTIO_FEATURE_EVENT_IDX, 8));
	/* With the timer running, too. */
	f->error = -EAGAIN;
	driver_desc(q, 0, DATA, 64, VIRTQ_DESC_F_WRITE, 0);
	driver_send(&f->d, 0, 0);
	driver_loop(&f->d);
	before = stats(f).no_data;
	assert_int_equal(before, 1);
	f->error = 0;
	virtio_mmio_hold(f->d.mmio);
	memset(data(f, 0), 0x33, 64);
	driver_kick(&f->d, 0);
	for (; time(NULL) <= end; sched_yield())
		driver_loop(&f->d);
	assert_int_equal(*data(f, 0), 0x33);
	assert_int_equal(le16_get(&q->used->idx), 0);
	virtio_mmio_release(f->d.mmio);
	assert_true(driver_wait(&f->d, 0, 1));
	assert_int_equal(*data(f, 63), 0x5a);
}

/* Each row breaks the device in its own way. */
static const struct hostile_row {
	const char *what;
	uint64_t addr;
	uint32_t len;
	uint16_t flags;
} hostile_rows[] = {
	{"readable", DATA, 64, 0},
	{"readable, then writable", DATA, 64, VIRTQ_DESC_F_NEXT},
	{"empty", DATA, 0, VIRTQ_DESC_F_WRITE},
	{"outside RAM", DRIVER_RAM - 32, 64, VIRTQ_DESC_F_WRITE},
	{"loop", DATA, 64, VIRTQ_DESC_F_WRITE | VIRTQ_DESC_F_NEXT},
};

static void hostile_requests(void **state)
{
	struct fixture *f = *state;

	for (size_t i = 0; i < ARRAY_SIZE(hostile_rows); i++) {
		const struct hostile_row *row = &hostile_rows[i];
		bool loop = row->flags == (VIRTQ_DESC_F_WRITE | VIRTQ_DESC_F_NEXT);
		uint64_t before = stats(f).virtio.hostile;
		struct driver_queue *q;

		assert_true(driver_start(&f->d, 0, 8));
		q = &f->d.queues[0];
		driver_desc(q, 0, row->addr, row->len, row->flags, loop ? 0 : 1);
		driver_desc(q, 1, DATA, 64, VIRTQ_DESC_F_WRITE, 0);
		driver_send(&f->d, 0, 0);
		driver_loop(&f->d);
		if (driver_read(&f->d, REG_STAT) != (STATUS_UP | VIRTIO_STATUS_NEEDS_RESET))
			fail_msg("%s: not broken", row->what);
		assert_int_equal(stats(f).virtio.hostile, before + 1);
		assert_int_equal(le16_get(&q->used->idx), 0);
	}
	assert_int_equal(f->calls, 0);
	assert_true(driver_start(&f->d, 0, 8));
	assert_int_equal(ask(f, 64), 64);
}

static void no_configuration(void **state)
{
	struct fixture *f = *state;

	assert_true(driver_start(&f->d, 0, 8));
	assert_int_equal(driver_read(&f->d, REG_CONFIG), 0);
	driver_write(&f->d, REG_CONFIG, 1);
	assert_true(driver_read(&f->d, REG_STAT) & VIRTIO_STATUS_NEEDS_RESET);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(kernel_bytes),
		T(bounded_requests),
		T(bounded_rounds),
		T(partial_answers),
		T(nothing_to_give),
		T(limits),
		T(held_device_leaves_memory_alone),
		T(hostile_requests),
		T(no_configuration),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
