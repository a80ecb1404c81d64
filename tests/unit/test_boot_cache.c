/* SPDX-License-Identifier: Apache-2.0 */
/* The boot cache: what it hands out, what it believes, how it heals, who shares. */
#include <errno.h>
#include <sys/mman.h>
#include <time.h>

#include "base/size.h"
#include "tests/unit/boot-cache-room.h"
#include "tests/unit/kernel-synth.h"

TEST(unpacks_each_packing)
{
	cleanup(bytes_done) struct bytes elf = synth_vmlinux(1), want = synth_vmlinux_image();

	for (int how = 0; how < SYNTH_PACKINGS; how++) {
		cleanup(room_done) struct room r = room_new();
		cleanup(boot_cache_free_p) struct boot_cache *cache = cache_of(&r);
		cleanup(bytes_done) struct bytes payload = synth_pack((enum synth_packing)how, &elf);
		cleanup(bytes_done) struct bytes bz = synth_bzimage(&payload);
		cleanup(boot_image_done) struct boot_image a = BOOT_IMAGE_EMPTY, b = BOOT_IMAGE_EMPTY;
		struct stat st, again;
		struct errmsg err = {0};
		uint8_t *p;

		put(r.file, bz.data, bz.len);
		if (boot_cache_kernel(cache, r.file, false, &err, &a) < 0)
			fail_msg("%s", err.text);
		assert_int_equal(a.kind, BOOT_ENTRY_PVH);
		assert_int_equal(a.load.v, SYNTH_LOAD);
		assert_int_equal(a.entry.v, SYNTH_PVH_ENTRY);
		assert_int_equal(a.mem_bytes, SYNTH_MEM_BYTES);
		assert_int_equal(a.bytes, 0x2c000);
		assert_int_equal(a.setup_header_bytes, 0);
		p = mmap(NULL, a.bytes, PROT_READ, MAP_PRIVATE, a.fd, (off_t)a.offset);
		assert_true(p != MAP_FAILED);
		assert_memory_equal(p, want.data, a.bytes);
		munmap(p, a.bytes);
		/* Nobody can write through it. */
		assert_int_equal(fcntl(a.fd, F_GETFL) & O_ACCMODE, O_RDONLY);
		assert_int_equal(fstat(a.fd, &st), 0);
		assert_int_equal(st.st_mode & 07777, 0444);
		assert_int_equal(st.st_nlink, 1);
		assert_int_equal(boot_cache_kernel(cache, r.file, false, &err, &b), 0);
		assert_int_equal(fstat(b.fd, &again), 0);
		assert_int_equal(st.st_ino, again.st_ino);
		assert_int_equal(count(&r, "kernel-v1-", NULL), 1);
		assert_int_equal(count(&r, ".tmp", NULL), 0);
	}
}

TEST(takes_vmlinux)
{
	cleanup(room_done) struct room r = room_new();
	cleanup(boot_cache_free_p) struct boot_cache *cache = cache_of(&r);
	cleanup(bytes_done) struct bytes elf = synth_vmlinux(0);
	cleanup(boot_image_done) struct boot_image a = BOOT_IMAGE_EMPTY;
	struct errmsg err = {0};

	put(r.file, elf.data, elf.len);
	assert_int_equal(boot_cache_kernel(cache, r.file, false, &err, &a), 0);
	assert_int_equal(a.kind, BOOT_ENTRY_ELF64);
	assert_int_equal(a.entry.v, SYNTH_ENTRY);
	/* It has no code that could randomise its address. */
	assert_int_equal(boot_cache_kernel(cache, r.file, true, &err, &a), -EINVAL);
	assert_non_null(strstr(err.text, "--kaslr off"));
}

