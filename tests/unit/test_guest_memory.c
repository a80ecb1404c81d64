/* SPDX-License-Identifier: Apache-2.0 */
/* Guest RAM: the gate lets nothing through outside RAM, backings are known, discarded frames read as zero. */
#include "vmm/guest-memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "base/fs.h"
#include "base/size.h"
#include "tests/unit/test.h"
#include "vmm/huge-cuts.h"

static struct guest_memory *memory(uint64_t bytes)
{
	struct guest_memory *mem = NULL;

	assert_int_equal(guest_memory_new(bytes, false, &mem), 0);
	return mem;
}

/* A file of pages, each filled with its number plus one. */
static int numbered_file(unsigned pages)
{
	int fd = memfd_create("numbered", MFD_CLOEXEC);
	uint8_t page[PAGE_BYTES];

	assert_true(fd >= 0);
	for (unsigned i = 0; i < pages; i++) {
		memset(page, (int)i + 1, sizeof(page));
		assert_int_equal(pwrite_full(fd, page, sizeof(page), i * PAGE_BYTES), 0);
	}
	return fd;
}

static uint8_t byte_at(struct guest_memory *mem, uint64_t gpa)
{
	uint8_t b = 0xee;

	assert_int_equal(guest_read(mem, GPA(gpa), &b, 1), 0);
	return b;
}

TEST(splits_around_the_hole)
{
	cleanup(guest_memory_free_p) struct guest_memory *mem = memory(5 * GIB + 12 * KIB);
	const struct guest_region *high;

	assert_int_equal(guest_memory_region_count(mem), 2);
	high = guest_memory_region(mem, 1);
	assert_int_equal(high->gpa.v, 4 * GIB);
	assert_int_equal(high->bytes, 2 * GIB + 12 * KIB);
	for (size_t i = 0; i < 2; i++)
		assert_int_equal((uintptr_t)guest_memory_region(mem, i)->hva % HUGE_PAGE_BYTES, 0);
}

TEST(refuses_sizes)
{
	struct guest_memory *mem = NULL;

	assert_int_equal(guest_memory_new(0, false, &mem), -EINVAL);
	assert_int_equal(guest_memory_new(GUEST_MEMORY_MIN - PAGE_BYTES, false, &mem), -EINVAL);
	assert_int_equal(guest_memory_new(GUEST_MEMORY_MIN + 1, false, &mem), -EINVAL);
	assert_int_equal(guest_memory_new(GUEST_MEMORY_MAX + PAGE_BYTES, false, &mem), -EINVAL);
	assert_null(mem);
}

TEST(gate_is_tight)
{
	cleanup(guest_memory_free_p) struct guest_memory *mem = memory(4 * GIB);
	static const struct {
		uint64_t gpa, len;
		int result;
	} rows[] = {
		{0, 1, 0},
		{0, 3 * GIB, 0},
		{0, 3 * GIB + 1, -EFAULT},
		{3 * GIB - 1, 1, 0},
		{3 * GIB - 1, 2, -EFAULT},
		{3 * GIB, 1, -EFAULT},
		{4 * GIB - 1, 2, -EFAULT},
		{4 * GIB, GIB, 0},
		{4 * GIB, GIB + 1, -EFAULT},
		{5 * GIB, 0, 0},
		{5 * GIB, 1, -EFAULT},
		{UINT64_MAX, 1, -EFAULT},
		{UINT64_MAX, 2, -EFAULT},
		{1, UINT64_MAX, -EFAULT},
		{4 * GIB + 1, UINT64_MAX - 2, -EFAULT},
	};

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		void *p;

		assert_int_equal(guest_span(mem, GPA(rows[i].gpa), rows[i].len, &p), rows[i].result);
	}
}

