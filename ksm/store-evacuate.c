/* SPDX-License-Identifier: Apache-2.0 */
/* Due work of a store: segments that nobody maps are let go. */
#include "ksm/store-internal.h"

void store_move_end(struct store_segment *g)
{
	(void)g;
}

uint64_t store_tick(struct store *s, uint64_t now_ns)
{
	pthread_mutex_lock(&s->tick_lock);
	pthread_mutex_lock(&s->lock);
	s->now_ns = now_ns;
	store_pending_tick(s);
	for (struct store_segment *g = store_segment_next(s, 0); g; g = store_segment_next(s, g->number)) {
		if (g->live)
			g->unused_since = 0;
		else if (!g->unused_since)
			g->unused_since = now_ns ? now_ns : 1;
		else if (now_ns - g->unused_since >= s->evacuate_after_ns)
			store_segment_drop(s, g);
	}
	pthread_mutex_unlock(&s->lock);
	pthread_mutex_unlock(&s->tick_lock);
	store_reclaim(s);
	return now_ns + s->evacuate_after_ns / 4;
}
