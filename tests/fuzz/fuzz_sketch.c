/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a sketch file, with the checksum made right: what is accepted can be compared and saved again. */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/bytes.h"
#include "base/fs.h"
#include "ksm/sketch.h"
#include "tests/fuzz/require.h"
#include "tests/fuzz/tempdir.h"

#define HEADER_BYTES 32u
#define CHECKSUM_AT  24u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What was read is written and read again. */
static void save_again(const struct sketch_file *f)
{
	static struct tempdir dir;
	struct sketch_file again;
	struct errmsg err = {0};
	const char *path;

	if (!dir.path[0])
		dir = tempdir_make_until_exit();
	path = tempdir_file(&dir, "sketch");
	require(sketch_save(f, path, &err) == 0 && sketch_load(path, &again, &err) == 0);
	require(again.count == f->count && again.page_bytes == f->page_bytes);
	require(sketch_compare(&again.all, &f->all).similarity == (f->all.key_count ? 1 : 0));
	sketch_file_done(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	auto_fd fd = memfd_create("sketch", MFD_CLOEXEC);
	auto_free uint8_t *copy = malloc(size + 1);
	struct sketch_file f;
	struct errmsg err = {0};
	char path[64];

	require(fd >= 0 && copy != NULL);
	memcpy(copy, data, size);
	if (size >= HEADER_BYTES)
		store_le64(copy + CHECKSUM_AT,
			   XXH3_64bits_withSeed(copy + HEADER_BYTES, size - HEADER_BYTES,
						(uint64_t)load_le32(copy + 12) << 32 | load_le32(copy + 16)));
	require(pwrite_full(fd, copy, size, 0) == 0);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (sketch_load(path, &f, &err) < 0) {
		require(err.text[0] != '\0');
		return 0;
	}
	for (uint32_t i = 0; i < f.count; i++) {
		struct sketch_estimate e = sketch_compare(&f.all, &f.v[i]);

		require(e.similarity >= 0 && e.similarity <= 1 && isfinite(e.shared) && e.shared >= 0);
		require(isfinite(e.shared_error) && e.shared_error >= 0);
	}
	save_again(&f);
	sketch_file_done(&f);
	return 0;
}
