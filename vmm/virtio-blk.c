/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-blk: requests of the guest to I/O on a raw image. */
/*
 * Theory of operation
 *
 * A chain is a header (16 bytes), data, and a status byte, in any split into descriptors (virtio 1.2, 5.2.6).
 * What cannot be answered, because header or status byte are missing, breaks the device; all else is
 * answered:
 *
 *   outside the disk, not whole sectors, above the size limit, write to a read-only disk    IOERR
 *   with direct, not whole blocks of the blk_size it was told                               IOERR
 *   unknown type, unknown flags of discard and write-zeroes, more ranges than offered       UNSUPP
 *   the host's I/O fails, an image that shrank (short transfer)                             IOERR
 *
 * A request in flight sits in one of BLK_JOBS_MAX slots; when all are taken, chains wait in the guest's ring
 * and kicks stay off until slots come free. Slots are used last in, first out, so that a quiet disk touches
 * few of them.
 *
 * Limits (bw=, iops=) hold requests back before anything of them is done: the chain stays in the ring, kicks stay off, and a
 * timer looks again when the limits allow the next one. Each request counts; so do the bytes that are read, written or zeroed.
 * A request may overdraw the limits, and the next one waits for that (vmm/token-bucket.h), so that one of any size goes through.
 *
 * In flight means: the kernel may read or write the guest's frames at any moment, unseen by write tracking.
 * Every request passes flight_enter() before its job is started and flight_leave() when it has ended, which keep the
 * memory's table of such frames (I2 of the design). So the engine's thread may rest while the kernel works (ksm/hold.h).
 * The rings and the status byte are written by our own threads.
 *
 * Flush: fdatasync; it covers what has been answered before the flush was sent, which is what the driver may
 * rely on. A driver that did not take VIRTIO_BLK_F_FLUSH cannot flush, so each of its writes is on stable
 * storage before it is answered (RWF_DSYNC; virtio 1.2, 5.2.6.2).
 */
#include "vmm/virtio-blk.h"

#include <errno.h>
#include <linux/virtio_blk.h>
#include <string.h>
#include <sys/epoll.h>

#include "base/clock.h"
#include "base/planted.h"
#include "base/size.h"
#include "vmm/guest-flight.h"
#include "vmm/virtio-blk-engine.h"
#include "vmm/virtio-blk-image.h"

/* Data segments of a request, as told to the guest; header and status make the rest of the queue. */
#define SEGMENTS_MAX	  126u
#define QUEUE_SIZE	  (SEGMENTS_MAX + 2)
#define SEGMENT_BYTES_MAX (1u << 20)
#define REQUEST_BYTES_MAX ((uint64_t)SEGMENTS_MAX * SEGMENT_BYTES_MAX)
/* Of one discard or write-zeroes: 32 MiB, so that zeroing by hand is bounded too. */
#define RANGE_SECTORS_MAX (1u << 16)
#define ID_BYTES	  VIRTIO_BLK_ID_BYTES

/* Requests, or bytes of them, after which the plain engine lets other work of the I/O thread have its turn. */
#define PLAIN_ROUND	  8
#define PLAIN_ROUND_BYTES (4u << 20)

/* virtio 1.2, 5.2.6: wire formats. */
struct blk_header {
	le32_t type;
	le32_t reserved;
	le64_t sector;
};
_Static_assert(sizeof(struct blk_header) == 16, "virtio 1.2, 5.2.6");

struct blk_range {
	le64_t sector;
	le32_t sectors;
	le32_t flags;
};
_Static_assert(sizeof(struct blk_range) == 16, "virtio 1.2, 5.2.6");
_Static_assert(sizeof(struct virtio_blk_config) >= 60, "virtio 1.2, 5.2.4");

struct blk_request {
	struct blk_job job; /* first: the engine hands it back */
	uint16_t head;
	uint32_t answer_bytes; /* of the used entry */
	uint8_t *status;       /* in guest memory */
	struct blk_request *next_free;
	unsigned flight_count;
	struct guest_flight flights[QUEUE_SIZE];
	struct iovec iov[QUEUE_SIZE];
};

