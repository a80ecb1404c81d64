/* SPDX-License-Identifier: Apache-2.0 */
/* Threads that write replayed memory as a guest's would: at a rate, in a set, a window of it at a time. */
#ifndef SARDINE_KSM_REPLAY_WRITER_H
#define SARDINE_KSM_REPLAY_WRITER_H

#include <stdint.h>

#include "base/addr.h"
#include "base/cleanup.h"
#include "ksm/replay-memory.h"

/* A writer visits windows of its set at random. In each it writes single words and, now and then, whole pages, wherever
 * chance wants; before it goes it may discard the window, and may write there what the memory was filled with. */
struct replay_writer_config {
	gfn_t first; /* the set: no other writer's */
	uint64_t frames;
	uint32_t window;	    /* frames; a divisor of @frames */
	uint32_t writes;	    /* per visit */
	uint64_t writes_per_s;	    /* 0: as fast as it goes */
	uint32_t discard_per_mille; /* of visits */
	uint32_t restore_per_mille;
	uint64_t seed;
};

struct replay_writer;

/**
 * replay_writer_start() - Start a thread.
 * @m: must live longer.
 *
 * It ends by itself when a frame reads wrong (replay_memory_wrong()).
 *
 * Return: 0, -EINVAL when the set is not part of the memory or not made of windows, -ENOMEM, or the errno of
 * pthread_create.
 */
int replay_writer_start(struct replay_memory *m, const struct replay_writer_config *config,
			struct replay_writer **ret) must_check;

/* Writes so far. */
uint64_t replay_writer_writes(const struct replay_writer *w);

/* End the thread. Return: 0, or the errno with which it had to give up discarding. NULL is allowed. */
int replay_writer_stop(struct replay_writer *w);

#endif
