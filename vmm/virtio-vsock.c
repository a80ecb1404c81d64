/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-vsock: the queues, the clock and the limits. */
/*
 * Theory of operation
 *
 * Queue 0 holds the guest's buffers for packets to it, queue 1 packets from it, queue 2 buffers for events, of which there are
 * none (the one that exists tells of a migration). What a connection is, is in vsock-connection.c; which packet goes where, in
 * vsock-switch.c; what the host's programs see, in vsock-host.c. A round of the loop handles ROUND_PACKETS, and about
 * ROUND_BYTES, per direction. A chain that is no packet, or no room for one, breaks the device.
 *
 * Everything happens on the loop's thread under the device's lock, but for the reset, which a vCPU does.
 *
 * A device that is held, or whose driver is not up, takes and makes no packets; what the host's programs send waits
 * in their sockets, and patience with the guest does not run out.
 */
#include "vmm/virtio-vsock.h"

#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "base/size.h"
#include "vmm/vsock-switch.h"

enum vsock_queue { QUEUE_RX, QUEUE_TX, QUEUE_EVENT, VSOCK_QUEUES };

#define QUEUE_SIZE    128
#define ROUND_PACKETS 64
#define ROUND_BYTES   262144u

#define FEATURE_STREAM ((uint64_t)1 << 0) /* VIRTIO_VSOCK_F_STREAM (virtio 1.2, 5.10.3) */

/* virtio 1.2, 5.10.4. */
struct vsock_config {
	le64_t guest_cid;
};
_Static_assert(sizeof(struct vsock_config) == 8, "virtio 1.2, 5.10.4");

struct virtio_vsock {
	struct virtio_mmio *mmio;
	struct vsock_config config;
	struct vsock_switch sw;
	bool tx_stalled; /* until there is room for RSTs */

	struct io_source *tick; /* armed while anybody's patience runs */
	bool ticking;
	struct io_source *soon; /* frees the dead, and looks at the queues again */
	struct rate_limit limit;

	uint64_t throttled;
};

/* Whether packets have to wait for the limits; then the timer looks again. */
static bool must_wait(struct virtio_vsock *v)
{
	uint64_t ns = rate_limit_is_set(&v->limit) ? rate_limit_wait_ns(&v->limit, clock_now_ns()) : 0;

	if (ns == 0)
		return false;
	v->throttled++;
	(void)!io_timer_set(v->soon, ns);
	return true;
}

/* After anything has happened. */
static void settle(struct virtio_vsock *v)
{
	if (vsock_switch_settle(&v->sw) && !v->ticking)
		v->ticking = io_timer_set(v->tick, VSOCK_TICK_NS) == 0;
}

enum taken { TAKEN, NONE_THERE, NOT_NOW, TX_BROKEN };

static enum taken take_one(struct virtio_vsock *v, struct virtqueue *vq, uint64_t *bytes)
{
	struct iovec room[QUEUE_SIZE], *iov = room;
	struct virtqueue_chain chain;
	struct vsock_packet p;
	uint8_t wire[VSOCK_WIRE_BYTES];
	int r = virtqueue_pop(vq, iov, QUEUE_SIZE, &chain);

	if (r == 0)
		return NONE_THERE;
	if (r < 0 || chain.writable || chain.readable_bytes < sizeof(wire)) {
		virtio_mmio_break(v->mmio, r < 0 ? vq->broken : "vsock packet without a header");
		return TX_BROKEN;
	}
	v->tx_stalled = vsock_switch_is_full(&v->sw);
	if (v->tx_stalled || must_wait(v)) {
		virtqueue_unpop(vq);
		return NOT_NOW;
	}
	iov_copy_out(iov, chain.readable, 0, wire, sizeof(wire));
	p = vsock_packet_decode(wire);
	if (p.len > chain.readable_bytes - sizeof(wire)) {
		virtio_mmio_break(v->mmio, "vsock packet shorter than it says");
		return TX_BROKEN;
	}
	iov_trim_front(&iov, &chain.readable, sizeof(wire));
	vsock_switch_take(&v->sw, &p, iov, chain.readable);
	rate_limit_take(&v->limit, p.len);
	*bytes += p.len;
	virtio_mmio_count_requests(v->mmio, 1);
	virtqueue_push(vq, chain.head, 0);
	return TAKEN;
}

