/* SPDX-License-Identifier: Apache-2.0 */
/* Places kernel, initrd, command line and boot structures in guest RAM, and says in which state the first
 * vCPU enters. */
#ifndef SARDINE_VMM_BOOT_SETUP_H
#define SARDINE_VMM_BOOT_SETUP_H

#include "base/errmsg.h"
#include "vmm/boot-image.h"
#include "vmm/guest-memory.h"

struct boot_state {
	enum boot_entry kind;
	gpa_t entry;
	gpa_t info;	       /* hvm_start_info or boot_params */
	gpa_t page_tables;     /* PML4; unused by PVH */
	uint64_t copied_bytes; /* into guest RAM, by this call */
};

/**
 * boot_setup() - Map the images, write the structures.
 * @mem: RAM, untouched but for the ACPI tables.
 * @kernel: the image; its bytes reach RAM by guest_memory_map_file().
 * @initrd: likewise, placed page aligned as high below min(end of low RAM, initrd_addr_max) as it fits; fd -1
 * for none.
 * @cmdline: at most LAYOUT_CMDLINE_MAX - 1 bytes.
 * @rsdp: where the ACPI RSDP is.
 * @err: one line on failure (does not fit: how much memory would do).
 * @ret: how to enter.
 *
 * Return: 0 or a negative errno.
 */
int boot_setup(struct guest_memory *mem, const struct boot_image *kernel, const struct boot_blob *initrd,
	       const char *cmdline, gpa_t rsdp, struct errmsg *err, struct boot_state *ret) must_check;

#endif
