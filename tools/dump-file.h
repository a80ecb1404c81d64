/* SPDX-License-Identifier: Apache-2.0 */
/* A memory dump in a file: which form, which compression, and where in it the memory lies. */
#ifndef SARDINE_TOOLS_DUMP_FILE_H
#define SARDINE_TOOLS_DUMP_FILE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/errmsg.h"
#include "ksm/page-set.h"
#include "ksm/workers.h"

/* Program headers of a core, blocks of a LiME file: a process has at most 65,530 mappings by default. */
#define DUMP_RANGES_MAX 4000000u

struct dump_file {
	char *path;
	int fd;			   /* of the dump, or of its decoded copy, which has no name */
	int original_fd;	   /* of what was opened, or -1 when that is fd */
	uint64_t size;		   /* of fd */
	uint64_t original_size;	   /* of the file that was opened, when it was opened */
	const char *form;	   /* "raw", "elf", "lime" */
	const char *compression;   /* "none", "gzip", "zstd", "xz" */
	struct page_range *ranges; /* rising in address, disjoint, inside the file */
	size_t range_count;
	struct errmsg problem; /* set: something is missing, the rest can be used */
};

/**
 * dump_file_open() - Open a dump, decode it when it is compressed, and find its memory.
 * @path: a regular file.
 * @control: stop flag and progress of the decoding.
 * @ret: to initialise; end it with dump_file_done() when 0 is returned.
 * @err: one line, with the file's name.
 *
 * Form and compression are told by content. A decoded copy is an unnamed sparse file in $TMPDIR or /var/tmp.
 *
 * Return: 0, -ECANCELED when stopped while decoding, or a negative errno.
 */
int dump_file_open(const char *path, const struct work_control *control, struct dump_file *ret,
		   struct errmsg *err) must_check;
void dump_file_done(struct dump_file *dump);

/**
 * dump_file_check() - Has the file another size than when it was opened? Says so in @dump->problem.
 */
void dump_file_check(struct dump_file *dump);

/* For page_set_add(), with the struct dump_file as context. */
extern const struct page_source_ops dump_file_ops;

/**
 * dump_parse() - Find the form and the memory of an open, plain file.
 * @dump: path, fd and size are set; form, ranges and problem are filled in.
 * @err: one line.
 *
 * Return: 0 or a negative errno.
 */
int dump_parse(struct dump_file *dump, struct errmsg *err) must_check;

/* The parts of dump_parse(); each is called on a file that begins like its form. */
int dump_parse_elf(struct dump_file *dump, struct errmsg *err) must_check;
int dump_parse_lime(struct dump_file *dump, struct errmsg *err) must_check;

/**
 * dump_ranges_tidy() - Sort ranges by address, cut what lies beyond the file and what overlaps.
 * @dump: its ranges and size.
 *
 * Return: how many bytes lie beyond the end of the file.
 */
uint64_t dump_ranges_tidy(struct dump_file *dump);

/**
 * dump_compression() - Name the compression of a file by its first bytes.
 * @head: the bytes.
 * @len: how many; 6 are enough.
 *
 * Return: "gzip", "zstd", "xz" or "none".
 */
const char *dump_compression(const unsigned char *head, size_t len);

/**
 * dump_decode() - Decode a compressed file into an unnamed sparse file.
 * @dump: path, compression, fd, size. On success fd is the copy, original_fd the file, size the copy's.
 * @control: stop flag and progress.
 * @err: one line.
 *
 * What was decoded before an error in the data is kept, with the problem noted.
 *
 * Return: 0, -ECANCELED, or a negative errno.
 */
int dump_decode(struct dump_file *dump, const struct work_control *control, struct errmsg *err) must_check;

#endif
