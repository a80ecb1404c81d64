/* SPDX-License-Identifier: Apache-2.0 */
/* Whichever allocation or system call of the boot cache fails: a clear error or the right result, nothing
 * left behind, and the next attempt succeeds. */
#include <errno.h>
#include <limits.h>

#include "tests/fault/fault.h"
#include "tests/unit/boot-cache-room.h"
#include "tests/unit/kernel-synth.h"

#define CALLS_MAX 2000 /* no scenario makes as many */

struct result {
	struct boot_image kernel;
	struct boot_blob initrd;
	struct errmsg err;
};

static void result_done(struct result *res)
{
	boot_image_done(&res->kernel);
	boot_blob_done(&res->initrd);
}

/* The calls under test, and nothing else. */
static int use_cache(const struct room *r, const char *initrd, struct result *res)
{
	cleanup(boot_cache_free_p) struct boot_cache *cache = NULL;
	int code = boot_cache_open(r->cache, &res->err, &cache);

	if (code == 0)
		code = boot_cache_kernel(cache, r->file, false, &res->err, &res->kernel);
	if (code == 0)
		code = boot_cache_initrd(cache, initrd, &res->err, &res->initrd);
	return code;
}

static void assert_right(const struct result *res)
{
	cleanup(bytes_done) struct bytes want = synth_vmlinux_image(), got = {0};
	uint8_t initrd[6];

	assert_int_equal(res->kernel.bytes, 0x2c000);
	bytes_add(&got, NULL, res->kernel.bytes);
	assert_int_equal(pread_full(res->kernel.fd, got.data, got.len, res->kernel.offset), 0);
	assert_memory_equal(got.data, want.data, got.len);
	assert_int_equal(res->initrd.bytes, sizeof(initrd));
	assert_int_equal(pread_full(res->initrd.fd, initrd, sizeof(initrd), res->initrd.offset), 0);
	assert_memory_equal(initrd, "initrd", sizeof(initrd));
}

/* Before each attempt: the room as the scenario wants it. */
static void nothing(const struct room *r, const char *initrd)
{
	(void)r;
	(void)initrd;
}

static void filled(const struct room *r, const char *initrd)
{
	cleanup(result_done) struct result res = {BOOT_IMAGE_EMPTY, BOOT_BLOB_EMPTY, {{0}}};

	assert_int_equal(use_cache(r, initrd, &res), 0);
}

static void filled_and_damaged(const struct room *r, const char *initrd)
{
	char name[PATH_BYTES];

	filled(r, initrd);
	assert_int_equal(count(r, "kernel-", name), 1);
	assert_int_equal(chmod(name, 0644), 0);
}

static void filled_and_known(const struct room *r, const char *initrd)
{
	const char *paths[] = {r->file, initrd};
	cleanup(cache_dir_done) struct cache_dir dir = dir_of(r);

	filled(r, initrd);
	for (size_t i = 0; i < ARRAY_SIZE(paths); i++) {
		cleanup(source_done) struct source s = SOURCE_EMPTY;
		uint8_t sha256[CACHE_SHA256_BYTES];
		struct errmsg err = {0};

		assert_int_equal(source_open("--kernel", paths[i], UINT64_MAX, &err, &s), 0);
		assert_int_equal(source_hash(&s, -1, 0, &err, sha256), 0);
		index_store(&dir, &s, INT64_MAX, sha256);
	}
}

