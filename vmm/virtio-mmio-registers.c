/* SPDX-License-Identifier: Apache-2.0 */
/* The register file of the virtio-mmio transport: what a driver's reads and writes do, in each of its states. */
#include <string.h>

#include "base/bytes.h"
#include "base/size.h"
#include "vmm/virtio-mmio-internal.h"

#define MMIO_MAGIC   0x74726976u /* "virt" */
#define MMIO_VERSION 2u
#define MMIO_VENDOR  0x6e647273u /* "srdn" */

/* Registers (virtio 1.2, table 4.1). */
enum mmio_reg {
	REG_MAGIC = 0x000,
	REG_VERSION = 0x004,
	REG_DEVICE_ID = 0x008,
	REG_VENDOR_ID = 0x00c,
	REG_DEVICE_FEATURES = 0x010,
	REG_DEVICE_FEATURES_SEL = 0x014,
	REG_DRIVER_FEATURES = 0x020,
	REG_DRIVER_FEATURES_SEL = 0x024,
	REG_QUEUE_SEL = 0x030,
	REG_QUEUE_NUM_MAX = 0x034,
	REG_QUEUE_NUM = 0x038,
	REG_QUEUE_READY = 0x044,
	REG_QUEUE_NOTIFY = VIRTIO_MMIO_REG_NOTIFY,
	REG_INTERRUPT_STATUS = 0x060,
	REG_INTERRUPT_ACK = 0x064,
	REG_STATUS = 0x070,
	REG_QUEUE_DESC_LOW = 0x080,
	REG_QUEUE_DESC_HIGH = 0x084,
	REG_QUEUE_AVAIL_LOW = 0x090,
	REG_QUEUE_AVAIL_HIGH = 0x094,
	REG_QUEUE_USED_LOW = 0x0a0,
	REG_QUEUE_USED_HIGH = 0x0a4,
	REG_SHM_LEN_LOW = 0x0b0,
	REG_SHM_LEN_HIGH = 0x0b4,
	REG_SHM_BASE_LOW = 0x0b8,
	REG_SHM_BASE_HIGH = 0x0bc,
	REG_CONFIG_GENERATION = 0x0fc,
};

static uint64_t device_features(const struct virtio_mmio *t)
{
	return (t->ops->features ? t->ops->features(t->dev) : 0) | VIRTIO_FEATURE_VERSION_1 |
	       VIRTIO_FEATURE_EVENT_IDX | VIRTIO_FEATURE_INDIRECT_DESC;
}

/* Features come in two halves of 32 bits; there are none above. */
static uint32_t feature_half(uint64_t features, uint32_t sel)
{
	return sel < 2 ? (uint32_t)(features >> (32 * sel)) : 0;
}

static struct mmio_queue *selected_queue(struct virtio_mmio *t)
{
	return t->queue_sel < t->ops->queue_count ? &t->queues[t->queue_sel] : NULL;
}

/* Whether the selected queue is one of those that the features chosen bring with them. */
static bool selected_queue_exists(struct virtio_mmio *t)
{
	return t->queue_sel < t->ops->queue_count &&
	       (!t->ops->queue_exists || t->ops->queue_exists(t->dev, t->queue_sel, t->driver_features));
}

static uint32_t reg_read_locked(struct virtio_mmio *t, uint32_t reg)
{
	struct mmio_queue *q = selected_queue(t);

	switch (reg) {
	case REG_DEVICE_FEATURES:
		return feature_half(device_features(t), t->device_features_sel);
	case REG_QUEUE_NUM_MAX:
		return selected_queue_exists(t) ? q->vq.size_max : 0;
	case REG_QUEUE_READY:
		return q && q->vq.enabled;
	default:
		return 0;
	}
}

static uint32_t reg_read(struct virtio_mmio *t, uint32_t reg)
{
	uint32_t value;

	switch (reg) {
	case REG_MAGIC:
		return MMIO_MAGIC;
	case REG_VERSION:
		return MMIO_VERSION;
	case REG_DEVICE_ID:
		return t->ops->device_id;
	case REG_VENDOR_ID:
		return MMIO_VENDOR;
	case REG_INTERRUPT_STATUS:
		return atomic_load_explicit(&t->interrupt_status, memory_order_acquire);
	case REG_STATUS:
		return status_get(t);
	case REG_CONFIG_GENERATION:
		return atomic_load_explicit(&t->generation, memory_order_acquire);
	case REG_SHM_LEN_LOW:
	case REG_SHM_LEN_HIGH:
	case REG_SHM_BASE_LOW:
	case REG_SHM_BASE_HIGH:
		return UINT32_MAX; /* no shared memory region (virtio 1.2, 4.2.2) */
	default:
		virtio_mmio_lock(t);
		value = reg_read_locked(t, reg);
		virtio_mmio_unlock(t);
		return value;
	}
}

static void drain(struct virtio_mmio *t)
{
	if (t->ops->drain)
		t->ops->drain(t->dev);
}

