/* SPDX-License-Identifier: Apache-2.0 */
/* The control socket of one VM: connections, lines in, lines out. */
#include "vmm/control.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "vmm/control-internal.h"

/*
 * Theory of operation
 *
 * All of it runs on the loop's thread and nothing here waits: a client has one buffer for the line it is
 * sending and one for answers it has not read. A line too long, too many unread answers, or an answer left
 * unread for 10 seconds end the connection; a line that is no request gets an error for an answer. A client
 * that shut down its sending side stays until it has its answers; of one that left, all complete lines are
 * still worked on, without answers.
 *
 * Per wakeup a client is given one read and a few requests, so that one that floods does not keep the loop
 * from the devices; lines left over are taken up in the next round by asking for EPOLLOUT, which an idle
 * socket reports at once and a full one only after it was read from.
 *
 * `console` hands the connection over to the console; `dump`, `stats`, `pause`, `merge` and `check` work on threads of
 * their own (control-dump.c, control-stats.c, control-pause.c, control-work.c), so answers may come in another order than their requests.
 */

/* Requests per wakeup. */
#define REQUEST_BATCH 8
/* Descriptors taken from one message; further ones the kernel closes. */
#define PASSED_FDS_MAX 4
/* How long control_ended() waits for clients that do not read, in all. */
#define ENDED_WAIT_MS 1000
/* How long an answer may stay unread. */
#define SLOW_NS 10000000000ull

static void client_free(struct control_client *client)
{
	struct control_client **p = &client->control->clients;

	while (*p != client)
		p = &(*p)->next;
	*p = client->next;
	client->control->client_count--;
	if (client->control->dump && client->control->dump->client == client->serial)
		atomic_store(&client->control->dump->cancel, true);
	io_source_free(client->source);
	if (client->fd >= 0)
		close(client->fd);
	if (client->passed_fd >= 0)
		close(client->passed_fd);
	for (unsigned i = 0; i < client->wait_count; i++)
		json_decref(client->waits[i]);
	free(client->in);
	free(client->out);
	free(client);
}

/* Write what the socket takes. Of a client that is gone the answers are dropped: what it asked still counts. */
static void client_flush(struct control_client *client)
{
	size_t done = 0;

	while (done < client->out_len) {
		ssize_t n = send(client->fd, client->out + done, client->out_len - done,
				 MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			break;
		if (n < 0) {
			client->deaf = true;
			done = client->out_len;
			break;
		}
		done += (size_t)n;
	}
	if (done || !client->out_len)
		client->stuck_since_ns = 0;
	if (done) /* an empty buffer is NULL, which memmove must not see */
		memmove(client->out, client->out + done, client->out_len - done);
	client->out_len -= done;
	if (client->out_len == 0) {
		free(TAKE_PTR(client->out));
		client->out_size = 0;
	}
}

static void client_queue(struct control_client *client, const char *line)
{
	size_t len = strlen(line);

	if (client->closing || client->deaf)
		return;
	if (len > CONTROL_OUTPUT_MAX - client->out_len) {
		client->closing = true; /* it does not read: not even this */
		client->out_len = 0;
		return;
	}
	if (client->out_size - client->out_len < len) {
		char *more = realloc(client->out, client->out_len + len);

		if (!more) {
			client->closing = true;
			return;
		}
		client->out = more;
		client->out_size = client->out_len + len;
	}
	memcpy(client->out + client->out_len, line, len);
	client->out_len += len;
}

char *control_answer_line(const json_t *id, json_t *result)
{
	json_t *answer =
		json_pack("{s:O?, s:b, s:o}", "id", id, "ok", 1, "result", result ? result : json_object());
	char *text = answer ? json_dumps(answer, JSON_COMPACT) : NULL;
	char *line = NULL;

	if (text && asprintf(&line, "%s\n", text) < 0)
		line = NULL;
	free(text);
	json_decref(answer);
	return line;
}

void control_answer(struct control_client *client, const json_t *id, json_t *result)
{
	auto_free char *line = control_answer_line(id, result);

	if (line)
		client_queue(client, line);
	else
		client->closing = true;
}

void control_answer_error(struct control_client *client, const json_t *id, const char *fmt, ...)
{
	struct errmsg err = {0};
	char text[ERRMSG_MAX];
	auto_free char *line = NULL;
	char *json;
	json_t *answer;
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	/* One line of ASCII, whatever a client put in it. */
	errmsg_set(&err, 0, "%s", text);
	for (char *p = err.text; *p; p++)
		if (!isascii((unsigned char)*p))
			*p = '?';
	answer = json_pack("{s:O?, s:b, s:o}", "id", id, "ok", 0, "error", json_string_nocheck(err.text));
	json = answer ? json_dumps(answer, JSON_COMPACT | JSON_ENSURE_ASCII) : NULL;
	if (json && asprintf(&line, "%s\n", json) < 0)
		line = NULL;
	free(json);
	json_decref(answer);
	if (line)
		client_queue(client, line);
	else
		client->closing = true;
}

/* Keep the first descriptor of the client's, close others. */
static void take_descriptors(struct control_client *client, struct msghdr *msg)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		size_t count;

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < count; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
			if (client->passed_fd < 0)
				client->passed_fd = fd;
			else
				close(fd);
		}
	}
}

