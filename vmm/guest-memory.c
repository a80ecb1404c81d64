/* SPDX-License-Identifier: Apache-2.0 */
/* Guest RAM: regions, the backing of each frame, the gate to its bytes and the gate that discards frames. */
#include "vmm/guest-memory.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>

#include "base/size.h"

/*
 * Theory of operation
 *
 * RAM is one or two regions, each an anonymous private mapping, 2 MiB aligned, so that the kernel can use
 * huge pages on it. Parts of a region are mapped over: at start by files of the boot cache (later by store
 * segments). What lies where is an array of file extents per VM, sorted by frame and disjoint; every frame
 * outside all of them is private. There are few extents (kernel, initrd, and what discards leave of them), so
 * a look-up is a binary search.
 *
 * Discarding (invariant: discarded frames read as zero, I2 of the design is the caller's):
 *  - anonymous frames: MADV_DONTNEED. A huge folio that is dropped in part is split by the kernel later; its
 * other frames stay.
 *  - file-backed frames: a fresh anonymous mapping in their place, since MADV_DONTNEED would bring the file's
 * bytes back. The new mapping gets the region's advice before its first write, so that it merges with its
 * neighbours.
 *
 * The mutex guards the extents. guest_span() takes no lock: addresses of RAM never change while the VM lives,
 * only what is mapped there does, and mmap(MAP_FIXED) exchanges that atomically.
 */
#define EXTENTS_MAX 4096

struct file_extent {
	uint64_t first; /* gfn */
	uint64_t end;
};

struct guest_memory {
	uint64_t bytes;
	bool mergeable;
	size_t region_count;
	struct guest_region regions[GUEST_MEMORY_REGIONS_MAX];
	pthread_mutex_t mutex;
	size_t extent_count;
	struct file_extent *extents; /* guarded by mutex */
};

static const char *const backing_names[] = {
	[FRAME_PRIVATE] = "private",
	[FRAME_BOOT_FILE] = "boot-file",
};
_Static_assert(ARRAY_SIZE(backing_names) == FRAME_BACKINGS, "a name for each backing");

const char *frame_backing_name(enum frame_backing backing)
{
	return backing_names[backing];
}

/* What every mapping of RAM carries, first or later. */
static int ram_advise(const struct guest_memory *mem, void *at, uint64_t bytes)
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
	return ram_advise(mem, p + head, bytes);
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
	pthread_mutex_init(&mem->mutex, NULL);
	mem->bytes = bytes;
	mem->mergeable = mergeable;
	r = region_map(mem, GPA(0), low);
	if (r == 0 && bytes > low)
		r = region_map(mem, GPA(GUEST_MEMORY_HIGH), bytes - low);
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
	pthread_mutex_destroy(&mem->mutex);
	free(mem->extents);
	free(mem);
}

uint64_t guest_memory_bytes(const struct guest_memory *mem)
{
	return mem->bytes;
}

bool guest_memory_mergeable(const struct guest_memory *mem)
{
	return mem->mergeable;
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

/* Index of the first extent that ends after gfn. */
static size_t extent_after(const struct guest_memory *mem, uint64_t gfn)
{
	size_t lo = 0, hi = mem->extent_count;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (mem->extents[mid].end > gfn)
			hi = mid;
		else
			lo = mid + 1;
	}
	return lo;
}

/* Room for one more extent, so that extent_insert() cannot fail. */
static int extents_reserve(struct guest_memory *mem)
{
	struct file_extent *grown;

	if (mem->extent_count == EXTENTS_MAX)
		return -ENOSPC;
	grown = reallocarray(mem->extents, mem->extent_count + 1, sizeof(*grown));
	if (!grown)
		return -ENOMEM;
	mem->extents = grown;
	return 0;
}

static void extent_insert(struct guest_memory *mem, size_t at, struct file_extent extent)
{
	memmove(&mem->extents[at + 1], &mem->extents[at], (mem->extent_count - at) * sizeof(*mem->extents));
	mem->extents[at] = extent;
	mem->extent_count++;
}

