/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-balloon: inflate and deflate queues, target and actual size, statistics, free page reporting. */
/*
 * Theory of operation
 *
 * Queue 0 inflates, queue 1 deflates. A chain is a message: frame numbers, 32 bits each, little-endian,
 * read-only for us. Inflated frames are given back through guest_memory_discard() *before* the used entry is
 * published: a driver that sees it may count on the host having the memory, and on reading zeroes later. One thing may
 * be finished later: huge pages that a message cut in two are split when the target is reached or statistics are read, and
 * not at each message, since the next one mostly drops the rest (guest_memory_settle()).
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
 * Statistics go the other way round: the driver makes one buffer available, with a first sample in it, and the device keeps
 * it. To ask for the next sample is to return it; the driver fills it anew and makes it available again. So one question is
 * under way at most, and nobody waits for its answer: who asks gets the last sample and its age.
 *
 * Free page reporting: each writable buffer of a chain is a range that the guest does not use now. Its bytes are never touched
 * through the ring (the range may lie anywhere: virtqueue_pop_ranges()); what is whole pages of RAM is given back like
 * inflated frames, before the used entry. The driver takes no such page into use before it has its entry back, so that
 * what it writes later is never lost. With page poison negotiated and a poison value that is not 0, the guest counts on finding
 * that value in its free pages: then reports are acknowledged and nothing is discarded.
 *
 * Which queue is which. The specification numbers them 2 statistics, 3 free page hinting, 4 reporting, whichever are there.
 * Linux over virtio-mmio counts only those that are there (drivers/virtio/virtio_mmio.c, vm_find_vqs: a queue without a name takes
 * no number), so that reporting is 3, or 2 without statistics. Since hinting is not offered, no number means two things, and
 * queue_role() takes both.
 *
 * Liveness (balloon/liveness.h) is worked out from the times of messages when somebody asks. There is no timer but that of
 * `stats_interval_s`.
 */
#include "vmm/virtio-balloon.h"

#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/planted.h"

#define BALLOON_QUEUES 5
#define QUEUE_STATS    2

#define QUEUE_SIZE 128

/* Chains taken in one go, so that a guest that never stops cannot hold the I/O thread. */
#define ROUND_CHAINS 4

/* Statistics are asked for at most this often, however many clients want them. */
#define STATS_ASK_NS ((uint64_t)1000000000)

/* What a queue is for. */
enum balloon_role { ROLE_NONE, ROLE_INFLATE, ROLE_DEFLATE, ROLE_STATS, ROLE_REPORT };

/* virtio 1.2, 5.5.4. */
struct balloon_config {
	le32_t num_pages;
	le32_t actual;
	le32_t free_page_hint_cmd_id;
	le32_t poison_val;
};
_Static_assert(sizeof(struct balloon_config) == 16, "virtio 1.2, 5.5.4");

struct virtio_balloon {
	struct virtio_mmio *mmio;
	struct guest_memory *mem;
	struct virtio_balloon_options options;
	struct io_source *stats_timer;

	/* Under the device's lock. */
	struct balloon *balloon;
	struct balloon_config config;
	struct balloon_motion motion;
	uint64_t features; /* negotiated; 0 while no driver is up */
	bool stats_held;   /* the driver's statistics buffer is ours: */
	uint16_t stats_head;
	uint64_t stats_asked_ns; /* 0: never */
	bool stats_known;
	struct guest_stats stats;
	uint64_t stats_ns; /* when they came */
	uint64_t stats_samples;
	uint64_t stats_ignored;
	uint32_t pfns[BALLOON_MESSAGE_FRAMES_MAX]; /* a message, while it is worked on */
};

static uint64_t features(void *dev)
{
	const struct virtio_balloon_options *o = &((const struct virtio_balloon *)dev)->options;

	return (o->stats ? VIRTIO_BALLOON_STATS_VQ : 0) |
	       (o->deflate_on_oom ? VIRTIO_BALLOON_DEFLATE_ON_OOM : 0) |
	       (o->poison ? VIRTIO_BALLOON_PAGE_POISON : 0) | (o->reporting ? VIRTIO_BALLOON_REPORTING : 0);
}

