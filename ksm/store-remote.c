/* SPDX-License-Identifier: Apache-2.0 */
/* A link to the daemon's store, which outlives daemons. */
#include "ksm/store-remote.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

#include "base/addr.h"
#include "base/clock.h"
#include "ksm/store-remote-internal.h"

/*
 * Theory of operation
 *
 * Behind the link is one backend at a time: the daemon's store or, as long as there is none, a store in this process. Each
 * call first sees to it that there is one (remote_ready()), and is done again with the next when it finds that its daemon is gone;
 * the store in this process never goes away by itself, so that ends.
 *
 * A change of backends (switch_to()) hands the segments that the VM maps to the new store, and their references; then an
 * event asks for all records anew. Segments without references are forgotten: what the VM could have had of them it asks
 * for again. The VM's own mappings are not touched by any of this.
 *
 * Numbers, references and descriptors are in struct held_segments. References are sent in batches, at the latest before
 * the next call; the first of a segment at once. They are policy (the kernel keeps pages alive), so one that the store
 * refuses is counted and left out.
 *
 * Views: the last few that were asked for stay mapped.
 */

/* Return: 0 or -ENOTCONN. */
static int flush_refs(struct remote *l)
{
	uint32_t count = l->ref_count;

	l->ref_count = 0;
	return count ? l->backend->ops->refs(l->backend, l->refs, count, &l->stats.refused) : 0;
}

/* Does something with the backend, and again with the next one as long as it is gone. */
#define WITH_BACKEND(l_, r_, call_)                                                                          \
	do {                                                                                                 \
		(r_) = remote_ready(l_);                                                                     \
		if ((r_) == 0)                                                                               \
			(r_) = flush_refs(l_);                                                               \
		if ((r_) == 0)                                                                               \
			(r_) = (call_);                                                                      \
		if ((r_) == -ENOTCONN)                                                                       \
			remote_drop_backend(l_);                                                             \
	} while ((r_) == -ENOTCONN)

static const char *remote_name(const struct store_link *l)
{
	const struct remote *remote = (const void *)((const char *)l - offsetof(struct remote, link));

	return remote->is_daemon ? remote->backend->ops->name : "local";
}

/* Our numbers for the store's. */
static int translate(struct remote *l, struct store_answer *answers, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++) {
		struct store_answer *a = &answers[i];
		int r = 0;

		if (a->kind == STORE_FOUND)
			r = held_own(&l->held, a->segment, &a->segment);
		else if (a->kind >= STORE_ANSWERS)
			r = -EPROTO;
		if (r < 0)
			return r;
	}
	return 0;
}

/* Nonsense from a store is no better than none. Return: 0, or what ends a call. */
static int sane(const struct remote *l, int r)
{
	if (r != -EPROTO)
		return r;
	return l->is_daemon ? -ENOTCONN : -EIO;
}

static int submit_batch(struct remote *l, const struct store_record *records, uint32_t count,
			struct store_answer *answers)
{
	int r;

	l->used = true;
	r = l->backend->ops->submit(l->backend, records, count, answers);
	return r == 0 ? sane(l, translate(l, answers, count)) : r;
}

static int remote_submit(struct store_link *link, const struct store_record *records, size_t count,
			 struct store_answer *answers)
{
	struct remote *l = remote_of(link);
	int r = 0;

	for (size_t at = 0; at < count && r == 0;) {
		uint32_t n = count - at < STORE_WIRE_BATCH ? (uint32_t)(count - at) : STORE_WIRE_BATCH;

		WITH_BACKEND(l, r, submit_batch(l, records + at, n, answers + at));
		at += n;
	}
	return r;
}

static int lend_segment(struct remote *l, uint32_t pages, struct loan *at)
{
	auto_fd fd = -1;
	int r = l->backend->ops->lend(l->backend, pages, &at->loan, &fd);

	if (r < 0)
		return r;
	at->generation = l->generation;
	r = segment_adopt_file(fd, pages, &at->segment);
	if (r == 0)
		TAKE_FD(fd);
	return r;
}

static struct loan *find_loan(struct remote *l, const struct segment *s)
{
	for (unsigned i = 0; i < LOANS; i++)
		if (l->loans[i].segment == s)
			return &l->loans[i];
	return NULL;
}

