/* SPDX-License-Identifier: Apache-2.0 */
/* vsock under three kinds of threads: the loop, a vCPU that sends, receives and resets at any moment, and programs of the host that come, echo and
 * leave. What comes back is what was sent, and after a reset nothing touches guest memory. */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>

#include "tests/unit/tempdir.h"
#include "tests/unit/test.h"
#include "tests/unit/vsock-guest.h"
#include "vmm/virtio-vsock.h"

#define PORT	   1u
#define CHUNK	   1024u
#define DEADLINE_S 20

struct stress {
	struct driver d;
	struct vsock_guest g;
	struct virtio_vsock *vsock;
	struct tempdir dir;
	char path[128], port_path[128];
	pthread_t io, echo, caller, watcher;
	atomic_bool stop;
	atomic_uint calls;
	unsigned echoed, accepted;
};

static void *io_main(void *arg)
{
	struct stress *s = arg;

	assert_int_equal(io_loop_run(s->d.loop), 0);
	return NULL;
}

static int unix_socket(const char *where, bool listening)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	/* So that no thread waits for ever. */
	struct timeval patience = {.tv_usec = 20000};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strcpy(addr.sun_path, where);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	if (listening)
		assert_true(bind(fd, (const struct sockaddr *)&addr, sizeof(addr)) == 0 &&
			    listen(fd, 8) == 0);
	else
		(void)!connect(fd, (const struct sockaddr *)&addr, sizeof(addr));
	return fd;
}

/* The program at PATH_1: one connection after the other, echoed. */
static void *echo_main(void *arg)
{
	struct stress *s = arg;
	int listener = unix_socket(s->port_path, true);

	while (!atomic_load(&s->stop)) {
		char buf[4096];
		int fd = accept(listener, NULL, NULL);
		ssize_t n = 0;

		while (fd >= 0 && !atomic_load(&s->stop)) {
			n = recv(fd, buf, sizeof(buf), 0);
			if (n == 0 || (n < 0 && errno != EAGAIN))
				break;
			for (ssize_t at = 0, put; n > 0 && at < n && !atomic_load(&s->stop);) {
				put = send(fd, buf + at, (size_t)(n - at), MSG_NOSIGNAL);
				if (put < 0 && errno != EAGAIN)
					break;
				at += put > 0 ? put : 0;
			}
		}
		if (fd >= 0)
			close(fd);
	}
	close(listener);
	return NULL;
}

/* Programs that connect to the guest, say something, and leave whether they were heard or not. */
static void *caller_main(void *arg)
{
	static const char hello[] = "CONNECT 5\nsomething";
	struct stress *s = arg;

	while (!atomic_load(&s->stop)) {
		unsigned n = atomic_fetch_add(&s->calls, 1);
		int fd = unix_socket(s->path, false);
		char buf[64];

		(void)!send(fd, hello, n % sizeof(hello), MSG_NOSIGNAL);
		if (n % 3)
			(void)!recv(fd, buf, sizeof(buf), 0);
		close(fd);
	}
	return NULL;
}

static void *watcher_main(void *arg)
{
	struct stress *s = arg;

	while (!atomic_load(&s->stop)) {
		struct virtio_vsock_stats stats;

		virtio_vsock_stats(s->vsock, &stats);
		assert_true(stats.open <= VSOCK_CONNECTIONS_MAX);
		(void)driver_read(&s->d, REG_CONFIG);
		virtio_mmio_hold(s->d.mmio);
		virtio_mmio_release(s->d.mmio);
		sched_yield();
	}
	return NULL;
}

/* Send, while the loop runs on its own thread. */
static void tx(struct stress *s, const struct vsock_packet *p, const void *data, uint32_t len)
{
	struct driver_queue *q = &s->d.queues[GUEST_TX];
	time_t deadline = time(NULL) + DEADLINE_S;

	guest_post(&s->g, p, data, len);
	while (driver_take(q, NULL) == UINT32_MAX) {
		if (time(NULL) > deadline)
			fail_msg("a packet was not taken");
		sched_yield();
	}
}

static void tx_op(struct stress *s, uint32_t guest_port, uint32_t host_port, uint16_t op, uint32_t flags)
{
	struct vsock_packet p = guest_packet(&s->g, guest_port, host_port, op);

	p.flags = flags;
	tx(s, &p, NULL, 0);
}

static bool matches(const uint8_t *data, uint32_t len, uint32_t at)
{
	for (uint32_t i = 0; i < len; i++)
		if (data[i] != (uint8_t)((at + i) * 7 + (at + i) / CHUNK))
			return false;
	return true;
}

