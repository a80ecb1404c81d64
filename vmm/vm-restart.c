/* SPDX-License-Identifier: Apache-2.0 */
/* The next boot of a VM whose guest has reset or crashed, in the same process. */
/*
 * Theory of operation
 *
 * A vCPU thread that sees a reset or a crash files a wish and makes all vCPUs leave (vm_restart_wish()); no guest code runs from
 * there on. The first wish of a boot counts. All else happens elsewhere:
 *
 *   phase       who waits for what
 *   IDLE        the guest runs
 *   REPORTING   a thread of ours joins the vCPUs and reads their registers (after a crash only)
 *   WAITING     a timer of the loop: the space between boots
 *   RESETTING   a thread of ours joins the vCPUs, waits until nobody pauses the VM, and boots it again
 *
 * Phases belong to the loop's thread; they change in phase_set() only, which knows the allowed moves. The thread is there for
 * what may block: joining vCPUs (they may be draining a device), disk I/O in flight, a pause that somebody holds.
 *
 * Pauses and restarts exclude each other, like readers and a writer: a restart waits until `pauses` is 0, a pause waits while
 * `resetting`, which the last resume sets for a restart that waits, lest one pause after the other come first. So a dump never sees a machine that is half reset, and a guest that resets while it is paused boots when it is
 * resumed. A pause that comes right after finds vCPUs that park before their first instruction.
 *
 * The machine is not put back into its first state register by register: KVM's VM is exchanged for a new one (kvm_renew()), so
 * that there is no state of interrupt controllers, timers, clocks, MSRs or FPU that could be forgotten. It costs a few
 * milliseconds. What the devices use to talk to KVM are eventfds, which are attached to the new VM.
 *
 * Kept: RAM's addresses, devices with their counters and descriptors, the balloon's target, the console with its history, a
 * press of the power button that the guest has not taken, pauses, and all that belongs to the command (control socket, name).
 *
 * The thread is no member of the hold, and writes guest memory: holds are forbidden while it works. Whoever watches the memory is
 * told before RAM is given back and after it was filled anew.
 *
 * A guest cannot keep the host busy by it: boots begin RESET_SPACE_NS apart at least, and crashes in a row wait longer and longer.
 */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "base/clock.h"
#include "base/signals.h"
#include "vmm/vm-internal.h"

#define RESET_SPACE_NS	50000000u
#define CRASH_SPACE_NS	100000000u
#define CRASH_SPACE_MAX 60000000000u
#define CRASH_ALONE_NS	60000000000u /* a boot that lived as long is no part of a row */
#define CRASH_DOUBLINGS 10	     /* then the space is at its most */

uint64_t vm_restart_space_ns(bool crash, uint64_t lived_ns, unsigned *row)
{
	uint64_t space = CRASH_SPACE_NS;

	if (lived_ns >= CRASH_ALONE_NS)
		*row = 0;
	if (!crash)
		return lived_ns < RESET_SPACE_NS ? RESET_SPACE_NS - lived_ns : 0;
	space <<= *row < CRASH_DOUBLINGS ? *row : CRASH_DOUBLINGS;
	(*row)++;
	return space < CRASH_SPACE_MAX ? space : CRASH_SPACE_MAX;
}

static void wake(struct vm *vm)
{
	uint64_t one = 1;

	if (write(vm->restart.fd, &one, sizeof(one)) < 0) {
		/* EAGAIN: it is awake already. */
	}
}

void vm_restart_wish(struct vm *vm, enum restart_wish wish, const char *why)
{
	struct restart *rs = &vm->restart;
	bool first;

	if (wish == RESTART_RESET && vm->config->on_reboot == CONFIG_EXIT) {
		vm_end_with(vm, VM_END_RESET, why);
		vcpu_set_leave(vm->vcpus);
		return;
	}
	pthread_mutex_lock(&vm->mutex);
	first = vm->end == VM_END_NONE && rs->wish == RESTART_NONE;
	if (first) {
		rs->wish = wish;
		rs->why.text[0] = '\0';
		errmsg_set(&rs->why, 0, "%s", why);
	}
	pthread_mutex_unlock(&vm->mutex);
	vcpu_set_leave(vm->vcpus);
	if (first)
		wake(vm);
}

void vm_restart_note_dump(struct vm *vm)
{
	if (!atomic_exchange_explicit(&vm->restart.dumping, true, memory_order_acq_rel))
		wake(vm);
}

static enum restart_wish wish_get(struct vm *vm)
{
	enum restart_wish wish;

