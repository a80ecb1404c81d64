/* SPDX-License-Identifier: Apache-2.0 */
/* Enters the buffers of a device's request into the memory's table of I/O in flight, and takes them out again. */
#ifndef SARDINE_VMM_GUEST_FLIGHT_H
#define SARDINE_VMM_GUEST_FLIGHT_H

#include <sys/uio.h>

#include "vmm/guest-memory.h"

/* Frames of one request that lie in one piece. */
struct guest_flight {
	uint32_t first;
	uint32_t frames;
};
_Static_assert((GUEST_MEMORY_HIGH + GUEST_MEMORY_MAX) / PAGE_BYTES <= UINT32_MAX, "frame numbers fit");

/**
 * guest_flight_enter() - From now on the kernel may read or write these buffers on its own.
 * @mem: the memory.
 * @iov, @count: spans of RAM, each in one region.
 * @ret: @count entries, some of which are filled: what guest_flight_leave() needs, since @iov may change.
 *
 * Reading counts, too: while the guest is held, pages are moved, and who reads then may see zeros.
 *
 * Context: any thread, before the I/O is submitted; never waits.
 * Return: entries filled, fewer than @count where buffers lie side by side.
 */
unsigned guest_flight_enter(const struct guest_memory *mem, const struct iovec *iov, unsigned count,
			    struct guest_flight *ret);

/* The I/O is complete. */
void guest_flight_leave(const struct guest_memory *mem, const struct guest_flight *flights, unsigned count);

#endif
