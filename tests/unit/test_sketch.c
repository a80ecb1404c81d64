/* SPDX-License-Identifier: Apache-2.0 */
/* Sketches: estimates of known overlaps, and files of which any byte was changed. */
#include "ksm/sketch.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <string.h>
#include <unistd.h>

#include "base/fs.h"
#include "tests/unit/test.h"

#define PAGE 1024u

/* Page i of a numbered image is filled with the number first + i. */
static int numbered_read(void *ctx, uint64_t where, void *buf, size_t len)
{
	const uint64_t *first = ctx;
	uint64_t *words = buf;

	for (size_t i = 0; i < len / sizeof(*words); i++)
		words[i] = *first + (where + i * sizeof(*words)) / PAGE;
	return 0;
}

static const struct page_source_ops numbered_ops = {.read = numbered_read};

/* Two images of as many pages, the second one shifted. */
static void sketch_two(uint64_t pages, uint64_t shift, struct sketch_file *ret)
{
	struct page_range range = {0, pages * PAGE, 0};
	struct work_control control = {.threads = 2};
	uint64_t first[2] = {1, 1 + shift};
	struct page_set set;
	struct dedup d;

	page_set_init(&set, PAGE);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(page_set_add(&set, i ? "b" : "a", &numbered_ops, &first[i], &range, 1), 0);
	assert_int_equal(dedup_run(&d, &set, NULL, &control), 0);
	assert_int_equal(sketch_make(&d, ret), 0);
	dedup_done(&d);
	page_set_done(&set);
}

TEST(small_sets_are_exact)
{
	static const uint64_t shifts[] = {0, 1, 100, 999, 1000, 5000};

	for (size_t i = 0; i < ARRAY_SIZE(shifts); i++) {
		uint64_t both = shifts[i] < 1000 ? 1000 - shifts[i] : 0;
		struct sketch_estimate e;
		struct sketch_file f;

		sketch_two(1000, shifts[i], &f);
		e = sketch_compare(&f.v[0], &f.v[1]);
		assert_true(e.exact);
		assert_true(fabs(e.shared - (double)both) < 1e-6);
		assert_true(fabs(e.similarity - (double)both / (2000.0 - (double)both)) < 1e-9);
		assert_true(e.shared_error <= 0);
		assert_int_equal(f.all.distinct, 2000 - both);
		assert_int_equal(f.all.nonzero, 2000);
		sketch_file_done(&f);
	}
}

TEST(large_sets_within_the_error)
{
	unsigned within_two = 0, tries = 0;

	for (uint64_t shift = 0; shift <= 40000; shift += 2000, tries++) {
		double both = 40000 - (double)shift;
		struct sketch_estimate e;
		struct sketch_file f;

		sketch_two(40000, shift, &f);
		e = sketch_compare(&f.v[0], &f.v[1]);
		assert_false(e.exact);
		assert_true(e.similarity_error < 0.0161 && e.similarity_error > 0);
		assert_true(fabs(e.shared - both) <= 4 * e.shared_error);
		within_two += fabs(e.shared - both) <= 2 * e.shared_error;
		/* An image against all of them together: it is contained. */
		e = sketch_compare(&f.v[0], &f.all);
		assert_true(fabs(e.similarity - 40000.0 / (80000.0 - both)) < 4 * e.similarity_error);
		sketch_file_done(&f);
	}
	assert_true(within_two * 10 >= tries * 8);
}

TEST(nothing_against_nothing)
{
	struct sketch a = {0}, b = {0};
	struct sketch_estimate e = sketch_compare(&a, &b);

	assert_true(e.exact && e.shared <= 0 && e.similarity <= 0);
}

TEST(any_changed_byte_is_noticed)
{
	char path[] = "/tmp/sardine-sketch-XXXXXX";
	auto_fd fd = mkstemp(path);
	struct sketch_file f, back;
	struct errmsg err = {0};
	off_t size;

	assert_true(fd >= 0);
	sketch_two(3000, 100, &f);
	assert_int_equal(sketch_save(&f, path, &err), 0);
	assert_int_equal(sketch_load(path, &back, &err), 0);
	assert_int_equal(back.count, 2);
	assert_int_equal(back.page_bytes, PAGE);
	assert_string_equal(back.v[1].name, "b");
	assert_memory_equal(back.v[1].keys, f.v[1].keys, sizeof(f.v[1].keys));
	assert_int_equal(back.v[1].distinct, 3000);
	sketch_file_done(&back);
	sketch_file_done(&f);
	/* The file was replaced, not written into. */
	close(fd);
	fd = open(path, O_RDWR | O_CLOEXEC);
	size = lseek(fd, 0, SEEK_END);
	for (off_t at = 0; at < size; at += at < 400 ? 1 : 61) {
		unsigned char byte;

		assert_int_equal(pread_full(fd, &byte, 1, (uint64_t)at), 0);
		byte ^= 0x10;
		assert_int_equal(pwrite_full(fd, &byte, 1, (uint64_t)at), 0);
		err.text[0] = '\0';
		assert_true(sketch_load(path, &back, &err) < 0);
		assert_true(err.text[0] != '\0');
		byte ^= 0x10;
		assert_int_equal(pwrite_full(fd, &byte, 1, (uint64_t)at), 0);
	}
	unlink(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(small_sets_are_exact),
		cmocka_unit_test(large_sets_within_the_error),
		cmocka_unit_test(nothing_against_nothing),
		cmocka_unit_test(any_changed_byte_is_noticed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
