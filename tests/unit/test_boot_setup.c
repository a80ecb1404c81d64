/* SPDX-License-Identifier: Apache-2.0 */
/* Where kernel and initrd land for every size of RAM, what the guest is told, and how refusals read. */
#include "vmm/boot-setup.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "base/bytes.h"
#include "base/fs.h"
#include "base/size.h"
#include "tests/unit/test.h"
#include "vmm/layout.h"

#define RSDP GPA(LAYOUT_ACPI)

/* The 64-bit entries may not copy more than this: boot_params, page tables, command line, GDT. */
#define COPIED_MAX (48 * KIB)

/* A file of @bytes in memory; its first and last 8 bytes are marked. */
static int file_of(uint64_t bytes, uint64_t mark)
{
	int fd = memfd_create("boot", MFD_CLOEXEC);
	uint8_t b[8];

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
	store_le64(b, mark);
	assert_int_equal(pwrite_full(fd, b, 8, 0), 0);
	assert_int_equal(pwrite_full(fd, b, 8, bytes - 8), 0);
	return fd;
}

static struct boot_image kernel_of(enum boot_entry kind, uint64_t load, uint64_t bytes, uint64_t mem_bytes)
{
	struct boot_image k = {.fd = file_of(bytes, 0x6b65726e656cull),
			       .bytes = bytes,
			       .load = GPA(load),
			       .mem_bytes = mem_bytes,
			       .entry = GPA(load + 0x200),
			       .kind = kind};

	if (kind == BOOT_ENTRY_BZIMAGE) {
		k.setup_header_bytes = 0x7b;
		k.setup_header[0] = 39;					/* setup_sects */
		store_le32(k.setup_header + 0x202 - 0x1f1, 0x53726448); /* HdrS */
		store_le16(k.setup_header + 0x206 - 0x1f1, 0x20f);	/* version */
		k.setup_header[0x210 - 0x1f1] = 0x77;			/* type_of_loader */
		store_le32(k.setup_header + 0x22c - 0x1f1, 0x7fffffff); /* initrd_addr_max */
		store_le32(k.setup_header + 0x238 - 0x1f1, 2047);	/* cmdline_size */
		store_le64(k.setup_header + 0x250 - 0x1f1, 0xdead);	/* setup_data */
	}
	return k;
}

static struct boot_blob initrd_of(uint64_t bytes)
{
	return (struct boot_blob){.fd = bytes ? file_of(bytes, 0x696e69747264ull) : -1, .bytes = bytes};
}

struct boot {
	struct guest_memory *mem;
	struct boot_state state;
	struct errmsg err;
	int r;
};

static struct boot boot(uint64_t ram, enum boot_entry kind, uint64_t load, uint64_t mem_bytes,
			uint64_t initrd, const char *cmdline)
{
	struct boot_image k = kernel_of(kind, load, mem_bytes < 2 * MIB ? PAGE_BYTES : MIB, mem_bytes);
	struct boot_blob i = initrd_of(initrd);
	struct boot b = {0};

	assert_int_equal(guest_memory_new(ram, false, &b.mem), 0);
	b.r = boot_setup(b.mem, &k, &i, cmdline, RSDP, &b.err, &b.state);
	boot_image_done(&k);
	boot_blob_done(&i);
	return b;
}

static uint64_t peek(const struct boot *b, uint64_t gpa, unsigned bytes)
{
	uint8_t v[8] = {0};

	assert_int_equal(guest_read(b->mem, GPA(gpa), v, bytes), 0);
	return load_le64(v);
}

/* The initrd as the guest finds it. */
static void find_initrd(const struct boot *b, uint64_t *gpa, uint64_t *bytes)
{
	if (b->state.kind == BOOT_ENTRY_PVH) {
		uint64_t modlist = peek(b, LAYOUT_PVH_INFO + 16, 8);

		*bytes = 0;
		if (peek(b, LAYOUT_PVH_INFO + 12, 4) == 0)
			return;
		*gpa = peek(b, modlist, 8);
		*bytes = peek(b, modlist + 8, 8);
	} else {
		*gpa = peek(b, LAYOUT_BOOT_PARAMS + 0x218, 4);
		*bytes = peek(b, LAYOUT_BOOT_PARAMS + 0x21c, 4);
	}
}

static void check_initrd(const struct boot *b, uint64_t want, uint64_t low_limit, uint64_t high_limit)
{
	uint64_t gpa = 0, bytes = 0;

	find_initrd(b, &gpa, &bytes);
	assert_int_equal(bytes, want);
	if (!want)
		return;
	assert_int_equal(gpa % PAGE_BYTES, 0);
	assert_true(gpa >= low_limit);
	assert_true(gpa + want <= high_limit);
	assert_int_equal(peek(b, gpa, 8), 0x696e69747264ull);
	assert_int_equal(peek(b, gpa + want - 8, 8), 0x696e69747264ull);
	for (uint64_t at = gpa + want; at % PAGE_BYTES; at++)
		assert_int_equal(peek(b, at, 1), 0); /* nothing follows in its last page */
}

