/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-rng: one queue of buffers, filled from the kernel's random numbers. */
/*
 * Theory of operation
 *
 * A chain is writable buffers; they are filled from the front by getrandom(2), which never blocks here, straight
 * into guest memory. What a guest may cost is bounded: RNG_REQUEST_BYTES_MAX per request (the used length tells the
 * driver how much of a longer buffer was filled; virtio 1.2, 5.4.6.1 asks for at least one byte), ROUND_BYTES and
 * ROUND_CHAINS per round of the loop.
 *
 * A chain is taken only when it can be answered at once, so nothing is in flight between two calls: when there
 * are no bytes, or the limits (bw=, iops=) say later, the chain stays in the ring and a timer looks again. The driver
 * waits; it has asked for bytes and nothing else would do. A reset does not refill the buckets.
 *
 * A chain without a writable byte, or with a readable one, breaks the device (5.4.6.1: a driver must not).
 */
#include "vmm/virtio-rng.h"
#include "base/clock.h"
#include "base/planted.h"

#include <errno.h>
#include <sys/random.h>

#define QUEUE_SIZE   64
#define ROUND_CHAINS 16
#define ROUND_BYTES  16384u

/* Without random numbers in the kernel (early after the host's boot) look again after so long. */
#define NO_DATA_NS 20000000u

struct virtio_rng {
	struct virtio_mmio *mmio;
	struct virtio_rng_options options;
	struct io_source *timer; /* looks at the queue again */
	struct rate_limit limit;
	bool waiting;	      /* a chain was left in the ring, for the timer */
	uint64_t round_bytes; /* given in this round */
	uint64_t bytes;
	uint64_t no_data;
	uint64_t throttled;
};

static ssize_t fill_from_kernel(void *arg, void *buf, size_t len)
{
	ssize_t n = getrandom(buf, len, GRND_NONBLOCK);

	(void)arg;
	return n < 0 ? -errno : n;
}

static void reset(void *dev)
{
	struct virtio_rng *rng = dev;

	/* Should this fail, the timer finds a queue that is not enabled. */
	(void)!io_timer_set(rng->timer, 0);
	rng->waiting = false;
}

/* Leave the chain in the ring until later. Return: 0. */
static int wait_for(struct virtio_rng *rng, struct virtqueue *vq, uint64_t ns)
{
	virtqueue_unpop(vq);
	rng->waiting = true;
	/* Without a timer the driver waits for its next kick. */
	(void)!io_timer_set(rng->timer, ns);
	return 0;
}

/* Fill a buffer as far as there are bytes. Return: bytes, or the errno of having none at all. */
static ssize_t fill(struct virtio_rng *rng, void *buf, size_t len)
{
	size_t done = 0;

	while (done < len) {
		ssize_t n = rng->options.fill(rng->options.arg, (char *)buf + done, len - done);

		if (n == -EINTR)
			continue;
		if (n <= 0)
			return done ? (ssize_t)done : n;
		done += (size_t)n;
	}
	return (ssize_t)done;
}

/* Fill what is writable from the front. Return: bytes, 0 when the kernel has none now. */
static uint32_t fill_chain(struct virtio_rng *rng, const struct iovec *iov, unsigned count)
{
	uint32_t done = 0;

	for (unsigned i = 0; i < count && done < RNG_REQUEST_BYTES_MAX; i++) {
		size_t left = RNG_REQUEST_BYTES_MAX - done;
		size_t len = iov[i].iov_len < left || PLANTED("virtio_rng") ? iov[i].iov_len : left;
		ssize_t n = fill(rng, iov[i].iov_base, len);

		if (n <= 0)
			break;
		done += (uint32_t)n;
		if ((size_t)n < len)
			break;
	}
	return done;
}

