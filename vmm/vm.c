/* SPDX-License-Identifier: Apache-2.0 */
/* One virtual machine: its parts put together, its life from start to end. */
#include "vmm/vm.h"

#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "base/size.h"
#include "vmm/vm-internal.h"

static const char *const end_names[] = {
	[VM_END_NONE] = "none",	  [VM_END_POWER_OFF] = "power-off", [VM_END_RESET] = "reset",
	[VM_END_CRASH] = "crash", [VM_END_KILLED] = "killed",	    [VM_END_ERROR] = "error",
};
_Static_assert(ARRAY_SIZE(end_names) == VM_ENDS, "a name for each end");

static const char *const state_names[] = {
	[VM_STARTING] = "starting",	[VM_RUNNING] = "running", [VM_PAUSED] = "paused",
	[VM_RESTARTING] = "restarting", [VM_ENDED] = "ended",
};
_Static_assert(ARRAY_SIZE(state_names) == VM_STATES, "a name for each state");

const char *vm_end_name(enum vm_end end)
{
	return end_names[end];
}

const char *vm_state_name(enum vm_state state)
{
	return state_names[state];
}

void vm_end_with(struct vm *vm, enum vm_end end, const char *detail)
{
	pthread_mutex_lock(&vm->mutex);
	if (vm->end == VM_END_NONE) {
		vm->end = end;
		errmsg_set(&vm->end_detail, 0, "%s", detail);
	}
	pthread_mutex_unlock(&vm->mutex);
	io_loop_stop(vm->loop);
}

void vm_end(struct vm *vm, enum vm_end end)
{
	vm_end_with(vm, end, "");
}

static void on_vcpu_ended(void *arg, enum vcpu_end end, const char *detail)
{
	switch (end) {
	case VCPU_END_CRASH:
		vm_restart_wish(arg, RESTART_CRASH, detail);
		break;
	case VCPU_END_ERROR:
		vm_end_with(arg, VM_END_ERROR, detail);
		break;
	case VCPU_END_POWER_OFF:
		vm_end_with(arg, VM_END_POWER_OFF, "");
		break;
	case VCPU_END_RESET:
		vm_restart_wish(arg, RESTART_RESET, "");
		break;
	}
}

static void kick_vcpus(void *arg)
{
	struct vm *vm = arg;

	if (vm->vcpus)
		vcpu_set_kick(vm->vcpus);
}

static int make_memory(struct vm *vm, struct errmsg *err)
{
	char size[16];
	int r = guest_memory_new(vm->config->mem_bytes, vm->config->mergeable, &vm->mem);

	if (r == -EINVAL && vm->config->mergeable)
		return errmsg_set(err, -ENOTSUP,
				  "--mergeable on: this kernel has no KSM; use --mergeable off");
	if (r < 0)
		return errmsg_set(err, r, "--mem %s: cannot reserve guest memory: %s",
				  size_format(vm->config->mem_bytes, size, sizeof(size)), strerror(-r));
	return kvm_set_memory(&vm->kvm, vm->mem, err);
}

static int vm_build(struct vm *vm, struct errmsg *err)
{
	struct vcpu_set_config vcpus = {
		.kvm = &vm->kvm,
		.count = vm->config->cpus,
		.pio = &vm->pio,
		.mmio = &vm->mmio,
		.hold = vm->hold,
		.ended = on_vcpu_ended,
		.arg = vm,
	};
	int r;

	r = kvm_open(&vm->kvm, err);
	if (r < 0)
		return r;
	r = make_memory(vm, err);
	if (r < 0)
		return r;
	vm->view = (struct guest_memory_view){.mem = vm->mem, .hold = vm->hold};
	r = kvm_create_irqchip(&vm->kvm, err);
	if (r < 0)
		return r;
	r = vm_devices_new(vm, err);
	if (r < 0)
		return r;
	r = vm_boot_open(vm, err);
	if (r < 0)
		return r;
	r = vm_boot_place(vm, err, &vm->boot);
	if (r < 0)
		return r;
	return vcpu_set_new(&vcpus, &vm->boot, err, &vm->vcpus);
}

#define BUTTON_REMINDER_NS 1000000000

static void on_button_timer(void *arg, uint32_t events)
{
	struct vm *vm = arg;

	(void)events;
	if (ged_remind(vm->ged) && io_timer_set(vm->button_timer, BUTTON_REMINDER_NS) < 0) {
		/* Then this reminder was the last. */
	}
}

int vm_new(const struct vm_config *config, struct io_loop *loop, struct console *console, struct errmsg *err,
	   struct vm **ret)
{
	cleanup(vm_free_p) struct vm *vm = calloc(1, sizeof(*vm));
	int r;