TEST(keeps_bzimage_for_kaslr)
{
	cleanup(room_done) struct room r = room_new();
	cleanup(boot_cache_free_p) struct boot_cache *cache = cache_of(&r);
	cleanup(bytes_done) struct bytes elf = synth_vmlinux(1), payload = synth_pack(SYNTH_LZ4, &elf);
	cleanup(bytes_done) struct bytes bz = synth_bzimage(&payload);
	cleanup(boot_image_done) struct boot_image a = BOOT_IMAGE_EMPTY;
	size_t code = bz.len - 6 - SYNTH_CODE_OFFSET;
	auto_free uint8_t *got = malloc(code);
	struct errmsg err = {0};

	put(r.file, bz.data, bz.len);
	assert_int_equal(boot_cache_kernel(cache, r.file, true, &err, &a), 0);
	assert_int_equal(a.kind, BOOT_ENTRY_BZIMAGE);
	assert_int_equal(a.load.v, SYNTH_LOAD);
	assert_int_equal(a.entry.v, SYNTH_LOAD + 0x200);
	assert_int_equal(a.bytes, page_up(code));
	assert_int_equal(a.mem_bytes, 0x200000);
	assert_int_equal(a.setup_header_bytes, 0x26c - 0x1f1);
	assert_memory_equal(a.setup_header, bz.data + 0x1f1, a.setup_header_bytes);
	assert_int_equal(pread_full(a.fd, got, code, a.offset), 0);
	assert_memory_equal(got, bz.data + SYNTH_CODE_OFFSET, code);

	/* One without the 64-bit entry. */
	bz.data[0x236] = 0;
	put(r.file, bz.data, bz.len);
	assert_int_equal(boot_cache_kernel(cache, r.file, true, &err, &a), -ENOEXEC);
	assert_non_null(strstr(err.text, "XLF_KERNEL_64"));
}

TEST(keeps_initrd_as_it_is)
{
	cleanup(room_done) struct room r = room_new();
	cleanup(boot_cache_free_p) struct boot_cache *cache = cache_of(&r);
	cleanup(bytes_done) struct bytes b = {0};

	bytes_add(&b, "start", 5);
	bytes_add(&b, NULL, 1 << 20); /* a hole in the cache file */
	bytes_add(&b, "end", 3);
	bytes_add(&b, NULL, 5000); /* and at its end */
	put(r.file, b.data, b.len);
	assert_initrd(cache, r.file, b.data, b.len);
	/* What happens to the source later concerns nobody. */
	put(r.file, "other", 5);
	assert_initrd(cache, r.file, "other", 5);
	assert_int_equal(count(&r, "initrd-v1-", NULL), 2);
}

/* A known source is not read: an index record that lies is believed. */
TEST(believes_index)
{
	cleanup(room_done) struct room r = room_new();
	cleanup(boot_cache_free_p) struct boot_cache *cache = cache_of(&r);
	cleanup(cache_dir_done) struct cache_dir dir = dir_of(&r);
	cleanup(source_done) struct source s = SOURCE_EMPTY;
	uint8_t other[CACHE_SHA256_BYTES], found[CACHE_SHA256_BYTES];
	const int64_t sec = 1000000000;
	struct errmsg err = {0};

	put(r.file, "other", 5);
	assert_initrd(cache, r.file, "other", 5);
	assert_int_equal(source_open("--initrd", r.file, MIB, &err, &s), 0);
	assert_int_equal(source_hash(&s, -1, 0, &err, other), 0);
	source_done(&s);
	put(r.file, "right", 5);
	assert_int_equal(source_open("--initrd", r.file, MIB, &err, &s), 0);
	/* Written too recently, or in the future: what it says could change without a trace. */
	index_store(&dir, &s, s.id.ctime_ns, other);
	index_store(&dir, &s, s.id.ctime_ns + sec, other);
	index_store(&dir, &s, s.id.ctime_ns - 100 * sec, other);
	assert_int_equal(index_find(&dir, &s.id, found), -ENOENT);
	assert_initrd(cache, r.file, "right", 5);
	index_store(&dir, &s, s.id.ctime_ns + 10 * sec, other);
	assert_int_equal(index_find(&dir, &s.id, found), 0);
	assert_memory_equal(found, other, sizeof(found));
	assert_initrd(cache, r.file, "other", 5);
	/* Any trait that differs makes it another file. */
	for (unsigned i = 0; i < 5; i++) {
		struct source_id id = s.id;
		uint64_t *trait[] = {&id.dev, &id.ino, &id.bytes, (uint64_t *)&id.mtime_ns,
				     (uint64_t *)&id.ctime_ns};

		*trait[i] += 1;
		assert_int_equal(index_find(&dir, &id, found), -ENOENT);
	}
	/* A damaged record is none. */
	{
		char name[PATH_BYTES];
		auto_fd fd = -1;

		assert_int_equal(count(&r, "index-", name), 1);
		fd = open(name, O_RDWR);
		assert_int_equal(pwrite_full(fd, "x", 1, 60), 0);
		assert_int_equal(index_find(&dir, &s.id, found), -ENOENT);
		assert_int_equal(ftruncate(fd, 0), 0);
		assert_initrd(cache, r.file, "right", 5);
	}
}

