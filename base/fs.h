/* SPDX-License-Identifier: Apache-2.0 */
/* Whole reads and writes of files, and descriptors that are closed together. */
#ifndef SARDINE_BASE_FS_H
#define SARDINE_BASE_FS_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/cleanup.h"

/**
 * pread_full() - Read exactly @len bytes at @off, through short reads and EINTR.
 *
 * Return: 0, -ENODATA when the file ends before, or the errno of pread.
 */
int pread_full(int fd, void *buf, size_t len, uint64_t off) must_check;

/**
 * pwrite_full() - Write exactly @len bytes at @off, through short writes and EINTR.
 *
 * Return: 0 or the errno of pwrite.
 */
int pwrite_full(int fd, const void *buf, size_t len, uint64_t off) must_check;

/**
 * write_full() - Write exactly @len bytes to a blocking descriptor.
 *
 * Return: 0 or the errno of write.
 */
int write_full(int fd, const void *buf, size_t len) must_check;

/**
 * file_read_text() - Read a small text file (procfs, sysfs) whole. Never waits.
 * @path: the file; no FIFO, device or socket.
 * @max: the most bytes accepted.
 * @ret_text: the content, NUL-terminated; the caller frees it.
 *
 * Return: 0, -EFBIG when it is longer than @max, -EINVAL when it is not a regular file, -EILSEQ when it holds a
 * NUL, or an errno.
 */
int file_read_text(const char *path, size_t max, char **ret_text) must_check;

/**
 * file_read_u64() - Read a file that holds one decimal number (sysfs).
 *
 * Return: 0, -EINVAL when it holds something else, or an errno.
 */
int file_read_u64(const char *path, uint64_t *ret) must_check;

/**
 * file_read_choice() - Read the chosen word of a file such as "always [madvise] never" (sysfs).
 * @path: the file.
 * @buf: the word in brackets, NUL-terminated.
 * @len: size of @buf.
 *
 * Return: 0, -EINVAL when no word that fits is in brackets, or an errno.
 */
int file_read_choice(const char *path, char *buf, size_t len) must_check;

/**
 * close_other_fds() - Close all descriptors of the process from @first on, but some.
 * @keep, @count: those; negative and lower ones in it are passed over. It gets sorted.
 *
 * Before Linux 5.9, which brought close_range(), nothing is closed. Context: nobody else opens or closes.
 */
void close_other_fds(int *keep, size_t count, unsigned first);

#endif
