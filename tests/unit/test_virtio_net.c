/* SPDX-License-Identifier: Apache-2.0 */
/* The network device: what it tells the guest, what it does with the guest's frames, and when it stands still. */
#include <sys/epoll.h>
#include <time.h>

#include "tests/unit/net_fixture.h"

/* Offer the first bytes of f->out as one frame of @parts descriptors from @head. */
static void offer_frame(struct fixture *f, uint16_t head, uint32_t bytes, unsigned parts)
{
	struct driver_queue *q = &f->d.queues[TX];
	uint64_t at = DATA + head * 0x20000u;
	uint32_t each = bytes / parts;

	memcpy(driver_ptr(&f->d, at, bytes), f->out, bytes);
	for (uint16_t i = 0; i < parts; i++) {
		bool last = i + 1u == parts;

		driver_desc(q, (uint16_t)(head + i), at + i * each, last ? bytes - i * each : each,
			    last ? 0 : VIRTQ_DESC_F_NEXT, (uint16_t)(head + i + 1));
	}
	driver_offer(q, head);
}

static void set_header(struct fixture *f, uint8_t flags, uint8_t type, uint16_t hdr_len, uint16_t size,
		       uint16_t start, uint16_t offset)
{
	f->out[0] = flags;
	f->out[1] = type;
	store_le16(f->out + 2, hdr_len);
	store_le16(f->out + 4, size);
	store_le16(f->out + 6, start);
	store_le16(f->out + 8, offset);
	store_le16(f->out + 10, 0);
}

/* Send a frame and take it back from the queue. Return: bytes at the tap, -1 when it was dropped. */
static ssize_t transfer(struct fixture *f, uint32_t bytes, unsigned parts)
{
	uint32_t len = 77;

	offer_frame(f, 0, bytes, parts);
	driver_kick(&f->d, TX);
	assert_true(driver_wait(&f->d, TX, 1));
	assert_int_equal(driver_take(&f->d.queues[TX], &len), 0);
	assert_int_equal(len, 0);
	return peer_read(f);
}

static void configuration(void **state)
{
	struct fixture *f = *state;
	uint64_t offered;

	driver_write(&f->d, REG_FEATURES_SEL, 0);
	offered = driver_read(&f->d, REG_FEATURES);
	assert_true(offered & BIT(VIRTIO_NET_F_MTU));
	assert_true((offered & OFFLOADS_TSO) == OFFLOADS_TSO && (offered & MERGEABLE));
	assert_false(offered & BIT(VIRTIO_NET_F_CTRL_VQ));
	assert_int_equal(driver_read(&f->d, REG_CONFIG), 0x03020102);
	assert_int_equal(driver_read(&f->d, REG_CONFIG + 4), 0x00010504); /* link up */
	assert_int_equal(driver_read(&f->d, REG_CONFIG + 8), 1500 << 16 | 1);
	assert_int_equal(driver_read(&f->d, REG_CONFIG + 12), 0);
	assert_true(driver_start(&f->d, OFFLOADS_TSO | MERGEABLE, 64));
	driver_write(&f->d, REG_CONFIG, 0); /* not the driver's */
	assert_int_equal(driver_read(&f->d, REG_CONFIG), 0x03020102);
	assert_false(broken(f));
	driver_write(&f->d, REG_CONFIG + 12, 0);
	assert_true(broken(f));
}

static void no_mtu_no_feature(void **state)
{
	static const struct virtio_net_options options = {.mac = {2}};
	struct fixture *f = *state;

	close_net(f);
	open_net(f, &options);
	driver_write(&f->d, REG_FEATURES_SEL, 0);
	assert_false(driver_read(&f->d, REG_FEATURES) & BIT(VIRTIO_NET_F_MTU));
}

TEST(default_macs)
{
	uint8_t a[6], b[6];
	/* printf web1/0 | sha256sum: ee1d7ee61d80.., with the two bits set in the first byte */
	static const uint8_t web1[6] = {0xee, 0x1d, 0x7e, 0xe6, 0x1d, 0x80};

	virtio_net_default_mac("web1", 0, a);
	assert_memory_equal(a, web1, 6);
	virtio_net_default_mac("web1", 1, b);
	assert_memory_not_equal(a, b, 6);
	virtio_net_default_mac("web2", 0, b);
	assert_memory_not_equal(a, b, 6);
	for (unsigned i = 0; i < 100; i++) {
		virtio_net_default_mac("some-vm", i, a);
		assert_int_equal(a[0] & 3, 2);
	}
}

