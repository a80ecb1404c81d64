/* SPDX-License-Identifier: Apache-2.0 */
/* The daemon's connections: accepted on the loop, worked on by threads, one store per user. */
#include "tools/sardined-server.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/fs.h"
#include "base/log-limit.h"
#include "base/log.h"
#include "base/signals.h"
#include "ksm/store-serve.h"
#include "tools/sardined-internal.h"
#include "vmm/unix-socket.h"

/*
 * Theory of operation
 *
 * The loop's thread accepts, and calls store_tick(). Workers wait on an epoll set of all connections, one event at a time; a connection
 * that has one is theirs until they ask for the next (EPOLLONESHOT). So calls of one client are worked on in their order, those of
 * different clients at the same time, and who ends a connection is the only one who uses it: by the kernel's order of
 * events; each turn is also under a mutex that nobody waits for, since neither C nor the thread sanitizer know that order.
 *
 * The mutex guards the list of connections and that of domains; it is never held while a store is called. A domain lives as
 * long as somebody uses it: its clients, and whoever looks at it.
 *
 * A peer that does not read what it asked for is disconnected: nothing here waits for anybody.
 */
#define ACCEPT_BATCH	8u
#define ACCEPT_PAUSE_NS 200000000ull
/* Messages of one client before the next one's turn. */
#define MESSAGE_BATCH 16u
/* From something happening to the next look for due work. */
#define TICK_NS 500000000ull
/* Descriptors that are not for segments. */
#define DESCRIPTORS_OURS 512u
/* Of the others, the part that one domain may have. */
#define DESCRIPTORS_PART 4u

static void *worker_main(void *arg);

static void domain_unref(struct server *s, struct domain *d)
{
	bool last;

	pthread_mutex_lock(&s->mutex);
	last = --d->users == 0;
	if (last) {
		struct domain **p = &s->domains;

		while (*p != d)
			p = &(*p)->next;
		*p = d->next;
	}
	pthread_mutex_unlock(&s->mutex);
	if (!last)
		return;
	store_free(d->store);
	free(d);
}

static int domain_get(void *ctx, uint32_t uid, struct store **ret)
{
	struct connection *c = ctx;
	struct server *s = c->server;
	struct store_config config = {.segment_limit = s->segment_limit};
	struct domain *d;
	int r = 0;

	pthread_mutex_lock(&s->mutex);
	for (d = s->domains; d && d->uid != uid; d = d->next)
		;
	if (!d) {
		d = calloc(1, sizeof(*d));
		r = d ? store_new(&config, NULL, &d->store) : -ENOMEM;
		if (r < 0) {
			free(d);
		} else {
			d->uid = uid;
			d->next = s->domains;
			s->domains = d;
		}
	}
	if (r == 0) {
		d->users++;
		c->domain = d;
		*ret = d->store;
	}
	pthread_mutex_unlock(&s->mutex);
	return r;
}

static void domain_put(void *ctx, struct store *store)
{
	struct connection *c = ctx;

	(void)store;
	domain_unref(c->server, TAKE_PTR(c->domain));
}

/* Context: any worker, or the loop's thread. What does not fit is there already, unread. */
static void on_bell(void *ctx)
{
	struct connection *c = ctx;
	struct store_wire_answer bell = {.kind = STORE_WIRE_BELL};

	(void)!store_wire_send(c->fd, &bell, sizeof(bell), -1);
}

static int on_stats(void *ctx, int *ret_fd, uint32_t *ret_bytes)
{
	struct connection *c = ctx;
	auto_free char *text = NULL;
	auto_fd fd = -1;
	json_t *json;
	int r;

	/* Only for those who connected by path: who can do that can read the daemon's memory, too. */
	if (c->handed)
		return -EPERM;
	json = server_json(c->server);
	text = json ? json_dumps(json, JSON_COMPACT) : NULL;
	json_decref(json);
	if (!text || strlen(text) > SERVER_JSON_MAX)
		return text ? -E2BIG : -ENOMEM;
	fd = memfd_create("sardine-stats", MFD_CLOEXEC);
	if (fd < 0)
		return -errno;
	r = pwrite_full(fd, text, strlen(text), 0);
	if (r < 0)
		return r;
	*ret_fd = TAKE_FD(fd);
	*ret_bytes = (uint32_t)strlen(text);
	return 0;
}

static const struct store_serve_ops serve_ops = {
	.domain_get = domain_get,
	.domain_put = domain_put,
	.bell = on_bell,
	.stats = on_stats,
};

static void connection_free(struct connection *c)
{
	struct server *s = c->server;

	pthread_mutex_lock(&s->mutex);
	*(c->prev ? &c->prev->next : &s->connections) = c->next;
	if (c->next)
		c->next->prev = c->prev;
	s->connection_count--;
	pthread_mutex_unlock(&s->mutex);
	/* No bell rings after this. */
	store_serve_free(c->serve);
	close(c->fd);
	pthread_mutex_destroy(&c->turn);
	free(c);
}