struct virtio_blk {
	struct virtio_mmio *mmio;
	const struct guest_memory *mem;
	struct blk_image image;
	struct blk_engine engine;
	struct io_source *completions;
	char id[ID_BYTES]; /* zero-padded, not terminated */
	struct virtio_blk_config config;
	bool write_through;

	struct blk_request *requests; /* BLK_JOBS_MAX of them */
	struct blk_request *free;
	unsigned fresh;	      /* requests[fresh..] were never used */
	bool starved;	      /* chains may wait for a request to come free */
	uint64_t round_bytes; /* of the requests started in this round */

	struct rate_limit limit;
	uint64_t charge;	 /* bytes of this request that count against it */
	bool throttled;		 /* a chain waits in the ring for the timer */
	struct io_source *timer; /* armed only while one does */
	uint64_t (*now_ns)(void *arg);
	void *now_arg;

	struct virtio_blk_stats stats; /* the counts */
};

static const char *const engine_names[] = {
	[BLK_ENGINE_AUTO] = "auto",
	[BLK_ENGINE_IO_URING] = "io_uring",
	[BLK_ENGINE_PLAIN] = "plain",
};
_Static_assert(ARRAY_SIZE(engine_names) == BLK_ENGINE_KINDS, "a name for each engine");

const char *blk_engine_name(enum blk_engine_kind kind)
{
	return engine_names[kind];
}

static struct blk_request *request_take(struct virtio_blk *blk)
{
	struct blk_request *req = blk->free;

	if (req)
		blk->free = req->next_free;
	else if (blk->fresh < BLK_JOBS_MAX)
		req = &blk->requests[blk->fresh++];
	return req;
}

static void request_put(struct virtio_blk *blk, struct blk_request *req)
{
	req->next_free = blk->free;
	blk->free = req;
}

/* From here to flight_leave() the kernel may touch the frames under job.iov. */
static void flight_enter(struct virtio_blk *blk, struct blk_request *req)
{
	req->flight_count = guest_flight_enter(blk->mem, req->job.iov, req->job.iov ? req->job.iov_count : 0,
					       req->flights);
	blk->stats.in_flight++;
}

static void flight_leave(struct virtio_blk *blk, const struct blk_request *req)
{
	guest_flight_leave(blk->mem, req->flights, req->flight_count);
	blk->stats.in_flight--;
}

/* Answer a request, and give its slot back. The interrupt comes after the batch. */
static void request_answer(struct virtio_blk *blk, struct blk_request *req, uint8_t status)
{
	if (status != VIRTIO_BLK_S_OK)
		virtio_mmio_count_error(blk->mmio);
	__atomic_store_n(req->status, status, __ATOMIC_RELAXED);
	virtqueue_push(virtio_mmio_queue(blk->mmio, 0), req->head, req->answer_bytes);
	request_put(blk, req);
}

/* Context: inside the engine's functions, under the device's lock. */
static void job_done(void *arg, struct blk_job *job, int result)
{
	struct virtio_blk *blk = arg;
	struct blk_request *req = container_of(job, struct blk_request, job);

	flight_leave(blk, req);
	request_answer(blk, req, (uint8_t)(result < 0 ? VIRTIO_BLK_S_IOERR : VIRTIO_BLK_S_OK));
}

static void request_start(struct virtio_blk *blk, struct blk_request *req)
{
	flight_enter(blk, req);
	blk->round_bytes += req->job.bytes;
	/* A discard moves no data. */
	blk->charge = req->job.op == BLK_OP_DISCARD ? 0 : req->job.bytes;
	blk_engine_start(&blk->engine, &req->job);
}

/* Whether [sector, sector + sectors) lies on the disk, in units that the image takes. */
static bool on_disk(const struct virtio_blk *blk, uint64_t sector, uint64_t sectors)
{
	return (range_fits(sector, sectors, blk->image.bytes / BLK_SECTOR_BYTES) || PLANTED("virtio_blk")) &&
	       blk_image_takes_range(&blk->image, sector * BLK_SECTOR_BYTES, sectors * BLK_SECTOR_BYTES);
}

