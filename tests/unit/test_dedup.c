/* SPDX-License-Identifier: Apache-2.0 */
/* Exact grouping against a counter that compares every page with every other one, over random images, with
 * hashes from good to useless, sources that fail, and a stop at any time. */
#include "ksm/dedup-count.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "ksm/page-hash.h"
#include "tests/unit/test.h"

#define P 4096u

/* An image in memory; reads of [bad_from, bad_to) fail. */
struct memory {
	char *bytes;
	uint64_t len, bad_from, bad_to;
};

static int memory_read(void *ctx, uint64_t where, void *buf, size_t len)
{
	const struct memory *m = ctx;

	assert_true(where <= m->len && len <= m->len - where);
	if (where < m->bad_to && where + len > m->bad_from)
		return -EIO;
	memcpy(buf, m->bytes + where, len);
	return 0;
}

static const struct page_source_ops memory_ops = {.read = memory_read};

static uint32_t random_state = 1;

static uint32_t rnd(uint32_t below)
{
	random_state = random_state * 1664525u + 1013904223u;
	return (uint32_t)(((uint64_t)random_state * below) >> 32);
}

/* A page by number: 0 zero, 1-3 fill patterns, others data that differ late, early, or in the middle. */
static void page_make(char *page, uint32_t number)
{
	static const uint64_t words[] = {0xccccccccccccccccull, 0x0123456789abcdefull, 1};

	memset(page, 0, P);
	if (number == 0)
		return;
	if (number <= 3) {
		for (size_t i = 0; i < P; i += 8)
			memcpy(page + i, &words[number - 1], 8);
		return;
	}
	memcpy(page + (number % 3) * (P / 2 - 4), &number, sizeof(number));
}

static void memory_make(struct memory *m, uint64_t pages, uint32_t contents)
{
	*m = (struct memory){.bytes = malloc(pages * P), .len = pages * P};
	assert_non_null(m->bytes);
	for (uint64_t i = 0; i < pages;) {
		uint32_t number = rnd(contents), run = rnd(4) ? 1 : 1 + rnd(40);

		for (; run-- && i < pages; i++, number++)
			page_make(m->bytes + i * P, number);
	}
}

struct world {
	struct memory memories[3];
	struct page_set set;
};

static void world_make(struct world *w, uint64_t pages, uint32_t contents)
{
	page_set_init(&w->set, P);
	for (unsigned i = 0; i < 3; i++) {
		/* With a gap in the addresses that is none in the source. */
		uint64_t half = (pages / 2 + i) * P;
		struct page_range ranges[2] = {{0, half, 0}, {half + 8 * P, pages * P - half, half}};

		memory_make(&w->memories[i], pages, contents);
		assert_int_equal(page_set_add(&w->set, "m", &memory_ops, &w->memories[i], ranges, 2), 0);
	}
}

static void world_done(struct world *w)
{
	page_set_done(&w->set);
	for (unsigned i = 0; i < 3; i++)
		free(w->memories[i].bytes);
}

static const char *page_of(const struct world *w, uint64_t page)
{
	unsigned i = page_set_image(&w->set, page);

	return w->memories[i].bytes + (page - w->set.images[i].first) * P;
}

static void check_exact(const struct world *w, const struct dedup *d)
{
	static const char zero[P];

	for (uint64_t a = 0; a < w->set.pages; a++) {
		if (dedup_bit(d->missing, a)) {
			assert_int_equal(d->classes[a], 0);
			continue;
		}
		assert_int_equal(d->classes[a] == 0, memcmp(page_of(w, a), zero, P) == 0);
		for (uint64_t b = 0; b < a; b++)
			if (!dedup_bit(d->missing, b))
				assert_int_equal(d->classes[a] == d->classes[b],
						 memcmp(page_of(w, a), page_of(w, b), P) == 0);
	}
}

TEST(any_hash_and_any_number_of_threads_is_exact)
{
	static const uint64_t masks[] = {0, 0xf, 0xff00000000000000ull, 1ull << 40, 0xfff};
	static const unsigned threads[] = {0, 1, 2, 5};

	for (unsigned round = 0; round < 20; round++) {
		struct dedup_options options = {.hash_mask = masks[round % ARRAY_SIZE(masks)]};
		struct work_control control = {.threads = threads[round % ARRAY_SIZE(threads)]};
		struct world w;
		struct dedup d;

		world_make(&w, 200 + 40 * (round % 5), 10 + 100 * (round % 4));
		assert_int_equal(dedup_run(&d, &w.set, &options, &control), 0);
		assert_int_equal(d.missing_pages, 0);
		assert_false(d.stopped);
		check_exact(&w, &d);
		if (masks[round % ARRAY_SIZE(masks)] == 0)
			assert_int_equal(d.collided_pages, 0);
		else if (round % 4 == 3)
			assert_true(d.collided_pages > 0);
		dedup_done(&d);
		world_done(&w);
	}
}

