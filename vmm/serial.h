/* SPDX-License-Identifier: Apache-2.0 */
/* A 16550A UART: the guest's serial console. */
#ifndef SARDINE_VMM_SERIAL_H
#define SARDINE_VMM_SERIAL_H

#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "vmm/bus.h"
#include "vmm/irq.h"

struct serial;

struct serial_config {
	struct irq_line irq; /* its descriptor outlives the device */
	/* One byte that the guest sent. Context: vCPU thread, with the device's mutex held, so that the order
	 * of bytes is the guest's; must not block and must not call back into the device. */
	void (*output)(void *arg, uint8_t byte);
	/* The receive FIFO is empty again after serial_input() had to refuse bytes. Context: vCPU thread, no
	 * lock held; must not block. May be NULL. */
	void (*input_room)(void *arg);
	void *arg;
};

/**
 * serial_new() - A UART in its reset state.
 * @config: copied.
 * @ret: the device; the caller frees it with serial_free().
 *
 * Return: 0 or -ENOMEM.
 */
int serial_new(const struct serial_config *config, struct serial **ret) must_check;
void serial_free(struct serial *s);

/* Back to the state of serial_new(); what waited in the receive FIFO is lost. Context: any thread. */
void serial_reset(struct serial *s);
DEFINE_CLEANUP(struct serial, serial_free)

/**
 * serial_input() - Hand received bytes to the guest.
 * @s: the device.
 * @buf: the bytes.
 * @len: how many.
 *
 * Context: any thread; does not block.
 * Return: how many were taken, at most what the receive FIFO has room for (16 bytes, or 1 while the guest has
 * the FIFO off; none in loopback mode). If fewer than @len, config.input_room is called later.
 */
size_t serial_input(struct serial *s, const uint8_t *buf, size_t len) must_check;

/* The eight registers, LAYOUT_COM1_LEN bytes. */
extern const struct bus_ops serial_bus_ops;

#endif
