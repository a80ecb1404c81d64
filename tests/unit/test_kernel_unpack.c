/* SPDX-License-Identifier: Apache-2.0 */
/* Payloads unpack to what was packed, within the bound; broken ones are refused. */
#include "vmm/kernel-unpack.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/fs.h"
#include "base/size.h"
#include "tests/unit/kernel-synth.h"
#include "tests/unit/test.h"

#define AT 0x1234 /* where the payload stands in its file */

static int unpack(const struct bytes *payload, uint64_t max, struct errmsg *err, struct bytes *ret)
{
	auto_fd in = memfd_create("in", MFD_CLOEXEC);
	auto_fd out = memfd_create("out", MFD_CLOEXEC);
	uint64_t bytes = UINT64_MAX;
	int r;

	assert_int_equal(pwrite_full(in, payload->data, payload->len, AT), 0);
	/* What follows in the file is not the payload's. */
	assert_int_equal(pwrite_full(in, "behind", 6, AT + payload->len), 0);
	r = kernel_unpack(in, AT, payload->len, out, max, err, &bytes);
	if (r < 0) {
		assert_true(bytes == UINT64_MAX);
		assert_true(lseek(out, 0, SEEK_END) <= (off_t)max);
		return r;
	}
	assert_int_equal(lseek(out, 0, SEEK_END), bytes);
	if (ret) {
		bytes_add(ret, NULL, bytes);
		assert_int_equal(pread_full(out, ret->data, bytes, 0), 0);
	}
	return 0;
}

/* 0 for what the packers find nothing in, else long runs. */
static struct bytes plain(size_t len, unsigned run)
{
	struct bytes b = {0};
	uint32_t x = 1;

	bytes_add(&b, NULL, len);
	for (size_t i = 0; i < len; i++) {
		if (!run || i % run == 0)
			x = x * 1664525u + 1013904223u;
		b.data[i] = (uint8_t)(x >> 24);
	}
	return b;
}

static void round_trip(enum synth_packing how, size_t len, unsigned run)
{
	cleanup(bytes_done) struct bytes in = plain(len, run);
	cleanup(bytes_done) struct bytes packed = synth_pack(how, &in);
	cleanup(bytes_done) struct bytes out = {0};
	struct errmsg err = {0};
	int r = unpack(&packed, KERNEL_UNPACKED_MAX, &err, &out);

	if (r < 0)
		fail_msg("%s of %zu: %s", synth_packing_names[how], len, err.text);
	assert_int_equal(out.len, in.len);
	assert_memory_equal(out.data, in.data, in.len);
}

TEST(unpacks_all)
{
	for (int how = 0; how < SYNTH_PACKINGS; how++) {
		round_trip((enum synth_packing)how, 40, 7);
		round_trip((enum synth_packing)how, 300001, 0);
		/* Above the 8 MiB of an LZ4 block, and packed to less than one chunk of input. */
		round_trip((enum synth_packing)how, ((size_t)8 << 20) + 5, 100000);
	}
}

TEST(stops_at_bound)
{
	for (int how = 0; how < SYNTH_PACKINGS; how++) {
		cleanup(bytes_done) struct bytes in = plain((size_t)1 << 20, 50000);
		cleanup(bytes_done) struct bytes packed = synth_pack((enum synth_packing)how, &in);
		struct errmsg err = {0};

		assert_int_equal(unpack(&packed, in.len, &err, NULL), 0);
		assert_int_equal(unpack(&packed, in.len - 1, &err, NULL), -ENOEXEC);
		assert_non_null(strstr(err.text, "unpacks to more than"));
	}
}

TEST(truncated)
{
	for (int how = 0; how < SYNTH_PACKINGS; how++) {
		cleanup(bytes_done) struct bytes in = plain(2000, 9);
		cleanup(bytes_done) struct bytes packed = synth_pack((enum synth_packing)how, &in);

		for (size_t len = 0; len < packed.len; len++) {
			struct bytes cut = {.data = packed.data, .len = len};
			struct errmsg err = {0};

			if (unpack(&cut, KERNEL_UNPACKED_MAX, &err, NULL) != -ENOEXEC || !err.text[0])
				fail_msg("%s cut to %zu of %zu", synth_packing_names[how], len, packed.len);
		}
	}
}

TEST(damaged)
{
	for (int how = 0; how < SYNTH_PACKINGS; how++) {
		cleanup(bytes_done) struct bytes in = plain(2000, 9);
		cleanup(bytes_done) struct bytes packed = synth_pack((enum synth_packing)how, &in);

		for (size_t i = 0; i < packed.len; i++) {
			struct errmsg err = {0};
			int r;

			packed.data[i] ^= 0x55;
			r = unpack(&packed, 1 << 20, &err, NULL);
			packed.data[i] ^= 0x55;
			/* Not every format has a checksum; but nothing fails without words. */
			if (r != 0 && (r != -ENOEXEC || !err.text[0]))
				fail_msg("%s, byte %zu: %d", synth_packing_names[how], i, r);
		}
	}
}

