/* SPDX-License-Identifier: Apache-2.0 */
/* What the boot structures say: memory map, initrd, command line; and time. */
#include "probe.h"

struct machine machine;

/* Xen's hvm_start_info, version 1, its module and memory map entries. */
struct start_info {
	uint32_t magic, version, flags, modules;
	uint64_t modlist, cmdline, rsdp, memmap;
	uint32_t memmap_entries, reserved;
};
#define START_INFO_MAGIC 0x336ec578

struct module {
	uint64_t address, bytes, cmdline, reserved;
};

struct memmap_entry {
	uint64_t address, bytes;
	uint32_t type, reserved;
};
#define MEMMAP_RAM 1

/* struct boot_params of the Linux boot protocol: the fields used. */
#define PARAMS_RSDP	    0x070
#define PARAMS_E820_COUNT   0x1e8
#define PARAMS_INITRD	    0x218
#define PARAMS_INITRD_BYTES 0x21c
#define PARAMS_CMDLINE	    0x228
#define PARAMS_E820	    0x2d0
#define E820_BYTES	    20

static uint64_t read_bytes(uint64_t address, size_t bytes)
{
	uint64_t v = 0;

	memcpy(&v, at(address), bytes);
	return v;
}

static void add_ram(uint64_t address, uint64_t bytes)
{
	if (machine.ram_count < RANGES_MAX)
		machine.ram[machine.ram_count++] = (struct range){address, address + bytes};
}

static void find_pvh(uint64_t info)
{
	const struct start_info *s = at(info);

	if (s->magic != START_INFO_MAGIC)
		return;
	machine.cmdline = s->cmdline ? at(s->cmdline) : "";
	machine.rsdp = s->rsdp;
	if (s->modules) {
		const struct module *m = at(s->modlist);

		machine.initrd = (struct range){m->address, m->address + m->bytes};
	}
	for (uint32_t i = 0; s->version >= 1 && i < s->memmap_entries; i++) {
		const struct memmap_entry *e = at(s->memmap + i * sizeof(*e));

		if (e->type == MEMMAP_RAM)
			add_ram(e->address, e->bytes);
	}
}

static void find_linux(uint64_t params)
{
	uint64_t count = read_bytes(params + PARAMS_E820_COUNT, 1);

	machine.cmdline = at(read_bytes(params + PARAMS_CMDLINE, 4));
	machine.rsdp = read_bytes(params + PARAMS_RSDP, 8);
	machine.initrd.from = read_bytes(params + PARAMS_INITRD, 4);
	machine.initrd.to = machine.initrd.from + read_bytes(params + PARAMS_INITRD_BYTES, 4);
	for (uint64_t i = 0; i < count; i++) {
		uint64_t e = params + PARAMS_E820 + i * E820_BYTES;

		if (read_bytes(e + 16, 4) == MEMMAP_RAM)
			add_ram(read_bytes(e, 8), read_bytes(e + 8, 8));
	}
}

/* The LAPIC timer of KVM and QEMU counts nanoseconds (a 1 GHz bus). Masked, it counts all the same. */
#define LAPIC_LVT_TIMER	    0x320
#define LAPIC_TIMER_INITIAL 0x380
#define LAPIC_TIMER_CURRENT 0x390
#define LAPIC_TIMER_DIVIDE  0x3e0
#define LVT_MASKED	    0x10000
#define DIVIDE_BY_1	    0xb
#define CALIBRATE_NS	    5000000u

static void find_tsc_frequency(void)
{
	uint64_t start, end, give_up;
	uint32_t ns = 0;

	mmio_write32(LAPIC_BASE + LAPIC_LVT_TIMER, LVT_MASKED);
	mmio_write32(LAPIC_BASE + LAPIC_TIMER_DIVIDE, DIVIDE_BY_1);
	mmio_write32(LAPIC_BASE + LAPIC_TIMER_INITIAL, 0xffffffff);
	start = tsc();
	give_up = start + 1000000000ull;
	do {
		ns = 0xffffffff - mmio_read32(LAPIC_BASE + LAPIC_TIMER_CURRENT);
		end = tsc();
	} while (ns < CALIBRATE_NS && end < give_up);
	mmio_write32(LAPIC_BASE + LAPIC_TIMER_INITIAL, 0);
	/* 2 GHz is a guess that only stretches or shrinks time-outs. */
	machine.tsc_khz = ns >= CALIBRATE_NS ? (end - start) * 1000000 / ns : 2000000;
}

