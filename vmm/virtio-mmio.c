/* SPDX-License-Identifier: Apache-2.0 */
/* The virtio-mmio transport, register file version 2. */
/*
 * Theory of operation
 *
 * Threads and locks. Registers are touched by vCPU threads, queues are worked on by the I/O thread when the
 * eventfd of a queue is signalled: by KVM (ioeventfd) or, where a write to QueueNotify does exit, by us. One
 * mutex per device guards all but these, which are atomics, so that the paths a driver takes per request
 * never wait for I/O: InterruptStatus (set by release before the edge is raised, cleared by InterruptACK),
 * Status and ConfigGeneration (written under the mutex, read without) and the counters.
 *
 * Driver states are the bits of Status. status_rules[] says which bits each bit needs before it; bits are
 * only ever added, and a write of 0 resets. What a driver may do in each state:
 *
 *   before FEATURES_OK   select and write features (once DRIVER is set)
 *   FEATURES_OK          set queues up
 *   DRIVER_OK            kick; stop a queue (QueueReady 0), which waits for its I/O; only a reset lets it be
 *                        started again
 *   NEEDS_RESET          nothing. Ours: set when the driver broke a rule
 *
 * A write in the wrong state is ignored and counted; a broken ring, queue set-up or a configuration write
 * outside the configuration space is a hostile event and sets NEEDS_RESET.
 *
 * Reset (I2 of the design: no I/O may touch guest memory later): queues are disabled first, so that what
 * completes publishes nothing; then the device drains, which waits for its I/O on the vCPU's own thread; then
 * state goes. All of it has happened when the register write returns.
 *
 * Interrupts are edges, one for each time that a driver wants to know. They are not merged on a set
 * InterruptStatus bit: that would be right only for drivers that acknowledge before they look at the rings.
 */
#include "vmm/virtio-mmio.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "base/bytes.h"
#include "base/size.h"

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

#define INT_QUEUE  1u
#define INT_CONFIG 2u

struct mmio_queue {
	struct virtio_mmio *t;
	unsigned index;
	int fd;
	struct io_source *source;
	struct virtqueue vq;
};

struct virtio_mmio {
	const struct virtio_device_ops *ops;
	void *dev;
	struct irq_line irq;
	pthread_mutex_t mutex;

	atomic_uint status;	/* written under the mutex */
	atomic_uint generation; /* written under the mutex */
	atomic_uint interrupt_status;
	const char *_Atomic broken; /* written under the mutex */

	/* Under the mutex. */
	unsigned held;
	uint64_t driver_features;
	uint32_t device_features_sel;
	uint32_t driver_features_sel;
	uint32_t queue_sel;
	struct mmio_queue queues[VIRTIO_QUEUES_MAX];

	struct {
		_Atomic uint64_t kicks, interrupts, requests, errors, hostile, ignored, resets;
	} count;
};

