/* SPDX-License-Identifier: Apache-2.0 */
/* The vCPUs of a VM: threads around KVM_RUN, dispatch of exits, pausing. */
#include "vmm/vcpu.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#include "base/signals.h"
#include "ksm/hold.h"
#include "vmm/vcpu-state.h"

/*
 * Theory of operation
 *
 * A vCPU's thread loops: clear immediate_exit, look whether attention is wanted, enter the guest, handle the
 * exit. To get its attention: set `attention`, then signal the thread. The signal handler sets
 * immediate_exit, so a signal that lands anywhere after the look makes the next KVM_RUN return at once; one
 * that lands before it is seen by the look. There is no window in which it is lost.
 *
 * A thread that pays attention takes the mutex and parks while `pauses` is above zero. `parked` counts the
 * threads that wait there; it falls only under the mutex and only when the thread really leaves, so a second
 * pause that comes before the threads woke up from the first counts them rightly as parked.
 *
 * Exits are handled outside the mutex, on the vCPU's own thread, and a pause waits until they are done: while
 * all are parked, no vCPU and no device access by a vCPU touches guest memory.
 *
 * A hold (ksm/hold.c) is another reason to stop, and a much shorter one: it has its own flag, which is looked at in the same
 * place, and the same signal. Threads are members of the hold from their start to their end. A thread that parks for a pause
 * rests, as far as the hold is concerned. The set's mutex is never held while a thread waits for a hold.
 */
#define KICK_SIGNAL SIGUSR1
#define STACK_BYTES ((size_t)256 << 10)

struct vcpu {
	struct vcpu_set *set;
	unsigned index;
	int fd;
	struct kvm_run *run;
	pthread_t thread;
	bool started;
	/* Written by its thread only, read by others: relaxed atomics. */
	_Atomic uint64_t exits, exits_pio, exits_mmio, exits_interrupted, unclaimed;
};

struct vcpu_set {
	struct vcpu_set_config config;
	atomic_bool attention;
	thread_confine_fn confine;
	pthread_mutex_t mutex;
	pthread_cond_t out;   /* a vCPU has parked or left; pauses wait for it */
	pthread_cond_t go_on; /* the last pause is over, or they shall leave; parked vCPUs wait for it */
	unsigned pauses;      /* guarded by mutex, as the next four */
	unsigned parked;
	unsigned running; /* threads that have not left */
	bool stopping;
	struct vcpu vcpus[];
};

static _Thread_local struct kvm_run *this_run;

static void kick_handler(int sig)
{
	(void)sig;
	if (this_run)
		this_run->immediate_exit = 1;
}

static void count(_Atomic uint64_t *counter)
{
	atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + 1,
			      memory_order_relaxed);
}

static void vcpu_handle_pio(struct vcpu *v)
{
	struct kvm_run *run = v->run;
	uint8_t *data = (uint8_t *)run + run->io.data_offset;

	count(&v->exits_pio);
	for (uint32_t i = 0; i < run->io.count; i++, data += run->io.size) {
		bool claimed = run->io.direction == KVM_EXIT_IO_IN
				       ? bus_read(v->set->config.pio, run->io.port, data, run->io.size)
				       : bus_write(v->set->config.pio, run->io.port, data, run->io.size);

		if (!claimed)
			count(&v->unclaimed);
	}
}

static void vcpu_handle_mmio(struct vcpu *v)
{
	struct kvm_run *run = v->run;
	bool claimed =
		run->mmio.is_write
			? bus_write(v->set->config.mmio, run->mmio.phys_addr, run->mmio.data, run->mmio.len)
			: bus_read(v->set->config.mmio, run->mmio.phys_addr, run->mmio.data, run->mmio.len);

	count(&v->exits_mmio);
	if (!claimed)
		count(&v->unclaimed);
}

static void vcpu_end(struct vcpu *v, enum vcpu_end end, const char *what, uint64_t detail)
{
	struct kvm_regs regs = {0};
	struct kvm_sregs sregs = {0};
	char line[256];

	if (ioctl(v->fd, KVM_GET_REGS, &regs) < 0 || ioctl(v->fd, KVM_GET_SREGS, &sregs) < 0)
		regs.rip = 0;
	snprintf(line, sizeof(line),
		 "vcpu %u: %s (%#" PRIx64
		 ") at rip %#llx, rsp %#llx, cs %#x, cr0 %#llx, cr2 %#llx, cr3 %#llx",
		 v->index, what, detail, regs.rip, regs.rsp, sregs.cs.selector, sregs.cr0, sregs.cr2,
		 sregs.cr3);
	v->set->config.ended(v->set->config.arg, end, line);
}

