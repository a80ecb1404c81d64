/* SPDX-License-Identifier: Apache-2.0 */
/* Other CPUs: asleep (waiting for SIPI) unless a job runs on them; interrupts; exceptions. */
#include "probe.h"

#define LAPIC_SVR      0xf0
#define SVR_ENABLED    0x1ff
#define LAPIC_ICR_LOW  0x300
#define LAPIC_ICR_HIGH 0x310
#define ICR_BUSY       0x1000
#define ICR_INIT       0x4500
#define ICR_STARTUP    0x4600

#define START_TIMEOUT_US 5000000

enum cpu_state { CPU_ASLEEP, CPU_STARTING, CPU_RUNNING, CPU_DONE, CPU_FAULTED };

char ring3_stacks[CPUS_MAX * RING3_STACK_BYTES] __attribute__((aligned(4096)));
uint32_t irq_counts[256];

extern char ap_start[], ap_end[];

static struct cpu {
	uint32_t state;
	uint64_t vector, rip, cr2;
} __attribute__((aligned(64))) cpus[CPUS_MAX];

static struct {
	void (*fn)(unsigned cpu, void *arg);
	void *arg;
} job;

static const char *error;

void cpu_main(unsigned cpu);

static uint32_t state_of(unsigned cpu)
{
	return __atomic_load_n(&cpus[cpu].state, __ATOMIC_ACQUIRE);
}

static void set_state(unsigned cpu, uint32_t state)
{
	__atomic_store_n(&cpus[cpu].state, state, __ATOMIC_RELEASE);
}

void cpu_main(unsigned cpu)
{
	if (cpu < CPUS_MAX && state_of(cpu) == CPU_STARTING) {
		set_state(cpu, CPU_RUNNING);
		job.fn(cpu, job.arg);
		set_state(cpu, CPU_DONE);
	}
	for (;;)
		relax();
}

static void send(unsigned cpu, uint32_t what)
{
	mmio_write32(LAPIC_BASE + LAPIC_ICR_HIGH, (uint32_t)machine.apic_ids[cpu] << 24);
	mmio_write32(LAPIC_BASE + LAPIC_ICR_LOW, what);
	while (mmio_read32(LAPIC_BASE + LAPIC_ICR_LOW) & ICR_BUSY)
		relax();
}

static void start(unsigned cpu)
{
	set_state(cpu, CPU_STARTING);
	send(cpu, ICR_INIT);
	send(cpu, ICR_STARTUP | AP_START >> 12);
}

static void sleep(unsigned cpu)
{
	send(cpu, ICR_INIT);
	set_state(cpu, CPU_ASLEEP);
}

void cpus_stop(void)
{
	for (unsigned i = 1; i < machine.cpus; i++) {
		if (state_of(i) != CPU_ASLEEP)
			sleep(i);
	}
}

const char *cpus_error(void)
{
	return error;
}

/* One look at all CPUs of a job: those that have finished go to sleep. Returns how many have not. */
static unsigned collect(unsigned n, bool *ret_started)
{
	unsigned busy = 0;

	*ret_started = true;
	for (unsigned i = 1; i < n; i++) {
		switch (state_of(i)) {
		case CPU_DONE:
			sleep(i);
			break;
		case CPU_FAULTED:
			say("!fault cpu=%u vector=%lu rip=%lx cr2=%lx\n", i, cpus[i].vector, cpus[i].rip,
			    cpus[i].cr2);
			error = "cpu-faulted";
			sleep(i);
			break;
		case CPU_STARTING:
			*ret_started = false;
			busy++;
			break;
		case CPU_RUNNING:
			busy++;
			break;
		default:
			break;
		}
	}
	return busy;
}

bool cpus_run(unsigned n, void (*fn)(unsigned cpu, void *arg), void *arg, uint64_t timeout_us)
{
	uint64_t begun = tsc();
	bool started;

	if (n == 0 || n > machine.cpus) {
		error = "no-such-cpu";
		return false;
	}
	error = NULL;
	job.fn = fn;
	job.arg = arg;
	memcpy(at(AP_START), ap_start, (size_t)(ap_end - ap_start));
	for (unsigned i = 1; i < n; i++)
		start(i);
	fn(0, arg);
	while (collect(n, &started)) {
		if (!started && tsc() - begun > us_to_cycles(START_TIMEOUT_US))
			error = "cpu-did-not-start";
		else if (tsc() - begun > us_to_cycles(timeout_us))
			error = "cpu-did-not-finish";
		if (error) {
			cpus_stop();
			return false;
		}
		relax();
	}
	return !error;
}

/* ---- interrupts ---- */

#define IOAPIC_SELECT	0x00
#define IOAPIC_WINDOW	0x10
#define IOAPIC_REDIRECT 0x10
#define VECTOR_PINS	0x40
#define PIC1_MASK	0x21
#define PIC2_MASK	0xa1

void irqs_init(void)
{
	out8(PIC1_MASK, 0xff);
	out8(PIC2_MASK, 0xff);
	mmio_write32(LAPIC_BASE + LAPIC_SVR, SVR_ENABLED);
}

static void ioapic_write(unsigned reg, uint32_t v)
{
	mmio_write32(machine.ioapic + IOAPIC_SELECT, reg);
	mmio_write32(machine.ioapic + IOAPIC_WINDOW, v);
}

unsigned irq_route(uint32_t gsi)
{
	unsigned vector = VECTOR_PINS + (gsi & 0x3f);

	ioapic_write(IOAPIC_REDIRECT + 2 * gsi + 1, (uint32_t)machine.apic_ids[0] << 24);
	ioapic_write(IOAPIC_REDIRECT + 2 * gsi, vector);
	return vector;
}

/* ---- exceptions ---- */

void fault_main(uint64_t vector, uint64_t code, uint64_t rip, uint64_t cr2, uint64_t rsp, unsigned cpu);

void fault_main(uint64_t vector, uint64_t code, uint64_t rip, uint64_t cr2, uint64_t rsp, unsigned cpu)
{
	if (cpu == 0)
		fault_on_first_cpu(vector, code, rip, cr2, rsp);
	cpus[cpu].vector = vector;
	cpus[cpu].rip = rip;
	cpus[cpu].cr2 = cr2;
	set_state(cpu, CPU_FAULTED);
	for (;;)
		relax();
}
