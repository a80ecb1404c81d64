/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The devices that ACPI announces.
 *
 * All interrupts are extended descriptors (Interrupt, not IRQ): those name a GSI and its trigger mode, and a
 * kernel in hardware-reduced mode, which knows no legacy PIC and thus no ISA interrupts, sets the IOAPIC pin
 * up from them.
 */
#include "vmm/acpi-dsdt.h"

#include <stdio.h>

#include "vmm/ged.h"
#include "vmm/layout.h"

#define NOTIFY_BUTTON_PRESSED 0x80 /* ACPI 6.5 table 5.165 */

/* \_S5 (7.4.2): the value for SLP_TYP; hardware-reduced machines use the first element only. */
static void soft_off(struct aml *a)
{
	aml_mark_t package;

	aml_name(a, "\\_S5");
	package = aml_package(a, 4);
	aml_integer(a, LAYOUT_GED_SLP_TYP_S5);
	for (unsigned i = 0; i < 3; i++)
		aml_integer(a, 0);
	aml_close(a, package);
}

static void com1(struct aml *a)
{
	aml_mark_t device = aml_device(a, "COM1");
	aml_mark_t resources;

	aml_name_eisa_id(a, "_HID", "PNP0501");
	aml_name_integer(a, "_UID", 0);
	aml_name(a, "_CRS");
	resources = aml_resources_begin(a);
	aml_io(a, LAYOUT_COM1, LAYOUT_COM1_LEN);
	aml_interrupt_edge(a, LAYOUT_GSI_COM1);
	aml_resources_end(a, resources);
	aml_close(a, device);
}

/* No interrupt: the clock has no alarm. Linux then does not look for one (drivers/rtc/rtc-cmos.c). */
static void real_time_clock(struct aml *a)
{
	aml_mark_t device = aml_device(a, "RTC");
	aml_mark_t resources;

	aml_name_eisa_id(a, "_HID", "PNP0B00");
	aml_name_integer(a, "_UID", 0);
	aml_name(a, "_CRS");
	resources = aml_resources_begin(a);
	aml_io(a, LAYOUT_RTC, LAYOUT_RTC_LEN);
	aml_resources_end(a, resources);
	aml_close(a, device);
}

/* What Linux's pvpanic driver matches (drivers/misc/pvpanic/pvpanic-mmio.c). */
static void panic_port(struct aml *a)
{
	aml_mark_t device = aml_device(a, "PEVT");
	aml_mark_t resources;

	aml_name_string(a, "_HID", "QEMU0001");
	aml_name_integer(a, "_UID", 0);
	aml_name(a, "_CRS");
	resources = aml_resources_begin(a);
	aml_io(a, LAYOUT_PVPANIC, LAYOUT_PVPANIC_LEN);
	aml_resources_end(a, resources);
	aml_close(a, device);
}

/* Control method power button (4.8.2.2.1.2). */
static void power_button(struct aml *a)
{
	aml_mark_t device = aml_device(a, "PWRB");

	aml_name_eisa_id(a, "_HID", "PNP0C0C");
	aml_name_integer(a, "_UID", 0);
	aml_close(a, device);
}

/* Generic event device (5.6.9): its interrupt runs _EVT, which takes the pending events and passes them on. */
static void event_device(struct aml *a)
{
	aml_mark_t device = aml_device(a, "GED");
	aml_mark_t m;

	aml_name_string(a, "_HID", "ACPI0013");
	aml_name_integer(a, "_UID", 0);
	aml_name(a, "_CRS");
	m = aml_resources_begin(a);
	aml_interrupt_edge(a, LAYOUT_GSI_GED);
	aml_resources_end(a, m);

	aml_memory_region(a, "EREG", LAYOUT_GED + LAYOUT_GED_EVENT, 1);
	m = aml_field_bytes(a, "EREG");
	aml_field_unit(a, "EVNT", 8);
	aml_close(a, m);

	m = aml_method(a, "_EVT", 1, true);
	{
		aml_mark_t branch;

		aml_store_to_local(a, "EVNT", 0);
		branch = aml_if(a);
		aml_and_local(a, 0, GED_EVENT_POWER_BUTTON);
		aml_notify(a, "\\_SB.PWRB", NOTIFY_BUTTON_PRESSED);
		aml_close(a, branch);
	}
	aml_close(a, m);
	aml_close(a, device);
}

/* A virtio-mmio transport: the id is the one Linux's virtio_mmio driver matches; _CCA says that the device's
 * accesses are cache coherent. */
static void virtio_device(struct aml *a, unsigned index)
{
	char name[5];
	aml_mark_t device, resources;

	snprintf(name, sizeof(name), "VR%02X", index & 0xff);
	device = aml_device(a, name);
	aml_name_string(a, "_HID", "LNRO0005");
	aml_name_integer(a, "_UID", index);
	aml_name_integer(a, "_CCA", 1);
	aml_name(a, "_CRS");
	resources = aml_resources_begin(a);
	aml_memory32_fixed(a, LAYOUT_VIRTIO_MMIO + index * LAYOUT_VIRTIO_MMIO_BYTES,
			   LAYOUT_VIRTIO_MMIO_BYTES);
	aml_interrupt_edge(a, LAYOUT_GSI_VIRTIO_FIRST + index);
	aml_resources_end(a, resources);
	aml_close(a, device);
}

void acpi_dsdt_terms(const struct acpi_config *config, struct aml *a)
{
	aml_mark_t scope;

	soft_off(a);
	scope = aml_scope(a, "\\_SB");
	com1(a);
	real_time_clock(a);
	panic_port(a);
	power_button(a);
	event_device(a);
	for (unsigned i = 0; i < config->virtio_devices; i++)
		virtio_device(a, i);
	aml_close(a, scope);
}
