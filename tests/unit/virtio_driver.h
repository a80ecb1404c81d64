/* SPDX-License-Identifier: Apache-2.0 */
/* The driver's side of a virtio device, for tests: it can do everything right, and everything wrong. */
#ifndef SARDINE_TESTS_UNIT_VIRTIO_DRIVER_H
#define SARDINE_TESTS_UNIT_VIRTIO_DRIVER_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/guest-memory.h"
#include "vmm/io-loop.h"
#include "vmm/irq.h"
#include "vmm/virtio-mmio.h"
#include "vmm/virtqueue.h"

/* RAM of tests: 16 MiB. Queue i has its parts in the 64 KiB from DRIVER_QUEUES + i * 64 KiB; data lies above. */
#define DRIVER_RAM    GUEST_MEMORY_MIN
#define DRIVER_QUEUES 0x100000u
#define DRIVER_DATA   0x400000u

/* Registers that tests name. */
#define REG_ID		 0x008
#define REG_FEATURES	 0x010
#define REG_FEATURES_SEL 0x014
#define REG_DRIVER_FEAT	 0x020
#define REG_DRIVER_SEL	 0x024
#define REG_QSEL	 0x030
#define REG_QNUM_MAX	 0x034
#define REG_QNUM	 0x038
#define REG_QREADY	 0x044
#define REG_NOTIFY	 0x050
#define REG_ISR		 0x060
#define REG_ACK		 0x064
#define REG_STAT	 0x070
#define REG_QDESC	 0x080
#define REG_QAVAIL	 0x090
#define REG_QUSED	 0x0a0
#define REG_GENERATION	 0x0fc
#define REG_CONFIG	 0x100

#define STATUS_UP                                                                                            \
	(VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER | VIRTIO_STATUS_FEATURES_OK |                      \
	 VIRTIO_STATUS_DRIVER_OK)

struct driver_queue {
	uint16_t size;
	uint64_t gpa; /* of the descriptor table; avail at + 0x4000, used at + 0x8000 */
	struct virtq_desc *desc;
	struct virtq_avail *avail;
	struct virtq_used *used;
	uint16_t avail_idx; /* published */
	uint16_t used_seen;
};

struct driver {
	struct guest_memory *mem;
	struct io_loop *loop;
	struct irq_line irq;
	struct virtio_mmio *mmio; /* set by the test once it has the device */
	struct driver_queue queues[VIRTIO_QUEUES_MAX];
	void (*between)(
		struct driver *d); /* for fuzz programs: what the host does now and then; NULL: nothing */
};

/* RAM, loop and an interrupt line for a device to be made. */
int driver_init(struct driver *d) must_check;
void driver_done(struct driver *d);

uint32_t driver_read(struct driver *d, uint32_t reg);
void driver_write(struct driver *d, uint32_t reg, uint32_t value);

/* Reset and go up to FEATURES_OK with the features wanted (VERSION_1 is added). Return: whether the bit
 * stuck. */
bool driver_negotiate(struct driver *d, uint64_t features) must_check;
/* Clear the memory of queue @index and lay its parts out there. */
struct driver_queue *driver_queue_lay(struct driver *d, unsigned index, uint16_t size);
/* The same, and enable it. Return: QueueReady as read back. */
bool driver_queue_setup(struct driver *d, unsigned index, uint16_t size);
/* All of it: negotiate, set all queues up that are there with @size, DRIVER_OK. Return: whether the status is STATUS_UP. */
bool driver_start(struct driver *d, uint64_t features, uint16_t size) must_check;

/* Host address of guest bytes; NULL outside RAM. */
void *driver_ptr(struct driver *d, uint64_t gpa, uint64_t len);

void driver_desc(struct driver_queue *q, uint16_t i, uint64_t addr, uint32_t len, uint16_t flags,
		 uint16_t next);
/* Make a chain available, without and with the kick. */
void driver_offer(struct driver_queue *q, uint16_t head);
void driver_kick(struct driver *d, unsigned queue);
void driver_send(struct driver *d, unsigned queue, uint16_t head);

/* Let the loop handle what is pending now. */
void driver_loop(struct driver *d);
/* Run the loop until used entries beyond used_seen number @count, or 10 s. Return: whether they came. */
bool driver_wait(struct driver *d, unsigned queue, unsigned count) must_check;
/* Take the next used entry, which must be there. */
uint32_t driver_take(struct driver_queue *q, uint32_t *ret_len);
/* Interrupt edges since last asked. */
unsigned driver_interrupts(struct driver *d);

#endif
