/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a memory dump: what is accepted lies inside the file and can be analysed. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/size.h"
#include "ksm/dedup-count.h"
#include "tests/fuzz/require.h"
#include "tools/dump-file.h"

#define DECODED_MAX (4 * MIB)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void analyze(struct dump_file *dump)
{
	struct work_control control = {.threads = 1};
	struct page_set set;
	struct dedup d;
	struct counts c;
	uint64_t pages = 0;

	/* Not what the file would hold: segments of a core may share its bytes, and each is memory of its own. */
	for (size_t i = 0; i < dump->range_count; i++)
		pages += dump->ranges[i].bytes / 1024;
	page_set_init(&set, 1024);
	require(page_set_add(&set, dump->path, &dump_file_ops, dump, dump->ranges, dump->range_count) == 0);
	require(set.pages <= pages);
	require(dedup_run(&d, &set, NULL, &control) == 0);
	require(d.missing_pages == 0);
	require(dedup_count(&d, &c) == 0);
	require(c.total.pages == set.pages && c.total.saved + c.total.distinct == c.total.nonzero);
	require(c.total.zero + c.total.nonzero == c.total.pages && c.runs[0] == c.total.duplicate);
	counts_done(&c);
	dedup_done(&d);
	page_set_done(&set);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	auto_fd fd = memfd_create("dump", MFD_CLOEXEC);
	struct work_control control = {.threads = 1};
	struct errmsg err = {0};
	struct dump_file dump;
	char path[64];

	require(fd >= 0 && pwrite_full(fd, data, size, 0) == 0);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (dump_file_open(path, &control, &dump, &err) < 0) {
		require(err.text[0] != '\0');
		return 0;
	}
	require(dump.range_count > 0 && dump.form && dump.compression);
	for (size_t i = 0; i < dump.range_count; i++) {
		const struct page_range *r = &dump.ranges[i];

		require(r->bytes && range_fits(r->where, r->bytes, dump.size));
		require(i == 0 || dump.ranges[i - 1].address + dump.ranges[i - 1].bytes <= r->address);
	}
	if (dump.size <= DECODED_MAX)
		analyze(&dump);
	/* A part that cannot be read is a problem of the file; that nobody changed it is none, that somebody did is one. */
	dump.problem.text[0] = '\0';
	dump_file_check(&dump);
	require(!dump.problem.text[0]);
	require(ftruncate(fd, (off_t)size + (size % 2 ? 1 : -1)) == 0);
	dump_file_check(&dump);
	require(strstr(dump.problem.text, size % 2 ? " grew " : " shrank "));
	dump_file_done(&dump);
	return 0;
}
