/* SPDX-License-Identifier: Apache-2.0 */
/* Whether a balloon gets anywhere, from the times of its steps: no timer, nothing that wakes an idle VM. */
#include "balloon/liveness.h"

#include "base/cleanup.h"

static const char *const names[] = {
	[BALLOON_IDLE] = "idle",
	[BALLOON_MOVING] = "moving",
	[BALLOON_STALLED] = "stalled",
	[BALLOON_NO_DRIVER] = "no-driver",
};
_Static_assert(ARRAY_SIZE(names) == BALLOON_LIVENESSES, "a name for each");

const char *balloon_liveness_name(enum balloon_liveness liveness)
{
	return names[liveness];
}

static uint64_t distance(const struct balloon_motion *m)
{
	return m->frames > m->target_frames ? m->frames - m->target_frames : m->target_frames - m->frames;
}

static void begin(struct balloon_motion *m, uint64_t now_ns)
{
	m->nearest = distance(m);
	m->since_ns = now_ns;
}

void balloon_motion_target(struct balloon_motion *m, uint64_t target_frames, uint64_t now_ns)
{
	/* The same again is no new task: one who repeats it must not hide a stall. */
	if (m->target_frames == target_frames)
		return;
	m->target_frames = target_frames;
	begin(m, now_ns);
}

void balloon_motion_frames(struct balloon_motion *m, uint64_t frames, uint64_t now_ns)
{
	uint64_t far;

	m->frames = frames;
	far = distance(m);
	if (far < m->nearest)
		begin(m, now_ns);
	else if (far > m->nearest + BALLOON_JITTER_FRAMES)
		/* Carried away, e.g. by deflate-on-OOM: the way back counts as progress, this does not. */
		m->nearest = far;
}

void balloon_motion_driver(struct balloon_motion *m, bool driver, uint64_t now_ns)
{
	m->driver = driver;
	m->frames = 0;
	begin(m, now_ns);
}

enum balloon_liveness balloon_liveness(const struct balloon_motion *m, uint64_t now_ns)
{
	if (!m->driver)
		return BALLOON_NO_DRIVER;
	if (m->frames == m->target_frames)
		return BALLOON_IDLE;
	return now_ns - m->since_ns < BALLOON_STALL_NS ? BALLOON_MOVING : BALLOON_STALLED;
}
