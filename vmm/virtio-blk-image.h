/* SPDX-License-Identifier: Apache-2.0 */
/* A raw disk image: opened, checked and locked. */
#ifndef SARDINE_VMM_VIRTIO_BLK_IMAGE_H
#define SARDINE_VMM_VIRTIO_BLK_IMAGE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/cleanup.h"
#include "base/errmsg.h"

#define BLK_SECTOR_BYTES 512u

struct blk_image {
	int fd;		 /* holds the lock; O_DIRECT with direct */
	int buffered_fd; /* with direct: the same file through the page cache, else -1 */
	bool read_only;
	bool direct;
	uint64_t bytes;		 /* at open */
	uint32_t logical_bytes;	 /* smallest unit to tell the guest: 512, or the block device's */
	uint32_t physical_bytes; /* the unit that is cheap to write */
	uint32_t memory_align;	 /* with direct: of buffers, .. */
	uint32_t offset_align;	 /* .. of offsets and lengths; powers of two */
};

/**
 * blk_image_open() - Open, check and lock an image.
 * @path: a regular file or a block device.
 * @read_only: open for reading, with a shared lock; else for both, with an exclusive lock.
 * @direct: O_DIRECT.
 * @err: one line on failure.
 * @ret: closed by blk_image_close().
 *
 * Return: 0, -EBUSY (locked), -EINVAL (what it is, or its size), -ENOTSUP (O_DIRECT), or an errno.
 */
int blk_image_open(const char *path, bool read_only, bool direct, struct errmsg *err,
		   struct blk_image *ret) must_check;

/* Gives the lock up. A zeroed image with both descriptors -1 is allowed. */
void blk_image_close(struct blk_image *image);

/* The descriptor on which a transfer is possible: misaligned ones of a direct image go through the page
 * cache. */
int blk_image_fd_for(const struct blk_image *image, const struct iovec *iov, unsigned count, uint64_t offset);

#endif
