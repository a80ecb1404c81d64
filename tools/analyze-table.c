/* SPDX-License-Identifier: Apache-2.0 */
/* An analysis as a report for people. */
#include <ctype.h>
#include <inttypes.h>
#include <string.h>
#include <time.h>

#include "base/addr.h"
#include "base/size.h"
#include "tools/analyze.h"

#define BAR_WIDTH  32u
#define NAME_WIDTH 28u
#define MATRIX_MAX 12u
#define SIZE_TEXT  16u

/* The end of a long name says more; what a terminal would obey becomes '?'. */
static const char *short_name(const char *name, char *buf, size_t width)
{
	size_t len = strlen(name);

	snprintf(buf, width + 1, "%s%s", len > width ? "..." : "",
		 len > width ? name + len - width + 3 : name);
	for (char *p = buf; *p; p++)
		if (iscntrl((unsigned char)*p))
			*p = '?';
	return buf;
}

static double percent_of(uint64_t part, uint64_t whole)
{
	return whole ? 100.0 * (double)part / (double)whole : 0;
}

static const char *pages_text(const struct analysis *a, uint64_t pages, char *buf)
{
	return size_format(pages * a->set.page_bytes, buf, SIZE_TEXT);
}

static void image_row(const struct analysis *a, FILE *out, const char *name, uint64_t pages, uint64_t zero,
		      uint64_t duplicate, uint64_t unique)
{
	const uint64_t parts[] = {zero, duplicate, unique};
	char size[SIZE_TEXT], cut[NAME_WIDTH + 1];

	fprintf(out, "%-*s %9s  ", (int)NAME_WIDTH, short_name(name, cut, NAME_WIDTH),
		pages_text(a, pages, size));
	analyze_bar(out, BAR_WIDTH, parts, 3, pages);
	fprintf(out, " %5.1f %% %7.1f %% %5.1f %%\n", percent_of(zero, pages), percent_of(duplicate, pages),
		percent_of(unique, pages));
}

static void print_images(const struct analysis *a, FILE *out)
{
	const struct count_total *t = &a->counts.total;

	fprintf(out, "%-*s %9s  %s zero  %s duplicate  %s unique%*s zero  duplicate  unique\n",
		(int)NAME_WIDTH, "image", "memory", analyze_bar_sign(0), analyze_bar_sign(1),
		analyze_bar_sign(2), (int)BAR_WIDTH - 29, "");
	for (unsigned i = 0; i < a->set.image_count; i++) {
		const struct count_image *c = &a->counts.images[i];

		image_row(a, out, a->set.images[i].path, c->pages, c->zero, c->duplicate, c->unique);
	}
	if (a->set.image_count > 1)
		image_row(a, out, "all", t->pages, t->zero, t->duplicate, t->nonzero - t->duplicate);
}

static void line(const struct analysis *a, FILE *out, const char *what, uint64_t pages, const char *note)
{
	char size[SIZE_TEXT];

	fprintf(out, "  %-26s %9s %10" PRIu64 " pages  %s\n", what, pages_text(a, pages, size), pages, note);
}

static void print_savings(const struct analysis *a, FILE *out)
{
	const struct count_total *t = &a->counts.total;
	char size[SIZE_TEXT], note[64];

	fprintf(out, "\nSharing would save %s, %.1f %% of the memory that is not zero\n",
		pages_text(a, t->saved, size), analyze_saved_pct(t->saved, t->nonzero));
	line(a, out, "not zero", t->nonzero, "");
	line(a, out, "  distinct contents", t->distinct, "what is left when all is shared");
	snprintf(note, sizeof(note), "%.1f %%", percent_of(t->intra, t->nonzero));
	line(a, out, "  saved within images", t->intra, note);
	snprintf(note, sizeof(note), "%.1f %%", percent_of(t->inter, t->nonzero));
	line(a, out, "  saved between images", t->inter, note);
	line(a, out, "zero, given back", t->zero, "needs no sharing");
	line(a, out, "fill patterns", t->fill, "one word over and over; part of \"not zero\"");
}

static void print_runs(const struct analysis *a, FILE *out)
{
	const uint64_t *runs = a->counts.runs;

	if (runs[0] == 0)
		return;
	fputs("\nDuplicate pages in runs (neighbours that share neighbours) of at least\n", out);
	for (unsigned i = 0; i < COUNT_RUNS; i++) {
		const uint64_t parts[] = {0, runs[i]};

		if (i != 0 && i != 2 && i != 4 && i != 7 && i != 9)
			continue;
		fprintf(out, "  %4u page%s %10" PRIu64 " %5.1f %%  ", 1u << i, i ? "s" : " ", runs[i],
			percent_of(runs[i], runs[0]));
		analyze_bar(out, BAR_WIDTH, parts, 2, runs[0]);
		fputc('\n', out);
	}
}

static void print_sizes(const struct analysis *a, FILE *out)
{
	const struct count_size *huge = &a->sizes[a->size_count - 1];

	fputs("\nSaved with pages of another size\n", out);
	for (unsigned i = 0; i < a->size_count; i++) {
		const struct count_size *s = &a->sizes[i];
		uint64_t nonzero = s->blocks - s->zero;
		const uint64_t parts[] = {0, s->saved};
		char size[SIZE_TEXT], saved[SIZE_TEXT];

		fprintf(out, "  %9s %9s %5.1f %%  ", size_format(s->block_bytes, size, sizeof(size)),
			size_format(s->saved * s->block_bytes, saved, sizeof(saved)),
			analyze_saved_pct(s->saved, nonzero));
		analyze_bar(out, BAR_WIDTH, parts, 2, nonzero);
		fputc('\n', out);
	}
	fprintf(out, "  Blocks of 2 MiB: %" PRIu64 ", zero %" PRIu64 ", with an identical twin %" PRIu64 "\n",
		huge->blocks, huge->zero, huge->duplicate);
}

