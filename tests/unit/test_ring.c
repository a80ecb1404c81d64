/* SPDX-License-Identifier: Apache-2.0 */
/* Rings in shared memory: records come whole and in order, and the other side can make up records but nothing else. */
#include "ksm/ring.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "tests/unit/test.h"

#define CAPACITY 16u

struct record {
	uint64_t number, check;
};

struct pair {
	_Alignas(64) uint8_t memory[sizeof(struct ring_counters) + sizeof(struct record) * CAPACITY];
	uint8_t behind[64];
	struct ring writer, reader;
};

static void pair_init(struct pair *p)
{
	memset(p, 0, sizeof(*p));
	memset(p->behind, 0xa5, sizeof(p->behind));
	assert_int_equal(ring_bytes(sizeof(struct record), CAPACITY), sizeof(p->memory));
	ring_init(&p->writer, p->memory, sizeof(struct record), CAPACITY);
	ring_init(&p->reader, p->memory, sizeof(struct record), CAPACITY);
}

static void assert_behind(const struct pair *p)
{
	for (size_t i = 0; i < sizeof(p->behind); i++)
		assert_int_equal(p->behind[i], 0xa5);
}

static int put(struct pair *p, uint64_t first, uint32_t count, bool *bell)
{
	struct record r[CAPACITY + 1];

	for (uint32_t i = 0; i < count; i++)
		r[i] = (struct record){first + i, ~(first + i)};
	return ring_put(&p->writer, r, count, bell);
}

static int get(struct pair *p, uint64_t first, uint32_t max)
{
	struct record r[CAPACITY + 1];
	int n = ring_get(&p->reader, r, max);

	for (int i = 0; i < n; i++) {
		assert_int_equal(r[i].number, first + (unsigned)i);
		assert_int_equal(r[i].check, ~r[i].number);
	}
	return n;
}

TEST(records_come_in_order_round_the_end)
{
	struct pair p;
	uint64_t in = 0, out = 0;

	pair_init(&p);
	assert_int_equal(get(&p, 0, 4), 0);
	for (unsigned i = 0; i < 1000; i++) {
		uint32_t count = i % (CAPACITY + 1);

		assert_int_equal(put(&p, in, count, NULL), 0);
		in += count;
		while (out < in) {
			int n = get(&p, out, i % 5 + 1);

			assert_true(n > 0);
			out += (unsigned)n;
		}
	}
	assert_behind(&p);
}

TEST(what_has_no_room_is_refused_whole)
{
	struct pair p;

	pair_init(&p);
	assert_int_equal(put(&p, 0, CAPACITY + 1, NULL), -ENOSPC);
	assert_int_equal(put(&p, 0, CAPACITY - 1, NULL), 0);
	assert_int_equal(put(&p, 90, 2, NULL), -ENOSPC);
	assert_int_equal(put(&p, CAPACITY - 1, 1, NULL), 0);
	assert_int_equal(put(&p, 90, 1, NULL), -ENOSPC);
	assert_int_equal(get(&p, 0, CAPACITY), CAPACITY);
	assert_int_equal(get(&p, 0, CAPACITY), 0);
}

TEST(the_bell_rings_when_the_reader_may_sleep)
{
	struct pair p;
	bool bell = false;

	pair_init(&p);
	assert_int_equal(put(&p, 0, 1, &bell), 0);
	assert_true(bell);
	assert_int_equal(put(&p, 1, 1, &bell), 0);
	assert_false(bell);
	assert_int_equal(get(&p, 0, 1), 1);
	assert_int_equal(put(&p, 2, 1, &bell), 0);
	assert_false(bell);
	assert_int_equal(get(&p, 1, 9), 2);
	assert_int_equal(put(&p, 3, 1, &bell), 0);
	assert_true(bell);
}

