/* SPDX-License-Identifier: Apache-2.0 */
/* The boot cache refuses: sources that are none, folders that cannot be used, full disks; with one clear line
 * and nothing left behind. */
#include <errno.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "tests/unit/boot-cache-room.h"
#include "tests/unit/kernel-synth.h"

/* Sources that are none. */
enum how {
	MISSING,
	FOLDER,
	FIFO,
	SOCKET,
	DEVICE,
	EMPTY,
	HUGE,
	LOOP,
	GARBAGE,
	CUT_BZIMAGE,
	CUT_ELF,
	NOT_PACKED,
	HOWS
};

static const struct {
	int code;
	const char *says;
	bool kernel_only;
} no_source[] = {
	[MISSING] = {-ENOENT, "no such file", false},
	[FOLDER] = {-EINVAL, "is a folder", false},
	[FIFO] = {-EINVAL, "is a FIFO", false},
	[SOCKET] = {-EINVAL, "is a socket", false},
	[DEVICE] = {-EINVAL, "is a device", false},
	[EMPTY] = {-EINVAL, "is empty", false},
	[HUGE] = {-EINVAL, "MiB are the most accepted", false},
	[LOOP] = {-ELOOP, "cannot open", false},
	[GARBAGE] = {-ENOEXEC, "not a Linux kernel", true},
	[CUT_BZIMAGE] = {-ENOEXEC, "bzImage is truncated", true},
	[CUT_ELF] = {-ENOEXEC, "ELF file is truncated", true},
	[NOT_PACKED] = {-ENOEXEC, "no known format", true},
};
_Static_assert(ARRAY_SIZE(no_source) == HOWS, "a row for each");

static void make_no_source(enum how how, const char *path)
{
	cleanup(bytes_done) struct bytes elf = synth_vmlinux(1), bz = synth_bzimage(&elf);
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	auto_fd fd = -1;

	switch (how) {
	case FOLDER:
		assert_int_equal(mkdir(path, 0755), 0);
		break;
	case FIFO:
		assert_int_equal(mkfifo(path, 0644), 0);
		break;
	case SOCKET:
		fd = socket(AF_UNIX, SOCK_STREAM, 0);
		memcpy(addr.sun_path, path, strlen(path));
		assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
		break;
	case DEVICE:
		assert_int_equal(symlink("/dev/zero", path), 0);
		break;
	case EMPTY:
		put(path, "", 0);
		break;
	case HUGE:
		put(path, "", 0);
		assert_int_equal(truncate(path, INT64_C(1) << 40), 0);
		break;
	case LOOP:
		assert_int_equal(symlink(path, path), 0);
		break;
	case GARBAGE:
		put(path, "garbage", 7);
		break;
	case CUT_BZIMAGE:
		put(path, bz.data, bz.len / 2);
		break;
	case CUT_ELF:
		put(path, elf.data, elf.len / 2);
		break;
	case NOT_PACKED:
		put(path, bz.data, bz.len);
		break;
	case MISSING:
	case HOWS:
	default:
		break;
	}
}

TEST(refuses_what_is_no_source)
{
	for (int how = 0; how < HOWS; how++) {
		cleanup(room_done) struct room r = room_new();
		cleanup(boot_cache_free_p) struct boot_cache *cache = cache_of(&r);
		struct boot_image image = BOOT_IMAGE_EMPTY;
		struct boot_blob blob = BOOT_BLOB_EMPTY;
		struct errmsg err = {0};
		char start[100];

		make_no_source((enum how)how, r.file);
		alarm(20); /* a FIFO that blocks, a device that never ends */
		assert_int_equal(boot_cache_kernel(cache, r.file, false, &err, &image), no_source[how].code);
		snprintf(start, sizeof(start), "--kernel %s: ", r.file);
		if (strncmp(err.text, start, strlen(start)) || !strstr(err.text, no_source[how].says))
			fail_msg("row %d says: %s", how, err.text);
		if (!no_source[how].kernel_only) {
			err = (struct errmsg){0};
			assert_int_equal(boot_cache_initrd(cache, r.file, &err, &blob), no_source[how].code);
			snprintf(start, sizeof(start), "--initrd %s: ", r.file);
			if (strncmp(err.text, start, strlen(start)) || !strstr(err.text, no_source[how].says))
				fail_msg("row %d says: %s", how, err.text);
		}
		alarm(0);
		assert_int_equal(image.fd, -1);
		assert_int_equal(blob.fd, -1);
		assert_int_equal(count(&r, "", NULL), 0);
	}
}