uint64_t us_to_cycles(uint64_t us)
{
	return us * machine.tsc_khz / 1000;
}

void delay_us(uint64_t us)
{
	uint64_t end = tsc() + us_to_cycles(us);

	while (tsc() < end)
		relax();
}

void machine_find(unsigned boot, uint64_t info)
{
	machine.boot = boot;
	machine.cmdline = "";
	if (boot == BOOT_PVH)
		find_pvh(info);
	else
		find_linux(info);
	find_tsc_frequency();
	acpi_find();
}

/* Take [from, to) out of a list of ranges. */
static unsigned cut(struct range *r, unsigned count, unsigned max, uint64_t from, uint64_t to)
{
	for (unsigned i = 0; i < count; i++) {
		struct range old = r[i];

		if (to <= old.from || from >= old.to)
			continue;
		r[i].to = from > old.from ? from : old.from;
		if (to < old.to && count < max)
			r[count++] = (struct range){to, old.to};
	}
	return count;
}

unsigned machine_usable(struct range *ret, unsigned max)
{
	unsigned count = 0, kept = 0;

	for (unsigned i = 0; i < machine.ram_count && count < max; i++) {
		struct range r = machine.ram[i];

		r.from = (r.from + PAGE - 1) & ~(PAGE - 1);
		r.to &= ~(PAGE - 1);
		if (r.to > MAPPED_GIB * GIB)
			r.to = MAPPED_GIB * GIB;
		if (r.from < r.to)
			ret[count++] = r;
	}
	count = cut(ret, count, max, 0, MIB);
	count = cut(ret, count, max, (uint64_t)image_start, ((uint64_t)image_end + PAGE - 1) & ~(PAGE - 1));
	if (machine.initrd.from < machine.initrd.to)
		count = cut(ret, count, max, machine.initrd.from & ~(PAGE - 1),
			    (machine.initrd.to + PAGE - 1) & ~(PAGE - 1));
	for (unsigned i = 0; i < count; i++) {
		if (ret[i].from < ret[i].to)
			ret[kept++] = ret[i];
	}
	return kept;
}

bool machine_is_usable(uint64_t from, uint64_t to)
{
	struct range r[RANGES_MAX];
	unsigned count = machine_usable(r, RANGES_MAX);

	for (unsigned i = 0; i < count; i++) {
		if (from >= r[i].from && from <= to && to <= r[i].to)
			return true;
	}
	return false;
}

uint64_t mmio_read(uint64_t address, unsigned width)
{
	uint64_t v = 0;

	switch (width) {
	case 1:
		__asm__ volatile("movzbl (%1), %k0" : "=r"(v) : "r"(address) : "memory");
		break;
	case 2:
		__asm__ volatile("movzwl (%1), %k0" : "=r"(v) : "r"(address) : "memory");
		break;
	case 4:
		v = mmio_read32(address);
		break;
	case 8:
		__asm__ volatile("movq (%1), %0" : "=r"(v) : "r"(address) : "memory");
		break;
	default:
		break;
	}
	return v;
}

void mmio_write(uint64_t address, unsigned width, uint64_t v)
{
	switch (width) {
	case 1:
		__asm__ volatile("movb %b0, (%1)" : : "r"(v), "r"(address) : "memory");
		break;
	case 2:
		__asm__ volatile("movw %w0, (%1)" : : "r"(v), "r"(address) : "memory");
		break;
	case 4:
		mmio_write32(address, (uint32_t)v);
		break;
	case 8:
		__asm__ volatile("movq %0, (%1)" : : "r"(v), "r"(address) : "memory");
		break;
	default:
		break;
	}
}
