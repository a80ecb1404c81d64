/* SPDX-License-Identifier: Apache-2.0 */
/* Statistics: what is read from procfs and sysfs, and that the account adds up. */
#include "stats/usage.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>

#include "base/fs.h"
#include "base/size.h"
#include "ksm/segment.h"
#include "tests/unit/tempdir.h"
#include "tests/unit/test.h"

/* Guest RAM at 1000000-2000000, part of it a private mapping of a boot file; then the VMM's own. */
static const char smaps_text[] =
	"1000000-1800000 rw-p 00000000 00:00 0 \n"
	"Size: 8192 kB\n"
	"Rss: 4096 kB\n"
	"Pss: 3000 kB\n"
	"Pss_Dirty: 9999 kB\n"
	"Shared_Dirty: 96 kB\n"
	"Private_Clean: 0 kB\n"
	"Private_Dirty: 4000 kB\n"
	"Anonymous: 4096 kB\n"
	"KSM: 1200 kB\n"
	"AnonHugePages: 2048 kB\n"
	"Swap: 64 kB\n"
	"SwapPss: 64 kB\n"
	"THPeligible: 1\n"
	"VmFlags: rd wr mr mw me ac dd mg \n"
	"1800000-2000000 rw-p 00100000 fe:01 4711                          /var/cache/sardine/a b (deleted)\n"
	"Rss: 2000 kB\n"
	"Pss: 800 kB\n"
	"Private_Clean: 0 kB\n"
	"Private_Dirty: 200 kB\n"
	"Anonymous: 200 kB\n"
	"KSM: 0 kB\n"
	"AnonHugePages: 0 kB\n"
	"Swap: 0 kB\n"
	"2000000-2010000 rw-p 00000000 00:00 0                             [heap]\n"
	"Rss: 64 kB\n"
	"Pss: 64 kB\n"
	"Private_Clean: 4 kB\n"
	"Private_Dirty: 60 kB\n"
	"Anonymous: 64 kB\n"
	"Swap: 8 kB\n"
	"3000000-3010000 rw-s 00000000 00:05 33                            /memfd:x (deleted)\n"
	"Rss: 64 kB\n"
	"Pss: 32 kB\n"
	"Private_Dirty: 0 kB\n"
	"Swap: 0 kB\n";

static int read_text(const char *text, struct smaps_sum *guest, struct smaps_sum *rest)
{
	static const struct smaps_range range = {0x1000000, 0x2000000};
	char copy[4096];
	auto_file f = NULL;

	strcpy(copy, text);
	f = fmemopen(copy, strlen(copy), "r");
	assert_non_null(f);
	return smaps_read(f, &range, 1, guest, rest);
}

TEST(smaps_are_summed)
{
	struct smaps_sum guest, rest;

	assert_int_equal(read_text(smaps_text, &guest, &rest), 0);
	assert_int_equal(guest.mappings, 2);
	assert_int_equal(guest.rss, 6096 * KIB);
	assert_int_equal(guest.pss, 3800 * KIB);
	assert_int_equal(guest.private, 4200 * KIB);
	assert_int_equal(guest.anonymous, 4296 * KIB);
	assert_int_equal(guest.ksm, 1200 * KIB);
	assert_true(guest.ksm_known);
	assert_int_equal(guest.swap, 64 * KIB);
	assert_int_equal(guest.huge, 2048 * KIB);
	assert_int_equal(guest.file_rss, 1800 * KIB);
	assert_int_equal(guest.file_pss, 600 * KIB);
	assert_int_equal(rest.mappings, 2);
	assert_int_equal(rest.private, 64 * KIB);
	assert_int_equal(rest.swap, 8 * KIB);
	assert_int_equal(rest.shmem_pss, 32 * KIB);
	assert_int_equal(rest.file_rss, 0);
	assert_false(rest.ksm_known);
}

TEST(what_is_no_smaps_is_refused)
{
	struct smaps_sum guest, rest;

	assert_int_equal(read_text("Rss: 4 kB\n", &guest, &rest), -EINVAL);
	assert_int_equal(read_text("hello\n", &guest, &rest), -EINVAL);
}

