/* SPDX-License-Identifier: Apache-2.0 */
/* A network device whose tap is one end of a socket pair; the test holds the other end, and drives the device. */
#ifndef SARDINE_TESTS_UNIT_NET_FIXTURE_H
#define SARDINE_TESTS_UNIT_NET_FIXTURE_H

#include <linux/virtio_net.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/test.h"
#include "tests/unit/virtio_driver.h"
#include "vmm/virtio-net.h"

#define RX	      0
#define TX	      1
#define HEADER	      12u
#define BIT(feature)  ((uint64_t)1 << (feature))
#define DATA	      DRIVER_DATA
#define MESSAGE_MAX   (65600u + HEADER)
#define OFFLOADS_CSUM (BIT(VIRTIO_NET_F_CSUM) | BIT(VIRTIO_NET_F_GUEST_CSUM))
#define OFFLOADS_TSO                                                                                         \
	(OFFLOADS_CSUM | BIT(VIRTIO_NET_F_HOST_TSO4) | BIT(VIRTIO_NET_F_HOST_TSO6) |                         \
	 BIT(VIRTIO_NET_F_HOST_ECN) | BIT(VIRTIO_NET_F_GUEST_TSO4) | BIT(VIRTIO_NET_F_GUEST_TSO6) |          \
	 BIT(VIRTIO_NET_F_GUEST_ECN))
#define MERGEABLE BIT(VIRTIO_NET_F_MRG_RXBUF)

struct fixture {
	struct driver d;
	struct virtio_net *net;
	int peer; /* the network's end */
	uint8_t out[MESSAGE_MAX + 8], in[MESSAGE_MAX + 8];
};

static inline void open_net(struct fixture *f, const struct virtio_net_options *options)
{
	struct tap tap = {.name = "pair"};
	int ends[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
	tap.fd = ends[0];
	f->peer = ends[1];
	assert_int_equal(virtio_net_new(options, &tap, f->d.mem, f->d.loop, &f->d.irq, &f->net), 0);
	assert_int_equal(tap.fd, -1);
	f->d.mmio = virtio_net_mmio(f->net);
}

static inline void close_net(struct fixture *f)
{
	virtio_net_free(f->net);
	f->net = NULL;
	if (f->peer >= 0)
		close(f->peer);
	f->peer = -1;
}

static inline int setup(void **state)
{
	static const struct virtio_net_options options = {.mac = {2, 1, 2, 3, 4, 5}, .mtu = 1500};
	struct fixture *f = calloc(1, sizeof(*f));

	*state = f;
	assert_int_equal(driver_init(&f->d), 0);
	open_net(f, &options);
	for (size_t i = 0; i < sizeof(f->out); i++)
		f->out[i] = (uint8_t)(i * 7 + i / 256);
	memset(f->out, 0, HEADER);
	return 0;
}

static inline int teardown(void **state)
{
	struct fixture *f = *state;

	close_net(f);
	driver_done(&f->d);
	free(f);
	return 0;
}

static inline struct virtio_net_stats stats(struct fixture *f)
{
	struct virtio_net_stats s;

	virtio_net_stats(f->net, &s);
	return s;
}

/* The host's end: what the device wrote to its tap. Return: bytes, or -1 when there is nothing. */
static inline ssize_t peer_read(struct fixture *f)
{
	return read(f->peer, f->in, sizeof(f->in));
}

static inline void peer_write(struct fixture *f, size_t bytes)
{
	assert_int_equal(write(f->peer, f->out, bytes), bytes);
}

static inline bool broken(struct fixture *f)
{
	return driver_read(&f->d, REG_STAT) & VIRTIO_STATUS_NEEDS_RESET;
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

#endif