static void extent_remove(struct guest_memory *mem, size_t at)
{
	mem->extent_count--;
	memmove(&mem->extents[at], &mem->extents[at + 1], (mem->extent_count - at) * sizeof(*mem->extents));
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
	i = extent_after(mem, first);
	if (i < mem->extent_count && mem->extents[i].first < end)
		r = -EEXIST;
	else
		r = extents_reserve(mem);
	if (r == 0 && mmap(at, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, fd,
			   (off_t)offset) == MAP_FAILED)
		r = -errno;
	if (r == 0) {
		extent_insert(mem, i, (struct file_extent){.first = first, .end = end});
		r = ram_advise(mem, at, bytes);
	}
	pthread_mutex_unlock(&mem->mutex);
	return r;
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
	i = extent_after(mem, gfn.v);
	if (i < mem->extent_count) {
		const struct file_extent *x = &mem->extents[i];

		if (x->first <= gfn.v) {
			backing = FRAME_BOOT_FILE;
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

/* Take [first, end) out of the extents; room for one more is reserved. Called under the mutex, once the
 * frames are anonymous. */
static void extents_cut(struct guest_memory *mem, uint64_t first, uint64_t end)
{
	size_t i = extent_after(mem, first);

	while (i < mem->extent_count && mem->extents[i].first < end) {
		struct file_extent *x = &mem->extents[i];

		if (x->first < first && x->end > end) {
			struct file_extent rest = {.first = end, .end = x->end};

			x->end = first;
			extent_insert(mem, i + 1, rest);
			return;
		}
		if (x->first < first) {
			x->end = first;
			i++;
		} else if (x->end > end) {
			x->first = end;
			i++;
		} else {
			extent_remove(mem, i);
		}
	}
}

static int discard_anonymous(uint8_t *at, uint64_t bytes)
{
	return madvise(at, bytes, MADV_DONTNEED) < 0 ? -errno : 0;
}

/*
 * An extent that would be cut in two needs room in the table (whose size also bounds the VMAs that discards
 * can cost); without room the frames are zeroed by a private copy rather than left showing the file.
 */
static int discard_file_backed(struct guest_memory *mem, uint8_t *at, uint64_t first, uint64_t end)
{
	uint64_t bytes = (end - first) * PAGE_BYTES;

	if (extents_reserve(mem) < 0) {
		memset(at, 0, bytes);
		return 0;
	}
	if (mmap(at, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE,
		 -1, 0) == MAP_FAILED) {
		int r = -errno;

		/* Before 6.2 a mapping that fails may have unmapped what it was to replace: then there is nothing to zero. */
		if (madvise(at, bytes, MADV_NORMAL) < 0)
			return r;
		memset(at, 0, bytes);
		return 0;
	}
	extents_cut(mem, first, end);
	return ram_advise(mem, at, bytes);
}

int guest_memory_discard(struct guest_memory *mem, gfn_t gfn, uint64_t frames, unsigned *ret_calls)
{
	uint64_t at = gfn.v, end = gfn.v + frames;
	unsigned calls = 0;
	void *base;
	int r = 0;

	if (frames > UINT64_MAX >> PAGE_SHIFT || gfn.v > UINT64_MAX >> PAGE_SHIFT ||
	    guest_span(mem, gfn_to_gpa(gfn), frames * PAGE_BYTES, &base) < 0)
		return -EFAULT;
	pthread_mutex_lock(&mem->mutex);
	while (at < end) {
		uint8_t *p = (uint8_t *)base + (at - gfn.v) * PAGE_BYTES;
		size_t i = extent_after(mem, at);
		uint64_t stop = end;
		int error;

		if (i < mem->extent_count && mem->extents[i].first <= at) {
			if (mem->extents[i].end < stop)
				stop = mem->extents[i].end;
			error = discard_file_backed(mem, p, at, stop);
		} else {
			if (i < mem->extent_count && mem->extents[i].first < stop)
				stop = mem->extents[i].first;
			error = discard_anonymous(p, (stop - at) * PAGE_BYTES);
		}
		r = r ? r : error;
		calls++;
		at = stop;
	}
	pthread_mutex_unlock(&mem->mutex);
	if (ret_calls)
		*ret_calls = calls;
	return r;
}

uint64_t guest_memory_boot_file_frames(struct guest_memory *mem)
{
	uint64_t frames = 0;

	pthread_mutex_lock(&mem->mutex);
	for (size_t i = 0; i < mem->extent_count; i++)
		frames += mem->extents[i].end - mem->extents[i].first;
	pthread_mutex_unlock(&mem->mutex);
	return frames;
}