void vcpu_set_registers(const struct vcpu_set *set, unsigned index, char *buf)
{
	const struct vcpu *v = &set->vcpus[index];
	struct kvm_regs r;
	struct kvm_sregs s;
	struct kvm_mp_state mp;

	if (ioctl(v->fd, KVM_GET_REGS, &r) < 0 || ioctl(v->fd, KVM_GET_SREGS, &s) < 0 ||
	    ioctl(v->fd, KVM_GET_MP_STATE, &mp) < 0) {
		snprintf(buf, VCPU_REGISTERS_MAX, "vcpu %u: no registers: %s", v->index, strerror(errno));
		return;
	}
	if (mp.mp_state == KVM_MP_STATE_UNINITIALIZED || mp.mp_state == KVM_MP_STATE_INIT_RECEIVED) {
		snprintf(buf, VCPU_REGISTERS_MAX, "vcpu %u: not started", v->index);
		return;
	}
	snprintf(buf, VCPU_REGISTERS_MAX,
		 "vcpu %u:%s rip %#llx rflags %#llx rsp %#llx rbp %#llx rax %#llx rbx %#llx rcx %#llx rdx "
		 "%#llx rsi %#llx rdi %#llx r8 %#llx r9 %#llx r10 %#llx r11 %#llx r12 %#llx r13 %#llx r14 "
		 "%#llx r15 %#llx cs %#x ss %#x cr0 %#llx cr2 %#llx cr3 %#llx cr4 %#llx efer %#llx gs %#llx",
		 v->index, mp.mp_state == KVM_MP_STATE_HALTED ? " halted" : "", r.rip, r.rflags, r.rsp, r.rbp,
		 r.rax, r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14,
		 r.r15, s.cs.selector, s.ss.selector, s.cr0, s.cr2, s.cr3, s.cr4, s.efer, s.gs.base);
}

static void vcpu_handle_event(struct vcpu *v)
{
	switch (v->run->system_event.type) {
	case KVM_SYSTEM_EVENT_SHUTDOWN:
		vcpu_end(v, VCPU_END_POWER_OFF, "shutdown event", 0);
		break;
	case KVM_SYSTEM_EVENT_RESET:
		vcpu_end(v, VCPU_END_RESET, "reset event", 0);
		break;
	default:
		vcpu_end(v, VCPU_END_CRASH, "crash event", v->run->system_event.type);
		break;
	}
}

/* Returns false when the VM has ended. */
static bool vcpu_handle_exit(struct vcpu *v)
{
	switch (v->run->exit_reason) {
	case KVM_EXIT_IO:
		vcpu_handle_pio(v);
		return true;
	case KVM_EXIT_MMIO:
		vcpu_handle_mmio(v);
		return true;
	case KVM_EXIT_INTR:
	case KVM_EXIT_IRQ_WINDOW_OPEN:
	case KVM_EXIT_HLT:
		return true;
	case KVM_EXIT_SHUTDOWN:
		vcpu_end(v, VCPU_END_CRASH, "triple fault", 0);
		return false;
	case KVM_EXIT_SYSTEM_EVENT:
		vcpu_handle_event(v);
		return false;
	case KVM_EXIT_FAIL_ENTRY:
		vcpu_end(v, VCPU_END_CRASH, "guest entry failed",
			 v->run->fail_entry.hardware_entry_failure_reason);
		return false;
	case KVM_EXIT_INTERNAL_ERROR:
		vcpu_end(v, VCPU_END_CRASH, "KVM internal error", v->run->internal.suberror);
		return false;
	default:
		vcpu_end(v, VCPU_END_ERROR, "unknown exit", v->run->exit_reason);
		return false;
	}
}

/* Park while paused. Returns false when the thread shall leave. */
static bool vcpu_attend(struct vcpu *v)
{
	struct vcpu_set *set = v->set;
	bool parked_once = false, go_on;

	hold_rest(set->config.hold);
	pthread_mutex_lock(&set->mutex);
	if (set->pauses && !set->stopping) {
		parked_once = true;
		set->parked++;
		pthread_cond_broadcast(&set->out);
		while (set->pauses && !set->stopping)
			pthread_cond_wait(&set->go_on, &set->mutex);
		set->parked--;
	}
	go_on = !set->stopping;
	pthread_mutex_unlock(&set->mutex);
	hold_wake(set->config.hold);
	/* KVM may write the guest's memory in any call on a vCPU. */
	if (parked_once && go_on && ioctl(v->fd, KVM_KVMCLOCK_CTRL, 0) < 0) {
		/* EINVAL: this guest does not use kvmclock (yet), so there is no watchdog to quiet this way. */
	}
	return go_on;
}

