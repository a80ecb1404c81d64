/* SPDX-License-Identifier: Apache-2.0 */
/* The client's side of the control socket. */
#include "tools/client.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "base/clock.h"
#include "tools/cli.h"
#include "vmm/control.h"

#define GONE_POLL_NS 2000000

static int64_t now_ms(void)
{
	return (int64_t)(clock_now_ns() / 1000000);
}

/* One line, as JSON. @deadline_ms 0: none. */
static int read_line(struct client *c, int64_t deadline_ms, json_t **ret)
{
	for (;;) {
		char *end = c->len ? memchr(c->buf, '\n', c->len) : NULL;
		struct pollfd p = {.fd = c->fd, .events = POLLIN};
		int64_t left = deadline_ms - now_ms();
		ssize_t n;
		int r;

		if (end) {
			size_t taken = (size_t)(end - c->buf) + 1;
			json_t *json = json_loadb(c->buf, taken - 1, 0, NULL);

			c->len -= taken;
			memmove(c->buf, c->buf + taken, c->len);
			if (!json_is_object(json)) {
				json_decref(json);
				return -EPROTO;
			}
			*ret = json;
			return 0;
		}
		if (c->len == CONTROL_OUTPUT_MAX)
			return -EPROTO;
		if (deadline_ms && left <= 0)
			return -ETIMEDOUT;
		r = poll(&p, 1, deadline_ms ? (int)left : -1);
		if (r <= 0) {
			if (r < 0 && errno != EINTR)
				return -errno;
			continue;
		}
		n = read(c->fd, c->buf + c->len, CONTROL_OUTPUT_MAX - c->len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -ECONNRESET;
		c->len += (size_t)n;
	}
}

static int64_t deadline(unsigned timeout_s)
{
	return timeout_s ? now_ms() + (int64_t)timeout_s * 1000 : 0;
}

static int say(struct client *c, int r, struct errmsg *err)
{
	if (r == -ECONNRESET || r == -EPIPE)
		return errmsg_set(err, -ECONNRESET, "%s: the VM's process ended before it answered", c->name);
	if (r == -ETIMEDOUT)
		return errmsg_set(err, r, "%s: the VM does not answer", c->name);
	if (r == -EPROTO)
		return errmsg_set(err, r, "%s: the VM answers what this sardine does not understand",
				  c->name);
	return errmsg_set(err, r, "%s: %s", c->name, strerror(-r));
}

static int check_greeting(struct client *c, struct errmsg *err)
{
	int min, max;

	if (json_unpack(c->greeting, "{s:{s:i, s:i}}", "protocol", "min", &min, "max", &max) < 0)
		return say(c, -EPROTO, err);
	if (min > CONTROL_PROTOCOL_MAX || max < CONTROL_PROTOCOL_MIN)
		return errmsg_set(
			err, -EPROTO,
			"%s: the VM speaks control protocol %d to %d, this sardine %d to %d; use the "
			"sardine that started it",
			c->name, min, max, CONTROL_PROTOCOL_MIN, CONTROL_PROTOCOL_MAX);
	return 0;
}

int client_open(const char *name, struct errmsg *err, struct client *ret)
{
	struct client c = CLIENT_NONE;
	struct errmsg ignored = {0};
	int r;

	r = rundir_open(false, &ignored, &c.dir);
	if (r == -ENOENT) /* nobody ever ran a VM */
		return errmsg_set(err, r, "%.80s: no VM of this name runs here; see: sardine ps", name);
	if (r < 0)
		return errmsg_set(err, r, "%s", ignored.text);
	r = rundir_connect(&c.dir, name, err, &c.fd);
	if (r == 0) {
		strcpy(c.name, name); /* valid, or nothing would have been found */
		c.buf = malloc(CONTROL_OUTPUT_MAX);
		r = c.buf ? read_line(&c, deadline(CLIENT_ANSWER_S), &c.greeting) : -ENOMEM;
		r = r < 0 ? say(&c, r, err) : check_greeting(&c, err);
	}
	if (r < 0) {
		client_close(&c);
		return r;
	}
	*ret = c;
	return 0;
}

void client_close(struct client *c)
{
	/* A VM that has ended cannot remove its own files when it was confined. */
	(void)rundir_clean(&c->dir);
	rundir_close(&c->dir);
	close_fd_p(&c->fd);
	free(c->buf);
	json_decref(c->greeting);
	*c = CLIENT_NONE;
}

static int send_line(struct client *c, const char *line, int pass_fd)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} ancillary = {0};
	size_t len = strlen(line);
	size_t done = 0;

	while (done < len) {
		struct iovec iov = {.iov_base = (char *)(uintptr_t)line + done, .iov_len = len - done};
		struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
		ssize_t n;

		if (pass_fd >= 0 && done == 0) {
			struct cmsghdr *header;

			msg.msg_control = ancillary.bytes;
			msg.msg_controllen = sizeof(ancillary.bytes);
			header = CMSG_FIRSTHDR(&msg);
			header->cmsg_level = SOL_SOCKET;
			header->cmsg_type = SCM_RIGHTS;
			header->cmsg_len = CMSG_LEN(sizeof(int));
			memcpy(CMSG_DATA(header), &pass_fd, sizeof(int));
		}
		n = sendmsg(c->fd, &msg, MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		done += (size_t)n;
	}
	return 0;
}

