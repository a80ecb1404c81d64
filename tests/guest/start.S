/* SPDX-License-Identifier: Apache-2.0 */
/* The ring-0 part of the probe guest: enters long mode, loads tables that are constants, and leaves to ring 3.
 *
 * Theory of operation. Everything runs in ring 3 with all memory mapped writable, and with all ports below 0x400 allowed
 * by the TSS's bitmap (not by IOPL 3: software-assisted KVM drops the IOPL that iretq loads). Ring 0 is entered again only
 * by exceptions and interrupts; one exception (CALL_IRQS) turns interrupts on and off. Any other is handed to fault_main()
 * in ring 3; an interrupt counts its vector and is acknowledged at the LAPIC. Other CPUs start at AP_START by INIT and
 * SIPI for each job, and stop by INIT after it. Accessed and dirty bits are set beforehand so that the tables stay as
 * loaded.
 */
#include "image.h"

#define CR0_PE 0x00000001
#define CR0_ET 0x00000010
#define CR0_PG 0x80000000
#define CR4_PAE 0x20
#define MSR_EFER 0xc0000080
#define EFER_LME_BIT 8
#define RFLAGS_RING3 0x0002
#define RFLAGS_IF 0x200
#define TSS_BYTES 104
#define PORTS 0x508 /* up to the panic port */

	.section .fixed, "awx", @progbits
	.globl image_start
image_start:
	.org IMAGE_PVH_ENTRY
	.code32
	.globl pvh_start
pvh_start:
	cli
	lgdtl gdt_pointer
	movl $CR4_PAE, %eax
	movl %eax, %cr4
	movl $(IMAGE_BASE + IMAGE_PML4), %eax
	movl %eax, %cr3
	movl $MSR_EFER, %ecx
	rdmsr
	btsl $EFER_LME_BIT, %eax
	wrmsr
	movl $(CR0_PE | CR0_ET | CR0_PG), %eax
	movl %eax, %cr0
	movl %ebx, %esi
	movl $BOOT_PVH, %edi
	ljmpl $SEL_CODE0, $first_cpu

	.org IMAGE_LINUX_ENTRY
	.code64
	.globl linux_start
linux_start:
	cli
	lgdt gdt_pointer
	movl $(IMAGE_BASE + IMAGE_PML4), %eax
	movq %rax, %cr3
	movl $BOOT_LINUX64, %edi

/* EDI = how we were entered, RSI = the boot structure. The old CS does until the iretq. */
first_cpu:
	lidt idt_pointer
	movl $SEL_TSS, %eax
	ltr %ax
	xorl %eax, %eax
	movl %eax, %fs
	movl %eax, %gs
	movl $SEL_DATA3, %eax
	movl %eax, %ds
	movl %eax, %es
	movl $SEL_DATA0, %ecx
	movl %ecx, %ss
	movl $(IMAGE_BASE + IMAGE_RING0_STACK + RING0_STACK_BYTES), %esp
	pushq $SEL_DATA3
	pushq $(ring3_stacks + RING3_STACK_BYTES - 8)
	pushq $RFLAGS_RING3
	pushq $SEL_CODE3
	pushq $probe_main
	iretq

/* Another CPU, already in long mode: finds its number in its LAPIC. */
next_cpu:
	lidt idt_pointer
	movl $(LAPIC_BASE + LAPIC_ID), %eax
	movl (%rax), %edi
	shrl $24, %edi
	movl %edi, %eax
	shll $4, %eax
	andb $0xfd, IMAGE_BASE + IMAGE_GDT + SEL_TSS + 5(%rax)	/* not busy: it may be, from the job before */
	addl $SEL_TSS, %eax
	ltr %ax
	xorl %eax, %eax
	movl %eax, %fs
	movl %eax, %gs
	movl $SEL_DATA3, %eax
	movl %eax, %ds
	movl %eax, %es
	movl $SEL_DATA0, %ecx
	movl %ecx, %ss
	leal 1(%rdi), %ecx
	movl %ecx, %esp
	shll $9, %esp						/* RING0_STACK_BYTES */
	addl $(IMAGE_BASE + IMAGE_RING0_STACK), %esp
	shll $14, %ecx						/* RING3_STACK_BYTES */
	addl $(ring3_stacks - 8), %ecx
	pushq $SEL_DATA3
	pushq %rcx
	pushq $RFLAGS_RING3
	pushq $SEL_CODE3
	pushq $cpu_main
	iretq

/* Stack: vector, error code, RIP, CS, RFLAGS, RSP, SS. Leaves to fault_main(vector, error, rip, cr2, rsp, cpu) on a
 * fresh ring-3 stack; what ran before is given up. */
fault_common:
	cld
	popq %rdi
	popq %rsi
	popq %rdx
	movq 16(%rsp), %r8
	movq %cr2, %rcx
	movl $(LAPIC_BASE + LAPIC_ID), %eax
	movl (%rax), %r9d
	shrl $24, %r9d
	leal 1(%r9), %eax
	shll $14, %eax						/* RING3_STACK_BYTES */
	addl $(ring3_stacks - 8), %eax
	pushq $SEL_DATA3
	pushq %rax
	pushq $RFLAGS_RING3
	pushq $SEL_CODE3
	pushq $fault_main
	iretq

