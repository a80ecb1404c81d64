/* SPDX-License-Identifier: Apache-2.0 */
/* The virtio-mmio transport (virtio 1.2, 4.2, register file version 2): one per device, between a vCPU's
 * register accesses and a device's operations. */
#ifndef SARDINE_VMM_VIRTIO_MMIO_H
#define SARDINE_VMM_VIRTIO_MMIO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "vmm/bus.h"
#include "vmm/guest-memory.h"
#include "vmm/io-loop.h"
#include "vmm/irq.h"
#include "vmm/virtqueue.h"

/* The registers of a device, then its configuration space (virtio 1.2, 4.2.2). */
#define VIRTIO_MMIO_CONFIG_OFFSET 0x100
#define VIRTIO_MMIO_REG_NOTIFY                                                                               \
	0x050 /* QueueNotify: where KVM_IOEVENTFD listens, 4 bytes, datamatch = queue */

/* Device status bits (virtio 1.2, 2.1). */
#define VIRTIO_STATUS_ACKNOWLEDGE 1u
#define VIRTIO_STATUS_DRIVER	  2u
#define VIRTIO_STATUS_DRIVER_OK	  4u
#define VIRTIO_STATUS_FEATURES_OK 8u
#define VIRTIO_STATUS_NEEDS_RESET 64u
#define VIRTIO_STATUS_FAILED	  128u

/* Feature bits of every device of ours (virtio 1.2, 6). */
#define VIRTIO_FEATURE_INDIRECT_DESC ((uint64_t)1 << 28)
#define VIRTIO_FEATURE_EVENT_IDX     ((uint64_t)1 << 29)
#define VIRTIO_FEATURE_VERSION_1     ((uint64_t)1 << 32)

/* Device types (virtio 1.2, 5). */
#define VIRTIO_ID_OF_NET     1
#define VIRTIO_ID_OF_BLOCK   2
#define VIRTIO_ID_OF_RNG     4
#define VIRTIO_ID_OF_BALLOON 5
#define VIRTIO_ID_OF_VSOCK   19

/* The most queues a device may have. */
#define VIRTIO_QUEUES_MAX 8

struct virtio_mmio;

/*
 * What a device does. All run with the device's lock held, on a vCPU thread (register accesses) or the I/O
 * thread (queue_notify); none may wait for another vCPU or for the I/O thread.
 */
struct virtio_device_ops {
	const char *name;
	uint32_t device_id;
	unsigned queue_count;
	uint16_t queue_size_max[VIRTIO_QUEUES_MAX];

	/* Feature bits of the device type; the transport adds its own. NULL: none. */
	uint64_t (*features)(void *dev);
	/* Whether a queue is there with the features that the driver chose; QueueNumMax reads 0 otherwise. NULL: all are. */
	bool (*queue_exists)(void *dev, unsigned queue, uint64_t features);
	/* The configuration space, as the driver sees it: where it lies in @dev, and its length. What is beyond reads as zero. */
	size_t config_offset;
	size_t config_bytes;
	/* A write inside of the configuration space (one that is not breaks the device). NULL: no field is the driver's. */
	void (*config_write)(void *dev, uint32_t offset, const uint8_t *data, uint32_t len);
	/* DRIVER_OK: queues may be used from now on. @features is what was negotiated. NULL: nothing to do. */
	void (*activate)(void *dev, uint64_t features);
	/* Queue @queue is enabled and may hold chains. */
	void (*queue_notify)(void *dev, unsigned queue);
	/* Return only when no I/O is in flight on guest memory. Must not take new chains. NULL: nothing ever is. */
	void (*drain)(void *dev);
	/* Finish what is in flight, to the driver's satisfaction: the device is held. Must not take new chains. NULL: nothing
	 * is ever in flight. */
	void (*finish)(void *dev);
	/* Back to the state before the driver came; drained already. */
	void (*reset)(void *dev);
};

/* Since the device was made; they survive resets. */
struct virtio_counters {
	uint64_t kicks;	     /* notifications by the driver (several may have been merged into one) */
	uint64_t interrupts; /* sent to the driver */
	uint64_t requests;   /* chains taken */
	uint64_t errors;     /* requests answered with an error */
	uint64_t hostile; /* times a driver broke the rules so that the device stopped until its next reset */
	uint64_t ignored; /* register writes without effect: wrong state, width or register */
	uint64_t resets;  /* by the driver */
};