TEST(maps_files_privately)
{
	cleanup(guest_memory_free_p) struct guest_memory *mem = memory(GUEST_MEMORY_MIN);
	auto_fd fd = numbered_file(8);
	enum frame_backing backing;
	uint64_t frames;
	uint8_t b = 0x77;

	assert_int_equal(guest_memory_map_file(mem, GPA(MIB), fd, 0, 8 * PAGE_BYTES), 0);
	assert_int_equal(byte_at(mem, MIB), 1);
	assert_int_equal(byte_at(mem, MIB + 7 * PAGE_BYTES), 8);
	assert_int_equal(guest_write(mem, GPA(MIB), &b, 1), 0);
	assert_int_equal(byte_at(mem, MIB), 0x77);
	assert_int_equal(pread_full(fd, &b, 1, 0), 0);
	assert_int_equal(b, 1); /* the file is as it was */

	assert_int_equal(guest_memory_backing(mem, GFN(0), &backing, &frames), 0);
	assert_int_equal(backing, FRAME_PRIVATE);
	assert_int_equal(frames, MIB / PAGE_BYTES);
	assert_int_equal(guest_memory_backing(mem, GFN(MIB / PAGE_BYTES + 3), &backing, &frames), 0);
	assert_int_equal(backing, FRAME_BOOT_FILE);
	assert_int_equal(frames, 5);
	assert_int_equal(guest_memory_backing(mem, GFN(GUEST_MEMORY_MIN / PAGE_BYTES), &backing, &frames),
			 -EFAULT);

	assert_int_equal(guest_memory_map_file(mem, GPA(MIB + 7 * PAGE_BYTES), fd, 0, 2 * PAGE_BYTES),
			 -EEXIST);
	assert_int_equal(guest_memory_map_file(mem, GPA(MIB + 1), fd, 0, PAGE_BYTES), -EINVAL);
	assert_int_equal(guest_memory_map_file(mem, GPA(GUEST_MEMORY_MIN), fd, 0, PAGE_BYTES), -EFAULT);
	assert_int_equal(guest_memory_map_file(mem, GPA(2 * MIB), -1, 0, PAGE_BYTES), -EBADF);
	assert_int_equal(guest_memory_boot_file_frames(mem), 8);
}

/* Every way a discarded range can lie over file-backed frames: all of it reads as zero, all around it stays. */
TEST(discards_read_as_zero)
{
	for (uint64_t first = 0; first < 12; first++) {
		for (uint64_t n = 1; first + n <= 12; n++) {
			cleanup(guest_memory_free_p) struct guest_memory *mem = memory(GUEST_MEMORY_MIN);
			auto_fd fd = numbered_file(8);
			uint64_t base = MIB / PAGE_BYTES - 2, file_left = 0;
			unsigned calls;
			uint8_t b = 0xaa;

			assert_int_equal(guest_memory_map_file(mem, GPA(MIB), fd, 0, 8 * PAGE_BYTES), 0);
			for (uint64_t i = 0; i < 12; i += 11 - 2 * (i % 2)) /* some anonymous frames around */
				assert_int_equal(guest_write(mem, gfn_to_gpa(GFN(base + i)), &b, 1), 0);
			assert_int_equal(guest_write(mem, GPA(MIB + 3 * PAGE_BYTES), &b, 1),
					 0); /* a copied frame */
			assert_int_equal(guest_memory_discard(mem, GFN(base + first), n, &calls), 0);
			assert_true(calls >= 1 && calls <= 4); /* anonymous, mmap and advice, anonymous */
			for (uint64_t i = 0; i < 12; i++) {
				bool in_file = i >= 2 && i < 10, gone = i >= first && i < first + n;
				uint8_t got = byte_at(mem, (base + i) * PAGE_BYTES);
				enum frame_backing backing;

				assert_int_equal(guest_memory_backing(mem, GFN(base + i), &backing, NULL), 0);
				assert_int_equal(backing, in_file && !gone ? FRAME_BOOT_FILE : FRAME_PRIVATE);
				if (gone)
					assert_int_equal(got, 0);
				else if (i == 5)
					assert_int_equal(got, 0xaa);
				else if (in_file)
					assert_int_equal(got, i - 1);
				file_left += in_file && !gone;
			}
			assert_int_equal(guest_memory_boot_file_frames(mem), file_left);
			/* Given back twice, and after a discard of anonymous memory over it: still zero. */
			assert_int_equal(guest_memory_discard(mem, GFN(base + first), n, NULL), 0);
			assert_int_equal(byte_at(mem, (base + first) * PAGE_BYTES), 0);
		}
	}
}

