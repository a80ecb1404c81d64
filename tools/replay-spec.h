/* SPDX-License-Identifier: Apache-2.0 */
/* What a replay VM's memory is generated from, as written on a command line. */
#ifndef SARDINE_TOOLS_REPLAY_SPEC_H
#define SARDINE_TOOLS_REPLAY_SPEC_H

#include <stdint.h>

#include "base/cleanup.h"
#include "base/errmsg.h"
#include "ksm/replay-memory.h"

/*
 * SPEC    = PRESET | PART { "," PART }
 * PART    = RUN | "pool:" PAGES | "pool-seed:" NUMBER | [ TIMES "x" ] "(" RUN { "," RUN } ")"
 * RUN     = KIND ":" [ TIMES "x" ] PAGES
 * KIND    = "zero" | "fill" | "copy" | "unique"
 *
 * Runs follow one another, and the whole list over and over until the memory is full. zero: never touched; fill: one of 255
 * patterns; copy: consecutive pages of the pool, from a place chosen by the memory's seed; unique: found nowhere else.
 * All memories with one pool seed (1 if not given) share the pool, of 16,384 pages if not given.
 */
#define REPLAY_SPEC_RUNS_MAX   65536u
#define REPLAY_SPEC_TIMES_MAX  65536u
#define REPLAY_SPEC_PAGES_MAX  ((uint64_t)1 << 28) /* of a run and of the pool: 1 TiB */
#define REPLAY_SPEC_POOL_PAGES 16384u
#define REPLAY_SPEC_POOL_SEED  1u
#define REPLAY_SPEC_DEFAULT    "guests"

/* Presets, ended by a NULL name. */
struct replay_preset {
	const char *name;
	const char *spec;
	const char *what;
};
extern const struct replay_preset replay_presets[];

/**
 * replay_spec_parse() - Read a specification.
 * @text: as above.
 * @err: one line that says where it is wrong.
 * @ret: its runs are freed with replay_spec_done(); the memory's seed is 0.
 *
 * Return: 0, -EINVAL, -E2BIG above the limits, -ENOMEM.
 */
int replay_spec_parse(const char *text, struct errmsg *err, struct replay_spec *ret) must_check;
void replay_spec_done(struct replay_spec *spec);

#endif