TEST(known_source_is_quick)
{
	cleanup(room_done) struct room r = room_new();
	cleanup(boot_cache_free_p) struct boot_cache *cache = cache_of(&r);
	cleanup(cache_dir_done) struct cache_dir dir = dir_of(&r);
	cleanup(source_done) struct source s = SOURCE_EMPTY;
	uint8_t sha256[CACHE_SHA256_BYTES];
	struct errmsg err = {0};
	uint64_t best_ns = UINT64_MAX;

	put(r.file, "x", 1);
	assert_int_equal(truncate(r.file, 64 << 20), 0);
	assert_int_equal(source_open("--initrd", r.file, GIB, &err, &s), 0);
	assert_int_equal(source_hash(&s, -1, 0, &err, sha256), 0);
	index_store(&dir, &s, INT64_MAX, sha256);
	for (unsigned i = 0; i < 50; i++) {
		cleanup(boot_blob_done) struct boot_blob blob = BOOT_BLOB_EMPTY;
		struct timespec a, b;
		uint64_t ns;

		clock_gettime(CLOCK_THREAD_CPUTIME_ID, &a);
		assert_int_equal(boot_cache_initrd(cache, r.file, &err, &blob), 0);
		clock_gettime(CLOCK_THREAD_CPUTIME_ID, &b);
		ns = (uint64_t)((b.tv_sec - a.tv_sec) * 1000000000 + b.tv_nsec - a.tv_nsec);
		if (ns < best_ns)
			best_ns = ns;
	}
	assert_true(best_ns < 1000000);
}

static void spoil_header(const char *name)
{
	auto_fd fd = open(name, O_RDWR);

	assert_int_equal(pwrite_full(fd, "x", 1, 100), 0);
}

static void spoil_magic(const char *name)
{
	auto_fd fd = open(name, O_RDWR);

	assert_int_equal(pwrite_full(fd, "x", 1, 0), 0);
}

static void cut_short(const char *name)
{
	assert_int_equal(truncate(name, CACHE_PAGE_BYTES + 1), 0);
}

static void cut_to_nothing(const char *name)
{
	assert_int_equal(truncate(name, 0), 0);
}

static void grow(const char *name)
{
	assert_int_equal(truncate(name, CACHE_PAGE_BYTES + 100), 0);
}

static void keep_writable(const char *name)
{
	assert_int_equal(chmod(name, 0644), 0);
}

static void make_link(const char *name)
{
	char other[PATH_BYTES + 8];

	snprintf(other, sizeof(other), "%s.moved", name);
	assert_int_equal(rename(name, other), 0);
	assert_int_equal(symlink(other, name), 0);
}

static void make_fifo(const char *name)
{
	assert_int_equal(unlink(name), 0);
	assert_int_equal(mkfifo(name, 0444), 0);
}

static void make_foreign(const char *name)
{
	if (geteuid() == 0)
		assert_int_equal(chown(name, NOBODY, NOBODY), 0);
	else
		spoil_header(name);
}

/* Damaged or foreign entries are replaced, and the VMs that map them are left alone. */
TEST(replaces_bad_entries)
{
	static void (*const spoil[])(const char *) = {
		spoil_header, spoil_magic, cut_short,	  cut_to_nothing, grow,
		make_link,    make_fifo,   keep_writable, make_foreign,
	};

	for (size_t i = 0; i < ARRAY_SIZE(spoil); i++) {
		cleanup(room_done) struct room r = room_new();
		cleanup(boot_cache_free_p) struct boot_cache *cache = cache_of(&r);
		cleanup(boot_blob_done) struct boot_blob before = BOOT_BLOB_EMPTY;
		struct errmsg err = {0};
		struct stat a, b;
		char name[PATH_BYTES];

		put(r.file, "content", 7);
		assert_int_equal(boot_cache_initrd(cache, r.file, &err, &before), 0);
		assert_int_equal(count(&r, "initrd-", name), 1);
		assert_int_equal(chmod(name, 0644), 0);
		spoil[i](name);
		if (spoil[i] != keep_writable)
			assert_int_equal(chmod(name, 0444), 0);
		assert_initrd(cache, r.file, "content", 7);
		assert_int_equal(lstat(name, &a), 0);
		assert_int_equal(fstat(before.fd, &b), 0);
		if (a.st_ino == b.st_ino)
			fail_msg("row %zu was taken for good", i);
		assert_true(S_ISREG(a.st_mode) && (a.st_mode & 07777) == 0444 && a.st_uid == geteuid());
		assert_int_equal(count(&r, ".tmp", NULL), 0);
	}
}

