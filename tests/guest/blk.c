/* SPDX-License-Identifier: Apache-2.0 */
/* Block device checks: patterns and checksums at a queue depth, in every framing the specification allows. */
#include "virtio.h"

#define SECTOR 512

#define T_IN	       0
#define T_OUT	       1
#define T_FLUSH	       4
#define T_GET_ID       8
#define T_DISCARD      11
#define T_WRITE_ZEROES 13

#define F_SEG_MAX      (1ull << 2)
#define F_RO	       (1ull << 5)
#define F_BLK_SIZE     (1ull << 6)
#define F_FLUSH	       (1ull << 9)
#define F_DISCARD      (1ull << 13)
#define F_WRITE_ZEROES (1ull << 14)

#define S_OK	 0
#define S_IOERR	 1
#define S_UNSUPP 2
#define S_NONE	 0xff /* ours: the device has written nothing */

#define DEPTH_MAX    64
#define SEGMENTS_MAX 64
#define DATA_BYTES   (2 * MIB)
#define TIMEOUT_US   20000000
#define MARKER	     0xa5

static uint8_t own_data[DATA_BYTES] __attribute__((aligned(4096)));

static struct slot {
	struct {
		uint32_t type, reserved;
		uint64_t sector;
	} header;
	struct {
		uint64_t sector;
		uint32_t sectors, flags;
	} range; /* of discard and write-zeroes */
	volatile uint8_t status;
	bool in_flight, done;
	uint64_t sector, bytes;
	struct desc table[SEGMENTS_MAX + 4] __attribute__((aligned(16)));
} __attribute__((aligned(64))) slots[DEPTH_MAX];

static struct job {
	struct device *d;
	uint32_t type;
	bool verify, odd, unmap;
	bool load; /* speed is what counts: data is not looked at */
	uint64_t sector, sectors, request_bytes, seed, data;
	unsigned depth, segments;
	uint64_t next;	 /* sector to submit */
	uint64_t random; /* state of the generator; 0: one sector after the other */
	uint64_t requests, errors, unsupported, bytes, bad, first_bad;
	uint32_t crc;
} job;

static uint8_t *data_of(const struct slot *s)
{
	return at(job.data + (uint64_t)(s - slots) * job.request_bytes);
}

static unsigned add_desc(struct desc *t, unsigned n, const volatile void *p, uint64_t bytes, uint16_t flags)
{
	t[n] = (struct desc){(uint64_t)p, (uint32_t)bytes, flags | DESC_NEXT, 0};
	return n + 1;
}

/* The chain of a request, without next links. Returns its length. */
static unsigned describe(struct slot *s, struct desc *t)
{
	unsigned n = 0;
	uint64_t step = (s->bytes / job.segments + 15) & ~15ull;
	uint8_t *data = data_of(s);

	if (job.odd) { /* a header in two pieces is as good as in one */
		n = add_desc(t, n, &s->header, 7, 0);
		n = add_desc(t, n, (uint8_t *)&s->header + 7, 9, 0);
	} else {
		n = add_desc(t, n, &s->header, 16, 0);
	}
	switch (job.type) {
	case T_IN:
	case T_OUT:
		for (uint64_t off = 0; off < s->bytes; off += step)
			n = add_desc(t, n, data + off, s->bytes - off < step ? s->bytes - off : step,
				     job.type == T_IN ? DESC_WRITE : 0);
		break;
	case T_GET_ID:
		n = add_desc(t, n, data, 20, DESC_WRITE);
		break;
	case T_DISCARD:
	case T_WRITE_ZEROES:
		n = add_desc(t, n, &s->range, 16, 0);
		break;
	default:
		break;
	}
	n = add_desc(t, n, &s->status, 1, DESC_WRITE);
	t[n - 1].flags &= (uint16_t)~DESC_NEXT;
	return n;
}

/* Where the next request goes: in order, or to any place that is a multiple of its size (xorshift64). */
static uint64_t next_sector(void)
{
	uint64_t step = job.request_bytes / SECTOR;

	if (!job.random)
		return job.next;
	job.random ^= job.random << 13;
	job.random ^= job.random >> 7;
	job.random ^= job.random << 17;
	return job.sector + job.random % (job.sectors / step) * step;
}

