/* SPDX-License-Identifier: Apache-2.0 */
/* What the ACPI tables announce (ACPI 6.5): processors, IOAPIC, registers for sleep and reset, and, by
 * looking for their names in the DSDT's bytes, devices. */
#include "probe.h"

#define RSDP_SCAN_FROM 0xe0000
#define RSDP_SCAN_TO   0x100000

static uint64_t get(const uint8_t *p, unsigned bytes)
{
	uint64_t v = 0;

	memcpy(&v, p, bytes);
	return v;
}

static bool sums_to_zero(const uint8_t *p, uint64_t bytes)
{
	uint8_t sum = 0;

	for (uint64_t i = 0; i < bytes; i++)
		sum = (uint8_t)(sum + p[i]);
	return sum == 0;
}

/* Notes a table; NULL when it is not a good one. */
static const uint8_t *table_at(uint64_t address, const char *want)
{
	const uint8_t *p = at(address);
	struct acpi_table *t;

	if (!address || address >= MAPPED_GIB * GIB || machine.table_count == TABLES_MAX) {
		machine.tables_bad++;
		return NULL;
	}
	t = &machine.tables[machine.table_count++];
	memcpy(t->signature, p, 4);
	for (unsigned i = 0; i < 4; i++) {
		if (t->signature[i] < '0' || t->signature[i] > 'Z')
			t->signature[i] = '?';
	}
	t->address = address;
	t->bytes = (uint32_t)get(p + 4, 4);
	t->good = t->bytes >= 36 && t->bytes < MIB && sums_to_zero(p, t->bytes) &&
		  (!want || !memcmp(p, want, 4));
	if (t->good)
		return p;
	machine.tables_bad++;
	return NULL;
}

static const uint8_t *find_bytes(const uint8_t *p, const uint8_t *end, const char *what, size_t n)
{
	for (; p + n <= end; p++) {
		if (!memcmp(p, what, n))
			return p;
	}
	return NULL;
}

/* Memory32Fixed (0x86) and Extended Interrupt (0x89) descriptors follow a device's _HID. */
static void dsdt_find(const uint8_t *p, uint32_t bytes)
{
	const uint8_t *end = p + bytes;
	const uint8_t *d = p;
	/* EISAIDs as AML holds them. */
	static const char pnp0501[] = {0x41, (char)0xd0, 0x05, 0x01};
	static const char pnp0c0c[] = {0x41, (char)0xd0, 0x0c, 0x0c};

	machine.com1 = find_bytes(p, end, pnp0501, 4) || find_bytes(p, end, "PNP0501", 7);
	machine.button = find_bytes(p, end, pnp0c0c, 4) || find_bytes(p, end, "PNP0C0C", 7);
	machine.ged = find_bytes(p, end, "ACPI0013", 8);
	while (machine.virtio_count < VIRTIO_MAX && (d = find_bytes(d, end, "LNRO0005", 8))) {
		const uint8_t *mem = find_bytes(d, end, "\x86\x09\x00", 3);
		const uint8_t *irq = mem ? find_bytes(mem + 12, end, "\x89\x06\x00", 3) : NULL;

		if (!mem || !irq || irq + 9 > end)
			break;
		machine.virtio[machine.virtio_count].base = get(mem + 4, 4);
		machine.virtio[machine.virtio_count++].gsi = (uint32_t)get(irq + 5, 4);
		d += 8;
	}
}

static void fadt_find(const uint8_t *p, uint32_t bytes)
{
	const uint8_t *dsdt;

	machine.hw_reduced = (get(p + 112, 4) >> 20) & 1;
	machine.reset_register = get(p + 120, 8);
	machine.reset_value = p[128];
	if (bytes >= 268)
		machine.sleep_control = get(p + 248, 8);
	dsdt = table_at(get(p + 140, 8) ? get(p + 140, 8) : get(p + 40, 4), "DSDT");
	if (dsdt)
		dsdt_find(dsdt + 36, (uint32_t)get(dsdt + 4, 4) - 36);
}

static void madt_find(const uint8_t *p, uint32_t bytes)
{
	for (uint32_t i = 44; i + 2 <= bytes && p[i + 1] >= 2 && i + p[i + 1] <= bytes; i += p[i + 1]) {
		if (p[i] == 0 && (p[i + 4] & 1) && machine.cpus < CPUS_MAX)
			machine.apic_ids[machine.cpus++] = p[i + 3];
		else if (p[i] == 1)
			machine.ioapic = get(p + i + 4, 4);
	}
}

void acpi_find(void)
{
	const uint8_t *rsdp, *xsdt;
	uint32_t entries;

	for (uint64_t a = RSDP_SCAN_FROM; a < RSDP_SCAN_TO && !machine.rsdp_found; a += 16) {
		if (!memcmp(at(a), "RSD PTR ", 8))
			machine.rsdp_found = a;
	}
	if (!machine.rsdp && !machine.rsdp_found) {
		machine.acpi_error = "no-rsdp";
		return;
	}
	rsdp = at(machine.rsdp ? machine.rsdp : machine.rsdp_found);
	if (memcmp(rsdp, "RSD PTR ", 8) || !sums_to_zero(rsdp, 20) || rsdp[15] < 2 ||
	    !sums_to_zero(rsdp, 36)) {
		machine.acpi_error = "bad-rsdp";
		return;
	}
	xsdt = table_at(get(rsdp + 24, 8), "XSDT");
	if (!xsdt) {
		machine.acpi_error = "bad-xsdt";
		return;
	}
	entries = ((uint32_t)get(xsdt + 4, 4) - 36) / 8;
	for (uint32_t i = 0; i < entries; i++) {
		const uint8_t *t = table_at(get(xsdt + 36 + 8 * i, 8), NULL);

		if (t && !memcmp(t, "FACP", 4))
			fadt_find(t, (uint32_t)get(t + 4, 4));
		else if (t && !memcmp(t, "APIC", 4))
			madt_find(t, (uint32_t)get(t + 4, 4));
	}
	if (machine.tables_bad)
		machine.acpi_error = "bad-table";
}
