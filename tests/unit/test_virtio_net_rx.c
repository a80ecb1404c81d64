/* SPDX-License-Identifier: Apache-2.0 */
/* Receiving: frames of any length reach buffers of any shape whole, and none is lost for want of buffers that come later. */
#include "tests/unit/net_fixture.h"

/* Where buffer @i lies. */
static uint64_t buffer_at(unsigned i)
{
	return DATA + i * 0x20000u;
}

/* Offer buffer @i: @bytes in @parts descriptors, of which it takes the numbers from i * parts. */
static void offer_buffer(struct fixture *f, unsigned i, uint32_t bytes, unsigned parts)
{
	struct driver_queue *q = &f->d.queues[RX];
	uint32_t each = bytes / parts;
	uint16_t head = (uint16_t)(i * parts);

	memset(driver_ptr(&f->d, buffer_at(i), bytes + 8), 0xee, bytes + 8);
	for (uint16_t p = 0; p < parts; p++) {
		bool last = p + 1u == parts;

		driver_desc(q, (uint16_t)(head + p), buffer_at(i) + p * each, last ? bytes - p * each : each,
			    VIRTQ_DESC_F_WRITE | (last ? 0 : VIRTQ_DESC_F_NEXT), (uint16_t)(head + p + 1));
	}
	driver_offer(q, head);
}

/* Take the next frame out of the used buffers, of @parts descriptors each, into f->in; its header must name their number.
 * Return: bytes with the header, -1 when there is none. */
static ssize_t take_frame(struct fixture *f, unsigned parts)
{
	struct driver_queue *q = &f->d.queues[RX];
	size_t at = 0;
	unsigned buffers = 0, number = 1;

	if (le16_get_acquire(&q->used->idx) == q->used_seen)
		return -1;
	while (buffers < number) {
		uint32_t len, head = driver_take(q, &len);

		assert_int_not_equal(head, UINT32_MAX); /* all of a frame's buffers are there at once */
		memcpy(f->in + at, driver_ptr(&f->d, buffer_at(head / parts), len), len);
		/* Nothing behind what it says, unless a frame was there before that was dropped (virtio 1.2,
		 * 2.7.8.2). */
		if (stats(f).rx_dropped_long == 0)
			assert_int_equal(*(uint8_t *)driver_ptr(&f->d, buffer_at(head / parts) + len, 1),
					 0xee);
		if (buffers == 0)
			number = load_le16(f->in + 10);
		at += len;
		buffers++;
	}
	assert_int_equal(buffers, number);
	return (ssize_t)at;
}

static void assert_frame(struct fixture *f, uint32_t bytes)
{
	assert_memory_equal(f->in + HEADER, f->out + HEADER, bytes - HEADER);
}

static void one_buffer(void **state)
{
	struct fixture *f = *state;
	static const struct {
		uint32_t frame, buffer;
		unsigned parts;
	} rows[] = {{72, 1526, 1},
		    {1526, 1526, 1},
		    {26, 26, 1},
		    {1526, 1526, 2},
		    {1500, 1526, 50},
		    {72, 72, 36},
		    {MESSAGE_MAX, MESSAGE_MAX, 19}};

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		assert_true(driver_start(&f->d, VIRTIO_FEATURE_EVENT_IDX, 64));
		offer_buffer(f, 0, rows[i].buffer, rows[i].parts);
		driver_kick(&f->d, RX);
		driver_loop(&f->d);
		driver_interrupts(&f->d);
		peer_write(f, rows[i].frame);
		assert_true(driver_wait(&f->d, RX, 1));
		assert_int_equal(take_frame(f, rows[i].parts), rows[i].frame);
		assert_int_equal(load_le16(f->in + 10), 1);
		assert_frame(f, rows[i].frame);
		assert_int_equal(driver_interrupts(&f->d), 1);
		assert_int_equal(stats(f).rx_packets, i + 1);
	}
	assert_int_equal(stats(f).rx_dropped_long, 0);
}

/* Without merging a frame has one buffer; one that is too small stays for the next frame. */
static void too_long_for_one_buffer(void **state)
{
	struct fixture *f = *state;

	assert_true(driver_start(&f->d, 0, 64));
	offer_buffer(f, 0, 1526, 2);
	offer_buffer(f, 1, 1526, 2);
	driver_kick(&f->d, RX);
	peer_write(f, 1527);
	peer_write(f, 1526);
	assert_true(driver_wait(&f->d, RX, 1));
	assert_int_equal(take_frame(f, 2), 1526);
	assert_frame(f, 1526);
	assert_int_equal(stats(f).rx_dropped_long, 1);
	assert_int_equal(stats(f).rx_packets, 1);
	assert_int_equal(stats(f).rx_bytes, 1526 - HEADER);
}

