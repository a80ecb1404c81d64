/* SPDX-License-Identifier: Apache-2.0 */
/* ACPI tables that announce CPUs, serial port, power button and virtio-mmio devices (ACPI 6.5,
 * hardware-reduced). */
#ifndef SARDINE_VMM_ACPI_H
#define SARDINE_VMM_ACPI_H

#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"

struct acpi_config {
	unsigned cpus;
	unsigned virtio_devices; /* at LAYOUT_VIRTIO_MMIO.., GSIs from LAYOUT_GSI_VIRTIO_FIRST */
};

/**
 * acpi_build() - Write RSDP, XSDT, FADT, MADT and DSDT as one blob to be placed at @base.
 * @config: what the machine has.
 * @base: guest physical address of the blob; the RSDP is its first byte.
 * @buf: where to write.
 * @len: bytes of @buf.
 * @ret_bytes: bytes written.
 *
 * Return: 0, -EINVAL for counts out of range, -ENOSPC when it does not fit.
 */
int acpi_build(const struct acpi_config *config, uint64_t base, uint8_t *buf, size_t len,
	       size_t *ret_bytes) must_check;

#endif