static void frames_go_out(void **state)
{
	struct fixture *f = *state;
	static const struct {
		uint32_t bytes;
		unsigned parts;
	} rows[] = {{HEADER + 60, 1},	 {HEADER + 14, 2},  {HEADER + 1514, 2},
		    {HEADER + 1514, 64}, {HEADER + 60, 36}, /* a header of six parts */
		    {MESSAGE_MAX, 17}};
	uint64_t bytes = 0;

	assert_true(driver_start(&f->d, VIRTIO_FEATURE_EVENT_IDX, 64));
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		driver_interrupts(&f->d);
		le16_put(&f->d.queues[TX].avail->ring[64], f->d.queues[TX].used_seen);
		assert_int_equal(transfer(f, rows[i].bytes, rows[i].parts), rows[i].bytes);
		assert_memory_equal(f->in, f->out, rows[i].bytes);
		assert_int_equal(driver_interrupts(&f->d), 1);
		bytes += rows[i].bytes - HEADER;
		assert_int_equal(stats(f).tx_packets, i + 1);
		assert_int_equal(stats(f).tx_bytes, bytes);
	}
	assert_int_equal(stats(f).virtio.requests, ARRAY_SIZE(rows));
}

static void bad_lengths_are_dropped(void **state)
{
	struct fixture *f = *state;

	assert_true(driver_start(&f->d, 0, 64));
	assert_int_equal(transfer(f, HEADER, 1), -1);
	assert_int_equal(transfer(f, HEADER + 13, 1), -1);
	assert_int_equal(transfer(f, MESSAGE_MAX + 1, 1), -1);
	assert_int_equal(stats(f).tx_dropped_length, 3);
	/* All of RAM many times. */
	for (uint16_t i = 0; i < 64; i++)
		driver_desc(&f->d.queues[TX], i, 0, DRIVER_RAM, i == 63 ? 0 : VIRTQ_DESC_F_NEXT,
			    (uint16_t)(i + 1));
	driver_send(&f->d, TX, 0);
	assert_true(driver_wait(&f->d, TX, 1));
	assert_int_equal(stats(f).tx_dropped_length, 4);
	assert_int_equal(stats(f).tx_packets, 0);
	assert_false(broken(f));
}

#define NEEDS_CSUM VIRTIO_NET_HDR_F_NEEDS_CSUM
#define TCP4	   VIRTIO_NET_HDR_GSO_TCPV4
#define TCP6	   VIRTIO_NET_HDR_GSO_TCPV6
#define ECN	   VIRTIO_NET_HDR_GSO_ECN
#define ALL	   OFFLOADS_TSO

