/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-net, towards the guest: frames of the tap into the guest's buffers. */
/*
 * Theory of operation
 *
 * How long a frame is shows only when it is read, and what does not fit is lost then. So a round first pops buffers until
 * the longest frame there is would fit (without VIRTIO_NET_F_MRG_RXBUF: one buffer), reads straight into them, publishes
 * as many as the frame took, all at once, with their number in its header (virtio 1.2, 5.1.6.4), and goes on with the
 * rest. At its end it puts the buffers that are left back into the ring, so that between rounds we hold none.
 *
 * When the guest has fewer buffers than that, a frame may not fit. For this case the last element of each read is a piece
 * of our own memory behind the room that the guest gave: the frame is put together there, and waits ("late") until the
 * guest has offered enough. Only when it never can (the ring is used up, or buffers may not be merged) is it dropped.
 *
 * A driver that has too few buffers is asked for a kick at the index up to which we looked, before they are put back: it
 * kicks for the next one that it adds.
 */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>

#include "vmm/virtio-net-internal.h"

enum rx_step { RX_MOVED, RX_EMPTY, RX_STARVED, RX_BROKEN };

void net_rx_reset(struct net_rx *rx)
{
	rx->late_bytes = 0;
}

/* Whether one more buffer can be used for the same frame. */
static bool may_merge(const struct virtio_net *net, const struct virtqueue *vq)
{
	const struct net_rx *rx = &net->rx;
	unsigned most = net_has(net, VIRTIO_NET_F_MRG_RXBUF) ? vq->size : 1;

	return rx->buffer_count < most && rx->iov_count + NET_QUEUE_SIZE <= NET_IOV_MAX;
}

/* Pop buffers until any frame fits, or there are no more. Return: false when the device broke. */
static bool collect(struct virtio_net *net, struct virtqueue *vq)
{
	struct net_rx *rx = &net->rx;

	while (rx->bytes < NET_MESSAGE_MAX && may_merge(net, vq)) {
		struct virtqueue_chain chain;
		const char *why = NULL;
		int r = virtqueue_pop(vq, rx->iov + rx->iov_count, NET_QUEUE_SIZE, &chain);

		if (r == 0)
			return true;
		if (r < 0)
			why = vq->broken;
		else if (chain.readable)
			why = "receive buffer with a readable part";
		else if (chain.writable_bytes < TAP_HEADER_BYTES)
			why = "receive buffer without room for a header";
		if (why) {
			virtio_mmio_break(net->mmio, why);
			return false;
		}
		rx->buffers[rx->buffer_count++] = (struct net_buffer){
			.head = chain.head,
			.iov_count = (uint16_t)chain.writable,
			.bytes = chain.writable_bytes,
		};
		rx->iov_count += chain.writable;
		rx->bytes += chain.writable_bytes;
	}
	return true;
}

/* Forget the first @count buffers, which were published. */
static void consume(struct net_rx *rx, unsigned count)
{
	unsigned iov_count = 0;

	for (unsigned i = 0; i < count; i++) {
		iov_count += rx->buffers[i].iov_count;
		rx->bytes -= rx->buffers[i].bytes;
	}
	rx->iov_count -= iov_count;
	rx->buffer_count -= count;
	memmove(rx->iov, rx->iov + iov_count, rx->iov_count * sizeof(rx->iov[0]));
	memmove(rx->buffers, rx->buffers + count, rx->buffer_count * sizeof(rx->buffers[0]));
}

/* Read a frame into the buffers, and what is too long for them behind their room in rx->late. Return: its bytes with the
 * header, or a negative errno. */
