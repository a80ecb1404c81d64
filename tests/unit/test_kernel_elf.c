/* SPDX-License-Identifier: Apache-2.0 */
/* ELF kernels: what is made of good ones, and with which words bad ones are refused. */
#include "vmm/kernel-elf.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/size.h"
#include "tests/unit/kernel-synth.h"
#include "tests/unit/test.h"

#define TEXT  0x1000000u
#define VBASE 0xffffffff80000000u

static int parse(const struct bytes *b, struct errmsg *err, struct elf_kernel *ret)
{
	auto_fd fd = memfd_create("elf", MFD_CLOEXEC);

	assert_int_equal(pwrite_full(fd, b->data, b->len, 0), 0);
	return elf_kernel_parse(fd, b->len, err, ret);
}

static struct bytes flatten(const struct bytes *b, const struct elf_kernel *elf)
{
	auto_fd in = memfd_create("in", MFD_CLOEXEC);
	auto_fd out = memfd_create("out", MFD_CLOEXEC);
	struct bytes flat = {0};
	uint64_t bytes;

	assert_int_equal(pwrite_full(in, b->data, b->len, 0), 0);
	assert_int_equal(elf_kernel_flatten(elf, in, out, PAGE_BYTES, &bytes), 0);
	assert_true(bytes <= elf->bytes);
	assert_int_equal(ftruncate(out, (off_t)(PAGE_BYTES + bytes)), 0);
	bytes_add(&flat, NULL, bytes);
	assert_int_equal(pread_full(out, flat.data, bytes, PAGE_BYTES), 0);
	return flat;
}

TEST(vmlinux_by_pvh)
{
	cleanup(bytes_done) struct bytes b = synth_vmlinux(1), flat = {0}, want = synth_vmlinux_image();
	struct errmsg err = {0};
	struct elf_kernel elf;

	assert_int_equal(parse(&b, &err, &elf), 0);
	assert_int_equal(elf.kind, BOOT_ENTRY_PVH);
	assert_int_equal(elf.entry, SYNTH_PVH_ENTRY);
	assert_int_equal(elf.load, SYNTH_LOAD);
	assert_int_equal(elf.mem_bytes, SYNTH_MEM_BYTES);
	flat = flatten(&b, &elf);
	assert_memory_equal(flat.data, want.data, flat.len);
	/* Zeros at the end are not in the image, but nothing else is missing. */
	assert_int_equal(flat.len, 0x2c000);
	for (size_t i = flat.len; i < want.len; i++)
		assert_int_equal(want.data[i], 0);
}

TEST(vmlinux_by_entry)
{
	cleanup(bytes_done) struct bytes b = synth_vmlinux(0);
	struct errmsg err = {0};
	struct elf_kernel elf;

	assert_int_equal(parse(&b, &err, &elf), 0);
	assert_int_equal(elf.kind, BOOT_ENTRY_ELF64);
	assert_int_equal(elf.entry, SYNTH_ENTRY);
}

TEST(virtual_entry_is_translated)
{
	cleanup(bytes_done) struct bytes b = {0};
	cleanup(synth_elf_done) struct synth_elf s;
	struct errmsg err = {0};
	struct elf_kernel elf;

	synth_elf_init(&s, VBASE + TEXT + 3);
	synth_elf_add(&s, PT_LOAD, VBASE + TEXT, TEXT + 0x100000, 16, "0123456789abcdef", 16);
	b = synth_elf_build(&s);
	assert_int_equal(parse(&b, &err, &elf), 0);
	assert_int_equal(elf.entry, TEXT + 0x100003);
}

TEST(pvh_note_of_4_bytes)
{
	cleanup(bytes_done) struct bytes b = {0};
	cleanup(synth_elf_done) struct synth_elf s;
	struct errmsg err = {0};
	struct elf_kernel elf;

	synth_elf_init(&s, 0);
	synth_elf_add(&s, PT_LOAD, 0, TEXT, 16, "0123456789abcdef", 16);
	synth_elf_add_pvh(&s, TEXT + 5, 4);
	b = synth_elf_build(&s);
	assert_int_equal(parse(&b, &err, &elf), 0);
	assert_int_equal(elf.kind, BOOT_ENTRY_PVH);
	assert_int_equal(elf.entry, TEXT + 5);
}