/* See "Which queue is which". */
static enum balloon_role queue_role(unsigned queue, uint64_t negotiated)
{
	enum balloon_role report = negotiated & VIRTIO_BALLOON_REPORTING ? ROLE_REPORT : ROLE_NONE;
	bool stats = negotiated & VIRTIO_BALLOON_STATS_VQ;

	switch (queue) {
	case 0:
		return ROLE_INFLATE;
	case 1:
		return ROLE_DEFLATE;
	case QUEUE_STATS:
		return stats ? ROLE_STATS : report;
	case 3:
		return stats ? report : ROLE_NONE;
	case 4:
		return report;
	default:
		return ROLE_NONE;
	}
}

static bool queue_exists(void *dev, unsigned queue, uint64_t negotiated)
{
	(void)dev;
	return queue_role(queue, negotiated) != ROLE_NONE;
}

static void config_write(void *dev, uint32_t offset, const uint8_t *data, uint32_t len)
{
	struct virtio_balloon *b = dev;
	struct balloon_config config = b->config;

	memcpy((uint8_t *)&config + offset, data, len);
	/* `actual` and the poison value are the driver's, the others are not. Linux writes each in one go. */
	if (le32_get(&config.actual) <= guest_memory_bytes(b->mem) >> PAGE_SHIFT)
		b->config.actual = config.actual;
	if (b->options.poison)
		b->config.poison_val = config.poison_val;
}

static void stats_timer_set(struct virtio_balloon *b, uint64_t after_s)
{
	if (b->options.stats_interval_s && io_timer_set(b->stats_timer, after_s * 1000000000) < 0) {
		/* Then statistics come on request only. */
	}
}

static void activate(void *dev, uint64_t negotiated)
{
	struct virtio_balloon *b = dev;

	b->features = negotiated;
	balloon_motion_driver(&b->motion, true, b->options.now_ns());
	if (negotiated & VIRTIO_BALLOON_STATS_VQ)
		stats_timer_set(b, b->options.stats_interval_s);
}

static void reset(void *dev)
{
	struct virtio_balloon *b = dev;

	balloon_reset(b->balloon);
	balloon_motion_driver(&b->motion, false, b->options.now_ns());
	le32_put(&b->config.actual, 0);
	le32_put(&b->config.poison_val, 0);
	b->features = 0;
	b->stats_held = false;
	b->stats_known = false;
	stats_timer_set(b, 0);
}

/* Return: NULL, or how the driver broke the rules. */
static const char *take_message(struct virtio_balloon *b, enum balloon_role role, const struct iovec *iov,
				const struct virtqueue_chain *chain)
{
	size_t count = chain->readable_bytes / sizeof(uint32_t);
	struct balloon_counters counters;
	int r;

	if (chain->writable)
		return "balloon message with a writable part";
	if (count == 0 || chain->readable_bytes % sizeof(uint32_t))
		return "balloon message is no list of frame numbers";
	if (count > BALLOON_MESSAGE_FRAMES_MAX && !PLANTED("virtio_balloon"))
		return "balloon message too long";
	iov_copy_out(iov, chain->readable, 0, b->pfns, chain->readable_bytes);
	for (size_t i = 0; i < count; i++)
		b->pfns[i] = le32toh(b->pfns[i]);
	if (role == ROLE_INFLATE)
		r = balloon_inflate(b->balloon, b->pfns, count);
	else
		r = balloon_deflate(b->balloon, b->pfns, count);
	balloon_counters(b->balloon, &counters);
	balloon_motion_frames(&b->motion, counters.frames, b->options.now_ns());
	if (role == ROLE_DEFLATE || counters.frames >= b->motion.target_frames)
		balloon_settle(b->balloon);
	return r < 0 ? "balloon message too long" : NULL;
}

/* What is no list of statistics is counted, and returned at the next question like any other. */
static void take_stats(struct virtio_balloon *b, const struct iovec *iov, const struct virtqueue_chain *chain)
{
	uint8_t message[(GUEST_STATS_ENTRIES_MAX + 1) * GUEST_STAT_BYTES];
	size_t bytes = iov_copy_out(iov, chain->readable, 0, message, sizeof(message));

	b->stats_ignored += guest_stats_parse(message, bytes, &b->stats) + chain->writable;
	b->stats_known = b->stats.known;
	b->stats_ns = b->options.now_ns();
	b->stats_samples++;
}

