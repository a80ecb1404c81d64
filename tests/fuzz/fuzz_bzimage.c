/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a bzImage: what is accepted lies in the file, and unpacks within its bound or is refused. */
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/addr.h"
#include "base/fs.h"
#include "base/size.h"
#include "tests/fuzz/require.h"
#include "vmm/kernel-bzimage.h"
#include "vmm/kernel-unpack.h"

#define UNPACKED_MAX ((uint64_t)4 << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	auto_fd in = memfd_create("in", MFD_CLOEXEC);
	auto_fd out = memfd_create("out", MFD_CLOEXEC);
	struct errmsg err = {0};
	struct bzimage b;
	uint64_t bytes = 0;
	int r;

	require(in >= 0 && out >= 0 && pwrite_full(in, data, size, 0) == 0);
	r = bzimage_parse(data, size < BZIMAGE_HEAD_BYTES ? size : BZIMAGE_HEAD_BYTES, size, &err, &b);
	if (r < 0) {
		require(r == -ENOEXEC && err.text[0]);
		return 0;
	}
	require(range_fits(b.code_offset, b.code_bytes, size));
	require(b.payload_bytes && b.payload_offset >= b.code_offset &&
		range_fits(b.payload_offset, b.payload_bytes, b.code_offset + b.code_bytes));
	require(!((b.load | b.mem_bytes) & PAGE_MASK) && b.mem_bytes >= b.code_bytes);
	require(b.setup_header_bytes <= sizeof(b.setup_header));
	r = kernel_unpack(in, b.payload_offset, b.payload_bytes, out, UNPACKED_MAX, &err, &bytes);
	if (r == 0)
		require(bytes <= UNPACKED_MAX && lseek(out, 0, SEEK_END) == (off_t)bytes);
	else
		require(err.text[0] || r == -ENOMEM);
	return 0;
}
