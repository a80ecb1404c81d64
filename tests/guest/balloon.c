/* SPDX-License-Identifier: Apache-2.0 */
/* Balloon: pages given up and taken back, in the orders a guest might choose. */
#include "virtio.h"

#define CONFIG_NUM_PAGES (REG_CONFIG + 0)
#define CONFIG_ACTUAL	 (REG_CONFIG + 4)
#define CONFIG_POISON	 (REG_CONFIG + 12)
#define INFLATE		 0
#define DEFLATE		 1
#define STATS		 2
#define QUEUES		 5
#define F_STATS		 (1ull << 1)
#define F_OOM		 (1ull << 2)
#define F_POISON	 (1ull << 4)
#define F_REPORTING	 (1ull << 5)
#define F_ALL		 (F_EVENT_IDX | F_STATS | F_OOM | F_POISON | F_REPORTING)
#define BATCH_MAX	 4096
#define RANGES_MAX	 32
#define STATS_MAX	 32
#define TIMEOUT_US	 20000000

static uint32_t pfns[BATCH_MAX] __attribute__((aligned(4096)));
static struct stat {
	uint16_t tag;
	uint64_t value;
} __attribute__((packed)) stats[STATS_MAX] __attribute__((aligned(4096)));
static bool running;

static uint32_t config(const struct device *d, uint32_t offset)
{
	return mmio_read32(d->base + offset);
}

/* Make the chain at descriptor 0 available and wait for it. */
static const char *exchange(struct device *d, unsigned queue)
{
	struct queue *q = &d->queue[queue];
	const char *error;
	uint32_t written;
	uint16_t head;

	queue_add(q, 0);
	queue_kick(d, queue);
	error = queue_wait(d, queue, TIMEOUT_US);
	if (!error && (!queue_pop(q, &head, &written) || head != 0))
		error = "used-unknown-head";
	return error;
}

static const char *send(struct device *d, unsigned queue, unsigned count)
{
	d->queue[queue].desc[0] = (struct desc){(uint64_t)pfns, count * 4, 0, 0};
	return exchange(d, queue);
}

/* The i-th of n in one of three orders: up, down, or scattered (n and the step have no common factor). */
static uint64_t in_order(uint64_t i, uint64_t n, const char *order)
{
	if (order[0] == 'd')
		return n - 1 - i;
	if (order[0] == 's')
		return i * (n % 7919 ? 7919 : 7907) % n;
	return i;
}

static bool start(const struct command *c, struct device *d)
{
	const char *error;

	if (running && !arg(c, "restart", 0))
		return true;
	error = virtio_start(d, arg(c, "features", F_ALL), QUEUES, QUEUE_SIZE_MAX);
	if (error)
		fail(c, "%s", error);
	else if (d->features & F_POISON)
		mmio_write32(d->base + CONFIG_POISON, (uint32_t)arg(c, "poison", 0));
	running = !error;
	return running;
}

static void info(const struct command *c)
{
	struct device *d = virtio_device(c, VIRTIO_ID_BALLOON);

	if (!d || !start(c, d))
		return;
	answer(c);
	say(" num_pages=%u actual=%u status=%u features=%lx poison=%u queues=", config(d, CONFIG_NUM_PAGES),
	    config(d, CONFIG_ACTUAL), virtio_status(d), d->features, config(d, CONFIG_POISON));
	for (unsigned q = 0; q < QUEUES; q++)
		say("%c", d->queue[q].size ? '1' : '0');
}

static void move(const struct command *c, unsigned queue)
{
	struct device *d = virtio_device(c, VIRTIO_ID_BALLOON);
	uint64_t from = arg(c, "from", 0) / PAGE, to = arg(c, "to", 0) / PAGE, batch = arg(c, "batch", 256);
	uint64_t cycles = tsc(), requests = 0;
	const char *error = NULL;
	char order[8] = "up";

	if (!d || !start(c, d))
		return;
	arg_text(c, "order", order, sizeof(order));
	if (!arg(c, "force", 0) && !machine_is_usable(from * PAGE, to * PAGE)) {
		fail(c, "range is not usable RAM");
		return;
	}
	if (batch == 0 || batch > BATCH_MAX || from >= to) {
		fail(c, "batch or range");
		return;
	}
	for (uint64_t i = 0; i < to - from && !error; requests++) {
		unsigned n = 0;

		for (; n < batch && i < to - from; n++, i++)
			pfns[n] = (uint32_t)(from + in_order(i, to - from, order));
		error = send(d, queue, n);
	}
	if (error) {
		running = false;
		fail(c, "%s", error);
		return;
	}
	if (arg(c, "report", 1)) {
		uint32_t actual = config(d, CONFIG_ACTUAL), n = (uint32_t)(to - from);

		mmio_write32(d->base + CONFIG_ACTUAL, queue == INFLATE ? actual + n
						      : actual < n     ? 0
								       : actual - n);
	}
	answer(c);
	say(" pfns=%lu requests=%lu cycles=%lu actual=%u num_pages=%u", to - from, requests, tsc() - cycles,
	    config(d, CONFIG_ACTUAL), config(d, CONFIG_NUM_PAGES));
}

