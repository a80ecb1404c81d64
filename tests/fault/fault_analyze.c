/* SPDX-License-Identifier: Apache-2.0 */
/* Whichever allocation or system call of an analysis fails: a clear error, a partial result that says so, or
 * the right result; nothing leaks. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#include "base/fs.h"
#include "ksm/sketch.h"
#include "tests/fault/fault.h"
#include "tests/unit/test.h"
#include "tools/analyze.h"

#define CALLS_MAX 6000u
#define PAGES	  300u
#define PAGE	  4096u

/* Every third page is zero, and what is not occurs twice. */
static void dump_write(const char *path, bool packed)
{
	auto_free char *bytes = calloc(PAGES, PAGE);
	gzFile gz;

	assert_non_null(bytes);
	for (unsigned i = 0; i < PAGES; i++)
		if (i % 3)
			memcpy(bytes + (size_t)i * PAGE + 8 * (i / 2 % 9), &(uint64_t){1 + i / 6}, 8);
	if (packed) {
		gz = gzopen(path, "wb1");
		assert_int_equal(gzwrite(gz, bytes, PAGES * PAGE), PAGES * PAGE);
		assert_int_equal(gzclose(gz), Z_OK);
	} else {
		auto_fd fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

		assert_int_equal(write_full(fd, bytes, (size_t)PAGES * PAGE), 0);
	}
}

struct expected {
	struct count_total total;
	bool known;
};

static int analyze(const struct analyze_options *o, const char *sketch, struct analysis *a,
		   struct errmsg *err)
{
	struct work_control control = {0}; /* on this thread, so that calls have an order */
	struct sketch_file f;
	int r = analyze_run(o, &control, a, err);

	if (r < 0)
		return r;
	r = sketch_make(&a->dedup, &f);
	if (r < 0)
		return r;
	r = sketch_save(&f, sketch, err);
	sketch_file_done(&f);
	if (r == 0)
		r = sketch_load(sketch, &f, err);
	if (r == 0)
		sketch_file_done(&f);
	return r;
}

/* False when the n-th call was never made. */
static bool attempt(unsigned nth, char *dump, const char *sketch, struct expected *want)
{
	char *files[] = {dump, dump};
	struct analyze_options o = {
		.files = files, .file_count = 2, .page_bytes = PAGE, .sample_pages = 20, .sizes = true};
	unsigned fds = fault_open_fds();
	struct errmsg err = {0};
	struct analysis a;
	const char *failed;
	int r;

	fault_arm(nth);
	r = analyze(&o, sketch, &a, &err);
	failed = fault_disarm();
	if (r == 0 && a.problem_count == 0) {
		if (!want->known)
			*want = (struct expected){a.counts.total, true};
		else
			assert_memory_equal(&a.counts.total, &want->total, sizeof(want->total));
	} else {
		assert_non_null(failed);
		if (r < 0 && !err.text[0] && r != -ENOMEM)
			fail_msg("call %u, %s: error %d without a word", nth, failed, r);
		if (r == 0)
			assert_true(a.problems[0].text[0] && a.counts.total.pages <= want->total.pages);
	}
	analyze_done(&a);
	if (fault_open_fds() != fds)
		fail_msg("call %u, %s: descriptors leak", nth, failed);
	return failed != NULL;
}

static void every_call(bool packed, unsigned at_least)
{
	char folder[] = "/tmp/sardine-fault-XXXXXX", dump[64], sketch[64];
	struct expected want = {0};
	unsigned nth = 1;

	assert_non_null(mkdtemp(folder));
	snprintf(dump, sizeof(dump), "%s/dump", folder);
	snprintf(sketch, sizeof(sketch), "%s/sketch", folder);
	dump_write(dump, packed);
	assert_false(attempt(0, dump, sketch, &want));
	assert_int_equal(want.total.pages, 2 * PAGES);
	assert_int_equal(want.total.zero, 2 * ((PAGES + 2) / 3));
	while (nth < CALLS_MAX && attempt(nth, dump, sketch, &want))
		nth++;
	print_message("%u calls\n", nth - 1);
	assert_true(nth > at_least && nth < CALLS_MAX);
	unlink(sketch);
	unlink(dump);
	/* Nothing else is left there. */
	assert_int_equal(rmdir(folder), 0);
}

TEST(plain_dumps)
{
	every_call(false, 80);
}

TEST(compressed_dumps)
{
	every_call(true, 100);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(plain_dumps),
		cmocka_unit_test(compressed_dumps),
	};

	setenv("TMPDIR", "/tmp", 1);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
