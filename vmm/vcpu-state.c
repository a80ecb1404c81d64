/* SPDX-License-Identifier: Apache-2.0 */
/*
 * CPUID and the initial registers of a vCPU.
 *
 * The first vCPU starts in the kernel as its entry wants it: PVH (Xen docs/misc/pvh.pandoc, "Start of day
 * state") in flat 32-bit protected mode without paging; the 64-bit entries (Linux boot.rst, "64-bit Boot
 * Protocol") in long mode with low RAM mapped at its own addresses. The others wait in INIT for the guest's
 * SIPI, as KVM creates them.
 *
 * The state of the local APIC: LINT0, where a PC's 8259 would come in, is masked on purpose. The ACPI tables
 * announce no 8259, so nobody programs it; left unmasked (KVM's default for the first vCPU), the unprogrammed
 * 8259 of KVM, which sees interrupt lines 0-15 as well, would inject exception vectors.
 */
#include "vmm/vcpu-state.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/bytes.h"
#include "vmm/boot-structs.h"
#include "vmm/kvm.h"
#include "vmm/layout.h"
#include "vmm/vcpu-cpuid.h"

#define CPUID_ENTRIES_FIRST 256
#define CPUID_ENTRIES_MAX   4096

/* Intel SDM 3A: 2.5 (CR0, CR4), 2.2.1 (EFER), 2.3 (RFLAGS). */
#define CR0_PE	     (1u << 0)
#define CR0_ET	     (1u << 4)
#define CR0_PG	     (1u << 31)
#define CR4_PAE	     (1u << 5)
#define EFER_LME     (1u << 8)
#define EFER_LMA     (1u << 10)
#define RFLAGS_FIXED (1u << 1)

/* x87 control as after FNINIT. (KVM_SET_FPU carries no MXCSR; KVM starts vCPUs with its reset value.) */
#define FCW_INIT 0x37f

/* MTRRs on, all memory write-back (SDM 3A, 12.11.2.1); REP string instructions fast. */
#define MSR_MISC_ENABLE	  0x1a0
#define MISC_ENABLE_FAST  1u
#define MSR_MTRR_DEF_TYPE 0x2ff
#define MTRR_ENABLE	  (1u << 11)
#define MTRR_WRITE_BACK	  6u

/* Local vector table (SDM 3A, 11.5.1). */
#define APIC_LVT_LINT0 0x350
#define APIC_LVT_LINT1 0x360
#define LVT_MASKED     (1u << 16)
#define LVT_EXTINT     (7u << 8)
#define LVT_NMI	       (4u << 8)

/* Segment types (SDM 3A, 3.4.5.1 and 3.5). */
#define SEGMENT_CODE 0xb /* execute, read, accessed */
#define SEGMENT_DATA 0x3 /* read, write, accessed */
#define SEGMENT_TASK 0xb /* 32/64-bit TSS, busy */

/* KVM's supported CPUID with room for more. */
static int supported_cpuid(int kvm_fd, size_t *ret_capacity, struct kvm_cpuid2 **ret)
{
	for (uint32_t n = CPUID_ENTRIES_FIRST; n <= CPUID_ENTRIES_MAX; n *= 2) {
		size_t capacity = n + VCPU_CPUID_EXTRA;
		auto_free struct kvm_cpuid2 *c =
			calloc(1, sizeof(*c) + capacity * sizeof(struct kvm_cpuid_entry2));

		if (!c)
			return -ENOMEM;
		c->nent = n;
		if (ioctl(kvm_fd, KVM_GET_SUPPORTED_CPUID, c) == 0) {
			*ret_capacity = capacity;
			*ret = TAKE_PTR(c);
			return 0;
		}
		if (errno != E2BIG)
			return -errno;
	}
	return -E2BIG;
}

