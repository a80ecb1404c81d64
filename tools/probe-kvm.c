/* SPDX-License-Identifier: Apache-2.0 */
/* KVM's version, its capabilities, and how fast it runs a guest's kernel code. */
#include <errno.h>
#include <linux/kvm.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/time.h>

#include "base/addr.h"
#include "base/bytes.h"
#include "base/clock.h"
#include "tools/host-probe.h"
#include "vmm/kvm.h"

/*
 * The speed is measured with a loop of two instructions in flat 32-bit protected mode, ring 0, which ends
 * with a port write. Loops grow tenfold until one takes long enough to be told from the cost of entering the
 * guest; an alarm ends one that takes longer than that.
 */
#define LOOPS_FIRST	  1000u
#define LOOPS_LAST	  100000000u
#define LOOP_INSTRUCTIONS 2
#define ENOUGH_NS	  10000000ull /* 10 ms: far above the cost of an entry, the first one aside */
#define SLOW_LOOPS	  3
#define DEADLINE_NS	  300000000ull /* of one loop */
#define CODE_GPA	  0x1000
#define DONE_PORT	  0x10

static const struct {
	int cap;
	const char *name;
} caps[] = {
	{KVM_CAP_MAX_VCPUS, "max_vcpus"},
	{KVM_CAP_NR_VCPUS, "recommended_vcpus"},
	{KVM_CAP_NR_MEMSLOTS, "memslots"},
	{KVM_CAP_IRQFD, "irqfd"},
	{KVM_CAP_IOEVENTFD, "ioeventfd"},
	{KVM_CAP_IMMEDIATE_EXIT, "immediate_exit"},
	{KVM_CAP_SYNC_MMU, "sync_mmu"},
	{KVM_CAP_ADJUST_CLOCK, "adjust_clock"},
	{KVM_CAP_TSC_DEADLINE_TIMER, "tsc_deadline_timer"},
	{KVM_CAP_KVMCLOCK_CTRL, "kvmclock_ctrl"},
	{KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, "manual_dirty_log_protect2"},
	{KVM_CAP_DIRTY_LOG_RING, "dirty_log_ring"},
};
_Static_assert(ARRAY_SIZE(caps) == PROBE_KVM_CAPS, "a slot for each capability");

static const char *const guest_kernel_names[] = {
	[GUEST_KERNEL_UNKNOWN] = "unknown",
	[GUEST_KERNEL_NATIVE] = "native",
	[GUEST_KERNEL_INTERPRETED] = "interpreted",
};
_Static_assert(ARRAY_SIZE(guest_kernel_names) == GUEST_KERNELS, "a name for each kind");

const char *guest_kernel_name(enum guest_kernel kind)
{
	return guest_kernel_names[kind];
}

enum guest_kernel guest_kernel_classify(double mips)
{
	return mips >= GUEST_KERNEL_NATIVE_MIN_MIPS ? GUEST_KERNEL_NATIVE : GUEST_KERNEL_INTERPRETED;
}

const char *probe_kvm_cap_name(size_t index)
{
	return caps[index].name;
}

struct timing_vm {
	struct kvm kvm;
	int vcpu;
	uint8_t *code;
	struct kvm_run *run;
};

static void timing_vm_done(struct timing_vm *vm)
{
	if (vm->run)
		munmap(vm->run, vm->kvm.run_bytes);
	close_fd_p(&vm->vcpu);
	if (vm->code)
		munmap(vm->code, PAGE_BYTES);
	kvm_close(&vm->kvm);
}

static int timing_vm_init(struct timing_vm *vm)
{
	struct kvm_userspace_memory_region slot = {.guest_phys_addr = CODE_GPA, .memory_size = PAGE_BYTES};
	void *p = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return -errno;
	vm->code = p;
	slot.userspace_addr = (uint64_t)(uintptr_t)p;
	if (ioctl(vm->kvm.vm_fd, KVM_SET_USER_MEMORY_REGION, &slot) < 0)
		return -errno;
	vm->vcpu = ioctl(vm->kvm.vm_fd, KVM_CREATE_VCPU, 0);
	if (vm->vcpu < 0)
		return -errno;
	p = mmap(NULL, vm->kvm.run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vm->vcpu, 0);
	if (p == MAP_FAILED)
		return -errno;
	vm->run = p;
	return 0;
}

