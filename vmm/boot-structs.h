/* SPDX-License-Identifier: Apache-2.0 */
/* The structures in low memory through which a kernel is entered: what boot-setup.c writes and vcpu-state.c
 * points registers at. */
#ifndef SARDINE_VMM_BOOT_STRUCTS_H
#define SARDINE_VMM_BOOT_STRUCTS_H

#include "vmm/boot-image.h"
#include "vmm/guest-memory.h"

/* Selectors into the table at LAYOUT_GDT; code and data as the Linux boot protocol names them (__BOOT_CS,
 * __BOOT_DS). The task segment takes two entries in long mode. */
#define BOOT_SELECTOR_CODE 0x10
#define BOOT_SELECTOR_DATA 0x18
#define BOOT_SELECTOR_TASK 0x20
#define BOOT_GDT_ENTRIES   6
#define BOOT_TASK_LIMIT	   0x67

/* Types of memory, the same numbers in e820 (ACPI 6.5 table 15.4) and in the memory map of PVH. */
enum boot_memory_type { BOOT_MEMORY_RAM = 1, BOOT_MEMORY_RESERVED = 2, BOOT_MEMORY_ACPI = 3 };

struct boot_range {
	gpa_t start;
	uint64_t bytes;
	enum boot_memory_type type;
};

#define BOOT_RANGES_MAX 4

/* Everything a kernel is told. */
struct boot_info {
	struct boot_range ranges[BOOT_RANGES_MAX];
	unsigned range_count;
	const char *cmdline; /* at LAYOUT_CMDLINE */
	gpa_t rsdp;
	gpa_t initrd;
	uint64_t initrd_bytes; /* 0: none */
};

/**
 * boot_ranges() - The memory map: conventional memory, the ACPI tables, RAM up to the device hole and above
 * it.
 * @mem: RAM.
 * @info: receives ranges and range_count.
 */
void boot_ranges(const struct guest_memory *mem, struct boot_info *info);

/*
 * Writers into guest RAM. Each adds what it wrote to *copied and returns 0, or -EFAULT when RAM ends before.
 */

/* The command line with its NUL, at LAYOUT_CMDLINE. */
int boot_write_cmdline(struct guest_memory *mem, const char *cmdline, uint64_t *copied) must_check;
/* The GDT: flat code of 64 or 32 bits as @kind enters, flat data, a task segment. */
int boot_write_gdt(struct guest_memory *mem, enum boot_entry kind, uint64_t *copied) must_check;
/* Page tables that map low RAM, rounded up to GiBs, at its own addresses by 2 MiB pages. */
int boot_write_page_tables(struct guest_memory *mem, uint64_t *copied) must_check;
/* hvm_start_info with its module list and memory map, at LAYOUT_PVH_INFO. */
int boot_write_pvh(struct guest_memory *mem, const struct boot_info *info, uint64_t *copied) must_check;
/* struct boot_params at LAYOUT_BOOT_PARAMS; @kernel for the setup header of a bzImage. */
int boot_write_params(struct guest_memory *mem, const struct boot_image *kernel, const struct boot_info *info,
		      uint64_t *copied) must_check;

#endif
