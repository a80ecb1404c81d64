/* SPDX-License-Identifier: Apache-2.0 */
/* Step 3 of the exact grouping: guesses are confirmed by comparing bytes. */
#include <string.h>

#include "ksm/dedup-internal.h"

static int page_confirm(struct dedup_job *job, struct dedup_scratch *s, uint64_t page)
{
	size_t page_bytes = job->d->set->page_bytes;
	uint32_t cls = job->d->classes[page];
	struct collision differs = {cls, (uint32_t)page, false};

	if (page_set_read(job->d->set, page, s->first) < 0) {
		dedup_lose(job->d, page);
		return 0;
	}
	if (s->second_page != cls - 1) {
		s->second_page = UINT64_MAX;
		if (page_set_read(job->d->set, cls - 1, s->second) < 0) {
			differs.unread = true;
			return collisions_add(&job->collisions, differs);
		}
		s->second_page = cls - 1;
	}
	if (memcmp(s->first, s->second, page_bytes) != 0)
		return collisions_add(&job->collisions, differs);
	return 0;
}

/* Confirms @pages pages at once; false when it has to be done one by one. */
static bool run_confirm(struct dedup_job *job, struct dedup_scratch *s, uint64_t page, uint64_t *pages)
{
	const struct dedup *d = job->d;
	uint64_t most = *pages, n = 1, other = d->classes[page] - 1;
	struct page_run a, b;

	while (n < most && dedup_guessed(d, page + n) && d->classes[page + n] == other + n + 1)
		n++;
	*pages = 1;
	if (n == 1)
		return false;
	a = page_set_run(d->set, page, page + n);
	b = page_set_run(d->set, other, other + n);
	n = a.pages < b.pages ? a.pages : b.pages;
	if (n > job->half_bytes / d->set->page_bytes)
		n = job->half_bytes / d->set->page_bytes;
	if (n == 1)
		return false;
	*pages = n;
	s->second_page = UINT64_MAX;
	return dedup_run_read(job, &a, n, s->first) == 0 && dedup_run_read(job, &b, n, s->second) == 0 &&
	       memcmp(s->first, s->second, n * d->set->page_bytes) == 0;
}

int dedup_confirm_piece(void *ctx, unsigned thread, uint64_t piece)
{
	struct dedup_job *job = ctx;
	uint64_t page, end, compared = 0;
	struct dedup_scratch *s;
	int r = dedup_scratch_get(job, thread, true, &s);

	if (r < 0)
		return r;
	s->second_page = UINT64_MAX; /* a live page may have changed since the last piece */
	dedup_piece_bounds(job->d->set, piece, &page, &end);
	while (page < end) {
		uint64_t pages = end - page;

		if (!dedup_guessed(job->d, page)) {
			page++;
			continue;
		}
		if (!run_confirm(job, s, page, &pages)) {
			for (uint64_t i = 0; i < pages; i++) {
				r = page_confirm(job, s, page + i);
				if (r < 0)
					return r;
			}
		}
		compared += pages;
		page += pages;
	}
	atomic_fetch_add_explicit(&job->compared, compared, memory_order_relaxed);
	job->finished[piece] = 1;
	return 0;
}