/* Return: 1 when a request was answered, 0 when there is none that can be now, negative when the device broke. */
static int handle_one(struct virtio_rng *rng, struct virtqueue *vq)
{
	struct iovec iov[QUEUE_SIZE];
	struct virtqueue_chain chain;
	uint32_t written;
	uint64_t wait_ns;
	int r = virtqueue_pop(vq, iov, QUEUE_SIZE, &chain);

	if (r == 0)
		return 0;
	if (r < 0 || chain.readable || !chain.writable) {
		virtio_mmio_break(rng->mmio, r < 0 ? vq->broken : "rng buffer with a readable part");
		return -EPROTO;
	}
	wait_ns = rate_limit_is_set(&rng->limit) ? rate_limit_wait_ns(&rng->limit, clock_now_ns()) : 0;
	if (wait_ns) {
		rng->throttled++;
		return wait_for(rng, vq, wait_ns);
	}
	written = fill_chain(rng, iov, chain.writable);
	if (written == 0) {
		rng->no_data++;
		return wait_for(rng, vq, NO_DATA_NS);
	}
	rate_limit_take(&rng->limit, written);
	rng->bytes += written;
	rng->round_bytes += written;
	virtio_mmio_count_requests(rng->mmio, 1);
	virtqueue_push(vq, chain.head, written);
	return 1;
}

static void process_queue(struct virtio_rng *rng)
{
	struct virtqueue *vq = virtio_mmio_queue(rng->mmio, 0);
	unsigned chains = 0;

	rng->round_bytes = 0;
	rng->waiting = false;
	do {
		int r = 1;

		virtqueue_kicks_off(vq);
		while (chains < ROUND_CHAINS && rng->round_bytes < ROUND_BYTES && r > 0) {
			r = handle_one(rng, vq);
			if (r < 0)
				return;
			chains += r > 0;
		}
		if (r > 0) {
			virtio_mmio_again(rng->mmio, 0);
			break;
		}
		/* The chain that waits is in the ring still: the timer comes back for it. */
	} while (!rng->waiting && virtqueue_kicks_on(vq));
	virtio_mmio_signal(rng->mmio, 0);
}

static void queue_notify(void *dev, unsigned queue)
{
	(void)queue;
	process_queue(dev);
}

/* Context: the I/O thread. */
static void look_again(void *arg, uint32_t events)
{
	struct virtio_rng *rng = arg;

	(void)events;
	virtio_mmio_lock(rng->mmio);
	/* A device that is held gets a kick when it is released. */
	if (virtio_mmio_may_take(rng->mmio))
		process_queue(rng);
	virtio_mmio_unlock(rng->mmio);
}

static const struct virtio_device_ops rng_device_ops = {
	.name = "virtio-rng",
	.device_id = VIRTIO_ID_OF_RNG,
	.queue_count = 1,
	.queue_size_max = {QUEUE_SIZE},
	.queue_notify = queue_notify,
	.reset = reset,
};

int virtio_rng_new(const struct virtio_rng_options *options, const struct guest_memory *mem,
		   struct io_loop *loop, const struct irq_line *irq, struct virtio_rng **ret)
{
	cleanup(virtio_rng_free_p) struct virtio_rng *rng = calloc(1, sizeof(*rng));
	int r;

	if (!rng)
		return -ENOMEM;
	rng->options = *options;
	if (!rng->options.fill)
		rng->options.fill = fill_from_kernel;
	rate_limit_init(&rng->limit, &options->rate, clock_now_ns());
	r = io_timer_new(loop, look_again, rng, &rng->timer);
	if (r < 0)
		return r;
	r = virtio_mmio_new(&rng_device_ops, rng, mem, loop, irq, &rng->mmio);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(rng);
	return 0;
}

void virtio_rng_free(struct virtio_rng *rng)
{
	if (!rng)
		return;
	io_source_free(rng->timer);
	virtio_mmio_free(rng->mmio);
	free(rng);
}

struct virtio_mmio *virtio_rng_mmio(struct virtio_rng *rng)
{
	return rng->mmio;
}

void virtio_rng_stats(struct virtio_rng *rng, struct virtio_rng_stats *ret)
{
	virtio_mmio_lock(rng->mmio);
	ret->bytes = rng->bytes;
	ret->no_data = rng->no_data;
	ret->throttled = rng->throttled;
	virtio_mmio_unlock(rng->mmio);
	virtio_mmio_counters(rng->mmio, &ret->virtio);
}

DEFINE_SYSCALLS(virtio_rng_syscalls, SYSCALL(getrandom));
