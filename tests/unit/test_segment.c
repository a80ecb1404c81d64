/* SPDX-License-Identifier: Apache-2.0 */
/* Segments of the store: once sealed nobody can change them, in whatever way, root included; and nothing that could
 * be changed passes for one. */
#include "ksm/segment.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include "tests/unit/test.h"

#define PAGES 8u

static void fill(uint8_t *page, unsigned number)
{
	memset(page, (int)number + 1, PAGE_BYTES);
}

static struct segment *segment(unsigned pages)
{
	struct segment *s = NULL;
	uint8_t page[PAGE_BYTES];
	uint32_t first;

	assert_int_equal(segment_new(pages, &s), 0);
	for (unsigned i = 0; i < pages; i++) {
		fill(page, i);
		assert_int_equal(segment_append(s, page, 1, &first), 0);
		assert_int_equal(first, i);
	}
	return s;
}

static int sealed(unsigned pages)
{
	cleanup(segment_free_p) struct segment *s = segment(pages);
	int fd = -1;

	assert_int_equal(segment_seal(s, &fd), 0);
	return fd;
}

static void assert_unchanged(int fd)
{
	uint8_t page[PAGE_BYTES], wanted[PAGE_BYTES];
	struct stat st;

	for (unsigned i = 0; i < PAGES; i++) {
		fill(wanted, i);
		assert_int_equal(pread(fd, page, PAGE_BYTES, (off_t)(i * PAGE_BYTES)), PAGE_BYTES);
		assert_memory_equal(page, wanted, PAGE_BYTES);
	}
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_size, PAGES * PAGE_BYTES);
}

static int reopen(int fd, int flags)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return open(path, flags | O_CLOEXEC);
}

TEST(is_what_was_appended)
{
	cleanup(segment_free_p) struct segment *s = NULL;
	uint8_t pages[3 * PAGE_BYTES];
	uint32_t first = 99, n = 0;
	auto_fd fd = -1;

	assert_int_equal(segment_new(0, &s), -EINVAL);
	assert_int_equal(segment_new(SEGMENT_PAGES_MAX + 1, &s), -EINVAL);
	assert_int_equal(segment_new(4, &s), 0);
	assert_int_equal(segment_seal(s, &fd), -EINVAL); /* empty */
	memset(pages, 7, sizeof(pages));
	assert_int_equal(segment_append(s, pages, 3, &first), 0);
	assert_int_equal(first, 0);
	assert_int_equal(segment_append(s, pages, 2, &first), -ENOSPC);
	assert_int_equal(first, 0);
	assert_int_equal(segment_room(s), 1);
	assert_int_equal(segment_seal(s, &fd), 0);
	assert_int_equal(segment_append(s, pages, 1, &first), -ENOSPC);
	assert_int_equal(segment_seal(s, &fd), -EINVAL); /* once */
	assert_int_equal(segment_check(fd, &n, NULL), 0);
	assert_int_equal(n, 3); /* what was not filled is cut off */
	assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
}

TEST(file_calls_cannot_change_it)
{
	auto_fd fd = sealed(PAGES);
	auto_fd again = reopen(fd, O_RDWR);
	auto_fd other = memfd_create("other", MFD_CLOEXEC);
	int fds[2] = {fd, again}, ends[2];
	uint8_t byte = 0xff;

	assert_int_equal(ftruncate(other, PAGE_BYTES), 0);
	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	assert_int_equal(write(ends[1], &byte, 1), 1);
	for (unsigned i = 0; i < 2 && fds[i] >= 0; i++) {
		struct iovec iov = {&byte, 1};
		off_t zero_offset = 0;

		assert_int_equal(pwrite(fds[i], &byte, 1, 0), -1);
		assert_int_equal(errno, EPERM);
		assert_int_equal(write(fds[i], &byte, 1), -1);
		assert_int_equal(pwritev(fds[i], &iov, 1, PAGE_BYTES), -1);
		assert_int_equal(ftruncate(fds[i], PAGE_BYTES), -1);
		assert_int_equal(errno, EPERM);
		assert_int_equal(ftruncate(fds[i], 2 * PAGES * PAGE_BYTES), -1);
		assert_int_equal(fallocate(fds[i], FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, PAGE_BYTES),
				 -1);
		assert_int_equal(errno, EPERM);
		assert_int_equal(fallocate(fds[i], FALLOC_FL_ZERO_RANGE, 0, PAGE_BYTES), -1);
		assert_int_equal(fallocate(fds[i], 0, 0, 2 * PAGES * PAGE_BYTES), -1);
		assert_int_equal(sendfile(fds[i], other, &zero_offset, 1), -1);
		assert_int_equal(copy_file_range(other, NULL, fds[i], NULL, 1, 0), -1);
		assert_int_equal(splice(ends[0], NULL, fds[i], NULL, 1, 0), -1);
		assert_int_equal(fcntl(fds[i], F_ADD_SEALS, F_SEAL_FUTURE_WRITE), -1);
		assert_int_equal(errno, EPERM);
	}
	assert_unchanged(fd);
	close(ends[0]);
	close(ends[1]);
}

