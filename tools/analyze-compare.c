/* SPDX-License-Identifier: Apache-2.0 */
/* `sardine analyze --compare`: sharing between hosts, from sketches alone. */
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <string.h>

#include "base/size.h"
#include "ksm/sketch.h"
#include "tools/analyze.h"
#include "tools/cli.h"

struct hosts {
	struct sketch_file *v;
	size_t count;
	char **names;
};

static json_t *set_json(const struct sketch *s, const char *name)
{
	return json_pack("{s:s, s:I, s:I, s:I, s:I}", "path", name, "pages", (json_int_t)s->pages, "zero",
			 (json_int_t)s->zero, "nonzero", (json_int_t)s->nonzero, "distinct",
			 (json_int_t)s->distinct);
}

static json_t *estimate_json(const struct sketch_estimate *e)
{
	return json_pack("{s:f, s:f, s:I, s:I, s:b}", "similarity", e->similarity, "similarity_error",
			 e->similarity_error, "shared_pages", (json_int_t)(e->shared + 0.5),
			 "shared_pages_error", (json_int_t)(e->shared_error + 0.5), "exact", (int)e->exact);
}

static void print_json(const struct hosts *h)
{
	json_t *o = json_object(), *sets = json_array(), *pairs = json_array(), *images = json_array();

	for (size_t i = 0; i < h->count; i++) {
		json_array_append_new(sets, set_json(&h->v[i].all, h->names[i]));
		for (size_t j = i + 1; j < h->count; j++) {
			struct sketch_estimate e = sketch_compare(&h->v[i].all, &h->v[j].all);
			json_t *pair = estimate_json(&e);

			json_object_set_new(pair, "a", json_integer((json_int_t)i));
			json_object_set_new(pair, "b", json_integer((json_int_t)j));
			json_array_append_new(pairs, pair);
			for (uint32_t m = 0; m < h->v[i].count; m++) {
				for (uint32_t n = 0; n < h->v[j].count; n++) {
					struct sketch_estimate f =
						sketch_compare(&h->v[i].v[m], &h->v[j].v[n]);
					json_t *image = estimate_json(&f);

					json_object_set_new(image, "a", json_string(h->v[i].v[m].name));
					json_object_set_new(image, "b", json_string(h->v[j].v[n].name));
					json_array_append_new(images, image);
				}
			}
		}
	}
	json_object_set_new(o, "page_size", json_integer(h->v[0].page_bytes));
	json_object_set_new(o, "sets", sets);
	json_object_set_new(o, "pairs", pairs);
	json_object_set_new(o, "image_pairs", images);
	json_dumpf(o, stdout, JSON_PRESERVE_ORDER | JSON_INDENT(2) | JSON_REAL_PRECISION(6));
	putchar('\n');
	json_decref(o);
}

static void print_row(const char *a, const char *b, const struct sketch_estimate *e, uint32_t page_bytes)
{
	char shared[16], error[16];

	printf("%-26.26s %-26.26s %5.1f %% +- %4.1f  %9s", a, b, 100 * e->similarity,
	       100 * e->similarity_error,
	       size_format((uint64_t)e->shared * page_bytes, shared, sizeof(shared)));
	if (e->exact)
		puts(", exact");
	else
		printf(" +- %s\n", size_format((uint64_t)e->shared_error * page_bytes, error, sizeof(error)));
}

static void print_table(const struct hosts *h)
{
	uint32_t page_bytes = h->v[0].page_bytes;

	printf("%-26s %-26s %s\n", "set", "set", "similarity      saved by placing them together");
	for (size_t i = 0; i < h->count; i++) {
		for (size_t j = i + 1; j < h->count; j++) {
			struct sketch_estimate e = sketch_compare(&h->v[i].all, &h->v[j].all);

			print_row(h->names[i], h->names[j], &e, page_bytes);
			if (h->v[i].count * h->v[j].count == 1)
				continue;
			for (uint32_t m = 0; m < h->v[i].count; m++) {
				for (uint32_t n = 0; n < h->v[j].count; n++) {
					char a[SKETCH_NAME_MAX + 2], b[SKETCH_NAME_MAX + 2];

					e = sketch_compare(&h->v[i].v[m], &h->v[j].v[n]);
					snprintf(a, sizeof(a), "  %s", h->v[i].v[m].name);
					snprintf(b, sizeof(b), "  %s", h->v[j].v[n].name);
					print_row(a, b, &e, page_bytes);
				}
			}
		}
	}
}

int analyze_compare(const struct analyze_options *o, const char *verb)
{
	struct hosts h = {.names = o->files};
	struct errmsg err = {0};
	int r = 0;

	h.v = calloc(o->file_count, sizeof(*h.v));
	if (!h.v)
		return cli_error(verb, CLI_FAILED, "%s", strerror(ENOMEM));
	for (; h.count < o->file_count; h.count++) {
		r = sketch_load(o->files[h.count], &h.v[h.count], &err);
		if (r < 0)
			break;
		if (h.v[h.count].page_bytes != h.v[0].page_bytes) {
			r = errmsg_set(&err, -EINVAL, "%s: has pages of %" PRIu32 " bytes, %s of %" PRIu32,
				       o->files[h.count], h.v[h.count].page_bytes, o->files[0],
				       h.v[0].page_bytes);
			h.count++;
			break;
		}
	}
	if (r == 0 && o->json)
		print_json(&h);
	else if (r == 0)
		print_table(&h);
	for (size_t i = 0; i < h.count; i++)
		sketch_file_done(&h.v[i]);
	free(h.v);
	return r < 0 ? cli_error(verb, CLI_FAILED, "%s", errmsg_text(&err, r)) : CLI_OK;
}