	if (!vm)
		return -ENOMEM;
	vm->config = config;
	vm->loop = loop;
	vm->console = console;
	vm->kvm = (struct kvm){.system_fd = -1, .vm_fd = -1};
	vm->serial_irq.fd = vm->ged_irq.fd = vm->restart.fd = -1;
	vm->kernel = BOOT_IMAGE_EMPTY;
	vm->initrd = BOOT_BLOB_EMPTY;
	for (size_t i = 0; i < ARRAY_SIZE(vm->virtio_irqs); i++)
		vm->virtio_irqs[i].fd = -1;
	pthread_mutex_init(&vm->mutex, NULL);
	pthread_cond_init(&vm->changed, NULL);
	vm_usage_open(vm);
	r = io_timer_new(loop, on_button_timer, vm, &vm->button_timer);
	if (r == 0)
		r = vm_restart_new(vm);
	if (r == 0)
		r = hold_new(kick_vcpus, vm, &vm->hold);
	if (r < 0)
		return r;
	io_loop_set_hold(loop, vm->hold);
	r = vm_build(vm, err);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(vm);
	return 0;
}

void vm_free(struct vm *vm)
{
	if (!vm)
		return;
	vm_agent_free(vm);
	vm_restart_done(vm);
	vcpu_set_free(vm->vcpus);
	io_source_free(vm->button_timer);
	vm_devices_free(vm);
	/* KVM lets go of guest memory before it is unmapped. */
	kvm_close(&vm->kvm);
	guest_memory_free(vm->mem);
	io_loop_set_hold(vm->loop, NULL);
	hold_free(vm->hold);
	vm_boot_close(vm);
	pthread_cond_destroy(&vm->changed);
	vm_usage_close(vm);
	pthread_mutex_destroy(&vm->mutex);
	free(vm);
}

void vm_set_confine(struct vm *vm, thread_confine_fn confine)
{
	vm->confine = confine;
	vcpu_set_confine(vm->vcpus, confine);
}

int vm_confined(struct vm *vm, bool leave_files, bool root_is_vsock)
{
	if (!vm->vsock)
		return 0;
	if (leave_files)
		virtio_vsock_leave_file(vm->vsock);
	return root_is_vsock ? virtio_vsock_set_folder(vm->vsock, "/") : 0;
}

int vm_start(struct vm *vm, struct errmsg *err)
{
	int r;

	clock_gettime(CLOCK_MONOTONIC, &vm->started);
	vm_restart_started(vm);
	r = vcpu_set_start(vm->vcpus);
	if (r < 0)
		return errmsg_set(err, r, "cannot start the vCPU threads: %s", strerror(-r));
	vm->running = true;
	if (vm->agent && agent_resume(vm->agent, false) < 0)
		log_debug("memory agent: it rests");
	return 0;
}

enum vm_end vm_ended(struct vm *vm)
{
	enum vm_end end;

	pthread_mutex_lock(&vm->mutex);
	end = vm->end;
	pthread_mutex_unlock(&vm->mutex);
	return end;
}

const char *vm_end_detail(struct vm *vm)
{
	return vm->end_detail.text;
}

enum vm_state vm_state(struct vm *vm)
{
	enum vm_state state;

	pthread_mutex_lock(&vm->mutex);
	if (vm->end != VM_END_NONE)
		state = VM_ENDED;
	else if (!vm->running)
		state = VM_STARTING;
	else if (vm->pauses)
		state = VM_PAUSED;
	else
		state = vm->restart.wish == RESTART_NONE ? VM_RUNNING : VM_RESTARTING;
	pthread_mutex_unlock(&vm->mutex);
	return state;
}

void vm_set_events(struct vm *vm, const struct vm_events *events, void *arg)
{
	vm->events = events;
	vm->events_arg = arg;
}

void vm_power_button(struct vm *vm)
{
	if (vm_restart_give_up(vm))
		return;
	ged_power_button(vm->ged);
	/* A guest that still boots has no driver for it yet, and would never see an edge that came before. */
	if (io_timer_set(vm->button_timer, BUTTON_REMINDER_NS) < 0) {
		/* Then the edge just raised is the only one. */
	}
}

void vm_pause(struct vm *vm)
{
	pthread_mutex_lock(&vm->mutex);
	while (vm->restart.resetting)
		pthread_cond_wait(&vm->changed, &vm->mutex);
	vm->pauses++;
	pthread_mutex_unlock(&vm->mutex);
	/* First: this thread finishes the devices' requests, and is no member of the hold. */
	hold_forbid(vm->hold);
	vcpu_set_pause(vm->vcpus);
	for (size_t i = 0; i < vm->transport_count; i++)
		virtio_mmio_hold(vm->transports[i]);
}

void vm_resume(struct vm *vm)
{
	for (size_t i = 0; i < vm->transport_count; i++)
		virtio_mmio_release(vm->transports[i]);
	vcpu_set_resume(vm->vcpus);
	hold_allow(vm->hold);
	pthread_mutex_lock(&vm->mutex);
	vm->pauses--;
	if (vm->pauses == 0 && vm->restart.wanted)
		vm->restart.resetting = true;
	pthread_cond_broadcast(&vm->changed);
	pthread_mutex_unlock(&vm->mutex);
}

struct guest_memory *vm_memory(struct vm *vm)
{
	return vm->mem;
}

struct guest_view vm_guest_view(struct vm *vm)
{
	return guest_memory_view(&vm->view);
}

void vm_hold_stats(struct vm *vm, struct hold_stats *ret)
{
	hold_stats(vm->hold, ret);
}

int vm_balloon_set(struct vm *vm, uint64_t bytes)
{
	if (!vm->balloon)
		return -ENODEV;
	return virtio_balloon_set_target(vm->balloon, bytes);
}