static int without_permission(const struct room *r)
{
	cleanup(boot_cache_free_p) struct boot_cache *cache = NULL;
	struct boot_blob blob = BOOT_BLOB_EMPTY;
	struct errmsg err = {0};

	return boot_cache_open(r->cache, &err, &cache) == 0 &&
			       boot_cache_initrd(cache, r->file, &err, &blob) == -EACCES &&
			       strstr(err.text, "permission denied") && strstr(err.text, r->file)
		       ? 0
		       : 1;
}

TEST(unreadable_source)
{
	cleanup(room_done) struct room r = room_new();

	put(r.file, "secret", 6);
	assert_int_equal(chmod(r.file, 0), 0);
	assert_int_equal(chmod(r.path, 0777), 0);
	as_nobody(without_permission, &r);
}

static int read_only_folder(const struct room *r)
{
	cleanup(boot_cache_free_p) struct boot_cache *cache = NULL;
	cleanup(boot_blob_done) struct boot_blob blob = BOOT_BLOB_EMPTY;
	struct errmsg err = {0};
	char other[100];

	snprintf(other, sizeof(other), "%s/other", r->path);
	/* What is there can be used. */
	if (boot_cache_open(r->cache, &err, &cache) < 0 ||
	    boot_cache_initrd(cache, r->file, &err, &blob) < 0) {
		fprintf(stderr, "%s\n", err.text);
		return 1;
	}
	/* What is not, cannot be made. */
	if (boot_cache_initrd(cache, other, &err, &blob) != -EACCES || !strstr(err.text, r->cache) ||
	    !strstr(err.text, "--initrd") || !strstr(err.text, "choose another with --cache-dir")) {
		fprintf(stderr, "%s\n", err.text);
		return 2;
	}
	return 0;
}

static int fill_one(const struct room *r)
{
	cleanup(boot_cache_free_p) struct boot_cache *cache = cache_of(r);

	assert_initrd(cache, r->file, "there", 5);
	return chmod(r->cache, 0555) < 0;
}

TEST(read_only_cache)
{
	cleanup(room_done) struct room r = room_new();
	char other[100];

	snprintf(other, sizeof(other), "%s/other", r.path);
	put(r.file, "there", 5);
	put(other, "not there", 9);
	assert_int_equal(chmod(r.path, 0777), 0);
	as_nobody(fill_one, &r);
	as_nobody(read_only_folder, &r);
	assert_int_equal(chmod(r.cache, 0755), 0);
	assert_int_equal(count(&r, "initrd-", NULL), 1);
	assert_int_equal(count(&r, ".tmp", NULL), 0);
}

static int foreign_folder(const struct room *r)
{
	struct boot_cache *cache = NULL;
	struct errmsg err = {0};

	return boot_cache_open(r->cache, &err, &cache) == -EACCES && strstr(err.text, "--cache-dir") ? 0 : 1;
}

