/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The structures in low memory through which a kernel is entered.
 *
 * Sources: Xen docs/misc/pvh.pandoc and xen/include/public/arch-x86/hvm/start_info.h (PVH); Linux
 * Documentation/arch/x86/boot.rst and zero-page.rst (64-bit boot protocol, struct boot_params).
 */
#include "vmm/boot-structs.h"

#include <asm/bootparam.h>
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "base/bytes.h"
#include "base/size.h"
#include "vmm/layout.h"

/* hvm_start_info, version 1; offsets in bytes. */
#define PVH_MAGIC	    0x336ec578
#define PVH_VERSION	    1
#define PVH_INFO_VERSION    4
#define PVH_INFO_MODULES    12
#define PVH_INFO_MODLIST    16
#define PVH_INFO_CMDLINE    24
#define PVH_INFO_RSDP	    32
#define PVH_INFO_MEMMAP	    40
#define PVH_INFO_MEMMAP_LEN 48
#define PVH_INFO_BYTES	    56
#define PVH_MODULE_BYTES    32 /* address, size, command line, reserved: 8 bytes each */
#define PVH_MEMMAP_BYTES    24 /* address, size: 8 bytes each; type, reserved: 4 each */
#define PVH_MODLIST_OFFSET  PVH_INFO_BYTES
#define PVH_MEMMAP_OFFSET   (PVH_MODLIST_OFFSET + PVH_MODULE_BYTES)
#define PVH_BYTES	    (PVH_MEMMAP_OFFSET + BOOT_RANGES_MAX * PVH_MEMMAP_BYTES)

/* struct boot_params. */
#define PARAMS_HDR	    0x1f1
#define PARAMS_AFTER_HDR    0x290
#define HDR_BOOT_FLAG	    0xaa55
#define HDR_MAGIC	    0x53726448 /* "HdrS" */
#define HDR_VERSION	    0x020f
#define LOADER_UNDEFINED    0xff
#define KERNEL_ALIGN_16_MIB 0x1000000

/* Page table entries (Intel SDM 3A, 4.5). */
#define PTE_PRESENT	0x01
#define PTE_WRITE	0x02
#define PTE_LARGE	0x80
#define PTES_PER_PAGE	512
#define LOW_GIBS_MAX	(GUEST_MEMORY_LOW_END / GIB)
#define PAGE_TABLES_MAX ((2 + LOW_GIBS_MAX) * PAGE_BYTES)

/* Segment descriptors (Intel SDM 3A, 3.4.5): flat, accessed. */
#define DESC_CODE32 0x00cf9b000000ffffu
#define DESC_CODE64 0x00af9b000000ffffu
#define DESC_DATA   0x00cf93000000ffffu
#define DESC_TASK   (0x00008b0000000000u | BOOT_TASK_LIMIT) /* busy, at 0 */

_Static_assert(sizeof(struct boot_params) == 4096, "one page");
_Static_assert(offsetof(struct boot_params, hdr) == PARAMS_HDR, "boot.rst");
_Static_assert(offsetof(struct boot_params, acpi_rsdp_addr) == 0x70, "zero-page.rst");
_Static_assert(offsetof(struct boot_params, e820_table) == 0x2d0, "zero-page.rst");
_Static_assert(PARAMS_HDR + BOOT_SETUP_HEADER_MAX <= PARAMS_AFTER_HDR, "the header has room");
_Static_assert(LAYOUT_GDT + BOOT_GDT_ENTRIES * 8 <= LAYOUT_PVH_INFO, "layout");
_Static_assert(LAYOUT_PVH_INFO + PVH_BYTES <= LAYOUT_BOOT_PARAMS, "layout");
_Static_assert(LAYOUT_BOOT_PARAMS + sizeof(struct boot_params) < LAYOUT_BOOT_STACK, "layout");
_Static_assert(LAYOUT_BOOT_STACK <= LAYOUT_PAGE_TABLES, "layout");
_Static_assert(LAYOUT_PAGE_TABLES % PAGE_BYTES == 0, "layout");
_Static_assert(LAYOUT_PAGE_TABLES + PAGE_TABLES_MAX <= LAYOUT_CMDLINE, "layout");
_Static_assert(LAYOUT_CMDLINE + LAYOUT_CMDLINE_MAX <= LAYOUT_LOW_END, "layout");

void boot_ranges(const struct guest_memory *mem, struct boot_info *info)
{
	unsigned n = 0;

	info->ranges[n++] = (struct boot_range){GPA(0), LAYOUT_LOW_END, BOOT_MEMORY_RAM};
	info->ranges[n++] =
		(struct boot_range){GPA(LAYOUT_ACPI), LAYOUT_ACPI_END - LAYOUT_ACPI, BOOT_MEMORY_ACPI};
	for (size_t i = 0; i < guest_memory_region_count(mem) && n < BOOT_RANGES_MAX; i++) {
		const struct guest_region *r = guest_memory_region(mem, i);
		uint64_t skip = r->gpa.v == 0 ? LAYOUT_HIGH_START : 0;

		info->ranges[n++] =
			(struct boot_range){GPA(r->gpa.v + skip), r->bytes - skip, BOOT_MEMORY_RAM};
	}
	info->range_count = n;
}

static int put(struct guest_memory *mem, uint64_t gpa, const void *p, size_t len, uint64_t *copied)
{
	int r = guest_write(mem, GPA(gpa), p, len);

	if (r == 0)
		*copied += len;
	return r;
}

