/* SPDX-License-Identifier: Apache-2.0 */
/* Hands sockets to VMs that run already. */
#include "tools/sardined-attach.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "base/log.h"
#include "base/signals.h"
#include "tools/client.h"

#define ROUNDS 3u
static const int round_wait_ms[ROUNDS] = {0, 1000, 4000};

struct attacher {
	pthread_mutex_t mutex;
	struct server *server; /* guarded by mutex; NULL: the end */
	bool done;	       /* guarded by mutex: one of thread and owner has let go */
	int stop;	       /* eventfd */
};

/* The second of the two frees it. */
static void let_go(struct attacher *a, bool owner)
{
	bool last;

	pthread_mutex_lock(&a->mutex);
	if (owner)
		a->server = NULL;
	last = a->done;
	a->done = true;
	pthread_mutex_unlock(&a->mutex);
	if (!last)
		return;
	close(a->stop);
	pthread_mutex_destroy(&a->mutex);
	free(a);
}

static int hand_in(struct attacher *a, int fd)
{
	int r = 0;

	pthread_mutex_lock(&a->mutex);
	if (a->server)
		r = server_add(a->server, fd);
	else
		close(fd);
	pthread_mutex_unlock(&a->mutex);
	return r;
}

/* One VM. Return: 0 also when it cannot use a socket; another attempt is worth it after an error. */
static int attach(struct attacher *a, const char *name)
{
	struct client client = CLIENT_NONE;
	struct errmsg err = {0};
	auto_fd ours = -1, theirs = -1;
	const int one = 1;
	int fds[2];
	int r;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) < 0)
		return -errno;
	ours = fds[0];
	theirs = fds[1];
	if (setsockopt(ours, SOL_SOCKET, SO_PASSCRED, &one, sizeof(one)) < 0)
		return -errno;
	r = client_open(name, &err, &client);
	if (r < 0)
		return r;
	r = client_call(&client, json_pack("{s:s}", "cmd", "attach-store"), theirs, CLIENT_ANSWER_S, &err,
			NULL);
	client_close(&client);
	if (r == 0) {
		log_debug("VM %s has a socket", name);
		return hand_in(a, TAKE_FD(ours));
	}
	if (r != -EREMOTEIO)
		return r;
	log_debug("VM %s wants no socket: %s", name, errmsg_text(&err, r));
	return 0;
}

/* All that is left in the list. Return: how many there still are. */
static size_t attach_all(struct attacher *a, struct rundir_entry *entries, size_t count)
{
	struct pollfd p = {.fd = a->stop, .events = POLLIN};
	size_t left = 0;

	for (size_t i = 0; i < count && poll(&p, 1, 0) == 0; i++)
		if (attach(a, entries[i].name) < 0)
			entries[left++] = entries[i];
	return left;
}

static void *attacher_main(void *arg)
{
	struct attacher *a = arg;
	struct rundir_entry *entries = NULL;
	struct rundir dir = RUNDIR_NONE;
	struct errmsg err = {0};
	size_t count = 0;
	int r = rundir_open(false, &err, &dir);

	if (r == 0)
		r = rundir_list(&dir, &entries, &count);
	rundir_close(&dir);
	if (r < 0 && r != -ENOENT)
		log_warn("VMs that run already are not looked for: %s", errmsg_text(&err, r));
	for (unsigned i = 0; i < ROUNDS && count; i++) {
		struct pollfd p = {.fd = a->stop, .events = POLLIN};

		if (poll(&p, 1, round_wait_ms[i]) != 0)
			break;
		count = attach_all(a, entries, count);
	}
	free(entries);
	let_go(a, false);
	return NULL;
}

int attacher_new(struct server *server, struct attacher **ret)
{
	struct attacher *a = calloc(1, sizeof(*a));
	pthread_t thread;
	int r;

	if (!a)
		return -ENOMEM;
	pthread_mutex_init(&a->mutex, NULL);
	a->server = server;
	a->stop = eventfd(0, EFD_CLOEXEC);
	r = a->stop < 0 ? -errno : signals_thread_create(&thread, attacher_main, a);
	if (r < 0) {
		close_fd_p(&a->stop);
		pthread_mutex_destroy(&a->mutex);
		free(a);
		return r;
	}
	pthread_detach(thread);
	*ret = a;
	return 0;
}

void attacher_free(struct attacher *a)
{
	uint64_t one = 1;

	if (!a)
		return;
	(void)!write(a->stop, &one, sizeof(one));
	let_go(a, true);
}
