/* SPDX-License-Identifier: Apache-2.0 */
/* Dumps: every byte where the format says, holes where nothing is, and nothing populated by looking. */
#include "vmm/dump.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/fs.h"
#include "base/size.h"
#include "tests/unit/tempdir.h"
#include "tests/unit/test.h"

struct fixture {
	struct tempdir dir;
	struct guest_memory *mem;
	uint64_t high_end;
	int fd;
};

static const char marks[][8] = {"first..", "second.", "third..", "fourth."};

/* Where the marks are: both ends of low RAM, and of high RAM if there is some. */
static unsigned mark_places(const struct guest_memory *mem, uint64_t *gpas)
{
	unsigned count = 0;

	for (size_t i = 0; i < guest_memory_region_count(mem); i++) {
		const struct guest_region *r = guest_memory_region(mem, i);

		gpas[count++] = r->gpa.v;
		gpas[count++] = r->gpa.v + r->bytes - sizeof(marks[0]);
	}
	return count;
}

static void fixture_start(struct fixture *f, uint64_t bytes)
{
	uint64_t gpas[4];
	unsigned count;

	*f = (struct fixture){.dir = tempdir_make()};
	assert_int_equal(guest_memory_new(bytes, false, &f->mem), 0);
	count = mark_places(f->mem, gpas);
	for (unsigned i = 0; i < count; i++)
		assert_int_equal(guest_write(f->mem, GPA(gpas[i]), marks[i], sizeof(marks[i])), 0);
	f->fd = open(tempdir_file(&f->dir, "dump"), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
	assert_true(f->fd >= 0);
}

static void fixture_stop(struct fixture *f)
{
	close(f->fd);
	guest_memory_free(f->mem);
	tempdir_remove(&f->dir);
}

static uint64_t populated_pages(const struct guest_memory *mem)
{
	auto_fd fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	uint64_t count = 0;

	for (size_t i = 0; i < guest_memory_region_count(mem); i++) {
		const struct guest_region *r = guest_memory_region(mem, i);
		uint64_t entries[512];

		for (uint64_t p = 0; p < r->bytes / PAGE_BYTES; p += 512) {
			uint64_t n = r->bytes / PAGE_BYTES - p < 512 ? r->bytes / PAGE_BYTES - p : 512;

			assert_int_equal(
				pread_full(fd, entries, n * 8, ((uintptr_t)r->hva / PAGE_BYTES + p) * 8), 0);
			for (uint64_t k = 0; k < n; k++)
				count += entries[k] >> 63;
		}
	}
	return count;
}

static void check_marks(struct fixture *f, unsigned index, uint64_t off)
{
	char got[sizeof(marks[0])];

	assert_int_equal(pread_full(f->fd, got, sizeof(got), off), 0);
	assert_memory_equal(got, marks[index], sizeof(got));
}

TEST(raw_offsets_are_addresses)
{
	static const uint64_t sizes[] = {64 * MIB, 64 * MIB + 12 * 4096, 5 * GIB};

	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		struct fixture f;
		struct dump_result result;
		struct errmsg err = {0};
		struct stat st;
		uint64_t gpas[4], before;
		unsigned count;

		fixture_start(&f, sizes[i]);
		before = populated_pages(f.mem);
		assert_int_equal(dump_write(f.mem, f.fd, DUMP_RAW, NULL, &err, &result), 0);
		assert_int_equal(populated_pages(f.mem), before);
		count = mark_places(f.mem, gpas);
		for (unsigned k = 0; k < count; k++)
			check_marks(&f, k, gpas[k]);
		assert_int_equal(fstat(f.fd, &st), 0);
		assert_int_equal(st.st_size, gpas[count - 1] + sizeof(marks[0]));
		assert_int_equal(result.file_bytes, st.st_size);
		assert_int_equal(result.data_bytes, count * PAGE_BYTES);
		assert_true(st.st_blocks * 512 < 1 << 20); /* holes */
		fixture_stop(&f);
	}
}

