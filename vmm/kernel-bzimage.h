/* SPDX-License-Identifier: Apache-2.0 */
/* The setup header of a bzImage: where its parts are and how it wants to be entered. */
#ifndef SARDINE_VMM_KERNEL_BZIMAGE_H
#define SARDINE_VMM_KERNEL_BZIMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/errmsg.h"
#include "vmm/boot-image.h"

/* As much of a file's start as bzimage_parse() looks at. */
#define BZIMAGE_HEAD_BYTES 0x290

/* What a bzImage may ask for: RAM while it unpacks itself. Debian's kernels ask for some 60 MiB. */
#define BZIMAGE_INIT_SIZE_MAX ((uint64_t)1 << 30)

/* Ranges are inside the file, checked. */
struct bzimage {
	uint16_t protocol;	 /* 0x020f for 2.15 */
	uint64_t code_offset;	 /* of the protected-mode code in the file */
	uint64_t code_bytes;	 /* of it; a signature may follow */
	uint64_t payload_offset; /* of the packed vmlinux in the file */
	uint64_t payload_bytes;
	bool has_entry64;   /* XLF_KERNEL_64: may be entered at load + 0x200 in long mode */
	uint64_t load;	    /* pref_address */
	uint64_t mem_bytes; /* from load on, max(init_size, code_bytes), in pages */
	uint32_t setup_header_bytes;
	uint8_t setup_header[BOOT_SETUP_HEADER_MAX]; /* from offset 0x1f1 on */
};

/* True when a file that starts with these bytes means to be a Linux boot image: "HdrS" at 0x202. */
bool bzimage_is(const uint8_t *head, size_t head_bytes);

/**
 * bzimage_parse() - Read and check the setup header.
 * @head: the first bytes of the file.
 * @head_bytes: how many; min(BZIMAGE_HEAD_BYTES, @file_bytes).
 * @file_bytes: length of the whole file, so that a truncated one is found out here.
 * @err: one line without the file's name.
 * @ret: what it says.
 *
 * Offsets: Linux Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header".
 *
 * Return: 0, or -ENOEXEC for what is not a whole x86 bzImage.
 */
int bzimage_parse(const uint8_t *head, size_t head_bytes, uint64_t file_bytes, struct errmsg *err,
		  struct bzimage *ret) must_check;

#endif