	pthread_mutex_lock(&vm->mutex);
	wish = vm->restart.wish;
	pthread_mutex_unlock(&vm->mutex);
	return wish;
}

static void phase_set(struct vm *vm, enum restart_phase to)
{
	static const unsigned allowed[] = {
		[RESTART_IDLE] = 1u << RESTART_REPORTING | 1u << RESTART_WAITING,
		[RESTART_REPORTING] = 1u << RESTART_WAITING | 1u << RESTART_IDLE,
		[RESTART_WAITING] = 1u << RESTART_RESETTING | 1u << RESTART_IDLE,
		[RESTART_RESETTING] = 1u << RESTART_IDLE,
	};

	assert(allowed[vm->restart.phase] & 1u << to);
	(void)allowed;
	vm->restart.phase = to;
}

/* Context: the restart's thread. No vCPU runs, nobody pauses the VM. */
static int boot_again(struct vm *vm, struct errmsg *err)
{
	struct boot_state boot;
	int r;

	guest_memory_reset_begins(vm->mem);
	vm_devices_reset(vm);
	vcpu_set_drop(vm->vcpus);
	r = kvm_renew(&vm->kvm, err);
	if (r < 0)
		return r;
	r = guest_memory_reset(vm->mem);
	if (r < 0)
		return errmsg_set(err, r, "cannot give guest memory back: %s", strerror(-r));
	r = vm_boot_place(vm, err, &boot);
	if (r < 0)
		return r;
	guest_memory_reset_ended(vm->mem);
	return vcpu_set_make(vm->vcpus, &boot, err);
}

/* Take the machine for the restart. Return: false when the VM is about to end. */
static bool restart_begin(struct vm *vm)
{
	struct restart *rs = &vm->restart;
	bool go;

	pthread_mutex_lock(&vm->mutex);
	rs->resetting = vm->pauses == 0;
	rs->wanted = true;
	while (!rs->resetting && !rs->quitting)
		pthread_cond_wait(&vm->changed, &vm->mutex);
	rs->wanted = false;
	go = !rs->quitting;
	if (!go) {
		rs->resetting = false;
		pthread_cond_broadcast(&vm->changed);
	}
	pthread_mutex_unlock(&vm->mutex);
	return go;
}

/* The guest may have its next wish as soon as its vCPUs run, so this one is forgotten before. */
static void restart_end(struct vm *vm, bool booted)
{
	struct restart *rs = &vm->restart;

	pthread_mutex_lock(&vm->mutex);
	rs->resetting = false;
	if (booted) {
		if (rs->wish == RESTART_CRASH)
			rs->crashes++;
		rs->reboots++;
		rs->wish = RESTART_NONE;
	}
	pthread_cond_broadcast(&vm->changed);
	pthread_mutex_unlock(&vm->mutex);
}

static int restart_vm(struct vm *vm, struct errmsg *err)
{
	int r;

	if (!restart_begin(vm))
		return -ECANCELED;
	r = boot_again(vm, err);
	restart_end(vm, r == 0);
	if (r < 0)
		return r;
	r = vcpu_set_start(vm->vcpus);
	if (r < 0)
		return errmsg_set(err, r, "cannot start the vCPU threads: %s", strerror(-r));
	return 0;
}

static void read_registers(struct vm *vm)
{
	struct restart *rs = &vm->restart;

	rs->registers = calloc(vm->config->cpus, sizeof(rs->registers[0]));
	for (unsigned i = 0; rs->registers && i < vm->config->cpus; i++)
		vcpu_set_registers(vm->vcpus, i, rs->registers[i]);
}

static void *restart_main(void *arg)
{
	struct vm *vm = arg;
	struct restart *rs = &vm->restart;

	pthread_setname_np(pthread_self(), "restart");
	hold_forbid(vm->hold);
	vcpu_set_stop(vm->vcpus);
	if (rs->job == RESTART_REPORTING)
		read_registers(vm);
	else
		rs->error = restart_vm(vm, &rs->err);
	hold_allow(vm->hold);
	atomic_store_explicit(&rs->job_done, true, memory_order_release);
	wake(vm);
	return NULL;
}

/* Have the thread do the work of a phase. */
static void job_start(struct vm *vm, enum restart_phase job)
{
	struct restart *rs = &vm->restart;
	int r;

	rs->job = job;
	rs->error = 0;
	rs->err.text[0] = '\0';
	atomic_store_explicit(&rs->job_done, false, memory_order_relaxed);
	r = signals_thread_create(&rs->thread, restart_main, vm);
	if (r < 0) {
		struct errmsg err = {0};

		errmsg_set(&err, r, "cannot start a thread for the restart: %s", strerror(-r));
		vm_end_with(vm, VM_END_ERROR, err.text);
		return;
	}
	rs->thread_on = true;
	phase_set(vm, job);
}