TEST(elf_says_where_everything_is)
{
	static const uint64_t sizes[] = {64 * MIB, 5 * GIB};

	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		struct fixture f;
		struct dump_result result;
		Elf64_Ehdr ehdr;
		unsigned loads = 0, notes = 0;

		fixture_start(&f, sizes[i]);
		assert_int_equal(dump_write(f.mem, f.fd, DUMP_ELF, NULL, NULL, &result), 0);
		assert_int_equal(pread_full(f.fd, &ehdr, sizeof(ehdr), 0), 0);
		assert_memory_equal(ehdr.e_ident, ELFMAG, SELFMAG);
		assert_int_equal(ehdr.e_type, ET_CORE);
		assert_int_equal(ehdr.e_machine, EM_X86_64);
		for (unsigned k = 0; k < ehdr.e_phnum; k++) {
			Elf64_Phdr p;
			const struct guest_region *r;

			assert_int_equal(pread_full(f.fd, &p, sizeof(p), ehdr.e_phoff + k * sizeof(p)), 0);
			if (p.p_type == PT_NOTE) {
				Elf64_Nhdr n;

				notes++;
				assert_int_equal(pread_full(f.fd, &n, sizeof(n), p.p_offset), 0);
				assert_int_equal(sizeof(n) + n.n_namesz + n.n_descsz, p.p_filesz);
				continue;
			}
			r = guest_memory_region(f.mem, loads);
			assert_int_equal(p.p_type, PT_LOAD);
			assert_int_equal(p.p_paddr, r->gpa.v);
			assert_int_equal(p.p_filesz, r->bytes);
			assert_int_equal(p.p_memsz, r->bytes);
			assert_int_equal(p.p_offset % PAGE_BYTES, 0);
			check_marks(&f, 2 * loads, p.p_offset);
			check_marks(&f, 2 * loads + 1, p.p_offset + r->bytes - sizeof(marks[0]));
			loads++;
		}
		assert_int_equal(loads, guest_memory_region_count(f.mem));
		assert_int_equal(notes, 1);
		fixture_stop(&f);
	}
}

/* A frame of a boot file is not populated until the guest reads it, and is no hole. */
TEST(boot_files_are_dumped_too)
{
	struct fixture f;
	struct dump_result result;
	auto_fd file = memfd_create("boot", MFD_CLOEXEC);
	uint8_t page[PAGE_BYTES], got[PAGE_BYTES];

	memset(page, 0x5a, sizeof(page));
	assert_int_equal(pwrite_full(file, page, sizeof(page), 0), 0);
	fixture_start(&f, 64 * MIB);
	assert_int_equal(guest_memory_map_file(f.mem, GPA(16 * MIB), file, 0, PAGE_BYTES), 0);
	/* Written frames of zeros are holes as well. */
	memset(page, 0, sizeof(page));
	assert_int_equal(guest_write(f.mem, GPA(32 * MIB), page, sizeof(page)), 0);
	assert_int_equal(dump_write(f.mem, f.fd, DUMP_RAW, NULL, NULL, &result), 0);
	assert_int_equal(pread_full(f.fd, got, sizeof(got), 16 * MIB), 0);
	for (size_t i = 0; i < sizeof(got); i++)
		assert_int_equal(got[i], 0x5a);
	assert_int_equal(result.data_bytes, 3 * PAGE_BYTES);
	fixture_stop(&f);
}

TEST(old_content_does_not_show)
{
	struct fixture f;
	struct dump_result result;
	char old[16], got[16], zero[16] = "";

	fixture_start(&f, 64 * MIB);
	memset(old, 'x', sizeof(old));
	assert_int_equal(pwrite_full(f.fd, old, sizeof(old), 8 * MIB), 0);
	assert_int_equal(pwrite_full(f.fd, old, sizeof(old), 100 * MIB), 0);
	assert_int_equal(dump_write(f.mem, f.fd, DUMP_RAW, NULL, NULL, &result), 0);
	assert_int_equal(pread_full(f.fd, got, sizeof(got), 8 * MIB), 0);
	assert_memory_equal(got, zero, sizeof(got));
	assert_int_equal(lseek(f.fd, 0, SEEK_END), 64 * MIB);
	fixture_stop(&f);
}