TEST(unreadable_pages_are_missing_and_the_rest_is_exact)
{
	struct work_control control = {.threads = 2};
	struct dedup_options options = {.hash_mask = 0xff};
	struct world w;
	struct dedup d;

	world_make(&w, 300, 60);
	w.memories[1].bad_from = 10 * P + 5;
	w.memories[1].bad_to = 13 * P;
	assert_int_equal(dedup_run(&d, &w.set, &options, &control), 0);
	assert_int_equal(d.missing_pages, 3);
	assert_true(dedup_bit(d.missing, 310));
	check_exact(&w, &d);
	dedup_done(&d);
	world_done(&w);
}

/* A source that raises the stop flag, or begins to fail, at its n-th read. */
struct trap {
	struct memory *memory;
	atomic_int *stop;
	_Atomic uint64_t left;
};

static int trap_read(void *ctx, uint64_t where, void *buf, size_t len)
{
	struct trap *t = ctx;

	if (atomic_load(&t->left) == 0) {
		if (!t->stop)
			return -EIO;
		atomic_store(t->stop, 1);
	} else {
		atomic_fetch_sub(&t->left, 1);
	}
	return memory_read(t->memory, where, buf, len);
}

static const struct page_source_ops trap_ops = {.read = trap_read};

TEST(after_a_stop_or_failure_at_any_read_what_is_left_is_exact)
{
	for (unsigned mode = 0; mode < 2; mode++) {
		for (uint64_t left = 0; left < 400; left += left < 40 ? 1 : 17) {
			struct page_range range = {0, 700 * P, 0};
			struct dedup_options options = {.hash_mask = 0x7};
			atomic_int stop = 0;
			struct work_control control = {.threads = 1, .stop = &stop};
			struct world w = {0};
			struct trap trap = {.memory = &w.memories[0], .left = left};
			struct dedup d;

			if (mode == 0)
				trap.stop = &stop;
			memory_make(&w.memories[0], 700, 80);
			page_set_init(&w.set, P);
			assert_int_equal(page_set_add(&w.set, "m", &trap_ops, &trap, &range, 1), 0);
			assert_int_equal(dedup_run(&d, &w.set, &options, &control), 0);
			if (left == 0 && mode == 1)
				assert_int_equal(d.missing_pages, 700);
			/* A stop at the very end may find everything done. */
			assert_true(stop || !d.stopped);
			assert_true(d.stopped || mode == 1 || d.missing_pages == 0);
			check_exact(&w, &d);
			dedup_done(&d);
			world_done(&w);
		}
	}
}

/* A source of which every n-th read fails, once. */
struct shaky {
	struct memory *memory;
	uint64_t every, reads;
};

static int shaky_read(void *ctx, uint64_t where, void *buf, size_t len)
{
	struct shaky *s = ctx;

	if (++s->reads % s->every == 0)
		return -EIO;
	return memory_read(s->memory, where, buf, len);
}

static const struct page_source_ops shaky_ops = {.read = shaky_read};

TEST(reads_that_fail_now_and_then_lose_pages_and_nothing_else)
{
	static const uint64_t masks[] = {0, 0x1, 0xf};
	uint64_t lost = 0;

	for (unsigned round = 0; round < 90; round++) {
		struct page_range range = {0, 500 * P, 0};
		struct dedup_options options = {.hash_mask = masks[round % 3]};
		struct work_control control = {.threads = 0};
		struct world w = {0};
		struct shaky shaky = {.memory = &w.memories[0], .every = 2 + round / 3};
		struct dedup d;

		memory_make(&w.memories[0], 500, 60);
		page_set_init(&w.set, P);
		assert_int_equal(page_set_add(&w.set, "m", &shaky_ops, &shaky, &range, 1), 0);
		assert_int_equal(dedup_run(&d, &w.set, &options, &control), 0);
		check_exact(&w, &d);
		lost += d.missing_pages;
		assert_true(round % 3 || shaky.every < 10 || d.missing_pages < 100);
		dedup_done(&d);
		world_done(&w);
	}
	assert_true(lost > 0);
}

/* Changes a page after its n-th read. */
struct fickle {
	struct memory *memory;
	uint64_t reads, page;
};

static int fickle_read(void *ctx, uint64_t where, void *buf, size_t len)
{
	struct fickle *f = ctx;

	if (f->reads && --f->reads == 0)
		f->memory->bytes[f->page * P + 100] ^= 1;
	return memory_read(f->memory, where, buf, len);
}

