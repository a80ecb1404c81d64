/* SPDX-License-Identifier: Apache-2.0 */
/* Power button, power off and reset: the registers behind the ACPI generic event device (ACPI 6.5, 5.6.9). */
#ifndef SARDINE_VMM_GED_H
#define SARDINE_VMM_GED_H

#include <stdbool.h>

#include "base/cleanup.h"
#include "vmm/bus.h"
#include "vmm/irq.h"

/* Bits of the event register LAYOUT_GED_EVENT. */
#define GED_EVENT_POWER_BUTTON 0x01

struct ged;

struct ged_config {
	struct irq_line irq; /* its descriptor outlives the device */
	/* The guest has powered off, or asked for a reset. Context: vCPU thread, no lock held; may be called
	 * again. */
	void (*power_off)(void *arg);
	void (*reset)(void *arg);
	void *arg;
};

/**
 * ged_new() - The device, with no event pending.
 * @config: copied.
 * @ret: the device; the caller frees it with ged_free().
 *
 * Return: 0 or -ENOMEM.
 */
int ged_new(const struct ged_config *config, struct ged **ret) must_check;
void ged_free(struct ged *g);
DEFINE_CLEANUP(struct ged, ged_free)

/* Press the power button. Context: any thread; does not block. */
void ged_power_button(struct ged *g);

/**
 * ged_remind() - Raise the interrupt again for events that the guest has not taken.
 *
 * An edge on a pin that the guest has masked, as it has before its driver is up, is lost.
 *
 * Context: any thread; does not block.
 * Return: whether there are such events.
 */
bool ged_remind(struct ged *g);

/* LAYOUT_GED_BYTES at LAYOUT_GED. */
extern const struct bus_ops ged_bus_ops;

#endif