/* What the guest writes into the header of a frame of 200 bytes, and what the kernel gets of it. */
static const struct header_row {
	const char *what;
	uint64_t features;
	uint8_t flags, type;
	uint16_t hdr_len, size, start, offset;
	bool passes;
	uint16_t hdr_len_out;
	uint8_t flags_out;
} header_rows[] = {
	{"a checksum", ALL, NEEDS_CSUM, 0, 0, 0, 34, 16, true, 0, NEEDS_CSUM},
	{"not negotiated", 0, NEEDS_CSUM, 0, 0, 0, 34, 16, false, 0, 0},
	{"unknown flags", ALL, 0xfe, 0, 0, 0, 34, 16, true, 0, 0},
	{"checksum in the Ethernet header", ALL, NEEDS_CSUM, 0, 0, 0, 13, 16, false, 0, 0},
	{"checksum at the end", ALL, NEEDS_CSUM, 0, 0, 0, 182, 16, true, 0, NEEDS_CSUM},
	{"checksum over the end", ALL, NEEDS_CSUM, 0, 0, 0, 183, 16, false, 0, 0},
	{"checksum that wraps", ALL, NEEDS_CSUM, 0, 0, 0, 34, 0xffff, false, 0, 0},
	{"start beyond the frame", ALL, NEEDS_CSUM, 0, 0, 0, 0xffff, 0xffff, false, 0, 0},
	{"hdr_len without segments", ALL, 0, 0, 0xffff, 77, 0, 0, true, 0, 0},
	{"segments", ALL, NEEDS_CSUM, TCP4, 54, 100, 34, 16, true, 54, NEEDS_CSUM},
	{"segments of IPv6", ALL, NEEDS_CSUM, TCP6, 74, 100, 54, 16, true, 74, NEEDS_CSUM},
	{"segments with ECN", ALL, NEEDS_CSUM, TCP4 | ECN, 54, 100, 34, 16, true, 54, NEEDS_CSUM},
	{"segments without a checksum", ALL, 0, TCP4, 54, 100, 34, 16, false, 0, 0},
	{"segments of nothing", ALL, NEEDS_CSUM, TCP4, 54, 0, 34, 16, false, 0, 0},
	{"segments of 7 bytes", ALL, NEEDS_CSUM, TCP4, 54, 7, 34, 16, false, 0, 0},
	{"hdr_len beyond the frame", ALL, NEEDS_CSUM, TCP4, 201, 100, 34, 16, true, 0, NEEDS_CSUM},
	{"only ECN", ALL, NEEDS_CSUM, ECN, 54, 100, 34, 16, false, 0, 0},
	{"UDP fragments", ALL, NEEDS_CSUM, VIRTIO_NET_HDR_GSO_UDP, 42, 100, 34, 6, false, 0, 0},
	{"an unknown type", ALL, NEEDS_CSUM, 0x7f, 42, 100, 34, 6, false, 0, 0},
	{"segments not negotiated", OFFLOADS_CSUM, NEEDS_CSUM, TCP4, 54, 100, 34, 16, false, 0, 0},
	{"segments without the feature of checksums", BIT(VIRTIO_NET_F_HOST_TSO4), NEEDS_CSUM, TCP4, 54, 100,
	 34, 16, false, 0, 0},
	{"IPv6 not negotiated", OFFLOADS_CSUM | BIT(VIRTIO_NET_F_HOST_TSO4), NEEDS_CSUM, TCP6, 74, 100, 54,
	 16, false, 0, 0},
	{"ECN not negotiated", OFFLOADS_CSUM | BIT(VIRTIO_NET_F_HOST_TSO4), NEEDS_CSUM, TCP4 | ECN, 54, 100,
	 34, 16, false, 0, 0},
};

static void headers_are_checked(void **state)
{
	struct fixture *f = *state;

	for (size_t i = 0; i < ARRAY_SIZE(header_rows); i++) {
		const struct header_row *row = &header_rows[i];
		uint64_t dropped = stats(f).tx_dropped_header;
		bool segments = row->passes && row->type;
		ssize_t n;

		assert_true(driver_start(&f->d, row->features, 64));
		set_header(f, row->flags, row->type, row->hdr_len, row->size, row->start, row->offset);
		store_le16(f->out + 10, 5); /* num_buffers says nothing on this way */
		n = transfer(f, HEADER + 200, 2);
		if (n != (row->passes ? (ssize_t)HEADER + 200 : -1))
			fail_msg("%s: %zd bytes at the tap", row->what, n);
		assert_int_equal(stats(f).tx_dropped_header, dropped + !row->passes);
		if (!row->passes)
			continue;
		if (f->in[0] != row->flags_out || f->in[1] != (segments ? row->type : 0) ||
		    load_le16(f->in + 2) != row->hdr_len_out ||
		    load_le16(f->in + 4) != (segments ? row->size : 0) ||
		    load_le16(f->in + 6) != (row->flags_out ? row->start : 0) ||
		    load_le16(f->in + 8) != (row->flags_out ? row->offset : 0) || load_le16(f->in + 10))
			fail_msg("%s: a wrong header reached the tap", row->what);
		assert_memory_equal(f->in + HEADER, f->out + HEADER, 200);
	}
	assert_false(broken(f));
}