static const struct page_source_ops fickle_ops = {.read = fickle_read};

TEST(changes_are_counted)
{
	for (uint64_t reads = 2; reads < 5; reads++) {
		struct page_range range = {0, 256 * P, 0};
		struct dedup_options options = {.recheck = true};
		struct work_control control = {.threads = 1};
		struct memory m;
		struct fickle f = {.memory = &m, .reads = 0, .page = 3};
		struct page_set set;
		struct dedup d;

		memory_make(&m, 256, 200);
		page_set_init(&set, P);
		assert_int_equal(page_set_add(&set, "m", &fickle_ops, &f, &range, 1), 0);
		assert_int_equal(dedup_run(&d, &set, &options, &control), 0);
		assert_int_equal(d.changed_pages, 0);
		dedup_done(&d);
		/* 256 pages are 4 reads of 64. */
		f.reads = reads;
		assert_int_equal(dedup_run(&d, &set, &options, &control), 0);
		assert_int_equal(d.changed_pages, 1);
		dedup_done(&d);
		page_set_done(&set);
		free(m.bytes);
	}
}

TEST(kinds_of_pages)
{
	static const uint64_t words[] = {1, 0xcc, 0x8000000000000000ull, 0xccccccccccccccccull, UINT64_MAX};
	uint64_t page[P / 8] = {0};

	assert_int_equal(page_identify(page, P).kind, PAGE_ZERO);
	for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
		struct page_id id;

		for (size_t k = 0; k < P / 8; k++)
			page[k] = words[i];
		id = page_identify(page, P);
		assert_int_equal(id.kind, PAGE_FILL);
		assert_int_not_equal(id.key, 0);
		assert_int_equal(page_fill_word(id.key), words[i]);
		page[P / 8 - 1] ^= 1;
		assert_int_equal(page_identify(page, P).kind, PAGE_DATA);
	}
}

/* A row by hand: a b c 0 | a b x F F b, with images of 4 and 6 pages. */
TEST(counts_by_hand)
{
	static const uint32_t numbers[] = {10, 11, 12, 0, 10, 11, 13, 1, 1, 11};
	struct page_range first = {0, 4 * P, 0}, second = {0, 6 * P, 4 * P};
	struct memory m = {.bytes = malloc(sizeof(numbers) / 4 * P), .len = sizeof(numbers) / 4 * P};
	struct work_control control = {.threads = 1};
	struct page_set set;
	struct dedup d;
	struct counts c;

	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
		page_make(m.bytes + i * P, numbers[i]);
	page_set_init(&set, P);
	assert_int_equal(page_set_add(&set, "a", &memory_ops, &m, &first, 1), 0);
	assert_int_equal(page_set_add(&set, "b", &memory_ops, &m, &second, 1), 0);
	assert_int_equal(dedup_run(&d, &set, NULL, &control), 0);
	assert_int_equal(dedup_count(&d, &c), 0);
	assert_int_equal(c.total.pages, 10);
	assert_int_equal(c.total.zero, 1);
	assert_int_equal(c.total.fill, 2);
	assert_int_equal(c.total.nonzero, 9);
	assert_int_equal(c.total.distinct, 5); /* a b c x F */
	assert_int_equal(c.total.saved, 4);
	assert_int_equal(c.total.duplicate, 7); /* a a b b b F F */
	assert_int_equal(c.total.intra, 2);	/* b and F in the second */
	assert_int_equal(c.total.inter, 2);
	assert_int_equal(c.images[0].duplicate, 2);
	assert_int_equal(c.images[0].unique, 1);
	assert_int_equal(c.images[0].distinct, 3);
	assert_int_equal(c.images[1].duplicate, 5);
	assert_int_equal(c.images[1].fill, 2);
	assert_int_equal(c.images[1].distinct, 4);
	/* Runs: ab, ab, F, F, b. */
	assert_int_equal(c.runs[0], 7);
	assert_int_equal(c.runs[1], 4);
	assert_int_equal(c.runs[2], 0);
	assert_int_equal(c.pairs[0], 3);
	assert_int_equal(c.pairs[1], 2);
	assert_int_equal(c.pairs[2], 2);
	assert_int_equal(c.pairs[3], 4);
	assert_int_equal(c.top_count, 3);
	assert_int_equal(c.top[0].count, 3);
	assert_int_equal(c.top[0].page, 1);
	assert_int_equal(c.top[1].page, 0);
	assert_int_equal(c.top[2].page, 7);
	/* 8 KiB: ab c0 | ab xF Fb: the pair ab twice. */
	assert_int_equal(c.size_count, 10);
	assert_int_equal(c.sizes[1].block_bytes, 8192);
	assert_int_equal(c.sizes[1].blocks, 5);
	assert_int_equal(c.sizes[1].distinct, 4);
	assert_int_equal(c.sizes[1].duplicate, 2);
	assert_int_equal(c.sizes[2].blocks, 2);
	assert_int_equal(c.sizes[2].saved, 0);
	assert_int_equal(c.sizes[3].blocks, 0);
	counts_done(&c);
	dedup_done(&d);
	page_set_done(&set);
	free(m.bytes);
}