TEST(bad_files_are_refused)
{
	struct fixture f;
	struct dump_result result;
	struct errmsg err = {0};
	int pair[2], fd;

	fixture_start(&f, 64 * MIB);
	assert_int_equal(pipe2(pair, O_CLOEXEC), 0);
	assert_int_equal(dump_write(f.mem, pair[1], DUMP_ELF, NULL, &err, &result), -EINVAL);
	assert_non_null(strstr(err.text, "not a regular file"));
	close(pair[0]);
	close(pair[1]);
	fd = open(tempdir_file(&f.dir, "dump"), O_RDONLY | O_CLOEXEC);
	assert_int_equal(dump_write(f.mem, fd, DUMP_ELF, NULL, NULL, &result), -EINVAL);
	close(fd);
	fd = open(tempdir_file(&f.dir, "dump"), O_RDWR | O_APPEND | O_CLOEXEC);
	assert_int_equal(dump_write(f.mem, fd, DUMP_ELF, NULL, NULL, &result), -EINVAL);
	close(fd);
	fixture_stop(&f);
}

TEST(cancelled)
{
	struct fixture f;
	struct dump_result result;
	atomic_bool cancel = true;

	fixture_start(&f, 64 * MIB);
	assert_int_equal(dump_write(f.mem, f.fd, DUMP_RAW, &cancel, NULL, &result), -ECANCELED);
	assert_int_equal(result.data_bytes, 0);
	fixture_stop(&f);
}

/* A limit on the file's size, which is refused at once. */
TEST(file_too_big)
{
	struct fixture f;
	int status;
	pid_t pid;

	fixture_start(&f, 64 * MIB);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		struct dump_result result;
		struct errmsg err = {0};

		signal(SIGXFSZ, SIG_IGN);
		setrlimit(RLIMIT_FSIZE, &(struct rlimit){MIB, MIB});
		_exit(dump_write(f.mem, f.fd, DUMP_RAW, NULL, &err, &result) == -EFBIG && err.text[0] ? 0
												      : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	fixture_stop(&f);
}

/* In a mount namespace of its own: a file system with room for 16 pages. 77: not allowed here. */
static int dump_to_small_disk(struct fixture *f)
{
	struct dump_result result;
	struct errmsg err = {0};
	uint8_t page[PAGE_BYTES];
	int fd;

	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
	    mount("none", f->dir.path, "tmpfs", 0, "size=64k") < 0)
		return 77;
	/* Its own: what the parent's memory tells of itself is of the parent. */
	guest_memory_free(f->mem);
	f->mem = NULL;
	if (guest_memory_new(64 * MIB, false, &f->mem) < 0)
		return 1;
	memset(page, 1, sizeof(page));
	for (uint64_t gpa = 0; gpa < 64 * MIB; gpa += MIB)
		if (guest_write(f->mem, GPA(gpa), page, sizeof(page)) < 0)
			return 1;
	fd = open(tempdir_file(&f->dir, "small"), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
	if (fd < 0 || dump_write(f->mem, fd, DUMP_RAW, NULL, &err, &result) != -ENOSPC)
		return 2;
	return strstr(err.text, "No space left") && result.data_bytes > 8 * PAGE_BYTES &&
			       result.data_bytes <= 16 * PAGE_BYTES && result.file_bytes == 64 * MIB
		       ? 0
		       : 3;
}

TEST(full_disk)
{
	struct fixture f;
	int status;
	pid_t pid;

	fixture_start(&f, 64 * MIB);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0)
		_exit(dump_to_small_disk(&f));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	fixture_stop(&f);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
		TEST_SKIP("not allowed to mount a small file system");
	assert_int_equal(status, 0);
}

TEST(format_names)
{
	enum dump_format format = DUMP_RAW;

	assert_int_equal(dump_format_parse("elf", &format), 0);
	assert_int_equal(format, DUMP_ELF);
	assert_int_equal(dump_format_parse("", &format), -EINVAL);
	assert_string_equal(dump_format_name(DUMP_RAW), "raw");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(raw_offsets_are_addresses),
		cmocka_unit_test(elf_says_where_everything_is),
		cmocka_unit_test(boot_files_are_dumped_too),
		cmocka_unit_test(old_content_does_not_show),
		cmocka_unit_test(bad_files_are_refused),
		cmocka_unit_test(cancelled),
		cmocka_unit_test(file_too_big),
		cmocka_unit_test(full_disk),
		cmocka_unit_test(format_names),
	};

	return TEST_RUN(tests);
}