static int remote_lend(struct store_link *link, uint32_t pages, struct segment **ret)
{
	struct remote *l = remote_of(link);
	struct loan *at = find_loan(l, NULL);
	int r;

	if (!at)
		return -EMFILE;
	WITH_BACKEND(l, r, lend_segment(l, pages, at));
	if (r == 0)
		*ret = at->segment;
	return r;
}

static int offer_sealed(struct remote *l, const struct loan *loan, int fd, uint32_t *ret_number)
{
	struct store_backend *b = l->backend;

	/* It was lent by a store that is gone: then it is one that the VM has, like any other. */
	if (loan->generation != l->generation)
		return b->ops->adopt(b, fd, ret_number);
	return b->ops->offer(b, loan->loan, ret_number);
}

static int offer_numbered(struct remote *l, const struct loan *loan, int fd, uint32_t *ret_segment)
{
	uint32_t number;
	int r = offer_sealed(l, loan, fd, &number);

	return r == 0 ? sane(l, held_own(&l->held, number, ret_segment)) : r;
}

static int remote_offer(struct store_link *link, struct segment *s, uint32_t *ret_segment)
{
	struct remote *l = remote_of(link);
	struct loan *at = find_loan(l, s), loan;
	cleanup(segment_free_p) struct segment *mine __attribute__((unused)) = s;
	auto_fd fd = -1;
	int r;

	if (!s || !at)
		return -EINVAL;
	loan = *at;
	*at = (struct loan){0};
	r = segment_seal(s, &fd);
	/* One that cannot be sealed is handed in all the same: the loan ends, and the store says what is wrong with it. */
	if (r < 0) {
		uint32_t number;

		if (l->backend && loan.generation == l->generation &&
		    l->backend->ops->offer(l->backend, loan.loan, &number) == -ENOTCONN)
			remote_drop_backend(l);
		return r;
	}
	WITH_BACKEND(l, r, offer_numbered(l, &loan, fd, ret_segment));
	return r;
}

static int fetch(struct remote *l, uint32_t own, int *ret_fd)
{
	const struct held_segment *s = held_get(&l->held, own);

	if (!s || s->number == HELD_NO_NUMBER)
		return -ENOENT;
	return l->backend->ops->fetch(l->backend, s->number, ret_fd);
}

/* A descriptor of our own, of a segment that we hold or the store has. */
static int get_fd(struct remote *l, uint32_t own, int *ret_fd)
{
	const struct held_segment *s = held_get(&l->held, own);
	int r;

	if (s && s->fd >= 0) {
		*ret_fd = fcntl(s->fd, F_DUPFD_CLOEXEC, 0);
		return *ret_fd < 0 ? -errno : 0;
	}
	WITH_BACKEND(l, r, fetch(l, own, ret_fd));
	return r;
}

static struct cached_view *find_view(struct remote *l, uint32_t own)
{
	struct cached_view *oldest = &l->views[0];

	for (unsigned i = 0; i < VIEWS; i++) {
		if (l->views[i].used && l->views[i].own == own)
			return &l->views[i];
		if (l->views[i].used < oldest->used)
			oldest = &l->views[i];
	}
	if (oldest->used)
		segment_view_done(&oldest->view);
	oldest->used = 0;
	return oldest;
}

static int remote_view(struct store_link *link, uint32_t own, const struct segment_view **ret)
{
	struct remote *l = remote_of(link);
	struct cached_view *v = find_view(l, own);
	auto_fd fd = -1;
	int r;

	if (!v->used) {
		r = get_fd(l, own, &fd);
		if (r == 0)
			r = segment_view_init(fd, &v->view, NULL);
		if (r < 0)
			return r;
		v->own = own;
	}
	v->used = ++l->view_clock;
	*ret = &v->view;
	return 0;
}

static void remote_rest(struct store_link *link)
{
	remote_forget_views(remote_of(link));
}