TEST(discard_frees_memory)
{
	cleanup(guest_memory_free_p) struct guest_memory *mem = memory(GUEST_MEMORY_MIN);
	const struct guest_region *r = guest_memory_region(mem, 0);
	unsigned char resident[16];

	memset(r->hva, 1, 16 * PAGE_BYTES);
	assert_int_equal(guest_memory_discard(mem, GFN(4), 8, NULL), 0);
	assert_int_equal(mincore(r->hva, 16 * PAGE_BYTES, resident), 0);
	for (unsigned i = 0; i < 16; i++)
		assert_int_equal(resident[i] & 1, i < 4 || i >= 12);
}

/* A sealed segment of the page store: pages of their number plus one. */
static int segment(unsigned pages)
{
	int fd = memfd_create("segment", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	uint8_t page[PAGE_BYTES];

	assert_true(fd >= 0);
	for (unsigned i = 0; i < pages; i++) {
		memset(page, (int)i + 1, sizeof(page));
		assert_int_equal(pwrite_full(fd, page, sizeof(page), i * PAGE_BYTES), 0);
	}
	assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL), 0);
	return fd;
}

static enum frame_backing backing_of(struct guest_memory *mem, uint64_t gfn)
{
	enum frame_backing backing = FRAME_BACKINGS;

	assert_int_equal(guest_memory_backing(mem, GFN(gfn), &backing, NULL), 0);
	return backing;
}

/* What smaps says of guest RAM: a field in KiB, or with NULL how many mappings there are. */
static uint64_t smaps(struct guest_memory *mem, const char *field)
{
	const struct guest_region *r = guest_memory_region(mem, 0);
	auto_file file = fopen("/proc/self/smaps", "re");
	unsigned long start, end, kib;
	uint64_t sum = 0;
	char line[512], name[64];
	bool inside = false;

	assert_non_null(file);
	while (fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2) {
			inside = start >= (uintptr_t)r->hva && end <= (uintptr_t)r->hva + r->bytes;
			sum += inside && !field;
		} else if (inside && field && sscanf(line, "%63[^:]: %lu kB", name, &kib) == 2 &&
			   strcmp(name, field) == 0) {
			sum += kib;
		}
	}
	return sum;
}

