/* SPDX-License-Identifier: Apache-2.0 */
/* A vsock device with its guest and its host's programs, for the tests of both sides. */
#ifndef SARDINE_TESTS_UNIT_VSOCK_DEVICE_H
#define SARDINE_TESTS_UNIT_VSOCK_DEVICE_H

#include <errno.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>

#include "tests/unit/tempdir.h"
#include "tests/unit/test.h"
#include "tests/unit/vsock-guest.h"
#include "vmm/virtio-vsock.h"

#define PORT  1234u
#define GUEST 5000u /* a port of the guest's */

struct fixture {
	struct driver d;
	struct vsock_guest g;
	struct virtio_vsock *vsock;
	struct tempdir dir;
	int listener; /* on PATH_PORT */
	int host;     /* the program's end of a connection */
	uint32_t host_port;
};

static inline const char *path(struct fixture *f)
{
	return tempdir_file(&f->dir, "v");
}

static inline int unix_socket(const char *where, bool listening)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	assert_true(fd >= 0 && strlen(where) < sizeof(addr.sun_path));
	strcpy(addr.sun_path, where);
	if (listening) {
		assert_int_equal(bind(fd, (const struct sockaddr *)&addr, sizeof(addr)), 0);
		assert_int_equal(listen(fd, 128), 0);
	} else {
		assert_int_equal(connect(fd, (const struct sockaddr *)&addr, sizeof(addr)), 0);
	}
	return fd;
}

static inline void open_device(struct fixture *f, struct rate_config rate)
{
	struct virtio_vsock_options o = {.cid = GUEST_CID, .path = path(f), .rate = rate};
	struct errmsg err = {0};

	virtio_vsock_free(f->vsock);
	f->vsock = NULL;
	if (virtio_vsock_new(&o, f->d.mem, f->d.loop, &f->d.irq, &err, &f->vsock) < 0)
		fail_msg("%s", err.text);
	f->d.mmio = virtio_vsock_mmio(f->vsock);
	assert_true(guest_start(&f->g, &f->d, GUEST_BUFFERS));
}

static inline int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	*state = f;
	f->dir = tempdir_make();
	f->host = -1;
	assert_int_equal(driver_init(&f->d), 0);
	open_device(f, (struct rate_config){0});
	f->listener = unix_socket(tempdir_file(&f->dir, "v_1234"), true);
	return 0;
}

static inline int teardown(void **state)
{
	struct fixture *f = *state;

	virtio_vsock_free(f->vsock);
	assert_int_equal(access(path(f), F_OK), -1);
	close(f->listener);
	close_fd_p(&f->host);
	driver_done(&f->d);
	tempdir_remove(&f->dir);
	free(f);
	return 0;
}

static inline struct virtio_vsock_stats stats(struct fixture *f)
{
	struct virtio_vsock_stats s;

	virtio_vsock_stats(f->vsock, &s);
	return s;
}

static inline struct vsock_packet to_host(struct fixture *f, uint16_t op)
{
	return guest_packet(&f->g, GUEST, f->host_port, op);
}

static inline void send_op(struct fixture *f, uint16_t op, uint32_t flags)
{
	struct vsock_packet p = to_host(f, op);

	p.flags = flags;
	assert_true(guest_send(&f->g, p, NULL, 0));
}

/* The next packet must be this one. */
static inline struct vsock_packet expect(struct fixture *f, uint16_t op, void *data)
{
	struct vsock_packet p;

	if (!guest_receive(&f->g, &p, data))
		fail_msg("no packet came; op %u was expected", op);
	if (p.op != op)
		fail_msg("op %u came, %u was expected", p.op, op);
	assert_int_equal(p.src_cid, VSOCK_CID_HOST);
	assert_int_equal(p.dst_cid, GUEST_CID);
	return p;
}

/* Nothing for the guest, after the loop had its turns. */
static inline void expect_nothing(struct fixture *f)
{
	for (unsigned i = 0; i < 5; i++)
		driver_loop(&f->d);
	assert_int_equal(driver_take(&f->d.queues[GUEST_RX], NULL), UINT32_MAX);
}

/* What the program reads next, waited for: bytes, 0 at the end, or a negative errno. */
static inline ssize_t host_read(struct fixture *f, void *buf, size_t len)
{
	time_t deadline = time(NULL) + 10;

	while (time(NULL) < deadline) {
		ssize_t n = recv(f->host, buf, len, MSG_DONTWAIT);

		if (n >= 0 || errno != EAGAIN)
			return n < 0 ? -errno : n;
		driver_loop(&f->d);
		sched_yield();
	}
	return -ETIMEDOUT;
}

static inline void host_expect(struct fixture *f, const char *text)
{
	char buf[64];
	size_t len = strlen(text);
	size_t have = 0;

	while (have < len) {
		ssize_t n = host_read(f, buf + have, len - have);

		if (n <= 0)
			fail_msg("the program reads %zd; \"%s\" was expected", n, text);
		have += (size_t)n;
	}
	assert_memory_equal(buf, text, len);
}

static inline void host_write(struct fixture *f, const char *text)
{
	assert_int_equal(send(f->host, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

static inline void guest_connect(struct fixture *f)
{
	struct vsock_packet p;

	f->host_port = PORT;
	send_op(f, VSOCK_OP_REQUEST, 0);
	p = expect(f, VSOCK_OP_RESPONSE, NULL);
	assert_int_equal(p.src_port, PORT);
	assert_int_equal(p.dst_port, GUEST);
	assert_int_equal(p.buf_alloc, VSOCK_BUFFER_BYTES);
	assert_int_equal(p.type, VSOCK_TYPE_STREAM);
	f->host = accept4(f->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	assert_true(f->host >= 0);
}

static inline void host_connect(struct fixture *f, const char *line)
{
	struct vsock_packet p;
	char ok[64];

	f->host = unix_socket(path(f), false);
	host_write(f, line);
	p = expect(f, VSOCK_OP_REQUEST, NULL);
	assert_int_equal(p.dst_port, GUEST);
	f->host_port = p.src_port;
	send_op(f, VSOCK_OP_RESPONSE, 0);
	snprintf(ok, sizeof(ok), "OK %u\n", f->host_port);
	host_expect(f, ok);
}

#endif
