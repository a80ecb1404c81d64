/* SPDX-License-Identifier: Apache-2.0 */
/* Enters the buffers of a device's request into the memory's table of I/O in flight, and takes them out again. */
#include "vmm/guest-flight.h"

#include <assert.h>

#include "ksm/in-flight.h"

/* The frames of a buffer. Return: false when there are none. */
static bool frames_of(const struct guest_memory *mem, const struct iovec *iov, struct guest_flight *ret)
{
	uint64_t in_page = (uintptr_t)iov->iov_base & PAGE_MASK;
	gfn_t first;

	if (iov->iov_len == 0)
		return false;
	if (guest_frame_at(mem, iov->iov_base, &first) < 0) {
		assert(!"a buffer outside of RAM");
		return false;
	}
	ret->first = (uint32_t)first.v;
	ret->frames = (uint32_t)((in_page + iov->iov_len + PAGE_MASK) / PAGE_BYTES);
	return true;
}

unsigned guest_flight_enter(const struct guest_memory *mem, const struct iovec *iov, unsigned count,
			    struct guest_flight *ret)
{
	unsigned n = 0;

	for (unsigned i = 0; i < count; i++) {
		struct guest_flight *last = n ? &ret[n - 1] : NULL, f;
		uint64_t end;

		if (!frames_of(mem, &iov[i], &f))
			continue;
		end = (uint64_t)f.first + f.frames;
		/* Begins in the frame in which the last one ends, or right after it. */
		if (last && f.first >= last->first && f.first <= last->first + last->frames) {
			uint64_t last_end = (uint64_t)last->first + last->frames;

			last->frames = (uint32_t)((end > last_end ? end : last_end) - last->first);
		} else {
			ret[n++] = f;
		}
	}
	for (unsigned i = 0; i < n; i++) {
		int r = in_flight_enter(guest_memory_in_flight(mem), GFN(ret[i].first), ret[i].frames);

		assert(r == 0);
		(void)r;
	}
	return n;
}

void guest_flight_leave(const struct guest_memory *mem, const struct guest_flight *flights, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		in_flight_leave(guest_memory_in_flight(mem), GFN(flights[i].first), flights[i].frames);
}
