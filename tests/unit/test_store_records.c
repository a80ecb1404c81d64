/* SPDX-License-Identifier: Apache-2.0 */
/* The tables of a store: first-seen frames in as little memory as promised, the index, numbers to pointers. */
#include "ksm/store-internal.h"
#include "tests/unit/store_fixture.h"

#define MANY 80000u

static int no_event(void *ctx, const struct store_event *event)
{
	(void)ctx;
	(void)event;
	return 0;
}

static struct store_client *client_of(struct store *s, uint64_t frames, const _Atomic uint64_t *recorded)
{
	struct store_client_config config = {.frames = frames, .recorded = recorded, .event = no_event};
	struct store_client *c = NULL;

	assert_int_equal(store_client_new(s, &config, &c), 0);
	return c;
}

TEST(records_are_found_at_every_size)
{
	cleanup(store_free_p) struct store *s = store_with((struct store_config){0});
	cleanup(store_client_free_p) struct store_client *c = client_of(s, MANY, NULL);
	double least = 100, most = 0;
	unsigned twins = 0, lost = 0;

	for (uint32_t i = 0; i < MANY; i++) {
		double each;

		if (store_records_find(s, store_hash(s, i))) {
			twins++;
			continue;
		}
		store_records_add(s, store_hash(s, i), c->base + i);
		assert_int_equal(store_records_find(s, store_hash(s, i)), c->base + i);
		if (i < 4096)
			continue;
		each = (double)store_records_bytes(s) / (double)s->records.entries;
		least = each < least ? each : least;
		most = each > most ? each : most;
		if (i % 20000 == 0)
			for (uint32_t k = 0; k < i; k++)
				lost += store_records_find(s, store_hash(s, k)) != c->base + k;
	}
	print_message("%u records: %.2f to %.2f bytes each; %u false twins, %llu evicted\n", MANY, least,
		      most, twins, (unsigned long long)s->stats.records_evicted);
	/* One in 2^35 per record that is there; and one in some 30,000 has no place. Counted five times. */
	assert_true(twins <= 20);
	assert_true(s->stats.records_evicted < MANY / 2000 && lost <= 5 * (s->stats.records_evicted + twins));
	assert_true(most <= 10.1);
	for (uint32_t i = 0; i < MANY; i += 2)
		store_records_remove(s, store_hash(s, i));
	lost = 0;
	for (uint32_t i = 0; i < MANY; i++)
		lost += store_records_find(s, store_hash(s, i)) != (i % 2 ? c->base + i : 0);
	assert_true(lost <= s->stats.records_evicted + 2 * twins);
	for (uint32_t i = 0; i < MANY; i++)
		twins += store_records_find(s, store_hash(s, (uint64_t)i << 32 | 1)) != 0;
	assert_true(twins <= 40);
}

TEST(what_belongs_to_one_client_goes_with_it)
{
	cleanup(store_free_p) struct store *s = store_with((struct store_config){0});
	struct store_client *a = client_of(s, 100000, NULL), *b = client_of(s, 100000, NULL), *c;
	store_owner_t base = a->base;
	unsigned found = 0, twins = 0;

	for (uint32_t i = 0; i < 100000; i++) {
		store_records_add(s, store_hash(s, i), a->base + i);
		if (i % 10 == 0)
			store_records_add(s, store_hash(s, i + 1000000), b->base + i);
	}
	store_client_free(a);
	assert_in_range(s->records.entries, 9990, 10000);
	assert_true(store_records_bytes(s) < 10000 * 20);
	for (uint32_t i = 0; i < 100000; i++) {
		twins += store_records_find(s, store_hash(s, i)) != 0;
		if (i % 10 == 0)
			found += store_records_find(s, store_hash(s, i + 1000000)) == b->base + i;
	}
	/* Places are by chance: a twin now and then is none. */
	assert_in_range(found, s->records.entries - 10, s->records.entries);
	assert_true(twins <= 10);
	c = client_of(s, 100000, NULL);
	assert_int_equal(c->base, base); /* its numbers are used again */
	store_client_free(b);
	store_client_free(c);
	assert_int_equal(s->records.entries, 0);
}