/* Blocks of each size against comparisons of bytes, with gaps and odd starts in the addresses. */
TEST(sizes_against_bytes)
{
	for (unsigned round = 0; round < 10; round++) {
		struct page_range ranges[2] = {{(round % 5) * P, 90 * P, 0}, {200 * P, 110 * P, 90 * P}};
		struct work_control control = {.threads = 2};
		struct memory m;
		struct page_set set;
		struct dedup d;
		struct counts c;

		memory_make(&m, 200, 2 + round % 4);
		page_set_init(&set, P);
		assert_int_equal(page_set_add(&set, "m", &memory_ops, &m, ranges, 2), 0);
		assert_int_equal(dedup_run(&d, &set, NULL, &control), 0);
		assert_int_equal(dedup_count(&d, &c), 0);
		for (unsigned s = 0; s < 5; s++) {
			uint64_t bytes = (uint64_t)P << s;
			const char *blocks[200];
			uint64_t n = 0, zero = 0, distinct = 0, duplicate = 0;
			static const char zeros[P << 5];

			for (unsigned k = 0; k < 2; k++) {
				uint64_t at = (ranges[k].address + bytes - 1) / bytes * bytes;

				for (; at + bytes <= ranges[k].address + ranges[k].bytes; at += bytes)
					blocks[n++] = m.bytes + ranges[k].where + at - ranges[k].address;
			}
			for (uint64_t a = 0; a < n; a++) {
				uint64_t before = 0, all = 0;

				if (memcmp(blocks[a], zeros, bytes) == 0) {
					zero++;
					continue;
				}
				for (uint64_t b = 0; b < n; b++) {
					if (memcmp(blocks[a], blocks[b], bytes) != 0)
						continue;
					all++;
					before += b < a;
				}
				distinct += before == 0;
				duplicate += all > 1;
			}
			assert_int_equal(c.sizes[s].blocks, n);
			assert_int_equal(c.sizes[s].zero, zero);
			assert_int_equal(c.sizes[s].distinct, distinct);
			assert_int_equal(c.sizes[s].duplicate, duplicate);
			assert_int_equal(c.sizes[s].saved, n - zero - distinct);
		}
		counts_done(&c);
		dedup_done(&d);
		page_set_done(&set);
		free(m.bytes);
	}
}

TEST(sets_refuse_disorder)
{
	struct page_range overlap[2] = {{0, 2 * P, 0}, {P, P, 2 * P}};
	struct page_range wraps[1] = {{UINT64_MAX - P, 2 * P, 0}};
	struct page_range huge[1] = {{0, (PAGE_SET_PAGES_MAX + 1) * P, 0}};
	struct page_range odd[2] = {{100, 3 * P, 0}, {8 * P, P + 1, 3 * P}};
	struct page_set set;

	page_set_init(&set, P);
	assert_int_equal(page_set_add(&set, "x", &memory_ops, NULL, overlap, 2), -EINVAL);
	assert_int_equal(page_set_add(&set, "x", &memory_ops, NULL, wraps, 1), -EINVAL);
	assert_int_equal(page_set_add(&set, "x", &memory_ops, NULL, huge, 1), -EFBIG);
	assert_int_equal(page_set_add(&set, "x", &memory_ops, NULL, odd, 2), 0);
	/* [P, 3P) of the first, [8P, 9P) of the second. */
	assert_int_equal(set.pages, 3);
	assert_int_equal(set.images[0].cut_bytes, P + 1);
	assert_int_equal(page_set_address(&set, 0), P);
	assert_int_equal(page_set_address(&set, 2), 8 * P);
	page_set_done(&set);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(any_hash_and_any_number_of_threads_is_exact),
		cmocka_unit_test(unreadable_pages_are_missing_and_the_rest_is_exact),
		cmocka_unit_test(after_a_stop_or_failure_at_any_read_what_is_left_is_exact),
		cmocka_unit_test(reads_that_fail_now_and_then_lose_pages_and_nothing_else),
		cmocka_unit_test(changes_are_counted),
		cmocka_unit_test(kinds_of_pages),
		cmocka_unit_test(counts_by_hand),
		cmocka_unit_test(sizes_against_bytes),
		cmocka_unit_test(sets_refuse_disorder),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
