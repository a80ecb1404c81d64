/* SPDX-License-Identifier: Apache-2.0 */
/* Exact grouping of equal pages: reading, confirming, counting what changed.
 *
 * Theory of operation
 *
 * Vocabulary. A *page* is a number in [0, set->pages). A *key* is what page_identify() says about it. A
 * *class* is a set of pages with equal bytes, named by one of them (1 + its number, so that 0 can mean "zero
 * or missing" and arrays that are never touched, as over the holes of a sparse dump, take no memory).
 *
 * Steps. Each is a loop over pieces of PIECE_PAGES pages, or over partitions of keys, shared by threads.
 *   1. hash: every page is read once, in order, and its key kept. Holes are not read.
 *   2. group (dedup-group.c): pages with the same key get the class of the first of them. For zero pages and
 *      fill patterns this is already exact, as their key says every byte. For data it is a guess.
 *   3. confirm (dedup-confirm.c): every data page that is not the first of its guessed class is read again and compared with
 *      that first page. Neighbours that have neighbours as their first pages are read in one go. Equal: the
 *      guess was right. Not equal: the page goes to a list of collisions.
 *   4. resolve (dedup-resolve.c): collisions with the same first page are sorted by their bytes, and each set
 * of equal ones becomes a class of its own. That is exact for any hash, even one that is always the same, and
 * takes n log n comparisons for n collisions, so that nobody can stall us with crafted pages.
 *   5. recheck (live sources): every page is read again; those with another key have changed meanwhile.
 *
 * Invariants.
 *   A1. After step 4 two pages have the same class exactly if their bytes were equal when compared. Equal
 *       bytes have equal keys, so pages of different keys need no comparison. The hash decides nothing.
 *   A2. A page about which this is not known (unreadable, not reached before a stop) is missing: class 0, and
 *       its bit in `missing`. It counts nowhere.
 *   A3. The result does not depend on the number of threads: the first page of a key is the lowest one.
 *       (When the first page of a class is missing, its number still names the class.)
 *
 * Threads. Steps 1, 3 and 5 write keys, classes and bitmap words of their own piece only; a piece is a
 * multiple of 64 pages, so bitmap words have one writer. Step 2 writes classes of the pages of its own
 * partition. Steps are separated by the joins of workers_run(). The rest is atomic counters and one locked
 * list.
 *
 * Memory per page: 8 bytes of key and 4 of class; during step 2 another 12 for the sort and up to 8 for the
 * table of a partition that holds everything. Buffers: 512 KiB per thread.
 *
 * Cost per 4 KiB page: 0.2-0.4 us to read and hash; 0.05 us to group; a duplicate 0.4 us to confirm in
 * runs, 1.5 us alone.
 *
 * Rejected: mapping the files (a dump that is truncated meanwhile raises SIGBUS; reading is as fast);
 * trusting a 128-bit hash (guests can craft XXH3 collisions, and the answer is asked to be exact); an ordered
 * tree of pages as in KSM (a comparison per level). */
#include "ksm/dedup.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "ksm/dedup-internal.h"
#include "ksm/page-hash.h"

#define BUFFER_BYTES ((size_t)256 * 1024)

