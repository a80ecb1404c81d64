/* SPDX-License-Identifier: Apache-2.0 */
/* The VM's side of its connection to the daemon. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/clock.h"
#include "ksm/store-backend.h"

#define EVENTS 64u /* read from the ring at once */

/*
 * Whatever goes wrong with the connection (a deadline, a message or an index that cannot be) makes the daemon gone: there is nothing to
 * be repaired, and another one takes over from what the VM holds. An old daemon that wakes up late has the old memory file and
 * cannot disturb the new connection, which has one of its own.
 */
struct daemon {
	struct store_backend backend;
	int fd;
	int epoll;
	bool lost;
	uint32_t serial;
	uint8_t *rings;
	size_t rings_bytes;
	struct ring records, answers, events;
	uint32_t first, count; /* events taken from the ring */
	struct store_event taken[EVENTS];
};

static struct daemon *daemon_of(struct store_backend *b)
{
	return container_of(b, struct daemon, backend);
}

static int lose(struct daemon *d)
{
	d->lost = true;
	return -ENOTCONN;
}

int store_daemon_connect(const char *path, int *ret_fd)
{
	auto_fd fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct sockaddr_un addr = {.sun_family = AF_UNIX};

	if (fd < 0)
		return -errno;
	if (strlen(path) >= sizeof(addr.sun_path))
		return -ENAMETOOLONG;
	strcpy(addr.sun_path, path);
	while (connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0)
		if (errno != EINTR)
			return -errno;
	*ret_fd = TAKE_FD(fd);
	return 0;
}

/* Wait for @events on the socket. */
static int wait_for(int fd, short events, uint64_t deadline_ns)
{
	for (;;) {
		struct pollfd p = {.fd = fd, .events = events};
		uint64_t now = clock_now_ns();
		int r;

		if (now >= deadline_ns)
			return -ETIMEDOUT;
		r = poll(&p, 1, (int)((deadline_ns - now) / 1000000) + 1);
		if (r > 0)
			return 0;
		if (r < 0 && errno != EINTR)
			return -errno;
	}
}

/* One call and its answer. @ret_fd: NULL when none is wanted. Return: 0 or what is wrong with the connection. */
static int converse(struct daemon *d, const void *call, size_t len, int pass_fd,
		    struct store_wire_answer *ret, int *ret_fd)
{
	uint64_t deadline = clock_now_ns() + STORE_DEADLINE_NS;
	struct store_wire_message m;
	bool wanted;
	int r;

	while ((r = store_wire_send(d->fd, call, len, pass_fd)) == -EAGAIN) {
		r = wait_for(d->fd, POLLOUT, deadline);
		if (r < 0)
			return r;
	}
	if (r < 0)
		return r;
	for (;;) {
		r = store_wire_receive(d->fd, &m);
		if (r == -EAGAIN)
			r = wait_for(d->fd, POLLIN, deadline);
		else if (r == 0 && m.len == sizeof(m.answer) && m.answer.kind == STORE_WIRE_BELL)
			store_wire_message_done(&m);
		else
			break;
		if (r < 0)
			return r;
	}
	if (r < 0)
		return r;
	wanted = ret_fd && m.len == sizeof(m.answer) && m.answer.result == 0;
	if (m.len != sizeof(m.answer) || m.answer.kind != STORE_WIRE_ANSWER || m.answer.serial != d->serial ||
	    m.answer.result > 0 || m.fds_lost || m.fd_count != (wanted ? 1u : 0u)) {
		store_wire_message_done(&m);
		return -EPROTO;
	}
	*ret = m.answer;
	if (wanted)
		*ret_fd = m.fds[0];
	return 0;
}

/* Return: the daemon's result, or -ENOTCONN. */
static int call(struct daemon *d, enum store_wire_kind kind, uint32_t count, int pass_fd, uint32_t *ret_value,
		int *ret_fd)
{
	struct store_wire_call c = {.kind = kind, .serial = ++d->serial, .count = count};
	struct store_wire_answer a;

	if (d->lost || converse(d, &c, sizeof(c), pass_fd, &a, ret_fd) < 0)
		return lose(d);
	if (ret_value)
		*ret_value = a.value;
	return a.result == -ENOTCONN ? -EIO : a.result;
}

static int daemon_submit(struct store_backend *b, const struct store_record *records, uint32_t count,
			 struct store_answer *answers)
{
	struct daemon *d = daemon_of(b);
	int r;

	ring_rewind_writer(&d->records);
	if (ring_put(&d->records, records, count, NULL) < 0)
		return lose(d);
	ring_rewind_reader(&d->answers);
	r = call(d, STORE_WIRE_SUBMIT, count, -1, NULL, NULL);
	if (r == 0 && ring_get(&d->answers, answers, count) != (int)count)
		return lose(d);
	return r;
}