/* Have a segment's descriptor, for its first reference. */
static int keep(struct remote *l, uint32_t own)
{
	const struct held_segment *s = held_get(&l->held, own);
	auto_fd fd = -1;
	uint32_t pages;
	int r;

	if (!s || s->fd >= 0)
		return s ? 0 : -ENOENT;
	/* Most likely it was looked at a moment ago; a daemon that is gone cannot be asked. */
	for (unsigned i = 0; i < VIEWS && fd < 0; i++) {
		if (l->views[i].used && l->views[i].own == own)
			fd = fcntl(l->views[i].view.fd, F_DUPFD_CLOEXEC, 0);
	}
	r = fd >= 0 ? 0 : get_fd(l, own, &fd);
	if (r == 0)
		r = segment_check(fd, &pages, NULL);
	if (r == 0)
		r = held_keep(&l->held, own, fd, pages);
	if (r == 0)
		TAKE_FD(fd);
	return r;
}

static int remote_refs(struct store_link *link, uint32_t own, uint32_t page, uint32_t pages, int delta)
{
	struct remote *l = remote_of(link);
	const struct held_segment *s;
	int r = delta > 0 ? keep(l, own) : 0;

	if (r == 0)
		r = held_refs(&l->held, own, page, pages, delta);
	if (r < 0)
		return r;
	s = held_get(&l->held, own);
	if (s->number == HELD_NO_NUMBER)
		return 0;
	l->refs[l->ref_count++] = (struct store_wire_ref){s->number, page, pages, delta};
	/* The first at once: a store lets go of segments that nobody maps. */
	if (l->ref_count == REFS || (delta > 0 && s->refs == pages))
		WITH_BACKEND(l, r, 0);
	return r;
}

static int next_event(struct remote *l, struct store_event *ret)
{
	int r;

	if (l->reset_due) {
		l->reset_due = false;
		*ret = (struct store_event){.kind = STORE_EVENT_RESET};
		return 1;
	}
	r = l->backend->ops->event(l->backend, ret);
	if (r <= 0)
		return r;
	if (ret->kind == STORE_EVENT_FOUND || ret->kind == STORE_EVENT_MOVE)
		r = held_own(&l->held, ret->segment, &ret->segment);
	if (r >= 0 && ret->kind == STORE_EVENT_MOVE)
		r = held_own(&l->held, ret->to_segment, &ret->to_segment);
	if (r >= 0 && (ret->kind >= STORE_EVENTS || ret->kind == STORE_EVENT_RESET))
		r = -EPROTO; /* resets are ours to say */
	return r < 0 ? sane(l, r) : 1;
}

static int remote_events(struct store_link *link, bool (*take)(void *ctx, const struct store_event *event),
			 void *ctx)
{
	struct remote *l = remote_of(link);
	struct store_event event;
	uint64_t woken;
	int r;

	(void)!read(l->wake, &woken, sizeof(woken));
	for (;;) {
		WITH_BACKEND(l, r, next_event(l, &event));
		if (r <= 0)
			return r;
		if (!take(ctx, &event)) {
			remote_set_awake(l); /* there may be more */
			return 0;
		}
	}
}

static int remote_poll_fd(const struct store_link *l)
{
	return ((const struct remote *)(const void *)((const char *)l - offsetof(struct remote, link)))
		->epoll;
}

static void remote_shares(const struct store_link *link, struct store_shares *ret)
{
	const struct remote *l = (const void *)((const char *)link - offsetof(struct remote, link));

	*ret = (struct store_shares){0};
	if (l->backend)
		l->backend->ops->shares(l->backend, ret);
}

static void remote_free(struct store_link *link)
{
	struct remote *l = remote_of(link);
	int fd = atomic_exchange(&l->attached, -1);

	if (l->backend)
		(void)!flush_refs(l);
	store_backend_free(l->backend);
	remote_forget_views(l);
	held_done(&l->held);
	/* Their segments are the borrower's. */
	close_fd_p(&fd);
	close_fd_p(&l->connected_fd);
	close_fd_p(&l->epoll);
	close_fd_p(&l->wake);
	if (l->recorded)
		munmap((void *)(uintptr_t)l->recorded, l->recorded_bytes);
	for (size_t i = 0; l->paths && l->paths[i]; i++)
		free(l->paths[i]);
	free(l->paths);
	free((char *)(uintptr_t)l->config.vm_name);
	free(l);
}