static void merged_buffers(void **state)
{
	struct fixture *f = *state;
	static const struct {
		uint32_t frame, buffer;
		unsigned parts, used;
	} rows[] = {{1526, 1526, 1, 1}, {1527, 1526, 1, 2}, {3000, 1000, 1, 3},	  {3001, 1000, 1, 4},
		    {9014, 1526, 2, 6}, {26, 12, 2, 3},	    {65000, 1526, 1, 43}, {60, 12, 12, 5}};

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		assert_true(driver_start(&f->d, MERGEABLE | VIRTIO_FEATURE_EVENT_IDX, 256));
		for (unsigned b = 0; b < rows[i].used + 3; b++)
			offer_buffer(f, b, rows[i].buffer, rows[i].parts);
		driver_kick(&f->d, RX);
		peer_write(f, rows[i].frame);
		assert_true(driver_wait(&f->d, RX, 1));
		assert_int_equal(take_frame(f, rows[i].parts), rows[i].frame);
		assert_int_equal(load_le16(f->in + 10), rows[i].used);
		assert_frame(f, rows[i].frame);
		/* The buffers that are left serve the next one. */
		peer_write(f, 26);
		assert_true(driver_wait(&f->d, RX, 1));
		assert_int_equal(take_frame(f, rows[i].parts), 26);
	}
	assert_int_equal(stats(f).rx_dropped_long, 0);
}

/* A burst of frames, more than a round, into a ring that is refilled. */
static void a_burst(void **state)
{
	struct fixture *f = *state;
	unsigned sent = 0, got = 0, offered = 0;

	assert_true(driver_start(&f->d, MERGEABLE | VIRTIO_FEATURE_EVENT_IDX, 64));
	for (; offered < 64; offered++)
		offer_buffer(f, offered, 700, 1);
	driver_kick(&f->d, RX);
	for (unsigned loops = 0; got < 300 && loops < 20000; loops++) {
		store_le32(f->out + HEADER, sent);
		if (sent < 300 && write(f->peer, f->out, 100 + sent * 7) > 0)
			sent++;
		driver_loop(&f->d);
		for (;;) {
			uint16_t before = f->d.queues[RX].used_seen;
			ssize_t n = take_frame(f, 1);

			if (n < 0)
				break;
			assert_int_equal(load_le32(f->in + HEADER), got);
			assert_int_equal(n, 100 + got * 7);
			assert_memory_equal(f->in + HEADER + 4, f->out + HEADER + 4, (size_t)n - HEADER - 4);
			got++;
			/* They come back in the order of the ring. */
			for (unsigned i = (uint16_t)(f->d.queues[RX].used_seen - before); i; i--)
				offer_buffer(f, offered++ % 64, 700, 1);
		}
		driver_kick(&f->d, RX);
	}
	assert_int_equal(got, 300);
	assert_int_equal(stats(f).rx_dropped_long, 0);
}

/* Without buffers frames stay in the tap. */
static void no_buffers(void **state)
{
	struct fixture *f = *state;

	assert_true(driver_start(&f->d, VIRTIO_FEATURE_EVENT_IDX, 64));
	peer_write(f, 100);
	for (unsigned i = 0; i < 5; i++)
		driver_loop(&f->d);
	assert_int_equal(stats(f).rx_waits, 1);
	offer_buffer(f, 0, 2000, 1);
	driver_kick(&f->d, RX);
	assert_true(driver_wait(&f->d, RX, 1));
	assert_int_equal(take_frame(f, 1), 100);
	peer_write(f, 200);
	for (unsigned i = 0; i < 5; i++)
		driver_loop(&f->d);
	offer_buffer(f, 1, 2000, 1);
	/* A driver kicks when it was asked to: at the index of this buffer. */
	assert_int_equal(le16_get((le16_t *)(void *)&f->d.queues[RX].used->ring[64]), 1);
	driver_kick(&f->d, RX);
	assert_true(driver_wait(&f->d, RX, 1));
	assert_int_equal(take_frame(f, 1), 200);
	/* It looked at the tap meanwhile, and stops doing so: no round is spent on frames that have no place. */
	offer_buffer(f, 2, 2000, 1);
	driver_kick(&f->d, RX);
	driver_loop(&f->d);
	peer_write(f, 300);
	peer_write(f, 400);
	assert_true(driver_wait(&f->d, RX, 1));
	for (unsigned i = 0; i < 5; i++)
		driver_loop(&f->d);
	assert_int_equal(stats(f).rx_waits, 4);
}

