/* SPDX-License-Identifier: Apache-2.0 */
/* What virtio-mmio*.c share: the transport, which is a device's side (virtio-mmio.c) and a register file (virtio-mmio-registers.c). */
#ifndef SARDINE_VMM_VIRTIO_MMIO_INTERNAL_H
#define SARDINE_VMM_VIRTIO_MMIO_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "vmm/virtio-mmio.h"

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

static inline void count_add(_Atomic uint64_t *counter, uint64_t n)
{
	atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

static inline uint64_t count_get(const _Atomic uint64_t *counter)
{
	return atomic_load_explicit(counter, memory_order_relaxed);
}

static inline uint32_t status_get(const struct virtio_mmio *t)
{
	return atomic_load_explicit(&t->status, memory_order_acquire);
}

static inline void status_set(struct virtio_mmio *t, uint32_t status)
{
	atomic_store_explicit(&t->status, status, memory_order_release);
}

/* Have a queue looked at by the loop; all that are enabled. Any thread, no lock. */
void virtio_mmio_kick(const struct mmio_queue *q);
void virtio_mmio_kick_enabled(struct virtio_mmio *t);

#endif
