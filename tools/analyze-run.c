/* SPDX-License-Identifier: Apache-2.0 */
/* One analysis, from input to numbers. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <time.h>

#include "base/size.h"
#include "tools/analyze.h"

#define FINE_PAGE_BYTES 1024u

static void problem_add(struct analysis *a, const char *text)
{
	if (a->problem_count < ANALYZE_PROBLEMS_MAX)
		errmsg_set(&a->problems[a->problem_count++], 0, "%s", text);
}

static int set_error(const struct page_set *set, const char *path, int r, struct errmsg *err)
{
	if (r == -EFBIG)
		return errmsg_set(err, r,
				  "%s: too much to analyse at once: more than %" PRIu64
				  " pages or %u images; give fewer files or a larger --page-size",
				  path, PAGE_SET_PAGES_MAX, PAGE_SET_IMAGES_MAX);
	return errmsg_set(err, r, "%s: cannot be laid out in pages of %zu bytes: %s", path, set->page_bytes,
			  strerror(-r));
}

static int open_dumps(struct analysis *a, struct errmsg *err)
{
	const struct analyze_options *o = a->options;

	a->dumps = calloc(o->file_count + 1, sizeof(*a->dumps));
	if (!a->dumps)
		return -ENOMEM;
	for (size_t i = 0; i < o->file_count; i++) {
		int r = dump_file_open(o->files[i], &a->control, &a->dumps[i], err);

		if (r < 0)
			return r;
		a->dump_count++;
	}
	return 0;
}

static int open_lives(struct analysis *a, struct errmsg *err)
{
	const struct analyze_options *o = a->options;

	a->lives = calloc(o->pid_count + 1, sizeof(*a->lives));
	if (!a->lives)
		return -ENOMEM;
	for (size_t i = 0; i < o->pid_count; i++) {
		struct errmsg why = {0};
		int r = live_process_open(o->pids[i], &a->lives[a->live_count], &why);

		if (r < 0 && (!o->all_vms || r == -ENOMEM)) {
			*err = why;
			return r;
		}
		/* Of all VMs, those that can be read; one that ends just now was none. */
		if (r < 0 && r != -ESRCH && r != -ENODATA)
			problem_add(a, errmsg_text(&why, r));
		if (r == 0)
			a->live_count++;
	}
	if (a->live_count == 0)
		return errmsg_set(err, -ENOENT, "%s",
				  a->problem_count ? a->problems[0].text : "no process runs a VM");
	return 0;
}

/* The input as pages of a size. */
static int set_make(struct analysis *a, struct page_set *set, size_t page_bytes, struct errmsg *err)
{
	page_set_init(set, page_bytes);
	for (size_t i = 0; i < a->dump_count; i++) {
		struct dump_file *d = &a->dumps[i];
		int r = page_set_add(set, d->path, &dump_file_ops, d, d->ranges, d->range_count);

		if (r < 0)
			return set_error(set, d->path, r, err);
	}
	for (size_t i = 0; i < a->live_count; i++) {
		struct live_process *l = &a->lives[i];
		int r = page_set_add(set, l->name, &live_process_ops, l, l->ranges, l->range_count);

		if (r < 0)
			return set_error(set, l->name, r, err);
	}
	return 0;
}

/* Too short for a page of 4 KiB, or of the page size when that is smaller, is damage; else a choice. */
static void find_cut_ends(struct analysis *a)
{
	uint64_t page = a->set.page_bytes < 4096 ? a->set.page_bytes : 4096;

	for (size_t i = 0; i < a->dump_count; i++) {
		const struct dump_file *d = &a->dumps[i];
		struct errmsg why = {0};

		for (size_t k = 0; k < d->range_count && !why.text[0]; k++)
			if (d->ranges[k].address % page || d->ranges[k].bytes % page)
				errmsg_set(&why, 0,
					   "%s: is not made of whole pages of %" PRIu64
					   " bytes (truncated?); "
					   "%" PRIu64 " bytes are left out",
					   d->path, page, a->set.images[i].cut_bytes);
		if (why.text[0] && !d->problem.text[0])
			problem_add(a, why.text);
	}
}

static uint64_t image_missing(const struct analysis *a, const struct page_image *image)
{
	uint64_t missing = 0;

	for (uint64_t p = image->first; p < image->first + image->pages; p++)
		missing += dedup_bit(a->dedup.missing, p);
	return missing;
}

