/* SPDX-License-Identifier: Apache-2.0 */
/* Images of memory (dumps, processes), seen as one long row of pages. */
#include "ksm/page-set.h"

#include <errno.h>
#include <string.h>

void page_set_init(struct page_set *set, size_t page_bytes)
{
	*set = (struct page_set){.page_bytes = page_bytes};
}

void page_set_done(struct page_set *set)
{
	for (unsigned i = 0; i < set->image_count; i++) {
		struct page_image *image = &set->images[i];

		free(image->path);
		free(image->extents);
	}
	free(set->images);
	*set = (struct page_set){.page_bytes = set->page_bytes};
}

/* Cuts one range to whole pages and appends it, or lets it continue the extent before. */
static void image_append(struct page_image *image, const struct page_range *range, size_t page_bytes)
{
	uint64_t mask = page_bytes - 1;
	uint64_t head = (page_bytes - (range->address & mask)) & mask;
	struct page_extent *last = &image->extents[image->extent_count];
	uint64_t pages, address, where;

	if (head >= range->bytes) {
		image->cut_bytes += range->bytes;
		return;
	}
	pages = (range->bytes - head) / page_bytes;
	image->cut_bytes += range->bytes - pages * page_bytes;
	if (pages == 0)
		return;
	address = (range->address + head) / page_bytes;
	where = range->where + head;
	if (image->extent_count && last[-1].address + last[-1].pages == address &&
	    last[-1].where + last[-1].pages * page_bytes == where) {
		last[-1].pages += pages;
	} else {
		*last = (struct page_extent){image->pages, pages, address, where};
		image->extent_count++;
	}
	image->pages += pages;
}

static int ranges_check(const struct page_range *ranges, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		uint64_t end;

		if (__builtin_add_overflow(ranges[i].address, ranges[i].bytes, &end) ||
		    __builtin_add_overflow(ranges[i].where, ranges[i].bytes, &end))
			return -EINVAL;
		if (i && ranges[i - 1].address + ranges[i - 1].bytes > ranges[i].address)
			return -EINVAL;
	}
	return 0;
}

int page_set_add(struct page_set *set, const char *path, const struct page_source_ops *ops, void *ctx,
		 const struct page_range *ranges, size_t count)
{
	auto_free struct page_extent *extents = NULL;
	auto_free char *name = NULL;
	struct page_image image = {.ops = ops, .ctx = ctx, .first = set->pages};
	struct page_image *grown;
	struct page_extent *fit;
	int r = ranges_check(ranges, count);

	if (r < 0)
		return r;
	if (set->image_count >= PAGE_SET_IMAGES_MAX)
		return -EFBIG;
	grown = realloc(set->images, (set->image_count + 1) * sizeof(*grown));
	if (!grown)
		return -ENOMEM;
	set->images = grown;
	extents = calloc(count + 1, sizeof(*extents));
	name = strdup(path);
	if (!extents || !name)
		return -ENOMEM;
	image.extents = extents;
	for (size_t i = 0; i < count; i++)
		image_append(&image, &ranges[i], set->page_bytes);
	if (image.pages > PAGE_SET_PAGES_MAX - set->pages)
		return -EFBIG;
	fit = realloc(extents, (image.extent_count + 1) * sizeof(*extents));
	if (fit)
		extents = fit;
	image.extents = TAKE_PTR(extents);
	image.path = TAKE_PTR(name);
	set->images[set->image_count++] = image;
	set->pages += image.pages;
	return 0;
}

unsigned page_set_image(const struct page_set *set, uint64_t page)
{
	unsigned lo = 0, hi = set->image_count;

	/* The last image that starts at or before the page and is not empty. */
	while (hi - lo > 1) {
		unsigned mid = lo + (hi - lo) / 2;

		if (set->images[mid].first <= page)
			lo = mid;
		else
			hi = mid;
	}
	return lo;
}

size_t page_image_extent(const struct page_image *image, uint64_t page)
{
	size_t lo = 0, hi = image->extent_count;

	while (hi - lo > 1) {
		size_t mid = lo + (hi - lo) / 2;

		if (image->extents[mid].first <= page)
			lo = mid;
		else
			hi = mid;
	}
	return lo;
}

struct page_run page_set_run(const struct page_set *set, uint64_t page, uint64_t end)
{
	const struct page_image *image = &set->images[page_set_image(set, page)];
	uint64_t within = page - image->first;
	const struct page_extent *extent = &image->extents[page_image_extent(image, within)];
	uint64_t skip = within - extent->first;
	struct page_run run = {image, extent->where + skip * set->page_bytes, extent->pages - skip,
			       extent->address + skip};

	if (run.pages > end - page)
		run.pages = end - page;
	return run;
}

uint64_t page_set_address(const struct page_set *set, uint64_t page)
{
	return page_set_run(set, page, page + 1).address * set->page_bytes;
}

int page_set_read(const struct page_set *set, uint64_t page, void *buf)
{
	struct page_run run = page_set_run(set, page, page + 1);

	return run.image->ops->read(run.image->ctx, run.where, buf, set->page_bytes);
}

int page_set_spans(const struct page_set *set, page_span_fn fn, void *ctx)
{
	for (unsigned i = 0; i < set->image_count; i++) {
		const struct page_image *image = &set->images[i];

		for (size_t e = 0; e < image->extent_count;) {
			const struct page_extent *at = &image->extents[e];
			uint64_t pages = at->pages;
			int r;

			while (++e < image->extent_count && image->extents[e].address == at->address + pages)
				pages += image->extents[e].pages;
			r = fn(ctx, image->first + at->first, pages, at->address);
			if (r)
				return r;
		}
	}
	return 0;
}
