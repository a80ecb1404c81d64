/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-net, from the guest: its frames to the tap, once their headers make sense. */
#include <errno.h>
#include <sys/epoll.h>

#include "base/planted.h"
#include "vmm/virtio-net-internal.h"

/* The smallest segment that is cut: Linux' own least for TCP. Less would let a guest turn one frame of 64 KiB into as many
 * packets for the host to handle. */
#define GSO_SIZE_MIN 8

enum tx_step { TX_MOVED, TX_NONE, TX_BLOCKED, TX_BROKEN };

/* A checksum to be filled in, if one is asked for, lies in the frame. */
static bool checksum_prepare(const struct virtio_net *net, const struct net_header *guest,
			     uint32_t frame_bytes, struct net_header *ret)
{
	uint32_t start = le16_get(&guest->csum_start), offset = le16_get(&guest->csum_offset);

	if (!(guest->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM))
		return true;
	if (!net_has(net, VIRTIO_NET_F_CSUM) || start < NET_FRAME_MIN ||
	    (start + offset + 2 > frame_bytes && !PLANTED("virtio_net")))
		return false;
	ret->flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
	ret->csum_start = guest->csum_start;
	ret->csum_offset = guest->csum_offset;
	return true;
}

static bool segments_prepare(const struct virtio_net *net, const struct net_header *guest,
			     uint32_t frame_bytes, struct net_header *ret)
{
	uint8_t type = guest->gso_type & (uint8_t)~VIRTIO_NET_HDR_GSO_ECN;
	bool tcp4 = type == VIRTIO_NET_HDR_GSO_TCPV4 && net_has(net, VIRTIO_NET_F_HOST_TSO4);
	bool tcp6 = type == VIRTIO_NET_HDR_GSO_TCPV6 && net_has(net, VIRTIO_NET_F_HOST_TSO6);

	if (guest->gso_type == VIRTIO_NET_HDR_GSO_NONE)
		return true;
	if ((!tcp4 && !tcp6) || (guest->gso_type != type && !net_has(net, VIRTIO_NET_F_HOST_ECN)))
		return false;
	/* Segments need checksums of their own (virtio 1.2, 5.1.6.2.1). */
	if (!ret->flags || le16_get(&guest->gso_size) < GSO_SIZE_MIN)
		return false;
	ret->gso_type = guest->gso_type;
	ret->gso_size = guest->gso_size;
	/* A hint, which may be wrong (virtio 1.2, 5.1.6.2.2); the kernel refuses one beyond the frame. */
	if (le16_get(&guest->hdr_len) <= frame_bytes)
		ret->hdr_len = guest->hdr_len;
	return true;
}

/* What the kernel gets to see of the guest's header: only what was checked; flags that we do not know are ignored
 * (virtio 1.2, 5.1.6.2.2). @guest is our copy. Return: false when the frame is to be dropped. */
static bool header_prepare(const struct virtio_net *net, const struct net_header *guest, uint32_t frame_bytes,
			   struct net_header *ret)
{
	*ret = (struct net_header){0};
	return checksum_prepare(net, guest, frame_bytes, ret) &&
	       segments_prepare(net, guest, frame_bytes, ret);
}

/* Write a frame; one element before @frame is ours, for the header. Return: false when the tap takes none now. */
static bool send_frame(struct virtio_net *net, struct iovec *frame, unsigned count, uint32_t frame_bytes,
		       const struct net_header *guest)
{
	struct net_header h;
	ssize_t n;

	if (frame_bytes < NET_FRAME_MIN || frame_bytes > NET_FRAME_MAX) {
		net->stats.tx_dropped_length++;
		return true;
	}
	if (!header_prepare(net, guest, frame_bytes, &h)) {
		net->stats.tx_dropped_header++;
		return true;
	}
	frame[-1] = (struct iovec){.iov_base = &h, .iov_len = sizeof(h)};
	do {
		n = writev(net->tap.fd, frame - 1, (int)count + 1);
	} while (n < 0 && errno == EINTR);
	if (n < 0 && errno == EAGAIN)
		return false;
	if (n < 0) {
		net->stats.tx_dropped_tap++;
		return true;
	}
	net->stats.tx_packets++;
	net->stats.tx_bytes += frame_bytes;
	return true;
}

static enum tx_step step(struct virtio_net *net, struct virtqueue *vq, uint64_t *ret_bytes)
{
	struct iovec iov[1 + NET_QUEUE_SIZE], *frame = iov + 1;
	struct virtqueue_chain chain;
	struct net_header guest;
	const char *why = NULL;
	uint32_t frame_bytes;
	int r = virtqueue_pop(vq, frame, NET_QUEUE_SIZE, &chain);

	if (r == 0)
		return TX_NONE;
	if (r < 0)
		why = vq->broken;
	else if (chain.writable)
		why = "frame with a writable part";
	else if (chain.readable_bytes < sizeof(guest))
		why = "frame without a header";
	if (why) {
		virtio_mmio_break(net->mmio, why);
		return TX_BROKEN;
	}
	iov_copy_out(frame, chain.readable, 0, &guest, sizeof(guest));
	iov_trim_front(&frame, &chain.readable, sizeof(guest));
	frame_bytes = chain.readable_bytes - (uint32_t)sizeof(guest);
	if (!send_frame(net, frame, chain.readable, frame_bytes, &guest)) {
		virtqueue_unpop(vq);
		return TX_BLOCKED;
	}
	virtqueue_push(vq, chain.head, 0);
	virtio_mmio_count_requests(net->mmio, 1);
	rate_limit_take(&net->limits[NET_TX], frame_bytes);
	*ret_bytes += frame_bytes;
	return TX_MOVED;
}

/* Return: false when the round has ended. */
static bool go_on(struct virtio_net *net, struct virtqueue *vq, unsigned frames, uint64_t *bytes)
{
	if (frames == NET_ROUND_FRAMES || *bytes >= NET_ROUND_BYTES) {
		virtio_mmio_again(net->mmio, NET_TX);
		return false;
	}
	if (net_throttled(net, NET_TX))
		return false;
	switch (step(net, vq, bytes)) {
	case TX_MOVED:
		return true;
	case TX_NONE:
		if (!virtqueue_kicks_on(vq))
			return false;
		virtqueue_kicks_off(vq);
		return true;
	case TX_BLOCKED:
		net->stats.tx_waits++;
		net_watch(net, EPOLLOUT);
		return false;
	case TX_BROKEN:
		return false;
	}
	return false;
}

void net_tx_run(struct virtio_net *net)
{
	struct virtqueue *vq = virtio_mmio_queue(net->mmio, NET_TX);
	unsigned frames = 0;
	uint64_t bytes = 0;

	virtqueue_kicks_off(vq);
	while (go_on(net, vq, frames, &bytes))
		frames++;
	virtio_mmio_signal(net->mmio, NET_TX);
}