TEST(mappings_cannot_change_it)
{
	auto_fd fd = sealed(PAGES);
	auto_fd again = reopen(fd, O_RDWR);
	auto_fd self = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
	uint64_t bytes = PAGES * PAGE_BYTES;
	volatile uint8_t *mine;
	void *shared;
	uint8_t byte = 0xff;

	assert_true(mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED);
	if (again >= 0)
		assert_true(mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, again, 0) == MAP_FAILED);
	shared = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0); /* 6.7 and later */
	if (shared != MAP_FAILED) {
		assert_int_equal(mprotect(shared, bytes, PROT_READ | PROT_WRITE), -1);
		assert_int_equal(madvise(shared, bytes, MADV_REMOVE), -1);
		if (self >= 0)
			assert_int_equal(pwrite(self, &byte, 1, (off_t)(uintptr_t)shared), -1);
		assert_int_equal(*(volatile uint8_t *)shared, 1);
		munmap(shared, bytes);
	}
	mine = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	assert_true(mine != MAP_FAILED);
	mine[0] = byte; /* a copy */
	if (self >= 0)
		assert_int_equal(pwrite(self, &byte, 1, (off_t)(uintptr_t)(mine + PAGE_BYTES)), 1);
	assert_int_equal(madvise((void *)(uintptr_t)mine, bytes, MADV_REMOVE), -1);
	assert_int_equal(mine[0], byte);
	assert_unchanged(fd);
	munmap((void *)(uintptr_t)mine, bytes);
	assert_unchanged(fd);
}

/* Descriptors below are those of segments that are not sealed: only a thief has them. */
static int steal(void)
{
	int found = -1;

	for (int fd = 3; fd < 256; fd++) {
		char path[64], name[64] = "";

		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		if (readlink(path, name, sizeof(name) - 1) > 0 && strstr(name, "sardine-segment"))
			found = fd;
	}
	return found;
}

TEST(what_was_opened_before_the_seal_cannot_write_after_it)
{
	cleanup(segment_free_p) struct segment *s = segment(PAGES);
	auto_fd stolen = reopen(steal(), O_RDWR);
	auto_fd fd = -1;
	void *map;

	if (stolen < 0)
		TEST_SKIP("/proc/self/fd cannot be reopened here");
	assert_int_equal(segment_seal(s, &fd), 0);
	assert_int_equal(pwrite(stolen, "x", 1, 0), -1);
	map = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, stolen, 0);
	assert_true(map == MAP_FAILED);
	assert_unchanged(fd);
}

TEST(a_writable_mapping_prevents_the_seal)
{
	cleanup(segment_free_p) struct segment *s = segment(PAGES);
	uint32_t pages;
	int fd = -1;
	void *map = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, steal(), 0);

	assert_true(map != MAP_FAILED);
	assert_int_equal(segment_seal(s, &fd), -EBUSY);
	assert_int_equal(fd, -1);
	assert_int_equal(segment_check(steal(), &pages, NULL), -EPERM);
	munmap(map, PAGE_BYTES);
}

TEST(only_segments_pass_the_check)
{
	static const int seals[] = {
		0,
		F_SEAL_SEAL,
		F_SEAL_WRITE | F_SEAL_SHRINK |
			F_SEAL_GROW, /* more could be... nothing that hurts, but not final */
		F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_SEAL,
		F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SEAL,
		F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL,
		F_SEAL_FUTURE_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL,
	};
	auto_fd file = open(".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	auto_fd dir = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	auto_fd zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	int sizes[] = {0, 1, PAGE_BYTES + 1};
	uint32_t pages = 77;

	for (size_t i = 0; i < ARRAY_SIZE(seals); i++) {
		auto_fd fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
		struct errmsg err = {0};

		assert_int_equal(ftruncate(fd, PAGE_BYTES), 0);
		assert_int_equal(fcntl(fd, F_ADD_SEALS, seals[i]), 0);
		assert_int_equal(segment_check(fd, &pages, &err), -EPERM);
		assert_non_null(strstr(err.text, "seals"));
	}
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		auto_fd fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);

		assert_int_equal(ftruncate(fd, sizes[i]), 0);
		assert_int_equal(
			fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL), 0);
		assert_int_equal(segment_check(fd, &pages, NULL), -EINVAL);
	}
	assert_int_equal(segment_check(file, &pages, NULL), -EINVAL);
	assert_int_equal(segment_check(dir, &pages, NULL), -EINVAL);
	assert_int_equal(segment_check(zero, &pages, NULL), -EINVAL);
	assert_int_equal(segment_check(-1, &pages, NULL), -EINVAL);
	assert_int_equal(pages, 77);
}

