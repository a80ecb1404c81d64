/* SPDX-License-Identifier: Apache-2.0 */
/* Exchanging memory: mremap, mmap, and the way back. */
#include "ksm/remap.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22 /* 5.14 */
#endif
#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4 /* 5.7 */
#endif

static void cold(uint64_t start, uint64_t end)
{
	if (start < end)
		(void)madvise((void *)start, end - start, MADV_COLD);
}

void remap_split(hva_t start, uint64_t bytes)
{
	uint64_t end = start.v + bytes, mask = HUGE_PAGE_BYTES - 1;
	uint64_t head_end = (start.v + mask) & ~mask, tail = end & ~mask;

	if (head_end > tail) { /* inside one block */
		cold(start.v, end);
		return;
	}
	cold(start.v, head_end);
	cold(tail, end);
}

int remap_aside(hva_t start, uint64_t bytes, hva_t hint, hva_t *ret_aside)
{
	/* Not mremap(): glibc hands over an address with MREMAP_FIXED only, and that would first unmap what is there. */
	long at = syscall(SYS_mremap, start.v, bytes, bytes, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, hint.v);

	if (at == -1)
		return -errno;
	*ret_aside = (hva_t){(uintptr_t)at};
	return 0;
}

int remap_in(hva_t start, uint64_t bytes, int fd, uint64_t offset)
{
	void *at = mmap(hva_ptr(start), bytes, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, fd, (off_t)offset);

	return at == MAP_FAILED ? -errno : 0;
}

int remap_fresh(hva_t start, uint64_t bytes)
{
	void *at = mmap(hva_ptr(start), bytes, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);

	return at == MAP_FAILED ? -errno : 0;
}

bool remap_is_mapped(hva_t start, uint64_t bytes)
{
	return madvise(hva_ptr(start), bytes, MADV_NORMAL) == 0;
}

int remap_back(hva_t start, uint64_t bytes, hva_t aside)
{
	if (remap_is_mapped(start, bytes)) {
		memcpy(hva_ptr(start), hva_ptr(aside), bytes);
		remap_drop(aside, bytes);
		return 0;
	}
	if (syscall(SYS_mremap, aside.v, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, start.v) == -1)
		return -errno;
	return 1;
}

void remap_populate(hva_t start, uint64_t bytes)
{
	(void)madvise(hva_ptr(start), bytes, MADV_POPULATE_READ);
}

void remap_drop(hva_t aside, uint64_t bytes)
{
	munmap(hva_ptr(aside), bytes);
}

DEFINE_SYSCALLS(remap_syscalls, SYSCALL(mremap), SYSCALL_WITHOUT(mmap, 2, PROT_EXEC), SYSCALL(munmap),
		SYSCALL_IF(madvise, 2, MADV_COLD), SYSCALL_IF(madvise, 2, MADV_NORMAL),
		SYSCALL_IF(madvise, 2, MADV_POPULATE_READ));