/* A store segment takes the place of populated memory: the bytes stay, a write makes a copy, and the host has the rest back. */
TEST(maps_segments_over_populated_memory)
{
	cleanup(guest_memory_free_p) struct guest_memory *mem = memory(GUEST_MEMORY_MIN);
	auto_fd fd = segment(16);
	uint8_t *ram = guest_memory_region(mem, 0)->hva;
	uint8_t b = 0x77;

	for (unsigned i = 0; i < 16; i++)
		memset(ram + i * PAGE_BYTES, (int)i + 1, PAGE_BYTES);
	assert_int_equal(smaps(mem, "Anonymous"), 64);
	assert_int_equal(guest_memory_map_store(mem, GFN(4), fd, 4 * PAGE_BYTES, 8), 0);
	assert_int_equal(smaps(mem, "Anonymous"), 32);
	for (unsigned i = 0; i < 16; i++) {
		assert_int_equal(byte_at(mem, i * PAGE_BYTES), i + 1);
		assert_int_equal(backing_of(mem, i), i >= 4 && i < 12 ? FRAME_STORE : FRAME_PRIVATE);
	}
	assert_int_equal(guest_write(mem, GPA(5 * PAGE_BYTES), &b, 1), 0);
	assert_int_equal(byte_at(mem, 5 * PAGE_BYTES), 0x77);
	assert_int_equal(smaps(mem, "Anonymous"), 36);
	assert_int_equal(pread_full(fd, &b, 1, 5 * PAGE_BYTES), 0);
	assert_int_equal(b, 6);
	assert_int_equal(guest_memory_frames(mem, FRAME_STORE), 8);
	/* A neighbour that continues the segment becomes one extent and one mapping with it; it replaces the copy, too. */
	assert_int_equal(guest_memory_map_store(mem, GFN(12), fd, 12 * PAGE_BYTES, 4), 0);
	assert_int_equal(guest_memory_map_store(mem, GFN(4), fd, 4 * PAGE_BYTES, 4), 0);
	assert_int_equal(byte_at(mem, 5 * PAGE_BYTES), 6);
	assert_int_equal(guest_memory_frames(mem, FRAME_STORE), 12);
	assert_int_equal(smaps(mem, NULL), 3);

	assert_int_equal(guest_memory_map_store(mem, GFN(0), fd, 1, 1), -EINVAL);
	assert_int_equal(guest_memory_map_store(mem, GFN(0), fd, 0, 0), -EINVAL);
	assert_int_equal(guest_memory_map_store(mem, GFN(GUEST_MEMORY_MIN / PAGE_BYTES - 1), fd, 0, 2),
			 -EFAULT);
	assert_int_equal(guest_memory_map_store(mem, GFN(0), fd, 0, UINT64_MAX), -EFAULT);
	assert_int_equal(guest_memory_map_store(mem, GFN(0), -1, 0, 1), -EBADF);
	assert_int_equal(byte_at(mem, 0), 1); /* nothing has changed */
}

/* All that a frame can be made of, side by side: of 96 frames a file backs 32 and a segment 32, some of each were written. Every
 * range that is discarded reads as zero, occupies nothing, and leaves what is around it. */
TEST(discards_every_backing)
{
	for (uint64_t first = 0; first < 96; first += 7) {
		for (uint64_t n = 1; first + n <= 96; n += 13) {
			cleanup(guest_memory_free_p) struct guest_memory *mem = memory(GUEST_MEMORY_MIN);
			auto_fd fd = numbered_file(96), store = segment(96);
			uint8_t *ram = guest_memory_region(mem, 0)->hva;
			uint64_t anonymous = 0;

			assert_int_equal(guest_memory_map_file(mem, GPA(32 * PAGE_BYTES), fd, 32 * PAGE_BYTES,
							       32 * PAGE_BYTES),
					 0);
			for (uint64_t i = 0; i < 96; i++)
				if (i < 32 || i >= 64 || i % 3 == 0)
					memset(ram + i * PAGE_BYTES, (int)i + 1, PAGE_BYTES);
			assert_int_equal(guest_memory_map_store(mem, GFN(64), store, 64 * PAGE_BYTES, 32), 0);
			for (uint64_t i = 64; i < 96; i += 3)
				ram[i * PAGE_BYTES] = (uint8_t)(i + 1);
			assert_int_equal(guest_memory_discard(mem, GFN(first), n, NULL), 0);
			for (uint64_t i = 0; i < 96; i++) {
				bool gone = i >= first && i < first + n;

				anonymous += !gone && (i < 32 || (i < 64 ? i % 3 == 0 : (i - 64) % 3 == 0));
				assert_int_equal(backing_of(mem, i), gone || i < 32 ? FRAME_PRIVATE
								     : i < 64	    ? FRAME_BOOT_FILE
										    : FRAME_STORE);
			}
			/* Before anything is looked at: reads populate. */
			assert_int_equal(smaps(mem, "Anonymous"), 4 * anonymous);
			for (uint64_t i = 0; i < 96; i++)
				assert_int_equal(byte_at(mem, i * PAGE_BYTES),
						 i >= first && i < first + n ? 0 : i + 1);
		}
	}
}