static int daemon_lend(struct store_backend *b, uint32_t pages, uint32_t *ret_loan, int *ret_fd)
{
	return call(daemon_of(b), STORE_WIRE_LEND, pages, -1, ret_loan, ret_fd);
}

static int daemon_offer(struct store_backend *b, uint32_t loan, uint32_t *ret_number)
{
	return call(daemon_of(b), STORE_WIRE_OFFER, loan, -1, ret_number, NULL);
}

static int daemon_adopt(struct store_backend *b, int fd, uint32_t *ret_number)
{
	return call(daemon_of(b), STORE_WIRE_ADOPT, 0, fd, ret_number, NULL);
}

static int daemon_fetch(struct store_backend *b, uint32_t number, int *ret_fd)
{
	return call(daemon_of(b), STORE_WIRE_FETCH, number, -1, NULL, ret_fd);
}

static int daemon_refs(struct store_backend *b, const struct store_wire_ref *refs, uint32_t count,
		       uint64_t *refused)
{
	struct daemon *d = daemon_of(b);

	while (count) {
		uint32_t done = 0;
		int r;

		ring_rewind_writer(&d->records);
		if (ring_put(&d->records, refs, count, NULL) < 0)
			return lose(d);
		r = call(d, STORE_WIRE_REFS, count, -1, &done, NULL);
		if (r == 0)
			return 0;
		if (r == -ENOTCONN || done >= count)
			return lose(d);
		/* One was refused; those behind it were not looked at. */
		++*refused;
		refs += done + 1;
		count -= done + 1;
	}
	return 0;
}

/* Take bells off the socket, so that it is readable again only when there is something new. */
static int hear_bells(struct daemon *d)
{
	struct store_wire_message m;
	int r;

	while ((r = store_wire_receive(d->fd, &m)) == 0) {
		bool bell = m.len == sizeof(m.answer) && m.answer.kind == STORE_WIRE_BELL;

		store_wire_message_done(&m);
		if (!bell)
			return -EPROTO;
	}
	return r == -EAGAIN ? 0 : r;
}

static int daemon_event(struct store_backend *b, struct store_event *ret)
{
	struct daemon *d = daemon_of(b);

	if (d->count == 0) {
		int n = d->lost ? -ENOTCONN : hear_bells(d);

		if (n == 0)
			n = ring_get(&d->events, d->taken, EVENTS);
		if (n < 0)
			return lose(d);
		d->first = 0;
		d->count = (uint32_t)n;
	}
	if (d->count == 0)
		return 0;
	*ret = d->taken[d->first++];
	d->count--;
	return 1;
}

static void daemon_shares(struct store_backend *b, struct store_shares *ret)
{
	const struct store_wire_figures *f = (const void *)daemon_of(b)->rings; /* at the start of the file */

	*ret = (struct store_shares){.known = atomic_load_explicit(&f->known, memory_order_acquire) == 1,
				     .mappings = atomic_load_explicit(&f->mappings, memory_order_relaxed),
				     .saved = atomic_load_explicit(&f->saved, memory_order_relaxed)};
	/* Two figures of one moment, and of an honest daemon. */
	if (ret->saved > ret->mappings)
		ret->saved = ret->mappings;
}

static bool daemon_alive(struct store_backend *b)
{
	const struct daemon *d = daemon_of(b);
	struct pollfd p = {.fd = d->fd, .events = POLLIN};

	return !d->lost && (poll(&p, 1, 0) <= 0 || !(p.revents & (POLLHUP | POLLERR)));
}

static void daemon_tick(struct store_backend *b, uint64_t now_ns)
{
	(void)b;
	(void)now_ns;
}

static void daemon_free(struct store_backend *b)
{
	struct daemon *d = daemon_of(b);
	struct store_wire_call bye = {.kind = STORE_WIRE_BYE};

	if (!d->lost)
		(void)!store_wire_send(d->fd, &bye, sizeof(bye), -1);
	if (d->fd >= 0)
		epoll_ctl(d->epoll, EPOLL_CTL_DEL, d->fd, NULL);
	close_fd_p(&d->fd);
	if (d->rings)
		munmap(d->rings, d->rings_bytes);
	free(d);
}

static const struct store_backend_ops ops = {
	.name = "sardined",
	.free = daemon_free,
	.submit = daemon_submit,
	.lend = daemon_lend,
	.offer = daemon_offer,
	.adopt = daemon_adopt,
	.fetch = daemon_fetch,
	.refs = daemon_refs,
	.event = daemon_event,
	.shares = daemon_shares,
	.alive = daemon_alive,
	.tick = daemon_tick,
};

/* A daemon of somebody else's could neither read nor change guests, but it could waste their memory. */
static int check_peer(int fd)
{
	struct ucred cred;
	socklen_t len = sizeof(cred);
	int domain, type;
	socklen_t domain_len = sizeof(domain), type_len = sizeof(type);

	if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &domain_len) < 0 ||
	    getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &type_len) < 0)
		return -errno;
	if (domain != AF_UNIX || type != SOCK_SEQPACKET)
		return -EPROTOTYPE;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
		return -errno;
	return cred.uid == 0 || cred.uid == geteuid() ? 0 : -EACCES;
}

