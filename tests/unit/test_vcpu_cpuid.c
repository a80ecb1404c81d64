/* SPDX-License-Identifier: Apache-2.0 */
/* CPUID says the same topology in every leaf, for every number of vCPUs, and nothing of the host's or of its
 * counters. */
#include "vmm/vcpu-cpuid.h"

#include <errno.h>
#include <string.h>

#include "tests/unit/test.h"

#define ENTRIES 32

static struct kvm_cpuid2 *cpuid;

static int setup(void **state)
{
	(void)state;
	cpuid = calloc(1, sizeof(*cpuid) + (ENTRIES + VCPU_CPUID_EXTRA) * sizeof(cpuid->entries[0]));
	return cpuid ? 0 : -1;
}

static int teardown(void **state)
{
	(void)state;
	free(cpuid);
	return 0;
}

static void add(uint32_t function, uint32_t index, uint32_t eax, uint32_t ebx, uint32_t ecx, uint32_t edx)
{
	cpuid->entries[cpuid->nent++] = (struct kvm_cpuid_entry2){
		.function = function, .index = index, .eax = eax, .ebx = ebx, .ecx = ecx, .edx = edx};
}

static const struct kvm_cpuid_entry2 *get(uint32_t function, uint32_t index)
{
	const struct kvm_cpuid_entry2 *found = NULL;

	for (uint32_t i = 0; i < cpuid->nent; i++) {
		const struct kvm_cpuid_entry2 *e = &cpuid->entries[i];

		if (e->function == function && e->index == index) {
			assert_null(found); /* once only */
			found = e;
		}
	}
	return found;
}

/* What a KVM on a host with many CPUs may answer: its own APIC id 77, caches shared by 16 threads, counters. */
static void host(bool amd, uint32_t max_leaf)
{
	cpuid->nent = 0;
	if (amd)
		add(0, 0, max_leaf, 0x68747541, 0x444d4163, 0x69746e65);
	else
		add(0, 0, max_leaf, 0x756e6547, 0x6c65746e, 0x49656e69);
	add(1, 0, 0xa20f12, 77u << 24 | 64u << 16 | 8 << 8 | 5, 0x0000a000 | 1, 0xffffffff);
	add(4, 0, 0x1c004121, 1, 2, 3);
	add(4, 1, 0x1c004143, 1, 2, 3);
	add(4, 2, 0x1c03c163, 1, 2, 3);
	add(4, 3, 0, 0, 0, 0);
	add(7, 0, 2, 3, 4, 0xffffffff);
	add(7, 1, 0xffffffff, 0, 0, 0);
	add(0xa, 0, 0x07300803, 1, 2, 0x603);
	add(0xb, 0, 1, 2, 0x100, 77);
	add(0xb, 1, 7, 128, 0x201, 77);
	add(0x1c, 0, 0xff, 1, 1, 1);
	add(0x1f, 0, 1, 2, 0x100, 77);
	add(0x40000000, 0, 0x40000001, 0x4b4d564b, 0x564b4d56, 0x4d);
	add(0x40000001, 0, 0x01007efb, 0, 0, 0);
	add(0x80000001, 0, 1, 2, 0xffffffff, 4);
	add(0x80000008, 0, 0x3030, 1, 0x0002703f, 0);
	add(0x8000001d, 0, 0x00004121, 1, 2, 3);
	add(0x8000001d, 1, 0x00004143, 1, 2, 3);
	add(0x8000001d, 2, 0x0003c163, 1, 2, 3);
	add(0x8000001e, 0, 77, 0x10b, 0x300, 0);
	add(0x80000022, 0, 7, 6, 5, 4);
	add(0x80000026, 0, 1, 2, 0x100, 77);
}