static void count_add(_Atomic uint64_t *counter, uint64_t n)
{
	atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

static uint64_t count_get(const _Atomic uint64_t *counter)
{
	return atomic_load_explicit(counter, memory_order_relaxed);
}

static uint32_t status_get(const struct virtio_mmio *t)
{
	return atomic_load_explicit(&t->status, memory_order_acquire);
}

static void status_set(struct virtio_mmio *t, uint32_t status)
{
	atomic_store_explicit(&t->status, status, memory_order_release);
}

static void raise_interrupt(struct virtio_mmio *t, uint32_t bit)
{
	/* Release: a driver that sees the bit sees what was pushed. Pairs with the acquire of the register's
	 * read. */
	atomic_fetch_or_explicit(&t->interrupt_status, bit, memory_order_release);
	irq_raise(&t->irq);
	count_add(&t->count.interrupts, 1);
}

static void kick(const struct mmio_queue *q)
{
	uint64_t one = 1;

	if (write(q->fd, &one, sizeof(one)) < 0) {
		/* EAGAIN: the counter is full, so a kick is pending anyway. */
	}
}

/* Context: the I/O thread. */
static void queue_kicked(void *arg, uint32_t events)
{
	struct mmio_queue *q = arg;
	struct virtio_mmio *t = q->t;
	uint64_t kicks;

	(void)events;
	if (read(q->fd, &kicks, sizeof(kicks)) != sizeof(kicks))
		return;
	count_add(&t->count.kicks, kicks);
	virtio_mmio_lock(t);
	/* A kick that comes while the device is held is repeated by the release. */
	if (virtio_mmio_may_take(t) && q->vq.enabled)
		t->ops->queue_notify(t->dev, q->index);
	virtio_mmio_unlock(t);
}

int virtio_mmio_new(const struct virtio_device_ops *ops, void *dev, const struct guest_memory *mem,
		    struct io_loop *loop, const struct irq_line *irq, struct virtio_mmio **ret)
{
	cleanup(virtio_mmio_free_p) struct virtio_mmio *t = NULL;

	if (ops->queue_count > VIRTIO_QUEUES_MAX)
		return -EINVAL;
	t = calloc(1, sizeof(*t));
	if (!t)
		return -ENOMEM;
	t->ops = ops;
	t->dev = dev;
	t->irq = *irq;
	pthread_mutex_init(&t->mutex, NULL);
	for (unsigned i = 0; i < ops->queue_count; i++)
		t->queues[i].fd = -1;
	for (unsigned i = 0; i < ops->queue_count; i++) {
		struct mmio_queue *q = &t->queues[i];
		int r;

		if (ops->queue_size_max[i] > VIRTQUEUE_SIZE_MAX)
			return -EINVAL;
		q->t = t;
		q->index = i;
		virtqueue_init(&q->vq, mem, ops->queue_size_max[i]);
		q->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (q->fd < 0)
			return -errno;
		r = io_source_new(loop, q->fd, EPOLLIN, queue_kicked, q, &q->source);
		if (r < 0)
			return r;
	}
	*ret = TAKE_PTR(t);
	return 0;
}

void virtio_mmio_free(struct virtio_mmio *t)
{
	if (!t)
		return;
	for (unsigned i = 0; i < t->ops->queue_count; i++) {
		io_source_free(t->queues[i].source);
		close_fd_p(&t->queues[i].fd);
	}
	pthread_mutex_destroy(&t->mutex);
	free(t);
}

unsigned virtio_mmio_queue_count(const struct virtio_mmio *t)
{
	return t->ops->queue_count;
}

int virtio_mmio_queue_fd(const struct virtio_mmio *t, unsigned queue)
{
	return queue < t->ops->queue_count ? t->queues[queue].fd : -1;
}

const char *virtio_mmio_name(const struct virtio_mmio *t)
{
	return t->ops->name;
}

void virtio_mmio_counters(const struct virtio_mmio *t, struct virtio_counters *ret)
{
	*ret = (struct virtio_counters){
		.kicks = count_get(&t->count.kicks),
		.interrupts = count_get(&t->count.interrupts),
		.requests = count_get(&t->count.requests),
		.errors = count_get(&t->count.errors),
		.hostile = count_get(&t->count.hostile),
		.ignored = count_get(&t->count.ignored),
		.resets = count_get(&t->count.resets),
	};
}

const char *virtio_mmio_broken(const struct virtio_mmio *t)
{
	return atomic_load_explicit(&t->broken, memory_order_acquire);
}

void virtio_mmio_lock(struct virtio_mmio *t)
{
	pthread_mutex_lock(&t->mutex);
}

void virtio_mmio_unlock(struct virtio_mmio *t)
{
	pthread_mutex_unlock(&t->mutex);
}

struct virtqueue *virtio_mmio_queue(struct virtio_mmio *t, unsigned queue)
{
	return &t->queues[queue].vq;
}

bool virtio_mmio_running(const struct virtio_mmio *t)
{
	uint32_t status = status_get(t);

	return (status & VIRTIO_STATUS_DRIVER_OK) &&
	       !(status & (VIRTIO_STATUS_NEEDS_RESET | VIRTIO_STATUS_FAILED));
}

bool virtio_mmio_held(const struct virtio_mmio *t)
{
	return t->held > 0;
}

bool virtio_mmio_may_take(const struct virtio_mmio *t)
{
	return virtio_mmio_running(t) && !virtio_mmio_held(t);
}

static void kick_enabled(struct virtio_mmio *t)
{
	for (unsigned i = 0; i < t->ops->queue_count; i++)
		if (t->queues[i].vq.enabled)
			kick(&t->queues[i]);
}

void virtio_mmio_hold(struct virtio_mmio *t)
{
	virtio_mmio_lock(t);
	t->held++;
	if (t->ops->finish)
		t->ops->finish(t->dev);
	virtio_mmio_unlock(t);
}

void virtio_mmio_release(struct virtio_mmio *t)
{
	virtio_mmio_lock(t);
	if (--t->held == 0)
		kick_enabled(t);
	virtio_mmio_unlock(t);
}

void virtio_mmio_signal(struct virtio_mmio *t, unsigned queue)
{
	if (virtio_mmio_running(t) && virtqueue_should_signal(&t->queues[queue].vq))
		raise_interrupt(t, INT_QUEUE);
}

void virtio_mmio_again(struct virtio_mmio *t, unsigned queue)
{
	kick(&t->queues[queue]);
}

void virtio_mmio_config_changed(struct virtio_mmio *t)
{
	atomic_fetch_add_explicit(&t->generation, 1, memory_order_release);
	if (virtio_mmio_running(t))
		raise_interrupt(t, INT_CONFIG);
}

void virtio_mmio_break(struct virtio_mmio *t, const char *why)
{
	uint32_t status = status_get(t);

	if (status & VIRTIO_STATUS_NEEDS_RESET)
		return;
	count_add(&t->count.hostile, 1);
	atomic_store_explicit(&t->broken, why, memory_order_release);
	/* What is in flight completes, but nothing is published any more. */
	for (unsigned i = 0; i < t->ops->queue_count; i++)
		t->queues[i].vq.broken = why;
	status_set(t, status | VIRTIO_STATUS_NEEDS_RESET);
	if (status & VIRTIO_STATUS_DRIVER_OK)
		raise_interrupt(t, INT_CONFIG);
}

void virtio_mmio_count_requests(struct virtio_mmio *t, uint64_t requests)
{
	count_add(&t->count.requests, requests);
}

void virtio_mmio_count_error(struct virtio_mmio *t)
{
	count_add(&t->count.errors, 1);
}

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
	kick_enabled(t);
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
			kick(&t->queues[value]);
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
