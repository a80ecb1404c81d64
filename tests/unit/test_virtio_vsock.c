/* SPDX-License-Identifier: Apache-2.0 */
/* The vsock device: streams come through whole in both directions, whoever is slow, whoever leaves, and whatever the guest says. */
#include "vmm/virtio-vsock.h"

#include <sys/socket.h>
#include <time.h>

#include "tests/unit/vsock-device.h"

#define KIB  1024u
#define BULK (1024u * KIB)

static uint8_t pattern(uint32_t at)
{
	return (uint8_t)(at * 2654435761u >> 24);
}

static void guest_connects(void **state)
{
	struct fixture *f = *state;
	char data[4096];

	guest_connect(f);
	assert_true(guest_send(&f->g, to_host(f, VSOCK_OP_RW), "ping", 4));
	host_expect(f, "ping");
	host_write(f, "pong!");
	assert_int_equal(expect(f, VSOCK_OP_RW, data).len, 5);
	assert_memory_equal(data, "pong!", 5);
	assert_int_equal(stats(f).connections, 1);
	assert_int_equal(stats(f).open, 1);
	assert_int_equal(stats(f).totals.to_host_bytes, 4);
	assert_int_equal(stats(f).totals.to_guest_bytes, 5);
	assert_int_equal(driver_read(&f->d, REG_CONFIG), GUEST_CID);
	assert_int_equal(driver_read(&f->d, 0x008), 19);
}

static void host_connects(void **state)
{
	struct fixture *f = *state;
	char data[4096];

	/* With something behind the line already. */
	host_connect(f, "CONNECT 5000\nearly");
	assert_int_equal(expect(f, VSOCK_OP_RW, data).len, 5);
	assert_memory_equal(data, "early", 5);
	assert_true(guest_send(&f->g, to_host(f, VSOCK_OP_RW), "hi", 2));
	host_expect(f, "hi");
	assert_int_equal(stats(f).connections, 1);
}

/* The program reads nothing for a while: the guest's room ends, then comes back, and every byte arrives once. */
static void much_to_the_host(void **state)
{
	struct fixture *f = *state;
	static uint8_t data[8 * KIB], back[64 * KIB];
	uint32_t sent = 0, got = 0, taken = 0, stalled = 0, updates = 0;

	guest_connect(f);
	while (got < BULK) {
		uint32_t room = VSOCK_BUFFER_BYTES - (sent - taken);
		uint32_t n = room < sizeof(data) ? room : (uint32_t)sizeof(data);
		struct vsock_packet p;

		if (n > BULK - sent)
			n = BULK - sent;
		for (uint32_t i = 0; i < n; i++)
			data[i] = pattern(sent + i);
		if (n) {
			assert_true(guest_send(&f->g, to_host(f, VSOCK_OP_RW), data, n));
			sent += n;
		} else {
			/* No room: the socket and our buffer are full. Only now the program reads. */
			ssize_t r = host_read(f, back, sizeof(back));

			stalled++;
			assert_true(r > 0);
			for (uint32_t i = 0; i < (uint32_t)r; i++)
				if (back[i] != pattern(got + i))
					fail_msg("byte %u", got + i);
			got += (uint32_t)r;
			driver_loop(&f->d);
		}
		while (guest_take(&f->g, &p, NULL, true)) {
			assert_int_equal(p.op, VSOCK_OP_CREDIT_UPDATE);
			assert_true(p.fwd_cnt - taken <= sent - taken);
			taken = p.fwd_cnt;
			updates++;
		}
	}
	assert_true(stalled > 3);
	assert_true(updates > 3 && updates <= BULK / (VSOCK_BUFFER_BYTES / 2) + 2);
	assert_int_equal(stats(f).totals.to_host_bytes, BULK);
	assert_int_equal(stats(f).totals.violations, 0);
}

