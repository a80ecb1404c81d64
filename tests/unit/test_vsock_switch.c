/* SPDX-License-Identifier: Apache-2.0 */
/* Which packet goes where: refusals, limits, and packets that no honest guest sends. */
#include "vmm/vsock-switch.h"

#include "tests/unit/vsock-device.h"

/* Nobody listens; the guest refuses; a line that is none. */
static void refusals(void **state)
{
	static const char *const lines[] = {"CONNECT\n",
					    "CONNECT x\n",
					    "GET / HTTP/1.1\r\n",
					    "\n",
					    "CONNECT 4294967295\n",
					    "CONNECT 1 2\n",
					    "CONNECT -1\n",
					    "CONNECT 00000000000000000000000000000000000000"};
	struct fixture *f = *state;
	char byte;

	f->host_port = PORT + 1;
	send_op(f, VSOCK_OP_REQUEST, 0);
	assert_int_equal(expect(f, VSOCK_OP_RST, NULL).src_port, PORT + 1);
	assert_int_equal(stats(f).totals.refused, 1);
	f->host = unix_socket(path(f), false);
	host_write(f, "connect 5000\n");
	f->host_port = expect(f, VSOCK_OP_REQUEST, NULL).src_port;
	send_op(f, VSOCK_OP_RST, 0);
	assert_int_equal(host_read(f, &byte, 1), 0);
	assert_int_equal(stats(f).totals.refused, 2);
	for (size_t i = 0; i < ARRAY_SIZE(lines); i++) {
		close(f->host);
		f->host = unix_socket(path(f), false);
		host_write(f, lines[i]);
		if (host_read(f, &byte, 1) > 0)
			fail_msg("line \"%s\"", lines[i]);
	}
	assert_int_equal(stats(f).totals.refused, 2 + ARRAY_SIZE(lines));
	assert_int_equal(stats(f).connections, 0);
	assert_int_equal(stats(f).open, 0);
	/* Without a driver there is nobody to ask. */
	driver_write(&f->d, REG_STAT, 0);
	close(f->host);
	f->host = unix_socket(path(f), false);
	host_write(f, "CONNECT 5000\n");
	assert_int_equal(host_read(f, &byte, 1), 0);
	f->host_port = 0;
}

static void too_many(void **state)
{
	struct fixture *f = *state;
	struct vsock_packet p;

	f->host_port = PORT;
	for (uint32_t i = 0; i < VSOCK_CONNECTIONS_MAX; i++) {
		assert_true(guest_send(&f->g, guest_packet(&f->g, i, PORT, VSOCK_OP_REQUEST), NULL, 0));
		expect(f, VSOCK_OP_RESPONSE, NULL);
	}
	assert_true(guest_send(&f->g, guest_packet(&f->g, 100, PORT, VSOCK_OP_REQUEST), NULL, 0));
	assert_int_equal(expect(f, VSOCK_OP_RST, NULL).dst_port, 100);
	assert_int_equal(stats(f).open, VSOCK_CONNECTIONS_MAX);
	assert_int_equal(stats(f).totals.refused, 1);
	/* Nor for a program. */
	f->host = unix_socket(path(f), false);
	assert_int_equal(host_read(f, &p, 1), 0);
	assert_int_equal(stats(f).totals.refused, 2);
	/* One leaves, one may come. */
	assert_true(guest_send(&f->g, guest_packet(&f->g, 3, PORT, VSOCK_OP_RST), NULL, 0));
	assert_true(guest_send(&f->g, guest_packet(&f->g, 100, PORT, VSOCK_OP_REQUEST), NULL, 0));
	expect(f, VSOCK_OP_RESPONSE, NULL);
}

