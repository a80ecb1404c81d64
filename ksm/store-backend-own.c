/* SPDX-License-Identifier: Apache-2.0 */
/* A store in this process, as long as there is no daemon. */
#include <errno.h>
#include <unistd.h>

#include "ksm/store-backend.h"
#include "ksm/store.h"

#define EVENTS 1024u /* that wait to be read */

struct own {
	struct store_backend backend;
	struct store *store;
	struct store_client *client;
	int wake;
	uint64_t tick_ns; /* when the next one is due */
	uint32_t first, count;
	struct store_event events[EVENTS];
};

static struct own *own_of(struct store_backend *b)
{
	return container_of(b, struct own, backend);
}

/* Context: a call of ours, which is the store's only user. */
static int on_event(void *ctx, const struct store_event *event)
{
	struct own *own = ctx;
	uint64_t one = 1;

	if (own->count == EVENTS)
		return -ENOSPC;
	own->events[(own->first + own->count++) % EVENTS] = *event;
	if (own->count == 1)
		(void)!write(own->wake, &one, sizeof(one));
	return 0;
}

static void own_free(struct store_backend *b)
{
	struct own *own = own_of(b);

	store_client_free(own->client);
	store_free(own->store);
	free(own);
}

static int own_submit(struct store_backend *b, const struct store_record *records, uint32_t count,
		      struct store_answer *answers)
{
	return store_submit(own_of(b)->client, records, count, answers);
}

static int own_lend(struct store_backend *b, uint32_t pages, uint32_t *ret_loan, int *ret_fd)
{
	return store_lend(own_of(b)->client, pages, ret_loan, ret_fd);
}

static int own_offer(struct store_backend *b, uint32_t loan, uint32_t *ret_number)
{
	return store_offer(own_of(b)->client, loan, ret_number);
}

static int own_adopt(struct store_backend *b, int fd, uint32_t *ret_number)
{
	return store_adopt(own_of(b)->client, fd, ret_number);
}

static int own_fetch(struct store_backend *b, uint32_t number, int *ret_fd)
{
	return store_fetch(own_of(b)->client, number, ret_fd);
}

static int own_refs(struct store_backend *b, const struct store_wire_ref *refs, uint32_t count,
		    uint64_t *refused)
{
	for (uint32_t i = 0; i < count; i++)
		if (store_refs(own_of(b)->client, refs[i].segment, refs[i].page, refs[i].pages,
			       refs[i].delta) < 0)
			++*refused;
	return 0;
}

static int own_event(struct store_backend *b, struct store_event *ret)
{
	struct own *own = own_of(b);

	if (own->count == 0)
		return 0;
	*ret = own->events[own->first];
	own->first = (own->first + 1) % EVENTS;
	own->count--;
	return 1;
}

static void own_shares(struct store_backend *b, struct store_shares *ret)
{
	struct store_stats s;

	store_stats(own_of(b)->store, &s);
	*ret = (struct store_shares){.known = true,
				     .mappings = s.mappings,
				     .saved = s.pages_saved,
				     .bytes = s.index_bytes + s.table_bytes};
}

static bool own_alive(struct store_backend *b)
{
	(void)b;
	return true;
}

static void own_tick(struct store_backend *b, uint64_t now_ns)
{
	struct own *own = own_of(b);

	if (now_ns >= own->tick_ns)
		own->tick_ns = store_tick(own->store, now_ns);
}

static const struct store_backend_ops ops = {
	.name = "local",
	.free = own_free,
	.submit = own_submit,
	.lend = own_lend,
	.offer = own_offer,
	.adopt = own_adopt,
	.fetch = own_fetch,
	.refs = own_refs,
	.event = own_event,
	.shares = own_shares,
	.alive = own_alive,
	.tick = own_tick,
};

int store_own_new(const struct store_link_config *config, const _Atomic uint64_t *recorded, int wake,
		  struct store_backend **ret)
{
	struct store_config store = {.key_mask = config->key_mask};
	struct store_client_config client = {
		.frames = config->frames, .recorded = recorded, .event = on_event};
	struct own *own = calloc(1, sizeof(*own));
	int r;

	if (!own)
		return -ENOMEM;
	own->backend.ops = &ops;
	own->wake = wake;
	client.ctx = own;
	r = store_new(&store, NULL, &own->store);
	if (r == 0)
		r = store_client_new(own->store, &client, &own->client);
	if (r < 0) {
		own_free(&own->backend);
		return r;
	}
	*ret = &own->backend;
	return 0;
}
