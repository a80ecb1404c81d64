/* SPDX-License-Identifier: Apache-2.0 */
/* A store inside the process of the one VM that uses it, or of several replay VMs. */
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>

#include "base/clock.h"
#include "ksm/store-link.h"
#include "ksm/store.h"

/*
 * Segments have the store's numbers. The store tells events to a queue; the agent takes them out of it. Everything happens
 * on the agent's thread, and due work of the store is done when the agent looks for events.
 *
 * With a store that others use, too, events come on their threads: the mutex guards the queue, and is never held while
 * the store or the agent is called; a descriptor wakes the agent.
 */
#define VIEWS_MAX  8u
#define LOANS_MAX  16u
#define EVENTS_MAX 1024u /* a power of two; what does not fit the store keeps */

struct local_view {
	uint32_t segment; /* 0: none */
	uint64_t used;
	struct segment_view view;
};

struct local_loan {
	struct segment *segment; /* NULL: none */
	uint32_t loan;
};

struct store_local {
	struct store_link link;
	struct store *store;
	bool shared;  /* the store is somebody else's */
	int event_fd; /* of a shared one */
	struct store_client *client;
	_Atomic uint64_t *recorded;
	struct local_view views[VIEWS_MAX];
	uint64_t view_clock;
	struct local_loan loans[LOANS_MAX];
	pthread_mutex_t mutex;
	/* Under the mutex: */
	struct store_event *events;
	uint32_t first, count;
	bool more; /* the store kept events that did not fit */
	uint64_t tick_at;
};

static struct store_local *local_of(struct store_link *l)
{
	return container_of(l, struct store_local, link);
}

static const char *local_name(const struct store_link *l)
{
	(void)l;
	return "local";
}

static void local_rest(struct store_link *link)
{
	struct store_local *l = local_of(link);

	for (unsigned i = 0; i < VIEWS_MAX; i++) {
		segment_view_done(&l->views[i].view);
		l->views[i].segment = 0; /* no segment's number */
		l->views[i].used = 0;
	}
}

static void local_free(struct store_link *link)
{
	struct store_local *l = local_of(link);

	local_rest(link);
	store_client_free(l->client);
	if (!l->shared)
		store_free(l->store);
	pthread_mutex_destroy(&l->mutex);
	close_fd_p(&l->event_fd);
	free(l->recorded);
	free(l->events);
	free(l);
}

static int local_submit(struct store_link *link, const struct store_record *records, size_t count,
			struct store_answer *answers)
{
	struct store_local *l = local_of(link);
	size_t done = 0;

	do {
		size_t n = count - done < STORE_BATCH_MAX ? count - done : STORE_BATCH_MAX;
		int r = store_submit(l->client, records + done, n, answers + done);

		if (r < 0)
			return r;
		done += n;
	} while (done < count);
	return 0;
}

static struct local_loan *loan_of(struct store_local *l, const struct segment *s)
{
	for (unsigned i = 0; i < LOANS_MAX; i++)
		if (l->loans[i].segment == s)
			return &l->loans[i];
	return NULL;
}

static void loan_end(struct store_local *l, struct local_loan *slot)
{
	uint32_t none;

	(void)!store_offer(l->client, slot->loan, &none); /* whatever comes of it */
	*slot = (struct local_loan){0};
}

/*
 * An agent that could not fill a segment frees it, which nobody tells the link. Its slot is found by the segment's address
 * when that is used again; and when there is no other slot left the oldest goes.
 */
static struct local_loan *slot_for(struct store_local *l)
{
	struct local_loan *slot = loan_of(l, NULL);

	if (slot)
		return slot;
	slot = &l->loans[0];
	for (unsigned i = 1; i < LOANS_MAX; i++)
		if (l->loans[i].loan < slot->loan)
			slot = &l->loans[i];
	loan_end(l, slot);
	return slot;
}

static int local_lend(struct store_link *link, uint32_t pages, struct segment **ret)
{
	struct store_local *l = local_of(link);
	struct local_loan *slot = slot_for(l), *stale;
	struct segment *s;
	auto_fd fd = -1;
	uint32_t loan;
	int r;

	r = store_lend(l->client, pages, &loan, &fd);
	if (r < 0)
		return r;
	r = segment_adopt_file(fd, pages, &s);
	if (r < 0) {
		loan_end(l, &(struct local_loan){.loan = loan});
		return r;
	}
	(void)TAKE_FD(fd);
	stale = loan_of(l, s);
	if (stale)
		loan_end(l, stale);
	*slot = (struct local_loan){s, loan};
	*ret = s;
	return 0;
}

static int local_offer(struct store_link *link, struct segment *s, uint32_t *ret_segment)
{
	struct store_local *l = local_of(link);
	struct local_loan *slot = s ? loan_of(l, s) : NULL;
	uint32_t loan = slot ? slot->loan : 0, segment = 0;
	auto_fd fd = -1;
	int sealed, r;

	if (!s)
		return -EINVAL;
	if (slot)
		*slot = (struct local_loan){0};
	sealed = segment_seal(s, &fd);
	segment_free(s);
	/* Also when it could not be sealed, so that the loan ends. */
	r = store_offer(l->client, loan, &segment);
	if (sealed < 0)
		return sealed;
	if (r == 0)
		*ret_segment = segment;
	return r;
}

