/* SPDX-License-Identifier: Apache-2.0 */
/*
 * RSDP, XSDT, FADT, MADT and DSDT of a hardware-reduced machine (ACPI 6.5 chapters 4.1 and 5.2).
 *
 * What is left out, and why nobody misses it: FACS (optional when hardware-reduced), RSDT (the XSDT replaces
 * it), HPET and PM timer (the clock is kvmclock or TSC), interrupt source overrides (no ISA interrupts
 * without a legacy PIC).
 */
#include "vmm/acpi.h"

#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "vmm/acpi-dsdt.h"
#include "vmm/layout.h"
#include "vmm/rtc.h"

#define OEM_ID	     "SARDIN"
#define OEM_TABLE_ID "SARDINE "
#define CREATOR_ID   "SARD"

/* The header that all tables but the RSDP begin with (5.2.6). */
#define HEADER_BYTES	36
#define HEADER_LENGTH	4
#define HEADER_CHECKSUM 9

/* RSDP (5.2.5.3). */
#define RSDP_BYTES	       36
#define RSDP_V1_BYTES	       20
#define RSDP_CHECKSUM	       8
#define RSDP_EXTENDED_CHECKSUM 32

/* FADT (5.2.9): offsets of the fields that are not zero. */
#define FADT_BYTES	    276
#define FADT_CENTURY	    108
#define FADT_IAPC_BOOT_ARCH 109
#define FADT_FLAGS	    112
#define FADT_RESET_REG	    116
#define FADT_RESET_VALUE    128
#define FADT_MINOR_VERSION  131
#define FADT_X_DSDT	    140
#define FADT_SLEEP_CONTROL  244
#define FADT_SLEEP_STATUS   256
#define FADT_HYPERVISOR	    268

#define FADT_REVISION 6
#define FADT_MINOR    5
/* Table 5.11. The 8042 bit stays clear: there is no keyboard, and Linux would wait for one to answer. Resetting
 * through port 0x64 needs no announcement. */
#define BOOT_ARCH_NO_VGA (1u << 2)
/* Table 5.10. With the button bits and FIX_RTC set there are no buttons and no wake event of the clock in fixed
 * hardware, of which a hardware-reduced machine has none. */
#define FLAG_WBINVD	(1u << 0)
#define FLAG_PROC_C1	(1u << 2)
#define FLAG_PWR_BUTTON (1u << 4)
#define FLAG_SLP_BUTTON (1u << 5)
#define FLAG_FIX_RTC	(1u << 6)
#define FLAG_RESET_REG	(1u << 10)
#define FLAG_HW_REDUCED (1u << 20)

/* Generic address structure (5.2.3.2). */
#define GAS_SYSTEM_MEMORY 0
#define GAS_BYTE_ACCESS	  1

/* MADT (5.2.12) of ACPI 6.3 and later. */
#define MADT_REVISION	      5
#define MADT_LOCAL_APIC	      0
#define MADT_LOCAL_APIC_BYTES 8
#define MADT_IO_APIC	      1
#define MADT_IO_APIC_BYTES    12
#define MADT_CPU_ENABLED      1u

#define XSDT_REVISION 1
#define DSDT_REVISION 2 /* integers of 64 bits */

#define TABLE_ALIGN 16

static uint8_t checksum(const uint8_t *p, size_t len)
{
	uint8_t sum = 0;

	for (size_t i = 0; i < len; i++)
		sum = (uint8_t)(sum + p[i]);
	return (uint8_t)-sum;
}

/* Start a table at the next aligned offset; returns that offset. Length and checksum follow in table_end(). */
static size_t table_begin(struct aml *a, const char signature[static 4], uint8_t revision)
{
	size_t start;

	while (a->len % TABLE_ALIGN && !a->error)
		aml_u8(a, 0);
	start = a->len;
	aml_bytes(a, signature, 4);
	aml_u32(a, 0); /* length */
	aml_u8(a, revision);
	aml_u8(a, 0); /* checksum */
	aml_bytes(a, OEM_ID, 6);
	aml_bytes(a, OEM_TABLE_ID, 8);
	aml_u32(a, 1); /* OEM revision */
	aml_bytes(a, CREATOR_ID, 4);
	aml_u32(a, 1); /* creator revision */
	return start;
}

static void table_end(struct aml *a, size_t start)
{
	if (a->error)
		return;
	store_le32(a->buf + start + HEADER_LENGTH, (uint32_t)(a->len - start));
	a->buf[start + HEADER_CHECKSUM] = checksum(a->buf + start, a->len - start);
}

static size_t build_dsdt(const struct acpi_config *config, struct aml *a)
{
	size_t start = table_begin(a, "DSDT", DSDT_REVISION);

	acpi_dsdt_terms(config, a);
	table_end(a, start);
	return start;
}