static void wait_then_reset(struct vm *vm, uint64_t space_ns)
{
	phase_set(vm, RESTART_WAITING);
	if (space_ns == 0 || io_timer_set(vm->restart.timer, space_ns) < 0)
		job_start(vm, RESTART_RESETTING);
}

static void on_timer(void *arg, uint32_t events)
{
	struct vm *vm = arg;

	(void)events;
	if (vm->restart.phase == RESTART_WAITING)
		job_start(vm, RESTART_RESETTING);
}

/* Tell of a crash, and do what is configured. */
static void crash_reported(struct vm *vm)
{
	struct restart *rs = &vm->restart;
	bool restart = vm->config->on_crash == CONFIG_RESTART && !rs->give_up;
	uint64_t space_ns = vm_restart_space_ns(true, clock_now_ns() - rs->booted_ns, &rs->row);

	if (vm->events && vm->events->crashed)
		vm->events->crashed(vm->events_arg, rs->why.text, rs->registers,
				    rs->registers ? vm->config->cpus : 0, restart, space_ns);
	free(rs->registers);
	rs->registers = NULL;
	if (restart) {
		wait_then_reset(vm, space_ns);
		return;
	}
	phase_set(vm, RESTART_IDLE);
	vm_end_with(vm, VM_END_CRASH, rs->why.text);
}

static void job_finished(struct vm *vm)
{
	struct restart *rs = &vm->restart;

	pthread_join(rs->thread, NULL);
	rs->thread_on = false;
	if (rs->phase == RESTART_REPORTING) {
		crash_reported(vm);
		return;
	}
	phase_set(vm, RESTART_IDLE);
	if (rs->error < 0) {
		vm_end_with(vm, VM_END_ERROR, errmsg_text(&rs->err, rs->error));
		return;
	}
	rs->booted_ns = clock_now_ns();
	if (vm->events && vm->events->rebooted)
		vm->events->rebooted(vm->events_arg);
}

/* Context: the loop's thread. */
static void on_wake(void *arg, uint32_t events)
{
	struct vm *vm = arg;
	struct restart *rs = &vm->restart;
	uint64_t count;

	(void)events;
	if (read(rs->fd, &count, sizeof(count)) < 0)
		return;
	if (atomic_exchange_explicit(&rs->dumping, false, memory_order_acq_rel) && vm->events &&
	    vm->events->dumping)
		vm->events->dumping(vm->events_arg);
	if (rs->thread_on && atomic_load_explicit(&rs->job_done, memory_order_acquire))
		job_finished(vm);
	if (rs->phase != RESTART_IDLE || vm_ended(vm) != VM_END_NONE)
		return;
	switch (wish_get(vm)) {
	case RESTART_NONE:
		break;
	case RESTART_RESET:
		wait_then_reset(vm, vm_restart_space_ns(false, clock_now_ns() - rs->booted_ns, &rs->row));
		break;
	case RESTART_CRASH:
		job_start(vm, RESTART_REPORTING);
		break;
	}
}

bool vm_restart_give_up(struct vm *vm)
{
	struct restart *rs = &vm->restart;

	if (wish_get(vm) != RESTART_CRASH)
		return false;
	rs->give_up = true;
	if (rs->phase == RESTART_WAITING)
		vm_end_with(vm, VM_END_CRASH, rs->why.text);
	return true;
}

void vm_restart_started(struct vm *vm)
{
	vm->restart.booted_ns = clock_now_ns();
}

int vm_restart_new(struct vm *vm)
{
	struct restart *rs = &vm->restart;
	int r;

	rs->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (rs->fd < 0)
		return -errno;
	r = io_source_new(vm->loop, rs->fd, EPOLLIN, on_wake, vm, &rs->source);
	if (r == 0)
		r = io_timer_new(vm->loop, on_timer, vm, &rs->timer);
	return r;
}

void vm_restart_done(struct vm *vm)
{
	struct restart *rs = &vm->restart;

	pthread_mutex_lock(&vm->mutex);
	rs->quitting = true;
	pthread_cond_broadcast(&vm->changed);
	pthread_mutex_unlock(&vm->mutex);
	if (rs->thread_on)
		pthread_join(rs->thread, NULL);
	rs->thread_on = false;
	free(rs->registers);
	io_source_free(rs->source);
	io_source_free(rs->timer);
	close_fd_p(&rs->fd);
}