/* IN and OUT. Return: 0 when it was started, else the status to answer. */
static uint8_t handle_transfer(struct virtio_blk *blk, struct blk_request *req, bool write, uint64_t sector,
			       struct iovec *iov, unsigned count, uint64_t bytes)
{
	if (bytes == 0 || bytes % BLK_SECTOR_BYTES || bytes > REQUEST_BYTES_MAX)
		return VIRTIO_BLK_S_IOERR;
	if (!on_disk(blk, sector, bytes / BLK_SECTOR_BYTES) || (write && blk->image.read_only))
		return VIRTIO_BLK_S_IOERR;
	req->job = (struct blk_job){
		.op = write ? BLK_OP_WRITE : BLK_OP_READ,
		.write_through = write && blk->write_through,
		.iov = iov,
		.iov_count = count,
		.offset = sector * BLK_SECTOR_BYTES,
		.bytes = bytes,
	};
	if (write) {
		blk->stats.writes++;
		blk->stats.write_bytes += bytes;
	} else {
		blk->stats.reads++;
		blk->stats.read_bytes += bytes;
	}
	request_start(blk, req);
	return VIRTIO_BLK_S_OK;
}

/* DISCARD and WRITE_ZEROES of the one range that a request may have. Return: as handle_transfer(). */
static uint8_t handle_range(struct virtio_blk *blk, struct blk_request *req, bool discard,
			    const struct iovec *iov, unsigned count, uint64_t bytes)
{
	struct blk_range range;
	uint64_t sector, sectors;
	uint32_t flags;
	enum blk_op op = BLK_OP_DISCARD;

	if (blk->image.read_only)
		return VIRTIO_BLK_S_IOERR;
	if (bytes != sizeof(range))
		return bytes && bytes % sizeof(range) == 0 ? VIRTIO_BLK_S_UNSUPP : VIRTIO_BLK_S_IOERR;
	iov_copy_out(iov, count, 0, &range, sizeof(range));
	sector = le64_get(&range.sector);
	sectors = le32_get(&range.sectors);
	flags = le32_get(&range.flags);
	/* The unmap flag is for write-zeroes alone (virtio 1.2, 5.2.6.2). */
	if (flags & ~(discard ? 0u : (uint32_t)VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP))
		return VIRTIO_BLK_S_UNSUPP;
	if (sectors == 0 || sectors > RANGE_SECTORS_MAX || !on_disk(blk, sector, sectors))
		return VIRTIO_BLK_S_IOERR;
	if (!discard)
		op = flags ? BLK_OP_ZERO_UNMAP : BLK_OP_ZERO;
	req->job = (struct blk_job){
		.op = op,
		.write_through = blk->write_through,
		.offset = sector * BLK_SECTOR_BYTES,
		.bytes = sectors * BLK_SECTOR_BYTES,
	};
	if (discard)
		blk->stats.discards++;
	else
		blk->stats.write_zeroes++;
	request_start(blk, req);
	return VIRTIO_BLK_S_OK;
}

static void handle_flush(struct virtio_blk *blk, struct blk_request *req)
{
	req->job = (struct blk_job){.op = BLK_OP_SYNC};
	blk->stats.flushes++;
	request_start(blk, req);
}

/* Take the status byte off the end of the writable part. Return: false when there is none. */
static bool take_status(struct blk_request *req, struct iovec *writable, struct virtqueue_chain *chain)
{
	struct iovec *last;

	if (chain->writable == 0)
		return false;
	last = &writable[chain->writable - 1];
	last->iov_len--;
	req->status = (uint8_t *)last->iov_base + last->iov_len;
	if (last->iov_len == 0)
		chain->writable--;
	chain->writable_bytes--;
	return true;
}

/* Start a request or answer it. Return: NULL, or how the driver broke the rules. */
static const char *handle_request(struct virtio_blk *blk, struct blk_request *req,
				  struct virtqueue_chain *chain)
{
	struct iovec *readable = req->iov, *writable = req->iov + chain->readable;
	struct blk_header header;
	uint64_t data_bytes;
	uint8_t status = VIRTIO_BLK_S_OK;
	bool started = true;