/* A byte register in memory. */
static void put_register(uint8_t *p, uint64_t addr)
{
	p[0] = GAS_SYSTEM_MEMORY;
	p[1] = 8; /* bits */
	p[2] = 0;
	p[3] = GAS_BYTE_ACCESS;
	store_le64(p + 4, addr);
}

static size_t build_fadt(struct aml *a, uint64_t dsdt)
{
	size_t start = table_begin(a, "FACP", FADT_REVISION);
	uint8_t fadt[FADT_BYTES] = {0};

	fadt[FADT_CENTURY] = RTC_REG_CENTURY;
	store_le16(fadt + FADT_IAPC_BOOT_ARCH, BOOT_ARCH_NO_VGA);
	store_le32(fadt + FADT_FLAGS, FLAG_WBINVD | FLAG_PROC_C1 | FLAG_PWR_BUTTON | FLAG_SLP_BUTTON |
					      FLAG_FIX_RTC | FLAG_RESET_REG | FLAG_HW_REDUCED);
	put_register(fadt + FADT_RESET_REG, LAYOUT_GED + LAYOUT_GED_RESET);
	fadt[FADT_RESET_VALUE] = LAYOUT_GED_RESET_VALUE;
	fadt[FADT_MINOR_VERSION] = FADT_MINOR;
	store_le64(fadt + FADT_X_DSDT, dsdt);
	put_register(fadt + FADT_SLEEP_CONTROL, LAYOUT_GED + LAYOUT_GED_SLEEP_CONTROL);
	put_register(fadt + FADT_SLEEP_STATUS, LAYOUT_GED + LAYOUT_GED_SLEEP_STATUS);
	memcpy(fadt + FADT_HYPERVISOR, OEM_TABLE_ID, 8);
	aml_bytes(a, fadt + HEADER_BYTES, sizeof(fadt) - HEADER_BYTES);
	table_end(a, start);
	return start;
}

static size_t build_madt(const struct acpi_config *config, struct aml *a)
{
	size_t start = table_begin(a, "APIC", MADT_REVISION);

	aml_u32(a, LAYOUT_LAPIC);
	aml_u32(a, 0); /* flags: no dual 8259 (PCAT_COMPAT) */
	for (unsigned i = 0; i < config->cpus; i++) {
		aml_u8(a, MADT_LOCAL_APIC);
		aml_u8(a, MADT_LOCAL_APIC_BYTES);
		aml_u8(a, (uint8_t)i); /* processor UID */
		aml_u8(a, (uint8_t)i); /* APIC id */
		aml_u32(a, MADT_CPU_ENABLED);
	}
	aml_u8(a, MADT_IO_APIC);
	aml_u8(a, MADT_IO_APIC_BYTES);
	aml_u8(a, 0); /* IOAPIC id, as KVM's comes out of reset */
	aml_u8(a, 0);
	aml_u32(a, LAYOUT_IOAPIC);
	aml_u32(a, 0); /* first GSI */
	table_end(a, start);
	return start;
}

static void build_rsdp(uint8_t rsdp[static RSDP_BYTES], uint64_t xsdt)
{
	memset(rsdp, 0, RSDP_BYTES);
	memcpy(rsdp, "RSD PTR ", 8);
	memcpy(rsdp + 9, OEM_ID, 6);
	rsdp[15] = 2; /* revision */
	store_le32(rsdp + 20, RSDP_BYTES);
	store_le64(rsdp + 24, xsdt);
	rsdp[RSDP_CHECKSUM] = checksum(rsdp, RSDP_V1_BYTES);
	rsdp[RSDP_EXTENDED_CHECKSUM] = checksum(rsdp, RSDP_BYTES);
}

int acpi_build(const struct acpi_config *config, uint64_t base, uint8_t *buf, size_t len, size_t *ret_bytes)
{
	struct aml a = {.buf = buf, .cap = len};
	static const uint8_t no_rsdp[RSDP_BYTES];
	size_t dsdt, fadt, madt, xsdt;

	if (config->cpus < 1 || config->cpus > LAYOUT_VCPUS_MAX || config->virtio_devices > LAYOUT_VIRTIO_MAX)
		return -EINVAL;
	aml_bytes(&a, no_rsdp, sizeof(no_rsdp)); /* its place; it is built last, as it points at the others */
	dsdt = build_dsdt(config, &a);
	fadt = build_fadt(&a, base + dsdt);
	madt = build_madt(config, &a);
	xsdt = table_begin(&a, "XSDT", XSDT_REVISION);
	aml_u64(&a, base + fadt);
	aml_u64(&a, base + madt);
	table_end(&a, xsdt);
	if (a.error)
		return -ENOSPC;
	build_rsdp(buf, base + xsdt);
	*ret_bytes = a.len;
	return 0;
}