TEST(counters_of_a_hostile_peer_are_found_out)
{
	static const uint32_t lies[] = {CAPACITY + 1, 1u << 31, UINT32_MAX - CAPACITY, 1000};
	struct pair p;

	for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
		pair_init(&p);
		atomic_store(&p.reader.counters->written, lies[i]);
		assert_int_equal(get(&p, 0, CAPACITY), -EPROTO);
		assert_int_equal(get(&p, 0, UINT32_MAX), -EPROTO);
		atomic_store(&p.writer.counters->read, lies[i]);
		assert_int_equal(put(&p, 0, 1, NULL), -EPROTO);
		assert_behind(&p);
	}
	/* A writer that scribbles over the reader's counter, and the other way round, changes nothing. */
	pair_init(&p);
	assert_int_equal(put(&p, 0, 3, NULL), 0);
	atomic_store(&p.reader.counters->read, 77);
	assert_int_equal(get(&p, 0, 9), 3);
	atomic_store(&p.writer.counters->written, 77);
	assert_int_equal(put(&p, 3, 2, NULL), 0);
	assert_int_equal(get(&p, 3, 9), 2);
}

TEST(counters_wrap)
{
	struct pair p;

	pair_init(&p);
	p.writer.own = p.reader.own = UINT32_MAX - 5;
	atomic_store(&p.writer.counters->written, UINT32_MAX - 5);
	atomic_store(&p.writer.counters->read, UINT32_MAX - 5);
	for (uint64_t i = 0; i < 40; i += 10) {
		assert_int_equal(put(&p, i, 10, NULL), 0);
		assert_int_equal(get(&p, i, 10), 10);
	}
	assert_behind(&p);
}

TEST(rewound_rings_begin_at_their_start)
{
	struct pair p;
	struct record first;

	pair_init(&p);
	assert_int_equal(put(&p, 0, 5, NULL), 0);
	assert_int_equal(get(&p, 0, 5), 5);
	ring_rewind_reader(&p.reader);
	ring_rewind_writer(&p.writer);
	assert_int_equal(put(&p, 50, CAPACITY, NULL), 0);
	memcpy(&first, p.writer.records, sizeof(first));
	assert_int_equal(first.number, 50);
	assert_int_equal(get(&p, 50, CAPACITY), CAPACITY);
}

/* Two threads; also under the thread sanitizer. The reader sleeps only when no bell can be missed. */
#define STREAM 200000u

static atomic_uint bells;

static void *writer_main(void *arg)
{
	struct pair *p = arg;

	for (uint64_t in = 0; in < STREAM;) {
		uint32_t count = in % 7 + 1 < STREAM - in ? (uint32_t)(in % 7 + 1) : (uint32_t)(STREAM - in);
		bool bell = false;

		if (put(p, in, count, &bell) == 0)
			in += count;
		if (bell)
			atomic_fetch_add(&bells, 1);
	}
	return NULL;
}

TEST(two_threads_lose_nothing)
{
	struct pair p;
	pthread_t writer;
	uint64_t out = 0;
	unsigned heard = 0;

	pair_init(&p);
	assert_int_equal(pthread_create(&writer, NULL, writer_main, &p), 0);
	while (out < STREAM) {
		int n = get(&p, out, 5);

		assert_true(n >= 0);
		out += (unsigned)n;
		if (n)
			continue;
		/* Empty: whatever comes from now on rings. */
		while (atomic_load(&bells) == heard)
			;
		heard = atomic_load(&bells);
	}
	pthread_join(writer, NULL);
	assert_int_equal(out, STREAM);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(records_come_in_order_round_the_end),
		cmocka_unit_test(what_has_no_room_is_refused_whole),
		cmocka_unit_test(the_bell_rings_when_the_reader_may_sleep),
		cmocka_unit_test(counters_of_a_hostile_peer_are_found_out),
		cmocka_unit_test(counters_wrap),
		cmocka_unit_test(rewound_rings_begin_at_their_start),
		cmocka_unit_test(two_threads_lose_nothing),
	};

	return TEST_RUN(tests);
}
