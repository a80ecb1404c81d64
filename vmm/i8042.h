/* SPDX-License-Identifier: Apache-2.0 */
/* As much of a PC keyboard controller as resets the machine and answers a probe; no keyboard is attached. */
#ifndef SARDINE_VMM_I8042_H
#define SARDINE_VMM_I8042_H

#include "base/cleanup.h"
#include "vmm/bus.h"

struct i8042;

/**
 * i8042_new() - A controller in its reset state.
 * @reset: called when the guest pulls the reset line (command 0xfe, or output port bit 0). Context: vCPU
 * thread, no lock held; may be called again.
 * @arg: passed to it.
 * @ret: the device; the caller frees it with i8042_free().
 *
 * Return: 0 or -ENOMEM.
 */
int i8042_new(void (*reset)(void *arg), void *arg, struct i8042 **ret) must_check;
void i8042_free(struct i8042 *k);
DEFINE_CLEANUP(struct i8042, i8042_free)

/* Back to the state of i8042_new(). Context: any thread. */
void i8042_reset(struct i8042 *k);

/* Ports 0x60 to 0x64, LAYOUT_I8042_LEN bytes. Port 0x61 (system control port B) lies among them and is
 * answered too. */
extern const struct bus_ops i8042_bus_ops;

#endif
