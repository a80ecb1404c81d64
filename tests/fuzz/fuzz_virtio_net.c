/* SPDX-License-Identifier: Apache-2.0 */
/* Any guest against a network device with frames waiting: the device survives, no header reaches the tap that was not
 * checked, and the next guest can use it. */
#include <linux/virtio_net.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/fuzz/virtio_program.h"
#include "vmm/virtio-net.h"

#define FRAMES	    4
#define FRAME_BYTES 1514
#define HEADER	    12
#define MESSAGE_MAX 65612

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct driver d;
static struct virtio_net *net;
static int peer = -1;
static int own = -1; /* the device's end, once more */

static void make(void)
{
	const struct virtio_net_options options = {.mac = {2}, .mtu = 1500};
	struct tap tap = {.name = "fuzz"};
	int ends[2];

	require(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) == 0);
	require(driver_init(&d) == 0);
	tap.fd = ends[0];
	own = dup(ends[0]);
	peer = ends[1];
	require(virtio_net_new(&options, &tap, d.mem, d.loop, &d.irq, &net) == 0);
	d.mmio = virtio_net_mmio(net);
}

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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t frame[MESSAGE_MAX + 8];
	ssize_t n;

	if (!net)
		make();
	for (unsigned i = 0; i < FRAMES; i++) {
		/* Lengths and headers of the network's, from the input's end. */
		uint16_t value = size >= 2 * (i + 1u) ? load_le16(data + size - 2 * (i + 1u)) : 0;

		frame[0] = value & 3;
		frame[1] = (uint8_t)(value >> 2 & 0x87);
		n = write(peer, frame, HEADER + (i % 2 ? FRAME_BYTES : value));
	}
	program_run(&d, data, size);
	while ((n = read(peer, frame, sizeof(frame))) > 0)
		check_frame(frame, (size_t)n);
	require(driver_start(&d, 0, 16));
	driver_write(&d, REG_STAT, 0);
	/* What the guest did not take is not for the next input. */
	do {
		n = read(own, frame, sizeof(frame));
	} while (n >= 0);
	return 0;
}
