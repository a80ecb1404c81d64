/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-mmio transport and split virtqueues, from the driver's side. */
#include "virtio.h"

#define MAGIC 0x74726976

static struct device devices[DEVICES_MAX];
static struct queue_memory {
	struct desc desc[QUEUE_SIZE_MAX];
	struct avail avail;
	uint8_t pad[1024 - sizeof(struct avail)];
	struct used used;
	uint8_t pad2[3072 - sizeof(struct used)];
} __attribute__((aligned(4096))) queue_memory[DEVICES_MAX][QUEUES_MAX];

static uint32_t reg(const struct device *d, uint32_t offset)
{
	return mmio_read32(d->base + offset);
}

static void set_reg(const struct device *d, uint32_t offset, uint32_t v)
{
	mmio_write32(d->base + offset, v);
}

static uint64_t offered(const struct device *d)
{
	uint64_t low;

	set_reg(d, REG_FEATURES_SEL, 0);
	low = reg(d, REG_FEATURES);
	set_reg(d, REG_FEATURES_SEL, 1);
	return (uint64_t)reg(d, REG_FEATURES) << 32 | low;
}

struct device *virtio_device(const struct command *c, uint32_t id)
{
	uint64_t n = arg(c, "dev", 0);
	struct device *d;

	if (n >= machine.virtio_count || n >= DEVICES_MAX) {
		fail(c, "no such device");
		return NULL;
	}
	d = &devices[n];
	d->base = machine.virtio[n].base;
	d->gsi = machine.virtio[n].gsi;
	d->id = reg(d, REG_MAGIC) == MAGIC ? reg(d, REG_DEVICE_ID) : 0;
	if (d->id == 0 || (id && d->id != id)) {
		fail(c, "device %lu is of kind %u", n, d->id);
		return NULL;
	}
	return d;
}

uint32_t virtio_status(const struct device *d)
{
	return reg(d, REG_STATUS);
}

void virtio_reset(struct device *d)
{
	set_reg(d, REG_STATUS, 0);
	while (reg(d, REG_STATUS))
		relax();
	d->features = 0;
}

static void set_address(struct device *d, uint32_t offset, const volatile void *p)
{
	set_reg(d, offset, (uint32_t)(uint64_t)p);
	set_reg(d, offset + 4, (uint32_t)((uint64_t)p >> 32));
}

static const char *queue_start(struct device *d, unsigned n, unsigned size)
{
	struct queue_memory *m = &queue_memory[d - devices][n];
	struct queue *q = &d->queue[n];
	uint32_t max;

	set_reg(d, REG_QUEUE_SEL, n);
	max = reg(d, REG_QUEUE_MAX);
	if (max == 0) {
		/* Of a balloon some are not there, depending on its features; it always has the first two. */
		*q = (struct queue){.size = 0};
		return d->id == VIRTIO_ID_BALLOON && n >= 2 ? NULL : "no-such-queue";
	}
	if (reg(d, REG_QUEUE_READY))
		return "queue-ready-after-reset";
	memset(m, 0, sizeof(*m));
	if (size > max)
		size = max;
	*q = (struct queue){.size = (uint16_t)(size < QUEUE_SIZE_MAX ? size : QUEUE_SIZE_MAX),
			    .desc = m->desc,
			    .avail = &m->avail,
			    .used = &m->used};
	set_reg(d, REG_QUEUE_NUM, q->size);
	set_address(d, REG_QUEUE_DESC, q->desc);
	set_address(d, REG_QUEUE_AVAIL, q->avail);
	set_address(d, REG_QUEUE_USED, q->used);
	set_reg(d, REG_QUEUE_READY, 1);
	return reg(d, REG_QUEUE_READY) == 1 ? NULL : "queue-not-ready";
}

const char *virtio_start(struct device *d, uint64_t wanted, unsigned queues, unsigned size)
{
	const char *error = NULL;

	if (reg(d, REG_VERSION) != 2)
		return "legacy-device";
	virtio_reset(d);
	set_reg(d, REG_STATUS, STATUS_ACKNOWLEDGE);
	set_reg(d, REG_STATUS, STATUS_ACKNOWLEDGE | STATUS_DRIVER);
	d->features = (wanted | F_VERSION_1) & offered(d);
	if (!(d->features & F_VERSION_1))
		return "no-version-1";
	set_reg(d, REG_DRIVER_SEL, 0);
	set_reg(d, REG_DRIVER, (uint32_t)d->features);
	set_reg(d, REG_DRIVER_SEL, 1);
	set_reg(d, REG_DRIVER, (uint32_t)(d->features >> 32));
	set_reg(d, REG_STATUS, STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK);
	if (!(reg(d, REG_STATUS) & STATUS_FEATURES_OK))
		return "features-refused";
	for (unsigned n = 0; n < queues && !error; n++)
		error = queue_start(d, n, size);
	if (error)
		return error;
	set_reg(d, REG_STATUS, STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK | STATUS_DRIVER_OK);
	return NULL;
}

static uint32_t irqs_of(const struct device *d)
{
	return __atomic_load_n(&irq_counts[d->vector], __ATOMIC_ACQUIRE);
}

