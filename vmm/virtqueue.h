/* SPDX-License-Identifier: Apache-2.0 */
/* A split virtqueue as the device sees it: descriptor chains in, used entries out, notifications both ways. */
#ifndef SARDINE_VMM_VIRTQUEUE_H
#define SARDINE_VMM_VIRTQUEUE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "vmm/guest-memory.h"

/* The largest queue that any device of ours offers. */
#define VIRTQUEUE_SIZE_MAX 256

/* virtio 1.2, 2.7.5 to 2.7.8: the layout of the three parts. */
#define VIRTQ_DESC_F_NEXT	   1
#define VIRTQ_DESC_F_WRITE	   2
#define VIRTQ_DESC_F_INDIRECT	   4
#define VIRTQ_AVAIL_F_NO_INTERRUPT 1
#define VIRTQ_USED_F_NO_NOTIFY	   1

struct virtq_desc {
	le64_t addr;
	le32_t len;
	le16_t flags;
	le16_t next;
};

struct virtq_avail {
	le16_t flags;
	le16_t idx;
	le16_t ring[]; /* size entries, then used_event */
};

struct virtq_used_elem {
	le32_t id;
	le32_t len;
};

struct virtq_used {
	le16_t flags;
	le16_t idx;
	struct virtq_used_elem ring[]; /* size entries, then avail_event */
};

_Static_assert(sizeof(struct virtq_desc) == 16, "virtio 1.2, 2.7.5");
_Static_assert(sizeof(struct virtq_avail) == 4, "virtio 1.2, 2.7.6");
_Static_assert(sizeof(struct virtq_used_elem) == 8, "virtio 1.2, 2.7.8");
_Static_assert(sizeof(struct virtq_used) == 4, "virtio 1.2, 2.7.8");

/*
 * One queue. The transport writes the set-up fields as the driver asks, unchecked, then calls
 * virtqueue_enable(), which checks them all. Everything below is under the device's lock.
 */
struct virtqueue {
	const struct guest_memory *mem;
	uint16_t size_max;

	/* Set-up, as the driver wrote it. */
	uint32_t size;
	uint64_t desc_gpa;
	uint64_t avail_gpa;
	uint64_t used_gpa;

	/* While enabled. */
	bool enabled;
	bool event_idx;
	bool indirect;
	const char *broken; /* why the queue stopped, a constant string; NULL: it has not */
	const struct virtq_desc *desc;
	const struct virtq_avail *avail;
	struct virtq_used *used;
	uint16_t mask;
	uint16_t avail_next;	 /* the avail entry that is taken next */
	uint16_t used_next;	 /* the used entry that is written next */
	uint16_t used_signalled; /* used_next when an interrupt was last considered */
};

/* One chain: iov[0 .. readable) was written by the driver, iov[readable .. readable + writable) is to be
 * filled. */
struct virtqueue_chain {
	uint16_t head;
	unsigned readable;
	unsigned writable;
	uint32_t readable_bytes;
	uint32_t writable_bytes;
};

/**
 * virtqueue_init() - Prepare a queue; it is not enabled.
 * @vq: the queue.
 * @mem: guest RAM, outlives the queue.
 * @size_max: the size offered to the driver, a power of two up to VIRTQUEUE_SIZE_MAX.
 */
void virtqueue_init(struct virtqueue *vq, const struct guest_memory *mem, uint16_t size_max);

/* Back to the state after virtqueue_init(). No chain that was popped may be pushed afterwards. */
void virtqueue_reset(struct virtqueue *vq);

/**
 * virtqueue_enable() - Check the driver's set-up and start the queue.
 * @vq: the queue, with size and the three addresses set.
 * @event_idx: VIRTIO_F_EVENT_IDX was negotiated.
 * @indirect: VIRTIO_F_INDIRECT_DESC was negotiated.
 *
 * Return: 0, or -EPROTO with vq->broken set: size zero, no power of two or above the maximum; a part outside
 * RAM or misaligned (16, 2 and 4 bytes; virtio 1.2, 2.7).
 */
