/* SPDX-License-Identifier: Apache-2.0 */
/* Commands about the machine itself: what was found, registers and ports, power. */
#include "probe.h"
#include "vmm/layout.h"

static void hello(const struct command *c)
{
	uint64_t ram = 0;

	for (unsigned i = 0; i < machine.ram_count; i++)
		ram += machine.ram[i].to - machine.ram[i].from;
	answer(c);
	say(" boot=%s ram=%lu regions=%u cpus=%u acpi=%s virtio=%u tsc_khz=%lu initrd=%lx:%lu",
	    machine.boot == BOOT_PVH ? "pvh" : "linux64", ram, machine.ram_count, machine.cpus,
	    machine.acpi_error ? machine.acpi_error : "ok", machine.virtio_count, machine.tsc_khz,
	    machine.initrd.from, machine.initrd.to - machine.initrd.from);
}

static void map(const struct command *c)
{
	struct range r[RANGES_MAX];
	unsigned count = machine_usable(r, RANGES_MAX);

	answer(c);
	say(" image=%lx-%lx", (uint64_t)image_start, (uint64_t)image_end);
	for (unsigned i = 0; i < machine.ram_count; i++)
		say(" ram%u=%lx-%lx", i, machine.ram[i].from, machine.ram[i].to);
	for (unsigned i = 0; i < count; i++)
		say(" usable%u=%lx-%lx", i, r[i].from, r[i].to);
}

static void acpi(const struct command *c)
{
	answer(c);
	say(" state=%s rsdp=%lx rsdp_scan=%lx hw_reduced=%d ged=%d button=%d com1=%d ioapic=%lx sleep=%lx "
	    "reset=%lx",
	    machine.acpi_error ? machine.acpi_error : "ok", machine.rsdp, machine.rsdp_found,
	    machine.hw_reduced, machine.ged, machine.button, machine.com1, machine.ioapic,
	    machine.sleep_control, machine.reset_register);
	for (unsigned i = 0; i < machine.table_count; i++)
		say(" table%u=%s:%s", i, machine.tables[i].signature, machine.tables[i].good ? "ok" : "bad");
	for (unsigned i = 0; i < machine.cpus; i++)
		say(" apic%u=%u", i, machine.apic_ids[i]);
}

static void cmdline(const struct command *c)
{
	answer(c);
	say(" text=");
	serial_write(machine.cmdline, text_length(machine.cmdline));
}

static void note_cpu(unsigned cpu, void *arg)
{
	(void)cpu;
	__atomic_fetch_add((uint32_t *)arg, 1, __ATOMIC_RELAXED);
}

/* Start and stop CPUs, again and again. */
static void cpus(const struct command *c)
{
	uint32_t ran = 0;
	unsigned n = (unsigned)arg(c, "n", machine.cpus);
	uint64_t rounds = arg(c, "rounds", 1), begun = tsc();

	for (uint64_t i = 0; i < rounds; i++) {
		if (!cpus_run(n, note_cpu, &ran, 60000000)) {
			fail(c, "%s", cpus_error());
			return;
		}
	}
	answer(c);
	say(" ran=%u cycles=%lu", ran, tsc() - begun);
}

static void peek(const struct command *c)
{
	uint64_t v = mmio_read(arg(c, "at", 0), (unsigned)arg(c, "width", 4));

	answer(c);
	say(" value=%lx", v);
}

static void poke(const struct command *c)
{
	uint64_t address = arg(c, "at", 0), times = arg(c, "times", 1), value = arg(c, "value", 0);

	for (uint64_t i = 0; i < times; i++)
		mmio_write(address, (unsigned)arg(c, "width", 4), value);
	answer(c);
}

