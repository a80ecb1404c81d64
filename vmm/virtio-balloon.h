/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-balloon (virtio 1.2, 5.5): the guest gives frames up towards a target, and takes them back. */
#ifndef SARDINE_VMM_VIRTIO_BALLOON_H
#define SARDINE_VMM_VIRTIO_BALLOON_H

#include <stdint.h>

#include "balloon/balloon.h"
#include "base/cleanup.h"
#include "vmm/virtio-mmio.h"

struct virtio_balloon;

struct virtio_balloon_stats {
	uint64_t target_bytes;		 /* what we asked for */
	uint64_t actual_bytes;		 /* what the guest says it has given up; its word, at most RAM */
	struct balloon_counters balloon; /* what its messages add up to */
	struct virtio_counters virtio;
};

/**
 * virtio_balloon_new() - Make the device, with target 0.
 * @mem: guest RAM; outlives the device.
 * @loop: outlives the device.
 * @irq: copied.
 * @ret: freed with virtio_balloon_free().
 *
 * Context: the loop's thread, or before it runs.
 * Return: 0, -ENOMEM, or the errno of eventfd and epoll.
 */
int virtio_balloon_new(struct guest_memory *mem, struct io_loop *loop, const struct irq_line *irq,
		       struct virtio_balloon **ret) must_check;

/* Context: the vCPUs and the loop have stopped. NULL is allowed. */
void virtio_balloon_free(struct virtio_balloon *b);
DEFINE_CLEANUP(struct virtio_balloon, virtio_balloon_free)

struct virtio_mmio *virtio_balloon_mmio(struct virtio_balloon *b);

/**
 * virtio_balloon_set_target() - Ask the guest to give up this much in total; 0 takes all back.
 * @b: the device.
 * @bytes: rounded down to whole frames.
 *
 * The target outlives resets of the device: a driver that comes later works towards it.
 *
 * Context: any thread but one that holds the device's lock.
 * Return: 0, or -EINVAL above the size of RAM.
 */
int virtio_balloon_set_target(struct virtio_balloon *b, uint64_t bytes) must_check;

/* Context: as virtio_balloon_set_target(). */
void virtio_balloon_stats(struct virtio_balloon *b, struct virtio_balloon_stats *ret);

#endif