/* The memory map as (start, bytes, type), from either structure. */
static unsigned read_map(const struct boot *b, uint64_t map[][3])
{
	bool pvh = b->state.kind == BOOT_ENTRY_PVH;
	uint64_t at = pvh ? peek(b, LAYOUT_PVH_INFO + 40, 8) : LAYOUT_BOOT_PARAMS + 0x2d0;
	unsigned n =
		(unsigned)(pvh ? peek(b, LAYOUT_PVH_INFO + 48, 4) : peek(b, LAYOUT_BOOT_PARAMS + 0x1e8, 1));

	assert_true(n <= 8);
	for (unsigned i = 0; i < n; i++, at += pvh ? 24 : 20) {
		map[i][0] = peek(b, at, 8);
		map[i][1] = peek(b, at + 8, 8);
		map[i][2] = peek(b, at + 16, 4);
	}
	return n;
}

/* RAM in the map is exactly the RAM there is, but for what lies between 639 KiB and 1 MiB. */
static void check_map(const struct boot *b, uint64_t ram)
{
	uint64_t map[8][3], low = ram < 3 * GIB ? ram : 3 * GIB, high = ram - low;
	unsigned n = read_map(b, map);

	assert_int_equal(n, high ? 4 : 3);
	assert_int_equal(map[0][0], 0);
	assert_int_equal(map[0][1], LAYOUT_LOW_END);
	assert_int_equal(map[0][2], 1);
	assert_int_equal(map[1][0], LAYOUT_ACPI);
	assert_int_equal(map[1][1], LAYOUT_ACPI_END - LAYOUT_ACPI);
	assert_int_equal(map[1][2], 3);
	assert_int_equal(map[2][0], MIB);
	assert_int_equal(map[2][1], low - MIB);
	assert_int_equal(map[2][2], 1);
	if (high) {
		assert_int_equal(map[3][0], 4 * GIB);
		assert_int_equal(map[3][1], high);
		assert_int_equal(map[3][2], 1);
	}
}

/* Walk the page tables as the CPU does: low RAM lies at its own addresses. */
static uint64_t translate(const struct boot *b, uint64_t va)
{
	uint64_t at = b->state.page_tables.v, e = 0;

	for (unsigned shift = 39; shift >= 21; shift -= 9) {
		e = peek(b, at + ((va >> shift) & 511) * 8, 8);
		assert_int_equal(e & 3, 3);
		at = page_down(e);
	}
	assert_int_equal(e & 0x80, 0x80);
	return at + (va & (HUGE_PAGE_BYTES - 1));
}

static void check_page_tables(const struct boot *b, uint64_t ram)
{
	uint64_t low = ram < 3 * GIB ? ram : 3 * GIB;

	for (uint64_t va = 0; va < low; va += 32 * MIB)
		assert_int_equal(translate(b, va), va);
	assert_int_equal(translate(b, low - 1), low - 1);
}