int boot_write_cmdline(struct guest_memory *mem, const char *cmdline, uint64_t *copied)
{
	return put(mem, LAYOUT_CMDLINE, cmdline, strlen(cmdline) + 1, copied);
}

int boot_write_gdt(struct guest_memory *mem, enum boot_entry kind, uint64_t *copied)
{
	uint8_t gdt[BOOT_GDT_ENTRIES * 8] = {0};

	store_le64(gdt + BOOT_SELECTOR_CODE, kind == BOOT_ENTRY_PVH ? DESC_CODE32 : DESC_CODE64);
	store_le64(gdt + BOOT_SELECTOR_DATA, DESC_DATA);
	store_le64(gdt + BOOT_SELECTOR_TASK, DESC_TASK);
	return put(mem, LAYOUT_GDT, gdt, sizeof(gdt), copied);
}

int boot_write_page_tables(struct guest_memory *mem, uint64_t *copied)
{
	uint64_t gibs = (guest_memory_region(mem, 0)->bytes + GIB - 1) / GIB;
	const uint64_t pdpt_gpa = LAYOUT_PAGE_TABLES + PAGE_BYTES;
	uint8_t table[PAGE_BYTES] = {0};
	int r;

	store_le64(table, pdpt_gpa | PTE_PRESENT | PTE_WRITE);
	r = put(mem, LAYOUT_PAGE_TABLES, table, sizeof(table), copied);
	if (r < 0)
		return r;
	for (uint64_t i = 0; i < gibs; i++)
		store_le64(table + i * 8, (pdpt_gpa + (1 + i) * PAGE_BYTES) | PTE_PRESENT | PTE_WRITE);
	r = put(mem, pdpt_gpa, table, sizeof(table), copied);
	for (uint64_t i = 0; i < gibs && r == 0; i++) {
		for (uint64_t j = 0; j < PTES_PER_PAGE; j++)
			store_le64(table + j * 8,
				   (i * GIB + j * HUGE_PAGE_BYTES) | PTE_PRESENT | PTE_WRITE | PTE_LARGE);
		r = put(mem, pdpt_gpa + (1 + i) * PAGE_BYTES, table, sizeof(table), copied);
	}
	return r;
}

int boot_write_pvh(struct guest_memory *mem, const struct boot_info *info, uint64_t *copied)
{
	uint8_t b[PVH_BYTES] = {0};
	uint8_t *module = b + PVH_MODLIST_OFFSET;
	uint8_t *range = b + PVH_MEMMAP_OFFSET;

	store_le32(b, PVH_MAGIC);
	store_le32(b + PVH_INFO_VERSION, PVH_VERSION);
	store_le64(b + PVH_INFO_CMDLINE, LAYOUT_CMDLINE);
	store_le64(b + PVH_INFO_RSDP, info->rsdp.v);
	if (info->initrd_bytes) {
		store_le32(b + PVH_INFO_MODULES, 1);
		store_le64(b + PVH_INFO_MODLIST, LAYOUT_PVH_INFO + PVH_MODLIST_OFFSET);
		store_le64(module, info->initrd.v);
		store_le64(module + 8, info->initrd_bytes);
	}
	store_le64(b + PVH_INFO_MEMMAP, LAYOUT_PVH_INFO + PVH_MEMMAP_OFFSET);
	store_le32(b + PVH_INFO_MEMMAP_LEN, info->range_count);
	for (unsigned i = 0; i < info->range_count; i++, range += PVH_MEMMAP_BYTES) {
		store_le64(range, info->ranges[i].start.v);
		store_le64(range + 8, info->ranges[i].bytes);
		store_le32(range + 16, info->ranges[i].type);
	}
	return put(mem, LAYOUT_PVH_INFO, b, sizeof(b), copied);
}

int boot_write_params(struct guest_memory *mem, const struct boot_image *kernel, const struct boot_info *info,
		      uint64_t *copied)
{
	struct boot_params p;

	memset(&p, 0, sizeof(p));
	if (kernel->kind == BOOT_ENTRY_BZIMAGE) {
		memcpy((uint8_t *)&p + PARAMS_HDR, kernel->setup_header, kernel->setup_header_bytes);
	} else {
		p.hdr.boot_flag = HDR_BOOT_FLAG;
		p.hdr.header = HDR_MAGIC;
		p.hdr.version = HDR_VERSION;
		p.hdr.kernel_alignment = KERNEL_ALIGN_16_MIB;
		p.hdr.cmdline_size = LAYOUT_CMDLINE_MAX - 1;
	}
	p.hdr.type_of_loader = LOADER_UNDEFINED;
	p.hdr.loadflags |= LOADED_HIGH;
	p.hdr.setup_data = 0;
	p.hdr.cmd_line_ptr = LAYOUT_CMDLINE;
	if (info->initrd_bytes) {
		/* Placed below 4 GiB, so the ext_ halves stay zero. */
		p.hdr.ramdisk_image = (uint32_t)info->initrd.v;
		p.hdr.ramdisk_size = (uint32_t)info->initrd_bytes;
	}
	p.acpi_rsdp_addr = info->rsdp.v;
	for (unsigned i = 0; i < info->range_count; i++)
		p.e820_table[i] = (struct boot_e820_entry){.addr = info->ranges[i].start.v,
							   .size = info->ranges[i].bytes,
							   .type = info->ranges[i].type};
	p.e820_entries = (uint8_t)info->range_count;
	return put(mem, LAYOUT_BOOT_PARAMS, &p, sizeof(p), copied);
}