/* Frames of files given back one after the other, up, down and from the middle, leave one mapping where there was one. */
TEST(discards_leave_mappings_merged)
{
	for (int order = 0; order < 3; order++) {
		cleanup(guest_memory_free_p) struct guest_memory *mem = memory(GUEST_MEMORY_MIN);
		auto_fd fd = numbered_file(64), store = segment(64);
		uint8_t *ram = guest_memory_region(mem, 0)->hva;

		memset(ram, 0xaa, 512 * PAGE_BYTES);
		assert_int_equal(smaps(mem, NULL), 1);
		assert_int_equal(guest_memory_map_store(mem, GFN(64), store, 0, 64), 0);
		assert_int_equal(guest_memory_map_file(mem, GPA(256 * PAGE_BYTES), fd, 0, 64 * PAGE_BYTES),
				 0);
		assert_int_equal(smaps(mem, NULL), 5);
		for (uint64_t i = 0; i < 64; i++) {
			uint64_t at = order == 0 ? i : order == 1 ? 63 - i : (i + 32) % 64;

			assert_int_equal(guest_memory_discard(mem, GFN(64 + at), 1, NULL), 0);
			assert_int_equal(guest_memory_discard(mem, GFN(256 + at), 1, NULL), 0);
			/* The guest goes on using what it has. */
			memset(ram, 0xbb, 64 * PAGE_BYTES);
			assert_true(smaps(mem, NULL) <= 9);
		}
		assert_true(smaps(mem, NULL) <= 3);
		for (uint64_t i = 64; i < 128; i++)
			assert_int_equal(byte_at(mem, i * PAGE_BYTES), 0);
	}
}

#define KPF_ANON 12
#define KPF_THP	 22

static uint64_t read64(int fd, uint64_t index)
{
	uint64_t v = 0;

	assert_int_equal(pread(fd, &v, sizeof(v), (off_t)(index * sizeof(v))), sizeof(v));
	return v;
}

/* The host's number of a frame. */
static uint64_t pfn_of(int pagemap, const uint8_t *at)
{
	uint64_t entry = read64(pagemap, (uintptr_t)at / PAGE_BYTES);

	return entry >> 63 ? entry & (((uint64_t)1 << 55) - 1) : 0;
}

/* Parts of huge pages: the kernel must really have the memory back, which Rss does not tell (an unsplit page keeps all of it). */
TEST(discards_parts_of_huge_pages)
{
	static const struct {
		uint64_t first, frames; /* in the second and third block */
		uint64_t step;		/* frames of a discard */
		unsigned splits;	/* that settling takes */
	} rows[] = {
		{512, 512, 512, 0},   /* all of a block */
		{512, 512, 256, 0},   /* in halves, */
		{512, 512, 1, 0},     /* in single frames */
		{512, 256, 256, 1},   /* its first half, */
		{768, 256, 256, 1},   /* its second half, */
		{600, 1, 1, 1},	      /* one frame, */
		{600, 100, 10, 1},    /* a part in pieces */
		{512, 1024, 1024, 0}, /* both blocks */
		{600, 700, 700, 2},   /* a part of both */
	};
	auto_fd flags = open("/proc/kpageflags", O_RDONLY | O_CLOEXEC);
	auto_fd pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

	if (flags < 0) {
		print_message("needs root to see /proc/kpageflags\n");
		skip();
	}
	/* A frame that was freed may be part of somebody else's huge page at once: three times in a row it is not. */
	for (size_t row = 0, again = 0; row < ARRAY_SIZE(rows); row++) {
		cleanup(guest_memory_free_p) struct guest_memory *mem = memory(GUEST_MEMORY_MIN);
		uint8_t *ram = guest_memory_region(mem, 0)->hva;
		bool huge = false;
		uint64_t first = rows[row].first, end = first + rows[row].frames, pfns[2048];

		assert_int_equal(madvise(ram, GUEST_MEMORY_MIN, MADV_HUGEPAGE), 0);
		guest_memory_expect_huge(mem, true);
		memset(ram, 0xaa, 2048 * PAGE_BYTES);
		if (smaps(mem, "AnonHugePages") != 8192) {
			print_message("no huge pages to be had\n");
			skip();
		}
		for (uint64_t i = 0; i < 2048; i++)
			pfns[i] = pfn_of(pagemap, ram + i * PAGE_BYTES);
		for (uint64_t at = first; at < end; at += rows[row].step)
			assert_int_equal(guest_memory_discard(mem, GFN(at), rows[row].step, NULL), 0);
		assert_int_equal(guest_memory_settle(mem), rows[row].splits);
		assert_int_equal(guest_memory_settle(mem), 0);
		assert_int_equal(smaps(mem, "Rss"), 8192 - 4 * (end - first));
		for (uint64_t i = 512; i < 1536; i++) {
			bool gone = i >= first && i < end;
			uint64_t now = pfn_of(pagemap, ram + i * PAGE_BYTES);

			assert_int_equal(now, gone ? 0 : pfns[i]);
			/* A huge page that was not split is one still, with all its frames, mapped or not. */
			huge |= gone && read64(flags, pfns[i]) >> KPF_THP & 1;
		}
		if (huge && again < 2) {
			again++;
			row--;
			continue;
		}
		if (huge)
			fail_msg("row %zu: a frame is still part of a huge page", row);
		again = 0;
		for (uint64_t i = 0; i < 2048; i++)
			assert_int_equal(ram[i * PAGE_BYTES], i >= first && i < end ? 0 : 0xaa);
	}
}

