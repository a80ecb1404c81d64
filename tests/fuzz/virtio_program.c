/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzz input as the program of a guest that drives a virtio device. */
#include "tests/fuzz/virtio_program.h"

#include <string.h>

struct program {
	const uint8_t *at;
	size_t left;
	bool held;
};

static uint64_t take(struct program *p, size_t bytes)
{
	uint8_t raw[8] = {0};
	size_t n = bytes < p->left ? bytes : p->left;

	memcpy(raw, p->at, n);
	p->at += n;
	p->left -= n;
	return load_le64(raw);
}

static uint64_t take_address(struct program *p)
{
	static const uint64_t bases[BASES] = {
		[BASE_DATA] = DRIVER_DATA, [BASE_TABLE] = PROGRAM_TABLE, [BASE_QUEUE] = DRIVER_QUEUES,
		[BASE_ZERO] = 0,	   [BASE_END] = DRIVER_RAM - 32, [BASE_HUGE] = UINT64_MAX - 0xffff,
	};
	uint64_t base = bases[take(p, 1) % BASES];

	return base + take(p, 2);
}

static struct driver_queue *take_queue(struct driver *d, struct program *p)
{
	return &d->queues[take(p, 1) % virtio_mmio_queue_count(d->mmio)];
}

static void step_desc(struct driver *d, struct program *p)
{
	struct driver_queue *q = take_queue(d, p);
	uint16_t index = (uint16_t)take(p, 1), next;
	uint64_t addr = take_address(p);
	uint32_t len = (uint32_t)take(p, 4);
	uint16_t flags = (uint16_t)take(p, 1);

	next = (uint16_t)take(p, 1);
	if (q->desc)
		driver_desc(q, index, addr, len, flags, next);
}

static void step_table(struct driver *d, struct program *p)
{
	uint16_t index = (uint16_t)take(p, 1);
	struct driver_queue table = {.desc = driver_ptr(d, PROGRAM_TABLE, 256 * 16)};
	uint64_t addr = take_address(p);
	uint32_t len = (uint32_t)take(p, 4);
	uint16_t flags = (uint16_t)take(p, 1);

	driver_desc(&table, index, addr, len, flags, (uint16_t)take(p, 1));
}

static void step_access(struct driver *d, struct program *p, bool write)
{
	uint64_t offset = take(p, 2) % LAYOUT_VIRTIO_MMIO_BYTES;
	uint32_t width = 1u << take(p, 1) % 4;
	uint8_t data[8] = {0};

	if (write)
		store_le64(data, take(p, 8));
	if (width > LAYOUT_VIRTIO_MMIO_BYTES - offset)
		return; /* the bus lets none through */
	if (write)
		virtio_mmio_bus_ops.write(d->mmio, offset, data, width);
	else
		virtio_mmio_bus_ops.read(d->mmio, offset, data, width);
}

static void step_poke(struct driver *d, struct program *p)
{
	uint64_t addr = take_address(p);
	uint64_t value = htole64(take(p, 8));

	if (guest_write(d->mem, GPA(addr), &value, sizeof(value)) < 0)
		return;
}

/* Bits 2 and up of the features operand, as features of the device. */
static uint64_t device_features(struct driver *d, uint64_t operand)
{
	if (driver_read(d, REG_ID) != VIRTIO_ID_OF_NET)
		return (operand & ~3u) << 7; /* bits 9 to 14, as far as it has them */
	return (operand & 4 ? 3u : 0) /* checksums, both ways */ | (operand & 8 ? 7u << 7 : 0) |
	       (operand & 16 ? 7u << 11 : 0) /* segments */ | (operand & 32 ? 1u << 15 : 0) /* merging */;
}

static void step_start(struct driver *d, struct program *p)
{
	uint64_t features = take(p, 1);
	uint16_t size = (uint16_t)(1u << take(p, 1) % 8);
	uint64_t want = (features & 1 ? VIRTIO_FEATURE_EVENT_IDX : 0) |
			(features & 2 ? VIRTIO_FEATURE_INDIRECT_DESC : 0);

	want |= device_features(d, features) | take(p, 1);
	driver_write(d, REG_FEATURES_SEL, 0);
	if (!driver_start(d, want & driver_read(d, REG_FEATURES), size))
		return;
}

static void run_step(struct driver *d, struct program *p)
{
	struct driver_queue *q;

	switch ((enum program_step)(take(p, 1) % STEPS)) {
	case STEP_START:
		step_start(d, p);
		break;
	case STEP_WRITE:
		step_access(d, p, true);
		break;
	case STEP_READ:
		step_access(d, p, false);
		break;
	case STEP_DESC:
		step_desc(d, p);
		break;
	case STEP_TABLE:
		step_table(d, p);
		break;
	case STEP_OFFER:
		q = take_queue(d, p);
		if (q->avail)
			driver_offer(q, (uint16_t)take(p, 1));
		break;
	case STEP_KICK:
		driver_kick(d, (unsigned)take(p, 1));
		break;
	case STEP_POKE:
		step_poke(d, p);
		break;
	case STEP_LOOP:
		driver_loop(d);
		if (d->between)
			d->between(d);
		break;
	case STEP_HOLD:
		if (p->held)
			virtio_mmio_release(d->mmio);
		else
			virtio_mmio_hold(d->mmio);
		p->held = !p->held;
		break;
	case STEP_RESET:
	case STEPS:
		driver_write(d, REG_STAT, 0);
		break;
	}
}

void program_run(struct driver *d, const uint8_t *data, size_t size)
{
	struct program p = {.at = data, .left = size};

	while (p.left)
		run_step(d, &p);
	if (p.held)
		virtio_mmio_release(d->mmio);
	driver_loop(d);
	driver_write(d, REG_STAT, 0);
	require(driver_read(d, REG_STAT) == 0);
	driver_loop(d);
	memset(d->queues, 0, sizeof(d->queues));
	require(guest_memory_discard(d->mem, GFN(0), DRIVER_RAM >> PAGE_SHIFT, NULL) == 0);
	driver_interrupts(d);
}
