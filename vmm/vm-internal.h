/* SPDX-License-Identifier: Apache-2.0 */
/* What vm*.c share: the VM with all its parts, in the order in which they are built and, backwards, torn
 * down. */
#ifndef SARDINE_VMM_VM_INTERNAL_H
#define SARDINE_VMM_VM_INTERNAL_H

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "ksm/agent.h"
#include "ksm/hold.h"
#include "stats/ksm-usage.h"
#include "vmm/boot-image.h"
#include "vmm/boot-setup.h"
#include "vmm/bus.h"
#include "vmm/ged.h"
#include "vmm/guest-memory-view.h"
#include "vmm/i8042.h"
#include "vmm/kvm.h"
#include "vmm/pvpanic.h"
#include "vmm/rtc.h"
#include "vmm/serial.h"
#include "vmm/vcpu.h"
#include "vmm/virtio-balloon.h"
#include "vmm/virtio-blk.h"
#include "vmm/virtio-mmio.h"
#include "vmm/virtio-net.h"
#include "vmm/virtio-rng.h"
#include "vmm/virtio-vsock.h"
#include "vmm/vm.h"

/* What a guest wants of us at the end of a boot. */
enum restart_wish { RESTART_NONE, RESTART_RESET, RESTART_CRASH };

enum restart_phase { RESTART_IDLE, RESTART_REPORTING, RESTART_WAITING, RESTART_RESETTING };

/* The next boot (vm-restart.c). */
struct restart {
	/* Guarded by the VM's mutex. */
	enum restart_wish wish; /* of this boot */
	struct errmsg why;	/* written with the wish, constant until the next one */
	bool wanted;		/* the thread waits for the end of all pauses */
	bool resetting;		/* no pause may begin */
	bool quitting;		/* the VM is about to be freed */
	uint64_t reboots;	/* boots but the first */
	uint64_t crashes;	/* of them, after a crash */

	/* The loop's thread. */
	enum restart_phase phase;
	uint64_t booted_ns; /* CLOCK_MONOTONIC */
	unsigned row;	    /* crashes in a row */
	bool give_up;	    /* no restart after this crash */
	int fd;		    /* eventfd: there is a wish, or the thread is done */
	struct io_source *source;
	struct io_source *timer;
	pthread_t thread;
	bool thread_on;

	/* Handed to the thread when it starts, and back by job_done. */
	enum restart_phase job;
	int error;
	struct errmsg err;
	char (*registers)[VCPU_REGISTERS_MAX]; /* one line per vCPU; NULL without memory */
	atomic_bool job_done;

	atomic_bool
		dumping; /* the guest has said that it panicked and writes its own dump; not yet passed on */
};

/* Files of /proc and /sys, open as long as the VM lives: a confined process cannot open them any more. -1: there is none. */
struct vm_usage_files {
	int smaps;
	int rollup;
	struct ksm_process_files ksm;
	struct ksm_host_files ksm_host;
};

struct vm {
	const struct vm_config *config;
	struct io_loop *loop;
	struct console *console;

	struct kvm kvm;
	struct guest_memory *mem;
	struct hold *hold; /* members: the vCPUs' threads and the loop's */
	struct guest_memory_view view;
	struct agent *agent; /* NULL: nobody shares this VM's memory */
	thread_confine_fn confine;
	struct bus pio;
	struct bus mmio;

	struct irq_line serial_irq;
	struct irq_line ged_irq;
	struct serial *serial;
	struct i8042 *i8042;
	struct rtc *rtc;
	struct ged *ged;
	struct pvpanic *pvpanic;
	struct io_source *button_timer; /* armed while the guest has not taken a press of the button */

	/* Virtio devices in the order of their slots: the disks, network devices, vsock, random numbers, then the balloon. */
	struct irq_line virtio_irqs[LAYOUT_VIRTIO_MAX];
	struct virtio_mmio *transports[LAYOUT_VIRTIO_MAX]; /* borrowed from the devices */
	size_t transport_count;
	struct virtio_blk *disks[CONFIG_DISKS_MAX];
	struct virtio_net *nets[CONFIG_NETS_MAX];
	struct virtio_vsock *vsock;
	struct virtio_rng *rng;
	struct virtio_balloon *balloon;

	struct boot_image kernel; /* files of the cache, held open for the next boot */
	struct boot_blob initrd;
	struct vm_usage_files usage_files; /* read by one thread at a time (control-stats.c) */

	struct boot_state boot; /* as each boot begins */
	struct vcpu_set *vcpus;

	struct timespec started;
	pthread_mutex_t mutex;
	pthread_cond_t changed; /* pauses, restart.resetting, restart.quitting */
	enum vm_end end;	/* guarded by mutex, as the next two */
	struct errmsg end_detail;
	unsigned pauses;
	bool running; /* vm_start() has succeeded; loop's thread */
	struct restart restart;
	const struct vm_events *events; /* NULL: nobody listens */
	void *events_arg;
};

/* As vm_end(), with a line for the log. */
void vm_end_with(struct vm *vm, enum vm_end end, const char *detail);

/* Serial port, keyboard controller, event device and virtio devices, on their buses (vm-devices.c). */
int vm_devices_new(struct vm *vm, struct errmsg *err) must_check;
void vm_devices_free(struct vm *vm);

/* Before the threads that write guest memory end (vm-agent.c). */
void vm_agent_free(struct vm *vm);

/* The files of the kernel that the account is made of (vm-usage.c). */
void vm_usage_open(struct vm *vm);
void vm_usage_close(struct vm *vm);
/* Back to the state before the guest's first instruction. Waits for I/O in flight. Context: no vCPU runs. */
void vm_devices_reset(struct vm *vm);

/* Find kernel and initrd in the boot cache (vm-boot.c); vm_boot_close() also after a failure. */
int vm_boot_open(struct vm *vm, struct errmsg *err) must_check;
void vm_boot_close(struct vm *vm);
/* Put them, and the tables that describe the machine, into untouched RAM. @ret: how to enter; copied_bytes is of all. */
int vm_boot_place(struct vm *vm, struct errmsg *err, struct boot_state *ret) must_check;

/* vm-restart.c; vm_restart_done() also after a failure, and before the vCPUs are freed. */
int vm_restart_new(struct vm *vm) must_check;
void vm_restart_done(struct vm *vm);
/* The first boot begins. Context: the loop's thread. */
void vm_restart_started(struct vm *vm);

/**
 * vm_restart_wish() - The guest has reset or crashed: no vCPU goes on, and what is configured follows.
 * @why: one line for the log, "" for none.
 *
 * Context: a vCPU's thread; does not wait. The first wish of a boot counts.
 */
void vm_restart_wish(struct vm *vm, enum restart_wish wish, const char *why);

/* The guest panicked and looks after it itself. Context: a vCPU's thread; does not wait. */
void vm_restart_note_dump(struct vm *vm);

/* Somebody wants the VM to stop. Return: whether the guest has crashed, and there is nobody to ask: the VM ends instead of being
 * restarted. Context: the loop's thread. */
bool vm_restart_give_up(struct vm *vm);

/**
 * vm_restart_space_ns() - How long to wait until the next boot.
 * @crash: the boot ended by a crash.
 * @lived_ns: how long it lasted.
 * @row: crashes in a row before this one; updated.
 */
uint64_t vm_restart_space_ns(bool crash, uint64_t lived_ns, unsigned *row);

#endif
