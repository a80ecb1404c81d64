/* SPDX-License-Identifier: Apache-2.0 */
/* The CPUID table of a vCPU, as a pure function of what KVM supports. */
#ifndef SARDINE_VMM_VCPU_CPUID_H
#define SARDINE_VMM_VCPU_CPUID_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/cleanup.h"

/* Entries that vcpu_cpuid_adjust() may add. */
#define VCPU_CPUID_EXTRA 6

/**
 * vcpu_cpuid_adjust() - Turn KVM's supported set into the CPUID of one vCPU.
 * @cpuid: KVM_GET_SUPPORTED_CPUID's answer; changed in place.
 * @capacity: entries that there is room for, at least cpuid->nent + VCPU_CPUID_EXTRA.
 * @index: the vCPU's number, which is its APIC id.
 * @count: vCPUs of the VM: one package of @count cores with one thread each.
 * @tsc_deadline: KVM emulates the TSC deadline timer.
 *
 * Return: 0 or -ENOSPC.
 */
int vcpu_cpuid_adjust(struct kvm_cpuid2 *cpuid, size_t capacity, unsigned index, unsigned count,
		      bool tsc_deadline) must_check;

#endif
