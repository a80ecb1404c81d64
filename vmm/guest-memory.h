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
#include "base/syscalls.h"
#include "ksm/in-flight.h"

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
	FRAME_STORE,	 /* private mapping of a sealed segment of the page store (likewise) */
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

/* The frames with device I/O in flight; the memory's own. */
struct in_flight *guest_memory_in_flight(const struct guest_memory *mem);

uint64_t guest_memory_bytes(const struct guest_memory *mem);
bool guest_memory_mergeable(const struct guest_memory *mem);
/* /proc/self/pagemap, open for reading as long as the memory lives; -1: it cannot be read here. */
int guest_memory_pagemap_fd(const struct guest_memory *mem);

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

/* The frame that a host address in RAM belongs to. Any thread. Return: 0 or -EFAULT. */
int guest_frame_at(const struct guest_memory *mem, const void *at, gfn_t *ret) must_check;

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
 * guest_memory_map_store() - Replace frames, populated or not, by a private mapping of a segment of the page store.
 * @mem: the memory.
 * @gfn: first frame.
 * @fd: a memfd; the mapping keeps its own reference.
 * @offset: of the segment, page aligned.
 * @frames: how many, at least 1; inside one region. Any backing: what was there is dropped.
 *
 * The caller's obligations, none of which is checked here:
 *  - The segment is sealed (F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) and long enough: nobody can change its bytes,
 *    and no frame lies behind its end, where a read would be SIGBUS.
 *  - The frames hold the segment's bytes, compared by this process after the last moment at which they could be written: the vCPUs
 *    are held and the devices are (virtio_mmio_hold()), or writes to the frames are blocked otherwise.
 *  - No I/O is in flight to or from the frames and nobody has pinned them: a write through a pin would be lost.
 *  - The frames are not registered with a userfaultfd, or the caller knows that the registration of the range ends here.
 *  - Huge pages that the range covers in part were split (guest_memory_split()), else nothing is freed.
 *  - The process has mappings to spare (vm.max_map_count): each call takes up to two.
 *
 * Context: any thread; serialised inside.
 * Return: 0, -EINVAL (alignment, no frames), -EFAULT (outside RAM), -ENOSPC (FRAME_EXTENTS_STORE_MAX), -ENOMEM or another errno of
 * mmap: nothing has changed. -ENOTRECOVERABLE: mmap failed and has unmapped the frames (possible before Linux 6.2): the VM must end.
 */
int guest_memory_map_store(struct guest_memory *mem, gfn_t gfn, int fd, uint64_t offset,
			   uint64_t frames) must_check;

/*
 * Bookkeeping for who exchanges the mappings itself, frame by frame of the obligations above (ksm/extent-apply.c):
 *
 * guest_memory_promise() makes sure that @count calls of the next two cannot fail. Return: 0, -ENOSPC, -ENOMEM.
 * guest_memory_note_store(): frames that were private are a private mapping of a segment now.
 * guest_memory_note_private(): frames of the store are plain anonymous memory again.
 * guest_memory_advise(): give a mapping in RAM the advice that all of RAM carries. Return: 0 or the errno of madvise.
 *
 * Context: any thread, also one that holds the guest.
 */
int guest_memory_promise(struct guest_memory *mem, unsigned count) must_check;
void guest_memory_note_store(struct guest_memory *mem, gfn_t gfn, uint64_t frames);
void guest_memory_note_private(struct guest_memory *mem, gfn_t gfn, uint64_t frames);
int guest_memory_advise(const struct guest_memory *mem, void *at, uint64_t bytes) must_check;

/**
 * guest_memory_split() - Split the huge pages that a range of frames covers in part, so that replacing the range frees memory at
 * once.
 * @mem: the memory.
 * @gfn: first frame.
 * @frames: how many; inside one region.
 *
 * Does nothing where no huge pages are expected (guest_memory_expect_huge()). Takes one MADV_COLD of one page for each end of the
 * range that is not at a multiple of 2 MiB; 0.4 ms for one that is huge. A page that is pinned is not split: the kernel then frees
 * its parts under memory pressure.
 *
 * Context: any thread.
 * Return: system calls made.
 */
unsigned guest_memory_split(struct guest_memory *mem, gfn_t gfn, uint64_t frames);

/* Whether parts of RAM may be huge pages. Known at the start from the kernel's setting (transparent_hugepage/enabled "always");
 * who makes huge pages later says so first. Any thread. */
void guest_memory_expect_huge(struct guest_memory *mem, bool expect);

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
 * MADV_DONTNEED for anonymous frames; a fresh anonymous mapping over file-backed ones, where MADV_DONTNEED would show the file
 * again. Of huge pages that were cut, the kernel may keep the dropped part of up to four (8 MiB) until guest_memory_settle().
 *
 * Context: any thread; serialised inside. The guest must have given the frames up.
 * Return: 0, -EFAULT outside RAM, or the first errno of madvise or mmap (the other frames are discarded all the same).
 */
int guest_memory_discard(struct guest_memory *mem, gfn_t gfn, uint64_t frames,
			 unsigned *ret_calls) must_check;

/*
 * Who looks after the contents of RAM (the memory agent) hears of what becomes of it. remapped() and discarded() come under the memory's
 * lock, on any thread, also one that a hold stops: they may not wait for long, nor call functions of guest memory.
 */
struct guest_memory_watch {
	/* Frames are a fresh anonymous mapping now, not yet written: to be watched for writes like the rest. */
	void (*remapped)(void *arg, gfn_t first, uint64_t frames, hva_t at);
	/* Frames were given back and read as zero. After remapped(). */
	void (*discarded)(void *arg, gfn_t first, uint64_t frames);
	/* All of RAM is about to be given back and filled anew; from the return of the first to the second nobody may touch
	 * it or its mappings. On a thread that may wait. After a failure there is no second one: the VM ends. */
	void (*reset_begins)(void *arg);
	void (*reset_ended)(void *arg);
};

/* @watch: constant; NULL: nobody, and none of its functions runs any more when this returns. */
void guest_memory_set_watch(struct guest_memory *mem, const struct guest_memory_watch *watch, void *arg);
/* For the VM: see struct guest_memory_watch. */
void guest_memory_reset_begins(struct guest_memory *mem);
void guest_memory_reset_ended(struct guest_memory *mem);

/**
 * guest_memory_settle() - Split the huge pages that discards have cut, so that the kernel has all of what was dropped.
 *
 * To be called when no more discards are to be expected soon, and before figures are read.
 *
 * Context: any thread.
 * Return: system calls made; 0 where no huge pages are expected.
 */
unsigned guest_memory_settle(struct guest_memory *mem);

/* Frames that have this backing now, populated or not, written or not. Any thread. */
uint64_t guest_memory_frames(struct guest_memory *mem, enum frame_backing backing);

/**
 * guest_memory_reset() - Give all of RAM back, and the files mapped over it: as guest_memory_new() made it.
 *
 * Context: no vCPU runs, no device works on RAM.
 * Return: 0, or the errno of mmap or madvise.
 */
int guest_memory_reset(struct guest_memory *mem) must_check;

/* Frames that are mapped from boot files now: what was mapped at start less what was discarded since. */
uint64_t guest_memory_boot_file_frames(struct guest_memory *mem);

extern const struct syscall_list guest_memory_syscalls;

#endif
