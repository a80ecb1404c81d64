/* SPDX-License-Identifier: Apache-2.0 */
/* Writing and copying that leaves pages of zeros out, as holes of the file written to. */
#ifndef SARDINE_VMM_KERNEL_SPARSE_H
#define SARDINE_VMM_KERNEL_SPARSE_H

#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"

/**
 * sparse_pwrite() - Write to a file where nothing but zeros can be so far, but for the blocks of zeros.
 * @fd: the file; the caller sets its length with ftruncate.
 * @buf: the bytes.
 * @len: how many.
 * @off: where; blocks are pages of the file.
 * @io_end: raised to the end of the last block that is not zero; or NULL.
 *
 * Return: 0 or the errno of pwrite.
 */
int sparse_pwrite(int fd, const uint8_t *buf, size_t len, uint64_t off, uint64_t *io_end) must_check;

/**
 * sparse_copy() - Copy a range of a file so.
 *
 * Return: 0, -ENODATA when @in_fd ends before, -ENOMEM, or the errno of pread or pwrite.
 */
int sparse_copy(int in_fd, uint64_t in_off, uint64_t len, int out_fd, uint64_t out_off,
		uint64_t *io_end) must_check;

#endif
