/* SPDX-License-Identifier: Apache-2.0 */
/* What vm*.c share: the VM with all its parts, in the order in which they are built and, backwards, torn
 * down. */
#ifndef SARDINE_VMM_VM_INTERNAL_H
#define SARDINE_VMM_VM_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "vmm/boot-setup.h"
#include "vmm/bus.h"
#include "vmm/ged.h"
#include "vmm/i8042.h"
#include "vmm/kvm.h"
#include "vmm/rtc.h"
#include "vmm/serial.h"
#include "vmm/vcpu.h"
#include "vmm/virtio-balloon.h"
#include "vmm/virtio-blk.h"
#include "vmm/virtio-mmio.h"
#include "vmm/virtio-rng.h"
#include "vmm/virtio-vsock.h"
#include "vmm/vm.h"

struct vm {
	const struct vm_config *config;
	struct io_loop *loop;
	struct console *console;

	struct kvm kvm;
	struct guest_memory *mem;
	struct bus pio;
	struct bus mmio;

	struct irq_line serial_irq;
	struct irq_line ged_irq;
	struct serial *serial;
	struct i8042 *i8042;
	struct rtc *rtc;
	struct ged *ged;
	struct io_source *button_timer; /* armed while the guest has not taken a press of the button */

	/* Virtio devices in the order of their slots: the disks, vsock, random numbers, then the balloon. */
	struct irq_line virtio_irqs[LAYOUT_VIRTIO_MAX];
	struct virtio_mmio *transports[LAYOUT_VIRTIO_MAX]; /* borrowed from the devices */
	size_t transport_count;
	struct virtio_blk *disks[CONFIG_DISKS_MAX];
	struct virtio_vsock *vsock;
	struct virtio_rng *rng;
	struct virtio_balloon *balloon;

	struct boot_state boot;
	uint64_t boot_kernel_bytes; /* mapped from the cache */
	uint64_t boot_initrd_bytes;
	uint64_t boot_copied_bytes;
	struct vcpu_set *vcpus;

	struct timespec started;
	pthread_mutex_t mutex;
	enum vm_end end; /* guarded by mutex, as the next two */
	struct errmsg end_detail;
	unsigned pauses;
	bool running; /* vm_start() has succeeded; loop's thread */
};

/* Serial port, keyboard controller, event device and virtio devices, on their buses (vm-devices.c). */
int vm_devices_new(struct vm *vm, struct errmsg *err) must_check;
void vm_devices_free(struct vm *vm);

#endif
