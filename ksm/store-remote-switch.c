/* SPDX-License-Identifier: Apache-2.0 */
/* From one store to the next: looking for daemons, handing over what a VM holds. Theory of operation in store-remote.c. */
#include <errno.h>
#include <unistd.h>

#include "base/clock.h"
#include "ksm/store-remote-internal.h"

void remote_set_awake(struct remote *l)
{
	uint64_t one = 1;

	(void)!write(l->wake, &one, sizeof(one));
}

void remote_forget_views(struct remote *l)
{
	for (unsigned i = 0; i < VIEWS; i++) {
		if (l->views[i].used)
			segment_view_done(&l->views[i].view);
		l->views[i].used = 0;
	}
}

void remote_drop_backend(struct remote *l)
{
	if (l->is_daemon)
		l->stats.lost++;
	store_backend_free(TAKE_PTR(l->backend));
	l->is_daemon = false;
}

/* References of one segment that go to a new store. */
struct handover {
	struct remote *l;
	struct store_backend *to;
	uint32_t number;
	uint32_t count;
	struct store_wire_ref refs[REFS];
};

static int handover_flush(struct handover *h)
{
	uint32_t count = h->count;

	h->count = 0;
	return count ? h->to->ops->refs(h->to, h->refs, count, &h->l->stats.refused) : 0;
}

static int handover_range(void *ctx, uint32_t page, uint32_t pages)
{
	struct handover *h = ctx;
	int r = h->count == REFS ? handover_flush(h) : 0;

	h->refs[h->count++] = (struct store_wire_ref){h->number, page, pages, 1};
	return r;
}

/* What the VM maps goes to a new store. Return: 0, -ENOTCONN, -ENOMEM. */
static int hand_over(struct remote *l, struct store_backend *to)
{
	auto_free struct handover *h = calloc(1, sizeof(*h));
	int r = 0;

	if (!h)
		return -ENOMEM;
	h->l = l;
	h->to = to;
	held_forget_numbers(&l->held);
	for (uint32_t own = 0; own < l->held.count; own++) {
		const struct held_segment *s = held_get(&l->held, own);

		if (s->fd < 0)
			continue;
		r = to->ops->adopt(to, s->fd, &h->number);
		if (r == 0)
			r = held_set_number(&l->held, own, h->number);
		if (r == 0)
			r = held_each_range(s, handover_range, h);
		/* At once: what nobody maps does not stay in the store for long. */
		if (r == 0)
			r = handover_flush(h);
		if (r == -ENOTCONN)
			return r;
		if (r < 0)
			l->stats.refused++;
	}
	return 0;
}

static int switch_to(struct remote *l, struct store_backend *to, bool is_daemon)
{
	int r;

	/* In this order: what the new store adopts is alive in the old one until then. */
	l->ref_count = 0;
	remote_forget_views(l);
	r = hand_over(l, to);
	store_backend_free(l->backend);
	l->backend = NULL;
	l->is_daemon = false;
	/* Half of the numbers are those of a store that is gone: what was there before cannot go on with them. */
	if (r < 0) {
		store_backend_free(to);
		return r;
	}
	l->backend = to;
	l->is_daemon = is_daemon;
	l->generation++;
	l->stats.connected += is_daemon;
	l->reset_due |= l->used;
	l->used = false;
	remote_set_awake(l);
	return 0;
}

/* Take a connected socket for a daemon, if it answers. */
static int try_socket(struct remote *l, int fd)
{
	struct store_backend *b;
	int r = store_daemon_new(&l->config, fd, l->recorded, l->epoll, &b);

	if (r == 0) {
		l->retry_ns = RETRY_NS;
		return switch_to(l, b, true);
	}
	/* Each attempt at a daemon that stands still costs the agent seconds. */
	if (r == -ETIMEDOUT && l->retry_ns < RETRY_MAX_NS)
		l->retry_ns = l->retry_ns * 2 < RETRY_MAX_NS ? l->retry_ns * 2 : RETRY_MAX_NS;
	return r;
}

int remote_connect_any(struct remote *l)
{
	int fd;

	for (size_t i = 0; i < l->path_count; i++)
		if (store_daemon_connect(l->paths[i], &fd) == 0)
			return fd;
	return -1;
}

/* A daemon, if there is one and it is time to look. */
static void look_for_daemon(struct remote *l)
{
	int fd = atomic_exchange(&l->attached, -1);
	uint64_t now;

	/* A daemon's socket for one that has a daemon: perhaps that one is gone. */
	if (l->is_daemon && fd >= 0 && !l->backend->ops->alive(l->backend))
		remote_drop_backend(l);
	if (l->is_daemon) {
		close_fd_p(&fd);
		return;
	}
	if (fd >= 0 && try_socket(l, fd) == 0)
		return;
	now = clock_now_ns();
	if (l->connected_fd < 0 && now < l->retry_at_ns)
		return;
	fd = l->connected_fd >= 0 ? TAKE_FD(l->connected_fd) : remote_connect_any(l);
	if (fd >= 0)
		(void)!try_socket(l, fd);
	l->retry_at_ns = clock_now_ns() + l->retry_ns;
}

/* See that there is a backend. Return: 0 or -ENOMEM.. */
int remote_ready(struct remote *l)
{
	struct store_backend *own;
	int r;

	look_for_daemon(l);
	if (!l->backend) {
		r = store_own_new(&l->config, l->recorded, l->wake, &own);
		if (r == 0)
			r = switch_to(l, own, false);
		if (r < 0)
			return r;
	}
	if (!l->is_daemon)
		l->backend->ops->tick(l->backend, clock_now_ns());
	return 0;
}
