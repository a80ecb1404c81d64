/* SPDX-License-Identifier: Apache-2.0 */
/* What a kernel file becomes before it reaches a guest: a flat, page-aligned image in a file of the boot
 * cache, and how to enter it. */
#ifndef SARDINE_VMM_BOOT_IMAGE_H
#define SARDINE_VMM_BOOT_IMAGE_H

#include <stdint.h>

#include "base/addr.h"
#include "base/cleanup.h"

enum boot_entry {
	BOOT_ENTRY_PVH,	    /* 32-bit protected mode, EBX = hvm_start_info (Xen PVH start info, version 1) */
	BOOT_ENTRY_ELF64,   /* long mode, RSI = boot_params (Linux x86 64-bit boot protocol) */
	BOOT_ENTRY_BZIMAGE, /* the same, at load + 0x200, after which the guest unpacks itself (and applies
			       KASLR) */
	BOOT_ENTRIES,
};

const char *boot_entry_name(enum boot_entry entry);

/* Bytes of the real-mode setup header kept from a bzImage: offsets 0x1f1 up to its end, as in struct
 * boot_params.hdr. */
#define BOOT_SETUP_HEADER_MAX 0x90

struct boot_image {
	int fd;		    /* the cache file, read-only; -1 when empty */
	uint64_t offset;    /* of the image in it, page aligned */
	uint64_t bytes;	    /* of the image, page aligned; what is behind it up to mem_bytes starts as zero */
	gpa_t load;	    /* page aligned */
	uint64_t mem_bytes; /* RAM it needs from load on (bss; init_size of a bzImage), >= bytes */
	gpa_t entry;	    /* first instruction, physical */
	enum boot_entry kind;
	uint32_t setup_header_bytes; /* 0 unless kind is BOOT_ENTRY_BZIMAGE */
	uint8_t setup_header[BOOT_SETUP_HEADER_MAX];
};

/* An initrd in the cache. */
struct boot_blob {
	int fd;		 /* -1 when there is none */
	uint64_t offset; /* page aligned */
	uint64_t bytes;	 /* exact length */
};

#define BOOT_IMAGE_EMPTY ((struct boot_image){.fd = -1})
#define BOOT_BLOB_EMPTY	 ((struct boot_blob){.fd = -1})

static inline void boot_image_done(struct boot_image *image)
{
	close_fd_p(&image->fd);
	image->fd = -1;
}

static inline void boot_blob_done(struct boot_blob *blob)
{
	close_fd_p(&blob->fd);
	blob->fd = -1;
}

#endif