/* One read. Return: false when the client is gone. */
static bool client_read(struct control_client *client)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(PASSED_FDS_MAX * sizeof(int))];
	} ancillary;
	size_t room = CONTROL_LINE_MAX - client->in_len;
	struct iovec iov = {.iov_len = room < CONTROL_READ_BYTES ? room : CONTROL_READ_BYTES};
	struct msghdr msg = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = ancillary.bytes,
			     .msg_controllen = sizeof(ancillary.bytes)};
	ssize_t n;

	if (client->in_size < client->in_len + iov.iov_len) {
		char *more = realloc(client->in, client->in_len + iov.iov_len);

		if (!more)
			return false;
		client->in = more;
		client->in_size = client->in_len + iov.iov_len;
	}
	iov.iov_base = client->in + client->in_len;
	n = recvmsg(client->fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR;
	take_descriptors(client, &msg);
	if (n == 0)
		client->input_ended = true;
	client->in_len += (size_t)n;
	return true;
}

static bool has_line(const struct control_client *client)
{
	return client->in_len && memchr(client->in, '\n', client->in_len) != NULL;
}

/* Work on the lines that are there. Return: false when the connection is no longer ours. */
static bool client_requests(struct control_client *client)
{
	for (unsigned i = 0; i < REQUEST_BATCH && !client->closing; i++) {
		char *end = client->in_len ? memchr(client->in, '\n', client->in_len) : NULL;
		size_t len, taken;

		if (!end)
			break;
		len = (size_t)(end - client->in);
		taken = len + 1;
		if (control_request(client, client->in, len, end + 1, client->in_len - taken) ==
		    CONTROL_STREAM)
			return false;
		client->in_len -= taken;
		memmove(client->in, client->in + taken, client->in_len);
	}
	if (!client->closing && client->in_len == CONTROL_LINE_MAX && !has_line(client)) {
		control_answer_error(client, NULL, "the line is longer than %u bytes", CONTROL_LINE_MAX);
		client->closing = true;
	}
	return true;
}

/* Look after a client whose socket is full. The timer is armed only while there is one. */
static void client_stuck(struct control_client *client)
{
	struct control *control = client->control;

	if (!client->stuck_since_ns)
		client->stuck_since_ns = clock_now_ns();
	if (control->slow_armed)
		return;
	control->slow_armed = io_timer_set(control->slow_timer, control->slow_ns) == 0;
}

static void drop_slow(void *arg, uint32_t events)
{
	struct control *control = arg;
	struct control_client *next;
	uint64_t now = clock_now_ns();

	(void)events;
	control->slow_armed = false;
	for (struct control_client *client = control->clients; client; client = next) {
		next = client->next;
		if (!client->stuck_since_ns || (!client->out_len && !has_line(client)))
			continue;
		if (now - client->stuck_since_ns >= control->slow_ns)
			client_free(client);
		else
			client_stuck(client);
	}
}