TEST(folders_that_cannot_be_used)
{
	cleanup(room_done) struct room r = room_new();
	struct boot_cache *cache = NULL;
	struct errmsg err = {0};
	struct stat st;
	char deep[100];

	/* Where others may write, they may exchange files. */
	assert_int_equal(mkdir(r.cache, 0700), 0);
	assert_int_equal(chmod(r.cache, 01777), 0);
	assert_int_equal(boot_cache_open(r.cache, &err, &cache), -EPERM);
	assert_non_null(strstr(err.text, "others may write"));
	assert_int_equal(chmod(r.cache, 0770), 0);
	assert_int_equal(boot_cache_open(r.cache, &err, &cache), -EPERM);
	if (geteuid() == 0) {
		assert_int_equal(chmod(r.cache, 0700), 0);
		assert_int_equal(chown(r.cache, NOBODY, NOBODY), 0);
		err = (struct errmsg){0};
		assert_int_equal(boot_cache_open(r.cache, &err, &cache), -EPERM);
		assert_non_null(strstr(err.text, "belongs to uid 65534"));
	}
	assert_int_equal(rmdir(r.cache), 0);
	/* A file in its place, or on the way. */
	put(r.cache, "", 0);
	err = (struct errmsg){0};
	assert_int_equal(boot_cache_open(r.cache, &err, &cache), -ENOTDIR);
	assert_non_null(strstr(err.text, "--cache-dir"));
	snprintf(deep, sizeof(deep), "%s/a/b", r.cache);
	assert_int_equal(boot_cache_open(deep, &err, &cache), -ENOTDIR);
	assert_int_equal(unlink(r.cache), 0);
	/* Where nothing may be made. */
	assert_int_equal(chmod(r.path, 0755), 0);
	if (geteuid() == 0)
		as_nobody(foreign_folder, &r);
	/* Made with all above it. */
	assert_int_equal(boot_cache_open(deep, &err, &cache), 0);
	boot_cache_free(cache);
	assert_int_equal(stat(deep, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0700);
}

static int default_folders(const struct room *r)
{
	struct boot_cache *cache = NULL;
	struct errmsg err = {0};
	char path[100];

	unsetenv("HOME");
	unsetenv("XDG_CACHE_HOME");
	if (boot_cache_open(NULL, &err, &cache) != -ENOENT || !strstr(err.text, "HOME") ||
	    !strstr(err.text, "--cache-dir"))
		return 1;
	setenv("HOME", r->path, 1);
	setenv("XDG_CACHE_HOME", "not/absolute", 1);
	if (boot_cache_open(NULL, &err, &cache) < 0)
		return 2;
	boot_cache_free(cache);
	snprintf(path, sizeof(path), "%s/.cache/sardine", r->path);
	if (access(path, W_OK) < 0)
		return 3;
	setenv("XDG_CACHE_HOME", r->cache, 1);
	if (boot_cache_open(NULL, &err, &cache) < 0)
		return 4;
	boot_cache_free(cache);
	snprintf(path, sizeof(path), "%s/sardine", r->cache);
	return access(path, W_OK) < 0 ? 5 : 0;
}

TEST(default_folder)
{
	cleanup(room_done) struct room r = room_new();

	assert_int_equal(chmod(r.path, 0777), 0);
	as_nobody(default_folders, &r);
}

static int full_disk(const struct room *r)
{
	cleanup(boot_cache_free_p) struct boot_cache *cache = NULL;
	struct boot_image image = BOOT_IMAGE_EMPTY;
	const struct rlimit limit = {.rlim_cur = 100 << 10, .rlim_max = 100 << 10};
	struct errmsg err = {0};

	signal(SIGXFSZ, SIG_IGN);
	if (boot_cache_open(r->cache, &err, &cache) < 0 || setrlimit(RLIMIT_FSIZE, &limit) < 0)
		return 1;
	if (boot_cache_kernel(cache, r->file, false, &err, &image) != -EFBIG ||
	    !strstr(err.text, "--cache-dir") || !strstr(err.text, "free some space") ||
	    !strstr(err.text, r->cache)) {
		fprintf(stderr, "%s\n", err.text);
		return 2;
	}
	return count(r, "", NULL) ? 3 : 0;
}

/* The tests of label fault have the rest of this. */
TEST(no_space)
{
	cleanup(room_done) struct room r = room_new();
	cleanup(bytes_done) struct bytes elf = synth_vmlinux(1), payload = synth_pack(SYNTH_ZSTD, &elf);
	cleanup(bytes_done) struct bytes bz = synth_bzimage(&payload);

	put(r.file, bz.data, bz.len);
	assert_int_equal(chmod(r.path, 0777), 0);
	as_nobody(full_disk, &r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(refuses_what_is_no_source),
		cmocka_unit_test(unreadable_source),
		cmocka_unit_test(read_only_cache),
		cmocka_unit_test(folders_that_cannot_be_used),
		cmocka_unit_test(default_folder),
		cmocka_unit_test(no_space),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
