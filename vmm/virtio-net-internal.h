/* SPDX-License-Identifier: Apache-2.0 */
/* What virtio-net*.c share: the device, and one direction each in virtio-net-rx.c and virtio-net-tx.c. */
#ifndef SARDINE_VMM_VIRTIO_NET_INTERNAL_H
#define SARDINE_VMM_VIRTIO_NET_INTERNAL_H

#include <linux/virtio_net.h>

#include "base/bytes.h"
#include "vmm/virtio-net.h"

enum net_queue { NET_RX, NET_TX, NET_QUEUES };

#define NET_QUEUE_SIZE 256

/* virtio 1.2, 5.1.6, with VIRTIO_F_VERSION_1. */
struct net_header {
	uint8_t flags;
	uint8_t gso_type;
	le16_t hdr_len;
	le16_t gso_size;
	le16_t csum_start;
	le16_t csum_offset;
	le16_t num_buffers;
};
_Static_assert(sizeof(struct net_header) == 12 && TAP_HEADER_BYTES == 12, "virtio 1.2, 5.1.6");

/* virtio 1.2, 5.1.4, as far as the features offered reach. */
struct net_config_space {
	uint8_t mac[VIRTIO_NET_MAC_BYTES];
	le16_t status;
	le16_t max_virtqueue_pairs;
	le16_t mtu;
};
_Static_assert(sizeof(struct net_config_space) == 12, "virtio 1.2, 5.1.4");

/* The longest frame, before it is cut into segments: IPv6's 40 + 65535 bytes behind an Ethernet header with two VLAN tags
 * are 65597. */
#define NET_FRAME_MIN	14
#define NET_FRAME_MAX	65600
#define NET_MESSAGE_MAX (NET_FRAME_MAX + TAP_HEADER_BYTES)

/* Frames and bytes of one direction after which other work of the I/O thread has its turn. */
#define NET_ROUND_FRAMES 64
#define NET_ROUND_BYTES	 (1u << 20)

/* Buffers that were popped and not filled yet, in the order of the ring. */
#define NET_IOV_MAX (2 * NET_QUEUE_SIZE)

struct net_buffer {
	uint16_t head;
	uint16_t iov_count;
	uint32_t bytes;
};

struct net_rx {
	struct iovec iov[NET_IOV_MAX + 1]; /* the last one used is for what does not fit */
	unsigned iov_count;
	struct net_buffer buffers[NET_QUEUE_SIZE];
	unsigned buffer_count;
	uint64_t bytes; /* of all buffers */

	/* A frame that found too little room, with its header: it waits for more buffers. */
	uint8_t *late; /* NET_MESSAGE_MAX + 1 bytes, untouched until one is needed */
	uint32_t late_bytes;
};

struct virtio_net {
	struct virtio_mmio *mmio;
	struct io_loop *loop;
	struct tap tap;
	struct io_source *source; /* of the tap; NULL: it is gone */
	uint32_t events;	  /* watched for */
	struct io_source *timer;  /* NULL: no rate limit */
	struct rate_limit limits[NET_QUEUES];
	uint64_t resume_ns[NET_QUEUES]; /* 0: not throttled */
	struct net_config_space config;
	uint64_t features; /* negotiated, without those that lack what they need */
	struct net_rx rx;
	struct virtio_net_stats stats;
};

static inline bool net_has(const struct virtio_net *net, unsigned feature)
{
	return net->features >> feature & 1;
}

/*
 * All below: under the device's lock, on the loop's thread unless said otherwise.
 */

/* Watch the tap for @events in addition to, or no longer. */
void net_watch(struct virtio_net *net, uint32_t events);
void net_unwatch(struct virtio_net *net, uint32_t events);

/* Whether a direction must wait for its rate limit; if so the timer is armed, and the direction is run again by it. */
bool net_throttled(struct virtio_net *net, enum net_queue queue);

/* Move frames until there are no more, or no room for them, or it is others' turn; either way it goes on by itself. */
void net_rx_run(struct virtio_net *net);
void net_tx_run(struct virtio_net *net);

/* Forget the frame that waits. Any thread. */
void net_rx_reset(struct net_rx *rx);

#endif
