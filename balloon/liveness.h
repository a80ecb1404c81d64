/* SPDX-License-Identifier: Apache-2.0 */
/* Whether a balloon gets anywhere: a policy must not count on one that does not. */
#ifndef SARDINE_BALLOON_LIVENESS_H
#define SARDINE_BALLOON_LIVENESS_H

#include <stdbool.h>
#include <stdint.h>

/* A balloon away from its target that made no progress for so long is stalled. Linux tries again every 200 ms. */
#define BALLOON_STALL_NS ((uint64_t)5 * 1000000000)

/*
 * Steps away from the target of up to so many frames are not followed: a guest that compacts its memory inflates one frame and
 * deflates another, again and again, and gets nowhere by it.
 */
#define BALLOON_JITTER_FRAMES 64

enum balloon_liveness {
	BALLOON_IDLE,	   /* at its target */
	BALLOON_MOVING,	   /* on the way */
	BALLOON_STALLED,   /* not at its target, and no progress for BALLOON_STALL_NS: inactive */
	BALLOON_NO_DRIVER, /* nobody works on it */
	BALLOON_LIVENESSES,
};

/* "idle", "moving", "stalled", "no-driver". */
const char *balloon_liveness_name(enum balloon_liveness liveness);

/* How a balloon moved. Zeroed: no driver, target 0. Times are of CLOCK_MONOTONIC. */
struct balloon_motion {
	bool driver;
	uint64_t target_frames;
	uint64_t frames;
	uint64_t nearest;  /* the smallest distance to the target that was reached, but for jitter */
	uint64_t since_ns; /* when it was reached, or when there was something new to do */
};

/* The events that change it. Pure. */
void balloon_motion_target(struct balloon_motion *m, uint64_t target_frames, uint64_t now_ns);
void balloon_motion_frames(struct balloon_motion *m, uint64_t frames, uint64_t now_ns);
/* A driver came or went; the balloon is empty. */
void balloon_motion_driver(struct balloon_motion *m, bool driver, uint64_t now_ns);

/* What it amounts to at a time. Pure. */
enum balloon_liveness balloon_liveness(const struct balloon_motion *m, uint64_t now_ns);

#endif