/* An entry under the name of another one, as by a hard link, is not that other one. */
TEST(entry_must_be_what_its_name_says)
{
	cleanup(room_done) struct room r = room_new();
	cleanup(boot_cache_free_p) struct boot_cache *cache = cache_of(&r);
	struct stat st;
	char first[PATH_BYTES], second[PATH_BYTES], aside[90];

	snprintf(aside, sizeof(aside), "%s.aside", r.file);
	put(r.file, "first", 5);
	assert_initrd(cache, r.file, "first", 5);
	assert_int_equal(count(&r, "initrd-", first), 1);
	assert_int_equal(rename(first, aside), 0);
	put(r.file, "other", 5);
	assert_initrd(cache, r.file, "other", 5);
	assert_int_equal(count(&r, "initrd-", second), 1);
	assert_int_equal(unlink(second), 0);
	assert_int_equal(link(aside, second), 0);
	assert_initrd(cache, r.file, "other", 5);
	/* The file it was a link to is as it was. */
	assert_int_equal(stat(aside, &st), 0);
	assert_int_equal(st.st_nlink, 1);
	assert_int_equal(st.st_size, CACHE_PAGE_BYTES + 5);
}

static int fill_as_child(const struct room *r)
{
	cleanup(boot_cache_free_p) struct boot_cache *cache = NULL;
	cleanup(boot_image_done) struct boot_image image = BOOT_IMAGE_EMPTY;
	struct errmsg err = {0};
	struct stat st;

	if (boot_cache_open(r->cache, &err, &cache) < 0 ||
	    boot_cache_kernel(cache, r->file, false, &err, &image) < 0 || fstat(image.fd, &st) < 0) {
		fprintf(stderr, "%s\n", err.text);
		return -1;
	}
	return (int)(st.st_ino % 100000007);
}

/* All who fill an entry at once get it, and the same. */
TEST(fillers_at_once_agree)
{
	cleanup(bytes_done) struct bytes elf = synth_vmlinux(1), payload = synth_pack(SYNTH_XZ, &elf);
	cleanup(bytes_done) struct bytes bz = synth_bzimage(&payload);

	for (unsigned round = 0; round < 10; round++) {
		cleanup(room_done) struct room r = room_new();
		int go[2], out[2], ino[6];
		char byte;

		put(r.file, bz.data, bz.len);
		assert_int_equal(pipe(go), 0);
		assert_int_equal(pipe(out), 0);
		fflush(NULL);
		for (size_t i = 0; i < ARRAY_SIZE(ino); i++) {
			if (fork() == 0) {
				int result;

				close(go[1]);
				(void)!read(go[0], &byte, 1); /* until all are there */
				result = fill_as_child(&r);
				_exit(write(out[1], &result, sizeof(result)) != sizeof(result));
			}
		}
		close(go[0]);
		close(go[1]);
		for (size_t i = 0; i < ARRAY_SIZE(ino); i++) {
			assert_int_equal(read(out[0], &ino[i], sizeof(ino[i])), sizeof(ino[i]));
			assert_true(ino[i] >= 0);
			assert_int_equal(ino[i], ino[0]);
		}
		while (wait(NULL) > 0)
			;
		close(out[0]);
		close(out[1]);
		assert_int_equal(count(&r, ".tmp", NULL), 0);
		assert_int_equal(count(&r, "kernel-", NULL), 1);
	}
}