static void print_compression(const struct analysis *a, FILE *out)
{
	const struct compression *c = &a->compression;

	if (c->pages)
		fprintf(out,
			"\nCompressed one by one, distinct contents shrink to %.0f %% (lz4) or %.0f %% "
			"(zstd) "
			"(sample of %" PRIu64 ")\n",
			percent_of(c->lz4_bytes, c->bytes), percent_of(c->zstd_bytes, c->bytes), c->pages);
}

static void print_matrix(const struct analysis *a, FILE *out)
{
	unsigned n = a->set.image_count;

	if (n < 2 || !a->counts.pairs)
		return;
	if (n > MATRIX_MAX) {
		fprintf(out, "\nSimilarity of pairs: %u images, see --json or --plot\n", n);
		return;
	}
	fputs("\nSimilarity of pairs (contents in both / contents in any)\n", out);
	for (unsigned i = 0; i < n; i++) {
		char cut[NAME_WIDTH + 1];

		fprintf(out, "  %2u %-*s", i + 1, (int)NAME_WIDTH,
			short_name(a->set.images[i].path, cut, NAME_WIDTH));
		for (unsigned j = 0; j < i; j++)
			fprintf(out, " %4.0f %%", 100 * analyze_similarity(a, i, j));
		fputc('\n', out);
	}
	fprintf(out, "  %*s", (int)NAME_WIDTH + 3, "");
	for (unsigned j = 0; j + 1 < n; j++)
		fprintf(out, "%5u  ", j + 1);
	fputc('\n', out);
}

static void print_top(const struct analysis *a, FILE *out)
{
	if (a->counts.top_count == 0)
		return;
	fprintf(out, "\nMost frequent contents\n  %10s  %-*s %16s  %s\n", "pages", (int)NAME_WIDTH,
		"first in", "at", "begins with");
	for (unsigned i = 0; i < a->counts.top_count; i++) {
		const struct count_top *t = &a->counts.top[i];
		unsigned image = page_set_image(&a->set, t->page);
		char preview[ANALYZE_PREVIEW_MAX], cut[NAME_WIDTH + 1];

		fprintf(out, "  %10" PRIu64 "  %-*s %#16" PRIx64 "  %s%s\n", t->count, (int)NAME_WIDTH,
			short_name(a->set.images[image].path, cut, NAME_WIDTH),
			page_set_address(&a->set, t->page), analyze_preview(a, t->page, preview),
			dedup_bit(a->dedup.fill, t->page) ? " (fill)" : "");
	}
}

static void print_live(const struct analysis *a, FILE *out)
{
	uint64_t ksm = 0, swapped = 0;
	bool known = true;
	char size[SIZE_TEXT], all[SIZE_TEXT];

	if (a->live_count == 0)
		return;
	for (size_t i = 0; i < a->live_count; i++) {
		known &= a->lives[i].ksm_bytes != UINT64_MAX;
		ksm += known ? a->lives[i].ksm_bytes : 0;
		swapped += a->lives[i].swapped_bytes;
	}
	fprintf(out, "\nChanged while it was read: %" PRIu64 " of %" PRIu64 " pages (%.1f %%)\n",
		a->dedup.changed_pages, a->set.pages, percent_of(a->dedup.changed_pages, a->set.pages));
	if (known)
		fprintf(out, "KSM shares already: %s of these processes\n",
			size_format(ksm, size, sizeof(size)));
	else
		fputs("KSM: this kernel does not say what it shares per process\n", out);
	if (swapped)
		fprintf(out, "Swapped out and not looked at: %s\n", size_format(swapped, all, sizeof(all)));
}

void analyze_print_table(const struct analysis *a, FILE *out)
{
	char memory[SIZE_TEXT], page[SIZE_TEXT];

	fprintf(out, "%u image%s, %s in pages of %s%s\n\n", a->set.image_count,
		a->set.image_count == 1 ? "" : "s", pages_text(a, a->counts.total.pages, memory),
		size_format(a->set.page_bytes, page, sizeof(page)),
		a->problem_count ? "  PARTIAL: see the messages" : "");
	print_images(a, out);
	print_savings(a, out);
	print_live(a, out);
	print_runs(a, out);
	print_sizes(a, out);
	print_compression(a, out);
	print_matrix(a, out);
	print_top(a, out);
}

void analyze_print_row(const struct analysis *a, FILE *out, bool first)
{
	const struct count_total *t = &a->counts.total;
	const uint64_t parts[] = {t->zero, t->duplicate, t->nonzero - t->duplicate};
	char memory[SIZE_TEXT], saved[SIZE_TEXT], at[16];
	time_t now = time(NULL);
	struct tm tm;

	if (first)
		fprintf(out,
			"%-8s %9s  %s zero  %s duplicate  %s unique%*s saved          of nonzero  changed\n",
			"time", "memory", analyze_bar_sign(0), analyze_bar_sign(1), analyze_bar_sign(2),
			(int)BAR_WIDTH - 28, "");
	strftime(at, sizeof(at), "%H:%M:%S", localtime_r(&now, &tm));
	fprintf(out, "%-8s %9s  ", at, pages_text(a, t->pages, memory));
	analyze_bar(out, BAR_WIDTH, parts, 3, t->pages);
	fprintf(out, " %9s %13.1f %% %6.1f %%\n", pages_text(a, t->saved, saved),
		analyze_saved_pct(t->saved, t->nonzero), percent_of(a->dedup.changed_pages, a->set.pages));
	fflush(out);
}
