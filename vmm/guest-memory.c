/* SPDX-License-Identifier: Apache-2.0 */
/* Guest RAM: regions, the backing of each frame, the gate to its bytes and the gate that discards frames. */
#include "vmm/guest-memory.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "base/size.h"
#include "vmm/frame-extents.h"
#include "vmm/huge-cuts.h"

/*
 * Theory of operation
 *
 * RAM is one or two regions, each an anonymous private mapping, 2 MiB aligned, so that the kernel can use
 * huge pages on it. Parts of a region are mapped over: at start by files of the boot cache, later by segments of the page store.
 * What lies where is a table of extents (vmm/frame-extents.h); every frame outside all of them is private.
 *
 * Discarding (invariant: discarded frames read as zero, I2 of the design is the caller's):
 *  - anonymous frames: MADV_DONTNEED. That frees nothing of a huge page that is dropped in part: the kernel only unmaps the
 *    part and keeps the whole for a split under memory pressure. So where huge pages are to be expected, those that were cut are
 *    split by MADV_COLD of one page that is left. Not at once: a guest gives up contiguous memory 1 MiB at a time, and the next
 *    message mostly drops the other half. At most HUGE_CUTS_MAX blocks are waited for, until guest_memory_settle().
 *  - file-backed frames, written or not: a fresh anonymous mapping in their place, since MADV_DONTNEED would bring the file's
 *    bytes back. The new mapping gets the region's advice before its first write, so that it merges with its
 *    neighbours.
 * What KSM merged is anonymous: MADV_DONTNEED takes this VM's reference away.
 *
 * The bookkeeping of mappings that the engine exchanges while the guest is held comes in two steps: room is promised before, so that
 * noting them cannot fail.
 *
 * The mutex guards the extents. guest_span() takes no lock: addresses of RAM never change while the VM lives,
 * only what is mapped there does, and mmap(MAP_FIXED) exchanges that atomically.
 */
#define THP_ENABLED "/sys/kernel/mm/transparent_hugepage/enabled"

struct guest_memory {
	uint64_t bytes;
	bool mergeable;
	atomic_bool expect_huge;
	int pagemap_fd;
	size_t region_count;
	struct guest_region regions[GUEST_MEMORY_REGIONS_MAX];
	pthread_mutex_t resets; /* held while the watch hears of one; taken before the next */
	pthread_mutex_t mutex;
	struct frame_extents extents; /* guarded by mutex, as the next three */
	struct huge_cuts cuts;
	const struct guest_memory_watch *watch; /* NULL: nobody */
	void *watch_arg;
	struct in_flight *in_flight;
};

static const char *const backing_names[] = {
	[FRAME_PRIVATE] = "private",
	[FRAME_BOOT_FILE] = "boot-file",
	[FRAME_STORE] = "store",
};
_Static_assert(ARRAY_SIZE(backing_names) == FRAME_BACKINGS, "a name for each backing");

const char *frame_backing_name(enum frame_backing backing)
{
	return backing_names[backing];
}

int guest_memory_advise(const struct guest_memory *mem, void *at, uint64_t bytes)
{
	if (madvise(at, bytes, MADV_DONTDUMP) < 0)
		return -errno;
	if (mem->mergeable && madvise(at, bytes, MADV_MERGEABLE) < 0)
		return -errno;
	return 0;
}

static int region_map(struct guest_memory *mem, gpa_t gpa, uint64_t bytes)
{
	uint64_t room = bytes + HUGE_PAGE_BYTES;
	uint8_t *p =
		mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	uint64_t head, tail;

	if (p == MAP_FAILED)
		return -errno;
	head = -(uintptr_t)p & (HUGE_PAGE_BYTES - 1);
	tail = room - head - bytes;
	if (head)
		munmap(p, head);
	if (tail)
		munmap(p + head + bytes, tail);
	mem->regions[mem->region_count++] =
		(struct guest_region){.gpa = gpa, .bytes = bytes, .hva = p + head};
	return guest_memory_advise(mem, p + head, bytes);
}

/* Whether the kernel makes huge pages without being asked: "[always] madvise never". */
static bool thp_always(void)
{
	char text[64] = "";
	auto_file file = fopen(THP_ENABLED, "re");

	return file && fgets(text, sizeof(text), file) && strstr(text, "[always]");
}