/**
 * virtio_mmio_new() - Make the transport of a device.
 * @ops: the device's operations, constant.
 * @dev: passed to them.
 * @mem: guest RAM; outlives the transport.
 * @loop: where kicks are handled; outlives the transport.
 * @irq: copied.
 * @ret: freed with virtio_mmio_free().
 *
 * Context: the loop's thread, or before it runs.
 * Return: 0, -EINVAL for ops out of bounds, -ENOMEM, or the errno of eventfd and epoll.
 */
int virtio_mmio_new(const struct virtio_device_ops *ops, void *dev, const struct guest_memory *mem,
		    struct io_loop *loop, const struct irq_line *irq, struct virtio_mmio **ret) must_check;

/* Context: the vCPUs and the loop have stopped. The device drained itself before. NULL is allowed. */
void virtio_mmio_free(struct virtio_mmio *t);
DEFINE_CLEANUP(struct virtio_mmio, virtio_mmio_free)

/**
 * virtio_mmio_reset() - The machine resets: as if the driver had reset the device, but it is not counted.
 *
 * Context: no vCPU runs, the device is not held; waits for I/O in flight.
 */
void virtio_mmio_reset(struct virtio_mmio *t);

/* For the VM: what to register on its bus, with the transport as @dev, LAYOUT_VIRTIO_MMIO_BYTES long. */
extern const struct bus_ops virtio_mmio_bus_ops;

/* The queues, and the eventfd whose signal is a kick of queue @queue (for KVM_IOEVENTFD; the transport's
 * own). */
unsigned virtio_mmio_queue_count(const struct virtio_mmio *t);
int virtio_mmio_queue_fd(const struct virtio_mmio *t, unsigned queue);

const char *virtio_mmio_name(const struct virtio_mmio *t);

/* Context: any thread; takes no lock. */
void virtio_mmio_counters(const struct virtio_mmio *t, struct virtio_counters *ret);

/* Why the device stopped until its next reset, a constant string; NULL: it has not. Any thread, no lock. */
const char *virtio_mmio_broken(const struct virtio_mmio *t);

/**
 * virtio_mmio_hold() - Keep the device's hands off guest memory, while the vCPUs are paused.
 * @t: the transport.
 *
 * Returns when nothing is in flight; chains stay in the ring until virtio_mmio_release(). Nests.
 *
 * Context: any thread but one that holds the device's lock; waits for I/O.
 */
void virtio_mmio_hold(struct virtio_mmio *t);
void virtio_mmio_release(struct virtio_mmio *t);

/*
 * For devices. Lock around events that do not come through the ops (completions, a new target); all others
 * below need the lock held.
 */
void virtio_mmio_lock(struct virtio_mmio *t);
void virtio_mmio_unlock(struct virtio_mmio *t);

struct virtqueue *virtio_mmio_queue(struct virtio_mmio *t, unsigned queue);

/* Whether the driver is up and has kept the rules: queues may be worked on. */
bool virtio_mmio_running(const struct virtio_mmio *t);

/* Whether the device is held: no chain may be taken. What is in flight may complete. */
bool virtio_mmio_held(const struct virtio_mmio *t);

/* Both: running and not held. What an event or a timer of the device asks before it takes chains. */
bool virtio_mmio_may_take(const struct virtio_mmio *t);

/* Interrupt the driver when it wants one for what was pushed to the queue; once after a batch. */
void virtio_mmio_signal(struct virtio_mmio *t, unsigned queue);

/* Have queue_notify called again soon from the loop: the device stopped before its queue was empty. */
void virtio_mmio_again(struct virtio_mmio *t, unsigned queue);

/* The configuration space changed: a new generation, and an interrupt when the driver is up. */
void virtio_mmio_config_changed(struct virtio_mmio *t);

/**
 * virtio_mmio_break() - The driver broke the rules: DEVICE_NEEDS_RESET (virtio 1.2, 2.1.2).
 * @t: the transport.
 * @why: a constant string.
 *
 * Queues are not worked on until the driver resets the device; counted once per reset.
 */
void virtio_mmio_break(struct virtio_mmio *t, const char *why);

/* Count chains taken, and requests answered with an error. */
void virtio_mmio_count_requests(struct virtio_mmio *t, uint64_t requests);
void virtio_mmio_count_error(struct virtio_mmio *t);

#endif
