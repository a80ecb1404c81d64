/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-balloon: inflate and deflate queues, target and actual size. */
/*
 * Theory of operation
 *
 * Queue 0 inflates, queue 1 deflates. A chain is a message: frame numbers, 32 bits each, little-endian,
 * read-only for us. Inflated frames are given back through guest_memory_discard() *before* the used entry is
 * published: a driver that sees it may count on the host having the memory, and on reading zeroes later.
 *
 * VIRTIO_BALLOON_F_MUST_TELL_HOST is not offered. It would oblige a driver to announce a deflate before it
 * touches the frames; we do not need to know: a discarded frame is populated by the first touch, whatever we
 * were told, and the account of ballooned frames never makes us discard anything later. (Linux announces
 * first anyway.) A frame that was taken out, used, and announced late is thus merely counted late.
 *
 * A guest inflating a frame twice, or one that holds its kernel: it is the guest's memory, and reads as zero
 * afterwards. A frame number outside RAM is counted and ignored: a guest may well believe in RAM that we do
 * not have (hot-plugged, in the hole), and nothing follows from it. A message that is no list of frame
 * numbers (empty, not a multiple of 4 bytes, above BALLOON_MESSAGE_FRAMES_MAX, with a writable part) breaks
 * the device.
 *
 * A reset of the device means that the driver is gone and that all frames are the guest's again: the account
 * is emptied, `actual` is 0, and the target stays.
 *
 * Room left: statistics, reporting and hinting are further queues; deflate-on-OOM and poison further feature
 * bits and configuration fields.
 */
#include "vmm/virtio-balloon.h"

#include <errno.h>
#include <string.h>

#include "base/bytes.h"

enum balloon_queue { QUEUE_INFLATE, QUEUE_DEFLATE, BALLOON_QUEUES };

#define QUEUE_SIZE 128

/* Chains taken in one go, so that a guest that never stops cannot hold the I/O thread. */
#define ROUND_CHAINS 4

/* virtio 1.2, 5.5.4. */
struct balloon_config {
	le32_t num_pages;
	le32_t actual;
};
_Static_assert(sizeof(struct balloon_config) == 8, "virtio 1.2, 5.5.4");

struct virtio_balloon {
	struct virtio_mmio *mmio;
	struct guest_memory *mem;
	struct balloon *balloon;
	struct balloon_config config;
	uint32_t pfns[BALLOON_MESSAGE_FRAMES_MAX]; /* a message, while it is worked on */
};

static uint64_t no_features(void *dev)
{
	(void)dev;
	return 0;
}

static void config_read(void *dev, uint32_t offset, uint8_t *data, uint32_t len)
{
	const struct virtio_balloon *b = dev;

	for (uint32_t i = 0; i < len && offset + i < sizeof(b->config); i++)
		data[i] = ((const uint8_t *)&b->config)[offset + i];
}

static int config_write(void *dev, uint32_t offset, const uint8_t *data, uint32_t len)
{
	struct virtio_balloon *b = dev;
	struct balloon_config config = b->config;

	if (offset >= sizeof(config) || len > sizeof(config) - offset)
		return -EINVAL;
	/* `actual` is the driver's, the target is not. Linux writes it in one go. */
	if (offset < offsetof(struct balloon_config, actual))
		return 0;
	memcpy((uint8_t *)&config + offset, data, len);
	if (le32_get(&config.actual) <= guest_memory_bytes(b->mem) >> PAGE_SHIFT)
		b->config = config;
	return 0;
}

static void activate(void *dev, uint64_t features)
{
	(void)dev;
	(void)features;
}

/* Every operation is finished when the function that began it returns. */
static void nothing_to_drain(void *dev)
{
	(void)dev;
}

static void reset(void *dev)
{
	struct virtio_balloon *b = dev;

	balloon_reset(b->balloon);
	le32_put(&b->config.actual, 0);
}

/* Return: NULL, or how the driver broke the rules. */
static const char *take_message(struct virtio_balloon *b, enum balloon_queue queue, const struct iovec *iov,
				const struct virtqueue_chain *chain)
{
	size_t count = chain->readable_bytes / sizeof(uint32_t);
	int r;

	if (chain->writable)
		return "balloon message with a writable part";
	if (count == 0 || chain->readable_bytes % sizeof(uint32_t))
		return "balloon message is no list of frame numbers";
	if (count > BALLOON_MESSAGE_FRAMES_MAX)
		return "balloon message too long";
	iov_copy_out(iov, chain->readable, 0, b->pfns, chain->readable_bytes);
	for (size_t i = 0; i < count; i++)
		b->pfns[i] = le32toh(b->pfns[i]);
	if (queue == QUEUE_INFLATE)
		r = balloon_inflate(b->balloon, b->pfns, count);
	else
		r = balloon_deflate(b->balloon, b->pfns, count);
	return r < 0 ? "balloon message too long" : NULL;
}