static int send_request(struct client *c, json_t *request, int pass_fd)
{
	auto_free char *text = NULL;
	auto_free char *line = NULL;

	if (!request || json_object_set_new(request, "id", json_integer(1)) < 0)
		return -ENOMEM;
	text = json_dumps(request, JSON_COMPACT);
	if (!text || asprintf(&line, "%s\n", text) < 0)
		return -ENOMEM;
	return send_line(c, line, pass_fd);
}

int client_call(struct client *c, json_t *request, int pass_fd, unsigned timeout_s, struct errmsg *err,
		json_t **ret)
{
	json_t *answer, *result;
	const char *text;
	int r = send_request(c, request, pass_fd);

	json_decref(request);
	if (r == 0)
		r = read_line(c, deadline(timeout_s), &answer);
	if (r < 0)
		return say(c, r, err);
	result = json_object_get(answer, "result");
	if (json_is_true(json_object_get(answer, "ok")) && json_is_object(result)) {
		if (ret)
			*ret = json_incref(result);
	} else if (json_unpack(answer, "{s:s}", "error", &text) == 0) {
		r = errmsg_set(err, -EREMOTEIO, "%s: %s", c->name, text);
	} else {
		r = say(c, -EPROTO, err);
	}
	json_decref(answer);
	return r;
}

int client_wait_gone(struct client *c, struct errmsg *err)
{
	int64_t end = now_ms() + CLIENT_GONE_S * 1000;
	json_int_t pid = json_integer_value(json_object_get(c->greeting, "pid"));
	struct rundir_entry entry;

	/* Another pid: somebody has taken the name already. */
	while (rundir_find(&c->dir, c->name, &entry) == 0 && entry.pid == pid) {
		if (now_ms() > end)
			return errmsg_set(err, -ETIMEDOUT, "%s: the VM ended, but its process %d does not",
					  c->name, entry.pid);
		nanosleep(&(struct timespec){.tv_nsec = GONE_POLL_NS}, NULL);
	}
	return 0;
}

error_t client_parse(struct client_args *args, unsigned wanted, bool optional, int key, char *arg,
		     struct argp_state *state)
{
	switch (key) {
	case 'j':
		args->json = true;
		return 0;
	case ARGP_KEY_ARG:
		if (state->arg_num >= wanted)
			argp_error(state, "%s: one argument too many", arg);
		else if (state->arg_num == 0)
			args->name = arg;
		else
			args->file = arg;
		return 0;
	case ARGP_KEY_END:
		if (!optional && state->arg_num < wanted)
			argp_error(state, "%s is missing",
				   state->arg_num == 0 && wanted > 0 ? "NAME" : "FILE");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

int client_print_json(const char *verb, json_t *json, bool one_line)
{
	size_t flags = one_line ? JSON_COMPACT : JSON_INDENT(2);
	int r = json ? json_dumpf(json, stdout, flags | JSON_REAL_PRECISION(6)) : -1;

	json_decref(json);
	if (r < 0)
		return cli_error(verb, CLI_FAILED, "cannot write JSON");
	putchar('\n');
	return CLI_OK;
}
