/* SPDX-License-Identifier: Apache-2.0 */
/* The vCPUs of a VM: their threads, their exits, and stopping all of them. */
#ifndef SARDINE_VMM_VCPU_H
#define SARDINE_VMM_VCPU_H

#include <stdint.h>

#include "base/errmsg.h"
#include "base/syscalls.h"
#include "vmm/boot-setup.h"
#include "vmm/bus.h"
#include "vmm/kvm.h"
#include "vmm/thread-kind.h"

struct hold;
struct vcpu_set;

/* Why a vCPU thread gave up; told once per VM. */
enum vcpu_end {
	VCPU_END_CRASH, /* triple fault, KVM internal error, failed entry: the guest is gone, a new one may live */
	VCPU_END_ERROR,	    /* KVM cannot go on */
	VCPU_END_POWER_OFF, /* KVM_SYSTEM_EVENT_SHUTDOWN */
	VCPU_END_RESET,	    /* KVM_SYSTEM_EVENT_RESET */
};

struct vcpu_set_config {
	const struct kvm *kvm;
	unsigned count;
	const struct bus *pio;
	const struct bus *mmio;
	/* Every vCPU's thread is a member, which parks before it enters the guest; its kick must call vcpu_set_kick(). NULL: none. */
	struct hold *hold;
	/* Called on a vCPU's thread, more than once if several give up; must not wait for vCPUs. @detail is one line for the log. */
	void (*ended)(void *arg, enum vcpu_end end, const char *detail);
	void *arg;
};

struct vcpu_counters {
	uint64_t exits;
	uint64_t exits_pio;
	uint64_t exits_mmio;
	uint64_t exits_interrupted; /* by kicks and other signals */
	uint64_t unclaimed;	    /* accesses that no device answered */
};

/**
 * vcpu_set_new() - Create the vCPUs with their CPUID and initial registers; no thread runs yet.
 * @config: copied; what it points to outlives the set.
 * @boot: how the first vCPU enters.
 * @err: one line on failure.
 * @ret: freed with vcpu_set_free().
 */
int vcpu_set_new(const struct vcpu_set_config *config, const struct boot_state *boot, struct errmsg *err,
		 struct vcpu_set **ret) must_check;
/* Stops the threads if they run. NULL is allowed. */
void vcpu_set_free(struct vcpu_set *set);
DEFINE_CLEANUP(struct vcpu_set, vcpu_set_free)

/* Have each thread that is started from now on call @confine first. */
void vcpu_set_confine(struct vcpu_set *set, thread_confine_fn confine);

/* Start one thread per vCPU. On failure those started are stopped again. */
int vcpu_set_start(struct vcpu_set *set) must_check;

/* Make all threads leave, without waiting for them: from now on none enters the guest. Context: any thread, a vCPU's too. */
void vcpu_set_leave(struct vcpu_set *set);

/* Make all threads leave and wait for them. Not from a vCPU's thread. */
void vcpu_set_stop(struct vcpu_set *set);

/**
 * vcpu_set_drop() - Close the vCPUs, so that the VM they belong to can end; counters stay.
 *
 * Context: after vcpu_set_stop(). Then kvm_renew() and vcpu_set_make().
 */
void vcpu_set_drop(struct vcpu_set *set);

/* Create them again, as vcpu_set_new() does; then vcpu_set_start(). @boot: how the first one enters. */
int vcpu_set_make(struct vcpu_set *set, const struct boot_state *boot, struct errmsg *err) must_check;

/* The longest line of vcpu_set_registers(), with its NUL. */
#define VCPU_REGISTERS_MAX 640

/**
 * vcpu_set_registers() - The registers of a vCPU as one line for the log.
 * @index: which one.
 * @buf: VCPU_REGISTERS_MAX bytes.
 *
 * Context: after vcpu_set_stop(), before vcpu_set_drop().
 */
void vcpu_set_registers(const struct vcpu_set *set, unsigned index, char *buf);

/**
 * vcpu_set_pause() - Hold all vCPUs outside the guest.
 *
 * Returns once no vCPU executes guest code or handles an exit. Nests: as many resumes as pauses let them go
 * on. The guest is told that it was stopped (KVM_KVMCLOCK_CTRL), so that its watchdogs stay quiet.
 *
 * Context: any thread but a vCPU's; blocks.
 */
void vcpu_set_pause(struct vcpu_set *set);
void vcpu_set_resume(struct vcpu_set *set);

/* Have each vCPU's thread leave the guest, if it is there, and look at its hold. Any thread but a vCPU's; does not wait. */
void vcpu_set_kick(struct vcpu_set *set);

void vcpu_set_counters(const struct vcpu_set *set, unsigned index, struct vcpu_counters *ret);

extern const struct syscall_list vcpu_syscalls;

#endif
