/* SPDX-License-Identifier: Apache-2.0 */
/* Unpacks the payload of a bzImage: gzip, xz, zstd, or LZ4 in its legacy frame. */
#ifndef SARDINE_VMM_KERNEL_UNPACK_H
#define SARDINE_VMM_KERNEL_UNPACK_H

#include <stdint.h>

#include "base/cleanup.h"
#include "base/errmsg.h"

/* The most a payload may unpack to. Distribution kernels unpack to 40-80 MiB. */
#define KERNEL_UNPACKED_MAX ((uint64_t)512 << 20)

/**
 * kernel_unpack() - Unpack a payload from one file into another.
 * @in_fd: holds it; read with pread only.
 * @offset: where it starts.
 * @bytes: its length, as the bzImage header says.
 * @out_fd: written from offset 0 on.
 * @max: the most bytes written, KERNEL_UNPACKED_MAX.
 * @err: one line without the file's name when the payload is at fault; empty on an I/O error or lack of
 * memory.
 * @ret_bytes: how many were written.
 *
 * Lengths within the payload are checked, never trusted: memory is bounded by fixed buffers and by the
 * libraries' window limits (XZ_MEMORY_MAX, zstd's 128 MiB).
 *
 * Return: 0; -ENOEXEC when it is corrupt, too large or of an unknown format; an errno of reading or writing.
 */
int kernel_unpack(int in_fd, uint64_t offset, uint64_t bytes, int out_fd, uint64_t max, struct errmsg *err,
		  uint64_t *ret_bytes) must_check;

#endif