static int set_registers(const struct timing_vm *vm)
{
	struct kvm_segment data = {
		.limit = 0xffffffff, .selector = 0x10, .type = 3, .present = 1, .db = 1, .s = 1, .g = 1};
	struct kvm_regs regs = {.rip = CODE_GPA, .rflags = 2};
	struct kvm_sregs sregs;

	if (ioctl(vm->vcpu, KVM_GET_SREGS, &sregs) < 0)
		return -errno;
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
	sregs.cs = data;
	sregs.cs.selector = 0x8;
	sregs.cs.type = 0xb;
	sregs.cr0 |= 1; /* PE */
	if (ioctl(vm->vcpu, KVM_SET_SREGS, &sregs) < 0 || ioctl(vm->vcpu, KVM_SET_REGS, &regs) < 0)
		return -errno;
	return 0;
}

/* Return: 0; -ETIME when the alarm came first; -EIO for an exit that does not belong here. */
static int run_loop(const struct timing_vm *vm, uint32_t loops, uint64_t *ret_ns)
{
	uint8_t *code = vm->code;
	uint64_t start;
	int r;

	*code++ = 0xb9; /* mov ecx, loops */
	store_le32(code, loops);
	code += 4;
	*code++ = 0x49; /* dec ecx */
	*code++ = 0x75; /* jnz -3 */
	*code++ = 0xfd;
	*code++ = 0xe6; /* out DONE_PORT, al */
	*code++ = DONE_PORT;
	*code = 0xf4; /* hlt */
	r = set_registers(vm);
	if (r < 0)
		return r;
	start = clock_now_ns();
	while (ioctl(vm->vcpu, KVM_RUN, 0) < 0) {
		if (errno != EINTR && errno != EAGAIN)
			return -errno;
		if (clock_now_ns() - start > DEADLINE_NS)
			return -ETIME;
	}
	*ret_ns = clock_now_ns() - start;
	if (vm->run->exit_reason != KVM_EXIT_IO || vm->run->io.port != DONE_PORT)
		return -EIO;
	return 0;
}

/* The best of several counts: whatever disturbs a loop, a first entry or another process, only makes it slower. */
static int measure(const struct timing_vm *vm, double *ret_mips)
{
	uint32_t loops = LOOPS_FIRST;
	double best = 0;

	for (unsigned slow = 0; slow < SLOW_LOOPS;) {
		uint64_t ns = DEADLINE_NS; /* of one that the alarm ended: at least that long */
		double mips;
		int r = run_loop(vm, loops, &ns);

		if (r < 0 && r != -ETIME)
			return r;
		mips = (double)loops * LOOP_INSTRUCTIONS * 1000 / (double)(ns ? ns : 1);
		if (mips > best)
			best = mips;
		if (ns >= ENOUGH_NS || loops >= LOOPS_LAST)
			slow++;
		else
			loops *= 10;
		if (r == -ETIME)
			break;
	}
	*ret_mips = best;
	return 0;
}

static void on_alarm(int signal_number)
{
	(void)signal_number; /* its only purpose is to end KVM_RUN with EINTR */
}

/* Repeats, so that one that comes just before KVM_RUN is not the last. */
static int measure_with_alarm(const struct timing_vm *vm, double *ret_mips)
{
	static const struct itimerval on = {.it_value.tv_usec = 100000, .it_interval.tv_usec = 100000}, off;
	struct sigaction action = {.sa_handler = on_alarm}, before;
	int r;

	sigaction(SIGALRM, &action, &before);
	setitimer(ITIMER_REAL, &on, NULL);
	r = measure(vm, ret_mips);
	setitimer(ITIMER_REAL, &off, NULL);
	sigaction(SIGALRM, &before, NULL);
	return r;
}

void probe_kvm(struct probe_kvm *ret)
{
	struct timing_vm vm = {.vcpu = -1};
	int r;

	*ret = (struct probe_kvm){0};
	r = kvm_open(&vm.kvm, &ret->why);
	if (r == 0)
		r = kvm_create_irqchip(&vm.kvm, &ret->why);
	if (r < 0)
		errmsg_set(&ret->why, r, "%s: %s", KVM_DEVICE, strerror(-r));
	ret->usable = r == 0;
	if (vm.kvm.system_fd >= 0) {
		ret->api_version = ioctl(vm.kvm.system_fd, KVM_GET_API_VERSION, 0);
		for (size_t i = 0; i < ARRAY_SIZE(caps); i++)
			ret->caps[i] = ioctl(vm.kvm.system_fd, KVM_CHECK_EXTENSION, caps[i].cap);
	}
	if (r == 0) {
		r = timing_vm_init(&vm);
		if (r == 0)
			r = measure_with_alarm(&vm, &ret->mips);
		if (r == 0)
			ret->guest_kernel = guest_kernel_classify(ret->mips);
		else
			errmsg_set(&ret->speed, r, "the timing VM did not run: %s", strerror(-r));
	}
	timing_vm_done(&vm);
}