	if (chain->readable_bytes < sizeof(header) || !take_status(req, writable, chain))
		return "block request without header or status";
	iov_copy_out(readable, chain->readable, 0, &header, sizeof(header));
	iov_trim_front(&readable, &chain->readable, sizeof(header));
	data_bytes = chain->readable_bytes - sizeof(header);
	req->head = chain->head;
	/* All up to the status byte, which is the last. */
	req->answer_bytes = chain->writable_bytes + 1;
	switch (le32_get(&header.type)) {
	case VIRTIO_BLK_T_IN:
		status = handle_transfer(blk, req, false, le64_get(&header.sector), writable, chain->writable,
					 chain->writable_bytes);
		break;
	case VIRTIO_BLK_T_OUT:
		status = handle_transfer(blk, req, true, le64_get(&header.sector), readable, chain->readable,
					 data_bytes);
		break;
	case VIRTIO_BLK_T_DISCARD:
		status = handle_range(blk, req, true, readable, chain->readable, data_bytes);
		break;
	case VIRTIO_BLK_T_WRITE_ZEROES:
		status = handle_range(blk, req, false, readable, chain->readable, data_bytes);
		break;
	case VIRTIO_BLK_T_FLUSH:
		handle_flush(blk, req);
		break;
	case VIRTIO_BLK_T_GET_ID:
		iov_copy_in(writable, chain->writable, blk->id, ID_BYTES);
		started = false;
		break;
	default:
		status = VIRTIO_BLK_S_UNSUPP;
		break;
	}
	if (!started || status != VIRTIO_BLK_S_OK)
		request_answer(blk, req, status);
	return NULL;
}

/* Whether enough was done for one round. */
static bool round_over(const struct virtio_blk *blk, unsigned taken)
{
	if (blk->engine.ring_on)
		return taken >= BLK_JOBS_MAX;
	return taken >= PLAIN_ROUND || blk->round_bytes >= PLAIN_ROUND_BYTES;
}

static uint64_t monotonic_ns(void *arg)
{
	(void)arg;
	return clock_now_ns();
}

/* Whether the chain just taken has to wait for the limits; it is back in the ring then. */
static bool throttle(struct virtio_blk *blk, struct virtqueue *vq)
{
	uint64_t wait_ns;

	if (!rate_limit_is_set(&blk->limit))
		return false;
	wait_ns = rate_limit_wait_ns(&blk->limit, blk->now_ns(blk->now_arg));
	/* Should the timer fail, the request is early rather than never. */
	if (wait_ns == 0 || io_timer_set(blk->timer, wait_ns) < 0)
		return false;
	virtqueue_unpop(vq);
	blk->throttled = true;
	blk->stats.throttled++;
	return true;
}

/* Take chains until there are none, slots are out, or it is others' turn. Return: false when the device
 * broke. */
static bool take_requests(struct virtio_blk *blk, struct virtqueue *vq, unsigned *taken)
{
	while (!round_over(blk, *taken)) {
		struct blk_request *req = request_take(blk);
		struct virtqueue_chain chain;
		const char *why;
		int r;

		if (!req) {
			blk->starved = true;
			return true;
		}
		r = virtqueue_pop(vq, req->iov, QUEUE_SIZE, &chain);
		if (r <= 0) {
			request_put(blk, req);
			if (r < 0)
				virtio_mmio_break(blk->mmio, vq->broken);
			return r == 0;
		}
		if (throttle(blk, vq)) {
			request_put(blk, req);
			return true;
		}
		(*taken)++;
		blk->charge = 0;
		why = handle_request(blk, req, &chain);
		rate_limit_take(&blk->limit, blk->charge);
		if (why) {
			request_put(blk, req);
			virtio_mmio_break(blk->mmio, why);
			return false;
		}
	}
	return true;
}