/* The vCPU's answers, checked against what it is. */
static void check(bool amd, unsigned index, unsigned count)
{
	unsigned shift = 0;
	const struct kvm_cpuid_entry2 *e;

	host(amd, 0x24);
	assert_int_equal(vcpu_cpuid_adjust(cpuid, ENTRIES, index, count, true), 0);
	while (1u << shift < count)
		shift++;
	e = get(1, 0);
	assert_int_equal(e->ebx, index << 24 | (1u << shift) << 16 | 8 << 8 | 5);
	assert_int_equal(e->edx >> 28 & 1, count > 1);
	for (uint32_t leaf = 0xb; leaf <= 0x1f; leaf += 0x1f - 0xb) {
		e = get(leaf, 0);
		assert_int_equal(e->eax, 0);
		assert_int_equal(e->ebx, 1);
		assert_int_equal(e->ecx, 0x100);
		assert_int_equal(e->edx, index);
		e = get(leaf, 1);
		assert_int_equal(e->eax, shift);
		assert_int_equal(e->ebx, count);
		assert_int_equal(e->ecx, 0x201);
		assert_int_equal(e->edx, index);
		assert_int_equal(e->flags, KVM_CPUID_FLAG_SIGNIFCANT_INDEX);
		e = get(leaf, 2);
		assert_int_equal(e->ecx, 2);
		assert_int_equal(e->ebx, 0);
	}
	for (unsigned i = 0; i < 3; i++) {
		bool last = i == 2;

		e = get(4, i);
		assert_int_equal(e->eax >> 26, (1u << shift) - 1);
		assert_int_equal(e->eax >> 14 & 0xfff, last ? (1u << shift) - 1 : 0);
		assert_int_equal(e->eax & 0x3fff, i == 0 ? 0x121 : i == 1 ? 0x143 : 0x163);
		assert_int_equal(e->ebx, 1);
		assert_int_equal(get(0x8000001d, i)->eax >> 14, last ? count - 1 : 0);
	}
	assert_int_equal(get(4, 3)->eax, 0);
	e = get(0x8000001e, 0);
	assert_int_equal(e->eax, index);
	assert_int_equal(e->ebx, index);
	assert_int_equal(e->ecx, 0);
	assert_int_equal(get(0x80000001, 0)->ecx >> 1 & 1, amd && count > 1);
	e = get(0x80000008, 0);
	assert_int_equal(e->ecx, amd ? 0x20000 | shift << 12 | (count - 1) : 0x0002703f);
	assert_null(get(0x80000026, 0));
}

TEST(topology)
{
	(void)state;
	for (unsigned count = 1; count <= 32; count++) {
		for (unsigned index = 0; index < count; index++) {
			check(false, index, count);
			check(true, index, count);
		}
	}
}

TEST(features)
{
	(void)state;
	host(true, 0x24);
	assert_int_equal(vcpu_cpuid_adjust(cpuid, ENTRIES, 0, 2, true), 0);
	assert_int_equal(get(1, 0)->ecx, 1u << 31 | 1u << 24 | 1 << 13 | 1); /* PDCM gone */
	assert_int_equal(get(1, 0)->edx, 0xffffffff & ~(1u << 21));
	assert_int_equal(get(7, 0)->edx, 0xffffffff & ~(1u << 19));
	assert_int_equal(get(7, 1)->eax, 0xffffffff & ~(1u << 8));
	assert_int_equal(get(0xa, 0)->eax | get(0xa, 0)->edx | get(0x1c, 0)->eax | get(0x80000022, 0)->eax,
			 0);
	assert_int_equal(get(0x80000001, 0)->ecx, 0xffffffff & ~(1u << 23 | 1u << 24 | 1u << 28));
	assert_int_equal(get(0x40000001, 0)->eax, 0x01007efb);
	assert_int_equal(get(7, 0)->ebx, 3);
	host(false, 0x24);
	cpuid->entries[1].ecx |= 1u << 24;
	assert_int_equal(vcpu_cpuid_adjust(cpuid, ENTRIES, 0, 2, false), 0);
	assert_int_equal(get(1, 0)->ecx >> 24 & 1, 0); /* only when KVM emulates it */
}

TEST(small_sets)
{
	(void)state;
	host(true, 0xa); /* a CPU without leaf 0xb does not get one */
	assert_int_equal(vcpu_cpuid_adjust(cpuid, ENTRIES, 1, 2, true), 0);
	assert_null(get(0xb, 0));
	assert_null(get(0x1f, 0));
	host(true, 0x10);
	assert_int_equal(vcpu_cpuid_adjust(cpuid, ENTRIES, 1, 2, true), 0);
	assert_non_null(get(0xb, 0));
	assert_null(get(0x1f, 0));
	cpuid->nent = 0;
	assert_int_equal(vcpu_cpuid_adjust(cpuid, ENTRIES, 1, 2, true), 0);
	assert_int_equal(cpuid->nent, 0);
	host(false, 0x24);
	assert_int_equal(vcpu_cpuid_adjust(cpuid, cpuid->nent + VCPU_CPUID_EXTRA - 1, 0, 1, true), -ENOSPC);
	assert_int_equal(vcpu_cpuid_adjust(cpuid, cpuid->nent + VCPU_CPUID_EXTRA, 0, 1, true), 0);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {T(topology), T(features), T(small_sets)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
