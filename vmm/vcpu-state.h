/* SPDX-License-Identifier: Apache-2.0 */
/* CPUID and the initial registers of a vCPU. */
#ifndef SARDINE_VMM_VCPU_STATE_H
#define SARDINE_VMM_VCPU_STATE_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/errmsg.h"
#include "base/syscalls.h"
#include "vmm/boot-setup.h"

/* What KVM can give to vCPUs; the same for all of a VM. */
struct vcpu_supported {
	struct kvm_cpuid2 *cpuid;
	size_t capacity; /* entries that there is room for */
	bool tsc_deadline;
};

/**
 * vcpu_supported_read() - Ask KVM what it supports: once per VM, since it takes KVM 0.3 ms.
 * @kvm_fd: /dev/kvm.
 * @err: one line on failure.
 * @ret: ended by vcpu_supported_done().
 */
int vcpu_supported_read(int kvm_fd, struct errmsg *err, struct vcpu_supported *ret) must_check;
void vcpu_supported_done(struct vcpu_supported *supported);

/**
 * vcpu_set_cpuid() - Give a vCPU KVM's supported CPUID with its own topology.
 * @supported: what KVM supports.
 * @vcpu_fd: the vCPU.
 * @index: its number, which is its APIC id.
 * @count: vCPUs of the VM (one package, one thread per core).
 * @err: one line on failure.
 *
 * APIC ids in leaves 1, 0xB (and 0x1F), 0x8000001E; PMU off (leaf 0xA, and AMD's); TSC deadline when KVM has
 * it; KVM's paravirtual leaves as supported (kvmclock).
 */
int vcpu_set_cpuid(const struct vcpu_supported *supported, int vcpu_fd, unsigned index, unsigned count,
		   struct errmsg *err) must_check;

/* Registers, MSRs, FPU and LAPIC (LINT0/1) of the first vCPU as the boot state wants them. Others wait for
 * INIT-SIPI. */
int vcpu_set_boot_registers(int vcpu_fd, unsigned index, const struct boot_state *boot,
			    struct errmsg *err) must_check;

extern const struct syscall_list vcpu_state_syscalls;

#endif