/* What breaks the device: (queue, bytes, flags). */
static const struct hostile_row {
	const char *what;
	unsigned queue;
	uint32_t len;
	uint16_t flags;
} hostile_rows[] = {
	{"a frame without a header", TX, 11, 0},
	{"a frame for writing", TX, 100, VIRTQ_DESC_F_WRITE},
	{"a frame outside RAM", TX, DRIVER_RAM, 0},
	{"an empty frame", TX, 0, 0},
	{"a receive buffer for reading", RX, 2000, 0},
	{"a receive buffer without room", RX, 11, VIRTQ_DESC_F_WRITE},
	{"a receive buffer outside RAM", RX, DRIVER_RAM, VIRTQ_DESC_F_WRITE},
};

static void hostile_chains(void **state)
{
	struct fixture *f = *state;

	for (size_t i = 0; i < ARRAY_SIZE(hostile_rows); i++) {
		const struct hostile_row *row = &hostile_rows[i];

		assert_true(driver_start(&f->d, MERGEABLE, 64));
		driver_interrupts(&f->d);
		driver_desc(&f->d.queues[row->queue], 0, DATA, row->len, row->flags, 0);
		driver_send(&f->d, row->queue, 0);
		driver_loop(&f->d);
		if (!broken(f))
			fail_msg("%s: not broken", row->what);
		assert_int_equal(driver_interrupts(&f->d), 1);
		assert_int_equal(stats(f).virtio.hostile, i + 1);
		assert_int_equal(le16_get(&f->d.queues[row->queue].used->idx), 0);
		assert_int_equal(peer_read(f), -1);
		/* It stands still whatever comes. */
		peer_write(f, 100);
		driver_loop(&f->d);
		driver_write(&f->d, REG_STAT, 0);
		assert_int_equal(driver_read(&f->d, REG_STAT), 0);
	}
}

/* Frames of one kick are taken in rounds, so that others have their turn. */
static void rounds_are_bounded(void **state)
{
	struct fixture *f = *state;
	struct driver_queue *q = &f->d.queues[TX];
	unsigned taken = 0;

	assert_true(driver_start(&f->d, 0, 256));
	for (unsigned i = 0; i < 200; i++)
		offer_frame(f, 0, HEADER + 60, 1);
	driver_kick(&f->d, TX);
	for (unsigned i = 0; i < 50 && taken < 200; i++) {
		uint16_t before = le16_get_acquire(&q->used->idx);

		driver_loop(&f->d);
		assert_in_range(le16_get_acquire(&q->used->idx) - before, 0, 64);
		while (peer_read(f) > 0)
			taken++;
	}
	assert_int_equal(taken, 200);
}

/* A tap that takes no more: frames wait in the guest's ring, in order, and nothing is lost. */
static void a_full_tap(void **state)
{
	struct fixture *f = *state;
	unsigned expected = 0, loops = 0;

	assert_true(driver_start(&f->d, VIRTIO_FEATURE_EVENT_IDX, 256));
	for (uint16_t i = 0; i < 100; i++) {
		struct driver_queue *q = &f->d.queues[TX];
		uint64_t at = DATA + i * 0x10000u;

		driver_desc(q, i, at, 30000, 0, 0);
		store_le16(driver_ptr(&f->d, at + HEADER + 20, 2), i);
		driver_offer(q, i);
	}
	driver_kick(&f->d, TX);
	for (unsigned i = 0; i < 5; i++)
		driver_loop(&f->d);
	assert_int_equal(stats(f).tx_waits, 1);
	assert_in_range(stats(f).tx_packets, 1, 99);
	/* More kicks do not make it try again. */
	driver_kick(&f->d, TX);
	driver_loop(&f->d);
	assert_int_equal(stats(f).tx_waits, 1);
	while (expected < 100 && loops++ < 10000) {
		if (peer_read(f) < 0) {
			driver_loop(&f->d);
			continue;
		}
		assert_int_equal(load_le16(f->in + HEADER + 20), expected++);
	}
	assert_int_equal(expected, 100);
	assert_true(driver_wait(&f->d, TX, 100));
	assert_int_equal(stats(f).tx_packets, 100);
}

