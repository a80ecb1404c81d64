/* SPDX-License-Identifier: Apache-2.0 */
/* A listening Unix socket on the I/O loop. */
#include "vmm/unix-server.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>

/* Connections taken per wakeup, so that a flood of them does not starve the devices on the same loop. */
#define ACCEPT_BATCH 8
/* Without descriptors or memory the socket stays readable: look away this long instead of spinning. */
#define ACCEPT_PAUSE_NS 200000000ull

struct unix_server {
	struct unix_listener listener;
	struct io_source *source;
	struct io_source *pause;
	unix_server_fn fn;
	void *arg;
};

static void server_resume(void *arg, uint32_t events)
{
	struct unix_server *server = arg;

	(void)events;
	if (io_source_set_events(server->source, EPOLLIN) < 0)
		(void)!io_timer_set(server->pause, ACCEPT_PAUSE_NS);
}

static void server_look_away(struct unix_server *server)
{
	if (io_source_set_events(server->source, 0) == 0)
		(void)!io_timer_set(server->pause, ACCEPT_PAUSE_NS);
}

static void server_accept(void *arg, uint32_t events)
{
	struct unix_server *server = arg;

	(void)events;
	for (unsigned i = 0; i < ACCEPT_BATCH; i++) {
		auto_fd fd = accept4(server->listener.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		uid_t uid;

		if (fd < 0) {
			if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
				server_look_away(server);
			return;
		}
		/* The file's mode keeps others out already; this holds when somebody widened it. */
		if (unix_peer_uid(fd, &uid) < 0 || (uid != geteuid() && uid != 0))
			continue;
		server->fn(server->arg, TAKE_FD(fd));
	}
}

int unix_server_new(struct io_loop *loop, const char *path, const char *what, unix_server_fn fn, void *arg,
		    struct errmsg *err, struct unix_server **ret)
{
	struct unix_server *server = calloc(1, sizeof(*server));
	int r;

	if (!server)
		return -ENOMEM;
	*server = (struct unix_server){.listener = UNIX_LISTENER_NONE, .fn = fn, .arg = arg};
	r = unix_listen(path, what, err, &server->listener);
	if (r == 0)
		r = io_timer_new(loop, server_resume, server, &server->pause);
	if (r == 0)
		r = io_source_new(loop, server->listener.fd, EPOLLIN, server_accept, server, &server->source);
	if (r < 0) {
		unix_server_free(server);
		return r;
	}
	*ret = server;
	return 0;
}

void unix_server_leave(struct unix_server *server)
{
	if (server)
		unix_listener_leave(&server->listener);
}

void unix_server_free(struct unix_server *server)
{
	if (!server)
		return;
	io_source_free(server->source);
	io_source_free(server->pause);
	unix_listener_close(&server->listener);
	free(server);
}

DEFINE_SYSCALLS(unix_server_syscalls, SYSCALL(accept4), SYSCALL(geteuid),
		SYSCALL_IF(getsockopt, 2, SO_PEERCRED));
