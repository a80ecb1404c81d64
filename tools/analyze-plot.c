/* SPDX-License-Identifier: Apache-2.0 */
/* An analysis as an SVG picture: what the images consist of, runs, block sizes, similarity. */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/size.h"
#include "tools/analyze.h"

#define MARGIN	      40.0
#define WIDTH	      960.0
#define BAR_LEFT      260.0
#define BAR_RIGHT     (WIDTH - MARGIN - 90)
#define ROW	      26.0
#define IMAGES_MAX    60u
#define MATRIX_MAX    64u
#define CHART_HEIGHT  220.0
#define CHART_WIDTH   400.0
#define COLOUR_ZERO   "#d9d9d9"
#define COLOUR_SHARED "#1b7f79"
#define COLOUR_FILL   "#7cc4b8"
#define COLOUR_UNIQUE "#e07b39"

struct plot {
	const struct analysis *a;
	FILE *out;
	double y;
};

/* Text of an element: XML's special characters replaced, control characters and broken UTF-8 dropped. */
static void put_escaped(FILE *out, const char *s)
{
	for (; *s; s++) {
		unsigned char c = (unsigned char)*s;

		if (c == '&')
			fputs("&amp;", out);
		else if (c == '<')
			fputs("&lt;", out);
		else if (c == '>')
			fputs("&gt;", out);
		else if (c < 0x20 || c >= 0x7f)
			fputc('?', out);
		else
			fputc(c, out);
	}
}

static void put_text(struct plot *p, double x, double y, const char *style, const char *s)
{
	fprintf(p->out, "<text x=\"%.1f\" y=\"%.1f\" %s>", x, y, style);
	put_escaped(p->out, s);
	fputs("</text>\n", p->out);
}

static void put_rect(struct plot *p, double x, double y, double width, double height, const char *fill)
{
	if (width > 0 && height > 0)
		fprintf(p->out, "<rect x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" height=\"%.2f\" fill=\"%s\"/>\n",
			x, y, width, height, fill);
}

static void put_title(struct plot *p, const char *s)
{
	p->y += 34;
	put_text(p, MARGIN, p->y, "class=\"h\"", s);
	p->y += 12;
}

static const char *short_name(const char *name, char *buf, size_t space)
{
	size_t len = strlen(name);

	snprintf(buf, space, "%s%s", len >= space ? "..." : "", len >= space ? name + len - space + 4 : name);
	return buf;
}

static void image_bar(struct plot *p, const char *name, const struct count_image *c, uint64_t scale)
{
	/* A fill pattern that occurs once is unique; nearly all are duplicates, and are drawn as such. */
	uint64_t fill = c->fill < c->duplicate ? c->fill : c->duplicate;
	const uint64_t parts[] = {c->duplicate - fill, fill, c->unique, c->zero};
	static const char *const colours[] = {COLOUR_SHARED, COLOUR_FILL, COLOUR_UNIQUE, COLOUR_ZERO};
	double x = BAR_LEFT, per = scale ? (BAR_RIGHT - BAR_LEFT) / (double)scale : 0;
	char cut[32], size[16];

	put_text(p, BAR_LEFT - 8, p->y + 17, "class=\"r\"", short_name(name, cut, sizeof(cut)));
	for (unsigned i = 0; i < ARRAY_SIZE(parts); i++) {
		put_rect(p, x, p->y + 4, per * (double)parts[i], ROW - 8, colours[i]);
		x += per * (double)parts[i];
	}
	put_text(p, x + 6, p->y + 17, "", size_format(c->pages * p->a->set.page_bytes, size, sizeof(size)));
	p->y += ROW;
}

static void put_legend(struct plot *p)
{
	static const struct {
		const char *colour, *name;
	} rows[] = {{COLOUR_SHARED, "duplicate"},
		    {COLOUR_FILL, "duplicate, fill pattern"},
		    {COLOUR_UNIQUE, "unique"},
		    {COLOUR_ZERO, "zero"}};
	double x = BAR_LEFT;

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		put_rect(p, x, p->y + 6, 12, 12, rows[i].colour);
		put_text(p, x + 18, p->y + 16, "", rows[i].name);
		x += 50 + 7.5 * (double)strlen(rows[i].name);
	}
	p->y += ROW;
}

