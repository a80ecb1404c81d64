/* SPDX-License-Identifier: Apache-2.0 */
/* The probe guest: a program without an operating system that does to memory and devices what the host asks
 * for over the serial port.
 *
 * Protocol. The host sends lines `@ID VERB KEY=VALUE...`; each is answered by one line `@ID ok KEY=VALUE...`
 * or
 * `@ID err TEXT`. Lines that do not start with '@' are ignored both ways. Lines `!fault ...` report
 * exceptions. Numbers are decimal or 0x-hexadecimal, with an optional suffix K, M or G.
 */
#ifndef PROBE_H
#define PROBE_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "image.h"

#define PAGE 4096ul
#define MIB  (1ul << 20)
#define GIB  (1ul << 30)

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

/* ---- the machine, from ring 3 (machine.c holds what is found at boot) ---- */

static inline void out8(uint16_t port, uint8_t v)
{
	__asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port));
}

static inline uint8_t in8(uint16_t port)
{
	uint8_t v;

	__asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}

static inline uint64_t tsc(void)
{
	uint32_t lo, hi;

	__asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi) : : "memory");
	return (uint64_t)hi << 32 | lo;
}

static inline void relax(void)
{
	__asm__ volatile("pause" : : : "memory");
}

static inline void full_barrier(void)
{
	__asm__ volatile("lock addl $0, -4(%%rsp)" : : : "memory", "cc");
}

/* The system call of start.S; on CPU 0 only. */
static inline void irqs_set(uint64_t rflags_if)
{
	__asm__ volatile("ud2" : : "a"(CALL_IRQS), "c"(rflags_if) : "memory");
}

static inline void irqs_on(void)
{
	irqs_set(0x200);
}

static inline void irqs_off(void)
{
	irqs_set(0);
}

static inline void *at(uint64_t address)
{
	return (void *)address;
}

/* Plain mov of the width, as the VMM's instruction decoder expects of drivers. */
static inline uint32_t mmio_read32(uint64_t address)
{
	uint32_t v;

	__asm__ volatile("movl (%1), %0" : "=r"(v) : "r"(address) : "memory");
	return v;
}

static inline void mmio_write32(uint64_t address, uint32_t v)
{
	__asm__ volatile("movl %0, (%1)" : : "r"(v), "r"(address) : "memory");
}

uint64_t mmio_read(uint64_t address, unsigned width);
void mmio_write(uint64_t address, unsigned width, uint64_t value);

struct range {
	uint64_t from, to; /* half-open */
};

#define RANGES_MAX 32
#define TABLES_MAX 16
#define VIRTIO_MAX 32

struct acpi_table {
	char signature[5];
	uint64_t address;
	uint32_t bytes;
	bool good;
};

struct machine {
	unsigned boot; /* BOOT_PVH.. */
	struct range ram[RANGES_MAX];
	unsigned ram_count;
	const char *cmdline;
	struct range initrd;
	uint64_t rsdp;	     /* as told by the boot structure */
	uint64_t rsdp_found; /* by scanning */
	const char *acpi_error;
	struct acpi_table tables[TABLES_MAX];
	unsigned table_count, tables_bad;
	bool hw_reduced, ged, button, com1;
	uint64_t sleep_control, reset_register;
	uint8_t reset_value;
	unsigned cpus;
	uint8_t apic_ids[CPUS_MAX];
	uint64_t ioapic;
	struct {
		uint64_t base;
		uint32_t gsi;
	} virtio[VIRTIO_MAX];
	unsigned virtio_count;
	uint64_t tsc_khz;
};

extern struct machine machine;
extern char image_start[], image_end[];

void machine_find(unsigned boot, uint64_t info);
/* RAM above 1 MiB that nobody uses: not the image, not the initrd. Returns the count. */
unsigned machine_usable(struct range *ret, unsigned max);
/* True when [from, to) lies in usable RAM. */
bool machine_is_usable(uint64_t from, uint64_t to);
void acpi_find(void);
/* Time, from the TSC as the LAPIC timer calibrates it. */
uint64_t us_to_cycles(uint64_t us);
void delay_us(uint64_t us);

/* ---- text ---- */

void *memcpy(void *to, const void *from, size_t n);
void *memset(void *to, int c, size_t n);
int memcmp(const void *a, const void *b, size_t n);
void *memmove(void *to, const void *from, size_t n);
size_t text_length(const char *s);
bool text_equal(const char *a, const char *b);
/* %s %c %d %u %x %lu %lx, no widths. Truncates at the end of the buffer. Returns the length written. */
size_t text_format(char *buf, size_t size, const char *fmt, va_list args);
bool text_number(const char *s, size_t length, uint64_t *ret);

/* ---- serial port ---- */

void serial_init(void);
/* The next line without its end, or NULL when none is complete yet. Valid until the next call. */
char *serial_line(void);
void serial_write(const char *s, size_t length);
void say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* ---- commands ---- */

struct command {
	const char *id, *verb;
	char *args; /* rest of the line */
};

/* Each command answers exactly once: answer() begins it (" key=value" follow by say()), fail() is the whole
 * of it. */
void answer(const struct command *c);
void fail(const struct command *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
bool arg_given(const struct command *c, const char *key);
uint64_t arg(const struct command *c, const char *key, uint64_t otherwise);
/* The text of an argument up to the next blank; false when absent. */
bool arg_text(const struct command *c, const char *key, char *buf, size_t size);

struct verb {
	const char *name;
	void (*run)(const struct command *c);
};

extern const struct verb memory_verbs[], blk_verbs[], net_verbs[], balloon_verbs[], rng_verbs[],
	vsock_verbs[], hostile_verbs[], churn_verbs[], virtio_verbs[], machine_verbs[];

/* ---- other CPUs ---- */

/*
 * Run a function on CPUs 0..n-1 at once, and wait. CPUs other than this one are started by INIT and SIPI for
 * it, and put back to sleep by INIT as they finish. Returns false when one did not start, faulted or did not
 * finish in time.
 */
bool cpus_run(unsigned n, void (*fn)(unsigned cpu, void *arg), void *arg, uint64_t timeout_us);
const char *cpus_error(void);
/* Put all other CPUs to sleep, whatever they do. */
void cpus_stop(void);

extern uint32_t irq_counts[256];
void irqs_init(void);
/* Route an IOAPIC pin to CPU 0 as an edge, and make the LAPIC accept interrupts. Returns the vector. */
unsigned irq_route(uint32_t gsi);

/* An exception on CPU 0 gives up the command that runs, and takes the next. */
_Noreturn void fault_on_first_cpu(uint64_t vector, uint64_t code, uint64_t rip, uint64_t cr2, uint64_t rsp);

/* ---- patterns ---- */

#define PATTERN_STEP 0xd1342543de82ef95ull

/* Word i of unit n (a page, a sector) under a seed is pattern_base(seed, n) + i * PATTERN_STEP. */
static inline uint64_t pattern_base(uint64_t seed, uint64_t n)
{
	uint64_t z = seed + n * 0x9e3779b97f4a7c15ull;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

void pattern_fill(void *at, size_t bytes, uint64_t base);
bool pattern_check(const void *at, size_t bytes, uint64_t base);
/* CRC-32 as zlib's; start with 0. */
uint32_t crc32(uint32_t crc, const void *data, size_t bytes);

#endif