/* The guest's room is small, and it reads late: never more than it said, and every byte arrives once. */
static void much_to_the_guest(void **state)
{
	struct fixture *f = *state;
	static uint8_t data[BULK];
	uint8_t back[4096];
	uint32_t written = 0, got = 0, asked = 0;

	for (uint32_t i = 0; i < BULK; i++)
		data[i] = pattern(i);
	f->g.buf_alloc = 10000;
	guest_connect(f);
	while (got < BULK) {
		struct vsock_packet p;
		ssize_t n = send(f->host, data + written, BULK - written, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n > 0)
			written += (uint32_t)n;
		driver_loop(&f->d);
		if (guest_take(&f->g, &p, back, true)) {
			if (p.op == VSOCK_OP_CREDIT_REQUEST) {
				asked++;
				/* All that it may have is here: now it reads. */
				assert_int_equal(got - f->g.fwd_cnt, 10000);
				f->g.fwd_cnt = got;
				send_op(f, VSOCK_OP_CREDIT_UPDATE, 0);
				continue;
			}
			assert_int_equal(p.op, VSOCK_OP_RW);
			for (uint32_t i = 0; i < p.len; i++)
				if (back[i] != pattern(got + i))
					fail_msg("byte %u", got + i);
			got += p.len;
			assert_true(got - f->g.fwd_cnt <= 10000);
		}
	}
	assert_int_equal(got, BULK);
	assert_int_equal(asked, BULK / 10000);
}