static const struct store_link_ops ops = {
	.name = remote_name,
	.free = remote_free,
	.submit = remote_submit,
	.lend = remote_lend,
	.offer = remote_offer,
	.view = remote_view,
	.rest = remote_rest,
	.refs = remote_refs,
	.events = remote_events,
	.poll_fd = remote_poll_fd,
	.shares = remote_shares,
};

static int copy_config(struct remote *l, const struct store_link_config *config, const char *const *paths,
		       size_t path_count)
{
	l->config = *config;
	l->config.vm_name = strdup(config->vm_name);
	l->paths = calloc(path_count + 1, sizeof(*l->paths));
	if (!l->config.vm_name || !l->paths)
		return -ENOMEM;
	for (; l->path_count < path_count; l->path_count++) {
		l->paths[l->path_count] = strdup(paths[l->path_count]);
		if (!l->paths[l->path_count])
			return -ENOMEM;
	}
	return 0;
}

static int make_wake(struct remote *l)
{
	struct epoll_event ev = {.events = EPOLLIN};

	l->epoll = epoll_create1(EPOLL_CLOEXEC);
	l->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (l->epoll < 0 || l->wake < 0 || epoll_ctl(l->epoll, EPOLL_CTL_ADD, l->wake, &ev) < 0)
		return -errno;
	return 0;
}

int store_link_remote_new(const struct store_link_config *config, const char *const *paths, size_t path_count,
			  struct errmsg *err, _Atomic uint64_t **ret_recorded, struct store_link **ret)
{
	struct remote *l;
	void *at;
	int r;

	if (config->frames == 0 || config->frames > STORE_WIRE_FRAMES_MAX)
		return errmsg_set(err, -EINVAL,
				  "memory agent: %llu frames are more than the store can number",
				  (unsigned long long)config->frames);
	l = calloc(1, sizeof(*l));
	if (!l)
		return -ENOMEM;
	l->link.ops = &ops;
	l->epoll = l->wake = l->connected_fd = -1;
	atomic_init(&l->attached, -1);
	l->retry_ns = RETRY_NS;
	l->recorded_bytes = store_wire_room(config->frames).bitmap_bytes;
	r = copy_config(l, config, paths, path_count);
	if (r == 0)
		r = make_wake(l);
	at = mmap(NULL, l->recorded_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (at == MAP_FAILED)
		r = r < 0 ? r : -errno;
	else
		l->recorded = at;
	if (r < 0) {
		remote_free(&l->link);
		return errmsg_set(err, r, "memory agent: %s", strerror(-r));
	}
	l->connected_fd = remote_connect_any(l);
	l->retry_at_ns = clock_now_ns() + RETRY_NS;
	*ret_recorded = l->recorded;
	*ret = &l->link;
	return 0;
}

void store_link_remote_stay(struct store_link *link)
{
	remote_of(link)->path_count = 0;
}

void store_link_remote_attach(struct store_link *link, int fd)
{
	struct remote *l = remote_of(link);
	int old = atomic_exchange(&l->attached, fd);

	close_fd_p(&old);
	remote_set_awake(l);
}

void store_link_remote_stats(const struct store_link *link, struct store_link_stats *ret)
{
	const struct remote *l = (const void *)((const char *)link - offsetof(struct remote, link));

	*ret = l->stats;
	ret->daemon = l->is_daemon;
	ret->held = l->held.fds;
	ret->references = l->held.refs;
	ret->bytes = sizeof(*l) + (uint64_t)l->held.room * sizeof(struct held_segment) +
		     (l->held.slots ? ((uint64_t)l->held.slot_mask + 1) * sizeof(struct held_slot) : 0);
	for (uint32_t i = 0; i < l->held.count; i++)
		if (l->held.all[i].counts)
			ret->bytes += l->held.all[i].pages * sizeof(uint16_t);
}

DEFINE_SYSCALLS(store_link_free_syscalls, SYSCALL(poll), SYSCALL(sendmsg), SYSCALL(recvmsg),
		SYSCALL(membarrier));
DEFINE_SYSCALLS(store_link_remote_syscalls, SYSCALL(epoll_ctl), SYSCALL(read), SYSCALL(write));