/* Contiguous huge pages given back in pieces of 1, 3 and 2 MiB, downwards and upwards, take no more calls than others. */
TEST(calls_for_huge_pages)
{
	static const struct {
		uint64_t frames, pieces;
		unsigned calls;
	} rows[] = {{256, 64, 64}, {768, 20, 20}, {512, 32, 32}};
	cleanup(guest_memory_free_p) struct guest_memory *mem = memory(64 * MIB);
	unsigned calls;

	guest_memory_expect_huge(mem, true);
	for (size_t row = 0; row < ARRAY_SIZE(rows); row++) {
		for (int up = 0; up < 2; up++) {
			unsigned sum = 0;

			for (uint64_t i = 0; i < rows[row].pieces; i++) {
				uint64_t at = (up ? i : rows[row].pieces - 1 - i) * rows[row].frames;

				assert_int_equal(guest_memory_discard(mem, GFN(at), rows[row].frames, &calls),
						 0);
				sum += calls;
			}
			assert_int_equal(sum, rows[row].calls);
		}
	}
	guest_memory_expect_huge(mem, false);
	assert_int_equal(guest_memory_discard(mem, GFN(100), 1000, &calls), 0);
	assert_int_equal(calls, 1);
	assert_int_equal(guest_memory_split(mem, GFN(100), 1000), 0);
	guest_memory_expect_huge(mem, true);
	assert_int_equal(guest_memory_split(mem, GFN(100), 1000), 2);
	assert_int_equal(guest_memory_split(mem, GFN(100), 100), 1);
	assert_int_equal(guest_memory_split(mem, GFN(512), 100), 1);
	/* Cut everywhere: no more than a few are waited for. */
	for (uint64_t i = 0; i < 32; i++) {
		assert_int_equal(guest_memory_discard(mem, GFN(i * 512 + 1), 510, &calls), 0);
		assert_int_equal(calls, i < HUGE_CUTS_MAX ? 1 : 2);
	}
	assert_int_equal(guest_memory_settle(mem), HUGE_CUTS_MAX);
	assert_int_equal(guest_memory_split(mem, GFN(512), 1024), 0);
	assert_int_equal(guest_memory_split(mem, GFN(512), 0), 0);
	assert_int_equal(guest_memory_split(mem, GFN(1 << 20), 1), 0);
}