/* Segments out of order, in one page, with a gap, unaligned; an image that starts within a page. */
TEST(flattens_odd_segments)
{
	cleanup(bytes_done) struct bytes b = {0}, flat = {0};
	cleanup(synth_elf_done) struct synth_elf s;
	struct errmsg err = {0};
	struct elf_kernel elf;

	synth_elf_init(&s, TEXT + 0x10);
	synth_elf_add(&s, PT_LOAD, 0, TEXT + 0x9ffe, 0x5000, "end", 3);
	synth_elf_add(&s, PT_LOAD, 0, TEXT + 0x10, 5, "first", 5);
	synth_elf_add(&s, PT_LOAD, 0, TEXT + 0x15, 100, "second", 6);
	synth_elf_add(&s, PT_LOAD, 0, TEXT + 0x3000, 0x1000, NULL, 0); /* bss in between */
	synth_elf_add(&s, PT_LOAD, 0, 0, 0, NULL, 0);		       /* empty: nothing, wherever it is */
	b = synth_elf_build(&s);
	assert_int_equal(parse(&b, &err, &elf), 0);
	assert_int_equal(elf.segments, 4);
	assert_int_equal(elf.load, TEXT);
	assert_int_equal(elf.mem_bytes, 0xf000);
	flat = flatten(&b, &elf);
	assert_int_equal(flat.len, 0xb000);
	assert_memory_equal(flat.data + 0x10, "firstsecond", 11);
	assert_memory_equal(flat.data + 0x9ffe, "end", 3);
	assert_int_equal(flat.data[0x10 + 11], 0);
	assert_int_equal(flat.data[0xa001], 0);
}

TEST(image_of_zeros_holds_its_entry)
{
	cleanup(bytes_done) struct bytes b = {0}, flat = {0};
	cleanup(synth_elf_done) struct synth_elf s;
	struct errmsg err = {0};
	struct elf_kernel elf;

	synth_elf_init(&s, TEXT + 0x2000);
	synth_elf_add(&s, PT_LOAD, 0, TEXT, 0x5000, NULL, 0x5000);
	b = synth_elf_build(&s);
	assert_int_equal(parse(&b, &err, &elf), 0);
	flat = flatten(&b, &elf);
	assert_int_equal(flat.len, 0x3000);
}

struct bad {
	const char *name;
	void (*spoil)(struct synth_elf *s);
	const char *says;
};

#define SPOIL(name, how)                                                                                     \
	static void name(struct synth_elf *s)                                                                \
	{                                                                                                    \
		how;                                                                                         \
	}

