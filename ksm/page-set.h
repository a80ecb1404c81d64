/* SPDX-License-Identifier: Apache-2.0 */
/* Images of memory (dumps, processes), seen as one long row of pages that can be read again and again. */
#ifndef SARDINE_KSM_PAGE_SET_H
#define SARDINE_KSM_PAGE_SET_H

#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"

#define PAGE_SET_PAGES_MAX  ((uint64_t)UINT32_MAX - 1)
#define PAGE_SET_IMAGES_MAX 65535u
#define PAGE_SET_BYTES_MIN  1024u
#define PAGE_SET_BYTES_MAX  (2048u * 1024u)

/* A piece of an image's memory. */
struct page_range {
	uint64_t address; /* guest physical or virtual address */
	uint64_t bytes;
	uint64_t where; /* what the source wants to hear: a file offset or an address */
};

struct page_source_ops {
	/* Reads exactly @len bytes at @where, on any thread. Return: 0 or a negative errno. */
	int (*read)(void *ctx, uint64_t where, void *buf, size_t len);
	/* NULL, or finds the first stretch of [where, end) that may hold something else than zeros;
	 * @ret_start is @end when there is none. Return: 0 or a negative errno. */
	int (*next_data)(void *ctx, uint64_t where, uint64_t end, uint64_t *ret_start, uint64_t *ret_end);
};

/* A range cut to whole pages. */
struct page_extent {
	uint64_t first; /* number of its first page within the image */
	uint64_t pages;
	uint64_t address; /* in pages */
	uint64_t where;
};

struct page_image {
	char *path;
	const struct page_source_ops *ops;
	void *ctx;
	struct page_extent *extents; /* rising in address, disjoint */
	size_t extent_count;
	uint64_t first; /* number of its first page within the set */
	uint64_t pages;
	uint64_t cut_bytes; /* at the ends of ranges, too short for a page */
};

struct page_set {
	size_t page_bytes;
	struct page_image *images;
	unsigned image_count;
	uint64_t pages;
};

/**
 * page_set_init() - An empty set.
 * @set: to initialise; end it with page_set_done().
 * @page_bytes: a power of two from PAGE_SET_BYTES_MIN to PAGE_SET_BYTES_MAX.
 */
void page_set_init(struct page_set *set, size_t page_bytes);
void page_set_done(struct page_set *set);

/**
 * page_set_add() - Append an image.
 * @path: its name for people; copied.
 * @ops, @ctx: the source; stays in use as long as the set.
 * @ranges: its memory, rising in address, disjoint. Pages are aligned by address.
 * @count: of @ranges.
 *
 * Return: 0, -EINVAL when the ranges are not in order, -EFBIG above PAGE_SET_PAGES_MAX pages or
 * PAGE_SET_IMAGES_MAX images, -ENOMEM.
 */
int page_set_add(struct page_set *set, const char *path, const struct page_source_ops *ops, void *ctx,
		 const struct page_range *ranges, size_t count) must_check;

/* The image that holds page @page of the set. */
unsigned page_set_image(const struct page_set *set, uint64_t page);

/* The extent that holds page @page of the image. */
size_t page_image_extent(const struct page_image *image, uint64_t page);

/**
 * page_set_address() - Where a page lies in its image's address space.
 *
 * Return: the address in bytes.
 */
uint64_t page_set_address(const struct page_set *set, uint64_t page);

/* A stretch of pages that lie one after the other in their source. */
struct page_run {
	const struct page_image *image;
	uint64_t where;
	uint64_t pages;
	uint64_t address; /* in pages */
};

/**
 * page_set_run() - The longest stretch that starts at a page and ends before another.
 * @page: its first page; below @end.
 * @end: at most the pages of the set.
 */
struct page_run page_set_run(const struct page_set *set, uint64_t page, uint64_t end);

/**
 * page_set_read() - Read one page.
 *
 * Return: 0 or a negative errno of the source.
 */
int page_set_read(const struct page_set *set, uint64_t page, void *buf) must_check;

/* Called with a stretch of pages whose addresses follow one another. */
typedef int (*page_span_fn)(void *ctx, uint64_t first, uint64_t pages, uint64_t address);

/**
 * page_set_spans() - Visit each image's stretches of adjacent addresses, in order, each as long as possible.
 *
 * Return: 0 or what @fn returned first that is not 0.
 */
int page_set_spans(const struct page_set *set, page_span_fn fn, void *ctx) must_check;

#endif