/* The kernel's own: a mapping of which a known part is touched. */
TEST(own_smaps)
{
	const size_t bytes = 4 * MIB;
	uint8_t *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct smaps_range range = {(uintptr_t)p, (uintptr_t)p + bytes};
	struct smaps_sum guest, rest;
	auto_file f = fopen("/proc/self/smaps", "re");

	assert_true(p != MAP_FAILED);
	assert_int_equal(madvise(p, bytes, MADV_NOHUGEPAGE), 0); /* and so a mapping of its own */
	for (size_t i = 0; i < 10; i++)
		p[i * 4096] = 1;
	assert_non_null(f);
	assert_int_equal(smaps_read(f, &range, 1, &guest, &rest), 0);
	assert_int_equal(guest.mappings, 1);
	assert_int_equal(guest.rss, 10 * 4096);
	assert_int_equal(guest.anonymous, 10 * 4096);
	assert_true(rest.private > 0);
	munmap(p, bytes);
}

static void put(const struct tempdir *dir, const char *name, const char *text)
{
	int fd = open(tempdir_file(dir, name), O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(write_full(fd, text, strlen(text)), 0);
	close(fd);
}

static void read_process(const struct tempdir *dir, struct ksm_process_usage *ret)
{
	struct ksm_process_files files;

	ksm_process_files_open(dir->path, &files);
	ksm_process_usage_read(&files, ret);
	ksm_process_files_close(&files);
}

static void read_host(const struct tempdir *dir, struct ksm_host_usage *ret)
{
	struct ksm_host_files files;

	ksm_host_files_open(dir->path, &files);
	ksm_host_usage_read(&files, ret);
	ksm_host_files_close(&files);
}

TEST(ksm_of_new_and_old_kernels)
{
	struct tempdir dir = tempdir_make();
	struct ksm_process_usage p;
	struct ksm_host_usage h;

	read_process(&dir, &p);
	assert_false(p.known || p.zero_known);
	read_host(&dir, &h);
	assert_false(h.known || h.zero_known);
	/* Linux 6.1 */
	put(&dir, "ksm_merging_pages", "70\n");
	put(&dir, "ksm_stat", "ksm_rmap_items 9\n");
	read_process(&dir, &p);
	assert_true(p.known);
	assert_false(p.zero_known);
	assert_int_equal(p.merging_pages, 70);
	/* Linux 6.12 */
	put(&dir, "ksm_stat",
	    "ksm_rmap_items 9\nksm_zero_pages 5\nksm_merging_pages 70\nksm_process_profit -3\n");
	read_process(&dir, &p);
	assert_true(p.zero_known);
	assert_int_equal(p.zero_pages, 5);
	put(&dir, "pages_shared", "10\n");
	put(&dir, "pages_sharing", "90\n");
	read_host(&dir, &h);
	assert_true(h.known);
	assert_false(h.zero_known);
	assert_int_equal(h.pages_sharing, 90);
	tempdir_remove(&dir);
}

static struct usage_input example(void)
{
	struct usage_input in = {
		.configured_bytes = 256 * MIB,
		.ballooned_bytes = 3 * MIB,
		.mergeable = true,
		.ksm = {.merging_pages = 2560, .zero_pages = 256, .zero_known = true, .known = true},
		.ksm_host = {.pages_shared = 100, .pages_sharing = 300, .known = true},
	};

	in.guest.rss = 100 * MIB;
	in.guest.anonymous = 60 * MIB;
	in.guest.file_rss = 40 * MIB;
	in.guest.file_pss = 10 * MIB;
	in.guest.swap = 5 * MIB;
	in.rest.private = MIB;
	in.rest.swap = 2 * MIB;
	in.rest.shmem_pss = 4 * MIB;
	return in;
}

TEST(account_of_a_vm)
{
	struct usage_input in = example();
	struct vm_usage u;

	vm_usage_account(&in, &u);
	assert_int_equal(u.populated, 100 * MIB);
	assert_int_equal(u.shared_from_birth, 40 * MIB);
	assert_int_equal(u.merged, 10 * MIB);
	assert_int_equal(u.private, 50 * MIB);
	assert_int_equal(u.saved_birth, 30 * MIB);
	assert_int_equal(u.saved_ksm, 10 * MIB * 3 / 4);
	assert_int_equal(u.saved_total, 30 * MIB + 10 * MIB * 3 / 4);
	assert_int_equal(u.occupied, 100 * MIB - u.saved_total);
	assert_int_equal(u.zero, MIB);
	assert_int_equal(u.saved_zero, MIB); /* beside the total, not in it */
	assert_int_equal(u.vmm_private, 7 * MIB);
	assert_int_equal(u.swapped, 5 * MIB);
}

/* Pages of the store are neither boot files nor private, whether the guest has touched them or not. */
TEST(account_with_a_store)
{
	struct usage_input in = example();
	struct vm_usage u;

	in.guest.rss = 120 * MIB;
	in.guest.store_rss = 20 * MIB;
	in.guest.store_pss = 10 * MIB;
	in.rest.store_pss = 2 * MIB;
	in.file_pss_known = true;
	in.file_pss = (10 + 12 + 4) * MIB; /* boot files, store, other shared memory */
	vm_usage_account(&in, &u);
	assert_int_equal(u.store, 20 * MIB);
	assert_int_equal(u.populated, 120 * MIB);
	assert_int_equal(u.saved_store, 0); /* nobody tells who else has them */
	in.store =
		(struct usage_store){.known = true, .mapped_bytes = 32 * MIB, .mappings = 1000, .saved = 750};
	vm_usage_account(&in, &u);
	assert_int_equal(u.store, 32 * MIB);
	assert_int_equal(u.saved_store, 24 * MIB);
	assert_int_equal(u.populated, 132 * MIB);
	assert_int_equal(u.private, 50 * MIB);
	assert_int_equal(u.merged, 10 * MIB);
	assert_int_equal(u.shared_from_birth, 40 * MIB);
	assert_int_equal(u.saved_birth, 30 * MIB);
	assert_int_equal(u.vmm_private, 7 * MIB);
	assert_int_equal(u.saved_total, u.saved_birth + u.saved_ksm + u.saved_store);
	assert_int_equal(u.occupied, u.populated - u.saved_total);
	in.store.mapped_bytes = UINT64_MAX;
	in.store.saved = UINT64_MAX;
	vm_usage_account(&in, &u);
	assert_int_equal(u.store, 256 * MIB);
	assert_int_equal(u.saved_store, u.store);
	assert_int_equal(u.occupied, u.populated - u.saved_total);
}

/* The kernel's own figures of a segment that is mapped and partly copied: tells name and parts apart. */
TEST(a_segment_is_recognised)
{
	cleanup(segment_free_p) struct segment *s = NULL;
	struct segment_view view;
	struct smaps_sum guest, rest;
	struct smaps_range range;
	auto_file f = fopen("/proc/self/smaps", "re");
	uint8_t page[4096] = {1};
	uint32_t first;
	auto_fd fd = -1;
	uint8_t *p;

	assert_non_null(f);
	assert_int_equal(segment_new(16, &s), 0);
	for (unsigned i = 0; i < 16; i++)
		assert_int_equal(segment_append(s, page, 1, &first), 0);
	assert_int_equal(segment_seal(s, &fd), 0);
	assert_int_equal(segment_view_init(fd, &view, NULL), 0);
	p = mmap(NULL, sizeof(page) * 16, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	assert_true(p != MAP_FAILED);
	for (unsigned i = 0; i < 16; i++)
		assert_int_equal(p[i * 4096] + view.bytes[i * 4096], 2);
	p[0] = p[4096] = 2;
	range = (struct smaps_range){(uintptr_t)p, (uintptr_t)p + sizeof(page) * 16};
	assert_int_equal(smaps_read(f, &range, 1, &guest, &rest), 0);
	assert_int_equal(guest.store_rss, 14 * 4096);
	assert_int_equal(guest.private, 2 * 4096);
	assert_true(guest.store_pss < guest.store_rss && guest.store_pss >= 6 * 4096);
	assert_int_equal(guest.file_rss + guest.shmem_pss, 0);
	assert_int_equal(rest.store_rss, 16 * 4096);
	munmap(p, sizeof(page) * 16);
	segment_view_done(&view);
}

/* Merged copies of boot pages do not count as boot pages: their share is what the process's is less the VMM's own. */
TEST(share_of_boot_pages_beside_merged_copies)
{
	struct usage_input in = example();
	struct vm_usage u;

	in.guest.file_pss = 40 * MIB; /* with the merged copies in it */
	in.rest.file_pss = 3 * MIB;
	in.file_pss_known = true;
	in.file_pss = (20 + 3 + 4) * MIB;
	vm_usage_account(&in, &u);
	assert_int_equal(u.saved_birth, 20 * MIB);
	in.file_pss = MIB; /* of different moments */
	vm_usage_account(&in, &u);
	assert_int_equal(u.saved_birth, 40 * MIB);
	assert_int_equal(u.occupied, u.populated - u.saved_total);
}

TEST(rollup_is_read)
{
	char text[] = "1000-2000 ---p 00000000 00:00 0 [rollup]\nPss: 9 kB\nPss_Anon: 1 kB\nPss_File: 5 "
		      "kB\nPss_Shmem: 3 kB\n";
	char old[] = "1000-2000 ---p 00000000 00:00 0 [rollup]\nPss: 9 kB\n";
	auto_file f = fmemopen(text, strlen(text), "r");
	auto_file g = fmemopen(old, strlen(old), "r");
	uint64_t bytes = 1;

	assert_int_equal(smaps_rollup_read(g, &bytes), -EINVAL);
	assert_int_equal(bytes, 1);
	assert_int_equal(smaps_rollup_read(f, &bytes), 0);
	assert_int_equal(bytes, 8 * KIB);
}

/* The figures are of different moments: the equations hold all the same, and nothing wraps. */
TEST(account_of_figures_that_disagree)
{
	struct usage_input in = example();
	struct vm_usage u;

	in.ksm.merging_pages = 1 << 20;
	in.guest.file_pss = 400 * MIB;
	vm_usage_account(&in, &u);
	assert_int_equal(u.merged, 60 * MIB);
	assert_int_equal(u.private, 0);
	assert_int_equal(u.saved_birth, 0);
	assert_int_equal(u.populated, u.private + u.shared_from_birth + u.merged);
	assert_int_equal(u.occupied, u.populated - u.saved_total);
	in.guest.rss = MIB;
	vm_usage_account(&in, &u);
	assert_int_equal(u.shared_from_birth, MIB);
	assert_int_equal(u.merged, 0);
	in = (struct usage_input){0};
	vm_usage_account(&in, &u);
	assert_int_equal(u.saved_total, 0);
	assert_false(u.zero_known);
}

/* Two VMs that share all their files and merge with each other only: the sum is what the host saved. */
TEST(account_of_the_host)
{
	struct usage_input in = {0};
	struct host_usage host = {0};
	struct vm_usage u;

	assert_true(host_usage_ratio(&host) == 1.0);
	in.guest.rss = 30 * MIB;
	in.guest.file_rss = 10 * MIB;
	in.guest.file_pss = 5 * MIB;
	in.ksm.merging_pages = 2560; /* 10 MiB each, */
	in.ksm_host = (struct ksm_host_usage){
		.pages_shared = 2560, .pages_sharing = 2560, .known = true}; /* twice */
	vm_usage_account(&in, &u);
	host_usage_add(&host, &u);
	host_usage_add(&host, &u);
	assert_int_equal(host.vms, 2);
	assert_int_equal(host.sum.saved_birth, 10 * MIB);
	assert_int_equal(host.sum.saved_ksm, 10 * MIB);
	assert_int_equal(host.sum.occupied, 40 * MIB);
	assert_true(host_usage_ratio(&host) == 1.5);
}

TEST(json_there_and_back)
{
	struct usage_input in = example();
	struct vm_usage u, back;
	json_t *json;

	vm_usage_account(&in, &u);
	json = json_pack("{s:o, s:o}", "memory", vm_usage_memory_json(&u), "saved", vm_usage_saved_json(&u));
	assert_non_null(json);
	assert_int_equal(vm_usage_from_json(json, &back), 0);
	assert_int_equal(back.vmm_private, u.vmm_private);
	assert_int_equal(back.saved_ksm, u.saved_ksm);
	assert_int_equal(back.saved_zero, MIB);
	assert_true(back.mergeable && back.zero_known);
	assert_true(json_is_integer(json_object_get(json_object_get(json, "memory"), "zero_bytes")));
	/* A VM of before there was a store. */
	json_object_del(json_object_get(json, "memory"), "store_bytes");
	json_object_del(json_object_get(json, "saved"), "store_bytes");
	assert_int_equal(vm_usage_from_json(json, &back), 0);
	json_object_del(json_object_get(json, "memory"), "merged_bytes");
	assert_int_equal(vm_usage_from_json(json, &back), -EINVAL);
	json_decref(json);
	assert_int_equal(vm_usage_from_json(NULL, &back), -EINVAL);
	u.zero_known = false;
	json = vm_usage_memory_json(&u);
	assert_true(json_is_null(json_object_get(json, "zero_bytes")));
	json_decref(json);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(smaps_are_summed),
		cmocka_unit_test(what_is_no_smaps_is_refused),
		cmocka_unit_test(own_smaps),
		cmocka_unit_test(ksm_of_new_and_old_kernels),
		cmocka_unit_test(account_of_a_vm),
		cmocka_unit_test(account_with_a_store),
		cmocka_unit_test(a_segment_is_recognised),
		cmocka_unit_test(share_of_boot_pages_beside_merged_copies),
		cmocka_unit_test(rollup_is_read),
		cmocka_unit_test(account_of_figures_that_disagree),
		cmocka_unit_test(account_of_the_host),
		cmocka_unit_test(json_there_and_back),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
