/* SPDX-License-Identifier: Apache-2.0 */
/* Frames with device I/O in flight: what the kernel, on behalf of a device, may write behind everybody's back. */
#ifndef SARDINE_KSM_IN_FLIGHT_H
#define SARDINE_KSM_IN_FLIGHT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/addr.h"
#include "base/cleanup.h"

/* Frames that are told apart: a question about one of them is answered for all 16 (64 KiB). */
#define IN_FLIGHT_FRAMES 16u

struct in_flight;

/**
 * in_flight_new() - An empty table.
 * @frames: all frames have numbers below this. Takes 4 bytes per 64 KiB, and only of pages of it that are used.
 * @ret: freed with in_flight_free().
 *
 * Return: 0 or -ENOMEM.
 */
int in_flight_new(uint64_t frames, struct in_flight **ret) must_check;
void in_flight_free(struct in_flight *t);
DEFINE_CLEANUP(struct in_flight, in_flight_free)

/**
 * in_flight_enter() - Announce I/O that writes to frames, before it is submitted.
 * @t: the table.
 * @first, @frames: of one piece of guest memory of the request; entries may overlap.
 *
 * Context: any thread; never waits, never allocates.
 * Return: 0, or -EFAULT beyond the table (nothing is entered).
 */
int in_flight_enter(struct in_flight *t, gfn_t first, uint64_t frames) must_check;

/* Take back what was entered, once the kernel has reported the I/O complete. */
void in_flight_leave(struct in_flight *t, gfn_t first, uint64_t frames);

/**
 * in_flight_any() - Whether any of the frames may have I/O in flight.
 *
 * Ask after the frames were protected and before they are read, and again while writers are held: see the theory of
 * operation of ksm/extent-apply.c.
 *
 * Context: any thread. False when nothing is entered: then all bytes of I/O that left are visible to the caller.
 */
bool in_flight_any(const struct in_flight *t, gfn_t first, uint64_t frames);

#endif