int guest_memory_new(uint64_t bytes, bool mergeable, struct guest_memory **ret)
{
	cleanup(guest_memory_free_p) struct guest_memory *mem = NULL;
	uint64_t low = bytes < GUEST_MEMORY_LOW_END ? bytes : GUEST_MEMORY_LOW_END;
	int r;

	if (bytes & PAGE_MASK || bytes < GUEST_MEMORY_MIN || bytes > GUEST_MEMORY_MAX)
		return -EINVAL;
	mem = calloc(1, sizeof(*mem));
	if (!mem)
		return -ENOMEM;
	pthread_mutex_init(&mem->resets, NULL);
	pthread_mutex_init(&mem->mutex, NULL);
	mem->bytes = bytes;
	mem->mergeable = mergeable;
	atomic_init(&mem->expect_huge, thp_always());
	mem->pagemap_fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	r = region_map(mem, GPA(0), low);
	if (r == 0 && bytes > low)
		r = region_map(mem, GPA(GUEST_MEMORY_HIGH), bytes - low);
	if (r == 0)
		r = in_flight_new((bytes > low ? GUEST_MEMORY_HIGH + bytes - low : low) / PAGE_BYTES,
				  &mem->in_flight);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(mem);
	return 0;
}

void guest_memory_free(struct guest_memory *mem)
{
	if (!mem)
		return;
	for (size_t i = 0; i < mem->region_count; i++)
		munmap(mem->regions[i].hva, mem->regions[i].bytes);
	close_fd_p(&mem->pagemap_fd);
	pthread_mutex_destroy(&mem->mutex);
	pthread_mutex_destroy(&mem->resets);
	frame_extents_done(&mem->extents);
	in_flight_free(mem->in_flight);
	free(mem);
}

struct in_flight *guest_memory_in_flight(const struct guest_memory *mem)
{
	return mem->in_flight;
}

uint64_t guest_memory_bytes(const struct guest_memory *mem)
{
	return mem->bytes;
}

bool guest_memory_mergeable(const struct guest_memory *mem)
{
	return mem->mergeable;
}

int guest_memory_pagemap_fd(const struct guest_memory *mem)
{
	return mem->pagemap_fd;
}

size_t guest_memory_region_count(const struct guest_memory *mem)
{
	return mem->region_count;
}

const struct guest_region *guest_memory_region(const struct guest_memory *mem, size_t index)
{
	return &mem->regions[index];
}

static const struct guest_region *region_of(const struct guest_memory *mem, gpa_t gpa, uint64_t len)
{
	for (size_t i = 0; i < mem->region_count; i++) {
		const struct guest_region *r = &mem->regions[i];

		if (gpa.v >= r->gpa.v && range_fits(gpa.v - r->gpa.v, len, r->bytes))
			return r;
	}
	return NULL;
}

int guest_span(const struct guest_memory *mem, gpa_t gpa, uint64_t len, void **ret)
{
	const struct guest_region *r = region_of(mem, gpa, len);

	if (!r)
		return -EFAULT;
	*ret = r->hva + (gpa.v - r->gpa.v);
	return 0;
}

int guest_frame_at(const struct guest_memory *mem, const void *at, gfn_t *ret)
{
	for (size_t i = 0; i < mem->region_count; i++) {
		const struct guest_region *r = &mem->regions[i];
		uint64_t offset = (uintptr_t)at - (uintptr_t)r->hva;

		if (offset < r->bytes) {
			*ret = gpa_to_gfn(GPA(r->gpa.v + offset));
			return 0;
		}
	}
	return -EFAULT;
}

int guest_read(const struct guest_memory *mem, gpa_t gpa, void *buf, size_t len)
{
	void *p;

	if (guest_span(mem, gpa, len, &p) < 0)
		return -EFAULT;
	memcpy(buf, p, len);
	return 0;
}

int guest_write(const struct guest_memory *mem, gpa_t gpa, const void *buf, size_t len)
{
	void *p;

	if (guest_span(mem, gpa, len, &p) < 0)
		return -EFAULT;
	memcpy(p, buf, len);
	return 0;
}