static void process_tx(struct virtio_vsock *v)
{
	struct virtqueue *vq = virtio_mmio_queue(v->mmio, QUEUE_TX);
	uint64_t bytes = 0;
	unsigned packets = 0;
	enum taken taken;

	do {
		taken = TAKEN;
		virtqueue_kicks_off(vq);
		while (packets < ROUND_PACKETS && bytes < ROUND_BYTES && taken == TAKEN) {
			taken = take_one(v, vq, &bytes);
			packets += taken == TAKEN;
		}
		/* Not now: the timer, or an RST that goes out, comes back for what waits. */
	} while (taken == NONE_THERE && virtqueue_kicks_on(vq));
	if (taken == TAKEN)
		virtio_mmio_again(v->mmio, QUEUE_TX);
	virtio_mmio_signal(v->mmio, QUEUE_TX);
}

enum made { MADE_ONE, MADE_NONE, NO_BUFFER, RX_BROKEN };

static enum made make_one(struct virtio_vsock *v, struct virtqueue *vq, uint64_t *bytes)
{
	struct iovec header[QUEUE_SIZE], room[QUEUE_SIZE], *iov = room;
	struct virtqueue_chain chain;
	struct vsock_packet p;
	uint8_t wire[VSOCK_WIRE_BYTES];
	unsigned count;
	int r = virtqueue_pop(vq, header, QUEUE_SIZE, &chain);

	if (r == 0)
		return NO_BUFFER;
	if (r < 0 || chain.readable || chain.writable_bytes <= sizeof(wire)) {
		virtio_mmio_break(v->mmio, r < 0 ? vq->broken : "vsock buffer too small for a packet");
		return RX_BROKEN;
	}
	count = chain.writable;
	memcpy(room, header, count * sizeof(*room));
	iov_trim_front(&iov, &count, sizeof(wire));
	if (!vsock_switch_next(&v->sw, iov, count, &p)) {
		virtqueue_unpop(vq);
		return MADE_NONE;
	}
	vsock_packet_encode(&p, wire);
	iov_copy_in(header, chain.writable, wire, sizeof(wire));
	rate_limit_take(&v->limit, p.len);
	*bytes += p.len;
	virtio_mmio_count_requests(v->mmio, 1);
	virtqueue_push(vq, chain.head, (uint32_t)sizeof(wire) + p.len);
	return MADE_ONE;
}

static void process_rx(struct virtio_vsock *v)
{
	struct virtqueue *vq = virtio_mmio_queue(v->mmio, QUEUE_RX);
	enum made made = MADE_ONE;
	uint64_t bytes = 0;
	unsigned packets = 0;

	virtqueue_kicks_off(vq);
	while (vsock_switch_has_packet(&v->sw) && made == MADE_ONE && !must_wait(v)) {
		if (packets == ROUND_PACKETS || bytes >= ROUND_BYTES) {
			virtio_mmio_again(v->mmio, QUEUE_RX);
			break;
		}
		made = make_one(v, vq, &bytes);
		packets += made == MADE_ONE;
		/* Only one who waits for buffers wants to hear of them. */
		if (made == NO_BUFFER && virtqueue_kicks_on(vq)) {
			virtqueue_kicks_off(vq);
			made = MADE_ONE;
		}
	}
	if (v->tx_stalled && !vsock_switch_is_full(&v->sw))
		virtio_mmio_again(v->mmio, QUEUE_TX);
	virtio_mmio_signal(v->mmio, QUEUE_RX);
}

static void queue_notify(void *dev, unsigned queue)
{
	struct virtio_vsock *v = dev;

	vsock_switch_bury(&v->sw);
	if (queue == QUEUE_TX)
		process_tx(v);
	/* Nothing of ours goes into the event queue. */
	if (queue != QUEUE_EVENT && virtio_mmio_may_take(v->mmio))
		process_rx(v);
	settle(v);
}

/* Context: the loop's thread, as all below that come from it. */
static void host_ready(void *arg, uint32_t events)
{
	struct vsock_connection *c = arg;
	struct virtio_vsock *v = c->owner;

	virtio_mmio_lock(v->mmio);
	if (c->state == VSOCK_GONE) { /* by a reset */
		vsock_switch_bury(&v->sw);
		virtio_mmio_unlock(v->mmio);
		return;
	}
	vsock_switch_host_event(&v->sw, c, events, virtio_mmio_running(v->mmio));
	if (virtio_mmio_may_take(v->mmio))
		process_rx(v);
	settle(v);
	virtio_mmio_unlock(v->mmio);
}

