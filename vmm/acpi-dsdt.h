/* SPDX-License-Identifier: Apache-2.0 */
/* The definition block of the DSDT: what acpi.c wraps into a table, and its test takes apart. */
#ifndef SARDINE_VMM_ACPI_DSDT_H
#define SARDINE_VMM_ACPI_DSDT_H

#include "vmm/acpi-aml.h"
#include "vmm/acpi.h"

/* Write the terms of the DSDT: \_S5, COM1, the power button, the event device and the virtio-mmio devices. */
void acpi_dsdt_terms(const struct acpi_config *config, struct aml *a);

#endif
