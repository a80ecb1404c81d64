/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-rng (virtio 1.2, 5.4): random bytes of the host's kernel for the guest. */
#ifndef SARDINE_VMM_VIRTIO_RNG_H
#define SARDINE_VMM_VIRTIO_RNG_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/cleanup.h"
#include "base/syscalls.h"
#include "vmm/token-bucket.h"
#include "vmm/virtio-mmio.h"

struct virtio_rng;

/* The most bytes that one request gets; a longer buffer is filled in part, which the driver is told. */
#define RNG_REQUEST_BYTES_MAX 4096

struct virtio_rng_options {
	struct rate_config rate;
	/*
	 * Where the bytes come from, as getrandom(2) with GRND_NONBLOCK: fills up to @len bytes, more than 0. Return: how
	 * many, or a negative errno. NULL: the kernel. For tests.
	 */
	ssize_t (*fill)(void *arg, void *buf, size_t len);
	void *arg;
};

struct virtio_rng_stats {
	uint64_t bytes;	    /* given to the guest */
	uint64_t no_data;   /* times the kernel had none to give, and the guest waited */
	uint64_t throttled; /* times the guest waited for its limits */
	struct virtio_counters virtio;
};

/**
 * virtio_rng_new() - Make the device.
 * @options: copied.
 * @mem: guest RAM; outlives the device.
 * @loop: outlives the device.
 * @irq: copied.
 * @ret: freed with virtio_rng_free().
 *
 * Context: the loop's thread, or before it runs.
 * Return: 0, -ENOMEM, or the errno of eventfd, timerfd and epoll.
 */
int virtio_rng_new(const struct virtio_rng_options *options, const struct guest_memory *mem,
		   struct io_loop *loop, const struct irq_line *irq, struct virtio_rng **ret) must_check;

/* Context: the vCPUs and the loop have stopped. NULL is allowed. */
void virtio_rng_free(struct virtio_rng *rng);
DEFINE_CLEANUP(struct virtio_rng, virtio_rng_free)

struct virtio_mmio *virtio_rng_mmio(struct virtio_rng *rng);

/* Context: any thread but one that holds the device's lock. */
void virtio_rng_stats(struct virtio_rng *rng, struct virtio_rng_stats *ret);

extern const struct syscall_list virtio_rng_syscalls;

#endif
