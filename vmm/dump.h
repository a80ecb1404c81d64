/* SPDX-License-Identifier: Apache-2.0 */
/* Writes guest RAM to a file, as an ELF core or raw, without populating what the guest never touched. */
#ifndef SARDINE_VMM_DUMP_H
#define SARDINE_VMM_DUMP_H

#include <stdatomic.h>
#include <stdint.h>

#include "base/errmsg.h"
#include "base/syscalls.h"
#include "vmm/guest-memory.h"

enum dump_format {
	DUMP_ELF, /* ELF64 core: PT_NOTE, then a PT_LOAD per RAM region with its p_paddr */
	DUMP_RAW, /* file offset = guest physical address; the hole below 4 GiB is a hole of the file too */
	DUMP_FORMATS,
};

const char *dump_format_name(enum dump_format format);

/**
 * dump_format_parse() - "elf" or "raw".
 *
 * Return: 0 or -EINVAL.
 */
int dump_format_parse(const char *s, enum dump_format *ret) must_check;

struct dump_result {
	uint64_t file_bytes; /* the file's length */
	uint64_t data_bytes; /* written into it; the rest are holes, which read as zero */
};

/**
 * dump_write() - Write all of guest RAM to a file.
 * @mem: the memory; the guest should be paused, or the dump is a mix of moments.
 * @fd: a regular file open for writing. What it held is dropped; it gets the length of the dump.
 * @format: how.
 * @cancel: checked between pieces; may be NULL.
 * @err: one line on failure, without the file's name.
 * @ret: what was written; on failure set too, to what there is of the dump so far.
 *
 * Frames that are not populated and frames of zeros become holes of the file. Whether a frame is populated is
 * asked of the kernel (pagemap), so that reading does not populate it.
 *
 * Context: any thread that may block; not the loop's.
 * Return: 0, -ECANCELED, -EINVAL when @fd is no regular file open for writing, or the errno of the write
 * (-ENOSPC, -EFBIG..).
 */
int dump_write(struct guest_memory *mem, int fd, enum dump_format format, const atomic_bool *cancel,
	       struct errmsg *err, struct dump_result *ret) must_check;

extern const struct syscall_list dump_syscalls;

#endif
