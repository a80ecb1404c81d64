/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The CPUID table of a vCPU.
 *
 * KVM's supported set describes features well and topology not at all: depending on the kernel's version it
 * holds zeros or the host's own APIC ids and cache sharing. All of that is replaced here by one package of
 * single-threaded cores that share the last-level cache. Performance counters are switched off everywhere
 * they are announced.
 *
 * Sources: Intel SDM 2A, CPUID; AMD APM 3, appendix E; Linux Documentation/virt/kvm/x86/cpuid.rst.
 */
#include "vmm/vcpu-cpuid.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>

#define LEAF_VENDOR	   0x0
#define LEAF_FEATURES	   0x1
#define LEAF_CACHE	   0x4
#define LEAF_EXT_FEATURES  0x7
#define LEAF_PMU	   0xa
#define LEAF_TOPOLOGY	   0xb
#define LEAF_LBR	   0x1c
#define LEAF_TOPOLOGY_V2   0x1f
#define LEAF_PMU_EXT	   0x23
#define LEAF_AMD_FEATURES  0x80000001
#define LEAF_AMD_SIZES	   0x80000008
#define LEAF_AMD_CACHE	   0x8000001d
#define LEAF_AMD_TOPOLOGY  0x8000001e
#define LEAF_AMD_PMU	   0x80000022
#define LEAF_AMD_TOPOLOGY2 0x80000026

/* Leaf 1. */
#define ECX_PDCM	 (1u << 15)
#define ECX_TSC_DEADLINE (1u << 24)
#define ECX_HYPERVISOR	 (1u << 31)
#define EDX_DEBUG_STORE	 (1u << 21)
#define EDX_HTT		 (1u << 28)
/* Leaf 7: subleaf 0 EDX, subleaf 1 EAX. */
#define EDX_ARCH_LBR (1u << 19)
#define EAX_PMU_EXT  (1u << 8)
/* Leaf 0x80000001 ECX. */
#define ECX_CMP_LEGACY	  (1u << 1)
#define ECX_PERF_CTR_CORE (1u << 23)
#define ECX_PERF_CTR_NB	  (1u << 24)
#define ECX_PERF_CTR_LLC  (1u << 28)

/* Leaves 0xb and 0x1f, ECX: the level's type. */
#define LEVEL_SMT  (1u << 8)
#define LEVEL_CORE (2u << 8)

/* Leaves 4 and 0x8000001d, EAX. */
#define CACHE_TYPE(eax)	    ((eax)&0x1f)
#define CACHE_LEVEL(eax)    (((eax) >> 5) & 7)
#define CACHE_SHARING_SHIFT 14
#define CACHE_SHARING_MASK  (0xfffu << CACHE_SHARING_SHIFT)
#define CACHE_CORES_SHIFT   26
#define CACHE_CORES_MASK    (0x3fu << CACHE_CORES_SHIFT)
#define CACHE_LEVEL_LAST    3

struct topology {
	unsigned index, count;
	unsigned shift; /* bits of the APIC id that number the cores */
	unsigned ids;	/* 1 << shift: ids set aside for the package */
	bool amd;	/* or Hygon: the leaves at 0x8000.... have AMD's meaning */
	bool tsc_deadline;
};

static const struct kvm_cpuid_entry2 *find(const struct kvm_cpuid2 *cpuid, uint32_t function)
{
	for (uint32_t i = 0; i < cpuid->nent; i++)
		if (cpuid->entries[i].function == function)
			return &cpuid->entries[i];
	return NULL;
}

static bool is_amd(const struct kvm_cpuid_entry2 *vendor)
{
	char name[12];

	memcpy(name, &vendor->ebx, 4);
	memcpy(name + 4, &vendor->edx, 4);
	memcpy(name + 8, &vendor->ecx, 4);
	return memcmp(name, "AuthenticAMD", 12) == 0 || memcmp(name, "HygonGenuine", 12) == 0;
}

/* Leaves that are rebuilt below, or that would tell of the host's topology. */
static bool is_dropped(uint32_t function)
{
	return function == LEAF_TOPOLOGY || function == LEAF_TOPOLOGY_V2 || function == LEAF_AMD_TOPOLOGY2;
}

static void set_features(struct kvm_cpuid_entry2 *e, const struct topology *t)
{
	/* EBX: CLFLUSH size and brand stay; ids for the package, initial APIC id. */
	e->ebx = (e->ebx & 0xffff) | t->ids << 16 | t->index << 24;
	e->ecx &= ~(ECX_PDCM | ECX_TSC_DEADLINE);
	e->ecx |= ECX_HYPERVISOR | (t->tsc_deadline ? ECX_TSC_DEADLINE : 0);
	e->edx &= ~(EDX_DEBUG_STORE | EDX_HTT);
	e->edx |= t->count > 1 ? EDX_HTT : 0;
}