static ssize_t read_frame(struct virtio_net *net)
{
	struct net_rx *rx = &net->rx;
	size_t room = rx->bytes < NET_MESSAGE_MAX ? (size_t)rx->bytes : NET_MESSAGE_MAX;
	ssize_t n;

	rx->iov[rx->iov_count] = (struct iovec){
		.iov_base = rx->late + room,
		.iov_len = NET_MESSAGE_MAX + 1 - room,
	};
	do {
		n = readv(net->tap.fd, rx->iov, (int)rx->iov_count + 1);
	} while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

/* The header as the guest may see it. Return: false when the frame relies on what the guest did not negotiate. */
static bool header_prepare(const struct virtio_net *net, struct net_header *h)
{
	uint8_t type = h->gso_type & (uint8_t)~VIRTIO_NET_HDR_GSO_ECN;

	if (!net_has(net, VIRTIO_NET_F_GUEST_CSUM)) {
		if (h->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM)
			return false;
		h->flags = 0; /* virtio 1.2, 5.1.6.4.1 */
	}
	if (h->gso_type != type && !net_has(net, VIRTIO_NET_F_GUEST_ECN))
		return false;
	switch (type) {
	case VIRTIO_NET_HDR_GSO_NONE:
		return true;
	case VIRTIO_NET_HDR_GSO_TCPV4:
		return net_has(net, VIRTIO_NET_F_GUEST_TSO4);
	case VIRTIO_NET_HDR_GSO_TCPV6:
		return net_has(net, VIRTIO_NET_F_GUEST_TSO6);
	default:
		return false;
	}
}

/* Hand a frame that lies in the buffers to the guest. */
static void deliver(struct virtio_net *net, struct virtqueue *vq, uint32_t bytes)
{
	struct net_rx *rx = &net->rx;
	struct net_header h;
	unsigned used = 0;

	/* The guest may have changed it already, to its own harm. */
	iov_copy_out(rx->iov, rx->iov_count, 0, &h, sizeof(h));
	if (!header_prepare(net, &h)) {
		net->stats.rx_dropped_offload++;
		return;
	}
	net->stats.rx_packets++;
	net->stats.rx_bytes += bytes - TAP_HEADER_BYTES;
	for (uint32_t left = bytes; left;) {
		const struct net_buffer *b = &rx->buffers[used++];
		uint32_t n = left < b->bytes ? left : b->bytes;

		virtqueue_fill(vq, b->head, n);
		left -= n;
	}
	le16_put(&h.num_buffers, (uint16_t)used);
	iov_copy_in(rx->iov, rx->iov_count, &h, sizeof(h));
	virtqueue_publish(vq);
	virtio_mmio_count_requests(net->mmio, used);
	consume(rx, used);
}

/* The frame that waited, if it fits now. */
static enum rx_step step_late(struct virtio_net *net, struct virtqueue *vq)
{
	struct net_rx *rx = &net->rx;
	uint32_t bytes = rx->late_bytes;

	if (rx->bytes < bytes && may_merge(net, vq))
		return RX_STARVED;
	rx->late_bytes = 0;
	if (rx->bytes < bytes) {
		net->stats.rx_dropped_long++;
		return RX_MOVED;
	}
	iov_copy_in(rx->iov, rx->iov_count, rx->late, bytes);
	deliver(net, vq, bytes);
	return RX_MOVED;
}

static enum rx_step step(struct virtio_net *net, struct virtqueue *vq, uint64_t *ret_bytes)
{
	struct net_rx *rx = &net->rx;
	ssize_t n;

	if (!collect(net, vq))
		return RX_BROKEN;
	if (rx->late_bytes)
		return step_late(net, vq);
	if (rx->buffer_count == 0)
		return RX_STARVED;
	n = read_frame(net);
	if (n < 0) {
		/* One that is gone says so by its events. */
		net->stats.rx_errors += n != -EAGAIN;
		return RX_EMPTY;
	}
	*ret_bytes += (uint64_t)n;
	rate_limit_take(&net->limits[NET_RX], n > TAP_HEADER_BYTES ? (uint64_t)n - TAP_HEADER_BYTES : 0);
	if (n < TAP_HEADER_BYTES + NET_FRAME_MIN) {
		net->stats.rx_errors++;
	} else if (n > NET_MESSAGE_MAX) {
		net->stats.rx_dropped_long++;
	} else if ((uint64_t)n > rx->bytes) {
		iov_copy_out(rx->iov, rx->iov_count, 0, rx->late, rx->bytes);
		rx->late_bytes = (uint32_t)n;
	} else {
		deliver(net, vq, (uint32_t)n);
	}
	return RX_MOVED;
}

/* Put what was popped and not used back. */
static void put_back(struct net_rx *rx, struct virtqueue *vq)
{
	for (; rx->buffer_count; rx->buffer_count--)
		virtqueue_unpop(vq);
	rx->iov_count = 0;
	rx->bytes = 0;
}

/* Return: false when the round has ended. */
static bool go_on(struct virtio_net *net, struct virtqueue *vq, unsigned frames, uint64_t *bytes)
{
	if (frames == NET_ROUND_FRAMES || *bytes >= NET_ROUND_BYTES) {
		net_watch(net, EPOLLIN);
		if (net->rx.late_bytes)
			virtio_mmio_again(net->mmio, NET_RX);
		return false;
	}
	if (net_throttled(net, NET_RX)) {
		net_unwatch(net, EPOLLIN);
		return false;
	}
	switch (step(net, vq, bytes)) {
	case RX_MOVED:
		return true;
	case RX_EMPTY:
		net_watch(net, EPOLLIN);
		return false;
	case RX_STARVED:
		if (virtqueue_kicks_on(vq)) {
			virtqueue_kicks_off(vq);
			return true;
		}
		net->stats.rx_waits++;
		net_unwatch(net, EPOLLIN);
		return false;
	case RX_BROKEN:
		return false;
	}
	return false;
}

void net_rx_run(struct virtio_net *net)
{
	struct virtqueue *vq = virtio_mmio_queue(net->mmio, NET_RX);
	unsigned frames = 0;
	uint64_t bytes = 0;

	virtqueue_kicks_off(vq);
	while (go_on(net, vq, frames, &bytes))
		frames++;
	put_back(&net->rx, vq);
	virtio_mmio_signal(net->mmio, NET_RX);
}
