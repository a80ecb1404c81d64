/* SPDX-License-Identifier: Apache-2.0 */
/* A ring of fixed-size records in memory that is shared with a process that is not trusted. */
#include "ksm/ring.h"

#include <errno.h>
#include <limits.h>
#include <stdatomic.h>
#include <string.h>

#include "base/planted.h"

void ring_init(struct ring *r, void *memory, uint32_t record_bytes, uint32_t capacity)
{
	*r = (struct ring){
		.counters = memory,
		.records = (uint8_t *)memory + sizeof(struct ring_counters),
		.record_bytes = record_bytes,
		.capacity = capacity,
	};
}

void ring_rewind_writer(struct ring *r)
{
	r->own = 0;
	atomic_store_explicit(&r->counters->written, 0, memory_order_release);
}

void ring_rewind_reader(struct ring *r)
{
	r->own = 0;
	atomic_store_explicit(&r->counters->read, 0, memory_order_release);
}

/* Where the records from a counter on lie: @ret_first of them up to the end, the others from the start on. */
static uint8_t *place(const struct ring *r, uint32_t counter, uint32_t count, uint32_t *ret_first)
{
	uint32_t at = counter & (r->capacity - 1);
	uint32_t to_end = r->capacity - at;

	*ret_first = count < to_end ? count : to_end;
	return r->records + (size_t)at * r->record_bytes;
}

int ring_put(struct ring *r, const void *records, uint32_t count, bool *ret_bell)
{
	uint32_t read = atomic_load_explicit(&r->counters->read, memory_order_acquire);
	uint32_t held = r->own - read, first;
	uint8_t *at;

	if (held > r->capacity)
		return -EPROTO;
	if (count > r->capacity - held)
		return -ENOSPC;
	at = place(r, r->own, count, &first);
	memcpy(at, records, (size_t)first * r->record_bytes);
	memcpy(r->records, (const uint8_t *)records + (size_t)first * r->record_bytes,
	       (size_t)(count - first) * r->record_bytes);
	atomic_store_explicit(&r->counters->written, r->own + count, memory_order_seq_cst);
	if (ret_bell)
		*ret_bell =
			atomic_load_explicit(&r->counters->read, memory_order_seq_cst) == r->own && count > 0;
	r->own += count;
	return 0;
}

int ring_get(struct ring *r, void *records, uint32_t max)
{
	uint32_t written = atomic_load_explicit(&r->counters->written, memory_order_seq_cst);
	uint32_t count = written - r->own, first;
	const uint8_t *at;

	if (count > r->capacity && !PLANTED("ring"))
		return -EPROTO;
	if (count > max)
		count = max;
	if (count > INT_MAX)
		count = INT_MAX;
	if (count == 0)
		return 0;
	at = place(r, r->own, count, &first);
	memcpy(records, at, (size_t)first * r->record_bytes);
	memcpy((uint8_t *)records + (size_t)first * r->record_bytes, r->records,
	       (size_t)(count - first) * r->record_bytes);
	r->own += count;
	atomic_store_explicit(&r->counters->read, r->own, memory_order_seq_cst);
	return (int)count;
}
