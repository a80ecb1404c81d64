/* SPDX-License-Identifier: Apache-2.0 */
/* While the kernel works on a disk request, its frames are in the table of I/O in flight, and the guest can be held all the
 * same. The kernel is stopped in the middle of it by a page of the buffer that userfaultfd does not give it yet. */
#include "vmm/virtio-blk.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <linux/virtio_blk.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#include "base/fs.h"
#include "base/size.h"
#include "ksm/hold.h"
#include "ksm/in-flight.h"
#include "tests/unit/loop-thread.h"
#include "tests/unit/test.h"
#include "tests/unit/virtio_driver.h"

#define HEADER DRIVER_DATA
#define STATUS (DRIVER_DATA + 0x100)
/* In blocks of 64 KiB of their own. */
#define DATA  (8 * MIB)
#define BELOW (DATA - PAGE_BYTES)
#define ABOVE (DATA + 64 * KIB)

struct fixture {
	struct driver d;
	struct hold *hold;
	struct virtio_blk *blk;
	struct loop_thread loop;
	int uffd;
	char path[64];
	unsigned works;
};

/* 77 when this process may not stop the kernel. */
static int open_uffd(void)
{
	struct uffdio_api api = {.api = UFFD_API};
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);

	if (fd < 0)
		return -errno;
	assert_int_equal(ioctl(fd, UFFDIO_API, &api), 0);
	return fd;
}

static void withhold(struct fixture *f, uint64_t gpa)
{
	struct uffdio_register reg = {
		.range = {.start = (uintptr_t)driver_ptr(&f->d, gpa, PAGE_BYTES), .len = PAGE_BYTES},
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};

	assert_int_equal(ioctl(f->uffd, UFFDIO_REGISTER, &reg), 0);
}

static void begin(struct fixture *f, enum blk_engine_kind engine)
{
	struct virtio_blk_options o = {.path = f->path, .engine = engine};
	struct errmsg err = {0};
	uint8_t page[2 * PAGE_BYTES];
	int fd;

	f->uffd = open_uffd();
	if (f->uffd < 0)
		TEST_SKIP("userfaultfd for the kernel's own faults needs privilege");
	assert_int_equal(driver_init(&f->d), 0);
	assert_int_equal(hold_new(NULL, NULL, &f->hold), 0);
	io_loop_set_hold(f->d.loop, f->hold);
	snprintf(f->path, sizeof(f->path), "/tmp/sardine-flight-XXXXXX");
	fd = mkstemp(f->path);
	memset(page, 0x5a, sizeof(page));
	assert_int_equal(pwrite_full(fd, page, sizeof(page), 0), 0);
	close(fd);
	if (virtio_blk_new(&o, f->d.mem, f->d.loop, &f->d.irq, &err, &f->blk) < 0)
		fail_msg("%s", err.text);
	f->d.mmio = virtio_blk_mmio(f->blk);
	assert_true(driver_start(&f->d, 0, 128));
	f->loop.loop = f->d.loop;
	loop_thread_start(&f->loop);
}

static void end(struct fixture *f)
{
	loop_thread_stop(&f->loop);
	virtio_blk_free(f->blk);
	driver_done(&f->d);
	hold_free(f->hold);
	close(f->uffd);
	unlink(f->path);
}

/* Two pages of data in two descriptors that lie apart, the second one withheld. */
static void send(struct fixture *f, uint32_t type)
{
	struct driver_queue *q = &f->d.queues[0];
	uint8_t *h = driver_ptr(&f->d, HEADER, 16);
	uint16_t flags = VIRTQ_DESC_F_NEXT | (type == VIRTIO_BLK_T_IN ? VIRTQ_DESC_F_WRITE : 0);

	store_le32(h, type);
	store_le32(h + 4, 0);
	store_le64(h + 8, 0);
	withhold(f, ABOVE);
	driver_desc(q, 0, HEADER, 16, VIRTQ_DESC_F_NEXT, 1);
	driver_desc(q, 1, DATA + 512, PAGE_BYTES, flags, 2); /* two frames */
	driver_desc(q, 2, ABOVE, PAGE_BYTES, flags, 3);
	driver_desc(q, 3, STATUS, 1, VIRTQ_DESC_F_WRITE, 0);
	driver_send(&f->d, 0, 0);
}

static bool in_table(struct fixture *f, uint64_t gpa)
{
	return in_flight_any(guest_memory_in_flight(f->d.mem), gpa_to_gfn(GPA(gpa)), 1);
}

static void work(void *arg)
{
	((struct fixture *)arg)->works++;
}

static void stopped_in_the_middle(struct fixture *f, uint32_t type)
{
	struct uffd_msg msg;
	struct uffdio_zeropage zero = {
		.range = {.start = (uintptr_t)driver_ptr(&f->d, ABOVE, PAGE_BYTES), .len = PAGE_BYTES}};
	int64_t deadline = test_now_ms() + TEST_DEADLINE_MS;

	memset(driver_ptr(&f->d, DATA, 2 * PAGE_BYTES), 0x11, 2 * PAGE_BYTES);
	assert_false(in_table(f, DATA));
	send(f, type);
	/* The kernel wants the page now. */
	assert_int_equal(read(f->uffd, &msg, sizeof(msg)), sizeof(msg));
	assert_int_equal(msg.event, UFFD_EVENT_PAGEFAULT);
	assert_true(in_table(f, DATA));
	assert_true(in_table(f, DATA + PAGE_BYTES));
	assert_true(in_table(f, ABOVE));
	assert_false(in_table(f, BELOW));
	assert_false(in_table(f, ABOVE + 64 * KIB));
	/* Whether the kernel has stopped the I/O thread or one of its own: a hold need not wait for it. */
	assert_int_equal(hold_call(f->hold, work, f), 0);
	assert_int_equal(f->works, 1);
	assert_int_equal(ioctl(f->uffd, UFFDIO_ZEROPAGE, &zero), 0);
	while (le16_get_acquire(&f->d.queues[0].used->idx) == f->d.queues[0].used_seen)
		assert_true(test_now_ms() < deadline);
	assert_int_equal(*(uint8_t *)driver_ptr(&f->d, STATUS, 1), VIRTIO_BLK_S_OK);
	assert_false(in_table(f, DATA));
	assert_false(in_table(f, ABOVE));
	if (type == VIRTIO_BLK_T_IN)
		assert_int_equal(*(uint8_t *)driver_ptr(&f->d, ABOVE + 17, 1), 0x5a);
}

static void run(enum blk_engine_kind engine, uint32_t type)
{
	struct fixture f = {0};

	begin(&f, engine);
	stopped_in_the_middle(&f, type);
	end(&f);
}

TEST(read_plain)
{
	run(BLK_ENGINE_PLAIN, VIRTIO_BLK_T_IN);
}

TEST(write_plain)
{
	run(BLK_ENGINE_PLAIN, VIRTIO_BLK_T_OUT);
}

TEST(read_ring)
{
	run(BLK_ENGINE_AUTO, VIRTIO_BLK_T_IN);
}

TEST(write_ring)
{
	run(BLK_ENGINE_AUTO, VIRTIO_BLK_T_OUT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(read_plain),
		cmocka_unit_test(write_plain),
		cmocka_unit_test(read_ring),
		cmocka_unit_test(write_ring),
	};

	return TEST_RUN(tests);
}