static int add(struct server *s, int fd, bool handed)
{
	auto_fd own = fd;
	struct epoll_event ev = {.events = EPOLLIN | EPOLLONESHOT};
	struct connection *c;
	int r;

	c = calloc(1, sizeof(*c));
	if (!c)
		return -ENOMEM;
	*c = (struct connection){.server = s, .fd = own, .handed = handed};
	pthread_mutex_init(&c->turn, NULL);
	r = store_serve_new(&serve_ops, c, &c->serve);
	if (r < 0) {
		pthread_mutex_destroy(&c->turn);
		free(c);
		return r;
	}
	TAKE_FD(own);
	pthread_mutex_lock(&s->mutex);
	c->next = s->connections;
	if (c->next)
		c->next->prev = c;
	s->connections = c;
	s->connection_count++;
	s->accepted++;
	r = s->connection_count > SERVER_CONNECTIONS_MAX ? -EUSERS : 0;
	pthread_mutex_unlock(&s->mutex);
	ev.data.ptr = c;
	/* From here on it is a worker's. */
	if (r == 0 && epoll_ctl(s->epoll, EPOLL_CTL_ADD, c->fd, &ev) < 0)
		r = -errno;
	if (r < 0)
		connection_free(c);
	return r;
}

int server_add(struct server *s, int fd)
{
	return add(s, fd, true);
}

static void on_accept(void *arg, uint32_t events)
{
	struct server *s = arg;

	(void)events;
	for (unsigned i = 0; i < ACCEPT_BATCH; i++) {
		auto_fd fd = accept4(s->listener.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		uid_t uid;

		if (fd < 0) {
			/* Without descriptors the socket stays readable: look away instead of spinning. */
			if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED &&
			    io_source_set_events(s->source, 0) == 0)
				(void)!io_timer_set(s->pause, ACCEPT_PAUSE_NS);
			return;
		}
		/* The file's mode keeps others out already; this holds when somebody widened it. */
		if (unix_peer_uid(fd, &uid) < 0 || (uid != geteuid() && uid != 0))
			continue;
		if (add(s, TAKE_FD(fd), false) < 0)
			log_limited(&s->lines, LOG_LEVEL_WARN,
				    "a connection was refused: out of memory, descriptors, or room");
	}
}

static void accept_again(void *arg, uint32_t events)
{
	struct server *s = arg;

	(void)events;
	if (io_source_set_events(s->source, EPOLLIN) < 0)
		(void)!io_timer_set(s->pause, ACCEPT_PAUSE_NS);
}

/* To all VMs of a domain. */
static void tell_figures(struct server *s, struct domain *d)
{
	struct store_stats figures;

	store_stats(d->store, &figures);
	pthread_mutex_lock(&s->mutex);
	for (struct connection *c = s->connections; c; c = c->next)
		if (c->domain == d)
			store_serve_figures(c->serve, figures.mappings, figures.pages_saved);
	pthread_mutex_unlock(&s->mutex);
}

/* Due work of all stores. Each is held in between, so that it stays while the mutex is not. */
static void on_tick(void *arg, uint32_t events)
{
	struct server *s = arg;
	uint64_t now = clock_now_ns(), next = UINT64_MAX;
	struct domain *d, *held = NULL;

	(void)events;
	atomic_store(&s->ticking, false);
	for (;;) {
		pthread_mutex_lock(&s->mutex);
		d = held ? held->next : s->domains;
		if (d)
			d->users++;
		pthread_mutex_unlock(&s->mutex);
		if (held)
			domain_unref(s, held);
		held = d;
		if (!d)
			break;
		now = store_tick(d->store, clock_now_ns());
		next = now < next ? now : next;
		tell_figures(s, d);
	}
	if (next == UINT64_MAX)
		return;
	now = clock_now_ns();
	if (!atomic_exchange(&s->ticking, true))
		(void)!io_timer_set(s->tick, next > now + TICK_NS ? next - now : TICK_NS);
}

static void arm_tick(void *arg)
{
	struct server *s = arg;

	if (io_timer_set(s->tick, TICK_NS) < 0)
		atomic_store(&s->ticking, false);
}

/* Something happened that may be due work later. */
static void wake_tick(struct server *s)
{
	if (!atomic_load(&s->ticking) && !atomic_exchange(&s->ticking, true) &&
	    io_loop_post(s->loop, arm_tick, s) < 0)
		atomic_store(&s->ticking, false);
}

/* One message. Return: 0, -EAGAIN when there is none, or what ends the connection. */
static int serve_one(struct connection *c)
{
	struct store_serve_reply reply;
	struct store_wire_message m;
	int r = store_wire_receive(c->fd, &m);

	if (r < 0)
		return r;
	r = store_serve_message(c->serve, &m, &reply);
	store_wire_message_done(&m);
	if (r < 0)
		return r;
	r = store_wire_send(c->fd, &reply.answer, sizeof(reply.answer), reply.fd);
	close_fd_p(&reply.fd);
	return r == -EAGAIN ? -EPROTO : r; /* it asks and does not listen */
}

