/* SPDX-License-Identifier: Apache-2.0 */
/* The processor itself says that each entry works: a few instructions run where the kernel would start and
 * report what they find. Needs /dev/kvm; skips with 77 without. */
#include "vmm/vcpu-state.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "base/bytes.h"
#include "base/fs.h"
#include "base/size.h"
#include "tests/unit/test.h"
#include "vmm/kvm.h"
#include "vmm/layout.h"

#define LOAD	    (16 * MIB)
#define PORT_REPORT 0x10
#define PORT_DONE   0x11
#define REPORTS_MAX 16
#define MARK	    0x5a4dd14eu
#define EXITS_MAX   100

/* A kernel of one page with some code at its start. */
struct code {
	uint8_t bytes[PAGE_BYTES];
	size_t len;
};

static void emit(struct code *c, const void *p, size_t len)
{
	assert_true(len <= sizeof(c->bytes) - c->len);
	memcpy(c->bytes + c->len, p, len);
	c->len += len;
}
#define EMIT(c, ...)                                                                                         \
	do {                                                                                                 \
		static const uint8_t b_[] = {__VA_ARGS__};                                                   \
		emit(c, b_, sizeof(b_));                                                                     \
	} while (0)

/* out PORT_REPORT, eax */
static void report(struct code *c)
{
	EMIT(c, 0xe7, PORT_REPORT);
}

static void done(struct code *c)
{
	EMIT(c, 0xe7, PORT_DONE, 0xf4);
}

struct machine {
	struct kvm kvm;
	struct guest_memory *mem;
	struct boot_state boot;
	struct kvm_run *run;
	int vcpus[2];
	uint32_t reports[REPORTS_MAX];
	size_t report_count;
};

static int setup(void **state)
{
	struct machine *m = calloc(1, sizeof(*m));

	assert_non_null(m);
	m->vcpus[0] = m->vcpus[1] = -1;
	*state = m;
	return 0;
}

static int teardown(void **state)
{
	struct machine *m = *state;

	if (m->run)
		munmap(m->run, m->kvm.run_bytes);
	close_fd_p(&m->vcpus[0]);
	close_fd_p(&m->vcpus[1]);
	kvm_close(&m->kvm);
	guest_memory_free(m->mem);
	free(m);
	return 0;
}