TEST(numbers_of_frames_do_not_overlap)
{
	cleanup(store_free_p) struct store *s = store_with((struct store_config){0});
	struct store_client *c[40];
	unsigned n = 0;

	for (; n < 40; n++) {
		struct store_client_config config = {.frames = STORE_FRAMES_MAX, .event = no_event};

		if (store_client_new(s, &config, &c[n]) < 0)
			break;
	}
	assert_int_equal(n, 16); /* 256 TiB */
	store_client_free(c[5]);
	c[5] = client_of(s, 10, NULL);
	c[16] = client_of(s, STORE_FRAMES_MAX - 10, NULL);
	for (unsigned i = 0; i < 17; i++) {
		assert_ptr_equal(store_client_of(s, c[i]->base), c[i]);
		assert_ptr_equal(store_client_of(s, c[i]->base + c[i]->config.frames - 1), c[i]);
	}
	assert_null(store_client_of(s, 0));
	for (unsigned i = 0; i < 17; i++)
		store_client_free(c[i]);
	assert_null(store_client_of(s, 1));
}

/* More records than frames: the oldest go, the table stays. */
TEST(the_table_is_bounded_by_the_frames)
{
	cleanup(store_free_p) struct store *s = store_with((struct store_config){0});
	cleanup(store_client_free_p) struct store_client *c = client_of(s, 10000, NULL);
	unsigned young = 0, old = 0;

	for (uint32_t i = 0; i < 60000; i++)
		store_records_add(s, store_hash(s, i), c->base + i % 10000);
	assert_true(store_records_bytes(s) <= 10000 * 10 + 64);
	for (uint32_t i = 0; i < 5000; i++) {
		old += store_records_find(s, store_hash(s, i)) != 0;
		young += store_records_find(s, store_hash(s, 59999 - i)) != 0;
	}
	assert_true(old <= 5);
	assert_true(young > 3500);
}

TEST(what_does_not_hold_goes_first)
{
	static _Atomic uint64_t recorded[20000 / 64 + 1];
	cleanup(store_free_p) struct store *s = store_with((struct store_config){0});
	cleanup(store_client_free_p) struct store_client *c = client_of(s, 20000, recorded);
	unsigned found = 0;

	/* 5,000 that hold among ever more that do not */
	for (uint32_t i = 0; i < 5000; i++)
		recorded[i / 64] |= (uint64_t)1 << i % 64;
	for (uint32_t i = 0; i < 5000; i++)
		store_records_add(s, store_hash(s, i), c->base + i);
	for (uint32_t i = 5000; i < 60000; i++)
		store_records_add(s, store_hash(s, i), c->base + 5000 + i % 15000);
	for (uint32_t i = 0; i < 5000; i++)
		found += store_records_find(s, store_hash(s, i)) == c->base + i;
	assert_in_range(found, 4980, 5000);
	assert_true(store_records_bytes(s) < 5000 * 16);
}

