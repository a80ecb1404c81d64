/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A peer that writes anything into the counters of a ring, between any two steps: no byte outside of the ring is touched, and no
 * side reads or writes more than the ring holds.
 *
 * Input: a byte for the step, then its argument of four bytes.
 */
#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "ksm/ring.h"
#include "tests/fuzz/require.h"

#define CAPACITY 8u
#define BYTES	 24u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *memory = aligned_alloc(64, ring_bytes(BYTES, CAPACITY));
	uint8_t *records = calloc(CAPACITY, BYTES); /* exactly: one more is found by the sanitizer */
	struct ring writer, reader;

	require(memory && records);
	memset(memory, 0, ring_bytes(BYTES, CAPACITY));
	ring_init(&writer, memory, BYTES, CAPACITY);
	ring_init(&reader, memory, BYTES, CAPACITY);
	for (; size >= 5; data += 5, size -= 5) {
		uint32_t arg;
		bool bell = false;
		int r = 0;

		memcpy(&arg, data + 1, sizeof(arg));
		switch (data[0] % 7) {
		case 0:
			r = ring_put(&writer, records, arg % (CAPACITY + 1), &bell);
			break;
		case 1:
			/* A count above the room for records is refused before they are looked at. */
			if (arg > CAPACITY)
				r = ring_put(&writer, records, arg, NULL);
			require(r <= 0);
			break;
		case 2:
			r = ring_get(&reader, records, arg < CAPACITY ? arg : CAPACITY);
			require(r <= (int)CAPACITY);
			break;
		case 3:
			r = ring_get(&reader, records, UINT32_MAX);
			require(r <= (int)CAPACITY);
			break;
		case 4:
			atomic_store(&reader.counters->written, arg);
			break;
		case 5:
			atomic_store(&writer.counters->read, arg);
			break;
		case 6:
			ring_rewind_writer(&writer);
			ring_rewind_reader(&reader);
			break;
		default:
			break;
		}
		require(r >= 0 || r == -EPROTO || r == -ENOSPC);
	}
	free(records);
	free(memory);
	return 0;
}