static void put_images(struct plot *p)
{
	const struct counts *c = &p->a->counts;
	unsigned n = p->a->set.image_count, shown = n < IMAGES_MAX ? n : IMAGES_MAX;
	uint64_t scale = 0;
	char text[64];

	put_title(p, "What the memory consists of");
	put_legend(p);
	for (unsigned i = 0; i < shown; i++)
		if (c->images[i].pages > scale)
			scale = c->images[i].pages;
	for (unsigned i = 0; i < shown; i++)
		image_bar(p, p->a->set.images[i].path, &c->images[i], scale);
	if (shown < n) {
		snprintf(text, sizeof(text), "and %u more", n - shown);
		put_text(p, BAR_LEFT, p->y + 17, "", text);
		p->y += ROW;
	}
}

struct bar {
	char label[16];
	double percent;
};

/* Columns from 0 to 100 % in the box below (x, p->y). */
static void put_columns(struct plot *p, double x, const char *title, const char *axis, const struct bar *bars,
			unsigned count, const char *colour)
{
	double top = p->y + 44, bottom = top + CHART_HEIGHT, step = (CHART_WIDTH - 40) / count;
	char text[16];

	put_text(p, x, p->y + 20, "class=\"h\"", title);
	for (unsigned k = 0; k <= 4; k++) {
		double y = bottom - CHART_HEIGHT * k / 4;

		fprintf(p->out, "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"#ccc\"/>\n",
			x + 40, y, x + CHART_WIDTH, y);
		snprintf(text, sizeof(text), "%u %%", 25 * k);
		put_text(p, x + 34, y + 4, "class=\"r\"", text);
	}
	for (unsigned i = 0; i < count; i++) {
		double height = CHART_HEIGHT * bars[i].percent / 100, left = x + 40 + step * i + step * 0.14;

		put_rect(p, left, bottom - height, step * 0.72, height, colour);
		snprintf(text, sizeof(text), bars[i].percent < 9.95 ? "%.1f" : "%.0f", bars[i].percent);
		put_text(p, left + step * 0.36, bottom - height - 4, "class=\"m\"", text);
		put_text(p, left + step * 0.36, bottom + 16, count > 10 ? "class=\"s\"" : "class=\"m\"",
			 bars[i].label);
	}
	put_text(p, x + 40 + (CHART_WIDTH - 40) / 2, bottom + 36, "class=\"m\"", axis);
}

static void put_charts(struct plot *p)
{
	const struct analysis *a = p->a;
	struct bar runs[COUNT_RUNS], sizes[COUNT_SIZES_MAX];

	for (unsigned i = 0; i < COUNT_RUNS; i++) {
		snprintf(runs[i].label, sizeof(runs[i].label), "%u", 1u << i);
		runs[i].percent =
			a->counts.runs[0] ? 100 * (double)a->counts.runs[i] / (double)a->counts.runs[0] : 0;
	}
	for (unsigned i = 0; i < a->size_count; i++) {
		const struct count_size *s = &a->sizes[i];
		uint64_t kib = s->block_bytes / KIB;

		snprintf(sizes[i].label, sizeof(sizes[i].label), "%u%s",
			 (unsigned)(kib < 1024 ? kib : kib / 1024), kib < 1024 ? "K" : "M");
		sizes[i].percent = analyze_saved_pct(s->saved, s->blocks - s->zero);
	}
	p->y += 20;
	put_columns(p, MARGIN, "Duplicate pages in runs of at least", "pages", runs, COUNT_RUNS,
		    COLOUR_SHARED);
	put_columns(p, WIDTH - MARGIN - CHART_WIDTH, "Nonzero memory saved, by page size", "bytes per page",
		    sizes, a->size_count, COLOUR_UNIQUE);
	p->y += CHART_HEIGHT + 44 + 46;
}

/* From white to the colour of sharing. */
static void matrix_colour(double part, char *buf, size_t space)
{
	snprintf(buf, space, "#%02x%02x%02x", (unsigned)lround(255 - part * (255 - 0x1b)),
		 (unsigned)lround(255 - part * (255 - 0x7f)), (unsigned)lround(255 - part * (255 - 0x79)));
}

