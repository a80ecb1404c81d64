/* SPDX-License-Identifier: Apache-2.0 */
/* An analysis as JSON; the names are documented in docs/analyze.md and stay. */
#include <errno.h>
#include <jansson.h>
#include <string.h>
#include <time.h>

#include "tools/analyze.h"

static json_t *number(uint64_t v)
{
	return json_integer((json_int_t)v);
}

/* A name that is not UTF-8 is shown with '?' for what is not ASCII. */
static json_t *text(const char *s)
{
	json_t *j = json_string(s);
	char *copy;

	if (j || !(copy = strdup(s)))
		return j;
	for (char *p = copy; *p; p++)
		if (*p & 0x80)
			*p = '?';
	j = json_string(copy);
	free(copy);
	return j;
}

/* Two digits are what people read; more would only differ from run to run of other tools. */
static json_t *percent(double v)
{
	return json_real((double)(int64_t)(v * 100 + 0.5) / 100);
}

static json_t *live_json(const struct live_process *l)
{
	return json_pack("{s:i, s:o, s:o}", "pid", (int)l->pid, "swapped_pages",
			 number(l->swapped_bytes / 4096), "ksm_pages",
			 l->ksm_bytes == UINT64_MAX ? json_null() : number(l->ksm_bytes / 4096));
}

static json_t *images_json(const struct analysis *a)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < a->set.image_count; i++) {
		const struct count_image *c = &a->counts.images[i];
		json_t *o = json_pack(
			"{s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "path", text(a->set.images[i].path), "pages",
			number(c->pages), "zero", number(c->zero), "fill", number(c->fill), "duplicate",
			number(c->duplicate), "unique", number(c->unique), "distinct", number(c->distinct));

		if (i < a->dump_count) {
			json_object_set_new(o, "form", json_string(a->dumps[i].form));
			json_object_set_new(o, "compression", json_string(a->dumps[i].compression));
		}
		if (i < a->live_count) {
			json_t *live = live_json(&a->lives[i]);

			json_object_update(o, live);
			json_decref(live);
		}
		json_array_append_new(list, o);
	}
	return list;
}

static json_t *total_json(const struct analysis *a)
{
	const struct count_total *t = &a->counts.total;

	return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "pages", number(t->pages),
			 "zero", number(t->zero), "fill_pages", number(t->fill), "nonzero_pages",
			 number(t->nonzero), "distinct_nonzero", number(t->distinct), "duplicate_pages",
			 number(t->duplicate), "saved_pages", number(t->saved), "saved_pct_nonzero",
			 percent(analyze_saved_pct(t->saved, t->nonzero)), "intra_pages", number(t->intra),
			 "inter_pages", number(t->inter));
}

static json_t *runs_json(const struct counts *c)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < COUNT_RUNS; i++)
		json_array_append_new(
			list, json_pack("{s:i, s:o}", "min_pages", 1 << i, "pages", number(c->runs[i])));
	return list;
}

/* The last size of the table is 2 MiB. */
static json_t *huge_json(const struct analysis *a)
{
	const struct count_size *s = &a->sizes[a->size_count - 1];

	return json_pack("{s:o, s:o, s:o}", "blocks", number(s->blocks), "zero", number(s->zero), "identical",
			 number(s->duplicate));
}

static json_t *sizes_json(const struct analysis *a)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < a->size_count; i++) {
		const struct count_size *s = &a->sizes[i];

		json_array_append_new(list,
				      json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "page_size",
						number(s->block_bytes), "pages", number(s->blocks), "zero",
						number(s->zero), "distinct_nonzero", number(s->distinct),
						"duplicate_pages", number(s->duplicate), "saved_pages",
						number(s->saved), "saved_bytes",
						number(s->saved * s->block_bytes), "saved_pct_nonzero",
						percent(analyze_saved_pct(s->saved, s->blocks - s->zero))));
	}
	return list;
}

static json_t *matrix_json(const struct analysis *a, bool similarity)
{
	unsigned n = a->counts.pairs ? a->set.image_count : 0;
	json_t *rows = json_array();

	for (unsigned i = 0; i < n; i++) {
		json_t *row = json_array();

		for (unsigned j = 0; j < n; j++)
			json_array_append_new(
				row, similarity
					     ? json_real((double)(int64_t)(analyze_similarity(a, i, j) * 1e4 +
									   0.5) /
							 1e4)
					     : number(a->counts.pairs[i * n + j]));
		json_array_append_new(rows, row);
	}
	return rows;
}

static json_t *top_json(const struct analysis *a)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < a->counts.top_count; i++) {
		const struct count_top *t = &a->counts.top[i];
		unsigned image = page_set_image(&a->set, t->page);
		char preview[ANALYZE_PREVIEW_MAX];

		json_array_append_new(list,
				      json_pack("{s:o, s:i, s:o, s:o, s:s, s:b}", "count", number(t->count),
						"first_image", (int)image, "first_page",
						number(t->page - a->set.images[image].first), "first_address",
						number(page_set_address(&a->set, t->page)), "preview",
						analyze_preview(a, t->page, preview), "fill",
						(int)dedup_bit(a->dedup.fill, t->page)));
	}
	return list;
}

static json_t *compression_json(const struct compression *c)
{
	if (c->pages == 0)
		return json_null();
	return json_pack("{s:o, s:o, s:o}", "sample_pages", number(c->pages), "lz4_pct",
			 percent(100.0 * (double)c->lz4_bytes / (double)c->bytes), "zstd_pct",
			 percent(100.0 * (double)c->zstd_bytes / (double)c->bytes));
}

static json_t *problems_json(const struct analysis *a)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < a->problem_count; i++)
		json_array_append_new(list, text(a->problems[i].text));
	return list;
}

int analyze_print_json(const struct analysis *a, FILE *out, bool compact)
{
	json_t *o = json_object();
	char at[32];
	time_t now = time(NULL);
	struct tm tm;
	int r = 0;

	strftime(at, sizeof(at), "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &tm));
	json_object_set_new(o, "time", json_string(at));
	json_object_set_new(o, "page_size", number(a->set.page_bytes));
	json_object_set_new(o, "images", images_json(a));
	json_object_set_new(o, "total", total_json(a));
	json_object_set_new(o, "runs", runs_json(&a->counts));
	json_object_set_new(o, "huge", huge_json(a));
	json_object_set_new(o, "sizes", sizes_json(a));
	json_object_set_new(o, "pairs", matrix_json(a, false));
	json_object_set_new(o, "similarity", matrix_json(a, true));
	json_object_set_new(o, "top", top_json(a));
	json_object_set_new(o, "compression", compression_json(&a->compression));
	json_object_set_new(o, "compared_pages", number(a->dedup.compared_pages));
	json_object_set_new(o, "collided_pages", number(a->dedup.collided_pages));
	json_object_set_new(o, "missing_pages", number(a->dedup.missing_pages));
	json_object_set_new(o, "changed_pages", a->live_count ? number(a->dedup.changed_pages) : json_null());
	json_object_set_new(o, "seconds", json_real((double)(int64_t)(a->seconds * 1000 + 0.5) / 1000));
	json_object_set_new(o, "partial", json_boolean(a->problem_count > 0));
	json_object_set_new(o, "problems", problems_json(a));
	if (json_dumpf(o, out,
		       JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(8) |
			       (compact ? JSON_COMPACT : JSON_INDENT(2))) < 0)
		r = -EIO;
	fputc('\n', out);
	json_decref(o);
	return r;
}