int vcpu_supported_read(int kvm_fd, struct errmsg *err, struct vcpu_supported *ret)
{
	struct vcpu_supported supported = {
		.tsc_deadline = ioctl(kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_TSC_DEADLINE_TIMER) > 0};
	int r = supported_cpuid(kvm_fd, &supported.capacity, &supported.cpuid);

	if (r < 0)
		return errmsg_set(err, r, "%s: cannot learn KVM's supported CPUID: %s", KVM_DEVICE,
				  strerror(-r));
	*ret = supported;
	return 0;
}

void vcpu_supported_done(struct vcpu_supported *supported)
{
	free(supported->cpuid);
	*supported = (struct vcpu_supported){0};
}

int vcpu_set_cpuid(const struct vcpu_supported *supported, int vcpu_fd, unsigned index, unsigned count,
		   struct errmsg *err)
{
	size_t bytes = sizeof(struct kvm_cpuid2) + supported->capacity * sizeof(struct kvm_cpuid_entry2);
	auto_free struct kvm_cpuid2 *cpuid = malloc(bytes);
	int r;

	if (!cpuid)
		return -ENOMEM;
	memcpy(cpuid, supported->cpuid, bytes);
	r = vcpu_cpuid_adjust(cpuid, supported->capacity, index, count, supported->tsc_deadline);
	if (r == 0 && ioctl(vcpu_fd, KVM_SET_CPUID2, cpuid) < 0)
		r = -errno;
	if (r < 0)
		return errmsg_set(err, r, "vCPU %u: KVM refuses its CPUID: %s", index, strerror(-r));
	return 0;
}

/* A flat segment of 4 GiB; @long_code for code in 64-bit mode. */
static struct kvm_segment flat_segment(uint16_t selector, uint8_t type, bool long_code)
{
	return (struct kvm_segment){
		.selector = selector,
		.type = type,
		.limit = UINT32_MAX,
		.present = 1,
		.s = 1,
		.g = 1,
		.l = long_code,
		.db = !long_code,
	};
}

static int set_system_registers(int vcpu_fd, const struct boot_state *boot)
{
	bool long_mode = boot->kind != BOOT_ENTRY_PVH;
	struct kvm_segment data = flat_segment(BOOT_SELECTOR_DATA, SEGMENT_DATA, false);
	struct kvm_sregs s;

	if (ioctl(vcpu_fd, KVM_GET_SREGS, &s) < 0) /* for the APIC base, and to keep what we do not know */
		return -errno;
	s.cs = flat_segment(BOOT_SELECTOR_CODE, SEGMENT_CODE, long_mode);
	s.ds = s.es = s.fs = s.gs = s.ss = data;
	s.tr = (struct kvm_segment){
		.selector = BOOT_SELECTOR_TASK, .type = SEGMENT_TASK, .limit = BOOT_TASK_LIMIT, .present = 1};
	s.ldt = (struct kvm_segment){.unusable = 1};
	s.gdt = (struct kvm_dtable){.base = LAYOUT_GDT, .limit = BOOT_GDT_ENTRIES * 8 - 1};
	s.idt = (struct kvm_dtable){0};
	s.cr0 = CR0_PE | CR0_ET;
	s.cr3 = 0;
	s.cr4 = 0;
	s.efer = 0;
	if (long_mode) {
		s.cr0 |= CR0_PG;
		s.cr3 = boot->page_tables.v;
		s.cr4 = CR4_PAE;
		s.efer = EFER_LME | EFER_LMA;
	}
	return ioctl(vcpu_fd, KVM_SET_SREGS, &s) < 0 ? -errno : 0;
}

static int set_general_registers(int vcpu_fd, const struct boot_state *boot)
{
	struct kvm_regs r = {.rip = boot->entry.v, .rflags = RFLAGS_FIXED};

	if (boot->kind == BOOT_ENTRY_PVH) {
		r.rbx = boot->info.v;
	} else {
		r.rsi = boot->info.v;
		r.rsp = r.rbp = LAYOUT_BOOT_STACK;
	}
	return ioctl(vcpu_fd, KVM_SET_REGS, &r) < 0 ? -errno : 0;
}

