/* SPDX-License-Identifier: Apache-2.0 */
/* A port by which a guest kernel says that it panicked (QEMU docs/specs/pvpanic.rst). */
#ifndef SARDINE_VMM_PVPANIC_H
#define SARDINE_VMM_PVPANIC_H

#include "base/cleanup.h"
#include "vmm/bus.h"

struct pvpanic;

/* Context of all: vCPU thread, no lock held; may be called again. */
struct pvpanic_config {
	void (*panicked)(void *arg);	 /* and wants the host to act */
	void (*crash_loaded)(void *arg); /* and writes a dump of its own (kdump) */
	void (*shutdown)(void *arg);	 /* the orderly end; the same as a power-off */
	void *arg;
};

/**
 * pvpanic_new() - The device; it has no state.
 * @config: copied.
 * @ret: the device; the caller frees it with pvpanic_free().
 *
 * Return: 0 or -ENOMEM.
 */
int pvpanic_new(const struct pvpanic_config *config, struct pvpanic **ret) must_check;
void pvpanic_free(struct pvpanic *p);
DEFINE_CLEANUP(struct pvpanic, pvpanic_free)

/* One port, LAYOUT_PVPANIC. */
extern const struct bus_ops pvpanic_bus_ops;

#endif