/* A file that one process makes and another one fills. */
TEST(a_file_is_filled_elsewhere)
{
	struct segment *s = NULL;
	uint8_t page[PAGE_BYTES];
	uint32_t first, pages;
	auto_fd fd = -1, given = -1, sealed_fd = -1;
	struct stat st;

	assert_int_equal(segment_file_new(0, &fd), -EINVAL);
	assert_int_equal(segment_file_new(SEGMENT_PAGES_MAX + 1, &fd), -EINVAL);
	assert_int_equal(segment_file_new(PAGES, &fd), 0);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_blocks * 512, PAGES * PAGE_BYTES); /* charged to the maker */
	assert_int_equal(ftruncate(fd, (PAGES + 1) * PAGE_BYTES), -1);
	given = dup(fd);
	assert_int_equal(segment_adopt_file(given, PAGES - 1, &s), -EINVAL);
	assert_int_equal(segment_adopt_file(given, 0, &s), -EINVAL);
	assert_int_equal(segment_adopt_file(given, PAGES, &s), 0);
	given = -1;
	assert_int_equal(segment_room(s), PAGES);
	for (unsigned i = 0; i < PAGES; i++) {
		fill(page, i);
		assert_int_equal(segment_append(s, page, 1, &first), 0);
	}
	assert_int_equal(segment_check(fd, &pages, NULL), -EPERM);
	assert_int_equal(segment_seal(s, &sealed_fd), 0);
	assert_int_equal(segment_check(fd, &pages, NULL), 0);
	assert_unchanged(fd);
	segment_free(s);
	assert_unchanged(fd);
}

TEST(huge_segments_are_sealed_alike)
{
	cleanup(segment_free_p) struct segment *s = segment(SEGMENT_PAGES);
	cleanup(segment_free_p) struct segment *small = segment(PAGES);
	auto_fd fd = -1;
	int r;

	assert_int_equal(segment_collapse(small), -EINVAL);
	r = segment_collapse(s);
	if (r < 0 && r != -EINVAL && r != -ENOMEM && r != -EAGAIN && r != -EBUSY)
		fail_msg("collapse: %d", r);
	assert_int_equal(segment_seal(s, &fd), 0);
	assert_int_equal(pwrite(fd, "x", 1, 0), -1);
	for (unsigned i = 0; i < SEGMENT_PAGES; i++) {
		uint8_t byte;

		assert_int_equal(pread(fd, &byte, 1, (off_t)(i * PAGE_BYTES)), 1);
		assert_int_equal(byte, (uint8_t)(i + 1));
	}
	if (r < 0)
		TEST_SKIP("the kernel made no huge page");
}

TEST(views_show_the_bytes_and_outlive_the_maker)
{
	struct segment_view view = {.fd = -1};
	int fd = sealed(PAGES);
	auto_fd unsealed = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	assert_int_equal(ftruncate(unsealed, PAGE_BYTES), 0);
	assert_int_equal(segment_view_init(unsealed, &view, NULL), -EPERM);
	assert_null(view.bytes);
	segment_view_done(&view);
	assert_int_equal(segment_view_init(fd, &view, NULL), 0);
	close(fd);
	assert_int_equal(view.pages, PAGES);
	for (unsigned i = 0; i < PAGES; i++)
		assert_int_equal(view.bytes[i * PAGE_BYTES + 5], i + 1);
	segment_view_done(&view);
	assert_int_equal(view.fd, -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(is_what_was_appended),
		cmocka_unit_test(file_calls_cannot_change_it),
		cmocka_unit_test(mappings_cannot_change_it),
		cmocka_unit_test(what_was_opened_before_the_seal_cannot_write_after_it),
		cmocka_unit_test(a_writable_mapping_prevents_the_seal),
		cmocka_unit_test(only_segments_pass_the_check),
		cmocka_unit_test(a_file_is_filled_elsewhere),
		cmocka_unit_test(huge_segments_are_sealed_alike),
		cmocka_unit_test(views_show_the_bytes_and_outlive_the_maker),
	};

	return TEST_RUN(tests);
}