void virtio_irqs(struct device *d, bool on)
{
	if (on) {
		d->vector = irq_route(d->gsi);
		d->irqs_seen = irqs_of(d);
		set_reg(d, REG_INTERRUPT_ACK, reg(d, REG_INTERRUPT_STATUS));
		irqs_on();
	} else {
		irqs_off();
		d->vector = 0;
	}
}

void queue_add(struct queue *q, uint16_t head)
{
	q->avail->ring[q->avail->index % q->size] = head;
	__atomic_thread_fence(__ATOMIC_RELEASE);
	q->avail->index = (uint16_t)(q->avail->index + 1);
}

void queue_kick(struct device *d, unsigned queue)
{
	struct queue *q = &d->queue[queue];
	uint16_t now = q->avail->index, old = q->last_kick;
	bool wanted;

	full_barrier();
	if (d->features & F_EVENT_IDX) {
		uint16_t event = *(volatile uint16_t *)&q->used->ring[q->size];

		wanted = (uint16_t)(now - event - 1) < (uint16_t)(now - old);
	} else {
		wanted = !(q->used->flags & 1);
	}
	q->last_kick = now;
	if (wanted) {
		d->kicks++;
		set_reg(d, REG_NOTIFY, queue);
	}
}

static bool used_pending(const struct queue *q)
{
	uint16_t index = q->used->index;

	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	return index != q->last_used;
}

bool queue_pop(struct queue *q, uint16_t *ret_head, uint32_t *ret_bytes)
{
	if (!used_pending(q))
		return false;
	*ret_head = (uint16_t)q->used->ring[q->last_used % q->size].id;
	*ret_bytes = q->used->ring[q->last_used % q->size].bytes;
	q->last_used++;
	return true;
}

void queue_arm(struct device *d, unsigned queue)
{
	struct queue *q = &d->queue[queue];

	if (d->features & F_EVENT_IDX)
		*(volatile uint16_t *)&q->avail->ring[q->size] =
			(uint16_t)(q->last_used + (d->vector ? 0 : 0x8000));
	else
		q->avail->flags = d->vector ? 0 : 1;
	full_barrier();
}

const char *queue_wait(struct device *d, unsigned queue, uint64_t timeout_us)
{
	struct queue *q = &d->queue[queue];
	uint64_t begun = tsc(), looked = begun;

	queue_arm(d, queue);
	if (used_pending(q))
		return NULL; /* since before: no interrupt is owed */
	for (;;) {
		uint64_t now = tsc();

		if (d->vector && irqs_of(d) != d->irqs_seen) {
			d->irqs_seen = irqs_of(d);
			set_reg(d, REG_INTERRUPT_ACK, reg(d, REG_INTERRUPT_STATUS));
			if (used_pending(q))
				return NULL;
		} else if (!d->vector && used_pending(q)) {
			return NULL;
		}
		if (now - looked > us_to_cycles(20000)) {
			if (virtio_status(d) & STATUS_NEEDS_RESET)
				return "needs-reset";
			looked = now;
		}
		if (now - begun > us_to_cycles(timeout_us))
			return used_pending(q) ? "lost-interrupt" : "timeout";
		relax();
	}
}

/* ---- verbs ---- */

static void list(const struct command *c)
{
	answer(c);
	for (unsigned i = 0; i < machine.virtio_count; i++) {
		struct device d = {.base = machine.virtio[i].base};

		say(" d%u=%u:%lx:%u:%u:%lx", i, reg(&d, REG_MAGIC) == MAGIC ? reg(&d, REG_DEVICE_ID) : 0,
		    d.base, machine.virtio[i].gsi, reg(&d, REG_VERSION), offered(&d));
	}
}

/* Bring a device up and say where its rings are, for tests that then write there themselves. */
static void vstart(const struct command *c)
{
	struct device *d = virtio_device(c, 0);
	const char *error;
	unsigned queues = (unsigned)arg(c, "queues", 1);

	if (!d)
		return;
	error = virtio_start(d, arg(c, "features", 0), queues < QUEUES_MAX ? queues : QUEUES_MAX,
			     (unsigned)arg(c, "size", QUEUE_SIZE_MAX));
	if (error) {
		fail(c, "%s", error);
		return;
	}
	answer(c);
	say(" base=%lx features=%lx", d->base, d->features);
	for (unsigned i = 0; i < queues && i < QUEUES_MAX; i++)
		say(" size%u=%u desc%u=%lx avail%u=%lx used%u=%lx", i, d->queue[i].size, i,
		    (uint64_t)d->queue[i].desc, i, (uint64_t)d->queue[i].avail, i,
		    (uint64_t)d->queue[i].used);
}

static void vstatus(const struct command *c)
{
	struct device *d = virtio_device(c, 0);

	if (!d)
		return;
	answer(c);
	say(" status=%u isr=%u generation=%u", virtio_status(d), reg(d, REG_INTERRUPT_STATUS),
	    reg(d, REG_CONFIG_GENERATION));
}

static void vreset(const struct command *c)
{
	struct device *d = virtio_device(c, 0);

	if (!d)
		return;
	virtio_reset(d);
	answer(c);
	say(" status=%u", virtio_status(d));
}

const struct verb virtio_verbs[] = {
	{"virtio", list}, {"vstart", vstart}, {"vstatus", vstatus}, {"vreset", vreset}, {NULL, NULL},
};