static void device_reset(struct virtio_mmio *t)
{
	for (unsigned i = 0; i < t->ops->queue_count; i++)
		virtqueue_disable(&t->queues[i].vq);
	drain(t);
	t->ops->reset(t->dev);
	for (unsigned i = 0; i < t->ops->queue_count; i++)
		virtqueue_reset(&t->queues[i].vq);
	t->driver_features = 0;
	t->device_features_sel = 0;
	t->driver_features_sel = 0;
	t->queue_sel = 0;
	atomic_store_explicit(&t->interrupt_status, 0, memory_order_release);
	atomic_store_explicit(&t->broken, NULL, memory_order_release);
	status_set(t, 0);
}

void virtio_mmio_reset(struct virtio_mmio *t)
{
	virtio_mmio_lock(t);
	device_reset(t);
	virtio_mmio_unlock(t);
}

static void device_start(struct virtio_mmio *t)
{
	if (t->ops->activate)
		t->ops->activate(t->dev, t->driver_features);
	/* A driver may have filled its queues before; its kicks came too early to be seen. */
	virtio_mmio_kick_enabled(t);
}

/* The bits a driver may set, in the order in which they come, and what must be set before
 * (virtio 1.2, 3.1.1). */
static const struct status_rule {
	uint32_t bit;
	uint32_t needs;
} status_rules[] = {
	{VIRTIO_STATUS_ACKNOWLEDGE, 0},
	{VIRTIO_STATUS_DRIVER, VIRTIO_STATUS_ACKNOWLEDGE},
	{VIRTIO_STATUS_FEATURES_OK, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER},
	{VIRTIO_STATUS_DRIVER_OK,
	 VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER | VIRTIO_STATUS_FEATURES_OK},
	{VIRTIO_STATUS_FAILED, 0},
};

/* Return: whether the bit may be set now. */
static bool status_bit_allowed(struct virtio_mmio *t, const struct status_rule *rule, uint32_t status)
{
	if ((status & rule->needs) != rule->needs)
		return false;
	if ((status & (VIRTIO_STATUS_NEEDS_RESET | VIRTIO_STATUS_FAILED)) &&
	    rule->bit != VIRTIO_STATUS_FAILED)
		return false;
	/* Refusing features is negotiation: the driver reads the bit back (virtio 1.2, 2.2.2). */
	if (rule->bit == VIRTIO_STATUS_FEATURES_OK)
		return (t->driver_features & VIRTIO_FEATURE_VERSION_1) &&
		       !(t->driver_features & ~device_features(t));
	return true;
}

static void status_write(struct virtio_mmio *t, uint32_t value)
{
	if (value == 0) {
		device_reset(t);
		count_add(&t->count.resets, 1);
		return;
	}
	for (size_t i = 0; i < ARRAY_SIZE(status_rules); i++) {
		const struct status_rule *rule = &status_rules[i];
		uint32_t status = status_get(t);

		if (!(value & rule->bit) || (status & rule->bit))
			continue;
		if (!status_bit_allowed(t, rule, status)) {
			count_add(&t->count.ignored, 1);
			continue;
		}
		status_set(t, status | rule->bit);
		if (rule->bit == VIRTIO_STATUS_DRIVER_OK)
			device_start(t);
	}
}

static void queue_ready_write(struct virtio_mmio *t, struct mmio_queue *q, uint32_t value)
{
	uint64_t features = t->driver_features;

	if (value == 0) {
		if (q->vq.enabled)
			drain(t);
		virtqueue_disable(&q->vq);
		return;
	}
	if (virtqueue_enable(&q->vq, features & VIRTIO_FEATURE_EVENT_IDX,
			     features & VIRTIO_FEATURE_INDIRECT_DESC) < 0)
		virtio_mmio_break(t, q->vq.broken);
}

static void set_low(uint64_t *field, uint32_t value)
{
	*field = (*field & ~(uint64_t)UINT32_MAX) | value;
}

static void set_high(uint64_t *field, uint32_t value)
{
	*field = (*field & UINT32_MAX) | (uint64_t)value << 32;
}

/* Whether the driver may set queues up now: between FEATURES_OK and DRIVER_OK. */
static bool queue_setup_allowed(const struct virtio_mmio *t)
{
	uint32_t status = status_get(t);

	return (status & VIRTIO_STATUS_FEATURES_OK) &&
	       !(status & (VIRTIO_STATUS_DRIVER_OK | VIRTIO_STATUS_NEEDS_RESET | VIRTIO_STATUS_FAILED));
}