/* A frame that finds two of its six buffers waits for the others, and asks for a kick at the third. */
static void a_late_frame(void **state)
{
	struct fixture *f = *state;

	assert_true(driver_start(&f->d, MERGEABLE | VIRTIO_FEATURE_EVENT_IDX, 64));
	offer_buffer(f, 0, 1000, 1);
	offer_buffer(f, 1, 1000, 1);
	driver_kick(&f->d, RX);
	peer_write(f, 5900);
	peer_write(f, 100);
	for (unsigned i = 0; i < 5; i++)
		driver_loop(&f->d);
	assert_int_equal(stats(f).rx_packets, 0);
	for (unsigned b = 2; b < 7; b++) {
		assert_int_equal(le16_get((le16_t *)(void *)&f->d.queues[RX].used->ring[64]), b);
		offer_buffer(f, b, 1000, 1);
		driver_kick(&f->d, RX);
		driver_loop(&f->d);
		driver_loop(&f->d);
		assert_int_equal(stats(f).rx_packets, b < 5 ? 0 : b - 4);
	}
	assert_int_equal(take_frame(f, 1), 5900);
	assert_int_equal(load_le16(f->in + 10), 6);
	assert_frame(f, 5900);
	assert_int_equal(take_frame(f, 1), 100);
	assert_frame(f, 100);
	assert_int_equal(stats(f).rx_dropped_long, 0);
}

/* One that no ring of this driver can hold is dropped, and those behind it get through. */
static void a_frame_that_never_fits(void **state)
{
	struct fixture *f = *state;

	assert_true(driver_start(&f->d, MERGEABLE, 4));
	for (unsigned b = 0; b < 4; b++)
		offer_buffer(f, b, 1000, 1);
	driver_kick(&f->d, RX);
	peer_write(f, 4001);
	peer_write(f, 4000);
	assert_true(driver_wait(&f->d, RX, 4));
	assert_int_equal(take_frame(f, 1), 4000);
	assert_frame(f, 4000);
	assert_int_equal(stats(f).rx_dropped_long, 1);
	/* The same when it waited before the ring was full. */
	offer_buffer(f, 0, 1000, 1);
	driver_kick(&f->d, RX);
	peer_write(f, 4001);
	peer_write(f, 300);
	driver_loop(&f->d);
	for (unsigned b = 1; b < 4; b++)
		offer_buffer(f, b, 1000, 1);
	driver_kick(&f->d, RX);
	assert_true(driver_wait(&f->d, RX, 1));
	assert_int_equal(take_frame(f, 1), 300);
	assert_int_equal(stats(f).rx_dropped_long, 2);
}

static void frames_beyond_all_bounds(void **state)
{
	struct fixture *f = *state;

	for (unsigned i = 0; i < 2; i++) {
		assert_true(driver_start(&f->d, i ? MERGEABLE : 0, 64));
		offer_buffer(f, 0, MESSAGE_MAX + 8, 2); /* it would even fit */
		offer_buffer(f, 1, 1000, 2);
		driver_kick(&f->d, RX);
		peer_write(f, MESSAGE_MAX + 1);
		peer_write(f, 5); /* no header: no tap does this */
		peer_write(f, 100);
		assert_true(driver_wait(&f->d, RX, 1));
		assert_int_equal(take_frame(f, 2), 100);
		assert_int_equal(stats(f).rx_dropped_long, i + 1);
		assert_int_equal(stats(f).rx_errors, i + 1);
	}
}

/* Buffers of a great many pieces, more than one read takes. */
static void many_pieces(void **state)
{
	struct fixture *f = *state;

	assert_true(driver_start(&f->d, MERGEABLE, 256));
	for (unsigned b = 0; b < 4; b++)
		offer_buffer(f, b, 64, 64);
	driver_kick(&f->d, RX);
	peer_write(f, 256);
	peer_write(f, 257);
	assert_true(driver_wait(&f->d, RX, 4));
	assert_int_equal(take_frame(f, 64), 256);
	assert_frame(f, 256);
}