static void check_boot(uint64_t ram, enum boot_entry kind, uint64_t initrd)
{
	struct boot b = boot(ram, kind, 16 * MIB, 40 * MIB, initrd, "console=ttyS0");
	uint64_t low = ram < 3 * GIB ? ram : 3 * GIB;
	uint64_t limit = low < 2 * GIB ? low : 2 * GIB;
	char cmdline[16] = {0};

	if (b.r < 0)
		fail_msg("%s", b.err.text);
	assert_int_equal(b.state.entry.v, 16 * MIB + 0x200);
	assert_int_equal(b.state.kind, kind);
	assert_int_equal(peek(&b, 16 * MIB, 8), 0x6b65726e656cull);
	assert_int_equal(peek(&b, 17 * MIB - 8, 8), 0x6b65726e656cull);
	assert_int_equal(peek(&b, 17 * MIB, 8), 0); /* bss */
	assert_int_equal(guest_read(b.mem, GPA(LAYOUT_CMDLINE), cmdline, 14), 0);
	assert_string_equal(cmdline, "console=ttyS0");
	check_initrd(&b, initrd, 56 * MIB, limit);
	check_map(&b, ram);
	assert_in_range(b.state.copied_bytes, 1, COPIED_MAX);
	assert_int_equal(guest_memory_boot_file_frames(b.mem), 256 + page_up(initrd) / PAGE_BYTES);
	/* Flat code (64-bit: L set, D clear), flat data, busy task segment: Intel SDM 3A, figure 3-8. */
	assert_int_equal(peek(&b, LAYOUT_GDT + 0x10, 8),
			 kind == BOOT_ENTRY_PVH ? 0x00cf9b000000ffffull : 0x00af9b000000ffffull);
	assert_int_equal(peek(&b, LAYOUT_GDT + 0x18, 8), 0x00cf93000000ffffull);
	assert_int_equal(peek(&b, LAYOUT_GDT + 0x20, 8), 0x00008b0000000067ull);
	assert_int_equal(peek(&b, LAYOUT_GDT, 8), 0);
	if (kind == BOOT_ENTRY_PVH) {
		assert_int_equal(b.state.info.v, LAYOUT_PVH_INFO);
		assert_int_equal(peek(&b, LAYOUT_PVH_INFO, 8), 0x00000001336ec578ull);
		assert_int_equal(peek(&b, LAYOUT_PVH_INFO + 24, 8), LAYOUT_CMDLINE);
		assert_int_equal(peek(&b, LAYOUT_PVH_INFO + 32, 8), LAYOUT_ACPI);
		assert_in_range(b.state.copied_bytes, 1, KIB);
	} else {
		assert_int_equal(b.state.info.v, LAYOUT_BOOT_PARAMS);
		check_page_tables(&b, ram);
		assert_int_equal(peek(&b, LAYOUT_BOOT_PARAMS + 0x202, 4), 0x53726448);
		assert_int_equal(peek(&b, LAYOUT_BOOT_PARAMS + 0x210, 1), 0xff);
		assert_int_equal(peek(&b, LAYOUT_BOOT_PARAMS + 0x211, 1) & 1, 1);
		assert_int_equal(peek(&b, LAYOUT_BOOT_PARAMS + 0x228, 4), LAYOUT_CMDLINE);
		assert_int_equal(peek(&b, LAYOUT_BOOT_PARAMS + 0x250, 8), 0);
		assert_int_equal(peek(&b, LAYOUT_BOOT_PARAMS + 0x70, 8), LAYOUT_ACPI);
		assert_int_equal(peek(&b, LAYOUT_BOOT_PARAMS + 0x1ef, 1), 0);
		assert_int_equal(peek(&b, LAYOUT_BOOT_PARAMS + 0x1f1, 1),
				 kind == BOOT_ENTRY_BZIMAGE ? 39 : 0);
	}
	guest_memory_free(b.mem);
}

TEST(every_size)
{
	static const uint64_t sizes[] = {
		64 * MIB,      250 * MIB + 12 * KIB,	 GIB,	  2 * GIB + MIB, 3 * GIB,
		3 * GIB + MIB, 5 * GIB + 2 * PAGE_BYTES, 64 * GIB};

	for (enum boot_entry kind = 0; kind < BOOT_ENTRIES; kind++) {
		for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
			check_boot(sizes[i], kind, 0);
			check_boot(sizes[i], kind, 5 * MIB + 123);
			if (sizes[i] > 300 * MIB)
				check_boot(sizes[i], kind, 200 * MIB);
		}
	}
}

TEST(tight)
{
	/* Exactly enough, then one page less: below the kernel there are 15 MiB. */
	struct boot b = boot(56 * MIB + 20 * MIB, BOOT_ENTRY_PVH, 16 * MIB, 40 * MIB, 20 * MIB, "");

	assert_int_equal(b.r, 0);
	check_initrd(&b, 20 * MIB, 56 * MIB, 76 * MIB);
	guest_memory_free(b.mem);
	b = boot(76 * MIB - PAGE_BYTES, BOOT_ENTRY_PVH, 16 * MIB, 40 * MIB, 20 * MIB, "");
	assert_int_equal(b.r, -ENOMEM);
	assert_non_null(strstr(b.err.text, "--mem: 75 MiB"));
	assert_non_null(strstr(b.err.text, "at least 76M"));
	guest_memory_free(b.mem);
	/* Too tight above the kernel, room below it. */
	b = boot(57 * MIB, BOOT_ENTRY_ELF64, 16 * MIB, 40 * MIB, 15 * MIB, "");
	assert_int_equal(b.r, 0);
	check_initrd(&b, 15 * MIB, MIB, 16 * MIB);
	guest_memory_free(b.mem);
	b = boot(57 * MIB, BOOT_ENTRY_ELF64, 16 * MIB, 40 * MIB, 15 * MIB + 1, "");
	assert_int_equal(b.r, -ENOMEM);
	guest_memory_free(b.mem);
	b = boot(56 * MIB, BOOT_ENTRY_PVH, 16 * MIB, 40 * MIB, 0, "");
	assert_int_equal(b.r, 0);
	guest_memory_free(b.mem);
	b = boot(56 * MIB - PAGE_BYTES, BOOT_ENTRY_PVH, 16 * MIB, 40 * MIB, 0, "");
	assert_int_equal(b.r, -ENOMEM);
	assert_non_null(strstr(b.err.text, "at least 56M"));
	guest_memory_free(b.mem);
	/* No memory would do. */
	b = boot(3 * GIB, BOOT_ENTRY_BZIMAGE, 16 * MIB, 40 * MIB, 2 * GIB, "");
	assert_int_equal(b.r, -EFBIG);
	assert_non_null(strstr(b.err.text, "--initrd: its 2048 MiB"));
	assert_non_null(strstr(b.err.text, "limit of 2048 MiB"));
	guest_memory_free(b.mem);
}