/* The outcome of taking a chain: below 0 is the queue's breach. Return: as handle_one(). */
static int taken(struct virtio_balloon *b, const struct virtqueue *vq, int r)
{
	if (r < 0)
		virtio_mmio_break(b->mmio, vq->broken);
	else if (r > 0)
		virtio_mmio_count_requests(b->mmio, 1);
	return r;
}

static int handle_message(struct virtio_balloon *b, enum balloon_role role, struct virtqueue *vq)
{
	struct iovec iov[QUEUE_SIZE];
	struct virtqueue_chain chain;
	const char *why;
	int r = taken(b, vq, virtqueue_pop(vq, iov, QUEUE_SIZE, &chain));

	if (r <= 0)
		return r;
	if (role == ROLE_STATS) {
		take_stats(b, iov, &chain);
		/* A driver has one buffer; one with more of them gets the older back. */
		if (b->stats_held)
			virtqueue_push(vq, b->stats_head, 0);
		b->stats_head = chain.head;
		b->stats_held = true;
		return 1;
	}
	why = take_message(b, role, iov, &chain);
	if (why) {
		virtio_mmio_break(b->mmio, why);
		return -EPROTO;
	}
	virtqueue_push(vq, chain.head, 0);
	return 1;
}

/* Whether free pages must keep what is in them. The value is ours: the driver wrote it to the configuration space. */
static bool is_poisoned(const struct virtio_balloon *b)
{
	return (b->features & VIRTIO_BALLOON_PAGE_POISON) && le32_get(&b->config.poison_val) != 0;
}

static int handle_report(struct virtio_balloon *b, struct virtqueue *vq)
{
	struct virtqueue_range named[QUEUE_SIZE];
	struct balloon_range ranges[QUEUE_SIZE];
	struct virtqueue_chain chain;
	int r = taken(b, vq, virtqueue_pop_ranges(vq, named, QUEUE_SIZE, &chain));

	if (r <= 0)
		return r;
	for (unsigned i = 0; i < chain.readable + chain.writable; i++) {
		ranges[i] = (struct balloon_range){named[i].first, named[i].bytes};
		if (i < chain.readable)
			ranges[i].bytes = 0; /* what the guest would have us read is no free memory */
	}
	balloon_report(b->balloon, ranges, chain.readable + chain.writable, is_poisoned(b));
	balloon_settle(b->balloon);
	virtqueue_push(vq, chain.head, 0);
	return 1;
}

/* Return: 1 when a chain was handled, 0 when there is none, negative when the device broke. */
static int handle_one(struct virtio_balloon *b, enum balloon_role role, struct virtqueue *vq)
{
	return role == ROLE_REPORT ? handle_report(b, vq) : handle_message(b, role, vq);
}

