/* SPDX-License-Identifier: Apache-2.0 */
/* Takes ACPI tables apart and holds them against the machine they were made for. */
#ifndef SARDINE_TESTS_FUZZ_ACPI_CHECK_H
#define SARDINE_TESTS_FUZZ_ACPI_CHECK_H

#include <stddef.h>
#include <stdint.h>

#include "vmm/acpi.h"

/**
 * acpi_check() - Die unless the tables are well formed and announce exactly @config.
 * @blob: what acpi_build() wrote for guest address @base.
 */
void acpi_check(const struct acpi_config *config, uint64_t base, const uint8_t *blob, size_t len);

#endif