TEST(command_line)
{
	char line[LAYOUT_CMDLINE_MAX + 1];
	struct boot b;

	memset(line, 'x', sizeof(line));
	line[LAYOUT_CMDLINE_MAX - 1] = '\0';
	b = boot(64 * MIB, BOOT_ENTRY_PVH, MIB, MIB, 0, line);
	assert_int_equal(b.r, 0);
	assert_int_equal(peek(&b, LAYOUT_CMDLINE + LAYOUT_CMDLINE_MAX - 2, 2), 'x');
	guest_memory_free(b.mem);
	line[LAYOUT_CMDLINE_MAX - 1] = 'x';
	line[LAYOUT_CMDLINE_MAX] = '\0';
	b = boot(64 * MIB, BOOT_ENTRY_PVH, MIB, MIB, 0, line);
	assert_int_equal(b.r, -E2BIG);
	assert_non_null(strstr(b.err.text, "--cmdline: 4096 bytes"));
	guest_memory_free(b.mem);
	line[2048] = '\0';
	b = boot(64 * MIB, BOOT_ENTRY_BZIMAGE, MIB, MIB, 0, line);
	assert_int_equal(b.r, -E2BIG);
	assert_non_null(strstr(b.err.text, "at most 2047"));
	guest_memory_free(b.mem);
}

/* Images that the cache should never hand out, and RAM is not touched by. */
TEST(malformed)
{
	static const struct {
		uint64_t load, bytes, mem_bytes, entry, offset;
	} bad[] = {
		{MIB - PAGE_BYTES, MIB, MIB, MIB, 0},
		{MIB + 1, MIB, MIB, MIB + 8, 0},
		{MIB, MIB + 1, 2 * MIB, MIB, 0},
		{MIB, 2 * MIB, MIB, MIB, 0},
		{MIB, 0, MIB, MIB, 0},
		{MIB, MIB, MIB, 2 * MIB, 0},
		{MIB, MIB, MIB, MIB - 1, 0},
		{MIB, MIB, MIB, MIB, 512},
		{3 * GIB - MIB, MIB, 2 * MIB, 3 * GIB - MIB, 0},
		{MIB, MIB, UINT64_MAX - PAGE_MASK, MIB, 0},
	};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct boot_image k = kernel_of(BOOT_ENTRY_PVH, bad[i].load, 2 * MIB, bad[i].mem_bytes);
		struct boot_blob none = BOOT_BLOB_EMPTY;
		struct boot_state entered;
		struct errmsg err = {0};
		cleanup(guest_memory_free_p) struct guest_memory *mem = NULL;

		k.bytes = bad[i].bytes;
		k.offset = bad[i].offset;
		k.entry = GPA(bad[i].entry);
		assert_int_equal(guest_memory_new(4 * GIB, false, &mem), 0);
		assert_int_equal(boot_setup(mem, &k, &none, "", RSDP, &err, &entered), -ENOEXEC);
		assert_non_null(strstr(err.text, "--kernel"));
		assert_int_equal(guest_memory_boot_file_frames(mem), 0);
		boot_image_done(&k);
	}
}

TEST(short_setup_header)
{
	struct boot_image k = kernel_of(BOOT_ENTRY_BZIMAGE, MIB, MIB, MIB);
	struct boot_blob none = BOOT_BLOB_EMPTY;
	struct boot_state entered;
	struct errmsg err = {0};
	cleanup(guest_memory_free_p) struct guest_memory *mem = NULL;

	assert_int_equal(guest_memory_new(64 * MIB, false, &mem), 0);
	k.setup_header_bytes = 0x30;
	assert_int_equal(boot_setup(mem, &k, &none, "", RSDP, &err, &entered), -ENOEXEC);
	k.setup_header_bytes = BOOT_SETUP_HEADER_MAX + 1;
	assert_int_equal(boot_setup(mem, &k, &none, "", RSDP, &err, &entered), -ENOEXEC);
	boot_image_done(&k);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_size),	      cmocka_unit_test(tight),
		cmocka_unit_test(command_line),	      cmocka_unit_test(malformed),
		cmocka_unit_test(short_setup_header),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
