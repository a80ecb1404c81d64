/* SPDX-License-Identifier: Apache-2.0 */
/* Guest RAM: its regions, what backs each frame, the one checked gate to its bytes, and the one gate that
 * discards frames. */
#ifndef SARDINE_VMM_GUEST_MEMORY_H
#define SARDINE_VMM_GUEST_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/addr.h"
#include "base/cleanup.h"

/* RAM below 4 GiB ends here at the latest; devices live between it and 4 GiB (docs of the layout:
 * vmm/layout.h). */
#define GUEST_MEMORY_LOW_END ((uint64_t)3 << 30)
#define GUEST_MEMORY_HIGH    ((uint64_t)4 << 30)

#define GUEST_MEMORY_MIN ((uint64_t)16 << 20)
#define GUEST_MEMORY_MAX ((uint64_t)1 << 40)

/* At most one below and one above 4 GiB. */
#define GUEST_MEMORY_REGIONS_MAX 2

/* What a frame is made of. Ask guest_memory_backing(); never assume. */
enum frame_backing {
	FRAME_PRIVATE,	 /* plain anonymous memory */
	FRAME_BOOT_FILE, /* private mapping of a file of the boot cache (a written frame is a private copy) */
	FRAME_BACKINGS,
};

const char *frame_backing_name(enum frame_backing backing);

struct guest_region {
	gpa_t gpa;
	uint64_t bytes; /* a multiple of PAGE_BYTES */
	uint8_t *hva;	/* 2 MiB aligned, and congruent to gpa modulo 2 MiB */
};

struct guest_memory;

/**
 * guest_memory_new() - Reserve guest RAM as private anonymous memory, split around the hole below 4 GiB.
 * @bytes: size of RAM; a multiple of PAGE_BYTES in [GUEST_MEMORY_MIN, GUEST_MEMORY_MAX].
 * @mergeable: advise KSM (MADV_MERGEABLE) on all of it.
 * @ret: the memory; the caller frees it with guest_memory_free().
 *
 * Nothing is populated; the mapping is not reserved (MAP_NORESERVE) and not part of core files
 * (MADV_DONTDUMP).
 *
 * Return: 0, -EINVAL for a bad size, -ENOMEM, or the errno of madvise (-EINVAL from MADV_MERGEABLE: kernel
 * without KSM).
 */
int guest_memory_new(uint64_t bytes, bool mergeable, struct guest_memory **ret) must_check;
void guest_memory_free(struct guest_memory *mem);
DEFINE_CLEANUP(struct guest_memory, guest_memory_free)

uint64_t guest_memory_bytes(const struct guest_memory *mem);
bool guest_memory_mergeable(const struct guest_memory *mem);
size_t guest_memory_region_count(const struct guest_memory *mem);
const struct guest_region *guest_memory_region(const struct guest_memory *mem, size_t index);

/**
 * guest_span() - The one gate to guest bytes: translate a guest physical range that lies in one region.
 * @mem: the memory.
 * @gpa: first byte.
 * @len: bytes; 0 is allowed inside or at the end of a region.
 * @ret: host address of the first byte. The guest may change the bytes at any time: read each value once.
 *
 * Context: any thread; takes no lock.
 * Return: 0 or -EFAULT when any byte lies outside RAM.
 */
int guest_span(const struct guest_memory *mem, gpa_t gpa, uint64_t len, void **ret) must_check;

/* Copy out of or into guest RAM. Return: 0 or -EFAULT (nothing is copied then). */
int guest_read(const struct guest_memory *mem, gpa_t gpa, void *buf, size_t len) must_check;
int guest_write(const struct guest_memory *mem, gpa_t gpa, const void *buf, size_t len) must_check;

/**
 * guest_memory_map_file() - Replace untouched frames by a private mapping of a file of the boot cache.
 * @mem: the memory.
 * @gpa: first frame, page aligned.
 * @fd: an immutable file; the mapping keeps its own reference.
 * @offset: of the file, page aligned.
 * @bytes: length, page aligned; inside one region. Bytes after the end of the file in its last page read as
 * zero.
 *
 * Context: before the vCPUs run.
 * Return: 0, -EINVAL (alignment), -EFAULT (outside RAM), -EEXIST (overlaps another file), or the errno of
 * mmap.
 */
int guest_memory_map_file(struct guest_memory *mem, gpa_t gpa, int fd, uint64_t offset,
			  uint64_t bytes) must_check;

/**
 * guest_memory_backing() - What backs a frame, and how many frames from there on are backed alike.
 * @mem: the memory.
 * @gfn: the frame.
 * @ret_backing: the backing.
 * @ret_frames: frames from @gfn to the end of the run (or region); at least 1. May be NULL.
 *
 * Context: any thread.
 * Return: 0 or -EFAULT outside RAM.
 */
int guest_memory_backing(struct guest_memory *mem, gfn_t gfn, enum frame_backing *ret_backing,
			 uint64_t *ret_frames) must_check;

/**
 * guest_memory_discard() - The one gate that gives frames back: they read as zero afterwards and occupy
 * nothing.
 * @mem: the memory.
 * @gfn: first frame.
 * @frames: how many; the range lies in one region.
 * @ret_calls: system calls made; may be NULL.
 *
 * MADV_DONTNEED for anonymous frames; a fresh anonymous mapping over file-backed ones, where MADV_DONTNEED
 * would show the file again.
 *
 * Context: any thread; serialised inside. The guest must have given the frames up.
 * Return: 0, -EFAULT outside RAM, or the first errno of madvise or mmap (the other frames are discarded all the same).
 */
int guest_memory_discard(struct guest_memory *mem, gfn_t gfn, uint64_t frames,
			 unsigned *ret_calls) must_check;

/* Frames that are mapped from boot files now: what was mapped at start less what was discarded since. */
uint64_t guest_memory_boot_file_frames(struct guest_memory *mem);

#endif