int guest_memory_map_file(struct guest_memory *mem, gpa_t gpa, int fd, uint64_t offset, uint64_t bytes)
{
	uint64_t first = gpa_to_gfn(gpa).v, end = first + bytes / PAGE_BYTES;
	void *at;
	size_t i;
	int r;

	if ((gpa.v | offset | bytes) & PAGE_MASK || bytes == 0)
		return -EINVAL;
	r = guest_span(mem, gpa, bytes, &at);
	if (r < 0)
		return r;
	pthread_mutex_lock(&mem->mutex);
	i = frame_extents_after(&mem->extents, first);
	if (i < mem->extents.count && mem->extents.list[i].first < end)
		r = -EEXIST;
	else
		r = frame_extents_reserve(&mem->extents, first, end, FRAME_BOOT_FILE);
	if (r == 0 && mmap(at, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, fd,
			   (off_t)offset) == MAP_FAILED)
		r = -errno;
	if (r == 0) {
		frame_extents_set(&mem->extents, first, end, FRAME_BOOT_FILE);
		r = guest_memory_advise(mem, at, bytes);
	}
	pthread_mutex_unlock(&mem->mutex);
	return r;
}

/* Where a range of frames is; NULL unless it lies in one region. */
static uint8_t *frames_at(const struct guest_memory *mem, gfn_t gfn, uint64_t frames)
{
	void *at;

	if (frames > UINT64_MAX >> PAGE_SHIFT || gfn.v > UINT64_MAX >> PAGE_SHIFT ||
	    guest_span(mem, gfn_to_gpa(gfn), frames * PAGE_BYTES, &at) < 0)
		return NULL;
	return at;
}

/* After a mmap over this memory failed: whether that has unmapped it, as is possible before Linux 6.2. */
static bool is_unmapped(uint8_t *at, uint64_t bytes)
{
	return madvise(at, bytes, MADV_NORMAL) < 0;
}

int guest_memory_map_store(struct guest_memory *mem, gfn_t gfn, int fd, uint64_t offset, uint64_t frames)
{
	uint64_t end = gfn.v + frames, bytes = frames * PAGE_BYTES;
	uint8_t *at;
	int r;

	if (offset & PAGE_MASK || frames == 0)
		return -EINVAL;
	at = frames_at(mem, gfn, frames);
	if (!at)
		return -EFAULT;
	pthread_mutex_lock(&mem->mutex);
	r = frame_extents_reserve(&mem->extents, gfn.v, end, FRAME_STORE);
	if (r == 0 && mmap(at, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, fd,
			   (off_t)offset) == MAP_FAILED) {
		r = -errno;
		if (is_unmapped(at, bytes))
			r = -ENOTRECOVERABLE;
	}
	if (r == 0) {
		frame_extents_set(&mem->extents, gfn.v, end, FRAME_STORE);
		r = guest_memory_advise(mem, at, bytes);
	}
	pthread_mutex_unlock(&mem->mutex);
	return r;
}

int guest_memory_promise(struct guest_memory *mem, unsigned count)
{
	int r;

	pthread_mutex_lock(&mem->mutex);
	r = frame_extents_promise(&mem->extents, count);
	pthread_mutex_unlock(&mem->mutex);
	return r;
}

void guest_memory_note_store(struct guest_memory *mem, gfn_t gfn, uint64_t frames)
{
	pthread_mutex_lock(&mem->mutex);
	frame_extents_keep(&mem->extents, gfn.v, gfn.v + frames, FRAME_STORE);
	pthread_mutex_unlock(&mem->mutex);
}

void guest_memory_note_private(struct guest_memory *mem, gfn_t gfn, uint64_t frames)
{
	pthread_mutex_lock(&mem->mutex);
	frame_extents_keep(&mem->extents, gfn.v, gfn.v + frames, FRAME_PRIVATE);
	pthread_mutex_unlock(&mem->mutex);
}

void guest_memory_set_watch(struct guest_memory *mem, const struct guest_memory_watch *watch, void *arg)
{
	pthread_mutex_lock(&mem->resets);
	pthread_mutex_lock(&mem->mutex);
	mem->watch = watch;
	mem->watch_arg = arg;
	pthread_mutex_unlock(&mem->mutex);
	pthread_mutex_unlock(&mem->resets);
}