/* Return: 1 when a message was handled, 0 when there is none, negative when the device broke. */
static int handle_one(struct virtio_balloon *b, enum balloon_queue queue, struct virtqueue *vq)
{
	struct iovec iov[QUEUE_SIZE];
	struct virtqueue_chain chain;
	const char *why;
	int r = virtqueue_pop(vq, iov, QUEUE_SIZE, &chain);

	if (r == 0)
		return 0;
	why = r < 0 ? vq->broken : take_message(b, queue, iov, &chain);
	if (why) {
		virtio_mmio_break(b->mmio, why);
		return -EPROTO;
	}
	virtio_mmio_count_requests(b->mmio, 1);
	virtqueue_push(vq, chain.head, 0);
	return 1;
}

static void queue_notify(void *dev, unsigned queue)
{
	struct virtio_balloon *b = dev;
	struct virtqueue *vq = virtio_mmio_queue(b->mmio, queue);
	unsigned chains = 0;

	do {
		int r;

		virtqueue_kicks_off(vq);
		while (chains < ROUND_CHAINS && (r = handle_one(b, queue, vq)) != 0) {
			if (r < 0)
				return;
			chains++;
		}
		if (chains == ROUND_CHAINS) {
			virtio_mmio_again(b->mmio, queue);
			break;
		}
	} while (virtqueue_kicks_on(vq));
	virtio_mmio_signal(b->mmio, queue);
}

static const struct virtio_device_ops balloon_device_ops = {
	.name = "virtio-balloon",
	.device_id = VIRTIO_ID_OF_BALLOON,
	.queue_count = BALLOON_QUEUES,
	.queue_size_max = {[QUEUE_INFLATE] = QUEUE_SIZE, [QUEUE_DEFLATE] = QUEUE_SIZE},
	.features = no_features,
	.config_read = config_read,
	.config_write = config_write,
	.activate = activate,
	.queue_notify = queue_notify,
	.drain = nothing_to_drain,
	.reset = reset,
};

static int discard(void *arg, gfn_t first, uint64_t frames, unsigned *ret_calls)
{
	return guest_memory_discard(arg, first, frames, ret_calls);
}

static const struct balloon_ops balloon_memory_ops = {.discard = discard};

int virtio_balloon_new(struct guest_memory *mem, struct io_loop *loop, const struct irq_line *irq,
		       struct virtio_balloon **ret)
{
	cleanup(virtio_balloon_free_p) struct virtio_balloon *b = calloc(1, sizeof(*b));
	struct balloon_region regions[GUEST_MEMORY_REGIONS_MAX];
	size_t count = guest_memory_region_count(mem);
	int r;

	if (!b)
		return -ENOMEM;
	b->mem = mem;
	for (size_t i = 0; i < count; i++) {
		const struct guest_region *region = guest_memory_region(mem, i);

		regions[i] = (struct balloon_region){gpa_to_gfn(region->gpa), region->bytes >> PAGE_SHIFT};
	}
	r = balloon_new(regions, count, &balloon_memory_ops, mem, &b->balloon);
	if (r < 0)
		return r;
	r = virtio_mmio_new(&balloon_device_ops, b, mem, loop, irq, &b->mmio);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(b);
	return 0;
}

void virtio_balloon_free(struct virtio_balloon *b)
{
	if (!b)
		return;
	virtio_mmio_free(b->mmio);
	balloon_free(b->balloon);
	free(b);
}

struct virtio_mmio *virtio_balloon_mmio(struct virtio_balloon *b)
{
	return b->mmio;
}

int virtio_balloon_set_target(struct virtio_balloon *b, uint64_t bytes)
{
	if (bytes > guest_memory_bytes(b->mem))
		return -EINVAL;
	virtio_mmio_lock(b->mmio);
	le32_put(&b->config.num_pages, (uint32_t)(bytes >> PAGE_SHIFT));
	virtio_mmio_config_changed(b->mmio);
	virtio_mmio_unlock(b->mmio);
	return 0;
}

void virtio_balloon_stats(struct virtio_balloon *b, struct virtio_balloon_stats *ret)
{
	virtio_mmio_lock(b->mmio);
	ret->target_bytes = (uint64_t)le32_get(&b->config.num_pages) << PAGE_SHIFT;
	ret->actual_bytes = (uint64_t)le32_get(&b->config.actual) << PAGE_SHIFT;
	balloon_counters(b->balloon, &ret->balloon);
	virtio_mmio_unlock(b->mmio);
	virtio_mmio_counters(b->mmio, &ret->virtio);
}