#define OK(call, err)                                                                                        \
	do {                                                                                                 \
		if ((call) < 0)                                                                              \
			fail_msg("%s: %s", #call, (err)->text);                                              \
	} while (0)

static void start(struct machine *m, enum boot_entry kind, uint64_t ram, const struct code *c)
{
	struct boot_image image = {.fd = memfd_create("code", MFD_CLOEXEC),
				   .bytes = PAGE_BYTES,
				   .load = GPA(LOAD),
				   .mem_bytes = MIB,
				   .entry = GPA(LOAD),
				   .kind = kind};
	struct boot_blob none = BOOT_BLOB_EMPTY;
	struct vcpu_supported supported;
	struct errmsg err = {0};
	void *run;

	assert_int_equal(pwrite_full(image.fd, c->bytes, PAGE_BYTES, 0), 0);
	assert_int_equal(guest_memory_new(ram, false, &m->mem), 0);
	OK(boot_setup(m->mem, &image, &none, "x", GPA(LAYOUT_ACPI), &err, &m->boot), &err);
	boot_image_done(&image);
	OK(kvm_open(&m->kvm, &err), &err);
	OK(kvm_set_memory(&m->kvm, m->mem, &err), &err);
	OK(kvm_create_irqchip(&m->kvm, &err), &err);
	OK(vcpu_supported_read(m->kvm.system_fd, &err, &supported), &err);
	for (unsigned i = 0; i < 2; i++) {
		m->vcpus[i] = ioctl(m->kvm.vm_fd, KVM_CREATE_VCPU, (unsigned long)i);
		assert_true(m->vcpus[i] >= 0);
		OK(vcpu_set_cpuid(&supported, m->vcpus[i], i, 2, &err), &err);
		OK(vcpu_set_boot_registers(m->vcpus[i], i, &m->boot, &err), &err);
	}
	vcpu_supported_done(&supported);
	run = mmap(NULL, m->kvm.run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, m->vcpus[0], 0);
	assert_true(run != MAP_FAILED);
	m->run = run;
}

static void run(struct machine *m)
{
	for (unsigned i = 0; i < EXITS_MAX; i++) {
		const uint8_t *data;

		if (ioctl(m->vcpus[0], KVM_RUN, 0) < 0) {
			if (errno == EINTR || errno == EAGAIN)
				continue;
			fail_msg("KVM_RUN: %s", strerror(errno));
		}
		if (m->run->exit_reason != KVM_EXIT_IO)
			fail_msg("exit reason %u after %zu reports", m->run->exit_reason, m->report_count);
		assert_int_equal(m->run->io.size, 4);
		data = (const uint8_t *)m->run + m->run->io.data_offset;
		if (m->run->io.port == PORT_DONE)
			return;
		assert_int_equal(m->run->io.port, PORT_REPORT);
		assert_true(m->report_count < REPORTS_MAX);
		m->reports[m->report_count++] = load_le32(data);
	}
	fail_msg("the guest does not end");
}

TEST(pvh)
{
	struct machine *m = *state;
	struct code c = {.len = 0};

	EMIT(&c, 0x89, 0xd8); /* mov eax, ebx */
	report(&c);
	EMIT(&c, 0x8b, 0x03); /* mov eax, [ebx] */
	report(&c);
	EMIT(&c, 0x0f, 0x20, 0xc0); /* mov eax, cr0 */
	report(&c);
	EMIT(&c, 0x0f, 0x20, 0xe0); /* mov eax, cr4 */
	report(&c);
	EMIT(&c, 0x8c, 0xc8); /* mov eax, cs */
	report(&c);
	done(&c);
	start(m, BOOT_ENTRY_PVH, 64 * MIB, &c);
	run(m);
	assert_int_equal(m->report_count, 5);
	assert_int_equal(m->reports[0], LAYOUT_PVH_INFO);
	assert_int_equal(m->reports[1], 0x336ec578);
	assert_int_equal(m->reports[2], 0x11);
	assert_int_equal(m->reports[3], 0);
	assert_int_equal(m->reports[4], 0x10);
}

/* Long mode, the stack, the last word of low RAM, CPUID as the guest sees it. */
TEST(elf64)
{
	struct machine *m = *state;
	const uint64_t ram = 3 * GIB + 64 * MIB;
	uint64_t last = 3 * GIB - 8;
	uint8_t mark[4];
	struct code c = {.len = 0};

	EMIT(&c, 0x89, 0xf0); /* mov eax, esi */
	report(&c);
	EMIT(&c, 0x8b, 0x86, 0x02, 0x02, 0, 0); /* mov eax, [rsi + 0x202] */
	report(&c);
	EMIT(&c, 0x48, 0xb8); /* movabs rax, last */
	emit(&c, &last, 8);
	EMIT(&c, 0x8b, 0x00); /* mov eax, [rax] */
	report(&c);
	EMIT(&c, 0x6a, 0x77, 0x58); /* push 0x77; pop rax */
	report(&c);
	EMIT(&c, 0xb8, 0x18, 0, 0, 0, 0x8e, 0xd8); /* mov eax, 0x18; mov ds, eax: the GDT is there */
	EMIT(&c, 0x48, 0x89, 0xe0);		   /* mov rax, rsp */
	report(&c);
	EMIT(&c, 0x0f, 0x20, 0xc0); /* mov rax, cr0 */
	report(&c);
	EMIT(&c, 0xb8, 1, 0, 0, 0, 0x0f, 0xa2, 0x89, 0xd8); /* cpuid 1; mov eax, ebx */
	report(&c);
	EMIT(&c, 0x89, 0xc8); /* mov eax, ecx */
	report(&c);
	EMIT(&c, 0xb8, 0, 0, 0, 0x40, 0x0f, 0xa2, 0x89, 0xd8); /* cpuid 0x40000000; mov eax, ebx */
	report(&c);
	done(&c);
	start(m, BOOT_ENTRY_ELF64, ram, &c);
	store_le32(mark, MARK);
	assert_int_equal(guest_write(m->mem, GPA(last), mark, 4), 0);
	run(m);
	assert_int_equal(m->report_count, 9);
	assert_int_equal(m->reports[0], LAYOUT_BOOT_PARAMS);
	assert_int_equal(m->reports[1], 0x53726448);
	assert_int_equal(m->reports[2], MARK);
	assert_int_equal(m->reports[3], 0x77);
	assert_int_equal(m->reports[4], LAYOUT_BOOT_STACK);
	assert_int_equal(m->reports[5], 0x80000011);
	assert_int_equal(m->reports[6] >> 16, 0x0002); /* APIC id 0, 2 ids */
	assert_int_equal(m->reports[7] >> 31, 1);
	assert_int_equal(m->reports[8], 0x4b4d564b); /* "KVMK" */
}

static uint64_t get_msr(int vcpu, uint32_t index)
{
	struct {
		uint32_t nmsrs, pad; /* struct kvm_msrs */
		struct kvm_msr_entry entry;
	} r = {.nmsrs = 1, .entry = {.index = index}};

	return ioctl(vcpu, KVM_GET_MSRS, &r) == 1 ? r.entry.data : UINT64_MAX;
}

/* What no instruction of the first vCPU shows. */
TEST(registers)
{
	struct machine *m = *state;
	struct code c = {.len = 0};
	struct kvm_lapic_state lapic;
	struct kvm_mp_state mp;
	struct kvm_fpu fpu;
	struct kvm_regs regs;

	done(&c);
	start(m, BOOT_ENTRY_PVH, 64 * MIB, &c);
	assert_int_equal(ioctl(m->vcpus[0], KVM_GET_LAPIC, &lapic), 0);
	assert_int_equal(load_le32(lapic.regs + 0x350), 0x10700); /* no 8259 behind LINT0 */
	assert_int_equal(load_le32(lapic.regs + 0x360), 0x400);
	assert_int_equal(ioctl(m->vcpus[0], KVM_GET_FPU, &fpu), 0);
	assert_int_equal(fpu.fcw, 0x37f);
	assert_int_equal(ioctl(m->vcpus[0], KVM_GET_REGS, &regs), 0);
	assert_int_equal(regs.rip, LOAD);
	assert_int_equal(regs.rflags, 2);
	for (unsigned i = 0; i < 2; i++) {
		uint64_t mtrr = get_msr(m->vcpus[i], 0x2ff), misc = get_msr(m->vcpus[i], 0x1a0);

		assert_true(mtrr == 0x806 || mtrr == UINT64_MAX); /* on every vCPU alike, or unknown to KVM */
		assert_true(misc & 1);
	}
	assert_int_equal(ioctl(m->vcpus[0], KVM_GET_MP_STATE, &mp), 0);
	assert_int_equal(mp.mp_state, KVM_MP_STATE_RUNNABLE);
	assert_int_equal(ioctl(m->vcpus[1], KVM_GET_MP_STATE, &mp), 0);
	assert_int_equal(mp.mp_state, KVM_MP_STATE_UNINITIALIZED);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {T(pvh), T(elf64), T(registers)};
	struct errmsg err = {0};
	struct kvm kvm;
	int r = kvm_open(&kvm, &err);

	if (r == 0)
		r = kvm_create_irqchip(&kvm, &err);
	kvm_close(&kvm);
	if (r == -ENOTSUP) {
		printf("skip: %s\n", err.text);
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