static void inflate(const struct command *c)
{
	move(c, INFLATE);
}

static void deflate(const struct command *c)
{
	move(c, DEFLATE);
}

/* Where Linux' driver has its reporting queue: those that are not there take no number. */
static unsigned report_queue(const struct device *d)
{
	return d->features & F_STATS ? 3 : 2;
}

/* Report ranges of "bytes" from "from" to "to" as free, "batch" of them in a message; misaligned by "skew". */
static void report(const struct command *c)
{
	struct device *d = virtio_device(c, VIRTIO_ID_BALLOON);
	uint64_t from = arg(c, "from", 0), to = arg(c, "to", 0), bytes = arg(c, "bytes", 2 * MIB);
	uint64_t batch = arg(c, "batch", RANGES_MAX), skew = arg(c, "skew", 0), requests = 0, ranges = 0;
	const char *error = NULL;
	unsigned queue;

	if (!d || !start(c, d))
		return;
	queue = (unsigned)arg(c, "queue", report_queue(d));
	if (queue >= QUEUES || !d->queue[queue].size) {
		fail(c, "no such queue");
		return;
	}
	if (!arg(c, "force", 0) && !machine_is_usable(from, to)) {
		fail(c, "range is not usable RAM");
		return;
	}
	if (batch == 0 || batch > RANGES_MAX || from >= to || bytes == 0) {
		fail(c, "batch or range");
		return;
	}
	for (; from < to && !error; requests++) {
		unsigned n = 0;

		for (; n < batch && from < to; n++, from += bytes)
			d->queue[queue].desc[n] = (struct desc){from + skew, (uint32_t)bytes,
								DESC_WRITE | DESC_NEXT, (uint16_t)(n + 1)};
		d->queue[queue].desc[n - 1].flags = DESC_WRITE;
		ranges += n;
		error = exchange(d, queue);
	}
	if (error) {
		running = false;
		fail(c, "%s", error);
		return;
	}
	answer(c);
	say(" ranges=%lu requests=%lu", ranges, requests);
}

/*
 * Make statistics available: "values" of them, tag i (from "tag") with the value "base" + i; or "length" bytes of them. Then, with
 * "wait_ms", wait until the host asks for the next.
 */
static void tell(const struct command *c)
{
	struct device *d = virtio_device(c, VIRTIO_ID_BALLOON);
	uint64_t values = arg(c, "values", 16), base = arg(c, "base", 0), tag = arg(c, "tag", 0);
	const char *error = NULL;
	uint32_t written;
	uint16_t head;
	struct queue *q;

	if (!d || !start(c, d))
		return;
	q = &d->queue[STATS];
	if (!(d->features & F_STATS) || values > STATS_MAX) {
		fail(c, "no statistics, or too many");
		return;
	}
	for (uint64_t i = 0; i < values; i++)
		stats[i] = (struct stat){(uint16_t)(tag + i), base + i};
	q->desc[0] =
		(struct desc){(uint64_t)stats, (uint32_t)arg(c, "length", values * sizeof(stats[0])), 0, 0};
	queue_add(q, 0);
	queue_kick(d, STATS);
	if (arg(c, "wait_ms", 0))
		error = queue_wait(d, STATS, arg(c, "wait_ms", 0) * 1000);
	if (!error && arg(c, "wait_ms", 0) && !queue_pop(q, &head, &written))
		error = "not-asked";
	if (error) {
		fail(c, "%s", error);
		return;
	}
	answer(c);
	say(" values=%lu", values);
}

/* Wait until the host asks for so many pages. */
static void target(const struct command *c)
{
	struct device *d = virtio_device(c, VIRTIO_ID_BALLOON);
	uint64_t want = arg(c, "pages", 0), end = tsc() + us_to_cycles(arg(c, "timeout_ms", 5000) * 1000);

	if (!d || !start(c, d))
		return;
	while (config(d, CONFIG_NUM_PAGES) != want && tsc() < end)
		delay_us(200);
	if (config(d, CONFIG_NUM_PAGES) != want) {
		fail(c, "num_pages=%u", config(d, CONFIG_NUM_PAGES));
		return;
	}
	answer(c);
	say(" num_pages=%lu isr=%u", want, mmio_read32(d->base + REG_INTERRUPT_STATUS));
}

const struct verb balloon_verbs[] = {
	{"balloon", info},  {"inflate", inflate}, {"deflate", deflate}, {"target", target},
	{"report", report}, {"tell", tell},	  {NULL, NULL},
};
