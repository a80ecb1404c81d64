/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Power button, power off and reset for a guest without ACPI fixed hardware (ACPI 6.5, 4.1).
 *
 * The event register is atomic: the button comes from the I/O thread, the read from a vCPU. The bit is set
 * before the line is raised, and reading takes all bits, so each press is seen by the _EVT method that its
 * edge starts or by an earlier one that was still to read.
 */
#include "vmm/ged.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#include "vmm/layout.h"

/* Sleep control register, ACPI 6.5 table 4.21: SLP_TYPx in bits 2-4, SLP_EN in bit 5. */
#define SLEEP_TYPE_SHIFT 2
#define SLEEP_TYPE_MASK	 0x07
#define SLEEP_ENABLE	 0x20

struct ged {
	struct ged_config config;
	_Atomic uint8_t events;
};

int ged_new(const struct ged_config *config, struct ged **ret)
{
	struct ged *g = calloc(1, sizeof(*g));

	if (!g)
		return -ENOMEM;
	g->config = *config;
	*ret = g;
	return 0;
}

void ged_free(struct ged *g)
{
	free(g);
}

void ged_power_button(struct ged *g)
{
	atomic_fetch_or_explicit(&g->events, GED_EVENT_POWER_BUTTON, memory_order_release);
	irq_raise(&g->config.irq);
}

bool ged_remind(struct ged *g)
{
	if (atomic_load_explicit(&g->events, memory_order_acquire) == 0)
		return false;
	irq_raise(&g->config.irq);
	return true;
}

/* Registers are one byte each. Sleep control reads as zero; the wake status is never set, as there is no
 * sleep to wake from. */
static void ged_read(void *dev, uint64_t offset, uint8_t *data, uint32_t len)
{
	struct ged *g = dev;

	memset(data, 0, len);
	if (offset == LAYOUT_GED_EVENT)
		data[0] = atomic_exchange_explicit(&g->events, 0, memory_order_acquire);
}

static void ged_write(void *dev, uint64_t offset, const uint8_t *data, uint32_t len)
{
	struct ged *g = dev;
	uint8_t v = data[0];

	(void)len;
	switch (offset) {
	case LAYOUT_GED_SLEEP_CONTROL:
		if ((v & SLEEP_ENABLE) &&
		    ((v >> SLEEP_TYPE_SHIFT) & SLEEP_TYPE_MASK) == LAYOUT_GED_SLP_TYP_S5)
			g->config.power_off(g->config.arg);
		break;
	case LAYOUT_GED_RESET:
		if (v == LAYOUT_GED_RESET_VALUE)
			g->config.reset(g->config.arg);
		break;
	default:
		break;
	}
}

const struct bus_ops ged_bus_ops = {.read = ged_read, .write = ged_write};
