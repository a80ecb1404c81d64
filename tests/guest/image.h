/* SPDX-License-Identifier: Apache-2.0 */
/* Where the fixed parts of the probe guest's image lie, for its assembly and its C alike. */
#ifndef PROBE_IMAGE_H
#define PROBE_IMAGE_H

/* The image is linked and loaded here: 1 MiB..2 MiB stays free, so that the first page above 1 MiB can be
 * tested. */
#define IMAGE_BASE 0x200000

/* Offsets from IMAGE_BASE. Fixed, so that descriptors and page tables are constants of the assembler and no
 * ring-0 code has to build them (ring 0 may be interpreted). */
#define IMAGE_PVH_ENTRY	  0x0	/* 32-bit protected mode, EBX = hvm_start_info */
#define IMAGE_LINUX_ENTRY 0x200 /* long mode, RSI = boot_params; where the 64-bit boot protocol wants it */
#define IMAGE_GDT	  0x1000
#define IMAGE_IDT	  0x4000
#define IMAGE_STUBS	  0x5000 /* 256 x STUB_STRIDE */
#define IMAGE_PML4	  0x6000
#define IMAGE_PDPT	  0x7000
#define IMAGE_PD	  0x8000  /* MAPPED_GIB pages */
#define IMAGE_RING0_STACK 0x10000 /* CPUS_MAX x RING0_STACK_BYTES */
#define IMAGE_TSS	  0x14000 /* CPUS_MAX x TSS_STRIDE */
#define IMAGE_FIXED_END	  0x18000

#define MAPPED_GIB	  8
#define CPUS_MAX	  32
#define TSS_STRIDE	  512
#define STUB_STRIDE	  16
#define RING0_STACK_BYTES 512
#define RING3_STACK_BYTES 16384

/* Where other CPUs start (a page below 1 MiB that the VMM's boot structures leave free). */
#define AP_START 0x10000

#define LAPIC_BASE 0xfee00000
#define LAPIC_ID   0x20
#define LAPIC_EOI  0xb0

#define SEL_CODE0 0x08
#define SEL_DATA0 0x10
#define SEL_DATA3 0x1b
#define SEL_CODE3 0x23
#define SEL_TSS	  0x30 /* CPU n: + 16 n */

/* Exceptions are below; vectors from here on only count in irq_counts[]. */
#define VECTOR_IRQ_FIRST 0x20

/* The one system call is an undefined instruction with this in RAX, and RFLAGS' new interrupt flag in RCX:
 * cli, sti, int and syscall are not to be had in ring 3 of software-assisted KVM. */
#define CALL_IRQS 0x5a4d1e5

#define BOOT_PVH     1
#define BOOT_LINUX64 2

#endif