static void vcpu_loop(struct vcpu *v)
{
	for (;;) {
		__atomic_store_n(&v->run->immediate_exit, 0, __ATOMIC_RELAXED);
		atomic_signal_fence(memory_order_seq_cst);
		if (atomic_load_explicit(&v->set->attention, memory_order_acquire) && !vcpu_attend(v))
			return;
		hold_attend(v->set->config.hold);
		if (ioctl(v->fd, KVM_RUN, 0) < 0) {
			if (errno == EINTR) {
				count(&v->exits_interrupted);
				continue;
			}
			if (errno == EAGAIN)
				continue;
			vcpu_end(v, VCPU_END_ERROR, strerror(errno), (uint64_t)errno);
			return;
		}
		count(&v->exits);
		if (!vcpu_handle_exit(v))
			return;
	}
}

static void *vcpu_main(void *arg)
{
	struct vcpu *v = arg;
	struct vcpu_set *set = v->set;
	char name[16];
	sigset_t mask;

	snprintf(name, sizeof(name), "vcpu%u", v->index);
	pthread_setname_np(pthread_self(), name);
	this_run = v->run;
	signals_fill_but_faults(&mask);
	sigdelset(&mask, KICK_SIGNAL);
	pthread_sigmask(SIG_SETMASK, &mask, NULL);
	if (set->confine)
		set->confine(THREAD_VCPU);
	hold_join(set->config.hold);
	vcpu_loop(v);
	hold_leave(set->config.hold);
	pthread_mutex_lock(&set->mutex);
	set->running--;
	pthread_cond_broadcast(&set->out);
	pthread_mutex_unlock(&set->mutex);
	this_run = NULL;
	return NULL;
}

static int vcpu_create(struct vcpu *v, const struct vcpu_supported *supported, const struct boot_state *boot,
		       struct errmsg *err)
{
	const struct vcpu_set_config *config = &v->set->config;
	void *run;
	int r;

	v->fd = ioctl(config->kvm->vm_fd, KVM_CREATE_VCPU, (unsigned long)v->index);
	if (v->fd < 0)
		return errmsg_set(err, -errno, "--cpus: KVM cannot create vCPU %u: %s", v->index,
				  strerror(errno));
	run = mmap(NULL, config->kvm->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, 0);
	if (run == MAP_FAILED)
		return errmsg_set(err, -errno, "vCPU %u: cannot map kvm_run: %s", v->index, strerror(errno));
	v->run = run;
	r = vcpu_set_cpuid(supported, v->fd, v->index, config->count, err);
	if (r < 0)
		return r;
	return vcpu_set_boot_registers(v->fd, v->index, boot, err);
}

int vcpu_set_new(const struct vcpu_set_config *config, const struct boot_state *boot, struct errmsg *err,
		 struct vcpu_set **ret)
{
	cleanup(vcpu_set_free_p) struct vcpu_set *set = NULL;
	unsigned max = kvm_vcpus_max(config->kvm);
	int r;

	if (config->count == 0 || config->count > max)
		return errmsg_set(err, -ENOTSUP, "--cpus %u: this host's KVM takes 1 to %u", config->count,
				  max);
	set = calloc(1, sizeof(*set) + config->count * sizeof(set->vcpus[0]));
	if (!set)
		return -ENOMEM;
	set->config = *config;
	pthread_mutex_init(&set->mutex, NULL);
	pthread_cond_init(&set->out, NULL);
	pthread_cond_init(&set->go_on, NULL);
	for (unsigned i = 0; i < config->count; i++) {
		set->vcpus[i].set = set;
		set->vcpus[i].index = i;
		set->vcpus[i].fd = -1;
	}
	r = vcpu_set_make(set, boot, err);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(set);
	return 0;
}

int vcpu_set_make(struct vcpu_set *set, const struct boot_state *boot, struct errmsg *err)
{
	struct vcpu_supported supported;
	int r = vcpu_supported_read(set->config.kvm->system_fd, err, &supported);

	if (r < 0)
		return r;
	for (unsigned i = 0; r == 0 && i < set->config.count; i++)
		r = vcpu_create(&set->vcpus[i], &supported, boot, err);
	vcpu_supported_done(&supported);
	return r;
}

void vcpu_set_drop(struct vcpu_set *set)
{
	for (unsigned i = 0; i < set->config.count; i++) {
		struct vcpu *v = &set->vcpus[i];

		if (v->run)
			munmap(v->run, set->config.kvm->run_bytes);
		v->run = NULL;
		close_fd_p(&v->fd);
		v->fd = -1;
	}
}

