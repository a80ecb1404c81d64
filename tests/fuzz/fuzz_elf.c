/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as an ELF kernel: what is accepted can be placed, entered and flattened. */
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/addr.h"
#include "base/fs.h"
#include "base/size.h"
#include "tests/fuzz/require.h"
#include "vmm/kernel-elf.h"
#include "vmm/layout.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	auto_fd in = memfd_create("in", MFD_CLOEXEC);
	auto_fd out = memfd_create("out", MFD_CLOEXEC);
	struct errmsg err = {0};
	struct elf_kernel elf;
	uint64_t bytes = 0;

	require(in >= 0 && out >= 0 && pwrite_full(in, data, size, 0) == 0);
	if (elf_kernel_parse(in, size, &err, &elf) < 0) {
		require(err.text[0] != '\0');
		return 0;
	}
	require(!((elf.load | elf.bytes | elf.mem_bytes) & PAGE_MASK));
	require(elf.load >= LAYOUT_HIGH_START && elf.bytes && elf.bytes <= elf.mem_bytes);
	require(elf.mem_bytes <= KERNEL_SPAN_MAX && elf.load + elf.mem_bytes <= LAYOUT_VIRTIO_MMIO);
	require(elf.entry >= elf.load && elf.entry - elf.load < elf.bytes);
	require(elf_kernel_flatten(&elf, in, out, PAGE_BYTES, &bytes) == 0);
	require(bytes <= elf.bytes && !(bytes & PAGE_MASK) && elf.entry - elf.load < bytes);
	require(lseek(out, 0, SEEK_END) <= (off_t)(PAGE_BYTES + elf.bytes));
	return 0;
}