static void find_problems(struct analysis *a)
{
	struct errmsg why = {0};

	for (size_t i = 0; i < a->dump_count; i++) {
		dump_file_check(&a->dumps[i]);
		if (a->dumps[i].problem.text[0])
			problem_add(a, a->dumps[i].problem.text);
	}
	for (size_t i = 0; i < a->live_count; i++) {
		live_process_check(&a->lives[i]);
		if (a->lives[i].problem.text[0])
			problem_add(a, a->lives[i].problem.text);
	}
	find_cut_ends(a);
	if (a->dedup.stopped) {
		errmsg_set(&why, 0, "stopped: %" PRIu64 " of %" PRIu64 " pages were analysed",
			   a->counts.total.pages, a->set.pages);
		problem_add(a, why.text);
		return;
	}
	for (unsigned i = 0; a->dedup.missing_pages && i < a->set.image_count; i++) {
		const struct page_image *image = &a->set.images[i];
		uint64_t missing;

		/* A page or two that a live process unmapped meanwhile has changed, no more; and a file that
		 * changed its length, or a process that ended, was named above. */
		if (a->live_count || a->dumps[i].problem.text[0])
			continue;
		missing = image_missing(a, image);
		if (missing == 0)
			continue;
		why.text[0] = '\0';
		errmsg_set(&why, 0, "%s: %" PRIu64 " pages could not be read and are left out", image->path,
			   missing);
		problem_add(a, why.text);
	}
}

/* --sizes: the smaller sizes from an analysis of their own, with the same sources. */
static int count_fine(struct analysis *a, struct errmsg *err)
{
	struct page_set set;
	struct counts counts;
	struct dedup dedup;
	int r = set_make(a, &set, FINE_PAGE_BYTES, err);

	if (r == 0)
		r = dedup_run(&dedup, &set, NULL, &a->control);
	if (r < 0)
		goto out;
	r = dedup_count(&dedup, &counts);
	if (r == 0 && !dedup.stopped)
		for (unsigned i = 0; i < counts.size_count; i++)
			if (counts.sizes[i].block_bytes < a->set.page_bytes)
				a->sizes[a->size_count++] = counts.sizes[i];
	if (r == 0)
		counts_done(&counts);
	dedup_done(&dedup);
out:
	page_set_done(&set);
	return r;
}

static int count_all(struct analysis *a, struct errmsg *err)
{
	int r;

	/* First, as its arrays are the larger ones and are gone when the others come. */
	if (a->options->sizes && a->set.page_bytes > FINE_PAGE_BYTES && !work_stopped(&a->control)) {
		r = count_fine(a, err);
		if (r < 0)
			return r;
	}
	r = dedup_run(&a->dedup, &a->set, &(struct dedup_options){.recheck = a->live_count > 0}, &a->control);
	if (r < 0)
		return r;
	r = dedup_count(&a->dedup, &a->counts);
	if (r < 0) {
		dedup_done(&a->dedup);
		a->dedup.keys = NULL;
		return r;
	}
	a->counted = true;
	for (unsigned i = 0; i < a->counts.size_count; i++)
		a->sizes[a->size_count++] = a->counts.sizes[i];
	return work_stopped(&a->control) ? 0 : analyze_sample(a);
}

int analyze_run(const struct analyze_options *options, const struct work_control *control,
		struct analysis *ret, struct errmsg *err)
{
	struct analysis *a = ret;
	struct timespec from, to;
	int r;

	*a = (struct analysis){.options = options, .control = *control};
	clock_gettime(CLOCK_MONOTONIC, &from);
	r = options->file_count ? open_dumps(a, err) : open_lives(a, err);
	if (r == 0)
		r = set_make(a, &a->set, options->page_bytes, err);
	if (r == 0 && a->set.pages == 0)
		r = errmsg_set(err, -ENODATA, "%s: holds no whole page of %zu bytes", a->set.images[0].path,
			       options->page_bytes);
	if (r == 0)
		r = count_all(a, err);
	if (r == -ENOMEM)
		errmsg_set(err, r, "not enough memory; give fewer files or a larger --page-size");
	if (r < 0)
		return r;
	clock_gettime(CLOCK_MONOTONIC, &to);
	a->seconds = (double)(to.tv_sec - from.tv_sec) + (double)(to.tv_nsec - from.tv_nsec) * 1e-9;
	find_problems(a);
	return 0;
}

void analyze_done(struct analysis *a)
{
	if (a->counted) {
		counts_done(&a->counts);
		dedup_done(&a->dedup);
	}
	page_set_done(&a->set);
	for (size_t i = 0; i < a->dump_count; i++)
		dump_file_done(&a->dumps[i]);
	for (size_t i = 0; i < a->live_count; i++)
		live_process_done(&a->lives[i]);
	free(a->dumps);
	free(a->lives);
	*a = (struct analysis){0};
}

double analyze_saved_pct(uint64_t saved, uint64_t nonzero)
{
	return nonzero ? 100.0 * (double)saved / (double)nonzero : 0;
}

double analyze_similarity(const struct analysis *a, unsigned i, unsigned j)
{
	unsigned n = a->set.image_count;
	const uint64_t *pairs = a->counts.pairs;
	uint64_t both = pairs[i * n + j], any = pairs[i * n + i] + pairs[j * n + j] - both;

	return any ? (double)both / (double)any : 0;
}

const char *analyze_preview(const struct analysis *a, uint64_t page, char *buf)
{
	auto_free unsigned char *bytes = malloc(a->set.page_bytes);

	buf[0] = '\0';
	if (bytes && page_set_read(&a->set, page, bytes) == 0)
		for (unsigned i = 0; i < ANALYZE_PREVIEW_BYTES; i++)
			snprintf(buf + 2 * i, 3, "%02x", bytes[i]);
	return buf;
}