int guest_memory_backing(struct guest_memory *mem, gfn_t gfn, enum frame_backing *ret_backing,
			 uint64_t *ret_frames)
{
	const struct guest_region *region = region_of(mem, gfn_to_gpa(gfn), PAGE_BYTES);
	enum frame_backing backing = FRAME_PRIVATE;
	uint64_t end;
	size_t i;

	if (!region)
		return -EFAULT;
	end = (region->gpa.v + region->bytes) >> PAGE_SHIFT;
	pthread_mutex_lock(&mem->mutex);
	i = frame_extents_after(&mem->extents, gfn.v);
	if (i < mem->extents.count) {
		const struct frame_extent *x = &mem->extents.list[i];

		if (x->first <= gfn.v) {
			backing = x->backing;
			end = x->end;
		} else if (x->first < end) {
			end = x->first;
		}
	}
	pthread_mutex_unlock(&mem->mutex);
	*ret_backing = backing;
	if (ret_frames)
		*ret_frames = end - gfn.v;
	return 0;
}

void guest_memory_expect_huge(struct guest_memory *mem, bool expect)
{
	atomic_store_explicit(&mem->expect_huge, expect, memory_order_relaxed);
}

/* Have the huge page split that holds a frame, if it does lie in one. */
static void split_at(const struct guest_memory *mem, uint64_t gfn)
{
	uint8_t *at = frames_at(mem, GFN(gfn), 1);

	if (at && madvise(at, PAGE_BYTES, MADV_COLD) < 0) {
		/* Then the kernel frees what was dropped later. */
	}
}

unsigned guest_memory_split(struct guest_memory *mem, gfn_t gfn, uint64_t frames)
{
	uint64_t end = gfn.v + frames;
	bool head = gfn.v % HUGE_FRAMES, tail = end % HUGE_FRAMES;

	if (frames == 0 || !frames_at(mem, gfn, frames) ||
	    !atomic_load_explicit(&mem->expect_huge, memory_order_relaxed))
		return 0;
	/* With both ends in one block it is split once. */
	if (head && tail && gfn.v / HUGE_FRAMES == end / HUGE_FRAMES)
		tail = false;
	if (head)
		split_at(mem, gfn.v);
	if (tail)
		split_at(mem, end - 1);
	return head + tail;
}

unsigned guest_memory_settle(struct guest_memory *mem)
{
	unsigned calls = 0;
	uint64_t gfn;

	pthread_mutex_lock(&mem->mutex);
	for (; huge_cuts_take(&mem->cuts, &gfn); calls++)
		split_at(mem, gfn);
	pthread_mutex_unlock(&mem->mutex);
	return calls;
}

/* Frames [first, end) of one block, or of none, were dropped. Return: system calls made. Called under the mutex. */
static unsigned cut_block(struct guest_memory *mem, uint64_t first, uint64_t end)
{
	uint64_t gfn;

	if (first == end || !huge_cuts_add(&mem->cuts, first, end, &gfn))
		return 0;
	split_at(mem, gfn);
	return 1;
}

/* Called under the mutex. */
static int discard_anonymous(struct guest_memory *mem, uint8_t *at, uint64_t first, uint64_t end,
			     unsigned *calls)
{
	uint64_t whole_first = (first + HUGE_FRAMES - 1) / HUGE_FRAMES * HUGE_FRAMES;
	uint64_t whole_end = end / HUGE_FRAMES * HUGE_FRAMES;

	++*calls;
	if (madvise(at, (end - first) * PAGE_BYTES, MADV_DONTNEED) < 0)
		return -errno;
	if (!atomic_load_explicit(&mem->expect_huge, memory_order_relaxed))
		return 0;
	if (whole_first > whole_end) {
		*calls += cut_block(mem, first, end);
		return 0;
	}
	huge_cuts_forget(&mem->cuts, whole_first, whole_end);
	*calls += cut_block(mem, first, whole_first);
	*calls += cut_block(mem, whole_end, end);
	return 0;
}

/*
 * An extent that would be cut in two needs room in the table (whose size also bounds the VMAs that discards
 * can cost); without room the frames are zeroed by a private copy rather than left showing the file. Called under the mutex.
 */