int virtqueue_enable(struct virtqueue *vq, bool event_idx, bool indirect) must_check;

/* Stop the queue; what was set up is forgotten by the next virtqueue_reset(). */
void virtqueue_disable(struct virtqueue *vq);

/**
 * virtqueue_pop() - Take the next available chain.
 * @vq: the queue.
 * @iov: where the checked host spans go: readable ones first.
 * @iov_max: entries of @iov; a longer chain breaks the queue, so give at least vq->size_max.
 * @ret: the chain; written when 1 is returned.
 *
 * Every guest value is read once. Spans are inside guest RAM; their bytes may change under the reader.
 *
 * Return: 1 with a chain, 0 when there is none (or the queue is not enabled), -EPROTO when the driver broke
 * the rules: vq->broken says how, and the queue gives no more chains.
 */
int virtqueue_pop(struct virtqueue *vq, struct iovec *iov, unsigned iov_max,
		  struct virtqueue_chain *ret) must_check;

/*
 * Leave the chain that virtqueue_pop() gave last in the ring after all: the next pop reads it anew. Neither it nor one
 * popped later may have been pushed. Called again, the one before it, and so on.
 */
void virtqueue_unpop(struct virtqueue *vq);

/* A range of guest physical memory as a descriptor names it: it may lie anywhere. */
struct virtqueue_range {
	gpa_t first;
	uint32_t bytes; /* not 0 */
};

/**
 * virtqueue_pop_ranges() - Take the next available chain, for a device that does not touch its bytes.
 * @ranges: where the ranges go, readable ones first; not checked to lie in RAM.
 * @max: entries of @ranges.
 *
 * Otherwise as virtqueue_pop().
 */
int virtqueue_pop_ranges(struct virtqueue *vq, struct virtqueue_range *ranges, unsigned max,
			 struct virtqueue_chain *ret) must_check;

/**
 * virtqueue_push() - Publish a chain as used.
 * @vq: the queue; nothing happens when it is broken or disabled.
 * @head: of the chain.
 * @written: bytes written to its writable part.
 *
 * What was written to guest memory before is visible to a driver that sees the entry (release). The interrupt
 * is the caller's: virtqueue_should_signal(), once after a batch.
 */
void virtqueue_push(struct virtqueue *vq, uint16_t head, uint32_t written);

/* virtqueue_push() in two steps, for chains that the driver must see together: fill each, publish all. */
void virtqueue_fill(struct virtqueue *vq, uint16_t head, uint32_t written);
void virtqueue_publish(struct virtqueue *vq);

/* Whether the driver wants an interrupt for what was pushed since this was last asked. */
bool virtqueue_should_signal(struct virtqueue *vq);

/* Ask the driver not to kick while the queue is being emptied; a hint. */
void virtqueue_kicks_off(struct virtqueue *vq);

/**
 * virtqueue_kicks_on() - Ask the driver to kick for its next chain.
 *
 * Return: true when a chain came in before the driver could know: the caller goes on, no kick will come for
 * it.
 */
bool virtqueue_kicks_on(struct virtqueue *vq);

/**
 * iov_copy_out() - Copy the first bytes of an iov array to a buffer.
 *
 * Return: bytes copied: @len, or fewer when the array is shorter.
 */
size_t iov_copy_out(const struct iovec *iov, unsigned count, size_t offset, void *buf, size_t len);

/* Copy a buffer to the start of an iov array. Return: bytes copied, less than @len when the array is shorter. */
size_t iov_copy_in(const struct iovec *iov, unsigned count, const void *buf, size_t len);

/* Drop bytes from the front: *iov and *count move on. Return: bytes dropped. */
size_t iov_trim_front(struct iovec **iov, unsigned *count, size_t bytes);

#endif
