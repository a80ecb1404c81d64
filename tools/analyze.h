/* SPDX-License-Identifier: Apache-2.0 */
/* `sardine analyze`: its options, one analysis from input to numbers, and the ways to show it. */
#ifndef SARDINE_TOOLS_ANALYZE_H
#define SARDINE_TOOLS_ANALYZE_H

#include <stdbool.h>
#include <stdio.h>

#include "base/errmsg.h"
#include "ksm/dedup-count.h"
#include "tools/dump-file.h"
#include "tools/live-process.h"

#define ANALYZE_PROBLEMS_MAX 64u

struct analyze_options {
	bool json, all_vms, compare, sizes;
	unsigned threads;
	size_t page_bytes;
	uint64_t every_ms; /* 0: once */
	uint64_t rounds;   /* 0: until stopped */
	uint64_t sample_pages;
	const char *plot, *sketch;
	char **files;
	size_t file_count;
	pid_t *pids;
	size_t pid_count;
};

/* How well single pages compress. */
struct compression {
	uint64_t pages; /* sampled; 0: not measured */
	uint64_t bytes, lz4_bytes, zstd_bytes;
};

struct analysis {
	const struct analyze_options *options;
	struct work_control control;
	struct dump_file *dumps; /* dumps or lives, one per image */
	size_t dump_count;
	struct live_process *lives;
	size_t live_count;
	struct page_set set;
	struct dedup dedup;
	struct counts counts;
	bool counted;
	struct count_size sizes[COUNT_SIZES_MAX]; /* those of counts, below them with --sizes smaller ones */
	unsigned size_count;
	struct compression compression;
	struct errmsg problems[ANALYZE_PROBLEMS_MAX]; /* why the result is partial; may be more than fit */
	unsigned problem_count;
	double seconds;
};

/**
 * analyze_run() - Open the input, group, count.
 * @options: what to read; stays in use as long as @ret.
 * @control: threads, stop flag, progress.
 * @ret: to initialise; end it with analyze_done(), also after an error.
 * @err: one line.
 *
 * Return: 0, also when the result is partial, -ECANCELED when stopped before there was any, or a negative
 * errno.
 */
int analyze_run(const struct analyze_options *options, const struct work_control *control,
		struct analysis *ret, struct errmsg *err) must_check;
void analyze_done(struct analysis *a);

/**
 * analyze_sample() - Compress a sample of the distinct contents, page by page.
 *
 * Return: 0 or -ENOMEM.
 */
int analyze_sample(struct analysis *a) must_check;

/* Saved pages in percent of the nonzero ones. */
double analyze_saved_pct(uint64_t saved, uint64_t nonzero);

/* Contents in both images / contents in any. */
double analyze_similarity(const struct analysis *a, unsigned i, unsigned j);

/* The first bytes of a page in hexadecimal; empty when it cannot be read. @buf: ANALYZE_PREVIEW_MAX. */
#define ANALYZE_PREVIEW_BYTES 16u
#define ANALYZE_PREVIEW_MAX   (2 * ANALYZE_PREVIEW_BYTES + 1)
const char *analyze_preview(const struct analysis *a, uint64_t page, char *buf);

/**
 * analyze_print_json() - One JSON object, documented in docs/analyze.md.
 * @compact: on one line, for one of several rounds.
 *
 * Return: 0 or a negative errno.
 */
int analyze_print_json(const struct analysis *a, FILE *out, bool compact) must_check;

/* A report for people. */
void analyze_print_table(const struct analysis *a, FILE *out);

/* One row of `--every`; a header before the first. */
void analyze_print_row(const struct analysis *a, FILE *out, bool first);

/**
 * analyze_plot() - Write the SVG plot.
 * @err: one line.
 *
 * Return: 0 or a negative errno.
 */
int analyze_plot(const struct analysis *a, const char *path, struct errmsg *err) must_check;

/**
 * analyze_compare() - `--compare`: what the images of several sketches share.
 *
 * Return: an exit code.
 */
int analyze_compare(const struct analyze_options *options, const char *verb);

/* A bar of @width characters whose parts are as long as their share of @total; for terminals. */
void analyze_bar(FILE *out, unsigned width, const uint64_t *parts, unsigned count, uint64_t total);

/* The signs that bars are made of, in the order of the parts. */
const char *analyze_bar_sign(unsigned part);

/* A progress bar on stderr, for work_control.progress; drawn only when stderr is a terminal. */
struct analyze_progress {
	bool on;
	bool drawn;
	struct timespec since; /* of the phase */
	char phase[16];
};

void analyze_progress_draw(void *ctx, const char *phase, uint64_t done, uint64_t total);
void analyze_progress_clear(struct analyze_progress *p);

#endif