SPOIL(class32, s->eh.e_ident[EI_CLASS] = ELFCLASS32)
SPOIL(big_endian, s->eh.e_ident[EI_DATA] = ELFDATA2MSB)
SPOIL(arm, s->eh.e_machine = EM_AARCH64)
SPOIL(version, s->eh.e_version = 0)
SPOIL(relocatable, s->eh.e_type = ET_REL)
SPOIL(core, s->eh.e_type = ET_CORE)
SPOIL(no_phdrs, s->eh.e_phnum = 0)
SPOIL(many_phdrs, s->eh.e_phnum = KERNEL_ELF_PHDRS_MAX + 1)
SPOIL(most_phdrs, s->eh.e_phnum = 0xffff)
SPOIL(phentsize, s->eh.e_phentsize = 32)
SPOIL(phoff, s->eh.e_phoff = 1 << 20)
SPOIL(phoff_wraps, s->eh.e_phoff = UINT64_MAX - 8)
SPOIL(no_load, s->ph[0].p_type = PT_NULL; s->ph[1].p_type = PT_NULL)
SPOIL(all_bss, s->ph[0].p_filesz = 0; s->ph[1].p_filesz = 0)
SPOIL(filesz_above_memsz, s->ph[0].p_memsz = 15)
SPOIL(offset, s->ph[0].p_offset = 1 << 20)
SPOIL(offset_wraps, s->ph[0].p_offset = UINT64_MAX - 7)
SPOIL(filesz, s->ph[0].p_filesz = 1 << 20; s->ph[0].p_memsz = 1 << 20)
SPOIL(filesz_most, s->ph[0].p_filesz = UINT64_MAX; s->ph[0].p_memsz = UINT64_MAX)
SPOIL(memsz_most, s->ph[0].p_memsz = UINT64_MAX)
SPOIL(paddr_low, s->ph[0].p_paddr = 0xfffff)
SPOIL(paddr_high, s->ph[0].p_paddr = UINT64_MAX - 15)
SPOIL(paddr_hole, s->ph[0].p_paddr = 0xd0000000 - 8)
SPOIL(above_4g, s->ph[0].p_paddr = 0x100000000)
SPOIL(overlap, s->ph[1].p_paddr = TEXT + 15)
SPOIL(overlap_same, s->ph[1].p_paddr = TEXT)
SPOIL(overlap_bss, s->ph[0].p_memsz = 0x2001)
SPOIL(gap, s->ph[1].p_paddr = TEXT + KERNEL_SPAN_MAX)
SPOIL(entry_out, s->eh.e_entry = TEXT + 16)
SPOIL(entry_zero, s->eh.e_entry = 0)
SPOIL(entry_most, s->eh.e_entry = UINT64_MAX)
SPOIL(entry_in_bss, s->ph[0].p_memsz = 0x100; s->eh.e_entry = TEXT + 0x80)
SPOIL(pvh_out, synth_elf_add_pvh(s, TEXT - 1, 8))
SPOIL(pvh_above_4g, synth_elf_add_pvh(s, 0x100000000 + TEXT, 8))
SPOIL(pvh_of_2_bytes, synth_elf_add_pvh(s, TEXT, 2))
SPOIL(notes_out, synth_elf_add_pvh(s, TEXT, 8)->p_offset = UINT64_MAX - 3)
SPOIL(notes_large, synth_elf_add_pvh(s, TEXT, 8)->p_filesz = 2 << 20)

static void note_cut(struct synth_elf *s)
{
	/* The last note's descriptor loses its end. */
	synth_elf_add_pvh(s, TEXT, 8)->p_filesz -= 1;
}

static void note_desc_most(struct synth_elf *s)
{
	static const uint32_t note[] = {4, UINT32_MAX, 18, 0x006e6558, 0};

	synth_elf_add(s, PT_NOTE, 0, 0, sizeof(note), note, sizeof(note));
}

static void note_name_most(struct synth_elf *s)
{
	static const uint32_t note[] = {UINT32_MAX - 1, 4, 18, 0x006e6558, 0};

	synth_elf_add(s, PT_NOTE, 0, 0, sizeof(note), note, sizeof(note));
}

#define BAD(name, says)                                                                                      \
	{                                                                                                    \
#name, name, says                                                                            \
	}