TEST(notices_changes_while_reading)
{
	cleanup(room_done) struct room r = room_new();
	cleanup(source_done) struct source s = SOURCE_EMPTY;
	const struct timespec past[2] = {{.tv_sec = 1000}, {.tv_sec = 1000}};
	uint8_t a[CACHE_SHA256_BYTES], b[CACHE_SHA256_BYTES];
	struct errmsg err = {0};

	put(r.file, "content", 7);
	assert_int_equal(utimensat(AT_FDCWD, r.file, past, 0), 0);
	assert_int_equal(source_open("--initrd", r.file, MIB, &err, &s), 0);
	put(r.file, "CONTENT", 7);
	assert_int_equal(source_hash(&s, -1, 0, &err, a), -ESTALE);
	assert_int_equal(source_hash(&s, -1, 0, &err, a), 0);
	assert_int_equal(truncate(r.file, 3), 0);
	assert_int_equal(source_hash(&s, -1, 0, &err, b), -ESTALE);
	assert_int_equal(source_hash(&s, -1, 0, &err, b), 0);
	assert_memory_not_equal(a, b, sizeof(a));
	assert_int_equal(truncate(r.file, 5), 0);
	assert_int_equal(source_hash(&s, -1, 0, &err, b), -ESTALE);
	assert_string_equal(err.text, "");
}

/* As root: sources of other users have folders of their own. */
TEST(domains_of_sources)
{
	cleanup(room_done) struct room r = room_new();
	cleanup(boot_cache_free_p) struct boot_cache *cache = cache_of(&r);
	char name[PATH_BYTES];
	struct stat st;

	if (geteuid() != 0)
		TEST_SKIP("needs root");
	put(r.file, "root's", 6);
	assert_initrd(cache, r.file, "root's", 6);
	assert_int_equal(count(&r, "initrd-", NULL), 1);
	/* The same content, but another's: not the same file. */
	assert_int_equal(chown(r.file, 1234, 1234), 0);
	assert_initrd(cache, r.file, "root's", 6);
	assert_int_equal(count(&r, "initrd-", NULL), 1);
	assert_int_equal(count(&r, "u1234", name), 1);
	assert_int_equal(stat(name, &st), 0);
	assert_true(st.st_uid == 0 && (st.st_mode & 07777) == 0700);
	/* Root's, but others can write to it. */
	assert_int_equal(chown(r.file, 0, 0), 0);
	assert_int_equal(chmod(r.file, 0666), 0);
	assert_initrd(cache, r.file, "root's", 6);
	assert_int_equal(count(&r, "u0", NULL), 1);
}

TEST(cleans_up_after_the_dead)
{
	cleanup(room_done) struct room r = room_new();
	cleanup(boot_cache_free_p) struct boot_cache *cache = cache_of(&r);
	cleanup(cache_dir_done) struct cache_dir dir = dir_of(&r);
	cleanup(cache_temp_done) struct cache_temp live = CACHE_TEMP_EMPTY;
	char dead[120], old[120];
	const struct timespec past[2] = {{.tv_sec = 1000}, {.tv_sec = 1000}};

	snprintf(dead, sizeof(dead), "%s/.tmp-0123456789abcdef", r.cache);
	snprintf(old, sizeof(old), "%s/index-1-2", r.cache);
	put(dead, "half", 4);
	put(old, "old", 3);
	assert_int_equal(utimensat(AT_FDCWD, old, past, 0), 0);
	assert_int_equal(cache_temp_new(&dir, &live), 0);
	assert_int_equal(count(&r, ".tmp", NULL), 2);
	put(r.file, "content", 7);
	assert_initrd(cache, r.file, "content", 7);
	assert_int_equal(access(dead, F_OK), -1);
	assert_int_equal(access(old, F_OK), -1);
	assert_int_equal(count(&r, ".tmp", NULL), 1); /* the one whose writer lives */
	assert_int_equal(faccessat(dir.fd, live.name, F_OK, 0), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(unpacks_each_packing),	   cmocka_unit_test(takes_vmlinux),
		cmocka_unit_test(keeps_bzimage_for_kaslr), cmocka_unit_test(keeps_initrd_as_it_is),
		cmocka_unit_test(believes_index),	   cmocka_unit_test(known_source_is_quick),
		cmocka_unit_test(replaces_bad_entries),	   cmocka_unit_test(entry_must_be_what_its_name_says),
		cmocka_unit_test(fillers_at_once_agree),   cmocka_unit_test(notices_changes_while_reading),
		cmocka_unit_test(domains_of_sources),	   cmocka_unit_test(cleans_up_after_the_dead),
	};

	return TEST_RUN(tests);
}