static int local_view(struct store_link *link, uint32_t segment, const struct segment_view **ret)
{
	struct store_local *l = local_of(link);
	struct local_view *slot = &l->views[0];
	struct segment_view view;
	auto_fd fd = -1;
	int r;

	if (segment == 0)
		return -ENOENT;
	for (unsigned i = 0; i < VIEWS_MAX; i++) {
		struct local_view *v = &l->views[i];

		if (v->segment == segment) {
			v->used = ++l->view_clock;
			*ret = &v->view;
			return 0;
		}
		if (v->used < slot->used)
			slot = v;
	}
	r = store_fetch(l->client, segment, &fd);
	if (r == 0)
		r = segment_view_init(fd, &view, NULL);
	if (r < 0)
		return r;
	segment_view_done(&slot->view);
	*slot = (struct local_view){segment, ++l->view_clock, view};
	*ret = &slot->view;
	return 0;
}

static int local_refs(struct store_link *link, uint32_t segment, uint32_t page, uint32_t pages, int delta)
{
	return store_refs(local_of(link)->client, segment, page, pages, delta);
}

static int take_event(void *ctx, const struct store_event *event)
{
	struct store_local *l = ctx;
	bool first;
	int r = 0;

	pthread_mutex_lock(&l->mutex);
	first = l->count == 0;
	if (l->count == EVENTS_MAX) {
		l->more = true;
		r = -ENOSPC;
	} else {
		l->events[(l->first + l->count++) % EVENTS_MAX] = *event;
	}
	pthread_mutex_unlock(&l->mutex);
	if (first && l->event_fd >= 0)
		(void)!write(l->event_fd, &(uint64_t){1}, sizeof(uint64_t));
	return r;
}

static bool next_event(struct store_local *l, struct store_event *ret)
{
	bool some;

	pthread_mutex_lock(&l->mutex);
	some = l->count > 0;
	if (some) {
		*ret = l->events[l->first];
		l->first = (l->first + 1) % EVENTS_MAX;
		l->count--;
	}
	pthread_mutex_unlock(&l->mutex);
	return some;
}

/* Returns whether the store was asked for what it kept. */
static bool tick(struct store_local *l)
{
	uint64_t now = clock_now_ns();
	bool more;

	pthread_mutex_lock(&l->mutex);
	more = l->more && l->count == 0;
	if (more)
		l->more = false;
	pthread_mutex_unlock(&l->mutex);
	if (more || now >= l->tick_at)
		l->tick_at = store_tick(l->store, now);
	return more;
}

static int local_events(struct store_link *link, bool (*take)(void *ctx, const struct store_event *event),
			void *ctx)
{
	struct store_local *l = local_of(link);
	struct store_event e;
	uint64_t count;

	if (l->event_fd >= 0)
		(void)!read(l->event_fd, &count, sizeof(count));
	tick(l);
	do {
		while (next_event(l, &e))
			if (!take(ctx, &e))
				return 0;
	} while (tick(l));
	return 0;
}

static int local_poll_fd(const struct store_link *link)
{
	return container_of((struct store_link *)(uintptr_t)link, struct store_local, link)->event_fd;
}

static void local_shares(const struct store_link *link, struct store_shares *ret)
{
	struct store_stats s;

	store_stats(local_of((struct store_link *)(uintptr_t)link)->store, &s);
	*ret = (struct store_shares){.known = true,
				     .mappings = s.mappings,
				     .saved = s.pages_saved,
				     .bytes = s.index_bytes + s.table_bytes};
}

static const struct store_link_ops local_ops = {
	.name = local_name,
	.free = local_free,
	.submit = local_submit,
	.lend = local_lend,
	.offer = local_offer,
	.view = local_view,
	.rest = local_rest,
	.refs = local_refs,
	.events = local_events,
	.poll_fd = local_poll_fd,
	.shares = local_shares,
};

static int link_init(struct store_local *l, const struct store_link_config *config, struct store *shared,
		     struct errmsg *err)
{
	struct store_config store = {.key_mask = config->key_mask};
	struct store_client_config client = {.frames = config->frames, .event = take_event, .ctx = l};
	int r = 0;

	l->events = calloc(EVENTS_MAX, sizeof(*l->events));
	l->recorded = calloc((config->frames + 63) / 64, sizeof(*l->recorded));
	if (!l->events || !l->recorded)
		return -ENOMEM;
	if (shared) {
		l->shared = true;
		l->store = shared;
		l->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (l->event_fd < 0)
			return -errno;
	} else {
		r = store_new(&store, err, &l->store);
	}
	client.recorded = l->recorded;
	return r == 0 ? store_client_new(l->store, &client, &l->client) : r;
}

int store_link_shared_new(const struct store_link_config *config, struct store *store, struct errmsg *err,
			  _Atomic uint64_t **ret_recorded, struct store_link **ret)
{
	struct store_local *l;
	int r;

	if (config->frames == 0 || config->frames > STORE_FRAMES_MAX)
		return errmsg_set(err, -EINVAL, "page store: %llu frames",
				  (unsigned long long)config->frames);
	l = calloc(1, sizeof(*l));
	if (!l)
		return errmsg_set(err, -ENOMEM, "page store: out of memory");
	l->link.ops = &local_ops;
	l->event_fd = -1;
	pthread_mutex_init(&l->mutex, NULL);
	for (unsigned i = 0; i < VIEWS_MAX; i++)
		l->views[i].view.fd = -1;
	r = link_init(l, config, store, err);
	if (r < 0) {
		local_free(&l->link);
		return errmsg_set(err, r, "page store: %s", strerror(-r));
	}
	*ret_recorded = l->recorded;
	*ret = &l->link;
	return 0;
}

int store_link_local_new(const struct store_link_config *config, struct errmsg *err,
			 _Atomic uint64_t **ret_recorded, struct store_link **ret)
{
	return store_link_shared_new(config, NULL, err, ret_recorded, ret);
}