static void submit(struct slot *s)
{
	struct queue *q = &job.d->queue[0];
	unsigned index = (unsigned)(s - slots), n;
	uint16_t head = (uint16_t)index;

	s->sector = next_sector();
	s->bytes = (job.sector + job.sectors - s->sector) * SECTOR;
	if (s->bytes > job.request_bytes)
		s->bytes = job.request_bytes;
	job.next = s->sector + s->bytes / SECTOR;
	s->header.type = job.type;
	s->header.reserved = 0;
	s->header.sector = job.type == T_IN || job.type == T_OUT ? s->sector : 0;
	s->range.sector = s->sector;
	s->range.sectors = (uint32_t)(s->bytes / SECTOR);
	s->range.flags = job.unmap;
	s->status = S_NONE;
	if (job.type == T_OUT && !job.load) {
		for (uint64_t i = 0; i < s->bytes / SECTOR; i++)
			pattern_fill(data_of(s) + i * SECTOR, SECTOR, pattern_base(job.seed, s->sector + i));
	}
	if (job.d->features & F_INDIRECT) {
		n = describe(s, s->table);
		for (unsigned i = 0; i < n; i++)
			s->table[i].next = (uint16_t)(i + 1);
		q->desc[head] = (struct desc){(uint64_t)s->table, n * 16, DESC_INDIRECT, 0};
	} else { /* slot i has the descriptors from i * (segments + 4) on */
		head = (uint16_t)(index * (job.segments + 4));
		n = describe(s, &q->desc[head]);
		for (unsigned i = 0; i < n; i++)
			q->desc[head + i].next = (uint16_t)(head + i + 1);
	}
	s->in_flight = true;
	s->done = false;
	queue_add(q, head);
}

static void look_at_data(struct slot *s)
{
	if (job.type != T_IN || job.load)
		return;
	job.crc = crc32(job.crc, data_of(s), s->bytes);
	for (uint64_t i = 0; job.verify && i < s->bytes / SECTOR; i++) {
		if (pattern_check(data_of(s) + i * SECTOR, SECTOR, pattern_base(job.seed, s->sector + i)))
			continue;
		if (!job.bad++)
			job.first_bad = s->sector + i;
	}
}

static void finish(struct slot *s)
{
	s->in_flight = false;
	job.requests++;
	if (s->status == S_OK) {
		job.bytes += s->bytes;
		look_at_data(s);
	} else if (s->status == S_UNSUPP) {
		job.unsupported++;
	} else {
		job.errors++;
	}
}

static const char *reap(void)
{
	struct queue *q = &job.d->queue[0];
	uint32_t written;
	uint16_t head;

	while (queue_pop(q, &head, &written)) {
		unsigned index = job.d->features & F_INDIRECT ? head : head / (job.segments + 4);

		if (index >= job.depth || !slots[index].in_flight || slots[index].done)
			return "used-unknown-head";
		slots[index].done = true;
		if (slots[index].status == S_NONE)
			return "status-not-written";
		if (written < 1)
			return "used-length-zero";
	}
	return NULL;
}

/* Keep depth requests in flight until all are through; look at them in their order. */
static const char *run_job(void)
{
	const char *error = NULL;
	uint64_t submitted = 0, finished = 0, total;

	total = (job.sectors * SECTOR + job.request_bytes - 1) / job.request_bytes;
	while (finished < total && !error) {
		bool added = false;

		while (submitted < total && submitted - finished < job.depth) {
			submit(&slots[submitted++ % job.depth]);
			added = true;
		}
		if (added)
			queue_kick(job.d, 0);
		if (!slots[finished % job.depth].done)
			error = queue_wait(job.d, 0, TIMEOUT_US);
		if (!error)
			error = reap();
		while (!error && finished < submitted && slots[finished % job.depth].done) {
			slots[finished % job.depth].done = false;
			finish(&slots[finished++ % job.depth]);
		}
	}
	return error;
}

/* Requests without end until @total are through: each slot goes out again as soon as it is back. */
static const char *run_load(uint64_t total)
{
	const char *error = NULL;
	uint64_t submitted = 0;

	while (job.requests < total && !error) {
		bool added = false;

		queue_arm(job.d, 0); /* before requests go out, as drivers do that sleep */
		for (unsigned i = 0; i < job.depth && submitted < total; i++) {
			if (slots[i].in_flight)
				continue;
			if (job.next >= job.sector + job.sectors)
				job.next = job.sector;
			submit(&slots[i]);
			submitted++;
			added = true;
		}
		if (added)
			queue_kick(job.d, 0);
		error = queue_wait(job.d, 0, TIMEOUT_US);
		if (!error)
			error = reap();
		for (unsigned i = 0; i < job.depth && !error; i++) {
			if (slots[i].done) {
				slots[i].done = false;
				finish(&slots[i]);
			}
		}
	}
	return error;
}

