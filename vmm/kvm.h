/* SPDX-License-Identifier: Apache-2.0 */
/* The KVM objects of one VM: the system handle, the VM with its interrupt controllers, memory slots, irqfds
 * and ioeventfds. */
#ifndef SARDINE_VMM_KVM_H
#define SARDINE_VMM_KVM_H

#include <stddef.h>
#include <stdint.h>

#include "base/errmsg.h"
#include "base/syscalls.h"
#include "vmm/guest-memory.h"
#include "vmm/irq.h"
#include "vmm/layout.h"

#define KVM_DEVICE "/dev/kvm"

/* Interrupt lines and doorbells of a VM: one per pin, and one per queue of each virtio device. */
#define KVM_LINES_MAX	  (LAYOUT_GSI_LAST + 1)
#define KVM_DOORBELLS_MAX (LAYOUT_VIRTIO_MAX * 8)

/* A guest write that KVM turns into a signal. */
struct kvm_doorbell {
	gpa_t gpa;
	uint32_t value;
	int fd;
};

struct kvm {
	int system_fd;
	int vm_fd;
	size_t run_bytes; /* of a vCPU's kvm_run mapping */
	/* What the VM was given, so that kvm_renew() can give it again. */
	const struct guest_memory *mem;
	unsigned line_count;
	unsigned doorbell_count;
	struct irq_line lines[KVM_LINES_MAX];
	struct kvm_doorbell doorbells[KVM_DOORBELLS_MAX];
};

/**
 * kvm_open() - Open KVM and create a VM; memory and interrupt controllers follow.
 * @kvm: filled; end it with kvm_close() also after a failure.
 * @err: what is missing and what to do.
 *
 * Return: 0; -ENOTSUP when this host cannot run VMs (no device, no permission, a missing capability).
 */
int kvm_open(struct kvm *kvm, struct errmsg *err) must_check;
void kvm_close(struct kvm *kvm);

/**
 * kvm_renew() - Exchange the VM for a new one with the same memory, interrupt lines and doorbells: the interrupt controllers,
 * timers and clocks of a machine that was just switched on.
 * @kvm: open; its vCPUs are closed.
 * @err: one line on failure; the VM is then without vm_fd.
 *
 * Context: any thread; blocks for as long as the kernel takes to end the old VM (some ms).
 * Return: 0 or a negative errno.
 */
int kvm_renew(struct kvm *kvm, struct errmsg *err) must_check;

/* Give the VM its RAM, one slot per region; @mem outlives it. */
int kvm_set_memory(struct kvm *kvm, const struct guest_memory *mem, struct errmsg *err) must_check;

/**
 * kvm_create_irqchip() - Create the interrupt controllers, and the PIT where the kernel has one.
 *
 * Before vCPUs and interrupt lines, but after kvm_set_memory(): since 6.18 the controllers' registers are put on
 * their bus by call_srcu(), and a change of memory slots that follows waits for that grace period, 4 ms.
 *
 * Return: as kvm_open().
 */
int kvm_create_irqchip(struct kvm *kvm, struct errmsg *err) must_check;

/**
 * kvm_irq_line() - Make an interrupt line: an eventfd whose writes are edges on the IOAPIC pin.
 * @kvm: the VM.
 * @gsi: the pin.
 * @ret: the line; the caller closes its fd, after kvm_close().
 *
 * Return: 0, -ENOSPC above KVM_LINES_MAX, or the errno of eventfd and KVM_IRQFD.
 */
int kvm_irq_line(struct kvm *kvm, uint32_t gsi, struct irq_line *ret) must_check;

/**
 * kvm_ioeventfd() - Turn 4-byte guest writes of @value to @gpa into signals of an eventfd, without an exit.
 *
 * Return: 0, -ENOSPC above KVM_DOORBELLS_MAX, or the errno of KVM_IOEVENTFD.
 */
int kvm_ioeventfd(struct kvm *kvm, gpa_t gpa, uint32_t value, int fd) must_check;

/* Highest number of vCPUs that a VM can have here. */
unsigned kvm_vcpus_max(const struct kvm *kvm);

extern const struct syscall_list kvm_syscalls;

#endif
