/* SPDX-License-Identifier: Apache-2.0 */
/* The guest's physical address map and interrupt lines: the one place where these numbers stand. */
#ifndef SARDINE_VMM_LAYOUT_H
#define SARDINE_VMM_LAYOUT_H

/* Low memory, all within the first MiB of RAM; together with the ACPI tables it is what a start copies
 * (boot.copied_bytes). */
#define LAYOUT_GDT	   0x500
#define LAYOUT_PVH_INFO	   0x6000 /* hvm_start_info, its modlist and memory map */
#define LAYOUT_BOOT_PARAMS 0x7000 /* struct boot_params, "zero page" */
#define LAYOUT_BOOT_STACK  0x8ff0
#define LAYOUT_PAGE_TABLES                                                                                   \
	0x9000 /* PML4, PDPT, PD..: identity map of the first GiBs for the 64-bit entry   \
				   */
#define LAYOUT_CMDLINE	   0x20000
#define LAYOUT_CMDLINE_MAX 4096	   /* with its NUL */
#define LAYOUT_LOW_END	   0x9fc00 /* end of conventional memory in the memory map */
#define LAYOUT_ACPI	   0xe0000 /* RSDP here, where a guest finds it by scanning too */
#define LAYOUT_ACPI_END	   0x100000
#define LAYOUT_RESET_CODE  0xffff0 /* the tables end below; where a PC starts after a reset (vm-boot.c) */
#define LAYOUT_HIGH_START  0x100000

/* Between the end of low RAM (3 GiB) and 4 GiB. */
#define LAYOUT_VIRTIO_MMIO	 0xd0000000u
#define LAYOUT_VIRTIO_MMIO_BYTES 0x1000u     /* per device */
#define LAYOUT_GED		 0xd0100000u /* event select register, 1 byte; see LAYOUT_GED_* */
#define LAYOUT_GED_BYTES	 0x1000u
#define LAYOUT_GED_EVENT	 0x0 /* R: pending events, cleared by reading; bit 0 power button */
#define LAYOUT_GED_SLEEP_CONTROL 0x4 /* W: ACPI 6.5 4.8.3.7 */
#define LAYOUT_GED_SLEEP_STATUS	 0x5 /* RW */
#define LAYOUT_GED_RESET	 0x6 /* W: LAYOUT_GED_RESET_VALUE resets */
#define LAYOUT_GED_RESET_VALUE	 0x42
#define LAYOUT_GED_SLP_TYP_S5	 5
#define LAYOUT_IOAPIC		 0xfec00000u
#define LAYOUT_LAPIC		 0xfee00000u
#define LAYOUT_KVM_TSS		 0xfffbd000u /* 3 pages, only Intel uses them */
#define LAYOUT_KVM_IDENTITY_MAP	 0xfffbc000u

/* Interrupt lines of the one IOAPIC (24 pins). 0-15 are ISA; virtio takes 10 and up, 14 devices. */
#define LAYOUT_GSI_COM1		4
#define LAYOUT_GSI_GED		9
#define LAYOUT_GSI_VIRTIO_FIRST 10
#define LAYOUT_GSI_LAST		23
#define LAYOUT_VIRTIO_MAX	(LAYOUT_GSI_LAST - LAYOUT_GSI_VIRTIO_FIRST + 1)

#define LAYOUT_COM1	 0x3f8
#define LAYOUT_COM1_LEN	 8
#define LAYOUT_I8042	 0x60 /* data 0x60 and command/status 0x64 */
#define LAYOUT_I8042_LEN 5
#define LAYOUT_RTC	 0x70 /* register number 0x70 and value 0x71 */
#define LAYOUT_RTC_LEN	 2

#define LAYOUT_PVPANIC	   0x505 /* where QEMU has it */
#define LAYOUT_PVPANIC_LEN 1

#define LAYOUT_VCPUS_MAX 32

#endif