static bool job_type(const struct command *c)
{
	static const struct {
		const char *name;
		uint32_t type;
		bool verify;
	} ops[] = {
		{"read", T_IN, false},	   {"verify", T_IN, true},	  {"write", T_OUT, false},
		{"flush", T_FLUSH, false}, {"discard", T_DISCARD, false}, {"zeroes", T_WRITE_ZEROES, false},
		{"id", T_GET_ID, false},
	};
	char op[16] = "read";

	arg_text(c, "op", op, sizeof(op));
	for (size_t i = 0; i < ARRAY_SIZE(ops); i++) {
		if (text_equal(op, ops[i].name)) {
			job.type = ops[i].type;
			job.verify = ops[i].verify;
			return true;
		}
	}
	if (text_number(op, text_length(op), &job.seed)) { /* any other request type by number */
		job.type = (uint32_t)job.seed;
		return true;
	}
	fail(c, "op");
	return false;
}

/* Sets up the job and the device; answers itself when that fails. */
static bool prepare(const struct command *c)
{
	uint64_t wanted = F_SEG_MAX | F_RO | F_BLK_SIZE | F_FLUSH | F_DISCARD | F_WRITE_ZEROES;
	const char *error;

	memset(&job, 0, sizeof(job));
	memset(slots, 0, sizeof(slots));
	job.d = virtio_device(c, VIRTIO_ID_BLOCK);
	if (!job.d || !job_type(c))
		return false;
	job.sector = arg(c, "sector", 0);
	job.request_bytes = arg(c, "size", 4096);
	job.sectors = arg(c, "count", job.request_bytes / SECTOR);
	job.seed = arg(c, "seed", 1);
	job.depth = (unsigned)arg(c, "depth", 1);
	job.segments = (unsigned)arg(c, "segs", 1);
	job.odd = arg(c, "odd", 0) != 0;
	job.unmap = arg(c, "unmap", 0) != 0;
	job.data = arg(c, "buf", (uint64_t)own_data);
	job.next = job.sector;
	wanted |= arg(c, "indirect", 0) ? F_INDIRECT : 0;
	wanted |= arg(c, "event", 0) ? F_EVENT_IDX : 0;
	if (job.depth == 0 || job.depth > DEPTH_MAX || job.segments == 0 || job.segments > SEGMENTS_MAX ||
	    job.request_bytes == 0 || job.request_bytes % SECTOR ||
	    job.request_bytes < job.segments * 16ull) {
		fail(c, "depth, segs or size");
		return false;
	}
	if (job.type == T_IN || job.type == T_OUT) {
		uint64_t end = job.data + job.depth * job.request_bytes;

		if (job.data == (uint64_t)own_data ? end > job.data + DATA_BYTES
						   : !machine_is_usable(job.data, end)) {
			fail(c, "buffer");
			return false;
		}
	}
	error = virtio_start(job.d, wanted, 1, QUEUE_SIZE_MAX);
	if (!error && (wanted & F_INDIRECT) && !(job.d->features & F_INDIRECT))
		error = "no-indirect";
	if (!error && (wanted & F_EVENT_IDX) && !(job.d->features & F_EVENT_IDX))
		error = "no-event-idx";
	if (!error && job.depth * (wanted & F_INDIRECT ? 1 : job.segments + 4) > job.d->queue[0].size)
		error = "queue-too-small-for-depth";
	if (error)
		fail(c, "%s", error);
	return !error;
}

