/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-net: the device, its features, and when its two directions run. */
/*
 * Theory of operation
 *
 * One queue of empty buffers to be filled with frames from the tap (rx, virtio-net-rx.c), one of frames to be written
 * to it (tx, virtio-net-tx.c). The kernel moves the bytes between guest memory and its own with one readv or writev per
 * frame, which has ended when the call returns: nothing is ever in flight, so holding, draining and resetting the
 * device have nothing to wait for.
 *
 * What wakes a direction, and when it sleeps:
 *
 *   rx  sleeps while the tap is empty (EPOLLIN wakes it), while the guest has no buffers (EPOLLIN off; a kick wakes it),
 *       and while it is over its rate (EPOLLIN off; the timer wakes it)
 *   tx  sleeps while the guest has no frames (a kick wakes it), while the tap takes none (EPOLLOUT), and while it is over
 *       its rate (the timer)
 *
 * Each runs for at most NET_ROUND_FRAMES frames and NET_ROUND_BYTES bytes, so that neither a flood from the network nor
 * one from the guest holds the I/O thread. A device that is held, broken or without a driver turns the tap's events off
 * when the first one comes; the kicks that the transport sends at DRIVER_OK and at a release turn them on again.
 *
 * Offloads travel in the virtio-net header, which the tap reads and writes, too. What the guest writes there is read once
 * into a local, checked against the features and the frame's length, and the checked copy is what the kernel gets. A
 * frame that fails is dropped and counted, as a switch would. Only what is no frame at all (no header, buffers of the
 * wrong direction, receive buffers without room for a header) breaks the device.
 *
 * No control queue: the tap is promiscuous anyway, so filters and addresses are the guest's own business, and Linux does
 * without. One pair of queues: more would need more threads to pay.
 */
#include <errno.h>
#include <linux/if_tun.h>
#include <nettle/sha2.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>

#include "base/clock.h"
#include "base/size.h"
#include "vmm/virtio-net-internal.h"

#define BIT(feature) ((uint64_t)1 << (feature))

void virtio_net_default_mac(const char *vm_name, unsigned index, uint8_t ret[VIRTIO_NET_MAC_BYTES])
{
	uint8_t digest[SHA256_DIGEST_SIZE];
	struct sha256_ctx ctx;
	char number[16];

	snprintf(number, sizeof(number), "/%u", index);
	sha256_init(&ctx);
	sha256_update(&ctx, strlen(vm_name), (const uint8_t *)vm_name);
	sha256_update(&ctx, strlen(number), (const uint8_t *)number);
	sha256_digest(&ctx, sizeof(digest), digest);
	/* IEEE 802: locally administered is bit 1, group is bit 0 of the first byte. */
	digest[0] = (uint8_t)((digest[0] & 0xfc) | 0x02);
	memcpy(ret, digest, VIRTIO_NET_MAC_BYTES);
}

static void set_events(struct virtio_net *net, uint32_t events)
{
	if (!net->source || net->events == events)
		return;
	/* It fails only without kernel memory; then the next change tries again. */
	if (io_source_set_events(net->source, events) == 0)
		net->events = events;
}

void net_watch(struct virtio_net *net, uint32_t events)
{
	set_events(net, net->events | events);
}

void net_unwatch(struct virtio_net *net, uint32_t events)
{
	set_events(net, net->events & ~events);
}

static void arm_timer(struct virtio_net *net, uint64_t now)
{
	uint64_t first = 0;

	for (unsigned i = 0; i < NET_QUEUES; i++)
		if (net->resume_ns[i] && (!first || net->resume_ns[i] < first))
			first = net->resume_ns[i];
	if (first && io_timer_set(net->timer, first > now ? first - now : 1) < 0)
		memset(net->resume_ns, 0, sizeof(net->resume_ns)); /* a limit is no reason to stand still */
}

bool net_throttled(struct virtio_net *net, enum net_queue queue)
{
	struct rate_limit *limit = &net->limits[queue];
	uint64_t now, wait;

	if (!rate_limit_is_set(limit))
		return false;
	now = clock_now_ns();
	wait = rate_limit_wait_ns(limit, now);
	if (!wait)
		return false;
	net->resume_ns[queue] = now + wait;
	net->stats.throttled++;
	arm_timer(net, now);
	return true;
}