static void queue_notify(void *dev, unsigned queue)
{
	struct virtio_balloon *b = dev;
	struct virtqueue *vq = virtio_mmio_queue(b->mmio, queue);
	enum balloon_role role = queue_role(queue, b->features);
	unsigned chains = 0;

	do {
		int r;

		virtqueue_kicks_off(vq);
		while (chains < ROUND_CHAINS && (r = handle_one(b, role, vq)) != 0) {
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
	.queue_size_max = {QUEUE_SIZE, QUEUE_SIZE, QUEUE_SIZE, QUEUE_SIZE, QUEUE_SIZE},
	.features = features,
	.queue_exists = queue_exists,
	.config_offset = offsetof(struct virtio_balloon, config),
	.config_bytes = sizeof(((struct virtio_balloon *)0)->config),
	.config_write = config_write,
	.activate = activate,
	.queue_notify = queue_notify,
	.reset = reset,
};

static int discard(void *arg, gfn_t first, uint64_t frames, unsigned *ret_calls)
{
	return guest_memory_discard(arg, first, frames, ret_calls);
}

static unsigned settle(void *arg)
{
	return guest_memory_settle(arg);
}

static const struct balloon_ops balloon_memory_ops = {.discard = discard, .settle = settle};

/* Under the lock. */
static void ask(struct virtio_balloon *b)
{
	uint64_t now_ns = b->options.now_ns();

	if (!b->stats_held || !virtio_mmio_may_take(b->mmio))
		return;
	if (b->stats_asked_ns && now_ns - b->stats_asked_ns < STATS_ASK_NS)
		return;
	b->stats_asked_ns = now_ns;
	b->stats_held = false;
	virtqueue_push(virtio_mmio_queue(b->mmio, QUEUE_STATS), b->stats_head, 0);
	virtio_mmio_signal(b->mmio, QUEUE_STATS);
}

void virtio_balloon_ask(struct virtio_balloon *b)
{
	virtio_mmio_lock(b->mmio);
	ask(b);
	virtio_mmio_unlock(b->mmio);
}

/* Context: the loop's thread. */
static void on_stats_timer(void *arg, uint32_t events)
{
	struct virtio_balloon *b = arg;

	(void)events;
	virtio_mmio_lock(b->mmio);
	if (b->features & VIRTIO_BALLOON_STATS_VQ) {
		ask(b);
		stats_timer_set(b, b->options.stats_interval_s);
	}
	virtio_mmio_unlock(b->mmio);
}

static int account_new(struct virtio_balloon *b)
{
	struct balloon_region regions[GUEST_MEMORY_REGIONS_MAX];
	size_t count = guest_memory_region_count(b->mem);

	for (size_t i = 0; i < count; i++) {
		const struct guest_region *region = guest_memory_region(b->mem, i);

		regions[i] = (struct balloon_region){gpa_to_gfn(region->gpa), region->bytes >> PAGE_SHIFT};
	}
	return balloon_new(regions, count, &balloon_memory_ops, b->mem, &b->balloon);
}

/* Under the lock, or before there is anybody else. */
static void target_put(struct virtio_balloon *b, uint64_t bytes)
{
	le32_put(&b->config.num_pages, (uint32_t)(bytes >> PAGE_SHIFT));
	balloon_motion_target(&b->motion, bytes >> PAGE_SHIFT, b->options.now_ns());
}

int virtio_balloon_new(const struct virtio_balloon_options *options, struct guest_memory *mem,
		       struct io_loop *loop, const struct irq_line *irq, struct virtio_balloon **ret)
{
	cleanup(virtio_balloon_free_p) struct virtio_balloon *b = NULL;
	int r;

	if (options->target_bytes > guest_memory_bytes(mem))
		return -EINVAL;
	b = calloc(1, sizeof(*b));
	if (!b)
		return -ENOMEM;
	b->mem = mem;
	b->options = *options;
	if (!b->options.now_ns)
		b->options.now_ns = clock_now_ns;
	r = account_new(b);
	if (r < 0)
		return r;
	if (options->stats_interval_s) {
		r = io_timer_new(loop, on_stats_timer, b, &b->stats_timer);
		if (r < 0)
			return r;
	}
	r = virtio_mmio_new(&balloon_device_ops, b, mem, loop, irq, &b->mmio);
	if (r < 0)
		return r;
	target_put(b, options->target_bytes);
	*ret = TAKE_PTR(b);
	return 0;
}

void virtio_balloon_free(struct virtio_balloon *b)
{
	if (!b)
		return;
	io_source_free(b->stats_timer);
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
	target_put(b, bytes);
	virtio_mmio_config_changed(b->mmio);
	virtio_mmio_unlock(b->mmio);
	return 0;
}

void virtio_balloon_stats(struct virtio_balloon *b, struct virtio_balloon_stats *ret)
{
	struct balloon_motion motion;
	uint64_t now_ns;

	virtio_mmio_lock(b->mmio);
	now_ns = b->options.now_ns();
	motion = b->motion;
	motion.driver = motion.driver && virtio_mmio_running(b->mmio);
	*ret = (struct virtio_balloon_stats){
		.target_bytes = (uint64_t)le32_get(&b->config.num_pages) << PAGE_SHIFT,
		.actual_bytes = (uint64_t)le32_get(&b->config.actual) << PAGE_SHIFT,
		.liveness = balloon_liveness(&motion, now_ns),
		.guest_known = b->stats_known,
		.guest = b->stats,
		.guest_age_ns = b->stats_known ? now_ns - b->stats_ns : 0,
		.guest_samples = b->stats_samples,
		.guest_ignored = b->stats_ignored,
	};
	balloon_counters(b->balloon, &ret->balloon);
	virtio_mmio_unlock(b->mmio);
	virtio_mmio_counters(b->mmio, &ret->virtio);
}