static void blk(const struct command *c)
{
	uint64_t cycles = tsc();
	const char *error;

	if (!prepare(c))
		return;
	job.d->kicks = 0;
	virtio_irqs(job.d, arg(c, "irq", 0) != 0);
	cycles = tsc();
	error = run_job();
	cycles = tsc() - cycles;
	virtio_irqs(job.d, false);
	if (error) {
		fail(c, "%s requests=%lu status=%u", error, job.requests, virtio_status(job.d));
		return;
	}
	answer(c);
	say(" requests=%lu errors=%lu unsupported=%lu bytes=%lu bad=%lu first_bad=%lu crc=%x kicks=%lu "
	    "cycles=%lu "
	    "mib_per_s=%lu",
	    job.requests, job.errors, job.unsupported, job.bytes, job.bad, job.first_bad, job.crc,
	    job.d->kicks, cycles, cycles ? job.bytes * machine.tsc_khz / cycles * 1000 / MIB : 0);
	if (job.type == T_GET_ID) {
		char id[21] = {0};

		memcpy(id, data_of(&slots[0]), 20);
		say(" id=%s", id);
	}
}

/* What the device can do: requests=N reads or writes, to random places if random= is given. */
static void blk_load(const struct command *c)
{
	uint64_t cycles, wakeups, total = arg(c, "requests", 1);
	const char *error;

	if (!prepare(c))
		return;
	job.load = true;
	job.random = arg(c, "random", 0);
	if (job.sectors < job.request_bytes / SECTOR) {
		fail(c, "count");
		return;
	}
	job.d->kicks = 0;
	virtio_irqs(job.d, arg(c, "irq", 1) != 0);
	wakeups = job.d->irqs_seen;
	cycles = tsc();
	error = run_load(total);
	cycles = tsc() - cycles;
	wakeups = job.d->irqs_seen - wakeups;
	virtio_irqs(job.d, false);
	if (error) {
		fail(c, "%s requests=%lu status=%u", error, job.requests, virtio_status(job.d));
		return;
	}
	answer(c);
	say(" requests=%lu errors=%lu bytes=%lu kicks=%lu irqs=%lu us=%lu", job.requests,
	    job.errors + job.unsupported, job.bytes, job.d->kicks, wakeups,
	    cycles / (machine.tsc_khz / 1000));
}

/* Reset with requests in flight: from then on the device must not touch memory. */
static void blk_reset(const struct command *c)
{
	uint64_t in_flight, bytes, touched = 0;
	uint32_t index;

	if (!prepare(c))
		return;
	for (in_flight = 0; in_flight < job.depth && job.next < job.sector + job.sectors; in_flight++)
		submit(&slots[in_flight]);
	queue_kick(job.d, 0);
	delay_us(arg(c, "after_us", 0));
	virtio_reset(job.d);
	index = job.d->queue[0].used->index;
	bytes = job.type == T_IN ? in_flight * job.request_bytes : 0;
	memset(at(job.data), MARKER, bytes);
	for (uint64_t i = 0; i < in_flight; i++)
		slots[i].status = MARKER;
	delay_us(arg(c, "wait_us", 30000));
	for (uint64_t i = 0; i < bytes; i++)
		touched += ((volatile uint8_t *)at(job.data))[i] != MARKER;
	for (uint64_t i = 0; i < in_flight; i++)
		touched += slots[i].status != MARKER;
	touched += job.d->queue[0].used->index != index;
	answer(c);
	say(" submitted=%lu finished=%u touched=%lu", in_flight, index, touched);
}

static void blk_info(const struct command *c)
{
	struct device *d = virtio_device(c, VIRTIO_ID_BLOCK);
	const char *error;

	if (!d)
		return;
	error = virtio_start(d, ~(F_INDIRECT | F_EVENT_IDX), 1, QUEUE_SIZE_MAX);
	if (error) {
		fail(c, "%s", error);
		return;
	}
	answer(c);
	say(" capacity=%lu size_max=%lu seg_max=%lu blk_size=%lu ro=%d flush=%d discard=%d zeroes=%d "
	    "features=%lx",
	    mmio_read(d->base + REG_CONFIG, 4) | mmio_read(d->base + REG_CONFIG + 4, 4) << 32,
	    mmio_read(d->base + REG_CONFIG + 8, 4), mmio_read(d->base + REG_CONFIG + 12, 4),
	    mmio_read(d->base + REG_CONFIG + 20, 4), (d->features & F_RO) != 0, (d->features & F_FLUSH) != 0,
	    (d->features & F_DISCARD) != 0, (d->features & F_WRITE_ZEROES) != 0, d->features);
}

const struct verb blk_verbs[] = {
	{"blk", blk}, {"blk_load", blk_load}, {"blk_reset", blk_reset}, {"blk_info", blk_info}, {NULL, NULL},
};