/* Return: false when the write had no effect. */
static bool queue_reg_write(struct virtio_mmio *t, uint32_t reg, uint32_t value)
{
	struct mmio_queue *q = selected_queue(t);

	if (!q)
		return false;
	/* Stopping is allowed always; Linux does it after a reset too. */
	if (reg == REG_QUEUE_READY && value == 0) {
		queue_ready_write(t, q, 0);
		return true;
	}
	if (!queue_setup_allowed(t) || q->vq.enabled || !selected_queue_exists(t))
		return false;
	switch (reg) {
	case REG_QUEUE_NUM:
		q->vq.size = value;
		return true;
	case REG_QUEUE_READY:
		queue_ready_write(t, q, value);
		return true;
	case REG_QUEUE_DESC_LOW:
		set_low(&q->vq.desc_gpa, value);
		return true;
	case REG_QUEUE_DESC_HIGH:
		set_high(&q->vq.desc_gpa, value);
		return true;
	case REG_QUEUE_AVAIL_LOW:
		set_low(&q->vq.avail_gpa, value);
		return true;
	case REG_QUEUE_AVAIL_HIGH:
		set_high(&q->vq.avail_gpa, value);
		return true;
	case REG_QUEUE_USED_LOW:
		set_low(&q->vq.used_gpa, value);
		return true;
	case REG_QUEUE_USED_HIGH:
		set_high(&q->vq.used_gpa, value);
		return true;
	default:
		return false;
	}
}

static bool driver_features_write(struct virtio_mmio *t, uint32_t value)
{
	uint32_t status = status_get(t);

	if (!(status & VIRTIO_STATUS_DRIVER) || (status & VIRTIO_STATUS_FEATURES_OK))
		return false;
	if (t->driver_features_sel == 0)
		set_low(&t->driver_features, value);
	else if (t->driver_features_sel == 1)
		set_high(&t->driver_features, value);
	else
		return value == 0;
	return true;
}

/* Return: false when the write had no effect. */
static bool reg_write_locked(struct virtio_mmio *t, uint32_t reg, uint32_t value)
{
	switch (reg) {
	case REG_DEVICE_FEATURES_SEL:
		t->device_features_sel = value;
		return true;
	case REG_DRIVER_FEATURES_SEL:
		t->driver_features_sel = value;
		return true;
	case REG_DRIVER_FEATURES:
		return driver_features_write(t, value);
	case REG_QUEUE_SEL:
		t->queue_sel = value;
		return true;
	case REG_STATUS:
		status_write(t, value);
		return true;
	default:
		return queue_reg_write(t, reg, value);
	}
}

static void reg_write(struct virtio_mmio *t, uint32_t reg, uint32_t value)
{
	bool done = true;

	switch (reg) {
	case REG_QUEUE_NOTIFY:
		if (value < t->ops->queue_count)
			virtio_mmio_kick(&t->queues[value]);
		else
			done = false;
		break;
	case REG_INTERRUPT_ACK:
		atomic_fetch_and_explicit(&t->interrupt_status, ~value, memory_order_acq_rel);
		break;
	default:
		virtio_mmio_lock(t);
		done = reg_write_locked(t, reg, value);
		virtio_mmio_unlock(t);
		break;
	}
	if (!done)
		count_add(&t->count.ignored, 1);
}

/* Registers are accessed with 4 bytes, aligned (virtio 1.2, 4.2.2.2); the configuration space with any width. */
static bool is_register(uint64_t offset, uint32_t len)
{
	return len == 4 && offset % 4 == 0;
}

static void config_read(const struct virtio_mmio *t, uint64_t offset, uint8_t *data, uint32_t len)
{
	const uint8_t *config = (const uint8_t *)t->dev + t->ops->config_offset;

	for (uint32_t i = 0; i < len && offset + i < t->ops->config_bytes; i++)
		data[i] = config[offset + i];
}

static void config_write(struct virtio_mmio *t, uint64_t offset, const uint8_t *data, uint32_t len)
{
	if (!range_fits(offset, len, t->ops->config_bytes))
		virtio_mmio_break(t, "write outside the configuration space");
	else if (t->ops->config_write)
		t->ops->config_write(t->dev, (uint32_t)offset, data, len);
}

static void mmio_read(void *dev, uint64_t offset, uint8_t *data, uint32_t len)
{
	struct virtio_mmio *t = dev;

	memset(data, 0, len);
	if (offset >= VIRTIO_MMIO_CONFIG_OFFSET) {
		virtio_mmio_lock(t);
		config_read(t, offset - VIRTIO_MMIO_CONFIG_OFFSET, data, len);
		virtio_mmio_unlock(t);
	} else if (is_register(offset, len)) {
		store_le32(data, reg_read(t, (uint32_t)offset));
	}
}

static void mmio_write(void *dev, uint64_t offset, const uint8_t *data, uint32_t len)
{
	struct virtio_mmio *t = dev;

	if (offset >= VIRTIO_MMIO_CONFIG_OFFSET) {
		virtio_mmio_lock(t);
		config_write(t, offset - VIRTIO_MMIO_CONFIG_OFFSET, data, len);
		virtio_mmio_unlock(t);
	} else if (is_register(offset, len)) {
		reg_write(t, (uint32_t)offset, load_le32(data));
	} else {
		count_add(&t->count.ignored, 1);
	}
}

const struct bus_ops virtio_mmio_bus_ops = {.read = mmio_read, .write = mmio_write};