/* Work on the queue until it is empty; what cannot be done now is taken up by completions or by another kick. */
static void process_queue(struct virtio_blk *blk)
{
	struct virtqueue *vq = virtio_mmio_queue(blk->mmio, 0);
	unsigned taken = 0;
	bool ok;

	blk->starved = false;
	blk->throttled = false;
	blk->round_bytes = 0;
	do {
		virtqueue_kicks_off(vq);
		ok = take_requests(blk, vq, &taken);
		blk_engine_submit(&blk->engine);
		if (blk->throttled)
			break;
		/* Slots are all taken: completions go on from here. Unless the plain engine has emptied them
		 * already. */
		if (ok && (round_over(blk, taken) || blk->starved)) {
			blk->starved = blk->engine.in_flight == BLK_JOBS_MAX;
			if (!blk->starved)
				virtio_mmio_again(blk->mmio, 0);
			break;
		}
	} while (ok && virtqueue_kicks_on(vq));
	virtio_mmio_count_requests(blk->mmio, taken);
	virtio_mmio_signal(blk->mmio, 0);
}

/* Context: the I/O thread. */
static void completed(void *arg, uint32_t events)
{
	struct virtio_blk *blk = arg;

	(void)events;
	virtio_mmio_lock(blk->mmio);
	blk_engine_reap(&blk->engine);
	if (blk->starved && virtio_mmio_may_take(blk->mmio))
		process_queue(blk);
	else
		virtio_mmio_signal(blk->mmio, 0);
	virtio_mmio_unlock(blk->mmio);
}

/* Context: the I/O thread. */
static void look_again(void *arg, uint32_t events)
{
	struct virtio_blk *blk = arg;

	(void)events;
	virtio_mmio_lock(blk->mmio);
	/* While it is held the chain stays where it is: the release looks at the queue. */
	if (blk->throttled && virtio_mmio_may_take(blk->mmio))
		process_queue(blk);
	virtio_mmio_unlock(blk->mmio);
}

static uint64_t features(void *dev)
{
	const struct virtio_blk *blk = dev;
	uint64_t bits = 1u << VIRTIO_BLK_F_SIZE_MAX | 1u << VIRTIO_BLK_F_SEG_MAX |
			1u << VIRTIO_BLK_F_BLK_SIZE | 1u << VIRTIO_BLK_F_TOPOLOGY;

	if (blk->image.read_only)
		return bits | 1u << VIRTIO_BLK_F_RO;
	return bits | 1u << VIRTIO_BLK_F_FLUSH | 1u << VIRTIO_BLK_F_DISCARD | 1u << VIRTIO_BLK_F_WRITE_ZEROES;
}

static void activate(void *dev, uint64_t negotiated)
{
	struct virtio_blk *blk = dev;

	blk->write_through = !(negotiated & 1u << VIRTIO_BLK_F_FLUSH);
}

static void queue_notify(void *dev, unsigned queue)
{
	(void)queue;
	process_queue(dev);
}

static void drain(void *dev)
{
	struct virtio_blk *blk = dev;

	blk_engine_drain(&blk->engine);
}

static void finish(void *dev)
{
	struct virtio_blk *blk = dev;

	blk_engine_finish(&blk->engine);
	virtio_mmio_signal(blk->mmio, 0);
}

static void reset(void *dev)
{
	struct virtio_blk *blk = dev;

	blk->starved = false;
	blk->throttled = false;
	/* Should this fail, the timer finds that nothing waits. */
	(void)!io_timer_set(blk->timer, 0);
}

static const struct virtio_device_ops blk_device_ops = {
	.name = "virtio-blk",
	.device_id = VIRTIO_ID_OF_BLOCK,
	.queue_count = 1,
	.queue_size_max = {QUEUE_SIZE},
	.features = features,
	.config_offset = offsetof(struct virtio_blk, config),
	.config_bytes = sizeof(((struct virtio_blk *)0)->config),
	.activate = activate,
	.queue_notify = queue_notify,
	.drain = drain,
	.finish = finish,
	.reset = reset,
};

