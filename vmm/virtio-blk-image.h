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

/* Of memory_align and offset_align. */
#define BLK_ALIGN_MAX 4096u

struct blk_image {
	int fd; /* holds the lock; O_DIRECT with direct */
	bool read_only;
	bool direct;
	uint64_t bytes; /* at open */
	uint32_t
		logical_bytes; /* smallest unit to tell the guest: 512, the block device's, or offset_align */
	uint32_t physical_bytes; /* the unit that is cheap to write */
	uint32_t memory_align;	 /* with direct: of buffers, .. */
	uint32_t offset_align;	 /* .. of offsets and lengths; powers of two up to BLK_ALIGN_MAX */
};

/**
 * blk_image_open() - Open, check and lock an image.
 * @path: a regular file or a block device.
 * @read_only: open for reading, with a shared lock; else for both, with an exclusive lock.
 * @direct: O_DIRECT.
 * @err: one line on failure.
 * @ret: closed by blk_image_close().
 *
 * With @direct, ret->logical_bytes is no less than the unit of offsets and lengths that O_DIRECT takes, so
 * that a guest that keeps to its disk's sectors never sends anything else.
 *
 * Return: 0, -EBUSY (locked), -EINVAL (what it is, its size, no O_DIRECT), -ENOTSUP (O_DIRECT wants more than
 * BLK_ALIGN_MAX), or an errno.
 */
int blk_image_open(const char *path, bool read_only, bool direct, struct errmsg *err,
		   struct blk_image *ret) must_check;

/* Gives the lock up. A zeroed image with descriptor -1 is allowed. */
void blk_image_close(struct blk_image *image);

/* Whether the image takes I/O of this range: not that which is no multiple of offset_align, with direct. */
bool blk_image_takes_range(const struct blk_image *image, uint64_t offset, uint64_t bytes);

/* Whether the image takes these buffers as they are; else their content has to pass through an aligned one. */
bool blk_image_takes_buffers(const struct blk_image *image, const struct iovec *iov, unsigned count);

#endif
