/* SPDX-License-Identifier: Apache-2.0 */
/* Guest RAM: the gate lets nothing through outside RAM, backings are known, discarded frames read as zero. */
#include "vmm/guest-memory.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "base/fs.h"
#include "base/size.h"
#include "tests/unit/test.h"

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
			assert_true(calls >= 1 && calls <= 3);
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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(splits_around_the_hole), cmocka_unit_test(refuses_sizes),
		cmocka_unit_test(gate_is_tight),	  cmocka_unit_test(maps_files_privately),
		cmocka_unit_test(discards_read_as_zero),  cmocka_unit_test(discard_frees_memory),
		cmocka_unit_test(discard_stays_inside),	  cmocka_unit_test(table_limit_still_zeroes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
