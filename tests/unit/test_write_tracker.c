/* SPDX-License-Identifier: Apache-2.0 */
/* Write tracking: each write is reported, nothing else is, and nothing counts as unwritten that is not proven so. */
#include "ksm/write-tracker.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

#include "tests/unit/test.h"

#define PAGES 1024u

static uint8_t *memory(uint64_t bytes)
{
	uint8_t *p = mmap(NULL, bytes + HUGE_PAGE_BYTES, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	assert_true(p != MAP_FAILED);
	return p + (-(uintptr_t)p & (HUGE_PAGE_BYTES - 1)); /* the rest goes with the process */
}

static struct write_tracker *tracker(void)
{
	struct errmsg err = {0};
	struct write_tracker *t = NULL;
	int r = write_tracker_new(&err, &t);

	if (r == -ENOTSUP)
		TEST_SKIP(err.text);
	assert_int_equal(r, 0);
	return t;
}

static void touch(uint8_t *mem, unsigned page)
{
	((volatile uint8_t *)mem)[page * PAGE_BYTES]++;
}

/* What a scan found, page by page. */
struct found {
	uint8_t *mem;
	bool written[PAGES], hole[PAGES], huge[PAGES];
	unsigned pages, ranges;
	bool leave; /* do not protect */
};

static bool found_protect(void *ctx, struct write_range *range)
{
	assert_false(range->hole);
	return !((struct found *)ctx)->leave;
}

static int found_report(void *ctx, const struct write_range *range)
{
	struct found *f = ctx;
	uint64_t first = (range->start.v - (uintptr_t)f->mem) / PAGE_BYTES;

	assert_int_equal(range->start.v & PAGE_MASK, 0);
	assert_true(first + range->bytes / PAGE_BYTES <= PAGES);
	for (uint64_t i = first; i < first + range->bytes / PAGE_BYTES; i++) {
		assert_false(f->written[i] || f->hole[i]);
		f->written[i] = !range->hole;
		f->hole[i] = range->hole;
		f->huge[i] = range->huge;
		f->pages += !range->hole;
	}
	f->ranges++;
	return 0;
}

static const struct found *scan(struct write_tracker *t, uint8_t *mem, bool leave)
{
	static struct found f;
	struct write_scan s = {.protect = found_protect, .report = found_report, .ctx = &f};

	f = (struct found){.mem = mem, .leave = leave};
	assert_int_equal(write_tracker_scan(t, hva_of(mem), PAGES * PAGE_BYTES, &s), 0);
	return &f;
}

static int unwritten(struct write_tracker *t, uint8_t *mem, unsigned page, unsigned pages)
{
	return write_tracker_unwritten(t, hva_of(mem + page * PAGE_BYTES), pages * PAGE_BYTES);
}

TEST(reports_exactly_what_was_written)
{
	cleanup(write_tracker_free_p) struct write_tracker *t = tracker();
	uint8_t *mem = memory(PAGES * PAGE_BYTES);
	const struct found *f;

	assert_int_equal(write_tracker_add(t, hva_of(mem), PAGES * PAGE_BYTES), 0);
	f = scan(t, mem, false); /* nothing is there: holes, in one range */
	assert_int_equal(f->pages, 0);
	assert_int_equal(f->ranges, 1);
	assert_true(f->hole[0] && f->hole[PAGES - 1]);
	for (unsigned i = 100; i < 200; i++)
		touch(mem, i);
	f = scan(t, mem, false);
	assert_int_equal(f->pages, 100);
	assert_true(!f->written[99] && f->written[100] && f->written[199] && !f->written[200]);
	f = scan(t, mem, false);
	assert_int_equal(f->pages, 0);
	assert_true(f->hole[99] && !f->hole[100]);
	touch(mem, 100);
	touch(mem, 150);
	touch(mem, 300);
	f = scan(t, mem, false);
	assert_int_equal(f->pages, 3);
	assert_true(f->written[100] && f->written[150] && f->written[300]);
	assert_int_equal(write_tracker_generation(t), 4);
}

TEST(reads_are_no_writes)
{
	cleanup(write_tracker_free_p) struct write_tracker *t = tracker();
	uint8_t *mem = memory(PAGES * PAGE_BYTES);

	assert_int_equal(write_tracker_add(t, hva_of(mem), PAGES * PAGE_BYTES), 0);
	touch(mem, 1);
	scan(t, mem, false);
	assert_int_equal(((volatile uint8_t *)mem)[PAGE_BYTES], 1);
	assert_int_equal(scan(t, mem, false)->pages, 0);
	assert_int_equal(unwritten(t, mem, 1, 1), 1);
}

TEST(what_is_left_alone_is_reported_again)
{
	cleanup(write_tracker_free_p) struct write_tracker *t = tracker();
	uint8_t *mem = memory(PAGES * PAGE_BYTES);

	assert_int_equal(write_tracker_add(t, hva_of(mem), PAGES * PAGE_BYTES), 0);
	touch(mem, 7);
	assert_true(scan(t, mem, true)->written[7]);
	assert_int_equal(unwritten(t, mem, 7, 1), 0);
	assert_true(scan(t, mem, false)->written[7]);
	assert_int_equal(scan(t, mem, false)->pages, 0);
}

TEST(discarding_counts_as_writing)
{
	cleanup(write_tracker_free_p) struct write_tracker *t = tracker();
	uint8_t *mem = memory(PAGES * PAGE_BYTES);
	const struct found *f;

	assert_int_equal(write_tracker_add(t, hva_of(mem), PAGES * PAGE_BYTES), 0);
	memset(mem, 5, PAGES * PAGE_BYTES);
	scan(t, mem, false);
	assert_int_equal(unwritten(t, mem, 0, PAGES), 1);
	assert_int_equal(madvise(mem + 16 * PAGE_BYTES, 16 * PAGE_BYTES, MADV_DONTNEED), 0);
	assert_int_equal(unwritten(t, mem, 0, PAGES), 0);
	assert_int_equal(unwritten(t, mem, 31, 1), 0);
	assert_int_equal(unwritten(t, mem, 32, PAGES - 32), 1);
	f = scan(t, mem, false);
	assert_int_equal(f->pages, 0);
	assert_true(!f->hole[15] && f->hole[16] && f->hole[31] && !f->hole[32]);
	/* Read, it becomes the kernel's zero page, a hole still; some kernels give it a page of its own. */
	assert_int_equal(((volatile uint8_t *)mem)[20 * PAGE_BYTES], 0);
	assert_int_equal(unwritten(t, mem, 20, 1), 0);
	f = scan(t, mem, false);
	assert_true(f->hole[20] != f->written[20] && f->hole[21]);
	touch(mem, 20);
	f = scan(t, mem, false);
	assert_true(f->written[20] && f->hole[21]);
	assert_int_equal(unwritten(t, mem, 20, 1), 1);
}

/* Leaves every other eighth of what is asked for. */
static bool in_parts(void *ctx, struct write_range *range)
{
	uint64_t first = (range->start.v - (uintptr_t)((struct found *)ctx)->mem) / PAGE_BYTES;

	range->bytes = (128 - first % 128) * PAGE_BYTES;
	return first / 128 % 2 == 0;
}

TEST(a_range_is_protected_in_parts)
{
	cleanup(write_tracker_free_p) struct write_tracker *t = tracker();
	uint8_t *mem = memory(PAGES * PAGE_BYTES);
	struct found f = {.mem = mem};
	const struct write_scan s = {.protect = in_parts, .report = found_report, .ctx = &f};

	assert_int_equal(write_tracker_add(t, hva_of(mem), PAGES * PAGE_BYTES), 0);
	memset(mem, 5, PAGES * PAGE_BYTES);
	assert_int_equal(write_tracker_scan(t, hva_of(mem), PAGES * PAGE_BYTES, &s), 0);
	assert_int_equal(f.pages, PAGES);
	assert_int_equal(f.ranges, PAGES / 128);
	for (unsigned i = 0; i < PAGES; i += 128)
		assert_int_equal(unwritten(t, mem, i, 128), i / 128 % 2 == 0);
}

TEST(only_what_is_proven_is_unwritten)
{
	cleanup(write_tracker_free_p) struct write_tracker *t = tracker();
	uint8_t *mem = memory(PAGES * PAGE_BYTES);

	assert_int_equal(write_tracker_add(t, hva_of(mem), 512 * PAGE_BYTES), 0);
	memset(mem, 5, PAGES * PAGE_BYTES);
	assert_int_equal(unwritten(t, mem, 0, 8), 0); /* not yet protected */
	scan(t, mem, false);
	assert_int_equal(unwritten(t, mem, 0, 512), 1);
	assert_int_equal(unwritten(t, mem, 511, 2), 0); /* reaches out of what is watched */
	assert_int_equal(unwritten(t, mem, 600, 1), 0);
	touch(mem, 3);
	assert_int_equal(unwritten(t, mem, 0, 3), 1);
	assert_int_equal(unwritten(t, mem, 3, 1), 0);
	assert_int_equal(unwritten(t, mem, 4, 508), 1);
	/* Mapped over, or gone. */
	assert_true(mmap(mem + 8 * PAGE_BYTES, PAGE_BYTES, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED);
	assert_int_equal(munmap(mem + 12 * PAGE_BYTES, PAGE_BYTES), 0);
	assert_int_equal(unwritten(t, mem, 8, 1), 0);
	assert_int_equal(unwritten(t, mem, 12, 1), 0);
	assert_int_equal(unwritten(t, mem, 4, 20), 0);
	assert_int_equal(write_tracker_remove(t, hva_of(mem + 100 * PAGE_BYTES), 10 * PAGE_BYTES), 0);
	assert_int_equal(unwritten(t, mem, 99, 1), 1);
	assert_int_equal(unwritten(t, mem, 100, 1), 0);
	assert_int_equal(scan(t, mem, false)->pages, 1); /* 3; what is not watched is passed over */
}

TEST(refuses_what_it_cannot_watch)
{
	cleanup(write_tracker_free_p) struct write_tracker *t = tracker();
	cleanup(write_tracker_free_p) struct write_tracker *other = tracker();
	uint8_t *mem = memory(PAGES * PAGE_BYTES);

	assert_int_equal(write_tracker_add(t, (hva_t){(uintptr_t)mem + 1}, PAGE_BYTES), -EINVAL);
	assert_int_equal(write_tracker_add(t, hva_of(mem), 100), -EINVAL);
	assert_int_equal(write_tracker_add(t, hva_of(mem), 0), -EINVAL);
	assert_int_equal(write_tracker_add(t, (hva_t){(uintptr_t)mem}, UINT64_MAX - PAGE_MASK), -EINVAL);
	assert_int_equal(write_tracker_scan(t, (hva_t){(uintptr_t)mem + 8}, PAGE_BYTES, NULL), -EINVAL);
	assert_int_equal(write_tracker_unwritten(t, hva_of(mem), 1), -EINVAL);
	assert_int_equal(write_tracker_add(t, hva_of(mem), PAGES * PAGE_BYTES), 0);
	assert_int_equal(write_tracker_add(t, hva_of(mem), PAGES * PAGE_BYTES), 0); /* twice is once */
	assert_int_equal(write_tracker_add(other, hva_of(mem), PAGE_BYTES), -EBUSY);
}

static int refuse(void *ctx, const struct write_range *range)
{
	(void)ctx;
	(void)range;
	return -ECANCELED;
}

TEST(a_report_can_end_a_scan)
{
	cleanup(write_tracker_free_p) struct write_tracker *t = tracker();
	uint8_t *mem = memory(PAGES * PAGE_BYTES);
	struct write_scan s = {.report = refuse};

	assert_int_equal(write_tracker_add(t, hva_of(mem), PAGES * PAGE_BYTES), 0);
	touch(mem, 9);
	assert_int_equal(write_tracker_scan(t, hva_of(mem), PAGES * PAGE_BYTES, &s), -ECANCELED);
	assert_int_equal(write_tracker_generation(t), 0);
	assert_int_equal(write_tracker_scan(t, hva_of(mem), PAGES * PAGE_BYTES, NULL), 0);
	assert_int_equal(unwritten(t, mem, 9, 1), 1);
}

/* More ranges than fit into one answer of the kernel. */
TEST(many_ranges)
{
	cleanup(write_tracker_free_p) struct write_tracker *t = tracker();
	uint8_t *mem = memory(PAGES * PAGE_BYTES);
	const struct found *f;

	assert_int_equal(write_tracker_add(t, hva_of(mem), PAGES * PAGE_BYTES), 0);
	memset(mem, 5, PAGES * PAGE_BYTES);
	scan(t, mem, false);
	for (unsigned i = 0; i < PAGES; i += 2)
		touch(mem, i);
	f = scan(t, mem, false);
	assert_int_equal(f->pages, PAGES / 2);
	assert_int_equal(f->ranges, PAGES / 2);
	for (unsigned i = 0; i < PAGES; i++)
		assert_int_equal(f->written[i], i % 2 == 0);
	assert_int_equal(unwritten(t, mem, 0, PAGES), 1);
}

TEST(huge_pages)
{
	cleanup(write_tracker_free_p) struct write_tracker *t = tracker();
	uint8_t *mem = memory(PAGES * PAGE_BYTES);
	const struct found *f;

	if (madvise(mem, PAGES * PAGE_BYTES, MADV_HUGEPAGE) < 0)
		TEST_SKIP("this kernel has no huge pages");
	assert_int_equal(write_tracker_add(t, hva_of(mem), PAGES * PAGE_BYTES), 0);
	touch(mem, 0);
	touch(mem, 512);
	f = scan(t, mem, false);
	if (!f->huge[0])
		TEST_SKIP("the kernel gave no huge page");
	assert_int_equal(f->pages, PAGES);
	assert_int_equal(unwritten(t, mem, 0, PAGES), 1);
	touch(mem, 600);
	f = scan(t, mem, false);
	/* The kernel says the written page, or the whole huge page; never less, and never the other one. */
	assert_true(f->written[600] && !f->written[0] && !f->written[511]);
	assert_int_equal(unwritten(t, mem, 0, PAGES), 1);
	/* A split of the folio keeps what is known. */
	assert_int_equal(madvise(mem + 10 * PAGE_BYTES, 20 * PAGE_BYTES, MADV_COLD), 0);
	assert_int_equal(unwritten(t, mem, 0, PAGES), 1);
	touch(mem, 12);
	f = scan(t, mem, false);
	assert_int_equal(f->pages, 1);
	assert_true(f->written[12]);
}

struct copies {
	uint8_t *mem;
	bool copied[PAGES];
	unsigned pages;
};

static int copies_report(void *ctx, const struct write_range *range)
{
	struct copies *c = ctx;
	uint64_t first = (range->start.v - (uintptr_t)c->mem) / PAGE_BYTES;

	for (uint64_t i = first; i < first + range->bytes / PAGE_BYTES; i++, c->pages++)
		c->copied[i] = true;
	return 0;
}

TEST(copies_in_files_are_found)
{
	cleanup(write_tracker_free_p) struct write_tracker *t = tracker();
	uint8_t *mem = memory(PAGES * PAGE_BYTES);
	auto_fd fd = memfd_create("test", MFD_CLOEXEC);
	struct copies c = {.mem = mem};

	assert_int_equal(ftruncate(fd, 64 * PAGE_BYTES), 0);
	assert_int_equal(write_tracker_add(t, hva_of(mem), PAGES * PAGE_BYTES), 0);
	assert_true(mmap(mem + 64 * PAGE_BYTES, 64 * PAGE_BYTES, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_FIXED, fd, 0) != MAP_FAILED);
	for (unsigned i = 64; i < 128; i++)
		assert_int_equal(((volatile uint8_t *)mem)[i * PAGE_BYTES], 0);
	touch(mem, 70);
	touch(mem, 127);
	assert_int_equal(
		write_tracker_copies(t, hva_of(mem + 64 * PAGE_BYTES), 64 * PAGE_BYTES, copies_report, &c),
		0);
	assert_int_equal(c.pages, 2);
	assert_true(c.copied[70] && c.copied[127]);
	assert_int_equal(scan(t, mem, false)->pages, 0); /* they are not watched */
}

#define WRITERS 3
#define REPORTS 50000u /* the writers really were there meanwhile */

struct race {
	_Atomic uint64_t *words; /* one in each page */
	atomic_bool stop;
	uint64_t before[PAGES]; /* the scan */
	uint64_t seen[PAGES];	/* when the page was last reported */
	bool reported[PAGES];	/* by this scan */
	uint64_t writes[WRITERS];
	uint64_t reports;
};

struct race_writer {
	struct race *race;
	unsigned index;
};

static _Atomic uint64_t *word_of(const struct race *race, uint64_t page)
{
	return &race->words[page * (PAGE_BYTES / sizeof(uint64_t))];
}

static void *race_main(void *arg)
{
	const struct race_writer *w = arg;
	uint64_t x = w->index + 1;

	while (!atomic_load_explicit(&w->race->stop, memory_order_relaxed)) {
		x = x * 6364136223846793005u + 1442695040888963407u;
		atomic_fetch_add_explicit(word_of(w->race, x >> 33 & (PAGES - 1)), 1, memory_order_relaxed);
		w->race->writes[w->index]++;
	}
	return NULL;
}

static int race_report(void *ctx, const struct write_range *range)
{
	struct race *race = ctx;
	uint64_t first = (range->start.v - (uintptr_t)race->words) / PAGE_BYTES;

	for (uint64_t i = first; i < first + range->bytes / PAGE_BYTES; i++) {
		race->seen[i] = atomic_load_explicit(word_of(race, i), memory_order_relaxed);
		race->reported[i] = true;
		race->reports++;
	}
	return 0;
}

/* Each write that was made before a scan began is seen by now, or reported by this scan: what is read at a report is
 * stale only if a later scan reports the page again. */
static void race_scan(struct race *race, struct write_tracker *t)
{
	struct write_scan s = {.report = race_report, .ctx = race};

	for (unsigned i = 0; i < PAGES; i++) {
		race->before[i] = atomic_load_explicit(word_of(race, i), memory_order_relaxed);
		race->reported[i] = false;
	}
	assert_int_equal(write_tracker_scan(t, (hva_t){(uintptr_t)race->words}, PAGES * PAGE_BYTES, &s), 0);
	for (unsigned i = 0; i < PAGES; i++)
		if (!race->reported[i] && race->before[i] != race->seen[i])
			fail_msg("a write to page %u was missed", i);
}

TEST(no_write_is_missed_in_a_race)
{
	static struct race race;
	cleanup(write_tracker_free_p) struct write_tracker *t = tracker();
	uint8_t *mem = memory(PAGES * PAGE_BYTES);
	struct race_writer writers[WRITERS];
	pthread_t threads[WRITERS];
	uint64_t writes = 0;

	race.words = (_Atomic uint64_t *)(void *)mem;
	memset(mem, 0, PAGES * PAGE_BYTES);
	assert_int_equal(write_tracker_add(t, hva_of(mem), PAGES * PAGE_BYTES), 0);
	for (unsigned i = 0; i < WRITERS; i++) {
		writers[i] = (struct race_writer){.race = &race, .index = i};
		assert_int_equal(pthread_create(&threads[i], NULL, race_main, &writers[i]), 0);
	}
	while (race.reports < REPORTS)
		race_scan(&race, t);
	atomic_store(&race.stop, true);
	for (unsigned i = 0; i < WRITERS; i++) {
		pthread_join(threads[i], NULL);
		writes += race.writes[i];
	}
	race_scan(&race, t);
	for (unsigned i = 0; i < PAGES; i++)
		assert_int_equal(race.seen[i], *word_of(&race, i));
	assert_true(race.reports <= writes + PAGES); /* the first scan reports all */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reports_exactly_what_was_written),
		cmocka_unit_test(reads_are_no_writes),
		cmocka_unit_test(what_is_left_alone_is_reported_again),
		cmocka_unit_test(discarding_counts_as_writing),
		cmocka_unit_test(a_range_is_protected_in_parts),
		cmocka_unit_test(only_what_is_proven_is_unwritten),
		cmocka_unit_test(refuses_what_it_cannot_watch),
		cmocka_unit_test(a_report_can_end_a_scan),
		cmocka_unit_test(many_ranges),
		cmocka_unit_test(huge_pages),
		cmocka_unit_test(copies_in_files_are_found),
		cmocka_unit_test(no_write_is_missed_in_a_race),
	};

	return TEST_RUN(tests);
}
