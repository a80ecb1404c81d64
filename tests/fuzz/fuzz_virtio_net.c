/* SPDX-License-Identifier: Apache-2.0 */
/* Any guest against a network device with frames waiting: the device survives, no header reaches the tap that was not
 * checked, and the next guest can use it. */
#include <linux/virtio_net.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "tests/fuzz/virtio_program.h"
#include "vmm/virtio-net.h"

#define FRAMES	    4
#define FRAME_BYTES 1514
#define HEADER	    12
#define MESSAGE_MAX 65612

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* One device sends and receives as it likes, the other runs into its limits. */
static struct room {
	struct driver d;
	struct virtio_net *net;
	int peer;
	int own; /* the device's end, once more */
	uint8_t frame[MESSAGE_MAX + 8];
} rooms[2];

/* What the tap was given must be what virtio-net-tx.c promises. */
static void check_frame(const uint8_t *frame, size_t bytes)
{
	uint8_t type = frame[1] & (uint8_t)~VIRTIO_NET_HDR_GSO_ECN;
	uint32_t start = load_le16(frame + 6), offset = load_le16(frame + 8);

	require(bytes >= HEADER + 14 && bytes <= MESSAGE_MAX);
	require((frame[0] & ~VIRTIO_NET_HDR_F_NEEDS_CSUM) == 0 && load_le16(frame + 10) == 0);
	require(!frame[0] || (start >= 14 && start + offset + 2 <= bytes - HEADER));
	require(type == 0 || type == VIRTIO_NET_HDR_GSO_TCPV4 || type == VIRTIO_NET_HDR_GSO_TCPV6);
	require(!frame[1] || (type && frame[0] && load_le16(frame + 4) >= 8));
	require(load_le16(frame + 2) <= bytes - HEADER);
}

static void take_frames(struct room *room)
{
	ssize_t n;

	while ((n = read(room->peer, room->frame, sizeof(room->frame))) > 0)
		check_frame(room->frame, (size_t)n);
}

/* While the guest runs, more frames come, and what it sent is taken. */
static void network(struct driver *driver)
{
	struct room *room = container_of(driver, struct room, d);

	(void)!write(room->peer, room->frame, HEADER + FRAME_BYTES);
	take_frames(room);
}

static void make(struct room *room, uint64_t ops_per_s)
{
	struct virtio_net_options options = {.mtu = 1500, .rate = {.ops_per_s = ops_per_s}};
	struct tap tap = {.name = "fuzz"};
	int ends[2];

	require(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) == 0);
	virtio_net_default_mac("fuzz", 0, options.mac);
	require((options.mac[0] & 3) == 2);
	require(driver_init(&room->d) == 0);
	tap.fd = ends[0];
	room->own = dup(ends[0]);
	room->peer = ends[1];
	require(virtio_net_new(&options, &tap, room->d.mem, room->d.loop, &room->d.irq, &room->net) == 0);
	room->d.mmio = virtio_net_mmio(room->net);
	room->d.between = network;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	bool limited = size % 8 == 1;
	struct room *room = &rooms[limited];
	struct virtio_net_stats stats;
	ssize_t n;

	if (!room->net)
		make(room, limited ? 50 : 0);
	for (unsigned i = 0; i < FRAMES; i++) {
		/* Lengths and headers of the network's, from the input's end. */
		uint16_t value = size >= 2 * (i + 1u) ? load_le16(data + size - 2 * (i + 1u)) : 0;

		room->frame[0] = value & 3;
		room->frame[1] = (uint8_t)(value >> 2 & 0x87);
		n = write(room->peer, room->frame, HEADER + (i % 2 ? FRAME_BYTES : value));
	}
	program_run(&room->d, data, size);
	take_frames(room);
	require(driver_start(&room->d, 0, 16));
	driver_write(&room->d, REG_STAT, 0);
	virtio_net_stats(room->net, &stats);
	require(stats.link);
	/* What the guest did not take is not for the next input. */
	do {
		n = read(room->own, room->frame, sizeof(room->frame));
	} while (n >= 0);
	return 0;
}