/* Stack: vector, RIP.. */
irq_common:
	pushq %rax
	movq 8(%rsp), %rax
	lock incl irq_counts(, %rax, 4)
	movl $(LAPIC_BASE + LAPIC_EOI), %eax
	movl $0, (%rax)
	popq %rax
	addq $8, %rsp
	iretq

/* Stack: RIP, CS, RFLAGS.. of an undefined instruction. */
invalid_opcode:
	cmpl $CALL_IRQS, %eax
	jne 1f
	addq $2, (%rsp)				/* ud2 is two bytes */
	andl $~RFLAGS_IF, 16(%rsp)
	orl %ecx, 16(%rsp)
	iretq
1:	pushq $0
	pushq $6
	jmp fault_common

/* Copied to AP_START. */
	.code16
	.globl ap_start, ap_end
ap_start:
	cli
	movw %cs, %ax
	movw %ax, %ds
	lgdtl ap_gdt_pointer - ap_start
	movl $CR4_PAE, %eax
	movl %eax, %cr4
	movl $(IMAGE_BASE + IMAGE_PML4), %eax
	movl %eax, %cr3
	movl $MSR_EFER, %ecx
	rdmsr
	btsl $EFER_LME_BIT, %eax
	wrmsr
	movl $(CR0_PE | CR0_ET | CR0_PG), %eax
	movl %eax, %cr0
	ljmpl $SEL_CODE0, $next_cpu
	.balign 8
ap_gdt_pointer:
	.word SEL_TSS + CPUS_MAX * 16 - 1
	.long IMAGE_BASE + IMAGE_GDT
ap_end:
	.code64

	.balign 8
gdt_pointer:
	.word SEL_TSS + CPUS_MAX * 16 - 1
	.quad IMAGE_BASE + IMAGE_GDT
	.balign 8
idt_pointer:
	.word 256 * 16 - 1
	.quad IMAGE_BASE + IMAGE_IDT

	.org IMAGE_GDT
	.quad 0
	.quad 0x00af9b000000ffff		/* SEL_CODE0: 64-bit */
	.quad 0x00cf93000000ffff		/* SEL_DATA0 */
	.quad 0x00cff3000000ffff		/* SEL_DATA3 */
	.quad 0x00affb000000ffff		/* SEL_CODE3: 64-bit */
	.quad 0
	.set tss, IMAGE_BASE + IMAGE_TSS
	.rept CPUS_MAX
	.quad ((tss & 0xff000000) << 32) | (0x89 << 40) | ((tss & 0xffffff) << 16) | (TSS_STRIDE - 1)
	.quad tss >> 32
	.set tss, tss + TSS_STRIDE
	.endr

	.org IMAGE_IDT
	.set stub, IMAGE_BASE + IMAGE_STUBS
	.rept 256
	.quad ((stub & 0xffff0000) << 32) | (0x8e00 << 32) | (SEL_CODE0 << 16) | (stub & 0xffff)
	.quad stub >> 32
	.set stub, stub + STUB_STRIDE
	.endr

	.org IMAGE_STUBS
	.set vector, 0
	.rept 256
	.balign STUB_STRIDE
	.if vector == 6
	jmp invalid_opcode
	.elseif vector >= VECTOR_IRQ_FIRST
	.byte 0x68				/* pushq imm32 */
	.long vector
	jmp irq_common
	.else
	/* #DF #TS #NP #SS #GP #PF #AC #CP #VC #SX bring an error code */
	.if ((0x60227d00 >> vector) & 1) == 0
	pushq $0
	.endif
	.byte 0x68
	.long vector
	jmp fault_common
	.endif
	.set vector, vector + 1
	.endr

	.org IMAGE_PML4
	.quad (IMAGE_BASE + IMAGE_PDPT) | 0x27	/* accessed, user, writable, present */
	.org IMAGE_PDPT
	.set table, IMAGE_BASE + IMAGE_PD
	.rept MAPPED_GIB
	.quad table | 0x27
	.set table, table + 0x1000
	.endr
	.org IMAGE_PD
	.set frame, 0
	.rept MAPPED_GIB * 512
	.quad frame | 0xe7			/* 2 MiB, dirty, accessed, user, writable, present */
	.set frame, frame + 0x200000
	.endr
	.org IMAGE_RING0_STACK
	.fill CPUS_MAX * RING0_STACK_BYTES, 1, 0
	.org IMAGE_TSS
	.set stack, IMAGE_BASE + IMAGE_RING0_STACK
	.rept CPUS_MAX
	.set stack, stack + RING0_STACK_BYTES
	.long 0
	.quad stack				/* RSP0 */
	.fill 90, 1, 0
	.word TSS_BYTES				/* the I/O bitmap follows: clear bits allow */
	.fill PORTS / 8, 1, 0
	.fill TSS_STRIDE - TSS_BYTES - PORTS / 8, 1, 0xff
	.endr

	.org IMAGE_FIXED_END

	.section .note.GNU-stack, "", @progbits