static int make_rings(struct daemon *d, const struct store_wire_room *room, int fd)
{
	void *at = mmap(NULL, room->bitmap_at, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (at == MAP_FAILED)
		return -errno;
	d->rings = at;
	d->rings_bytes = room->bitmap_at;
	ring_init(&d->records, d->rings + room->records_at, sizeof(struct store_record), STORE_WIRE_BATCH);
	ring_init(&d->answers, d->rings + room->answers_at, sizeof(struct store_answer), STORE_WIRE_BATCH);
	ring_init(&d->events, d->rings + room->events_at, sizeof(struct store_event), STORE_WIRE_EVENTS);
	return 0;
}

/* Words without a bit stay holes of the file. */
static int move_bitmap(_Atomic uint64_t *recorded, const struct store_wire_room *room, int fd)
{
	_Atomic uint64_t *to = mmap(NULL, room->bitmap_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
				    (off_t)room->bitmap_at);

	if (to == MAP_FAILED)
		return -errno;
	for (size_t i = 0; i < room->bitmap_bytes / sizeof(*to); i++) {
		uint64_t bits = atomic_load_explicit(&recorded[i], memory_order_relaxed);

		if (bits)
			atomic_store_explicit(&to[i], bits, memory_order_relaxed);
	}
	if (mremap((void *)(uintptr_t)to, room->bitmap_bytes, room->bitmap_bytes,
		   MREMAP_MAYMOVE | MREMAP_FIXED, (void *)(uintptr_t)recorded) == MAP_FAILED) {
		int r = -errno;

		munmap((void *)(uintptr_t)to, room->bitmap_bytes);
		return r;
	}
	return 0;
}

static int hello(struct daemon *d, const struct store_link_config *config, int room_fd)
{
	struct store_wire_hello h = {
		.kind = STORE_WIRE_HELLO,
		.serial = ++d->serial,
		.version_min = STORE_WIRE_VERSION_MIN,
		.version_max = STORE_WIRE_VERSION_MAX,
		.frames = config->frames,
	};
	struct store_wire_answer a;
	int r;

	snprintf(h.vm_name, sizeof(h.vm_name), "%s", config->vm_name);
	r = converse(d, &h, sizeof(h), room_fd, &a, NULL);
	if (r < 0)
		return r;
	if (a.result < 0)
		return a.result;
	return a.version < STORE_WIRE_VERSION_MIN || a.version > STORE_WIRE_VERSION_MAX ? -EPROTONOSUPPORT
											: 0;
}

int store_daemon_new(const struct store_link_config *config, int fd, _Atomic uint64_t *recorded, int epoll,
		     struct store_backend **ret)
{
	struct store_wire_room room = store_wire_room(config->frames);
	struct epoll_event ev = {.events = EPOLLIN};
	cleanup(store_backend_free_p) struct store_backend *b = NULL;
	struct daemon *d = calloc(1, sizeof(*d));
	auto_fd room_fd = -1;
	int r;

	if (!d) {
		close(fd);
		return -ENOMEM;
	}
	d->backend.ops = &ops;
	d->fd = fd;
	d->epoll = epoll;
	d->lost = true; /* until it answers: no goodbye */
	b = &d->backend;
	r = check_peer(fd);
	if (r == 0)
		r = store_wire_room_new(&room, &room_fd);
	if (r == 0)
		r = make_rings(d, &room, room_fd);
	if (r == 0)
		r = hello(d, config, room_fd);
	if (r == 0 && epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &ev) < 0)
		r = -errno;
	if (r == 0)
		r = move_bitmap(recorded, &room, room_fd);
	if (r < 0)
		return r;
	d->lost = false;
	*ret = TAKE_PTR(b);
	return 0;
}

/* Not what connecting takes: a confined VM does not. */
DEFINE_SYSCALLS(store_daemon_syscalls, SYSCALL(sendmsg),
		SYSCALL(recvmsg), SYSCALL(poll), SYSCALL_IF(getsockopt, 1, SOL_SOCKET), SYSCALL(geteuid),
		SYSCALL(epoll_ctl), SYSCALL(memfd_create), SYSCALL(ftruncate), SYSCALL(fstat),
		SYSCALL(newfstatat), SYSCALL(fstatfs), SYSCALL_IF(fcntl, 1, F_ADD_SEALS),
		SYSCALL_IF(fcntl, 1, F_GET_SEALS), SYSCALL_IF(fcntl, 1, F_DUPFD_CLOEXEC), SYSCALL(read),
		SYSCALL(write), SYSCALL(pwrite64), SYSCALL_IF(madvise, 2, MADV_DONTDUMP));
