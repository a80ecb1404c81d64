/* SPDX-License-Identifier: Apache-2.0 */
/* A ring of fixed-size records in memory that is shared with a process that is not trusted: one writes, one reads. */
#ifndef SARDINE_KSM_RING_H
#define SARDINE_KSM_RING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"

/*
 * Theory of operation
 *
 * Two counters, each written by one side only, run freely; their difference is what the ring holds. A side keeps its own
 * counter in memory of its own and only publishes it: what the other side scribbles there changes nothing. The other
 * side's counter is read once into a local, and believed only if the difference is at most the capacity. Records are
 * copied out before anybody looks at them, so what was checked is what is used. A hostile peer can thus make records
 * up, and nothing else.
 *
 * Memory ordering: records before the writer's counter (release, paired with the reader's acquire), and reading before the
 * reader's counter (likewise). Both counters are stored and loaded sequentially consistent, so that of a writer that
 * finds the ring empty before its record, and a reader that finds it empty after its last one, at least one is wrong:
 * the writer then rings the bell, or the reader sees the record.
 */
struct ring_counters {
	_Alignas(64) _Atomic uint32_t written;
	_Alignas(64) _Atomic uint32_t read;
};
_Static_assert(sizeof(struct ring_counters) == 128, "this crosses process boundaries");

/* One side of a ring. The memory is the caller's. */
struct ring {
	struct ring_counters *counters;
	uint8_t *records;
	uint32_t record_bytes;
	uint32_t capacity;
	uint32_t own; /* the counter of this side */
};

/* Bytes of a ring in memory: a multiple of 64 for records of 8 bytes or a multiple of that, and 8 or more of them. */
static inline size_t ring_bytes(uint32_t record_bytes, uint32_t capacity)
{
	return sizeof(struct ring_counters) + (size_t)record_bytes * capacity;
}

/**
 * ring_init() - One side of a ring whose counters are both zero.
 * @memory: ring_bytes(), 64-byte aligned; zeroed by whoever made it.
 * @capacity: a power of two.
 */
void ring_init(struct ring *r, void *memory, uint32_t record_bytes, uint32_t capacity);

/* Both sides, while the ring is empty and nobody uses it: begin at its start again. */
void ring_rewind_writer(struct ring *r);
void ring_rewind_reader(struct ring *r);

/**
 * ring_put() - Write records.
 * @count: all of them, or none.
 * @ret_bell: the ring may have looked empty to the reader, who is to be told. May be NULL.
 *
 * Context: the writer; never waits.
 * Return: 0, -ENOSPC, or -EPROTO when the peer's counter is impossible.
 */
int ring_put(struct ring *r, const void *records, uint32_t count, bool *ret_bell) must_check;

/**
 * ring_get() - Take records.
 * @max: at most so many.
 *
 * Context: the reader; never waits.
 * Return: how many were taken, or -EPROTO when the peer's counter is impossible.
 */
int ring_get(struct ring *r, void *records, uint32_t max) must_check;

#endif