/* A guest that gives no buffers gets nothing and loses nothing; what it sends waits when it is owed too many RSTs. */
static void no_buffers(void **state)
{
	struct fixture *f = *state;
	struct driver_queue *tx;
	struct vsock_packet p;
	unsigned resets = 0;

	assert_true(guest_start(&f->g, &f->d, 0));
	tx = &f->d.queues[GUEST_TX];
	p = guest_packet(&f->g, GUEST, 77, VSOCK_OP_RW);
	vsock_packet_encode(&p, driver_ptr(&f->d, GUEST_TX_DATA, VSOCK_WIRE_BYTES));
	for (uint16_t i = 0; i < 60; i++) {
		driver_desc(tx, i, GUEST_TX_DATA, VSOCK_WIRE_BYTES, 0, 0);
		driver_offer(tx, i);
	}
	driver_kick(&f->d, GUEST_TX);
	for (unsigned i = 0; i < 20; i++)
		driver_loop(&f->d);
	assert_in_range(le16_get(&tx->used->idx), 1, 59);
	for (uint16_t i = 0; i < GUEST_BUFFERS; i++)
		guest_offer(&f->g, i);
	driver_kick(&f->d, GUEST_RX);
	for (; resets < 60; resets++)
		expect(f, VSOCK_OP_RST, NULL);
	expect_nothing(f);
	assert_int_equal(le16_get(&tx->used->idx), 60);
}

/* What is wrong with a packet, and what comes of it: an RST, nothing, or the end of the device. A connection is open. */
enum outcome { IGNORED, ANSWERED, RESET, BREAKS };

static const struct hostile_row {
	const char *what;
	uint64_t src_cid, dst_cid;
	uint32_t host_port;
	uint32_t len, bytes; /* what it says, what there is */
	uint16_t type, op;
	enum outcome outcome;
	bool violation;
} hostile_rows[] = {
	{"of another guest", 8, 2, PORT, 0, 0, 1, VSOCK_OP_RST, IGNORED, true},
	{"of a CID with high bits", GUEST_CID | 1ull << 32, 2, PORT, 0, 0, 1, VSOCK_OP_RST, IGNORED, true},
	{"of the host", 2, 2, PORT, 4, 4, 1, VSOCK_OP_RW, IGNORED, true},
	{"to nobody", GUEST_CID, 3, PORT, 0, 0, 1, VSOCK_OP_REQUEST, ANSWERED, true},
	{"to a CID with high bits", GUEST_CID, 2 | 1ull << 32, PORT, 4, 4, 1, VSOCK_OP_RW, ANSWERED, true},
	{"an RST to nobody", GUEST_CID, 3, PORT, 0, 0, 1, VSOCK_OP_RST, IGNORED, true},
	{"of type 0", GUEST_CID, 2, PORT, 0, 0, 0, VSOCK_OP_RW, ANSWERED, true},
	{"of type seqpacket", GUEST_CID, 2, PORT, 0, 0, 2, VSOCK_OP_REQUEST, ANSWERED, true},
	{"for no connection", GUEST_CID, 2, PORT + 9, 4, 4, 1, VSOCK_OP_RW, ANSWERED, false},
	{"an RST for no connection", GUEST_CID, 2, PORT + 9, 0, 0, 1, VSOCK_OP_RST, IGNORED, false},
	{"a response for no connection", GUEST_CID, 2, PORT + 9, 0, 0, 1, VSOCK_OP_RESPONSE, ANSWERED, false},
	{"a second request", GUEST_CID, 2, PORT, 0, 0, 1, VSOCK_OP_REQUEST, RESET, true},
	{"a response to its own request", GUEST_CID, 2, PORT, 0, 0, 1, VSOCK_OP_RESPONSE, RESET, true},
	{"no operation", GUEST_CID, 2, PORT, 0, 0, 1, VSOCK_OP_INVALID, RESET, true},
	{"an unknown operation", GUEST_CID, 2, PORT, 0, 0, 1, 8, RESET, true},
	{"more than there is room", GUEST_CID, 2, PORT, VSOCK_BUFFER_BYTES + 1, VSOCK_BUFFER_BYTES + 1, 1,
	 VSOCK_OP_RW, RESET, true},
	{"payload that is not there", GUEST_CID, 2, PORT, 5, 4, 1, VSOCK_OP_RW, BREAKS, false},
	{"4 GiB of it", GUEST_CID, 2, PORT, UINT32_MAX, 4, 1, VSOCK_OP_RW, BREAKS, false},
	{"payload of a request", GUEST_CID, 2, PORT + 9, 1, 0, 1, VSOCK_OP_REQUEST, BREAKS, false},
	{"no payload", GUEST_CID, 2, PORT, 0, 0, 1, VSOCK_OP_RW, IGNORED, false},
	{"less payload than there is", GUEST_CID, 2, PORT, 0, 100, 1, VSOCK_OP_CREDIT_UPDATE, IGNORED, false},
};

