/* SPDX-License-Identifier: Apache-2.0 */
/* Segments of the page store: memory files that are filled, sealed for good, and only then given to anyone. */
#ifndef SARDINE_KSM_SEGMENT_H
#define SARDINE_KSM_SEGMENT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/addr.h"
#include "base/cleanup.h"
#include "base/errmsg.h"
#include "base/syscalls.h"

#define SEGMENT_PAGES	  512u /* 2 MiB: one huge page */
#define SEGMENT_PAGES_MAX (1u << 18)

/* A segment that is being filled. Nothing but its maker has its descriptor. */
struct segment;

/**
 * segment_new() - An empty segment.
 * @pages: its room, 1 to SEGMENT_PAGES_MAX.
 * @ret: freed with segment_free().
 *
 * Return: 0, -EINVAL, or the errno of memfd_create, ftruncate or calloc.
 */
int segment_new(uint32_t pages, struct segment **ret) must_check;
/**
 * segment_file_new() - The empty file of a segment that somebody else is to fill.
 * @pages: its size, 1 to SEGMENT_PAGES_MAX; its pages are there already, charged to the caller's control group, and it
 * cannot grow. SEGMENT_PAGES of them are one huge page if there is one to be had.
 * @ret_fd: the caller closes it.
 *
 * Return: 0, -EINVAL, -ENOSPC or -ENOMEM when there are no pages, or another errno.
 */
int segment_file_new(uint32_t pages, int *ret_fd) must_check;

/**
 * segment_adopt_file() - An empty segment in a file from segment_file_new().
 * @fd: the file; the segment's from now on, but not on failure.
 * @pages: its size.
 * @ret: freed with segment_free().
 *
 * Return: 0, -EINVAL when the file has another size, -ENOMEM, or the errno of fstat.
 */
int segment_adopt_file(int fd, uint32_t pages, struct segment **ret) must_check;
/* Throws it away. NULL is allowed. */
void segment_free(struct segment *s);
DEFINE_CLEANUP(struct segment, segment_free)

/**
 * segment_append() - Copy pages to the end.
 * @s: the segment.
 * @bytes: what to copy. It may change meanwhile; what is in the segment then is some mixture.
 * @pages: how many.
 * @ret_first: the segment page of the first.
 *
 * Return: 0, -ENOSPC when the room does not suffice (nothing is copied), or the errno of pwrite.
 */
int segment_append(struct segment *s, const void *bytes, uint32_t pages, uint32_t *ret_first) must_check;

/* Pages appended, and room for more. */
uint32_t segment_pages(const struct segment *s);
uint32_t segment_room(const struct segment *s);

/**
 * segment_collapse() - Have the kernel keep the segment in huge pages.
 * @s: filled to multiples of 2 MiB.
 *
 * Only a hint of success: without huge pages the segment is as good, in small pages.
 *
 * Context: some 6 ms per 2 MiB.
 * Return: 0, -EINVAL when the segment is not full huge pages, or the errno of the kernel.
 */
int segment_collapse(struct segment *s) must_check;

/**
 * segment_seal() - Make it immutable, for ever and for everybody, and give it out.
 * @s: the segment, of at least one page; it keeps its content, and stays to be freed.
 * @ret_fd: a descriptor that passes segment_check(); the caller closes it. The kernel keeps the pages as long as
 * anybody has a descriptor or a mapping.
 *
 * Return: 0, -EINVAL when it is empty, -EBUSY when somebody got hold of it and has it mapped writable, or another
 * errno. On failure the segment is good for nothing but segment_free().
 */
int segment_seal(struct segment *s, int *ret_fd) must_check;

/**
 * segment_check() - Whether a descriptor from somewhere is a sealed segment.
 * @fd: the descriptor. Not trusted, nor who sent it.
 * @ret_pages: its size.
 * @err: one line that says what is wrong with it.
 *
 * A segment is a memory file in small or transparent huge pages, of whole pages, that can neither be written, nor
 * shrunk, nor grown, nor ever be unsealed; that holds against root, too.
 *
 * Return: 0, -EPERM when seals are missing, -EINVAL when it is something else.
 */
int segment_check(int fd, uint32_t *ret_pages, struct errmsg *err) must_check;

/* A checked segment, mapped for reading. */
struct segment_view {
	int fd;
	uint32_t pages;
	const uint8_t *bytes;
};

/**
 * segment_view_init() - Check a segment, keep it, and map it for reading.
 * @fd: as for segment_check(); duplicated.
 * @ret: ended with segment_view_done().
 * @err: one line.
 *
 * Return: 0, as segment_check(), or an errno.
 */
int segment_view_init(int fd, struct segment_view *ret, struct errmsg *err) must_check;
/* A zeroed view with fd -1 is allowed. */
void segment_view_done(struct segment_view *view);

extern const struct syscall_list segment_syscalls;

#endif