static void serve(struct connection *c)
{
	struct server *s = c->server;
	struct epoll_event ev = {.events = EPOLLIN | EPOLLONESHOT, .data.ptr = c};
	int r = 0;

	/* Who had the last turn is still on its way out of epoll_ctl(). */
	pthread_mutex_lock(&c->turn);
	for (unsigned i = 0; i < MESSAGE_BATCH && r == 0; i++)
		r = serve_one(c);
	wake_tick(s);
	if (r == 0 || r == -EAGAIN)
		r = epoll_ctl(s->epoll, EPOLL_CTL_MOD, c->fd, &ev) < 0 ? -errno : -EAGAIN;
	pthread_mutex_unlock(&c->turn);
	if (r == -EAGAIN)
		return;
	if (r == -EPROTO) {
		atomic_fetch_add(&s->protocol_errors, 1);
		log_limited(&s->lines, LOG_LEVEL_WARN,
			    "VM %.64s (pid %u) broke the protocol: its connection is ended",
			    store_serve_name(c->serve), store_serve_pid(c->serve));
	}
	connection_free(c);
}

static void *worker_main(void *arg)
{
	struct server *s = arg;
	struct epoll_event ev;

	for (;;) {
		int n = epoll_wait(s->epoll, &ev, 1, -1);

		if (n < 0 && errno != EINTR)
			return NULL;
		if (n <= 0)
			continue;
		if (!ev.data.ptr) /* the end */
			return NULL;
		serve(ev.data.ptr);
	}
}

/* Of two daemons that start at once, one finds the other's socket. */
static int listen_alone(struct server *s, const char *path, struct errmsg *err)
{
	const char *slash = strrchr(path, '/');
	auto_free char *folder = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
	auto_fd fd = folder ? open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
	const int one = 1;
	int r;

	if (fd < 0 || flock(fd, LOCK_EX) < 0)
		return errmsg_set(err, -errno, "%s: %s", path, strerror(errno));
	r = unix_listen_type(path, SOCK_SEQPACKET, path, err, &s->listener);
	if (r < 0)
		return r;
	/* Accepted sockets inherit it. */
	if (setsockopt(s->listener.fd, SOL_SOCKET, SO_PASSCRED, &one, sizeof(one)) < 0)
		return errmsg_set(err, -errno, "%s: %s", path, strerror(errno));
	return 0;
}

static int start_workers(struct server *s, unsigned threads)
{
	struct epoll_event ev = {.events = EPOLLIN, .data.ptr = NULL};

	s->epoll = epoll_create1(EPOLL_CLOEXEC);
	s->stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (s->epoll < 0 || s->stop < 0 || epoll_ctl(s->epoll, EPOLL_CTL_ADD, s->stop, &ev) < 0)
		return -errno;
	for (; s->thread_count < threads; s->thread_count++) {
		int r = signals_thread_create(&s->threads[s->thread_count], worker_main, s);

		if (r < 0)
			return r;
	}
	return 0;
}

int server_new(struct io_loop *loop, const char *path, unsigned threads, struct errmsg *err,
	       struct server **ret)
{
	cleanup(server_free_p) struct server *s = calloc(1, sizeof(*s));
	struct rlimit fds;
	int r;

	if (!s)
		return -ENOMEM;
	s->loop = loop;
	s->listener = UNIX_LISTENER_NONE;
	s->epoll = s->stop = -1;
	s->started_ns = clock_now_ns();
	s->lines = (struct log_limit)LOG_LIMIT_INIT;
	pthread_mutex_init(&s->mutex, NULL);
	if (getrlimit(RLIMIT_NOFILE, &fds) == 0 && fds.rlim_cur > DESCRIPTORS_OURS)
		s->segment_limit = (fds.rlim_cur - DESCRIPTORS_OURS) / DESCRIPTORS_PART;
	r = listen_alone(s, path, err);
	if (r == 0)
		r = start_workers(s, threads);
	if (r == 0)
		r = io_timer_new(loop, on_tick, s, &s->tick);
	if (r == 0)
		r = io_timer_new(loop, accept_again, s, &s->pause);
	if (r == 0)
		r = io_source_new(loop, s->listener.fd, EPOLLIN, on_accept, s, &s->source);
	if (r < 0)
		return errmsg_set(err, r, "%s: %s", path, strerror(-r));
	*ret = TAKE_PTR(s);
	return 0;
}

void server_free(struct server *s)
{
	uint64_t one = 1;

	if (!s)
		return;
	io_source_free(s->source);
	io_source_free(s->pause);
	unix_listener_close(&s->listener);
	if (s->stop >= 0)
		(void)!write(s->stop, &one, sizeof(one));
	for (unsigned i = 0; i < s->thread_count; i++)
		pthread_join(s->threads[i], NULL);
	while (s->connections)
		connection_free(s->connections);
	io_source_free(s->tick);
	close_fd_p(&s->stop);
	close_fd_p(&s->epoll);
	pthread_mutex_destroy(&s->mutex);
	free(s);
}
