/* SPDX-License-Identifier: Apache-2.0 */
/* A few KiB that say about a set of pages how much it would share with another set. */
#ifndef SARDINE_KSM_SKETCH_H
#define SARDINE_KSM_SKETCH_H

#include "base/errmsg.h"
#include "ksm/dedup.h"

#define SKETCH_KEYS	1024u /* 8 KiB; halving the error costs four times as much */
#define SKETCH_NAME_MAX 256u
#define SKETCHES_MAX	4096u

/* Of the distinct nonzero contents of an image, those whose keys, mixed once more, are smallest: a sample
 * that every image takes in the same way. */
struct sketch {
	char name[SKETCH_NAME_MAX];
	uint64_t pages, zero;
	uint64_t nonzero;
	uint64_t distinct; /* nonzero contents, exact */
	uint32_t key_count;
	uint64_t keys[SKETCH_KEYS]; /* rising; min(distinct, SKETCH_KEYS) of them */
};

/* Sketches of the images of one run. */
struct sketch_file {
	uint32_t page_bytes;
	uint32_t count;
	struct sketch *v;
	struct sketch all; /* of all images together */
};

struct sketch_estimate {
	double similarity;	 /* contents in both / contents in any (Jaccard), 0 to 1 */
	double similarity_error; /* one standard deviation */
	double shared;		 /* contents in both: pages saved by placing the two together */
	double shared_error;
	bool exact; /* both sketches hold all their contents */
};

/**
 * sketch_make() - Sketch every image of a grouping, and all of them together.
 * @ret: end it with sketch_file_done() when 0 is returned.
 *
 * Return: 0, -EFBIG above SKETCHES_MAX images, or -ENOMEM.
 */
int sketch_make(const struct dedup *d, struct sketch_file *ret) must_check;
void sketch_file_done(struct sketch_file *f);

/**
 * sketch_compare() - Estimate what two sets share.
 *
 * The smallest SKETCH_KEYS keys of the union are a uniform sample of it; the part of them that is in both
 * sets estimates the similarity, with the error of such a sample. (Keys of 64 bits that meet by chance do not
 * matter here.)
 */
struct sketch_estimate sketch_compare(const struct sketch *a, const struct sketch *b);

/**
 * sketch_save() - Write a file, replacing it whole.
 * @err: one line.
 *
 * Return: 0 or a negative errno.
 */
int sketch_save(const struct sketch_file *f, const char *path, struct errmsg *err) must_check;

/**
 * sketch_load() - Read a file and check it.
 * @ret: end it with sketch_file_done() when 0 is returned.
 * @err: one line.
 *
 * Return: 0, -EINVAL when it is no sketch or damaged, -ENOTSUP for another version, or an errno.
 */
int sketch_load(const char *path, struct sketch_file *ret, struct errmsg *err) must_check;

#endif