/* A device that is held takes nothing and writes nothing; the release makes up for it. */
static void holding(void **state)
{
	struct fixture *f = *state;
	struct driver_queue *rx = &f->d.queues[RX];

	assert_true(driver_start(&f->d, 0, 64));
	driver_desc(rx, 0, DATA + 0x100000, 2000, VIRTQ_DESC_F_WRITE, 0);
	driver_send(&f->d, RX, 0);
	driver_loop(&f->d);
	virtio_mmio_hold(f->d.mmio);
	peer_write(f, 100);
	offer_frame(f, 0, HEADER + 60, 1);
	driver_kick(&f->d, TX);
	for (unsigned i = 0; i < 5; i++)
		driver_loop(&f->d);
	assert_int_equal(peer_read(f), -1);
	assert_int_equal(le16_get(&rx->used->idx), 0);
	assert_int_equal(*(uint8_t *)driver_ptr(&f->d, DATA + 0x100000 + 50, 1), 0);
	virtio_mmio_release(f->d.mmio);
	assert_true(driver_wait(&f->d, TX, 1));
	assert_true(driver_wait(&f->d, RX, 1));
	assert_int_equal(peer_read(f), HEADER + 60);
}

static int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* 100 frames a second: a tenth of them at once, then one each 10 ms; in both directions apart. */
static void rate_limits(void **state)
{
	static const struct virtio_net_options options = {.mac = {2}, .rate = {.ops_per_s = 100}};
	struct fixture *f = *state;
	struct driver_queue *rx;
	int64_t begin;

	close_net(f);
	open_net(f, &options);
	assert_true(driver_start(&f->d, 0, 64));
	rx = &f->d.queues[RX];
	for (uint16_t i = 0; i < 40; i++) {
		driver_desc(rx, i, DATA + 0x100000 + i * 0x1000u, 2000, VIRTQ_DESC_F_WRITE, 0);
		driver_offer(rx, i);
		peer_write(f, 100);
	}
	begin = now_ms();
	for (unsigned i = 0; i < 40; i++)
		offer_frame(f, 0, HEADER + 60, 1);
	driver_kick(&f->d, TX);
	driver_kick(&f->d, RX);
	assert_true(driver_wait(&f->d, TX, 10));
	assert_true(driver_wait(&f->d, TX, 40));
	assert_true(driver_wait(&f->d, RX, 40));
	assert_in_range(now_ms() - begin, 290, 9000);
	assert_in_range(stats(f).throttled, 2, 200);
	assert_int_equal(stats(f).rx_packets, 40);
	/* A reset while it waits: the next driver is not held up by it. */
	driver_kick(&f->d, TX);
	driver_write(&f->d, REG_STAT, 0);
	assert_true(driver_start(&f->d, 0, 64));
	offer_frame(f, 0, HEADER + 60, 1);
	driver_kick(&f->d, TX);
	assert_true(driver_wait(&f->d, TX, 1));
}

/* The other end goes away: the guest is told, and its frames are dropped. */
static void a_lost_link(void **state)
{
	struct fixture *f = *state;
	uint32_t generation;

	assert_true(driver_start(&f->d, 0, 64));
	generation = driver_read(&f->d, REG_GENERATION);
	driver_loop(&f->d);
	driver_interrupts(&f->d);
	close(f->peer);
	f->peer = -1;
	for (unsigned i = 0; i < 5; i++)
		driver_loop(&f->d);
	assert_false(stats(f).link);
	assert_int_equal(driver_read(&f->d, REG_CONFIG + 4) >> 16, 0);
	assert_int_not_equal(driver_read(&f->d, REG_GENERATION), generation);
	assert_int_equal(driver_interrupts(&f->d), 1);
	assert_int_equal(driver_read(&f->d, REG_ISR), 2);
	assert_int_equal(transfer(f, HEADER + 60, 1), -1);
	assert_int_equal(stats(f).tx_dropped_tap, 1);
	driver_kick(&f->d, RX);
	driver_loop(&f->d);
	assert_int_equal(stats(f).rx_errors, 0);
	assert_true(driver_start(&f->d, 0, 64));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(configuration),
		T(no_mtu_no_feature),
		cmocka_unit_test(default_macs),
		T(frames_go_out),
		T(bad_lengths_are_dropped),
		T(headers_are_checked),
		T(hostile_chains),
		T(rounds_are_bounded),
		T(a_full_tap),
		T(holding),
		T(rate_limits),
		T(a_lost_link),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
