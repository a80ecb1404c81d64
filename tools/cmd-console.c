/* SPDX-License-Identifier: Apache-2.0 */
/* `sardine console`: a terminal on the serial port of a running VM. */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "base/fs.h"
#include "tools/cli.h"
#include "tools/client.h"
#include "vmm/terminal.h"

#define CHUNK_BYTES 4096

struct relay {
	int fd;
	bool terminal;
	bool input_ended;
	bool leaving; /* Ctrl-A x */
	struct terminal_escape escape;
	size_t typed; /* not yet taken by the VM */
	uint8_t buf[CHUNK_BYTES];
};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	return client_parse(state->input, 1, false, key, arg, state);
}

/* From the keyboard. What does not fit is dropped at a terminal, where the escape key must be seen; a file or
 * pipe is not read until there is room. */
static int take_input(struct relay *r)
{
	uint8_t buf[CHUNK_BYTES];
	size_t len, room = sizeof(r->buf) - r->typed;
	ssize_t n = read(STDIN_FILENO, buf, r->terminal ? sizeof(buf) : room);

	if (n < 0)
		return errno == EINTR || errno == EAGAIN ? 0 : -errno;
	if (n == 0) {
		r->input_ended = true;
		return 0;
	}
	len = (size_t)n;
	if (r->terminal && terminal_escape_filter(&r->escape, buf, &len))
		r->leaving = true;
	if (len > room)
		len = room;
	memcpy(r->buf + r->typed, buf, len);
	r->typed += len;
	return 0;
}

static int give_input(struct relay *r)
{
	ssize_t n = send(r->fd, r->buf, r->typed, MSG_DONTWAIT | MSG_NOSIGNAL);

	if (n < 0)
		return errno == EINTR || errno == EAGAIN ? 0 : -errno;
	r->typed -= (size_t)n;
	memmove(r->buf, r->buf + n, r->typed);
	return 0;
}

/* 1 at the end of the stream. */
static int take_output(const struct relay *r)
{
	uint8_t buf[CHUNK_BYTES];
	ssize_t n = recv(r->fd, buf, sizeof(buf), MSG_DONTWAIT);

	if (n < 0)
		return errno == EINTR || errno == EAGAIN ? 0 : -errno;
	return n == 0 ? 1 : write_full(STDOUT_FILENO, buf, (size_t)n);
}

/* Until the VM or the user leaves. Return: 0 or an errno. */
static int relay_run(struct relay *r)
{
	for (;;) {
		bool want_input = !r->input_ended && (r->terminal || r->typed < sizeof(r->buf));
		struct pollfd p[2] = {
			{.fd = r->fd, .events = (short)(POLLIN | (r->typed ? POLLOUT : 0))},
			{.fd = want_input ? STDIN_FILENO : -1, .events = POLLIN},
		};
		int e = 0;

		if (poll(p, 2, -1) < 0) {
			if (errno == EINTR)
				continue;
			return -errno;
		}
		if (p[1].revents)
			e = take_input(r);
		if (e == 0 && r->leaving)
			return 0;
		if (e == 0 && (p[0].revents & (POLLIN | POLLHUP | POLLERR)))
			e = take_output(r);
		if (e == 1)
			return 0;
		if (e == 0 && r->typed)
			e = give_input(r);
		if (e == -EPIPE || e == -ECONNRESET) {
			/* It no longer listens; the rest of what it said is read to its end. */
			r->input_ended = true;
			r->typed = 0;
			e = 0;
		}
		if (e < 0)
			return e;
	}
}

int cmd_console(int argc, char **argv)
{
	static const struct argp argp = {
		.parser = parse_option,
		.args_doc = "NAME",
		.doc = "Shows the last 64 KiB of the VM's serial port and what follows; what is typed goes "
		       "to the "
		       "guest.\vCtrl-A x leaves, and the VM runs on; Ctrl-A a types Ctrl-A. Exit status: 0 "
		       "left, or "
		       "the VM ended; 1 there is no such VM.",
	};
	struct client_args args = {0};
	struct errmsg err = {0};
	struct client client = CLIENT_NONE;
	struct relay relay = {0};
	int r;

	argp_parse(&argp, argc, argv, 0, NULL, &args);
	r = client_open(args.name, &err, &client);
	if (r == 0)
		r = client_call(&client, json_pack("{s:s}", "cmd", "console"), -1, CLIENT_ANSWER_S, &err,
				NULL);
	if (r == 0) {
		relay.fd = client.fd;
		relay.terminal = isatty(STDIN_FILENO) == 1;
		if (relay.terminal)
			r = terminal_raw(STDIN_FILENO);
		/* In the background there is no keyboard. */
		if (r == -EPERM) {
			relay.input_ended = true;
			r = 0;
		}
		/* What came with the answer already. */
		if (r == 0)
			r = write_full(STDOUT_FILENO, client.buf, client.len);
		if (r == 0)
			r = relay_run(&relay);
		terminal_restore();
		if (r < 0)
			errmsg_set(&err, r, "%s: console: %s", args.name, strerror(-r));
	}
	client_close(&client);
	if (r < 0)
		return cli_error(argv[0], CLI_FAILED, "%s", errmsg_text(&err, r));
	if (relay.terminal)
		fprintf(stderr, "\n[sardine: %s %s]\n", relay.leaving ? "left" : "the end of", args.name);
	return CLI_OK;
}