TEST(discard_stays_inside)
{
	cleanup(guest_memory_free_p) struct guest_memory *mem = memory(GUEST_MEMORY_MIN);
	uint64_t end = GUEST_MEMORY_MIN / PAGE_BYTES;

	assert_int_equal(guest_memory_discard(mem, GFN(end - 1), 2, NULL), -EFAULT);
	assert_int_equal(guest_memory_discard(mem, GFN(end), 1, NULL), -EFAULT);
	assert_int_equal(guest_memory_discard(mem, GFN(UINT64_MAX), 1, NULL), -EFAULT);
	assert_int_equal(guest_memory_discard(mem, GFN(0), UINT64_MAX, NULL), -EFAULT);
	assert_int_equal(guest_memory_discard(mem, GFN((uint64_t)1 << 52), 1, NULL), -EFAULT);
}

/* Discards in a pattern that cuts extents without end: the table's limit holds, and the bytes are still zero. */
TEST(table_limit_still_zeroes)
{
	cleanup(guest_memory_free_p) struct guest_memory *mem = memory(128 * MIB);
	auto_fd fd = memfd_create("ones", MFD_CLOEXEC);
	const uint64_t pages = 8600 + 2;
	uint8_t page[PAGE_BYTES];

	memset(page, 1, sizeof(page));
	for (uint64_t i = 0; i < pages; i++)
		assert_int_equal(pwrite_full(fd, page, sizeof(page), i * PAGE_BYTES), 0);
	assert_int_equal(guest_memory_map_file(mem, GPA(0), fd, 0, pages * PAGE_BYTES), 0);
	for (uint64_t i = 1; i < pages; i += 2)
		assert_int_equal(guest_memory_discard(mem, GFN(i), 1, NULL), 0);
	for (uint64_t i = 0; i < pages; i++)
		assert_int_equal(byte_at(mem, i * PAGE_BYTES), i % 2 ? 0 : 1);
}

/* Whatever lay where: all of it is zero and costs nothing, and the files can be mapped again, as they were. */
TEST(reset_is_as_new)
{
	cleanup(guest_memory_free_p) struct guest_memory *mem = memory(GUEST_MEMORY_MIN);
	const uint64_t pages = GUEST_MEMORY_MIN / PAGE_BYTES;
	auto_fd fd = numbered_file(8);
	enum frame_backing backing;
	uint64_t frames;
	uint8_t b = 0x77;

	for (unsigned boot = 0; boot < 3; boot++) {
		assert_int_equal(guest_memory_map_file(mem, GPA(MIB), fd, 0, 8 * PAGE_BYTES), 0);
		assert_int_equal(byte_at(mem, MIB + 2 * PAGE_BYTES), 3);
		for (uint64_t i = 0; i < pages; i++)
			assert_int_equal(guest_write(mem, GPA(i * PAGE_BYTES), &b, 1), 0);
		assert_int_equal(guest_memory_discard(mem, GFN(MIB / PAGE_BYTES + 4), 2, NULL), 0);
		assert_int_equal(guest_memory_reset(mem), 0);
		for (uint64_t i = 0; i < pages; i++)
			assert_int_equal(byte_at(mem, i * PAGE_BYTES), 0);
		assert_int_equal(guest_memory_backing(mem, GFN(0), &backing, &frames), 0);
		assert_int_equal(backing, FRAME_PRIVATE);
		assert_int_equal(frames, pages);
		assert_int_equal(guest_memory_boot_file_frames(mem), 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(splits_around_the_hole),
		cmocka_unit_test(refuses_sizes),
		cmocka_unit_test(gate_is_tight),
		cmocka_unit_test(maps_files_privately),
		cmocka_unit_test(discards_read_as_zero),
		cmocka_unit_test(discard_frees_memory),
		cmocka_unit_test(maps_segments_over_populated_memory),
		cmocka_unit_test(discards_every_backing),
		cmocka_unit_test(discards_leave_mappings_merged),
		cmocka_unit_test(discards_parts_of_huge_pages),
		cmocka_unit_test(calls_for_huge_pages),
		cmocka_unit_test(discard_stays_inside),
		cmocka_unit_test(table_limit_still_zeroes),
		cmocka_unit_test(reset_is_as_new),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