/* A reset forgets the frame that waited. */
static void reset_while_a_frame_waits(void **state)
{
	struct fixture *f = *state;

	assert_true(driver_start(&f->d, MERGEABLE, 64));
	offer_buffer(f, 0, 1000, 1);
	driver_kick(&f->d, RX);
	peer_write(f, 5000);
	driver_loop(&f->d);
	driver_write(&f->d, REG_STAT, 0);
	assert_true(driver_start(&f->d, MERGEABLE, 64));
	peer_write(f, 300);
	for (unsigned b = 0; b < 8; b++)
		offer_buffer(f, b, 1000, 1);
	driver_kick(&f->d, RX);
	assert_true(driver_wait(&f->d, RX, 1));
	assert_int_equal(take_frame(f, 1), 300);
}

#define NEEDS_CSUM VIRTIO_NET_HDR_F_NEEDS_CSUM
#define DATA_VALID VIRTIO_NET_HDR_F_DATA_VALID

static const struct offload_row {
	const char *what;
	uint64_t features;
	uint8_t flags, type;
	bool passes;
	uint8_t flags_out;
} offload_rows[] = {
	{"nothing", 0, 0, 0, true, 0},
	{"a checksum to do", OFFLOADS_CSUM, NEEDS_CSUM, 0, true, NEEDS_CSUM},
	{"a checksum to do, not taken", 0, NEEDS_CSUM, 0, false, 0},
	{"a checksum that is right", OFFLOADS_CSUM, DATA_VALID, 0, true, DATA_VALID},
	{"a checksum that is right, not taken", 0, DATA_VALID, 0, true, 0},
	{"segments", OFFLOADS_TSO, NEEDS_CSUM, VIRTIO_NET_HDR_GSO_TCPV4, true, NEEDS_CSUM},
	{"segments with ECN", OFFLOADS_TSO, NEEDS_CSUM, VIRTIO_NET_HDR_GSO_TCPV6 | VIRTIO_NET_HDR_GSO_ECN,
	 true, NEEDS_CSUM},
	{"segments, not taken", OFFLOADS_CSUM, NEEDS_CSUM, VIRTIO_NET_HDR_GSO_TCPV4, false, 0},
	{"segments of IPv6, not taken", OFFLOADS_CSUM | BIT(VIRTIO_NET_F_GUEST_TSO4), NEEDS_CSUM,
	 VIRTIO_NET_HDR_GSO_TCPV6, false, 0},
	{"ECN, not taken", OFFLOADS_CSUM | BIT(VIRTIO_NET_F_GUEST_TSO4), NEEDS_CSUM,
	 VIRTIO_NET_HDR_GSO_TCPV4 | VIRTIO_NET_HDR_GSO_ECN, false, 0},
	{"UDP", OFFLOADS_TSO, NEEDS_CSUM, VIRTIO_NET_HDR_GSO_UDP, false, 0},
	{"segments without the feature of checksums", BIT(VIRTIO_NET_F_GUEST_TSO4), 0,
	 VIRTIO_NET_HDR_GSO_TCPV4, false, 0},
};

static void offloads_of_the_network(void **state)
{
	struct fixture *f = *state;

	for (size_t i = 0; i < ARRAY_SIZE(offload_rows); i++) {
		const struct offload_row *row = &offload_rows[i];
		uint64_t dropped = stats(f).rx_dropped_offload;

		assert_true(driver_start(&f->d, row->features, 64));
		offer_buffer(f, 0, 2000, 1);
		f->out[0] = row->flags;
		f->out[1] = row->type;
		driver_kick(&f->d, RX);
		peer_write(f, 500);
		for (unsigned n = 0; n < 3; n++)
			driver_loop(&f->d);
		if (stats(f).rx_dropped_offload != dropped + !row->passes ||
		    take_frame(f, 1) != (row->passes ? 500 : -1))
			fail_msg("%s: wrong", row->what);
		if (row->passes)
			assert_true(f->in[0] == row->flags_out && f->in[1] == row->type);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(one_buffer),
		T(too_long_for_one_buffer),
		T(merged_buffers),
		T(a_burst),
		T(no_buffers),
		T(a_late_frame),
		T(a_frame_that_never_fits),
		T(frames_beyond_all_bounds),
		T(many_pieces),
		T(reset_while_a_frame_waits),
		T(offloads_of_the_network),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
