/* SPDX-License-Identifier: Apache-2.0 */
/* Names of the ways into a kernel. */
#include "vmm/boot-image.h"

#include <stddef.h>

static const char *const entry_names[] = {
	[BOOT_ENTRY_PVH] = "pvh",
	[BOOT_ENTRY_ELF64] = "elf64",
	[BOOT_ENTRY_BZIMAGE] = "bzimage",
};
_Static_assert(ARRAY_SIZE(entry_names) == BOOT_ENTRIES, "a name for each entry");

const char *boot_entry_name(enum boot_entry entry)
{
	return (size_t)entry < BOOT_ENTRIES ? entry_names[entry] : "unknown";
}
