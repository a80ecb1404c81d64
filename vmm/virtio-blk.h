/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-blk (virtio 1.2, 5.2): a raw disk image as a block device. */
#ifndef SARDINE_VMM_VIRTIO_BLK_H
#define SARDINE_VMM_VIRTIO_BLK_H

#include <stdbool.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/errmsg.h"
#include "vmm/token-bucket.h"
#include "vmm/virtio-mmio.h"

struct virtio_blk;

/* How requests are carried out. */
enum blk_engine_kind {
	BLK_ENGINE_AUTO,     /* io_uring where the host has it, else plain */
	BLK_ENGINE_IO_URING, /* or fail with -ENOTSUP */
	BLK_ENGINE_PLAIN,    /* preadv and pwritev on the I/O thread, one request at a time */
	BLK_ENGINE_KINDS,
};

/* "auto", "io_uring" or "plain". */
const char *blk_engine_name(enum blk_engine_kind kind);

struct virtio_blk_options {
	const char *path;
	bool read_only;
	bool direct;	    /* O_DIRECT: the host's page cache is passed by */
	const char *serial; /* at most 20 bytes are told to the guest; NULL: none */
	enum blk_engine_kind engine;
	struct rate_config rate;       /* requests above it wait in the ring */
	uint64_t (*now_ns)(void *arg); /* NULL: CLOCK_MONOTONIC */
	void *now_arg;
};

struct virtio_blk_stats {
	uint64_t capacity_bytes;
	bool read_only;
	bool direct;
	enum blk_engine_kind engine; /* the one in use, never auto */
	uint64_t reads, writes, flushes, discards, write_zeroes;
	uint64_t read_bytes, write_bytes;
	uint64_t misaligned; /* steps of direct=on that were copied through an aligned buffer */
	uint64_t in_flight;
	uint64_t throttled; /* times requests waited for the limits */
	struct virtio_counters virtio;
};

/**
 * virtio_blk_new() - Open and lock a disk image and make its device.
 * @options: copied where needed.
 * @mem: guest RAM; outlives the device.
 * @loop: outlives the device.
 * @irq: copied.
 * @err: one line that names the image on failure.
 * @ret: freed with virtio_blk_free().
 *
 * A writable image is locked for this process alone (OFD write lock), a read-only one is shared with other
 * readers (OFD read lock). Regular files and block devices are taken; the size is a multiple of 512 bytes
 * above 0.
 *
 * With direct, offsets and lengths that are no multiple of the logical block size told to the guest (blk_size,
 * which is what O_DIRECT needs) are answered with IOERR; buffers may lie anywhere.
 *
 * Context: the loop's thread, or before it runs.
 * Return: 0; -EBUSY when it is locked by somebody else; -EINVAL for a file that is no image; -ENOTSUP for
 * O_DIRECT or io_uring where there is none; -ENOMEM; or the errno of open, fcntl, eventfd.
 */
int virtio_blk_new(const struct virtio_blk_options *options, const struct guest_memory *mem,
		   struct io_loop *loop, const struct irq_line *irq, struct errmsg *err,
		   struct virtio_blk **ret) must_check;

/* Waits for its I/O. Context: the vCPUs and the loop have stopped. NULL is allowed. */
void virtio_blk_free(struct virtio_blk *blk);
DEFINE_CLEANUP(struct virtio_blk, virtio_blk_free)

struct virtio_mmio *virtio_blk_mmio(struct virtio_blk *blk);

/* Context: any thread but one that holds the device's lock. */
void virtio_blk_stats(struct virtio_blk *blk, struct virtio_blk_stats *ret);

#endif
