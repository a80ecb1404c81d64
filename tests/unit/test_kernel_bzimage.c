/* SPDX-License-Identifier: Apache-2.0 */
/* What a bzImage header says, and which headers are refused with which words. */
#include "vmm/kernel-bzimage.h"

#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "tests/unit/kernel-synth.h"
#include "tests/unit/test.h"

static struct bytes image(void)
{
	cleanup(bytes_done) struct bytes payload = {0};

	bytes_add(&payload, "0123456789abcdef", 16);
	return synth_bzimage(&payload);
}

static int parse(const struct bytes *b, struct errmsg *err, struct bzimage *ret)
{
	return bzimage_parse(b->data, b->len < BZIMAGE_HEAD_BYTES ? b->len : BZIMAGE_HEAD_BYTES, b->len, err,
			     ret);
}

TEST(reads_header)
{
	cleanup(bytes_done) struct bytes b = image();
	struct errmsg err = {0};
	struct bzimage z;

	assert_true(bzimage_is(b.data, b.len));
	assert_int_equal(parse(&b, &err, &z), 0);
	assert_int_equal(z.protocol, 0x20f);
	assert_int_equal(z.code_offset, SYNTH_CODE_OFFSET);
	assert_int_equal(z.code_bytes, b.len - 6 - SYNTH_CODE_OFFSET); /* without the signature */
	assert_int_equal(z.payload_offset, SYNTH_CODE_OFFSET + SYNTH_PAYLOAD_AT);
	assert_int_equal(z.payload_bytes, 16);
	assert_true(z.has_entry64);
	assert_int_equal(z.load, SYNTH_LOAD);
	assert_int_equal(z.mem_bytes, 0x200000);
	assert_int_equal(z.setup_header_bytes, 0x26c - 0x1f1);
	assert_memory_equal(z.setup_header, b.data + 0x1f1, z.setup_header_bytes);
	/* Nothing of the code behind the header. */
	for (size_t i = z.setup_header_bytes; i < sizeof(z.setup_header); i++)
		assert_int_equal(z.setup_header[i], 0);
}

TEST(variants)
{
	cleanup(bytes_done) struct bytes b = image();
	struct errmsg err = {0};
	struct bzimage z;

	/* init_size below the code: RAM for the code at least. */
	store_le32(b.data + 0x260, 1);
	assert_int_equal(parse(&b, &err, &z), 0);
	assert_true(z.mem_bytes >= z.code_bytes);
	/* No 64-bit entry: by flag, or before the flag existed. */
	store_le16(b.data + 0x236, 0x7e);
	assert_int_equal(parse(&b, &err, &z), 0);
	assert_false(z.has_entry64);
	store_le16(b.data + 0x236, 1);
	store_le16(b.data + 0x206, 0x20b);
	assert_int_equal(parse(&b, &err, &z), 0);
	assert_false(z.has_entry64);
	/* A header longer than what is kept. */
	b.data[0x201] = 0xff;
	assert_int_equal(parse(&b, &err, &z), 0);
	assert_int_equal(z.setup_header_bytes, BOOT_SETUP_HEADER_MAX);
	/* 0 sectors of setup mean 4 (which leaves too little code here). */
	b.data[0x1f1] = 0;
	assert_int_equal(parse(&b, &err, &z), -ENOEXEC);
	assert_non_null(strstr(err.text, "truncated"));
}

struct bad {
	const char *name;
	unsigned at, bytes;
	uint64_t value;
	const char *says;
};

static const struct bad bad[] = {
	{"no magic", 0x202, 1, 'X', "HdrS"},
	{"boot flag", 0x1fe, 2, 0x55aa, "boot flag"},
	{"protocol 2.04", 0x206, 2, 0x204, "2.04 is too old"},
	{"zImage", 0x211, 1, 0, "zImage"},
	{"short header", 0x201, 1, 0x10, "ends at"},
	{"no code", 0x1f4, 4, 0, "no kernel code"},
	{"code beyond file", 0x1f4, 4, 0x1000, "truncated"},
	{"most code", 0x1f4, 4, 0xffffffff, "truncated"},
	{"most setup", 0x1f1, 1, 0xff, "truncated"},
	{"payload offset", 0x248, 4, 0x10000, "payload outside"},
	{"payload offset wraps", 0x248, 4, 0xfffffff8, "payload outside"},
	{"payload length", 0x24c, 4, 0xffffffff, "payload outside"},
	{"no payload", 0x24c, 4, 0, "payload outside"},
	{"load at 0", 0x258, 8, 0, "load address"},
	{"load unaligned", 0x258, 8, 0x1000001, "load address"},
	{"load wraps", 0x258, 8, UINT64_MAX - 0xfff, "load address"},
	{"load above RAM", 0x258, 8, 0xcff00000, "load address"},
	{"init_size", 0x260, 4, 0xffffffff, "to unpack in"},
};

TEST(refuses)
{
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		cleanup(bytes_done) struct bytes b = image();
		struct errmsg err = {0};
		struct bzimage z = {.protocol = 0x5a5a};
		uint8_t value[8];

		store_le64(value, bad[i].value);
		memcpy(b.data + bad[i].at, value, bad[i].bytes);
		if (parse(&b, &err, &z) != -ENOEXEC || !strstr(err.text, bad[i].says))
			fail_msg("%s: says \"%s\"", bad[i].name, err.text);
		assert_int_equal(z.protocol, 0x5a5a); /* untouched */
	}
}

TEST(truncated_anywhere)
{
	cleanup(bytes_done) struct bytes b = image();
	size_t whole = b.len - 6;

	for (size_t len = 0; len < whole; len++) {
		struct bytes cut = {.data = b.data, .len = len};
		struct errmsg err = {0};
		struct bzimage z;

		assert_int_equal(parse(&cut, &err, &z), -ENOEXEC);
		assert_true(err.text[0] != '\0');
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reads_header),
		cmocka_unit_test(variants),
		cmocka_unit_test(refuses),
		cmocka_unit_test(truncated_anywhere),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