/* virtio 1.2, 5.2.4. */
static void config_init(struct virtio_blk *blk)
{
	const struct blk_image *image = &blk->image;
	struct virtio_blk_config *c = &blk->config;
	uint32_t blocks = image->physical_bytes / image->logical_bytes;
	uint8_t exponent = 0;

	while (exponent < 7 && 2u << exponent <= blocks)
		exponent++;
	c->capacity = htole64(image->bytes / BLK_SECTOR_BYTES);
	c->size_max = htole32(SEGMENT_BYTES_MAX);
	c->seg_max = htole32(SEGMENTS_MAX);
	c->blk_size = htole32(image->logical_bytes);
	c->physical_block_exp = exponent;
	c->min_io_size = htole16((uint16_t)(1u << exponent));
	if (image->read_only)
		return;
	c->max_discard_sectors = htole32(RANGE_SECTORS_MAX);
	c->max_discard_seg = htole32(1);
	c->discard_sector_alignment = htole32((image->logical_bytes << exponent) / BLK_SECTOR_BYTES);
	c->max_write_zeroes_sectors = htole32(RANGE_SECTORS_MAX);
	c->max_write_zeroes_seg = htole32(1);
	c->write_zeroes_may_unmap = 1;
}

int virtio_blk_new(const struct virtio_blk_options *options, const struct guest_memory *mem,
		   struct io_loop *loop, const struct irq_line *irq, struct errmsg *err,
		   struct virtio_blk **ret)
{
	cleanup(virtio_blk_free_p) struct virtio_blk *blk = calloc(1, sizeof(*blk));
	int r;

	if (!blk)
		return -ENOMEM;
	blk->mem = mem;
	blk->image.fd = -1;
	blk->engine.event_fd = -1;
	r = blk_image_open(options->path, options->read_only, options->direct, err, &blk->image);
	if (r < 0)
		return r;
	config_init(blk);
	if (options->serial)
		memcpy(blk->id, options->serial, strnlen(options->serial, ID_BYTES));
	/* Large and untouched: it occupies memory only as slots are used. */
	blk->requests = calloc(BLK_JOBS_MAX, sizeof(*blk->requests));
	if (!blk->requests)
		return -ENOMEM;
	r = blk_engine_init(&blk->engine, &blk->image, options->engine, job_done, blk);
	if (r < 0)
		return errmsg_set(err, r, "--disk %s: this host has no usable io_uring", options->path);
	blk->engine.hold = io_loop_hold(loop);
	if (blk->engine.event_fd >= 0) {
		r = io_source_new(loop, blk->engine.event_fd, EPOLLIN, completed, blk, &blk->completions);
		if (r < 0)
			return r;
	}
	blk->now_ns = options->now_ns ? options->now_ns : monotonic_ns;
	blk->now_arg = options->now_arg;
	rate_limit_init(&blk->limit, &options->rate, blk->now_ns(blk->now_arg));
	r = io_timer_new(loop, look_again, blk, &blk->timer);
	if (r < 0)
		return r;
	r = virtio_mmio_new(&blk_device_ops, blk, mem, loop, irq, &blk->mmio);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(blk);
	return 0;
}

void virtio_blk_free(struct virtio_blk *blk)
{
	if (!blk)
		return;
	blk_engine_drain(&blk->engine);
	io_source_free(blk->completions);
	io_source_free(blk->timer);
	blk_engine_done(&blk->engine);
	virtio_mmio_free(blk->mmio);
	blk_image_close(&blk->image);
	free(blk->requests);
	free(blk);
}

struct virtio_mmio *virtio_blk_mmio(struct virtio_blk *blk)
{
	return blk->mmio;
}

void virtio_blk_stats(struct virtio_blk *blk, struct virtio_blk_stats *ret)
{
	virtio_mmio_lock(blk->mmio);
	*ret = blk->stats;
	ret->misaligned = blk->engine.misaligned;
	ret->engine = blk->engine.ring_on ? BLK_ENGINE_IO_URING : BLK_ENGINE_PLAIN;
	virtio_mmio_unlock(blk->mmio);
	ret->capacity_bytes = blk->image.bytes;
	ret->read_only = blk->image.read_only;
	ret->direct = blk->image.direct;
	virtio_mmio_counters(blk->mmio, &ret->virtio);
}