static int set_fpu(int vcpu_fd)
{
	struct kvm_fpu fpu = {.fcw = FCW_INIT};

	return ioctl(vcpu_fd, KVM_SET_FPU, &fpu) < 0 ? -errno : 0;
}

/* struct kvm_msrs with its one entry; the kernel's own type ends in an array without a size. */
struct one_msr {
	uint32_t nmsrs;
	uint32_t pad;
	struct kvm_msr_entry entry;
};
_Static_assert(offsetof(struct one_msr, entry) == sizeof(struct kvm_msrs), "as struct kvm_msrs");

/* An MSR that not every KVM has: where KVM does not know it (0 of 1 done) it stays as it is. */
static int set_optional_msr(int vcpu_fd, uint32_t index, uint64_t keep, uint64_t set)
{
	struct one_msr m = {.nmsrs = 1, .entry = {.index = index}};
	int r = ioctl(vcpu_fd, KVM_GET_MSRS, &m);

	if (r == 1) {
		m.entry.data = (m.entry.data & keep) | set;
		r = ioctl(vcpu_fd, KVM_SET_MSRS, &m);
	}
	return r < 0 ? -errno : 0;
}

static int set_msrs(int vcpu_fd)
{
	int r = set_optional_msr(vcpu_fd, MSR_MTRR_DEF_TYPE, 0, MTRR_ENABLE | MTRR_WRITE_BACK);

	return r < 0 ? r : set_optional_msr(vcpu_fd, MSR_MISC_ENABLE, ~(uint64_t)0, MISC_ENABLE_FAST);
}

static int set_lapic(int vcpu_fd)
{
	struct kvm_lapic_state lapic;

	if (ioctl(vcpu_fd, KVM_GET_LAPIC, &lapic) < 0)
		return -errno;
	store_le32(lapic.regs + APIC_LVT_LINT0, LVT_MASKED | LVT_EXTINT);
	store_le32(lapic.regs + APIC_LVT_LINT1, LVT_NMI);
	return ioctl(vcpu_fd, KVM_SET_LAPIC, &lapic) < 0 ? -errno : 0;
}

int vcpu_set_boot_registers(int vcpu_fd, unsigned index, const struct boot_state *boot, struct errmsg *err)
{
	int r = set_msrs(vcpu_fd);

	if (r < 0)
		return errmsg_set(err, r, "vCPU %u: KVM refuses its MSRs: %s", index, strerror(-r));
	if (index != 0)
		return 0;
	r = set_lapic(vcpu_fd);
	if (r < 0)
		return errmsg_set(err, r, "vCPU 0: KVM refuses its local APIC: %s", strerror(-r));
	r = set_fpu(vcpu_fd);
	if (r == 0)
		r = set_system_registers(vcpu_fd, boot);
	if (r == 0)
		r = set_general_registers(vcpu_fd, boot);
	if (r < 0)
		return errmsg_set(err, r, "vCPU 0: KVM refuses its registers: %s", strerror(-r));
	return 0;
}

DEFINE_SYSCALLS(vcpu_state_syscalls, SYSCALL_IF(ioctl, 1, KVM_CREATE_VCPU),
		SYSCALL_IF(ioctl, 1, KVM_GET_SUPPORTED_CPUID), SYSCALL_IF(ioctl, 1, KVM_SET_CPUID2),
		SYSCALL_IF(ioctl, 1, KVM_GET_SREGS), SYSCALL_IF(ioctl, 1, KVM_SET_SREGS),
		SYSCALL_IF(ioctl, 1, KVM_GET_REGS), SYSCALL_IF(ioctl, 1, KVM_SET_REGS),
		SYSCALL_IF(ioctl, 1, KVM_SET_FPU), SYSCALL_IF(ioctl, 1, KVM_GET_MSRS),
		SYSCALL_IF(ioctl, 1, KVM_SET_MSRS), SYSCALL_IF(ioctl, 1, KVM_GET_LAPIC),
		SYSCALL_IF(ioctl, 1, KVM_SET_LAPIC), SYSCALL_IF(ioctl, 1, KVM_GET_MP_STATE));