static int hex_digit(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Bytes into memory, and out of it. */
static void store(const struct command *c)
{
	static char text[1024];
	uint64_t address = arg(c, "at", 0), n = 0;

	if (!arg_text(c, "hex", text, sizeof(text))) {
		fail(c, "hex");
		return;
	}
	for (; hex_digit(text[2 * n]) >= 0 && hex_digit(text[2 * n + 1]) >= 0; n++)
		*(volatile uint8_t *)at(address + n) =
			(uint8_t)(hex_digit(text[2 * n]) << 4 | hex_digit(text[2 * n + 1]));
	answer(c);
	say(" bytes=%lu", n);
}

static void load(const struct command *c)
{
	const volatile uint8_t *p = at(arg(c, "at", 0));
	uint64_t bytes = arg(c, "bytes", 16);

	answer(c);
	say(" hex=");
	for (uint64_t i = 0; i < bytes; i++)
		say("%c%c", "0123456789abcdef"[p[i] >> 4], "0123456789abcdef"[p[i] & 15]);
}

static void port_in(const struct command *c)
{
	uint8_t v = in8((uint16_t)arg(c, "port", 0));

	answer(c);
	say(" value=%x", v);
}

static void port_out(const struct command *c)
{
	out8((uint16_t)arg(c, "port", 0), (uint8_t)arg(c, "value", 0));
	answer(c);
}

/* Write so many bytes to the serial port, in numbered lines. */
static void flood(const struct command *c)
{
	uint64_t bytes = arg(c, "bytes", 65536);

	for (uint64_t i = 0; i < bytes / 64; i++) {
		static char text[] = "................................................................";
		uint64_t n = i;

		for (unsigned d = 0; d < 8; d++, n /= 10)
			text[7 - d] = (char)('0' + n % 10);
		text[63] = '\n';
		serial_write(text, 64);
	}
	answer(c);
	say(" bytes=%lu", bytes / 64 * 64);
}

static void time_now(const struct command *c)
{
	answer(c);
	say(" us=%lu", tsc() / (machine.tsc_khz / 1000 ? machine.tsc_khz / 1000 : 1));
}

/* Spin without touching any device, for tests of signals and pauses. */
static void spin(const struct command *c)
{
	delay_us(arg(c, "us", 1000));
	answer(c);
}

#define SLEEP_ENABLE 0x20

static void power_off(const struct command *c)
{
	if (!machine.sleep_control) {
		fail(c, "no sleep register");
		return;
	}
	mmio_write(machine.sleep_control, 1, LAYOUT_GED_SLP_TYP_S5 << 2 | SLEEP_ENABLE);
	delay_us(1000000);
	fail(c, "still on");
}

static void triple_fault(void)
{
	memset(image_start + IMAGE_IDT, 0, 256 * 16);
	__asm__ volatile("ud2");
}

static void reset(const struct command *c)
{
	char how[16] = "i8042";

	arg_text(c, "how", how, sizeof(how));
	if (text_equal(how, "i8042"))
		out8(LAYOUT_I8042 + 4, 0xfe);
	else if (text_equal(how, "acpi"))
		mmio_write(machine.reset_register, 1, machine.reset_value);
	else if (text_equal(how, "triple"))
		triple_fault();
	delay_us(1000000);
	fail(c, "still here");
}

/* Wait for the power button; with off=1, switch off then. */
static void button(const struct command *c)
{
	uint64_t end = tsc() + us_to_cycles(arg(c, "timeout_ms", 10000) * 1000);
	uint64_t events = 0;

	while (!(events & 1) && tsc() < end) {
		events = mmio_read(LAYOUT_GED + LAYOUT_GED_EVENT, 1);
		delay_us(500);
	}
	if (!(events & 1))
		fail(c, "not pressed");
	else if (arg(c, "off", 0))
		power_off(c);
	else {
		answer(c);
		say(" events=%lx again=%lx", events, mmio_read(LAYOUT_GED + LAYOUT_GED_EVENT, 1));
	}
}

static void fault(const struct command *c)
{
	char how[16] = "ud";

	arg_text(c, "how", how, sizeof(how));
	if (text_equal(how, "ud"))
		__asm__ volatile("ud2");
	else if (text_equal(how, "pf"))
		mmio_read(MAPPED_GIB * GIB + 0x123000, 8);
	else if (text_equal(how, "gp"))
		__asm__ volatile("hlt");
	fail(c, "no fault");
}

const struct verb machine_verbs[] = {
	{"hello", hello},     {"map", map},	  {"acpi", acpi},
	{"cmdline", cmdline}, {"cpus", cpus},	  {"peek", peek},
	{"poke", poke},	      {"in", port_in},	  {"out", port_out},
	{"flood", flood},     {"store", store},	  {"load", load},
	{"time", time_now},   {"spin", spin},	  {"poweroff", power_off},
	{"reset", reset},     {"button", button}, {"fault", fault},
	{NULL, NULL},
};