/* Returns false when the N-th call was never made. */
static bool attempt(unsigned nth, enum synth_packing how, void (*prepare)(const struct room *, const char *))
{
	cleanup(bytes_done) struct bytes elf = synth_vmlinux(1), payload = synth_pack(how, &elf);
	cleanup(bytes_done) struct bytes bz = synth_bzimage(&payload);
	/* Hundreds of fsyncs: on tmpfs. */
	cleanup(room_done) struct room r = room_new_in(access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm");
	cleanup(result_done) struct result res = {BOOT_IMAGE_EMPTY, BOOT_BLOB_EMPTY, {{0}}};
	char initrd[100];
	const char *failed;
	unsigned fds;
	int code;

	snprintf(initrd, sizeof(initrd), "%s/initrd", r.path);
	put(r.file, bz.data, bz.len);
	put(initrd, "initrd", 6);
	prepare(&r, initrd);
	fds = fault_open_fds();
	fault_arm(nth);
	code = use_cache(&r, initrd, &res);
	failed = fault_disarm();
	if (code == 0) {
		assert_right(&res);
	} else {
		assert_non_null(failed);
		if (!res.err.text[0] && code != -ENOMEM)
			fail_msg("call %u, %s: error %d without a word", nth, failed, code);
		if (strchr(res.err.text, '\n'))
			fail_msg("more than one line: %s", res.err.text);
	}
	result_done(&res);
	if (fault_open_fds() != fds)
		fail_msg("call %u, %s: descriptors leak", nth, failed);
	if (count(&r, ".tmp", NULL))
		fail_msg("call %u, %s: a temporary file is left", nth, failed);
	/* Nothing that is there now misleads the next. */
	res = (struct result){BOOT_IMAGE_EMPTY, BOOT_BLOB_EMPTY, {{0}}};
	if (use_cache(&r, initrd, &res) < 0)
		fail_msg("call %u, %s: and later %s", nth, failed, res.err.text);
	assert_right(&res);
	return failed;
}

static void every_call(unsigned at_least, enum synth_packing how,
		       void (*prepare)(const struct room *, const char *))
{
	unsigned nth = 1;

	while (nth < CALLS_MAX && attempt(nth, how, prepare))
		nth++;
	assert_in_range(nth, at_least, CALLS_MAX - 1);
}

TEST(empty_cache)
{
	/* How a payload is unpacked decides which buffers there are. */
	every_call(60, SYNTH_ZSTD, nothing);
	every_call(60, SYNTH_LZ4, nothing);
}

TEST(entry_is_there)
{
	every_call(15, SYNTH_GZIP, filled);
}

TEST(entry_is_damaged)
{
	every_call(40, SYNTH_GZIP, filled_and_damaged);
}

TEST(source_is_known)
{
	every_call(10, SYNTH_GZIP, filled_and_known);
}

/* Somebody writes to the source whenever it is read. */
struct scribe {
	const char *path;
	unsigned calls;
	unsigned writes; /* that he does before he stops */
};

static void scribble(void *arg)
{
	struct scribe *s = arg;
	const struct timespec times[2] = {{.tv_sec = s->calls}, {.tv_sec = s->calls}};
	char text[16];

	if (s->calls++ >= s->writes)
		return;
	snprintf(text, sizeof(text), "%8u", s->calls);
	put(s->path, text, 8);
	assert_int_equal(utimensat(AT_FDCWD, s->path, times, 0), 0);
}

static int read_while_written(const struct room *r, struct scribe *scribe, struct errmsg *err,
			      struct boot_blob *ret)
{
	cleanup(boot_cache_free_p) struct boot_cache *cache = cache_of(r);
	int code;

	put(r->file, "12345678", 8);
	fault_before("pread", scribble, scribe);
	code = boot_cache_initrd(cache, r->file, err, ret);
	fault_before(NULL, NULL, NULL);
	return code;
}

TEST(source_is_written_all_the_time)
{
	cleanup(room_done) struct room r = room_new();
	struct scribe scribe = {.path = r.file, .writes = UINT_MAX};
	struct boot_blob blob = BOOT_BLOB_EMPTY;
	struct errmsg err = {0};

	assert_int_equal(read_while_written(&r, &scribe, &err, &blob), -EAGAIN);
	assert_int_equal(strncmp(err.text, "--initrd /", 10), 0);
	assert_non_null(strstr(err.text, "somebody is writing"));
	assert_int_equal(count(&r, "", NULL), 0);
}

/* However many writes come before it rests: what is handed out is what it then holds. */
TEST(source_comes_to_rest)
{
	unsigned succeeded = 0;

	for (unsigned writes = 1; writes < 8; writes++) {
		cleanup(room_done) struct room r = room_new();
		cleanup(boot_blob_done) struct boot_blob blob = BOOT_BLOB_EMPTY;
		struct scribe scribe = {.path = r.file, .writes = writes};
		struct errmsg err = {0};
		char want[16], got[8];
		int code = read_while_written(&r, &scribe, &err, &blob);

		assert_int_equal(count(&r, ".tmp", NULL), 0);
		if (code == -EAGAIN)
			continue;
		assert_int_equal(code, 0);
		succeeded++;
		snprintf(want, sizeof(want), "%8u", writes);
		assert_int_equal(pread_full(blob.fd, got, 8, blob.offset), 0);
		assert_memory_equal(got, want, 8);
	}
	assert_true(succeeded >= 3);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(empty_cache),
		cmocka_unit_test(entry_is_there),
		cmocka_unit_test(entry_is_damaged),
		cmocka_unit_test(source_is_known),
		cmocka_unit_test(source_is_written_all_the_time),
		cmocka_unit_test(source_comes_to_rest),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