void control_client_settle(struct control_client *client)
{
	bool more = has_line(client) && !client->closing;
	bool waits = client->wait_count > 0 || client->working > 0;
	uint32_t events = 0;

	client_flush(client);
	/* Nobody is there to wait for what takes time. */
	if (client->deaf)
		waits = false;
	if (client->out_len == 0 && (client->closing || (client->input_ended && !more && !waits))) {
		client_free(client);
		return;
	}
	if (!client->input_ended && !client->closing && !more)
		events |= EPOLLIN;
	if (client->out_len || more)
		events |= EPOLLOUT;
	/* A full socket is not writable long before it refuses bytes: then only `more` is left of it. */
	if (events & EPOLLOUT)
		client_stuck(client);
	if (io_source_set_events(client->source, events) < 0)
		client_free(client);
}

static void client_event(void *arg, uint32_t events)
{
	struct control_client *client = arg;

	/* Both directions are closed: nobody is there to read an answer. What it sent still counts: while a
	 * line is left EPOLLIN is not asked for, so there may be more to read than the lines. */
	bool gone = (events & (EPOLLHUP | EPOLLERR)) && !(events & EPOLLIN) &&
		    (client->closing || !has_line(client));

	if (gone || ((events & EPOLLIN) && !client_read(client))) {
		client_free(client);
		return;
	}
	if (!client_requests(client)) {
		client_free(client);
		return;
	}
	control_client_settle(client);
}

struct control_client *control_client_find(struct control *control, uint64_t serial)
{
	for (struct control_client *c = control->clients; c; c = c->next)
		if (c->serial == serial)
			return c;
	return NULL;
}

static void control_accept(void *arg, int fd_in)
{
	static const char full[] = "{\"id\":null,\"ok\":false,\"error\":\"too many clients\"}\n";
	struct control *control = arg;
	auto_fd fd = fd_in;
	struct control_client *client;

	if (control->client_count >= CONTROL_CLIENTS_MAX) {
		(void)!send(fd, full, sizeof(full) - 1, MSG_DONTWAIT | MSG_NOSIGNAL);
		return;
	}
	client = calloc(1, sizeof(*client));
	if (!client)
		return;
	client->control = control;
	client->serial = control->next_serial++;
	client->passed_fd = -1;
	if (io_source_new(control->loop, fd, EPOLLIN, client_event, client, &client->source) < 0) {
		free(client);
		return;
	}
	client->fd = TAKE_FD(fd);
	client->next = control->clients;
	control->clients = client;
	control->client_count++;
	client_queue(client, control->greeting);
	control_client_settle(client);
}

static void stop_expired(void *arg, uint32_t events)
{
	struct control *control = arg;

	(void)events;
	control->ops->kill(control->arg);
}

void control_stop(struct control *control, uint64_t timeout_ns)
{
	uint64_t now = clock_now_ns(), at = now + timeout_ns;

	control->ops->power_button(control->arg);
	control_pause_end(control);
	if (control->stop_at_ns && control->stop_at_ns <= at)
		return;
	control->stop_at_ns = at;
	if (timeout_ns == 0 || io_timer_set(control->stop_timer, timeout_ns) < 0)
		control->ops->kill(control->arg);
}

void control_rebooted(struct control *control)
{
	if (control->stop_at_ns)
		control->ops->power_button(control->arg);
}

static char *greeting_make(const char *name)
{
	json_t *json = json_pack("{s:s, s:{s:i, s:i}, s:s, s:i}", "sardine", SARDINE_VERSION, "protocol",
				 "min", CONTROL_PROTOCOL_MIN, "max", CONTROL_PROTOCOL_MAX, "name", name,
				 "pid", (int)getpid());
	char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;
	char *line = NULL;

	if (text && asprintf(&line, "%s\n", text) < 0)
		line = NULL;
	free(text);
	json_decref(json);
	return line;
}

