/* SPDX-License-Identifier: Apache-2.0 */
/* One virtual machine: built from a configuration, run on the caller's thread until it ends. */
#ifndef SARDINE_VMM_VM_H
#define SARDINE_VMM_VM_H

#include <stdint.h>

#include "base/errmsg.h"
#include "base/syscalls.h"
#include "ksm/agent.h"
#include "ksm/guest-view.h"
#include "ksm/hold.h"
#include "stats/usage.h"
#include "vmm/config.h"
#include "vmm/guest-memory.h"
#include "vmm/io-loop.h"
#include "vmm/thread-kind.h"
#include "vmm/vcpu.h"

struct vm;
struct console;
struct vm_stats;

/* Why a VM ended. */
enum vm_end {
	VM_END_NONE,	  /* it has not */
	VM_END_POWER_OFF, /* by the guest, of its own or after the power button */
	VM_END_RESET,	  /* the guest asked for a reset (i8042, ACPI) and is not to be restarted */
	VM_END_CRASH,	  /* triple fault, KVM internal error, entry failure, guest panic */
	VM_END_KILLED,	  /* by us: kill, or stop after its timeout */
	VM_END_ERROR,	  /* KVM or the host could not go on */
	VM_ENDS,
};

const char *vm_end_name(enum vm_end end);

enum vm_state {
	VM_STARTING,
	VM_RUNNING,
	VM_PAUSED,
	VM_RESTARTING, /* the guest has reset or crashed, and is not yet booted again */
	VM_ENDED,
	VM_STATES,
};

const char *vm_state_name(enum vm_state state);

/**
 * vm_new() - Build a VM: RAM, KVM objects, devices, boot images; nothing runs yet.
 * @config: borrowed for the life of the VM.
 * @loop: the I/O loop on which its devices work; outlives the VM.
 * @console: where its serial port goes; outlives the VM.
 * @err: one line on failure.
 * @ret: freed with vm_free().
 *
 * Return: 0; -ENOTSUP when this host cannot (no /dev/kvm, a missing capability: exit 77); -EACCES/-ENOENT..
 * otherwise.
 */
int vm_new(const struct vm_config *config, struct io_loop *loop, struct console *console, struct errmsg *err,
	   struct vm **ret) must_check;
/* Stops the vCPUs if they run, then frees all. */
void vm_free(struct vm *vm);
DEFINE_CLEANUP(struct vm, vm_free)

/* Have each thread that is started from now on call @confine first, with its kind. */
void vm_set_confine(struct vm *vm, thread_confine_fn confine);

/**
 * vm_confined() - The process has given up the file system.
 * @leave_files: sockets of ours are left behind in the end.
 * @root_is_vsock: the root is the folder of the vsock's path now.
 *
 * Return: 0 or -ENOMEM.
 */
int vm_confined(struct vm *vm, bool leave_files, bool root_is_vsock) must_check;

/* Start the vCPU threads. The loop is stopped (io_loop_stop) once the VM has ended. */
int vm_start(struct vm *vm, struct errmsg *err) must_check;

/* Any thread. The first end wins. */
void vm_end(struct vm *vm, enum vm_end end);
enum vm_end vm_ended(struct vm *vm);
/* One line about how it ended, for the log; empty when there is nothing to add. */
const char *vm_end_detail(struct vm *vm);
enum vm_state vm_state(struct vm *vm);

/* What a VM tells its owner while it lives. Context: the loop's thread. Each may be NULL. */
struct vm_events {
	/* It has booted again. */
	void (*rebooted)(void *arg);
	/* It panicked, and writes a dump of its own (kdump). */
	void (*dumping)(void *arg);
	/* It crashed: @why, and one line of registers for each of @count vCPUs (0 without memory). It is booted again after
	 * @space_ns, or ends. */
	void (*crashed)(void *arg, const char *why, char (*registers)[VCPU_REGISTERS_MAX], unsigned count,
			bool restart, uint64_t space_ns);
};

/* @events: constant. Context: before vm_start(). */
void vm_set_events(struct vm *vm, const struct vm_events *events, void *arg);

/* Press the ACPI power button, again and again until the guest has noticed; also after a reset. A VM that waits to be booted
 * again after a crash ends. Context: the loop's thread. */
void vm_power_button(struct vm *vm);

/*
 * Stop and resume the vCPUs and the devices: in between nobody of ours writes guest memory, nor maps it anew by a hold. Nests. A
 * guest that resets meanwhile boots after the last resume.
 * Context: vm_pause(): any thread but a vCPU's and the loop's; waits for disk I/O in flight and for a reboot under way.
 * vm_resume(): any thread but a vCPU's; waits for no I/O.
 */
void vm_pause(struct vm *vm);
void vm_resume(struct vm *vm);

struct guest_memory *vm_memory(struct vm *vm);

/**
 * vm_guest_view() - The guest as the engine sees it; valid as long as the VM.
 *
 * while_held() stops the vCPUs' threads and the loop's. It fails with -EBUSY while the VM is paused or reboots, and with -ETIMEDOUT when
 * one of them does not stop in time: better try later. Who uses it wants guest_memory_watch(), too, and is done before vm_free().
 */
struct guest_view vm_guest_view(struct vm *vm);

/* Holds so far, and how long the guest was held. Any thread. */
void vm_hold_stats(struct vm *vm, struct hold_stats *ret);

/**
 * vm_agent_new() - Have the VM's memory looked after by an agent.
 * @link: to the store; the VM's from now on, also on failure.
 * @recorded: of the link, for vm_agent_frames() frames.
 * @err: one line.
 *
 * Nothing happens before vm_agent_start(), which starts the thread, and vm_start(), from which on it works. The thread confines itself as
 * all others do (vm_set_confine()).
 *
 * Return: 0, -ENOTSUP when this kernel cannot track writes, or another errno.
 */
int vm_agent_new(struct vm *vm, struct store_link *link, _Atomic uint64_t *recorded,
		 struct errmsg *err) must_check;
int vm_agent_start(struct vm *vm) must_check;
/* NULL: there is none. */
struct agent *vm_agent(struct vm *vm);
/* Frame numbers of guest RAM are below this. */
uint64_t vm_agent_frames(struct vm *vm);

/* Set the balloon target: bytes to take away from the guest. Return: 0, -EINVAL above RAM, -ENODEV without a
 * balloon. */
int vm_balloon_set(struct vm *vm, uint64_t bytes) must_check;

/* Where the balloon is, as the control command balloon answers; a new reference, NULL without a balloon or memory. Any thread. */
json_t *vm_balloon_json(struct vm *vm);

/**
 * vm_usage() - The account of the VM's memory, from the kernel's figures for this process.
 * @ret: docs/stats.md defines each figure.
 *
 * Context: any thread but the loop's and the vCPUs': the kernel walks all page tables, some milliseconds per
 * GiB.
 * Return: 0 or the errno of reading /proc.
 */
int vm_usage(struct vm *vm, struct vm_usage *ret) must_check;

/* The VM's part of `stats` as JSON; a new reference or NULL. Loop's thread. */
json_t *vm_stats_json(struct vm *vm);

extern const struct syscall_list vm_usage_syscalls;

#endif