/* Context: the I/O thread. */
static void timer_fired(void *arg, uint32_t events)
{
	struct virtio_net *net = arg;
	uint64_t now = clock_now_ns();
	bool due[NET_QUEUES];

	(void)events;
	virtio_mmio_lock(net->mmio);
	for (unsigned i = 0; i < NET_QUEUES; i++) {
		due[i] = net->resume_ns[i] && net->resume_ns[i] <= now;
		if (due[i] || !virtio_mmio_may_take(net->mmio))
			net->resume_ns[i] = 0;
	}
	if (due[NET_RX] && virtio_mmio_may_take(net->mmio))
		net_rx_run(net);
	if (due[NET_TX] && virtio_mmio_may_take(net->mmio))
		net_tx_run(net);
	arm_timer(net, now);
	virtio_mmio_unlock(net->mmio);
}

/* The tap was deleted, or its other end is closed. */
static void link_lost(struct virtio_net *net)
{
	io_source_free(net->source);
	net->source = NULL;
	net->stats.link = false;
	le16_put(&net->config.status, 0);
	virtio_mmio_config_changed(net->mmio);
}

/* Context: the I/O thread. */
static void tap_ready(void *arg, uint32_t events)
{
	struct virtio_net *net = arg;

	virtio_mmio_lock(net->mmio);
	if (events & (EPOLLERR | EPOLLHUP)) {
		link_lost(net);
	} else if (!virtio_mmio_may_take(net->mmio)) {
		set_events(net, 0);
	} else {
		if (events & EPOLLIN)
			net_rx_run(net);
		if (events & EPOLLOUT) {
			net_unwatch(net, EPOLLOUT);
			net_tx_run(net);
		}
	}
	virtio_mmio_unlock(net->mmio);
}

static uint64_t features(void *dev)
{
	const struct virtio_net *net = dev;

	return BIT(VIRTIO_NET_F_MAC) | BIT(VIRTIO_NET_F_STATUS) | BIT(VIRTIO_NET_F_MRG_RXBUF) |
	       BIT(VIRTIO_NET_F_CSUM) | BIT(VIRTIO_NET_F_HOST_TSO4) | BIT(VIRTIO_NET_F_HOST_TSO6) |
	       BIT(VIRTIO_NET_F_HOST_ECN) | BIT(VIRTIO_NET_F_GUEST_CSUM) | BIT(VIRTIO_NET_F_GUEST_TSO4) |
	       BIT(VIRTIO_NET_F_GUEST_TSO6) | BIT(VIRTIO_NET_F_GUEST_ECN) |
	       (le16_get(&net->config.mtu) ? BIT(VIRTIO_NET_F_MTU) : 0);
}

/* Which feature is nothing without one of which others (virtio 1.2, 5.1.3.1). */
static const struct {
	unsigned feature;
	uint64_t needs;
} feature_needs[] = {
	{VIRTIO_NET_F_GUEST_TSO4, BIT(VIRTIO_NET_F_GUEST_CSUM)},
	{VIRTIO_NET_F_GUEST_TSO6, BIT(VIRTIO_NET_F_GUEST_CSUM)},
	{VIRTIO_NET_F_GUEST_ECN, BIT(VIRTIO_NET_F_GUEST_TSO4) | BIT(VIRTIO_NET_F_GUEST_TSO6)},
	{VIRTIO_NET_F_HOST_TSO4, BIT(VIRTIO_NET_F_CSUM)},
	{VIRTIO_NET_F_HOST_TSO6, BIT(VIRTIO_NET_F_CSUM)},
	{VIRTIO_NET_F_HOST_ECN, BIT(VIRTIO_NET_F_HOST_TSO4) | BIT(VIRTIO_NET_F_HOST_TSO6)},
};

static void set_offload(struct virtio_net *net)
{
	unsigned offload = (net_has(net, VIRTIO_NET_F_GUEST_CSUM) ? TAP_OFFLOAD_CSUM : 0) |
			   (net_has(net, VIRTIO_NET_F_GUEST_TSO4) ? TAP_OFFLOAD_TSO4 : 0) |
			   (net_has(net, VIRTIO_NET_F_GUEST_TSO6) ? TAP_OFFLOAD_TSO6 : 0) |
			   (net_has(net, VIRTIO_NET_F_GUEST_ECN) ? TAP_OFFLOAD_ECN : 0);

	if (tap_set_offload(&net->tap, offload) < 0) {
		/* The tap is gone, which its events tell. Frames with offloads that the guest does not take are
		 * dropped in any case. */
	}
}