void *big_alloc(uint64_t bytes)
{
	void *p = mmap(NULL, bytes ? bytes : 1, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

void big_free(void *p, uint64_t bytes)
{
	if (p)
		munmap(p, bytes ? bytes : 1);
}

static uint64_t bitmap_bytes(uint64_t pages)
{
	return (pages + 63) / 64 * 8;
}

void dedup_piece_bounds(const struct page_set *set, uint64_t piece, uint64_t *ret_page, uint64_t *ret_end)
{
	*ret_page = piece * PIECE_PAGES;
	*ret_end = *ret_page + PIECE_PAGES < set->pages ? *ret_page + PIECE_PAGES : set->pages;
}

int dedup_scratch_get(struct dedup_job *job, unsigned thread, bool both, struct dedup_scratch **ret)
{
	struct dedup_scratch *s = &job->scratch[thread];

	if (!s->first)
		s->first = aligned_alloc(64, job->half_bytes);
	if (!s->second && both)
		s->second = aligned_alloc(64, job->half_bytes);
	if (!s->first || (both && !s->second))
		return -ENOMEM;
	*ret = s;
	return 0;
}

int dedup_run_read(const struct dedup_job *job, const struct page_run *run, uint64_t pages, void *buf)
{
	return run->image->ops->read(run->image->ctx, run->where, buf, pages * job->d->set->page_bytes);
}

/* Step 1 */

static void page_hashed(struct dedup_job *job, uint64_t page, const void *bytes)
{
	struct page_id id = page_identify(bytes, job->d->set->page_bytes);

	if (id.kind == PAGE_ZERO)
		return; /* untouched arrays say zero already */
	if (id.kind == PAGE_FILL) {
		dedup_bit_set(job->d->fill, page);
	} else {
		id.key &= job->hash_mask;
		if (id.key == 0)
			id.key = 1;
	}
	job->d->keys[page] = id.key;
}

static void page_recheck(struct dedup_job *job, uint64_t page, const void *bytes)
{
	struct page_id id = page_identify(bytes, job->d->set->page_bytes);
	uint64_t key = id.key;

	if (id.kind == PAGE_DATA) {
		key &= job->hash_mask;
		if (key == 0)
			key = 1;
	}
	if (key != job->d->keys[page] || (id.kind == PAGE_FILL) != dedup_bit(job->d->fill, page))
		atomic_fetch_add_explicit(&job->changed, 1, memory_order_relaxed);
}

void dedup_lose(struct dedup *d, uint64_t page)
{
	dedup_bit_set(d->missing, page);
	d->classes[page] = 0;
	d->keys[page] = 0;
}

static void page_lost(struct dedup_job *job, uint64_t page)
{
	dedup_lose(job->d, page);
}

typedef void (*page_fn)(struct dedup_job *job, uint64_t page, const void *bytes);
typedef void (*lost_fn)(struct dedup_job *job, uint64_t page);

/* Reads [page, page + run->pages) of one stretch and hands over each page. */
static void stretch_read(struct dedup_job *job, struct dedup_scratch *s, uint64_t page, struct page_run run,
			 page_fn fn, lost_fn lost)
{
	size_t page_bytes = job->d->set->page_bytes;

	while (run.pages) {
		uint64_t pages = job->half_bytes / page_bytes;

		if (pages > run.pages)
			pages = run.pages;
		if (dedup_run_read(job, &run, pages, s->first) == 0) {
			for (uint64_t i = 0; i < pages; i++)
				fn(job, page + i, s->first + i * page_bytes);
		} else {
			struct page_run one = run;

			/* Find out which of them cannot be read. */
			for (uint64_t i = 0; i < pages; i++, one.where += page_bytes) {
				if (dedup_run_read(job, &one, 1, s->first) == 0)
					fn(job, page + i, s->first);
				else
					lost(job, page + i);
			}
		}
		page += pages;
		run.pages -= pages;
		run.where += pages * page_bytes;
	}
}

/* Narrows a stretch to its next part that may hold data; false when the rest is a hole. */
static bool stretch_data(const struct dedup_job *job, struct page_run *run, uint64_t *page)
{
	uint64_t end = run->where + run->pages * job->d->set->page_bytes, from, to;
	uint64_t skip, stop;

	if (!run->image->ops->next_data ||
	    run->image->ops->next_data(run->image->ctx, run->where, end, &from, &to) < 0)
		return true;
	if (from >= end)
		return false;
	skip = (from - run->where) / job->d->set->page_bytes;
	stop = (to - run->where + job->d->set->page_bytes - 1) / job->d->set->page_bytes;
	if (stop > run->pages)
		stop = run->pages;
	run->where += skip * job->d->set->page_bytes;
	run->pages = stop - skip;
	*page += skip;
	return true;
}

static int hash_piece(void *ctx, unsigned thread, uint64_t piece)
{
	struct dedup_job *job = ctx;
	uint64_t page, end;
	struct dedup_scratch *s;
	int r = dedup_scratch_get(job, thread, false, &s);

	if (r < 0)
		return r;
	dedup_piece_bounds(job->d->set, piece, &page, &end);
	while (page < end) {
		struct page_run run = page_set_run(job->d->set, page, end);
		uint64_t next = page + run.pages;

		if (!stretch_data(job, &run, &page)) {
			page = next;
			continue;
		}
		stretch_read(job, s, page, run, page_hashed, page_lost);
		page += run.pages;
	}
	job->finished[piece] = 1;
	return 0;
}

/* Step 5 */

static void recheck_lost(struct dedup_job *job, uint64_t page __attribute__((unused)))
{
	atomic_fetch_add_explicit(&job->changed, 1, memory_order_relaxed);
}

static void page_recheck_known(struct dedup_job *job, uint64_t page, const void *bytes)
{
	if (!dedup_bit(job->d->missing, page))
		page_recheck(job, page, bytes);
}

static int recheck_piece(void *ctx, unsigned thread, uint64_t piece)
{
	struct dedup_job *job = ctx;
	uint64_t page, end;
	struct dedup_scratch *s;
	int r = dedup_scratch_get(job, thread, false, &s);

	if (r < 0)
		return r;
	dedup_piece_bounds(job->d->set, piece, &page, &end);
	while (page < end) {
		struct page_run run = page_set_run(job->d->set, page, end);

		stretch_read(job, s, page, run, page_recheck_known, recheck_lost);
		page += run.pages;
	}
	return 0;
}

/* After a stop: pages of pieces that were not finished are missing, all of them or the guesses. */
static void pieces_drop(struct dedup_job *job, uint64_t pieces, bool guesses_only)
{
	for (uint64_t piece = 0; piece < pieces; piece++) {
		uint64_t page, end;

		if (job->finished[piece])
			continue;
		dedup_piece_bounds(job->d->set, piece, &page, &end);
		for (; page < end; page++)
			if (!guesses_only || dedup_guessed(job->d, page))
				page_lost(job, page);
	}
}

static int steps_run(struct dedup_job *job, const struct work_control *control, bool recheck)
{
	struct dedup *d = job->d;
	uint64_t pieces = (d->set->pages + PIECE_PAGES - 1) / PIECE_PAGES;
	int r;

	job->finished = calloc(pieces + 1, 1);
	if (!job->finished)
		return -ENOMEM;
	r = workers_run(control, "reading", pieces, hash_piece, job);
	if (r < 0 && r != -ECANCELED)
		return r;
	if (r == -ECANCELED) {
		pieces_drop(job, pieces, false);
		d->stopped = true;
	}
	r = dedup_group(d, control);
	if (r < 0)
		return r;
	memset(job->finished, 0, pieces);
	r = workers_run(control, "comparing", pieces, dedup_confirm_piece, job);
	if (r < 0 && r != -ECANCELED)
		return r;
	if (r == -ECANCELED) {
		pieces_drop(job, pieces, true);
		d->stopped = true;
	}
	d->collided_pages = job->collisions.count;
	r = dedup_resolve(d, &job->collisions, control);
	if (r < 0)
		return r;
	if (recheck && !d->stopped) {
		r = workers_run(control, "rechecking", pieces, recheck_piece, job);
		if (r < 0 && r != -ECANCELED)
			return r;
		d->stopped = r == -ECANCELED;
	}
	d->compared_pages = job->compared;
	d->changed_pages = job->changed;
	for (uint64_t i = 0; i < bitmap_bytes(d->set->pages) / 8; i++)
		d->missing_pages += (uint64_t)__builtin_popcountll(d->missing[i]);
	return 0;
}

int dedup_run(struct dedup *ret, const struct page_set *set, const struct dedup_options *options,
	      const struct work_control *control)
{
	struct dedup d = {.set = set};
	struct dedup_job job = {.d = &d, .hash_mask = UINT64_MAX};
	unsigned threads = control->threads ? control->threads : 1;
	int r = -ENOMEM;

	if (options && options->hash_mask)
		job.hash_mask = options->hash_mask;
	job.half_bytes = BUFFER_BYTES > set->page_bytes ? BUFFER_BYTES : set->page_bytes;
	pthread_mutex_init(&job.collisions.lock, NULL);
	job.scratch = calloc(threads, sizeof(*job.scratch));
	d.keys = big_alloc(set->pages * sizeof(*d.keys));
	d.classes = big_alloc(set->pages * sizeof(*d.classes));
	d.fill = big_alloc(bitmap_bytes(set->pages));
	d.missing = big_alloc(bitmap_bytes(set->pages));
	if (job.scratch && d.keys && d.classes && d.fill && d.missing)
		r = steps_run(&job, control, options && options->recheck);
	for (unsigned i = 0; job.scratch && i < threads; i++) {
		free(job.scratch[i].first);
		free(job.scratch[i].second);
	}
	free(job.scratch);
	free(job.finished);
	free(job.collisions.v);
	pthread_mutex_destroy(&job.collisions.lock);
	if (r < 0)
		dedup_done(&d);
	else
		*ret = d;
	return r;
}

void dedup_done(struct dedup *d)
{
	uint64_t pages = d->set->pages;

	big_free(d->keys, pages * sizeof(*d->keys));
	big_free(d->classes, pages * sizeof(*d->classes));
	big_free(d->fill, bitmap_bytes(pages));
	big_free(d->missing, bitmap_bytes(pages));
	*d = (struct dedup){.set = d->set};
}
