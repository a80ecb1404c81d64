/* SPDX-License-Identifier: Apache-2.0 */
/* Filling a replay VM's memory: from a dump in any form that `analyze` reads, or by a specification. */
#ifndef SARDINE_TOOLS_REPLAY_LOAD_H
#define SARDINE_TOOLS_REPLAY_LOAD_H

#include <stdbool.h>
#include <stdint.h>

#include "base/errmsg.h"
#include "ksm/replay-memory.h"

struct replay_load {
	const char *image;     /* a dump's path, or NULL */
	const char *synthetic; /* else a specification (tools/replay-spec.h) */
	uint64_t seed;
	uint64_t frames; /* 0: as many as the image has */
	enum replay_thp thp;
	bool (*stopped)(void); /* asked now and then */
};

/**
 * replay_load() - Make memory and fill it.
 * @load: from what.
 * @err: one line.
 * @ret: freed with replay_memory_free().
 *
 * The memory of a dump is laid out from frame 0 on without the gaps between its ranges. What lies beyond @frames is left
 * out; frames beyond the dump are never touched.
 *
 * Return: 0, -EINVAL, -E2BIG (specification), -ECANCELED when stopped, -ENOMEM, or the errno of reading.
 */
int replay_load(const struct replay_load *load, struct errmsg *err, struct replay_memory **ret) must_check;

#endif