static void hostile_packets(void **state)
{
	static const uint8_t data[VSOCK_BUFFER_BYTES + 1];
	struct fixture *f = *state;

	for (size_t i = 0; i < ARRAY_SIZE(hostile_rows); i++) {
		const struct hostile_row *row = &hostile_rows[i];
		struct virtio_vsock_stats before;
		struct vsock_packet p;
		bool broken;

		assert_true(guest_start(&f->g, &f->d, GUEST_BUFFERS));
		guest_connect(f);
		before = stats(f);
		p = guest_packet(&f->g, GUEST, row->host_port, row->op);
		p.src_cid = row->src_cid;
		p.dst_cid = row->dst_cid;
		p.type = row->type;
		p.len = row->len;
		guest_post(&f->g, &p, data, row->bytes);
		for (unsigned round = 0; round < 5; round++)
			driver_loop(&f->d);
		broken = driver_read(&f->d, REG_STAT) & VIRTIO_STATUS_NEEDS_RESET;
		if (broken != (row->outcome == BREAKS))
			fail_msg("%s: %s", row->what, broken ? "broken" : "not broken");
		if (row->outcome == ANSWERED || row->outcome == RESET) {
			struct vsock_packet answer;

			if (!guest_take(&f->g, &answer, NULL, true) || answer.op != VSOCK_OP_RST ||
			    answer.src_cid != row->dst_cid || answer.src_port != row->host_port ||
			    answer.dst_port != GUEST || answer.dst_cid != GUEST_CID)
				fail_msg("%s: not answered with an RST", row->what);
		} else {
			expect_nothing(f);
		}
		if (stats(f).totals.violations - before.totals.violations != row->violation)
			fail_msg("%s: violations", row->what);
		if (stats(f).open != (row->outcome != RESET))
			fail_msg("%s: %u are open", row->what, (unsigned)stats(f).open);
		assert_int_equal(stats(f).virtio.hostile - before.virtio.hostile, broken);
		close(TAKE_FD(f->host));
	}
}

/* Chains that are no packets, and no room for one. */
static void hostile_chains(void **state)
{
	static const struct {
		const char *what;
		unsigned queue;
		uint32_t len;
		uint16_t flags;
	} rows[] = {
		{"half a header", GUEST_TX, 43, 0},
		{"a header for writing", GUEST_TX, 44, VIRTQ_DESC_F_WRITE},
		{"room for half a header", GUEST_RX, 43, VIRTQ_DESC_F_WRITE},
		{"room for no payload", GUEST_RX, 44, VIRTQ_DESC_F_WRITE},
		{"a readable buffer", GUEST_RX, 4096, 0},
		{"a buffer behind RAM", GUEST_RX, DRIVER_RAM, VIRTQ_DESC_F_WRITE},
	};
	struct fixture *f = *state;

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct vsock_packet p;

		assert_true(guest_start(&f->g, &f->d, 0));
		driver_desc(&f->d.queues[rows[i].queue], 0, GUEST_TX_DATA, rows[i].len, rows[i].flags, 0);
		driver_send(&f->d, rows[i].queue, 0);
		if (rows[i].queue == GUEST_RX) {
			/* Looked at when there is something to put in. */
			driver_loop(&f->d);
			assert_int_equal(driver_read(&f->d, REG_STAT), STATUS_UP);
			p = guest_packet(&f->g, GUEST, 9, VSOCK_OP_RW);
			guest_post(&f->g, &p, NULL, 0);
		}
		for (unsigned round = 0; round < 5; round++)
			driver_loop(&f->d);
		if (driver_read(&f->d, REG_STAT) != (STATUS_UP | VIRTIO_STATUS_NEEDS_RESET))
			fail_msg("%s: not broken", rows[i].what);
	}
	/* The CID is read-only; nothing lies behind it. */
	assert_true(guest_start(&f->g, &f->d, 0));
	driver_write(&f->d, REG_CONFIG, 99);
	assert_int_equal(driver_read(&f->d, REG_CONFIG), GUEST_CID);
	driver_write(&f->d, REG_CONFIG + 8, 1);
	assert_true(driver_read(&f->d, REG_STAT) & VIRTIO_STATUS_NEEDS_RESET);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(refusals), T(too_many), T(no_buffers), T(hostile_packets), T(hostile_chains),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
