/* SPDX-License-Identifier: Apache-2.0 */
/* A network device between its driver, its network and others who look at it: every frame that is sent comes back, with
 * notifications as sparing as Linux', and after a reset the memory is the guest's alone. */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>

#include "tests/unit/test.h"
#include "tests/unit/virtio_driver.h"
#include "vmm/virtio-net.h"

#define RX	    0
#define TX	    1
#define ENTRIES	    64
#define HEADER	    12u
#define FRAME	    3000u
#define BUFFER	    1000u
#define SENT	    DRIVER_DATA
#define RECEIVED    (DRIVER_DATA + 0x100000)
#define FEATURES    (VIRTIO_FEATURE_EVENT_IDX | 1u << 15 /* merged buffers */)
#define DEADLINE_MS 10000

struct stress {
	struct driver d;
	struct virtio_net *net;
	int peer;
	pthread_t io_thread, peer_thread, other_thread;
	atomic_bool stop, flood;
	bool hold_too;
	unsigned interrupts_waited, kicks_saved;
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

/* The network: sends back what it gets, or sends without end. */
static void *peer_main(void *arg)
{
	struct stress *s = arg;
	uint8_t frame[HEADER + FRAME] = {0};

	while (!atomic_load(&s->stop)) {
		struct pollfd p = {.fd = s->peer, .events = POLLIN};
		bool flood = atomic_load(&s->flood);
		ssize_t n = read(s->peer, frame, sizeof(frame));

		if (n < 0 && !flood) {
			poll(&p, 1, 10);
			continue;
		}
		n = flood ? (ssize_t)sizeof(frame) : n;
		while (write(s->peer, frame, (size_t)n) < 0 && errno == EAGAIN && !atomic_load(&s->stop)) {
			p.events = POLLOUT;
			poll(&p, 1, 10);
		}
	}
	return NULL;
}

/* Another vCPU and a client of the control socket. */
static void *other_main(void *arg)
{
	struct stress *s = arg;

	while (!atomic_load(&s->stop)) {
		struct virtio_net_stats stats;

		for (uint32_t reg = 0; reg < 0x120; reg += 4)
			(void)driver_read(&s->d, reg);
		virtio_net_stats(s->net, &stats);
		if (s->hold_too) {
			virtio_mmio_hold(s->d.mmio);
			sched_yield();
			virtio_mmio_release(s->d.mmio);
		}
	}
	return NULL;
}

static void stress_start(struct stress *s, const struct rate_config *rate)
{
	struct virtio_net_options options = {.mac = {2}, .rate = *rate};
	struct tap tap = {.name = "stress"};
	int ends[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
	tap.fd = ends[0];
	s->peer = ends[1];
	assert_int_equal(driver_init(&s->d), 0);
	assert_int_equal(virtio_net_new(&options, &tap, s->d.mem, s->d.loop, &s->d.irq, &s->net), 0);
	s->d.mmio = virtio_net_mmio(s->net);
	assert_int_equal(pthread_create(&s->io_thread, NULL, io_main, s), 0);
	assert_int_equal(pthread_create(&s->peer_thread, NULL, peer_main, s), 0);
	assert_int_equal(pthread_create(&s->other_thread, NULL, other_main, s), 0);
}

static void stress_stop(struct stress *s)
{
	atomic_store(&s->stop, true);
	pthread_join(s->other_thread, NULL);
	pthread_join(s->peer_thread, NULL);
	io_loop_stop(s->d.loop);
	pthread_join(s->io_thread, NULL);
	virtio_net_free(s->net);
	close(s->peer);
	driver_done(&s->d);
}

static uint16_t used_idx(const struct driver_queue *q)
{
	return le16_get_acquire(&q->used->idx);
}

/* Kick as Linux does: only when the device asked for it (pair: virtqueue_kicks_on()). */
static void offer(struct stress *s, unsigned queue, uint16_t head)
{
	struct driver_queue *q = &s->d.queues[queue];
	uint16_t event, old = q->avail_idx;

	driver_offer(q, head);
	atomic_thread_fence(memory_order_seq_cst);
	event = le16_get((const le16_t *)(const void *)&q->used->ring[q->size]);
	if ((uint16_t)(q->avail_idx - event - 1) < (uint16_t)(q->avail_idx - old))
		driver_kick(&s->d, queue);
	else
		s->kicks_saved++;
}

/* Sleep until the device has used @count buffers that were not taken, with interrupts asked for as Linux does. */
static void wait_used(struct stress *s, unsigned queue, unsigned count)
{
	struct driver_queue *q = &s->d.queues[queue];

	while ((uint16_t)(used_idx(q) - q->used_seen) < count) {
		struct pollfd p = {.fd = s->d.irq.fd, .events = POLLIN};

		le16_put(&q->avail->ring[q->size], (uint16_t)(q->used_seen + count - 1)); /* used_event */
		atomic_thread_fence(memory_order_seq_cst);
		if ((uint16_t)(used_idx(q) - q->used_seen) >= count)
			break;
		s->interrupts_waited++;
		if (poll(&p, 1, DEADLINE_MS) != 1)
			fail_msg("an interrupt or a kick was lost: queue %u, used %u, wanted %u more", queue,
				 used_idx(q), count);
		driver_interrupts(&s->d);
		driver_write(&s->d, REG_ACK, driver_read(&s->d, REG_ISR));
	}
}

static void offer_buffer(struct stress *s, uint16_t i)
{
	driver_desc(&s->d.queues[RX], i, RECEIVED + i * 0x1000u, BUFFER, VIRTQ_DESC_F_WRITE, 0);
	offer(s, RX, i);
}

static void send_frame(struct stress *s, unsigned number, uint32_t bytes)
{
	uint16_t slot = number % 8;
	uint8_t *p = driver_ptr(&s->d, SENT + slot * 0x2000u, HEADER + FRAME);

	memset(p, 0, HEADER);
	for (uint32_t i = 0; i < bytes; i++)
		p[HEADER + i] = (uint8_t)(number + i * 3);
	driver_desc(&s->d.queues[TX], slot, SENT + slot * 0x2000u, HEADER + bytes, 0, 0);
	offer(s, TX, slot);
}

/* The echo of a frame, out of as many buffers as it took, which are offered again. */
static void receive(struct stress *s, unsigned number, uint32_t bytes)
{
	struct driver_queue *q = &s->d.queues[RX];
	unsigned at = 0, have = 0, buffers = (HEADER + bytes + BUFFER - 1) / BUFFER;

	/* Whoever sees the first of a frame's buffers sees all of them. */
	for (unsigned spin = 0; spin < 20000 && have == 0; spin++)
		have = (uint16_t)(used_idx(q) - q->used_seen);
	if (have)
		assert_in_range(buffers, 1, have);
	wait_used(s, RX, buffers);
	for (unsigned b = 0; b < buffers; b++) {
		uint32_t len, head = driver_take(q, &len);
		const uint8_t *p = driver_ptr(&s->d, RECEIVED + head * 0x1000u, BUFFER);

		if (b == 0)
			assert_int_equal(load_le16(p + 10), buffers);
		for (uint32_t i = b ? 0 : HEADER; i < len; i++, at++)
			if (p[i] != (uint8_t)(number + at * 3))
				fail_msg("frame %u, byte %u", number, at);
		offer_buffer(s, (uint16_t)head);
	}
	assert_int_equal(at, bytes);
}

static void echoes(bool hold_too, const struct rate_config *rate, unsigned total)
{
	static struct stress s;

	memset(&s, 0, sizeof(s));
	s.hold_too = hold_too;
	stress_start(&s, rate);
	assert_true(driver_start(&s.d, FEATURES, ENTRIES));
	for (uint16_t i = 0; i < 32; i++)
		offer_buffer(&s, i);
	for (unsigned round = 0; round < total; round++) {
		unsigned count = 1 + round % 8;

		for (unsigned i = 0; i < count; i++)
			send_frame(&s, round + i, 60 + (round * 7 + i * 131) % (FRAME - 60));
		for (unsigned i = 0; i < count; i++)
			receive(&s, round + i, 60 + (round * 7 + i * 131) % (FRAME - 60));
		wait_used(&s, TX, count);
		s.d.queues[TX].used_seen = (uint16_t)(s.d.queues[TX].used_seen + count);
	}
	stress_stop(&s);
	/* The test is one only if the driver did sleep, and did leave kicks out. */
	assert_true(s.interrupts_waited > 0);
	assert_true(s.kicks_saved > 0);
}

TEST(notifications)
{
	echoes(false, &(struct rate_config){0}, rounds(1500));
}

TEST(held_again_and_again)
{
	echoes(true, &(struct rate_config){0}, rounds(500));
}

TEST(limited)
{
	echoes(true, &(struct rate_config){.ops_per_s = 4000}, rounds(100));
}

/* Resets at any moment of a flood from both sides. */
TEST(resets)
{
	static struct stress s;
	unsigned total = rounds(400);

	memset(&s, 0, sizeof(s));
	s.flood = true;
	stress_start(&s, &(struct rate_config){0});
	for (unsigned round = 0; round < total; round++) {
		uint8_t *data = driver_ptr(&s.d, RECEIVED, 32 * 0x1000);

		assert_true(driver_start(&s.d, FEATURES, ENTRIES));
		for (uint16_t i = 0; i < 32; i++)
			offer_buffer(&s, i);
		for (unsigned i = 0; i < 8; i++)
			send_frame(&s, i, 60);
		for (unsigned spin = 0; spin < round % 50 && used_idx(&s.d.queues[RX]) == 0; spin++)
			(void)driver_read(&s.d, REG_ISR);
		driver_write(&s.d, REG_STAT, 0);
		memset(data, 0x77, 32 * 0x1000);
		for (unsigned i = 0; i < 3; i++)
			(void)driver_read(&s.d, REG_ISR);
		for (unsigned i = 0; i < 32 * 0x1000; i++)
			if (data[i] != 0x77)
				fail_msg("written after the reset: byte %u in round %u", i, round);
	}
	stress_stop(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(notifications),
		cmocka_unit_test(held_again_and_again),
		cmocka_unit_test(limited),
		cmocka_unit_test(resets),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