/* One that does not read, on either side, holds up itself and nobody else. */
static void a_stalled_connection_stalls_itself(void **state)
{
	struct fixture *f = *state;
	static uint8_t data[8 * KIB];
	struct vsock_packet other, p;
	int stalled;

	guest_connect(f);
	stalled = f->host;
	/* The guest offers no room in its socket, the program does not read. */
	f->g.buf_alloc = 0;
	send_op(f, VSOCK_OP_CREDIT_UPDATE, 0);
	host_write(f, "never mind");
	assert_int_equal(expect(f, VSOCK_OP_CREDIT_REQUEST, NULL).src_port, PORT);
	for (unsigned i = 0; i < 1000 && !guest_take(&f->g, &p, NULL, true); i++)
		assert_true(guest_send(&f->g, to_host(f, VSOCK_OP_RW), data, 1));
	f->g.buf_alloc = 4096;
	other = guest_packet(&f->g, GUEST + 1, PORT, VSOCK_OP_REQUEST);
	assert_true(guest_send(&f->g, other, NULL, 0));
	assert_int_equal(expect(f, VSOCK_OP_RESPONSE, NULL).dst_port, GUEST + 1);
	f->host = accept4(f->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	other.op = VSOCK_OP_RW;
	assert_true(guest_send(&f->g, other, "through", 7));
	host_expect(f, "through");
	host_write(f, "back");
	assert_int_equal(expect(f, VSOCK_OP_RW, NULL).dst_port, GUEST + 1);
	close(stalled);
}

static void half_closes(void **state)
{
	struct fixture *f = *state;
	char byte, data[4096];

	/* The guest sends its last; the program still answers. */
	guest_connect(f);
	assert_true(guest_send(&f->g, to_host(f, VSOCK_OP_RW), "last", 4));
	send_op(f, VSOCK_OP_SHUTDOWN, VSOCK_SHUTDOWN_SEND);
	host_expect(f, "last");
	assert_int_equal(host_read(f, &byte, 1), 0);
	host_write(f, "answer");
	assert_int_equal(expect(f, VSOCK_OP_RW, data).len, 6);
	/* The program ends, too. */
	close(TAKE_FD(f->host));
	assert_int_equal(expect(f, VSOCK_OP_SHUTDOWN, NULL).flags, VSOCK_SHUTDOWN_BOTH);
	assert_int_equal(stats(f).open, 1);
	send_op(f, VSOCK_OP_RST, 0);
	assert_int_equal(stats(f).open, 0);

	/* The other way around. */
	guest_connect(f);
	host_write(f, "last");
	shutdown(f->host, SHUT_WR);
	assert_int_equal(expect(f, VSOCK_OP_RW, data).len, 4);
	assert_int_equal(expect(f, VSOCK_OP_SHUTDOWN, NULL).flags, VSOCK_SHUTDOWN_SEND);
	expect_nothing(f);
	assert_true(guest_send(&f->g, to_host(f, VSOCK_OP_RW), "answer", 6));
	host_expect(f, "answer");
	send_op(f, VSOCK_OP_SHUTDOWN, VSOCK_SHUTDOWN_BOTH);
	expect(f, VSOCK_OP_RST, NULL);
	assert_int_equal(host_read(f, &byte, 1), 0);
	assert_int_equal(stats(f).open, 0);
	assert_int_equal(stats(f).totals.resets, 0);
	/* What the guest sends to a connection that is no more. */
	send_op(f, VSOCK_OP_RW, 0);
	expect(f, VSOCK_OP_RST, NULL);
}

/* The guest closes while the program has not read: nothing is lost, and the guest need not wait for it. */
static void a_close_delivers_what_was_sent(void **state)
{
	struct fixture *f = *state;
	static uint8_t data[8 * KIB], back[64 * KIB];
	uint32_t sent = 0, got = 0;
	struct vsock_packet p;
	ssize_t n;

	guest_connect(f);
	/* Until the buffer of ours is full, too. */
	do {
		for (uint32_t i = 0; i < sizeof(data); i++)
			data[i] = pattern(sent + i);
		assert_true(guest_send(&f->g, to_host(f, VSOCK_OP_RW), data, sizeof(data)));
		sent += (uint32_t)sizeof(data);
		while (guest_take(&f->g, &p, NULL, true))
			;
	} while (sent - stats(f).totals.to_host_bytes < VSOCK_BUFFER_BYTES);
	send_op(f, VSOCK_OP_SHUTDOWN, VSOCK_SHUTDOWN_BOTH);
	expect(f, VSOCK_OP_RST, NULL);
	assert_int_equal(stats(f).open, 1);
	while ((n = host_read(f, back, sizeof(back))) > 0) {
		for (uint32_t i = 0; i < (uint32_t)n; i++)
			if (back[i] != pattern(got + i))
				fail_msg("byte %u", got + i);
		got += (uint32_t)n;
	}
	assert_int_equal(n, 0);
	assert_int_equal(got, sent);
	driver_loop(&f->d);
	assert_int_equal(stats(f).open, 0);
}

static void either_side_leaves(void **state)
{
	struct fixture *f = *state;
	char byte, data[4096];

	/* The guest resets. */
	guest_connect(f);
	send_op(f, VSOCK_OP_RST, 0);
	assert_int_equal(host_read(f, &byte, 1), 0);
	assert_int_equal(stats(f).totals.resets, 1);
	assert_int_equal(stats(f).open, 0);
	expect_nothing(f);
	close(TAKE_FD(f->host));
	/* The program leaves with something of its own unread by the guest: that still comes. */
	guest_connect(f);
	host_write(f, "bye");
	close(TAKE_FD(f->host));
	assert_int_equal(expect(f, VSOCK_OP_RW, data).len, 3);
	assert_int_equal(expect(f, VSOCK_OP_SHUTDOWN, NULL).flags, VSOCK_SHUTDOWN_BOTH);
	/* What the guest sends meanwhile is dropped; its own end is answered. */
	send_op(f, VSOCK_OP_CREDIT_REQUEST, 0);
	assert_true(guest_send(&f->g, to_host(f, VSOCK_OP_RW), "too late", 8));
	send_op(f, VSOCK_OP_SHUTDOWN, VSOCK_SHUTDOWN_BOTH);
	expect(f, VSOCK_OP_RST, NULL);
	assert_int_equal(stats(f).open, 0);
	/* It leaves without having read what the guest sent: an error, not an end. */
	guest_connect(f);
	assert_true(guest_send(&f->g, to_host(f, VSOCK_OP_RW), "unread", 6));
	driver_loop(&f->d);
	close(TAKE_FD(f->host));
	expect(f, VSOCK_OP_RST, NULL);
	assert_int_equal(stats(f).totals.resets, 2);
	assert_int_equal(stats(f).open, 0);
	/* A program that leaves before the guest has answered. */
	f->host = unix_socket(path(f), false);
	host_write(f, "CONNECT 5000\n");
	f->host_port = expect(f, VSOCK_OP_REQUEST, NULL).src_port;
	close(TAKE_FD(f->host));
	expect(f, VSOCK_OP_RST, NULL);
	assert_int_equal(stats(f).open, 0);
}

static void held_device_leaves_memory_alone(void **state)
{
	struct fixture *f = *state;
	struct vsock_packet p;
	uint8_t *ram, data[4096];

	guest_connect(f);
	virtio_mmio_hold(f->d.mmio);
	ram = driver_ptr(&f->d, GUEST_RX_DATA, GUEST_BUFFERS * 0x2000);
	memset(ram, 0x33, GUEST_BUFFERS * 0x2000);
	host_write(f, "later");
	p = to_host(f, VSOCK_OP_RW);
	p.len = 5;
	guest_post(&f->g, &p, "later", 5);
	for (unsigned i = 0; i < 10; i++)
		driver_loop(&f->d);
	for (unsigned i = 0; i < GUEST_BUFFERS * 0x2000; i++)
		assert_int_equal(ram[i], 0x33);
	assert_int_equal(recv(f->host, data, 1, MSG_DONTWAIT), -1);
	virtio_mmio_release(f->d.mmio);
	assert_int_equal(expect(f, VSOCK_OP_RW, data).len, 5);
	assert_memory_equal(data, "later", 5);
	host_expect(f, "later");
}

static void a_reset_ends_all(void **state)
{
	struct fixture *f = *state;
	char byte;

	guest_connect(f);
	driver_write(&f->d, REG_STAT, 0);
	/* At once, before the loop had its turn. */
	assert_int_equal(recv(f->host, &byte, 1, MSG_DONTWAIT), 0);
	assert_int_equal(stats(f).open, 0);
	close(f->host);
	assert_true(guest_start(&f->g, &f->d, GUEST_BUFFERS));
	send_op(f, VSOCK_OP_RW, 0);
	expect(f, VSOCK_OP_RST, NULL);
	guest_connect(f);
}

static void limits(void **state)
{
	struct fixture *f = *state;
	struct timespec start, end;
	char data[4096] = {0};
	int64_t ms;

	open_device(f, (struct rate_config){.ops_per_s = 40});
	clock_gettime(CLOCK_MONOTONIC, &start);
	guest_connect(f);
	for (unsigned i = 0; i < 6; i++) {
		assert_true(guest_send(&f->g, to_host(f, VSOCK_OP_RW), "ping", 4));
		host_expect(f, "ping");
		host_write(f, "pong");
		expect(f, VSOCK_OP_RW, data);
	}
	clock_gettime(CLOCK_MONOTONIC, &end);
	ms = (end.tv_sec - start.tv_sec) * 1000 + (end.tv_nsec - start.tv_nsec) / 1000000;
	/* 14 packets at 40 a second, 4 of which are the burst and one may be owed. */
	assert_in_range(ms, 200, 9000);
	/* Looked at now and then, not all the time. */
	assert_in_range(stats(f).throttled, 8, 200);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(guest_connects),
		T(host_connects),
		T(much_to_the_host),
		T(much_to_the_guest),
		T(a_stalled_connection_stalls_itself),
		T(half_closes),
		T(a_close_delivers_what_was_sent),
		T(either_side_leaves),
		T(held_device_leaves_memory_alone),
		T(a_reset_ends_all),
		T(limits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