static void activate(void *dev, uint64_t negotiated)
{
	struct virtio_net *net = dev;

	for (size_t i = 0; i < ARRAY_SIZE(feature_needs); i++)
		if (!(negotiated & feature_needs[i].needs))
			negotiated &= ~BIT(feature_needs[i].feature);
	net->features = negotiated;
	set_offload(net);
}

static void queue_notify(void *dev, unsigned queue)
{
	struct virtio_net *net = dev;

	if (net->resume_ns[queue])
		return; /* the timer's turn */
	if (queue == NET_RX && net->source)
		net_rx_run(net);
	else if (queue == NET_TX && !(net->events & EPOLLOUT))
		net_tx_run(net);
}

static void reset(void *dev)
{
	struct virtio_net *net = dev;

	set_events(net, 0);
	memset(net->resume_ns, 0, sizeof(net->resume_ns));
	net_rx_reset(&net->rx);
	net->features = 0;
	set_offload(net);
}

static const struct virtio_device_ops net_device_ops = {
	.name = "virtio-net",
	.device_id = VIRTIO_ID_OF_NET,
	.queue_count = NET_QUEUES,
	.queue_size_max = {[NET_RX] = NET_QUEUE_SIZE, [NET_TX] = NET_QUEUE_SIZE},
	.features = features,
	.config_offset = offsetof(struct virtio_net, config),
	.config_bytes = sizeof(((struct virtio_net *)0)->config),
	.activate = activate,
	.queue_notify = queue_notify,
	.reset = reset,
};

static void config_init(struct virtio_net *net, const struct virtio_net_options *options)
{
	memcpy(net->config.mac, options->mac, sizeof(net->config.mac));
	le16_put(&net->config.status, VIRTIO_NET_S_LINK_UP);
	le16_put(&net->config.max_virtqueue_pairs, 1);
	le16_put(&net->config.mtu, (uint16_t)options->mtu);
	memcpy(net->stats.mac, options->mac, sizeof(net->stats.mac));
	net->stats.mtu = options->mtu;
	net->stats.link = true;
	for (unsigned i = 0; i < NET_QUEUES; i++)
		rate_limit_init(&net->limits[i], &options->rate, clock_now_ns());
}

int virtio_net_new(const struct virtio_net_options *options, struct tap *tap, const struct guest_memory *mem,
		   struct io_loop *loop, const struct irq_line *irq, struct virtio_net **ret)
{
	cleanup(virtio_net_free_p) struct virtio_net *net = calloc(1, sizeof(*net));
	int r;

	if (!net)
		return -ENOMEM;
	net->tap.fd = -1;
	config_init(net, options);
	net->rx.late = malloc(NET_MESSAGE_MAX + 1);
	if (!net->rx.late)
		return -ENOMEM;
	r = virtio_mmio_new(&net_device_ops, net, mem, loop, irq, &net->mmio);
	if (r < 0)
		return r;
	if (rate_limit_is_set(&net->limits[0])) {
		r = io_timer_new(loop, timer_fired, net, &net->timer);
		if (r < 0)
			return r;
	}
	r = io_source_new(loop, tap->fd, 0, tap_ready, net, &net->source);
	if (r < 0)
		return r;
	net->tap = *tap;
	tap->fd = -1;
	*ret = TAKE_PTR(net);
	return 0;
}

void virtio_net_free(struct virtio_net *net)
{
	if (!net)
		return;
	io_source_free(net->source);
	io_source_free(net->timer);
	virtio_mmio_free(net->mmio);
	tap_done(&net->tap);
	free(net->rx.late);
	free(net);
}

struct virtio_mmio *virtio_net_mmio(struct virtio_net *net)
{
	return net->mmio;
}

const char *virtio_net_tap_name(const struct virtio_net *net)
{
	return net->tap.name;
}

void virtio_net_stats(struct virtio_net *net, struct virtio_net_stats *ret)
{
	virtio_mmio_lock(net->mmio);
	*ret = net->stats;
	virtio_mmio_unlock(net->mmio);
	virtio_mmio_counters(net->mmio, &ret->virtio);
}

DEFINE_SYSCALLS(virtio_net_syscalls, SYSCALL(readv), SYSCALL(writev), SYSCALL_IF(ioctl, 1, TUNSETOFFLOAD));