static const struct bad bad[] = {
	BAD(class32, "not for x86-64"),
	BAD(big_endian, "not for x86-64"),
	BAD(arm, "not for x86-64"),
	BAD(version, "unknown version"),
	BAD(relocatable, "not an executable"),
	BAD(core, "not an executable"),
	BAD(no_phdrs, "0 program headers"),
	BAD(many_phdrs, "65 program headers"),
	BAD(most_phdrs, "65535 program headers"),
	BAD(phentsize, "of 32 bytes"),
	BAD(phoff, "headers are outside"),
	BAD(phoff_wraps, "headers are outside"),
	BAD(no_load, "nothing to load"),
	BAD(all_bss, "segments are empty"),
	BAD(filesz_above_memsz, "larger in the file"),
	BAD(offset, "segment 0 is outside the file"),
	BAD(offset_wraps, "segment 0 is outside the file"),
	BAD(filesz, "segment 0 is outside the file"),
	BAD(filesz_most, "segment 0 is outside the file"),
	BAD(memsz_most, "outside usable RAM"),
	BAD(paddr_low, "outside usable RAM"),
	BAD(paddr_high, "outside usable RAM"),
	BAD(paddr_hole, "outside usable RAM"),
	BAD(above_4g, "outside usable RAM"),
	BAD(overlap, "overlap at physical address 0x100000f"),
	BAD(overlap_same, "overlap"),
	BAD(overlap_bss, "overlap at physical address 0x1002000"),
	BAD(gap, "spread over 1024 MiB"),
	BAD(entry_out, "entry point 0x1000010 is in none"),
	BAD(entry_zero, "entry point"),
	BAD(entry_most, "entry point"),
	BAD(entry_in_bss, "entry point"),
	BAD(pvh_out, "PVH entry point 0xffffff is in no segment"),
	BAD(pvh_above_4g, "PVH entry point"),
	BAD(pvh_of_2_bytes, "PVH note is corrupt"),
	BAD(notes_out, "notes are outside"),
	BAD(notes_large, "notes are outside"),
	BAD(note_cut, "notes are corrupt"),
	BAD(note_desc_most, "notes are corrupt"),
	BAD(note_name_most, "notes are corrupt"),
};

static void good(struct synth_elf *s)
{
	synth_elf_init(s, TEXT);
	synth_elf_add(s, PT_LOAD, VBASE, TEXT, 16, "0123456789abcdef", 16);
	synth_elf_add(s, PT_LOAD, VBASE + 0x2000, TEXT + 0x2000, 0x1000, "data", 4);
}

TEST(refuses)
{
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		cleanup(bytes_done) struct bytes b = {0};
		cleanup(synth_elf_done) struct synth_elf s;
		struct elf_kernel elf = {.load = 0x5a};
		struct errmsg err = {0};

		good(&s);
		bad[i].spoil(&s);
		b = synth_elf_build(&s);
		if (parse(&b, &err, &elf) != -ENOEXEC || !strstr(err.text, bad[i].says))
			fail_msg("%s: says \"%s\"", bad[i].name, err.text);
		assert_int_equal(elf.load, 0x5a);
	}
}

TEST(unspoiled_is_accepted)
{
	cleanup(bytes_done) struct bytes b = {0};
	cleanup(synth_elf_done) struct synth_elf s;
	struct errmsg err = {0};
	struct elf_kernel elf;

	good(&s);
	b = synth_elf_build(&s);
	assert_int_equal(parse(&b, &err, &elf), 0);
}

/* Every length short of the last byte a segment needs. */
TEST(truncated_anywhere)
{
	cleanup(bytes_done) struct bytes b = {0};
	cleanup(synth_elf_done) struct synth_elf s;

	good(&s);
	synth_elf_add_pvh(&s, TEXT, 8);
	b = synth_elf_build(&s);
	for (size_t len = 0; len < b.len; len++) {
		struct bytes cut = {.data = b.data, .len = len};
		struct errmsg err = {0};
		struct elf_kernel elf;

		assert_int_equal(parse(&cut, &err, &elf), -ENOEXEC);
		assert_true(err.text[0] != '\0');
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(vmlinux_by_pvh),
		cmocka_unit_test(vmlinux_by_entry),
		cmocka_unit_test(virtual_entry_is_translated),
		cmocka_unit_test(pvh_note_of_4_bytes),
		cmocka_unit_test(flattens_odd_segments),
		cmocka_unit_test(image_of_zeros_holds_its_entry),
		cmocka_unit_test(refuses),
		cmocka_unit_test(unspoiled_is_accepted),
		cmocka_unit_test(truncated_anywhere),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
