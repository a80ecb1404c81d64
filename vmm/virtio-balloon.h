/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-balloon (virtio 1.2, 5.5): the guest gives frames up towards a target, and takes them back; it reports free memory, and
 * says what its memory looks like. */
#ifndef SARDINE_VMM_VIRTIO_BALLOON_H
#define SARDINE_VMM_VIRTIO_BALLOON_H

#include <stdbool.h>
#include <stdint.h>

#include "balloon/balloon.h"
#include "balloon/guest-stats.h"
#include "balloon/liveness.h"
#include "base/cleanup.h"
#include "vmm/virtio-mmio.h"

/* Feature bits (virtio 1.2, 5.5.3) that we may offer. */
#define VIRTIO_BALLOON_STATS_VQ	      ((uint64_t)1 << 1)
#define VIRTIO_BALLOON_DEFLATE_ON_OOM ((uint64_t)1 << 2)
#define VIRTIO_BALLOON_PAGE_POISON    ((uint64_t)1 << 4)
#define VIRTIO_BALLOON_REPORTING      ((uint64_t)1 << 5)

struct virtio_balloon;

struct virtio_balloon_options {
	bool stats;	     /* offer the statistics queue */
	bool deflate_on_oom; /* offer that the guest takes frames back before it kills for want of memory */
	bool reporting;	     /* offer free page reporting */
	bool poison;	     /* offer page poison */
	uint64_t stats_interval_s; /* ask for statistics so often; 0: only on request */
	uint64_t target_bytes;	   /* the first target, at most RAM */
	uint64_t (*now_ns)(void);  /* for tests; NULL: CLOCK_MONOTONIC */
};

struct virtio_balloon_stats {
	uint64_t target_bytes;		 /* what we asked for */
	uint64_t actual_bytes;		 /* what the guest says it has given up; its word, at most RAM */
	enum balloon_liveness liveness;	 /* whether it gets anywhere */
	struct balloon_counters balloon; /* what its messages add up to */
	bool guest_known;		 /* the two below hold something */
	struct guest_stats guest;	 /* what it said last */
	uint64_t guest_age_ns;		 /* how long ago */
	uint64_t guest_samples;		 /* messages with statistics */
	uint64_t guest_ignored;		 /* entries of them that say nothing we know */
	struct virtio_counters virtio;
};

/**
 * virtio_balloon_new() - Make the device.
 * @options: copied.
 * @mem: guest RAM; outlives the device.
 * @loop: outlives the device.
 * @irq: copied.
 * @ret: freed with virtio_balloon_free().
 *
 * Context: the loop's thread, or before it runs.
 * Return: 0, -EINVAL for a target above RAM, -ENOMEM, or the errno of eventfd, timerfd and epoll.
 */
int virtio_balloon_new(const struct virtio_balloon_options *options, struct guest_memory *mem,
		       struct io_loop *loop, const struct irq_line *irq,
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

/**
 * virtio_balloon_ask() - Ask the guest for its statistics.
 *
 * At most once in a second, and not while it has yet to answer: other calls do nothing. The answer shows in
 * virtio_balloon_stats() when it comes; nobody waits for it.
 *
 * Context: as virtio_balloon_set_target().
 */
void virtio_balloon_ask(struct virtio_balloon *b);

/* Context: as virtio_balloon_set_target(). */
void virtio_balloon_stats(struct virtio_balloon *b, struct virtio_balloon_stats *ret);

#endif