void vcpu_set_free(struct vcpu_set *set)
{
	if (!set)
		return;
	vcpu_set_stop(set);
	vcpu_set_drop(set);
	pthread_cond_destroy(&set->out);
	pthread_cond_destroy(&set->go_on);
	pthread_mutex_destroy(&set->mutex);
	free(set);
}

void vcpu_set_confine(struct vcpu_set *set, thread_confine_fn confine)
{
	set->confine = confine;
}

int vcpu_set_start(struct vcpu_set *set)
{
	struct sigaction action = {.sa_handler = kick_handler};
	pthread_attr_t attr;
	sigset_t all, old;
	int r = 0;

	sigemptyset(&action.sa_mask);
	if (sigaction(KICK_SIGNAL, &action, NULL) < 0)
		return -errno;
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	/* A new thread starts with everything blocked, so that no kick reaches it before this_run is set. */
	signals_fill_but_faults(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	/* Under the mutex: a vCPU that runs already may kick the others. */
	pthread_mutex_lock(&set->mutex);
	set->stopping = false;
	atomic_store_explicit(&set->attention, set->pauses > 0, memory_order_release);
	for (unsigned i = 0; i < set->config.count && r == 0; i++) {
		struct vcpu *v = &set->vcpus[i];

		r = -pthread_create(&v->thread, &attr, vcpu_main, v);
		v->started = r == 0;
		if (r == 0)
			set->running++;
	}
	pthread_mutex_unlock(&set->mutex);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
	if (r < 0)
		vcpu_set_stop(set);
	return r;
}

/* Called under the mutex. */
static void signal_all(struct vcpu_set *set)
{
	for (unsigned i = 0; i < set->config.count; i++)
		if (set->vcpus[i].started)
			pthread_kill(set->vcpus[i].thread, KICK_SIGNAL);
}

/* Called under the mutex. */
static void kick_all(struct vcpu_set *set)
{
	atomic_store_explicit(&set->attention, true, memory_order_release);
	signal_all(set);
}

void vcpu_set_kick(struct vcpu_set *set)
{
	pthread_mutex_lock(&set->mutex);
	signal_all(set);
	pthread_mutex_unlock(&set->mutex);
}

void vcpu_set_leave(struct vcpu_set *set)
{
	pthread_mutex_lock(&set->mutex);
	set->stopping = true;
	kick_all(set);
	pthread_cond_broadcast(&set->go_on);
	pthread_mutex_unlock(&set->mutex);
}

void vcpu_set_stop(struct vcpu_set *set)
{
	vcpu_set_leave(set);
	for (unsigned i = 0; i < set->config.count; i++) {
		struct vcpu *v = &set->vcpus[i];
		bool started;

		/* Nobody may signal a thread that is joined already. */
		pthread_mutex_lock(&set->mutex);
		started = v->started;
		v->started = false;
		pthread_mutex_unlock(&set->mutex);
		if (started)
			pthread_join(v->thread, NULL);
	}
}

void vcpu_set_pause(struct vcpu_set *set)
{
	pthread_mutex_lock(&set->mutex);
	set->pauses++;
	kick_all(set);
	while (set->parked < set->running)
		pthread_cond_wait(&set->out, &set->mutex);
	pthread_mutex_unlock(&set->mutex);
}

void vcpu_set_resume(struct vcpu_set *set)
{
	pthread_mutex_lock(&set->mutex);
	if (--set->pauses == 0) {
		if (!set->stopping)
			atomic_store_explicit(&set->attention, false, memory_order_release);
		pthread_cond_broadcast(&set->go_on);
	}
	pthread_mutex_unlock(&set->mutex);
}

void vcpu_set_counters(const struct vcpu_set *set, unsigned index, struct vcpu_counters *ret)
{
	const struct vcpu *v = &set->vcpus[index];

	*ret = (struct vcpu_counters){
		.exits = atomic_load_explicit(&v->exits, memory_order_relaxed),
		.exits_pio = atomic_load_explicit(&v->exits_pio, memory_order_relaxed),
		.exits_mmio = atomic_load_explicit(&v->exits_mmio, memory_order_relaxed),
		.exits_interrupted = atomic_load_explicit(&v->exits_interrupted, memory_order_relaxed),
		.unclaimed = atomic_load_explicit(&v->unclaimed, memory_order_relaxed),
	};
}

DEFINE_SYSCALLS(vcpu_syscalls, SYSCALL_IF(ioctl, 1, KVM_RUN), SYSCALL_IF(ioctl, 1, KVM_KVMCLOCK_CTRL),
		/* what is logged of a crash */
		SYSCALL_IF(ioctl, 1, KVM_GET_REGS), SYSCALL_IF(ioctl, 1, KVM_GET_SREGS),
		/* a thread's own start */
		SYSCALL_IF(prctl, 0, PR_SET_NAME));
