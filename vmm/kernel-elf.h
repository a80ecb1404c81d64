/* SPDX-License-Identifier: Apache-2.0 */
/* An ELF kernel: checked, and flattened to one image by physical address. */
#ifndef SARDINE_VMM_KERNEL_ELF_H
#define SARDINE_VMM_KERNEL_ELF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/errmsg.h"
#include "vmm/boot-image.h"

/* Program headers looked at; vmlinux has five. */
#define KERNEL_ELF_PHDRS_MAX 64

/* From the first to the last byte in physical memory, gaps and bss included. */
#define KERNEL_SPAN_MAX ((uint64_t)1 << 30)

struct elf_segment {
	uint64_t offset; /* in the file */
	uint64_t file_bytes;
	uint64_t vaddr;
	uint64_t paddr;
	uint64_t mem_bytes; /* >= file_bytes; the rest is zero */
};

/* What is known of a checked file. Segments are sorted by paddr and do not overlap. */
struct elf_kernel {
	uint64_t load;	    /* page aligned */
	uint64_t bytes;	    /* page aligned, of the flat image, at most */
	uint64_t mem_bytes; /* page aligned, from load on */
	uint64_t entry;	    /* physical */
	enum boot_entry kind;
	size_t segments;
	struct elf_segment segment[KERNEL_ELF_PHDRS_MAX];
};

/* True when a file that starts with these bytes means to be ELF. */
bool elf_is(const uint8_t *head, size_t head_bytes);

/**
 * elf_kernel_parse() - Read and check headers and notes.
 * @fd: the file; read with pread only. Nobody may change it meanwhile.
 * @file_bytes: its length.
 * @err: one line without the file's name when the file is at fault.
 * @ret: what it says.
 *
 * Return: 0; -ENOEXEC for what is not an x86-64 kernel that can be placed; -ENOMEM or an errno of pread.
 */
int elf_kernel_parse(int fd, uint64_t file_bytes, struct errmsg *err, struct elf_kernel *ret) must_check;

/**
 * elf_kernel_flatten() - Write the image of a checked file.
 * @elf: what elf_kernel_parse() said of it.
 * @in_fd: the file.
 * @out_fd: where to; no byte of the range written to may be other than zero or behind the end of the file.
 * Pages of zeros are not written: the caller sets the length with ftruncate.
 * @out_offset: where the image starts there, page aligned.
 * @ret_bytes: of the image, without the pages of zeros at its end (vmlinux carries its bss, some 11 MiB in
 * Debian's): these are better left to anonymous memory than copied from a file one by one.
 *
 * Return: 0, -ENOMEM or an errno of pread or pwrite.
 */
int elf_kernel_flatten(const struct elf_kernel *elf, int in_fd, int out_fd, uint64_t out_offset,
		       uint64_t *ret_bytes) must_check;

#endif
