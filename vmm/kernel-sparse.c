/* SPDX-License-Identifier: Apache-2.0 */
/* Writing and copying that leaves pages of zeros out. */
#include "vmm/kernel-sparse.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "base/addr.h"
#include "base/fs.h"

#define COPY_BYTES ((size_t)256 << 10)

static bool is_zero(const uint8_t *p, size_t len)
{
	return len == 0 || (p[0] == 0 && !memcmp(p, p + 1, len - 1));
}

/* Bytes up to the end of the block of the file that @off is in, at most @len. */
static size_t block_len(uint64_t off, size_t len)
{
	uint64_t n = PAGE_BYTES - (off & PAGE_MASK);

	return n < len ? (size_t)n : len;
}

int sparse_pwrite(int fd, const uint8_t *buf, size_t len, uint64_t off, uint64_t *io_end)
{
	size_t pos = 0;

	while (pos < len) {
		size_t start, n = block_len(off + pos, len - pos);
		int r;

		if (is_zero(buf + pos, n)) {
			pos += n;
			continue;
		}
		/* One write for all blocks up to the next of zeros. */
		start = pos;
		do {
			pos += n;
			n = block_len(off + pos, len - pos);
		} while (n && !is_zero(buf + pos, n));
		r = pwrite_full(fd, buf + start, pos - start, off + start);
		if (r < 0)
			return r;
		if (io_end && *io_end < off + pos)
			*io_end = off + pos;
	}
	return 0;
}

int sparse_copy(int in_fd, uint64_t in_off, uint64_t len, int out_fd, uint64_t out_off, uint64_t *io_end)
{
	auto_free uint8_t *buf = malloc(COPY_BYTES);

	if (!buf)
		return -ENOMEM;
	while (len) {
		size_t n = len < COPY_BYTES ? (size_t)len : COPY_BYTES;
		int r = pread_full(in_fd, buf, n, in_off);

		if (r == 0)
			r = sparse_pwrite(out_fd, buf, n, out_off, io_end);
		if (r < 0)
			return r;
		in_off += n;
		out_off += n;
		len -= n;
	}
	return 0;
}
