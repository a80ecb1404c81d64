/* SPDX-License-Identifier: Apache-2.0 */
/* Writer threads of replayed memory. */
#include "ksm/replay-writer.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <time.h>

#include "base/clock.h"
#include "base/size.h"
#include "ksm/replay-internal.h"

#define SLEEP_MAX_NS 10000000u /* so that it ends soon when it shall */

struct replay_writer {
	struct replay_memory *m;
	struct replay_writer_config config;
	pthread_t thread;
	atomic_bool stop;
	_Atomic uint64_t writes;
	uint64_t chances; /* drawn */
	uint64_t start_ns;
	int result;
};

static uint64_t chance(struct replay_writer *w)
{
	return replay_mix(w->config.seed, w->chances++);
}

static bool shall_stop(const struct replay_writer *w)
{
	return atomic_load_explicit(&w->stop, memory_order_relaxed) ||
	       replay_memory_wrong(w->m) != UINT64_MAX;
}

/* Rest until the next write is due. */
static void pace(struct replay_writer *w)
{
	uint64_t writes = atomic_load_explicit(&w->writes, memory_order_relaxed);
	uint64_t due, now;

	if (w->config.writes_per_s == 0)
		return;
	due = w->start_ns + (uint64_t)((double)writes * 1e9 / (double)w->config.writes_per_s);
	if (clock_now_ns() >= due)
		return;
	hold_rest(replay_memory_hold(w->m));
	while (!shall_stop(w) && (now = clock_now_ns()) < due) {
		uint64_t ns = due - now < SLEEP_MAX_NS ? due - now : SLEEP_MAX_NS;

		nanosleep(&(struct timespec){.tv_nsec = (long)ns}, NULL);
	}
	hold_wake(replay_memory_hold(w->m));
}

/* Between any two writes. Returns false at the end. */
static bool go_on(struct replay_writer *w)
{
	pace(w);
	hold_attend(replay_memory_hold(w->m));
	return !shall_stop(w);
}

static bool write_once(struct replay_writer *w, uint64_t window)
{
	gfn_t frame = GFN(window + chance(w) % w->config.window);
	uint64_t c = chance(w);

	atomic_fetch_add_explicit(&w->writes, 1, memory_order_relaxed);
	if (c % 8 == 0) /* now and then the zero page */
		return replay_memory_write(w->m, frame, c % 64 == 0 ? 0 : c | (uint64_t)1 << 63);
	return replay_memory_write_word(w->m, frame, (unsigned)(c >> 8) % (PAGE_BYTES / 8), c);
}

static bool visit(struct replay_writer *w)
{
	const struct replay_writer_config *c = &w->config;
	uint64_t window = c->first.v + chance(w) % (c->frames / c->window) * c->window;

	for (uint32_t i = 0; i < c->writes; i++)
		if (!go_on(w) || !write_once(w, window))
			return false;
	if (chance(w) % 1000 < c->discard_per_mille) {
		w->result = replay_memory_discard(w->m, GFN(window), c->window);
		if (w->result < 0)
			return false;
	}
	if (chance(w) % 1000 < c->restore_per_mille)
		for (uint32_t i = 0; i < c->window; i++)
			if (!go_on(w) || !replay_memory_restore(w->m, GFN(window + i)))
				return false;
	return go_on(w);
}

static void *writer_main(void *arg)
{
	struct replay_writer *w = arg;

	hold_join(replay_memory_hold(w->m));
	while (visit(w))
		;
	hold_leave(replay_memory_hold(w->m));
	return NULL;
}

int replay_writer_start(struct replay_memory *m, const struct replay_writer_config *config,
			struct replay_writer **ret)
{
	struct replay_writer *w;
	int r;

	if (config->window == 0 || config->frames == 0 || config->frames % config->window ||
	    !range_fits(config->first.v, config->frames, replay_memory_frames(m)))
		return -EINVAL;
	w = calloc(1, sizeof(*w));
	if (!w)
		return -ENOMEM;
	w->m = m;
	w->config = *config;
	w->start_ns = clock_now_ns();
	r = pthread_create(&w->thread, NULL, writer_main, w);
	if (r != 0) {
		free(w);
		return -r;
	}
	*ret = w;
	return 0;
}

uint64_t replay_writer_writes(const struct replay_writer *w)
{
	return atomic_load_explicit(&w->writes, memory_order_relaxed);
}

int replay_writer_stop(struct replay_writer *w)
{
	int r;

	if (!w)
		return 0;
	atomic_store_explicit(&w->stop, true, memory_order_relaxed);
	pthread_join(w->thread, NULL);
	r = w->result;
	free(w);
	return r;
}