static void put_matrix(struct plot *p)
{
	const struct analysis *a = p->a;
	unsigned n = a->set.image_count;
	double cell;

	if (n < 2 || n > MATRIX_MAX || !a->counts.pairs)
		return;
	put_title(p, "Similarity of pairs (contents in both / contents in any, %)");
	cell = (BAR_RIGHT - BAR_LEFT) / n < 46 ? (BAR_RIGHT - BAR_LEFT) / n : 46;
	for (unsigned i = 0; i < n; i++) {
		char cut[32], text[16];

		snprintf(text, sizeof(text), "%u", i + 1);
		put_text(p, BAR_LEFT - 8, p->y + cell / 2 + 4, "class=\"r\"",
			 short_name(a->set.images[i].path, cut, sizeof(cut)));
		for (unsigned j = 0; j < n; j++) {
			double part = analyze_similarity(a, i, j);
			char colour[8];

			matrix_colour(part, colour, sizeof(colour));
			put_rect(p, BAR_LEFT + j * cell, p->y, cell - 1, cell - 1, colour);
			if (cell < 24)
				continue;
			snprintf(text, sizeof(text), "%.0f", 100 * part);
			put_text(p, BAR_LEFT + (j + 0.5) * cell, p->y + cell / 2 + 4,
				 part > 0.65 ? "class=\"m\" fill=\"#fff\"" : "class=\"m\"", text);
		}
		p->y += cell;
	}
}

/* All but the frame, whose height is known afterwards. */
static void put_body(struct plot *p)
{
	const struct analysis *a = p->a;
	const struct count_total *t = &a->counts.total;
	char text[200], saved[16], all[16];

	snprintf(text, sizeof(text), "Sharing would save %s: %.1f %% of nonzero memory%s",
		 size_format(t->saved * a->set.page_bytes, saved, sizeof(saved)),
		 analyze_saved_pct(t->saved, t->nonzero), a->problem_count ? " (partial)" : "");
	p->y = MARGIN + 10;
	put_text(p, MARGIN, p->y, "class=\"t\"", text);
	snprintf(text, sizeof(text),
		 "%u image%s, %s; %" PRIu64 " nonzero pages with %" PRIu64 " distinct contents; %" PRIu64
		 " saved within images, %" PRIu64 " between them",
		 a->set.image_count, a->set.image_count == 1 ? "" : "s",
		 size_format(t->pages * a->set.page_bytes, all, sizeof(all)), t->nonzero, t->distinct,
		 t->intra, t->inter);
	p->y += 24;
	put_text(p, MARGIN, p->y, "", text);
	put_images(p);
	put_charts(p);
	put_matrix(p);
	p->y += MARGIN / 2;
}

static void put_picture(FILE *out, const char *body, double height)
{
	fprintf(out,
		"<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" viewBox=\"0 0 %.0f "
		"%.0f\">\n"
		"<style>text{font:13px sans-serif;fill:#222}.h{font-size:16px;font-weight:bold}"
		".r{text-anchor:end}.m{text-anchor:middle;font-size:12px}.s{text-anchor:middle;font-size:"
		"10px}"
		".t{font-size:22px;font-weight:bold}text[fill]{fill:#fff}</style>\n"
		"<rect width=\"%.0f\" height=\"%.0f\" fill=\"#ffffff\"/>\n%s</svg>\n",
		WIDTH, height, WIDTH, height, WIDTH, height, body);
}

int analyze_plot(const struct analysis *a, const char *path, struct errmsg *err)
{
	struct plot p = {.a = a};
	char *body = NULL;
	size_t size = 0;
	FILE *out;
	int r = 0;

	p.out = open_memstream(&body, &size);
	if (!p.out)
		return -errno;
	put_body(&p);
	if (fclose(p.out) != 0) {
		free(body);
		return -ENOMEM;
	}
	out = fopen(path, "we");
	if (out) {
		put_picture(out, body, p.y);
		if (ferror(out))
			r = -EIO;
		if (fclose(out) != 0)
			r = -errno;
	} else {
		r = -errno;
	}
	free(body);
	return r < 0 ? errmsg_set(err, r, "%s: cannot be written: %s", path, strerror(-r)) : 0;
}