static int discard_file_backed(struct guest_memory *mem, uint8_t *at, uint64_t first, uint64_t end,
			       unsigned *calls)
{
	uint64_t bytes = (end - first) * PAGE_BYTES;
	int r;

	if (frame_extents_reserve(&mem->extents, first, end, FRAME_PRIVATE) < 0) {
		memset(at, 0, bytes);
		return 0;
	}
	++*calls;
	if (mmap(at, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE,
		 -1, 0) == MAP_FAILED) {
		r = -errno;
		/* When it is unmapped there is nothing to zero. */
		if (is_unmapped(at, bytes))
			return r;
		memset(at, 0, bytes);
		return 0;
	}
	frame_extents_set(&mem->extents, first, end, FRAME_PRIVATE);
	*calls += mem->mergeable ? 2 : 1;
	r = guest_memory_advise(mem, at, bytes);
	if (mem->watch)
		mem->watch->remapped(mem->watch_arg, GFN(first), end - first, hva_of(at));
	return r;
}

int guest_memory_discard(struct guest_memory *mem, gfn_t gfn, uint64_t frames, unsigned *ret_calls)
{
	uint8_t *base = frames_at(mem, gfn, frames);
	uint64_t at = gfn.v, end = gfn.v + frames;
	unsigned calls = 0;
	int r = 0;

	if (!base)
		return -EFAULT;
	pthread_mutex_lock(&mem->mutex);
	while (at < end) {
		uint8_t *p = base + (at - gfn.v) * PAGE_BYTES;
		size_t i = frame_extents_after(&mem->extents, at);
		const struct frame_extent *x = i < mem->extents.count ? &mem->extents.list[i] : NULL;
		uint64_t stop = end;
		int error;

		if (x && x->first <= at) {
			stop = x->end < stop ? x->end : stop;
			error = discard_file_backed(mem, p, at, stop, &calls);
		} else {
			stop = x && x->first < stop ? x->first : stop;
			error = discard_anonymous(mem, p, at, stop, &calls);
		}
		r = r ? r : error;
		at = stop;
	}
	if (mem->watch)
		mem->watch->discarded(mem->watch_arg, gfn, frames);
	pthread_mutex_unlock(&mem->mutex);
	if (ret_calls)
		*ret_calls = calls;
	return r;
}

/* One fresh mapping per region, so that no VMA of the life before is left. */
int guest_memory_reset(struct guest_memory *mem)
{
	int r = 0;

	pthread_mutex_lock(&mem->mutex);
	for (size_t i = 0; i < mem->region_count && r == 0; i++) {
		const struct guest_region *region = &mem->regions[i];

		if (mmap(region->hva, region->bytes, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) == MAP_FAILED)
			r = -errno;
		else
			r = guest_memory_advise(mem, region->hva, region->bytes);
	}
	if (r == 0) {
		frame_extents_done(&mem->extents);
		mem->cuts.count = 0;
	}
	pthread_mutex_unlock(&mem->mutex);
	return r;
}

uint64_t guest_memory_frames(struct guest_memory *mem, enum frame_backing backing)
{
	uint64_t frames;

	pthread_mutex_lock(&mem->mutex);
	if (backing == FRAME_PRIVATE)
		frames = mem->bytes / PAGE_BYTES - frame_extents_frames(&mem->extents, FRAME_BOOT_FILE) -
			 frame_extents_frames(&mem->extents, FRAME_STORE);
	else
		frames = frame_extents_frames(&mem->extents, backing);
	pthread_mutex_unlock(&mem->mutex);
	return frames;
}

/* The watch may wait for somebody who wants the memory's own mutex. */
void guest_memory_reset_begins(struct guest_memory *mem)
{
	pthread_mutex_lock(&mem->resets);
	if (mem->watch)
		mem->watch->reset_begins(mem->watch_arg);
	pthread_mutex_unlock(&mem->resets);
}

void guest_memory_reset_ended(struct guest_memory *mem)
{
	pthread_mutex_lock(&mem->resets);
	if (mem->watch)
		mem->watch->reset_ended(mem->watch_arg);
	pthread_mutex_unlock(&mem->resets);
}

uint64_t guest_memory_boot_file_frames(struct guest_memory *mem)
{
	return guest_memory_frames(mem, FRAME_BOOT_FILE);
}
DEFINE_SYSCALLS(guest_memory_syscalls, SYSCALL_WITHOUT(mmap, 2, PROT_EXEC), SYSCALL(munmap),
		SYSCALL_IF(madvise, 2, MADV_DONTNEED), SYSCALL_IF(madvise, 2, MADV_DONTDUMP),
		SYSCALL_IF(madvise, 2, MADV_MERGEABLE), SYSCALL_IF(madvise, 2, MADV_NORMAL),
		SYSCALL_IF(madvise, 2, MADV_COLD));