/* What a round is about: one connection of ours, from @port. Return: whether it ended; else it goes on. */
static bool handle(struct stress *s, uint32_t port, uint32_t *got, bool *open)
{
	struct vsock_packet p;
	uint8_t data[4096];

	if (!guest_take(&s->g, &p, data, true))
		return false;
	if (p.dst_port != port) { /* a caller's */
		if (p.op == VSOCK_OP_REQUEST)
			tx_op(s, p.dst_port, p.src_port, VSOCK_OP_RESPONSE, 0);
		else if (p.op == VSOCK_OP_SHUTDOWN)
			tx_op(s, p.dst_port, p.src_port, VSOCK_OP_RST, 0);
		s->accepted += p.op == VSOCK_OP_REQUEST;
		return false;
	}
	if (p.op == VSOCK_OP_RESPONSE)
		*open = true;
	if (p.op == VSOCK_OP_RW) {
		if (!matches(data, p.len, *got))
			fail_msg("byte %u or later is wrong", *got);
		*got += p.len;
		s->g.fwd_cnt = *got;
	}
	return p.op == VSOCK_OP_RST;
}

/* Send @chunks, and take the echo; a refusal (the program is at its last connection) is one try less. */
static void session(struct stress *s, uint32_t port, unsigned chunks)
{
	time_t deadline = time(NULL) + DEADLINE_S;
	uint32_t sent = 0, got = 0;
	bool open = false;

	s->g.fwd_cnt = 0;
	tx_op(s, port, PORT, VSOCK_OP_REQUEST, 0);
	while (!open || got < chunks * CHUNK) {
		if (handle(s, port, &got, &open))
			return;
		if (open && sent < chunks * CHUNK && sent - got < 8 * CHUNK) {
			struct vsock_packet p = guest_packet(&s->g, port, PORT, VSOCK_OP_RW);
			uint8_t data[CHUNK];

			for (uint32_t i = 0; i < CHUNK; i++)
				data[i] = (uint8_t)((sent + i) * 7 + (sent + i) / CHUNK);
			p.len = CHUNK;
			tx(s, &p, data, CHUNK);
			sent += CHUNK;
		}
		if (time(NULL) > deadline)
			fail_msg("%u of %u bytes came back", got, chunks * CHUNK);
		sched_yield();
	}
	s->echoed++;
	tx_op(s, port, PORT, VSOCK_OP_SHUTDOWN, VSOCK_SHUTDOWN_BOTH);
}

static void start(struct stress *s)
{
	struct virtio_vsock_options o = {.cid = GUEST_CID, .path = s->path};
	struct errmsg err;

	s->dir = tempdir_make();
	snprintf(s->path, sizeof(s->path), "%s/v", s->dir.path);
	snprintf(s->port_path, sizeof(s->port_path), "%s/v_%u", s->dir.path, PORT);
	assert_int_equal(driver_init(&s->d), 0);
	assert_int_equal(virtio_vsock_new(&o, s->d.mem, s->d.loop, &s->d.irq, &err, &s->vsock), 0);
	s->d.mmio = virtio_vsock_mmio(s->vsock);
	assert_true(guest_start(&s->g, &s->d, GUEST_BUFFERS));
	assert_int_equal(pthread_create(&s->io, NULL, io_main, s), 0);
	assert_int_equal(pthread_create(&s->echo, NULL, echo_main, s), 0);
	assert_int_equal(pthread_create(&s->caller, NULL, caller_main, s), 0);
	assert_int_equal(pthread_create(&s->watcher, NULL, watcher_main, s), 0);
}

static void stop(struct stress *s)
{
	atomic_store(&s->stop, true);
	pthread_join(s->watcher, NULL);
	pthread_join(s->caller, NULL);
	pthread_join(s->echo, NULL);
	io_loop_stop(s->d.loop);
	pthread_join(s->io, NULL);
	virtio_vsock_free(s->vsock);
	driver_done(&s->d);
	tempdir_remove(&s->dir);
}

static void connections_and_resets(void **state)
{
	static struct stress s;
	unsigned rounds = getenv("SARDINE_FULL") ? 20000 : 600;

	(void)state;
	start(&s);
	for (unsigned round = 0; round < rounds; round++) {
		uint8_t *ram;

		session(&s, 100 + round, 1 + round % 40);
		if (round % 3)
			continue;
		/* With packets of ours and of callers under way. */
		tx_op(&s, 99, PORT, VSOCK_OP_REQUEST, 0);
		driver_write(&s.d, REG_STAT, 0);
		ram = driver_ptr(&s.d, GUEST_RX_DATA, GUEST_BUFFERS * 0x2000);
		memset(ram, 0x77, GUEST_BUFFERS * 0x2000);
		for (unsigned i = 0; i < 20; i++)
			sched_yield();
		for (unsigned i = 0; i < GUEST_BUFFERS * 0x2000; i++)
			if (ram[i] != 0x77)
				fail_msg("written after the reset: byte %u in round %u", i, round);
		assert_true(guest_start(&s.g, &s.d, GUEST_BUFFERS));
	}
	stop(&s);
	/* The test is one only if all of this happened. */
	assert_true(s.echoed > rounds / 4);
	assert_true(s.accepted > 0 && atomic_load(&s.calls) > rounds / 4);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(connections_and_resets)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