int control_new(struct io_loop *loop, const char *path, const char *name, const struct control_ops *ops,
		void *arg, struct errmsg *err, struct control **ret)
{
	cleanup(control_free_p) struct control *control = calloc(1, sizeof(*control));
	char what[ERRMSG_MAX];
	int r;

	if (!control)
		return -ENOMEM;
	*control =
		(struct control){.loop = loop, .ops = ops, .arg = arg, .next_serial = 1, .slow_ns = SLOW_NS};
	control->dump_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	control->stats_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	control->pause_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	control->work_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (control->dump_fd < 0 || control->stats_fd < 0 || control->pause_fd < 0 || control->work_fd < 0)
		return errmsg_set(err, -errno, "control socket: %s", strerror(errno));
	control->name = strdup(name);
	control->greeting = greeting_make(name);
	if (!control->name || !control->greeting)
		return -ENOMEM;
	r = io_source_new(loop, control->dump_fd, EPOLLIN, control_dump_done, control, &control->dump_source);
	if (r == 0)
		r = io_source_new(loop, control->stats_fd, EPOLLIN, control_stats_done, control,
				  &control->stats_source);
	if (r == 0)
		r = io_source_new(loop, control->pause_fd, EPOLLIN, control_pause_done, control,
				  &control->pause_source);
	if (r == 0)
		r = io_source_new(loop, control->work_fd, EPOLLIN, control_work_done, control,
				  &control->work_source);
	if (r == 0)
		r = io_timer_new(loop, stop_expired, control, &control->stop_timer);
	if (r == 0)
		r = io_timer_new(loop, drop_slow, control, &control->slow_timer);
	if (r < 0)
		return errmsg_set(err, r, "control socket: %s", strerror(-r));
	snprintf(what, sizeof(what), "control socket %s", path);
	r = unix_server_new(loop, path, what, control_accept, control, err, &control->server);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(control);
	return 0;
}

void control_leave_file(struct control *control)
{
	unix_server_leave(control->server);
}

void control_free(struct control *control)
{
	if (!control)
		return;
	unix_server_free(control->server);
	control_dump_cancel(control);
	control_stats_cancel(control);
	control_pause_cancel(control);
	control_work_cancel(control);
	while (control->clients)
		client_free(control->clients);
	io_source_free(control->dump_source);
	io_source_free(control->stats_source);
	io_source_free(control->pause_source);
	io_source_free(control->work_source);
	io_source_free(control->stop_timer);
	io_source_free(control->slow_timer);
	if (control->dump_fd >= 0)
		close(control->dump_fd);
	if (control->stats_fd >= 0)
		close(control->stats_fd);
	if (control->pause_fd >= 0)
		close(control->pause_fd);
	if (control->work_fd >= 0)
		close(control->work_fd);
	free(control->name);
	free(control->greeting);
	free(control);
}

void control_ended(struct control *control, const char *end, const char *detail)
{
	uint64_t deadline = clock_now_ns() + (uint64_t)ENDED_WAIT_MS * 1000000;
	struct control_client *next;

	for (struct control_client *client = control->clients; client; client = next) {
		next = client->next;
		for (unsigned i = 0; i < client->wait_count; i++) {
			control_answer(client, client->waits[i],
				       json_pack("{s:s, s:s}", "end", end, "detail", detail));
			json_decref(client->waits[i]);
		}
		client->wait_count = 0;
		for (client_flush(client); client->out_len; client_flush(client)) {
			struct pollfd p = {.fd = client->fd, .events = POLLOUT};
			uint64_t now = clock_now_ns();

			if (now >= deadline || poll(&p, 1, (int)((deadline - now) / 1000000) + 1) <= 0)
				break;
		}
	}
}

DEFINE_SYSCALLS(control_syscalls, SYSCALL(recvmsg), SYSCALL(recvfrom), SYSCALL(sendto), SYSCALL(poll),
		SYSCALL(read), SYSCALL(write), SYSCALL_IF(fcntl, 1, F_DUPFD_CLOEXEC));