TEST(index_follows_its_segments)
{
	cleanup(store_free_p) struct store *s = store_with((struct store_config){0});
	cleanup(peer_done) struct peer a;
	auto_free uint64_t *contents = calloc(SEGMENT_PAGES, sizeof(*contents));
	uint32_t first = 0, segments[20];
	struct store_place at;

	peer_init(&a, s);
	/* Again and again: tombstones do not fill the table. */
	for (unsigned round = 0; round < 4; round++) {
		for (uint32_t i = 0; i < 20; i++) {
			for (uint32_t k = 0; k < SEGMENT_PAGES; k++)
				contents[k] = 1 + round * 3 + i * SEGMENT_PAGES + k;
			segments[i] = peer_donate(&a, contents, SEGMENT_PAGES);
			first = first ? first : segments[i];
		}
		for (uint64_t k = 0; k < 20 * SEGMENT_PAGES; k++) {
			assert_true(store_index_find(s, store_hash(s, content_key(1 + round * 3 + k)), &at));
			assert_int_equal(at.segment->number, segments[k / SEGMENT_PAGES]);
			assert_int_equal(at.page, k % SEGMENT_PAGES);
		}
		assert_int_equal(s->index.entries, 20 * SEGMENT_PAGES);
		print_message("%.1f bytes per page\n",
			      (double)stats_of(s).index_bytes / (20 * SEGMENT_PAGES));
		assert_true(stats_of(s).index_bytes < 20 * SEGMENT_PAGES * 25);
		store_tick(s, 1 + 3 * round * STORE_EVACUATE_NS);
		store_tick(s, 1 + (3 * round + 1) * (uint64_t)STORE_EVACUATE_NS);
		assert_int_equal(s->index.entries, 0);
		for (uint64_t k = 0; k < 20 * SEGMENT_PAGES; k++)
			assert_false(store_index_find(s, store_hash(s, content_key(1 + round * 3 + k)), &at));
	}
	assert_int_equal(segments[0], first + 60); /* numbers are not used again soon */
}

/* The numbers come around; those in use are left out, also across chunks that come and go. */
TEST(numbers_of_segments_come_around)
{
	cleanup(store_free_p) struct store *s = store_with((struct store_config){0});
	cleanup(peer_done) struct peer a;
	uint32_t g, before;

	peer_init(&a, s);
	g = peer_donate(&a, (uint64_t[]){1}, 1);
	assert_int_equal(g, 1);
	s->last_number = STORE_SEGMENTS_MAX - 1;
	before = peer_donate(&a, (uint64_t[]){2}, 1);
	assert_int_equal(before, STORE_SEGMENTS_MAX);
	assert_int_equal(peer_donate(&a, (uint64_t[]){3}, 1), 2);
	assert_int_equal(peer_submit(&a, 0, 2).segment, before);
	assert_int_equal(stats_of(s).segments, 3);
}

TEST(numbers_to_pointers)
{
	struct id_map m = {0};
	static int things[5000];
	static bool there[5000];
	uint64_t seed = 1;

	assert_null(id_map_get(&m, 1));
	assert_null(id_map_remove(&m, 1));
	for (unsigned i = 0; i < 60000; i++) {
		uint64_t n;

		seed = seed * 6364136223846793005u + 1442695040888963407u;
		n = (seed >> 33) % (i < 100000 ? 5000 : 40);
		if (seed >> 63) {
			assert_int_equal(id_map_put(&m, n << 40, &things[n]), 0);
			there[n] = true;
		} else {
			assert_ptr_equal(id_map_remove(&m, n << 40), there[n] ? &things[n] : NULL);
			there[n] = false;
		}
		n = (seed >> 20) % 5000;
		assert_ptr_equal(id_map_get(&m, n << 40), there[n] ? &things[n] : NULL);
	}
	assert_true(id_map_bytes(&m) <= 16 * 5000 * sizeof(struct id_slot));
	for (uint64_t n = 40; n < 5000; n++) {
		assert_ptr_equal(id_map_remove(&m, n << 40), there[n] ? &things[n] : NULL);
		there[n] = false;
	}
	assert_true(id_map_bytes(&m) <= 16 * 64 * sizeof(struct id_slot));
	for (uint64_t n = 0; n < 5000; n++)
		assert_ptr_equal(id_map_remove(&m, n << 40), there[n] ? &things[n] : NULL);
	assert_int_equal(id_map_bytes(&m), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(records_are_found_at_every_size),
		cmocka_unit_test(what_belongs_to_one_client_goes_with_it),
		cmocka_unit_test(numbers_of_frames_do_not_overlap),
		cmocka_unit_test(the_table_is_bounded_by_the_frames),
		cmocka_unit_test(what_does_not_hold_goes_first),
		cmocka_unit_test(index_follows_its_segments),
		cmocka_unit_test(numbers_of_segments_come_around),
		cmocka_unit_test(numbers_to_pointers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