TEST(trailer_must_agree)
{
	for (int how = 0; how < SYNTH_PACKINGS; how++) {
		cleanup(bytes_done) struct bytes in = plain(2000, 9);
		cleanup(bytes_done) struct bytes packed = synth_pack((enum synth_packing)how, &in);
		struct errmsg err = {0};

		packed.data[packed.len - 4]++;
		assert_int_equal(unpack(&packed, KERNEL_UNPACKED_MAX, &err, NULL), -ENOEXEC);
		assert_non_null(strstr(err.text, "corrupt"));
	}
}

TEST(refuses_bytes_after_end)
{
	for (int how = 0; how < SYNTH_PACKINGS; how++) {
		cleanup(bytes_done) struct bytes in = plain(2000, 9);
		cleanup(bytes_done) struct bytes packed = synth_pack((enum synth_packing)how, &in);
		struct errmsg err = {0};
		uint8_t size[4];

		store_le32(size, 2000);
		bytes_add(&packed, size, sizeof(size));
		assert_int_equal(unpack(&packed, KERNEL_UNPACKED_MAX, &err, NULL), -ENOEXEC);
	}
}

/* zstd and LZ4 frames may follow one another; the kernel's unpackers take that too. */
TEST(takes_concatenated_frames)
{
	static const enum synth_packing hows[] = {SYNTH_ZSTD, SYNTH_LZ4};

	for (size_t i = 0; i < ARRAY_SIZE(hows); i++) {
		cleanup(bytes_done) struct bytes in = plain(2000, 9);
		cleanup(bytes_done) struct bytes one = synth_pack(hows[i], &in);
		cleanup(bytes_done) struct bytes two = {0}, out = {0};
		struct errmsg err = {0};

		bytes_add(&two, one.data, one.len - 4);
		bytes_add(&two, one.data, one.len);
		store_le32(two.data + two.len - 4, 4000);
		assert_int_equal(unpack(&two, KERNEL_UNPACKED_MAX, &err, &out), 0);
		assert_int_equal(out.len, 4000);
		assert_memory_equal(out.data + 2000, in.data, 2000);
	}
}

TEST(lz4_lengths)
{
	static const uint32_t lengths[] = {0, 0xffffffff, 0x7fffffff, 0x80000000, 100, 0x900000};

	for (size_t i = 0; i < ARRAY_SIZE(lengths); i++) {
		cleanup(bytes_done) struct bytes b = {0};
		struct errmsg err = {0};

		bytes_add(&b, "\x02\x21\x4c\x18", 4);
		bytes_add(&b, NULL, 40);
		store_le32(b.data + 4, lengths[i]);
		assert_int_equal(unpack(&b, KERNEL_UNPACKED_MAX, &err, NULL), -ENOEXEC);
		assert_non_null(strstr(err.text, "lz4 payload is corrupt (bad block length)"));
	}
}

TEST(names_what_it_cannot)
{
	static const struct {
		const char *head, *says;
	} t[] = {
		{"BZh91AY&SY", "packed with bzip2"},
		{"\x5d\0\0\0\x04", "packed with lzma"},
		{"\x89LZO\0\r\n", "packed with lzo"},
		{"\x7f"
		 "ELF",
		 "no known format"},
		{"", "no known format"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		cleanup(bytes_done) struct bytes b = {0};
		struct errmsg err = {0};

		bytes_add(&b, NULL, 64);
		memcpy(b.data, t[i].head, i == 1 || i == 2 ? 5 : strlen(t[i].head));
		assert_int_equal(unpack(&b, KERNEL_UNPACKED_MAX, &err, NULL), -ENOEXEC);
		if (!strstr(err.text, t[i].says))
			fail_msg("says %s", err.text);
	}
}

TEST(io_errors_pass_through)
{
	cleanup(bytes_done) struct bytes in = plain(2000, 9);
	cleanup(bytes_done) struct bytes packed = synth_pack(SYNTH_ZSTD, &in);
	auto_fd fd = memfd_create("in", MFD_CLOEXEC);
	auto_fd sealed = memfd_create("out", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	struct errmsg err = {0};
	uint64_t bytes;

	assert_int_equal(pwrite_full(fd, packed.data, packed.len, 0), 0);
	assert_int_equal(kernel_unpack(-1, 0, packed.len, sealed, 1 << 20, &err, &bytes), -EBADF);
	assert_int_equal(kernel_unpack(fd, 0, packed.len, -1, 1 << 20, &err, &bytes), -EBADF);
	/* The file is shorter than its caller says. */
	assert_int_equal(kernel_unpack(fd, 0, packed.len + 1, sealed, 1 << 20, &err, &bytes), -ENODATA);
	assert_string_equal(err.text, "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(unpacks_all),
		cmocka_unit_test(stops_at_bound),
		cmocka_unit_test(truncated),
		cmocka_unit_test(damaged),
		cmocka_unit_test(trailer_must_agree),
		cmocka_unit_test(refuses_bytes_after_end),
		cmocka_unit_test(takes_concatenated_frames),
		cmocka_unit_test(lz4_lengths),
		cmocka_unit_test(names_what_it_cannot),
		cmocka_unit_test(io_errors_pass_through),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
