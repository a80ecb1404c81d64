/* SPDX-License-Identifier: Apache-2.0 */
/* Kernels made to measure for tests: ELF files, packed payloads, bzImages. Allocation failures abort. */
#ifndef SARDINE_TESTS_UNIT_KERNEL_SYNTH_H
#define SARDINE_TESTS_UNIT_KERNEL_SYNTH_H

#include <elf.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes on the heap; ended with bytes_done(). */
struct bytes {
	uint8_t *data;
	size_t len;
};

void bytes_done(struct bytes *b);
/* Appends; @data NULL appends zeros. */
void bytes_add(struct bytes *b, const void *data, size_t len);

#define SYNTH_PHDRS_MAX 70

/* An ELF file: header, program headers, then what synth_elf_add() appended. Tests break @eh and @ph at will
 * before synth_elf_build(). */
struct synth_elf {
	Elf64_Ehdr eh;
	Elf64_Phdr ph[SYNTH_PHDRS_MAX];
	struct bytes body; /* starts behind SYNTH_PHDRS_MAX headers */
};

#define SYNTH_BODY (sizeof(Elf64_Ehdr) + SYNTH_PHDRS_MAX * sizeof(Elf64_Phdr))

/* An x86-64 executable without segments. */
void synth_elf_init(struct synth_elf *elf, uint64_t entry);
/* Appends a segment with its bytes. */
Elf64_Phdr *synth_elf_add(struct synth_elf *elf, uint32_t type, uint64_t vaddr, uint64_t paddr,
			  uint64_t mem_bytes, const void *data, size_t len);
/* Appends a PT_NOTE with a "GNU" note and the PVH entry in 4 or 8 bytes. */
Elf64_Phdr *synth_elf_add_pvh(struct synth_elf *elf, uint64_t entry, uint32_t desc_bytes);
struct bytes synth_elf_build(const struct synth_elf *elf);
void synth_elf_done(struct synth_elf *elf);

/* In the shape of vmlinux: text, data, per-CPU data at vaddr 0, init and bss; some 150 KiB, PVH note if
 * wanted. Its image is synth_vmlinux_image(). */
struct bytes synth_vmlinux(int with_pvh);

#define SYNTH_LOAD	0x1000000u
#define SYNTH_ENTRY	0x1000000u /* e_entry */
#define SYNTH_PVH_ENTRY 0x1000850u
#define SYNTH_MEM_BYTES 0x70000u
/* Flat, SYNTH_MEM_BYTES long. */
struct bytes synth_vmlinux_image(void);

enum synth_packing { SYNTH_GZIP, SYNTH_XZ, SYNTH_ZSTD, SYNTH_LZ4, SYNTH_PACKINGS };

extern const char *const synth_packing_names[SYNTH_PACKINGS];

/* As the kernel's build packs: with the size appended, but for gzip; xz with the BCJ filter for x86. */
struct bytes synth_pack(enum synth_packing how, const struct bytes *plain);

#define SYNTH_SETUP_SECTS 3
#define SYNTH_CODE_OFFSET ((SYNTH_SETUP_SECTS + 1) * 512)
#define SYNTH_PAYLOAD_AT  0x400 /* in the code */

/* A bzImage of protocol 2.15 around a payload. */
struct bytes synth_bzimage(const struct bytes *payload);

#endif
