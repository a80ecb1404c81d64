/* SPDX-License-Identifier: Apache-2.0 */
/* A counter per 64 KiB: coarse, but nothing to allocate, nothing to fail, and no lock on the way of I/O. */
#include "ksm/in-flight.h"

#include <errno.h>
#include <stdatomic.h>
#include <sys/mman.h>

#include "base/size.h"

/*
 * Memory ordering. Entering is sequenced before the system call that submits, so before the kernel pins the pages.
 * Whoever asks has protected them before it asks. Either the pin came first: then its entry is visible here (the
 * kernel's page table lock orders the two); or the protection came first: then the pin's fault clears it, and the page
 * counts as written. Leaving releases, asking acquires: an entry seen to be gone means that its bytes have landed.
 */
struct in_flight {
	uint64_t frames;
	uint64_t bytes; /* of this mapping */
	_Atomic uint32_t counters[];
};

int in_flight_new(uint64_t frames, struct in_flight **ret)
{
	uint64_t counters = frames / IN_FLIGHT_FRAMES + 1;
	uint64_t bytes = page_up(sizeof(struct in_flight) + counters * sizeof(_Atomic uint32_t));
	struct in_flight *t;

	if (frames > UINT64_MAX >> PAGE_SHIFT)
		return -ENOMEM;
	t = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (t == MAP_FAILED)
		return -ENOMEM;
	t->frames = frames;
	t->bytes = bytes;
	*ret = t;
	return 0;
}

void in_flight_free(struct in_flight *t)
{
	if (t)
		munmap(t, t->bytes);
}

int in_flight_enter(struct in_flight *t, gfn_t first, uint64_t frames)
{
	if (!range_fits(first.v, frames, t->frames))
		return -EFAULT;
	if (frames == 0)
		return 0;
	for (uint64_t i = first.v / IN_FLIGHT_FRAMES; i <= (first.v + frames - 1) / IN_FLIGHT_FRAMES; i++)
		atomic_fetch_add_explicit(&t->counters[i], 1, memory_order_seq_cst);
	return 0;
}

void in_flight_leave(struct in_flight *t, gfn_t first, uint64_t frames)
{
	if (frames == 0)
		return;
	for (uint64_t i = first.v / IN_FLIGHT_FRAMES; i <= (first.v + frames - 1) / IN_FLIGHT_FRAMES; i++)
		atomic_fetch_sub_explicit(&t->counters[i], 1, memory_order_seq_cst);
}

bool in_flight_any(const struct in_flight *t, gfn_t first, uint64_t frames)
{
	if (frames == 0)
		return false;
	if (!range_fits(first.v, frames, t->frames))
		return true; /* cannot be known */
	for (uint64_t i = first.v / IN_FLIGHT_FRAMES; i <= (first.v + frames - 1) / IN_FLIGHT_FRAMES; i++)
		if (atomic_load_explicit(&t->counters[i], memory_order_seq_cst))
			return true;
	return false;
}
