/* SPDX-License-Identifier: Apache-2.0 */
/* The clients of a store, and the numbers of their frames among all VMs' frames. */
#include <errno.h>
#include <string.h>

#include "ksm/store-internal.h"

/*
 * Each client has a range of numbers of its own, [base, base + frames). A range is used again after its client has gone
 * and nothing in the store names a number of it any more, so a number never means another VM's frame.
 */
#define OWNERS_END ((store_owner_t)1 << STORE_OWNER_BITS)

/* How many clients have a base of at most @owner. */
static size_t clients_up_to(const struct store *s, store_owner_t owner)
{
	size_t low = 0, high = s->client_count;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (s->clients[mid]->base <= owner)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

struct store_client *store_client_of(const struct store *s, store_owner_t owner)
{
	size_t n = clients_up_to(s, owner);

	if (n == 0 || owner - s->clients[n - 1]->base >= s->clients[n - 1]->config.frames)
		return NULL;
	return s->clients[n - 1];
}

bool store_owner_holds(const struct store *s, store_owner_t owner)
{
	struct store_client *c = store_client_of(s, owner);
	uint64_t frame;

	if (!c)
		return false;
	if (!c->config.recorded)
		return true;
	frame = owner - c->base;
	/* Only a hint, and ordered with nothing. */
	return atomic_load_explicit(&c->config.recorded[frame / 64], memory_order_relaxed) >> frame % 64 & 1;
}

int store_send(struct store_client *c, const struct store_event *event)
{
	return c->config.event(c->config.ctx, event);
}

/* The first gap that is large enough, and its place in the order. */
static int find_base(const struct store *s, uint64_t frames, store_owner_t *ret_base, size_t *ret_at)
{
	store_owner_t base = 1;

	for (size_t i = 0; i <= s->client_count; i++) {
		store_owner_t end = i < s->client_count ? s->clients[i]->base : OWNERS_END;

		if (end - base >= frames) {
			*ret_base = base;
			*ret_at = i;
			return 0;
		}
		base = end + (i < s->client_count ? s->clients[i]->config.frames : 0);
	}
	return -ENOSPC;
}

static int join(struct store *s, struct store_client *c)
{
	size_t at;
	int r;

	if (s->client_count == s->client_room) {
		size_t room = s->client_room ? 2 * s->client_room : 4;
		struct store_client **more = realloc(s->clients, room * sizeof(struct store_client *));

		if (!more)
			return -ENOMEM;
		s->clients = more;
		s->client_room = room;
	}
	r = find_base(s, c->config.frames, &c->base, &at);
	if (r < 0)
		return r;
	memmove(s->clients + at + 1, s->clients + at, (s->client_count - at) * sizeof(struct store_client *));
	s->clients[at] = c;
	s->client_count++;
	s->frames += c->config.frames;
	return 0;
}

int store_client_new(struct store *s, const struct store_client_config *config, struct store_client **ret)
{
	struct store_client *c;
	int r;

	if (config->frames == 0 || config->frames > STORE_FRAMES_MAX || !config->event)
		return -EINVAL;
	c = calloc(1, sizeof(*c));
	if (!c)
		return -ENOMEM;
	c->store = s;
	c->config = *config;
	for (unsigned i = 0; i < STORE_LOANS_MAX; i++)
		c->loans[i].fd = -1;
	pthread_mutex_lock(&s->lock);
	r = join(s, c);
	pthread_mutex_unlock(&s->lock);
	if (r < 0) {
		free(c);
		return r;
	}
	*ret = c;
	return 0;
}

static void leave(struct store *s, struct store_client *c)
{
	size_t at = clients_up_to(s, c->base) - 1;

	store_refs_drop_client(c);
	for (unsigned i = 0; i < STORE_LOANS_MAX; i++) {
		s->loans -= c->loans[i].number != 0;
		close_fd_p(&c->loans[i].fd);
	}
	store_records_purge(s, c->base, c->base + c->config.frames);
	memmove(s->clients + at, s->clients + at + 1,
		(s->client_count - at - 1) * sizeof(struct store_client *));
	s->client_count--;
	s->frames -= c->config.frames;
	/* Others are told: the one that goes is no client any more. */
	store_pending_drop_client(c);
}

void store_client_free(struct store_client *c)
{
	struct store *s;

	if (!c)
		return;
	s = c->store;
	pthread_mutex_lock(&s->tick_lock);
	pthread_mutex_lock(&s->lock);
	leave(s, c);
	if (s->client_count == 0)
		store_segment_drop_all(s);
	pthread_mutex_unlock(&s->lock);
	pthread_mutex_unlock(&s->tick_lock);
	store_reclaim(s);
	id_map_done(&c->refs);
	free(c);
}
