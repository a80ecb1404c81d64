/* SPDX-License-Identifier: Apache-2.0 */
/* How well the distinct contents compress, page by page, on a sample: what compressed swap would do with
 * them. */
#include <errno.h>
#include <lz4.h>
#include <zstd.h>

#include "tools/analyze.h"

#define ZSTD_LEVEL  3 /* zram's default */
#define PIECE_PAGES 16u

struct sample {
	struct analysis *a;
	uint32_t *pages;
	uint64_t count;
	_Atomic uint64_t taken, lz4_bytes, zstd_bytes;
};

/* Evenly spread over the distinct contents, in the order of their first pages. */
static void sample_choose(struct sample *s, uint64_t want)
{
	const struct analysis *a = s->a;
	uint64_t distinct = a->counts.total.distinct, seen = 0;

	for (uint64_t page = 0; page < a->set.pages && s->count < want; page++) {
		if (a->dedup.classes[page] != page + 1)
			continue;
		if (distinct <= want || seen * want / distinct >= s->count)
			s->pages[s->count++] = (uint32_t)page;
		seen++;
	}
}

static int sample_piece(void *ctx, unsigned thread __attribute__((unused)), uint64_t piece)
{
	struct sample *s = ctx;
	size_t page_bytes = s->a->set.page_bytes, space = ZSTD_compressBound(page_bytes);
	auto_free char *page = malloc(page_bytes);
	auto_free char *out = malloc(space);
	ZSTD_CCtx *zstd = ZSTD_createCCtx();
	uint64_t end = (piece + 1) * PIECE_PAGES < s->count ? (piece + 1) * PIECE_PAGES : s->count;

	for (uint64_t i = piece * PIECE_PAGES; page && out && zstd && i < end; i++) {
		size_t lz4, z;

		if (page_set_read(&s->a->set, s->pages[i], page) < 0)
			continue;
		/* What does not get smaller is kept as it is: LZ4 returns 0 then. */
		lz4 = (size_t)LZ4_compress_default(page, out, (int)page_bytes, (int)page_bytes);
		z = ZSTD_compressCCtx(zstd, out, space, page, page_bytes, ZSTD_LEVEL);
		s->taken++;
		s->lz4_bytes += lz4 ? lz4 : page_bytes;
		s->zstd_bytes += ZSTD_isError(z) || z > page_bytes ? page_bytes : z;
	}
	ZSTD_freeCCtx(zstd);
	return page && out && zstd ? 0 : -ENOMEM;
}

int analyze_sample(struct analysis *a)
{
	uint64_t want = a->options->sample_pages;
	auto_free uint32_t *pages = calloc(want + 1, sizeof(*pages));
	struct sample s = {.a = a, .pages = pages};
	int r;

	if (!pages)
		return -ENOMEM;
	sample_choose(&s, want);
	r = workers_run(&a->control, "compressing", (s.count + PIECE_PAGES - 1) / PIECE_PAGES, sample_piece,
			&s);
	if (r < 0)
		return r == -ECANCELED ? 0 : r;
	a->compression =
		(struct compression){s.taken, s.taken * a->set.page_bytes, s.lz4_bytes, s.zstd_bytes};
	return 0;
}