static void set_cache(struct kvm_cpuid_entry2 *e, const struct topology *t)
{
	bool last = CACHE_LEVEL(e->eax) >= CACHE_LEVEL_LAST;

	if (CACHE_TYPE(e->eax) == 0)
		return;
	e->eax &= ~CACHE_SHARING_MASK;
	if (e->function == LEAF_AMD_CACHE) {
		e->eax |= last ? (t->count - 1) << CACHE_SHARING_SHIFT : 0;
		return;
	}
	e->eax &= ~CACHE_CORES_MASK;
	e->eax |= (last ? (t->ids - 1) << CACHE_SHARING_SHIFT : 0) | (t->ids - 1) << CACHE_CORES_SHIFT;
}

static void clear(struct kvm_cpuid_entry2 *e)
{
	e->eax = e->ebx = e->ecx = e->edx = 0;
}

static void adjust_entry(struct kvm_cpuid_entry2 *e, const struct topology *t)
{
	switch (e->function) {
	case LEAF_FEATURES:
		set_features(e, t);
		break;
	case LEAF_CACHE:
	case LEAF_AMD_CACHE:
		set_cache(e, t);
		break;
	case LEAF_EXT_FEATURES:
		if (e->index == 0)
			e->edx &= ~EDX_ARCH_LBR;
		else if (e->index == 1)
			e->eax &= ~EAX_PMU_EXT;
		break;
	case LEAF_PMU:
	case LEAF_LBR:
	case LEAF_PMU_EXT:
	case LEAF_AMD_PMU:
		clear(e);
		break;
	case LEAF_AMD_FEATURES:
		e->ecx &= ~(ECX_PERF_CTR_CORE | ECX_PERF_CTR_NB | ECX_PERF_CTR_LLC | ECX_CMP_LEGACY);
		e->ecx |= t->amd && t->count > 1 ? ECX_CMP_LEGACY : 0;
		break;
	case LEAF_AMD_SIZES:
		/* ECX: number of cores - 1, and the bits of the APIC id that number them. */
		if (t->amd)
			e->ecx = (e->ecx & ~0xf0ffu) | (t->count - 1) | t->shift << 12;
		break;
	case LEAF_AMD_TOPOLOGY:
		e->eax = t->index; /* extended APIC id */
		e->ebx = t->index; /* core id; one thread per core */
		e->ecx = 0;	   /* node 0 of one */
		break;
	default:
		break;
	}
}

/* Leaf 0xb or 0x1f: one thread per core, then the cores of the package, then the end. */
static void add_topology(struct kvm_cpuid2 *cpuid, uint32_t function, const struct topology *t)
{
	const struct kvm_cpuid_entry2 levels[] = {
		{.index = 0, .eax = 0, .ebx = 1, .ecx = LEVEL_SMT},
		{.index = 1, .eax = t->shift, .ebx = t->count, .ecx = 1 | LEVEL_CORE},
		{.index = 2, .ecx = 2},
	};

	for (size_t i = 0; i < ARRAY_SIZE(levels); i++) {
		struct kvm_cpuid_entry2 *e = &cpuid->entries[cpuid->nent++];

		*e = levels[i];
		e->function = function;
		e->flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
		e->edx = t->index; /* x2APIC id */
	}
}

int vcpu_cpuid_adjust(struct kvm_cpuid2 *cpuid, size_t capacity, unsigned index, unsigned count,
		      bool tsc_deadline)
{
	const struct kvm_cpuid_entry2 *vendor = find(cpuid, LEAF_VENDOR);
	struct topology t = {.index = index, .count = count, .tsc_deadline = tsc_deadline};
	uint32_t max_leaf = vendor ? vendor->eax : 0;
	uint32_t n = 0;

	if (capacity < cpuid->nent || capacity - cpuid->nent < VCPU_CPUID_EXTRA)
		return -ENOSPC;
	while (1u << t.shift < count)
		t.shift++;
	t.ids = 1u << t.shift;
	t.amd = vendor && is_amd(vendor);
	for (uint32_t i = 0; i < cpuid->nent; i++) {
		struct kvm_cpuid_entry2 e = cpuid->entries[i];

		if (is_dropped(e.function))
			continue;
		adjust_entry(&e, &t);
		cpuid->entries[n++] = e;
	}
	cpuid->nent = n;
	if (max_leaf >= LEAF_TOPOLOGY)
		add_topology(cpuid, LEAF_TOPOLOGY, &t);
	if (max_leaf >= LEAF_TOPOLOGY_V2)
		add_topology(cpuid, LEAF_TOPOLOGY_V2, &t);
	return 0;
}
