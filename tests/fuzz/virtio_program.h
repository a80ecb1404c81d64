/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzz input as the program of a guest that drives a virtio device, rightly and wrongly. */
#ifndef SARDINE_TESTS_FUZZ_VIRTIO_PROGRAM_H
#define SARDINE_TESTS_FUZZ_VIRTIO_PROGRAM_H

#include <stddef.h>
#include <stdint.h>

#include "tests/fuzz/require.h"
#include "tests/unit/virtio_driver.h"
#include "vmm/layout.h"

/* First byte of each step (modulo STEPS), then its operands, little-endian; bytes that are missing are 0. */
enum program_step {
	STEP_START, /* u8 features, u8 log2 of the queue size, u8 features of the device, bits 0 to 7: the whole way up */
	STEP_WRITE, /* u16 register offset, u8 width, u64 value */
	STEP_READ,  /* u16 register offset, u8 width */
	STEP_DESC,  /* u8 queue, u8 index, u8 base, u16 offset, u32 length, u8 flags, u8 next */
	STEP_TABLE, /* u8 index, u8 base, u16 offset, u32 length, u8 flags, u8 next: of the indirect table */
	STEP_OFFER, /* u8 queue, u8 head */
	STEP_KICK,  /* u8 queue */
	STEP_POKE,  /* u8 base, u16 offset, u64 value: into guest memory */
	STEP_LOOP,  /* let the I/O loop run */
	STEP_RESET, /* of the device */
	STEP_HOLD,  /* the VM is paused; the next one lets it go on */
	STEPS,
};

/* What the operand "base" picks: see program_address(). */
enum program_base { BASE_DATA, BASE_TABLE, BASE_QUEUE, BASE_ZERO, BASE_END, BASE_HUGE, BASES };

/* The indirect table that STEP_TABLE writes. */
#define PROGRAM_TABLE (DRIVER_DATA + 0x10000u)

/**
 * program_run() - Run one input against a device, then reset it.
 * @d: driver with its device; the same for all inputs.
 */
void program_run(struct driver *d, const uint8_t *data, size_t size);

#endif
