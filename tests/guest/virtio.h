/* SPDX-License-Identifier: Apache-2.0 */
/* A driver for virtio-mmio devices (virtio 1.2: 4.2, 2.7) that can be told to behave well or badly. */
#ifndef PROBE_VIRTIO_H
#define PROBE_VIRTIO_H

#include "probe.h"

#define VIRTIO_ID_NET	  1
#define VIRTIO_ID_BLOCK	  2
#define VIRTIO_ID_RNG	  4
#define VIRTIO_ID_BALLOON 5
#define VIRTIO_ID_VSOCK	  19

#define F_INDIRECT  (1ull << 28)
#define F_EVENT_IDX (1ull << 29)
#define F_VERSION_1 (1ull << 32)

#define REG_MAGIC	      0x000
#define REG_VERSION	      0x004
#define REG_DEVICE_ID	      0x008
#define REG_FEATURES	      0x010
#define REG_FEATURES_SEL      0x014
#define REG_DRIVER	      0x020
#define REG_DRIVER_SEL	      0x024
#define REG_QUEUE_SEL	      0x030
#define REG_QUEUE_MAX	      0x034
#define REG_QUEUE_NUM	      0x038
#define REG_QUEUE_READY	      0x044
#define REG_NOTIFY	      0x050
#define REG_INTERRUPT_STATUS  0x060
#define REG_INTERRUPT_ACK     0x064
#define REG_STATUS	      0x070
#define REG_QUEUE_DESC	      0x080
#define REG_QUEUE_AVAIL	      0x090
#define REG_QUEUE_USED	      0x0a0
#define REG_CONFIG_GENERATION 0x0fc
#define REG_CONFIG	      0x100

#define STATUS_ACKNOWLEDGE 1
#define STATUS_DRIVER	   2
#define STATUS_DRIVER_OK   4
#define STATUS_FEATURES_OK 8
#define STATUS_NEEDS_RESET 64
#define STATUS_FAILED	   128

#define DESC_NEXT     1
#define DESC_WRITE    2
#define DESC_INDIRECT 4

#define QUEUE_SIZE_MAX 256
#define QUEUES_MAX     5
#define DEVICES_MAX    16

struct desc {
	uint64_t address;
	uint32_t bytes;
	uint16_t flags, next;
};

struct avail {
	uint16_t flags, index, ring[QUEUE_SIZE_MAX];
	/* used_event follows ring[size] */
};

struct used {
	uint16_t flags, index;
	struct {
		uint32_t id, bytes;
	} ring[QUEUE_SIZE_MAX];
	/* avail_event follows ring[size] */
};

struct queue {
	uint16_t size, last_used, last_kick;
	struct desc *desc;
	volatile struct avail *avail;
	volatile struct used *used;
};

struct device {
	uint64_t base, features;
	uint32_t id, gsi;
	unsigned vector; /* 0: interrupts not asked for */
	uint32_t irqs_seen;
	uint64_t kicks;
	struct queue queue[QUEUES_MAX];
};

/* The device with this number, if it is there and of this kind (0: any); else answers with an error. */
struct device *virtio_device(const struct command *c, uint32_t id);
/* Reset, negotiate the wanted features that are offered, set up the first queues, of this size, DRIVER_OK. Queues that a balloon
 * lacks with these features are left out: their size is 0. NULL, or what went wrong. */
const char *virtio_start(struct device *d, uint64_t wanted, unsigned queues, unsigned size);
void virtio_reset(struct device *d);
uint32_t virtio_status(const struct device *d);
void virtio_irqs(struct device *d, bool on);

void queue_add(struct queue *q, uint16_t head);
/* Tell the device, unless it asked not to be told. */
void queue_kick(struct device *d, unsigned queue);
/* The next used element, if there is one. */
bool queue_pop(struct queue *q, uint16_t *ret_head, uint32_t *ret_bytes);
/* Ask for an interrupt at the next used element, or, polling, for none. */
void queue_arm(struct device *d, unsigned queue);
/*
 * Wait until queue_pop() has something; by interrupt if virtio_irqs() are on. NULL, or what went wrong:
 * "timeout", "needs-reset", "lost-interrupt".
 */
const char *queue_wait(struct device *d, unsigned queue, uint64_t timeout_us);

#endif