static void host_came(void *arg, int fd)
{
	struct virtio_vsock *v = arg;

	virtio_mmio_lock(v->mmio);
	vsock_switch_add_program(&v->sw, fd);
	settle(v);
	virtio_mmio_unlock(v->mmio);
}

static void tick(void *arg, uint32_t events)
{
	struct virtio_vsock *v = arg;

	(void)events;
	virtio_mmio_lock(v->mmio);
	v->ticking = false;
	vsock_switch_tick(&v->sw, virtio_mmio_may_take(v->mmio));
	if (virtio_mmio_may_take(v->mmio))
		process_rx(v);
	settle(v);
	virtio_mmio_unlock(v->mmio);
}

static void look_again(void *arg, uint32_t events)
{
	struct virtio_vsock *v = arg;

	(void)events;
	virtio_mmio_lock(v->mmio);
	vsock_switch_bury(&v->sw);
	if (virtio_mmio_may_take(v->mmio)) {
		process_tx(v);
		process_rx(v);
	}
	settle(v);
	virtio_mmio_unlock(v->mmio);
}

static uint64_t features(void *dev)
{
	(void)dev;
	return FEATURE_STREAM;
}

/* Context: a vCPU's thread, under the lock. */
static void reset(void *dev)
{
	struct virtio_vsock *v = dev;

	vsock_switch_drop(&v->sw);
	v->tx_stalled = false;
	/* Should this fail, the next event frees them. */
	(void)!io_timer_set(v->soon, 1);
}

static const struct virtio_device_ops vsock_device_ops = {
	.name = "virtio-vsock",
	.device_id = VIRTIO_ID_OF_VSOCK,
	.queue_count = VSOCK_QUEUES,
	.queue_size_max = {[QUEUE_RX] = QUEUE_SIZE, [QUEUE_TX] = QUEUE_SIZE, [QUEUE_EVENT] = QUEUE_SIZE},
	.features = features,
	.config_offset = offsetof(struct virtio_vsock, config),
	.config_bytes = sizeof(((struct virtio_vsock *)0)->config),
	.queue_notify = queue_notify,
	.reset = reset,
};

int virtio_vsock_new(const struct virtio_vsock_options *options, const struct guest_memory *mem,
		     struct io_loop *loop, const struct irq_line *irq, struct errmsg *err,
		     struct virtio_vsock **ret)
{
	cleanup(virtio_vsock_free_p) struct virtio_vsock *v = calloc(1, sizeof(*v));
	int r;

	if (!v)
		return -ENOMEM;
	v->sw = (struct vsock_switch){.loop = loop, .owner = v, .ready = host_ready, .cid = options->cid};
	v->config.guest_cid = (le64_t){htole64(options->cid)};
	rate_limit_init(&v->limit, &options->rate, clock_now_ns());
	r = io_timer_new(loop, tick, v, &v->tick);
	if (r == 0)
		r = io_timer_new(loop, look_again, v, &v->soon);
	if (r == 0)
		r = virtio_mmio_new(&vsock_device_ops, v, mem, loop, irq, &v->mmio);
	if (r == 0)
		r = vsock_switch_init(&v->sw, options->path, host_came, err);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(v);
	return 0;
}

void virtio_vsock_free(struct virtio_vsock *v)
{
	if (!v)
		return;
	vsock_switch_done(&v->sw);
	io_source_free(v->tick);
	io_source_free(v->soon);
	virtio_mmio_free(v->mmio);
	free(v);
}

struct virtio_mmio *virtio_vsock_mmio(struct virtio_vsock *v)
{
	return v->mmio;
}

void virtio_vsock_leave_file(struct virtio_vsock *v)
{
	vsock_host_leave_file(v->sw.host);
}

int virtio_vsock_set_folder(struct virtio_vsock *v, const char *folder)
{
	return vsock_host_set_folder(v->sw.host, folder);
}

void virtio_vsock_stats(struct virtio_vsock *v, struct virtio_vsock_stats *ret)
{
	virtio_mmio_lock(v->mmio);
	*ret = (struct virtio_vsock_stats){
		.cid = v->sw.cid,
		.connections = v->sw.made,
		.open = v->sw.count,
		.totals = v->sw.totals,
		.throttled = v->throttled,
	};
	virtio_mmio_unlock(v->mmio);
	virtio_mmio_counters(v->mmio, &ret->virtio);
}
