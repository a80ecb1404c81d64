/* SPDX-License-Identifier: Apache-2.0 */
/* The ends of a console: who reads the serial port, who types into it. Theory of operation: console.c. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "vmm/console-internal.h"

/* Bytes written in one go, and copied while the mutex is held. */
#define CHUNK_BYTES 4096
/* Input files that epoll does not take are read this much at a time, then the loop has its turn. */
#define PUMP_ROUNDS 4

static void out_close(struct console_end *end)
{
	struct console_out *out = &end->out;

	io_source_free(TAKE_PTR(out->source));
	if (out->fd >= 0) {
		if (out->restore_flags >= 0)
			(void)!fcntl(out->fd, F_SETFL, out->restore_flags);
		close(TAKE_FD(out->fd));
	}
	free(TAKE_PTR(out->prefix));
}

static void in_close(struct console_end *end)
{
	io_source_free(TAKE_PTR(end->in.source));
	if (end->in.fd >= 0)
		close(TAKE_FD(end->in.fd));
}

/*
 * Free the oldest client that left with input that the guest has not taken: a guest that never reads must not
 * keep new clients out. Not the back end, which may type without reading.
 */
static void end_make_place(struct console *console)
{
	struct console_end *oldest = NULL;

	for (struct console_end *end = console->ends; end; end = end->next)
		if (end->client && end->out.fd < 0)
			oldest = end;
	if (!oldest)
		return;
	console->counters.input_dropped_bytes += oldest->in.pending_len;
	console_end_free(oldest);
}

struct console_end *console_end_new(struct console *console, int *ret_error)
{
	struct console_end *end;

	if (console->end_count >= CONSOLE_ENDS_MAX)
		end_make_place(console);
	if (console->end_count >= CONSOLE_ENDS_MAX) {
		*ret_error = -EUSERS;
		return NULL;
	}
	end = calloc(1, sizeof(*end));
	if (!end) {
		*ret_error = -ENOMEM;
		return NULL;
	}
	end->console = console;
	end->out.fd = -1;
	end->out.restore_flags = -1;
	end->in.fd = -1;
	end->next = console->ends;
	console->ends = end;
	console->end_count++;
	return end;
}

void console_end_free(struct console_end *end)
{
	struct console_end **p = &end->console->ends;

	while (*p != end)
		p = &(*p)->next;
	*p = end->next;
	end->console->end_count--;
	out_close(end);
	in_close(end);
	free(end);
}

bool console_end_reap(struct console_end *end)
{
	/* Input that the guest has not taken yet still counts: `echo x | ...` closes before it is read. It is
	 * kept until its place is needed, see end_make_place(). */
	if (end->out.fd >= 0 || end->in.fd >= 0 || end->in.pending_len > 0)
		return false;
	console_end_free(end);
	return true;
}

static void out_event(void *arg, uint32_t events)
{
	struct console_end *end = arg;

	if (events & (EPOLLERR | EPOLLHUP))
		out_close(end);
	else
		console_out_drain(end);
	console_end_reap(end);
}

static void out_watch(struct console_end *end, bool blocked)
{
	struct console_out *out = &end->out;

	if (out->blocked == blocked || !out->source)
		return;
	if (io_source_set_events(out->source, blocked ? EPOLLOUT : 0) < 0)
		out_close(end);
	else
		out->blocked = blocked;
}

int console_out_open(struct console_end *end, int fd, uint64_t pos)
{
	struct stat st;
	int r;

	end->out.fd = fd;
	end->out.pos = pos;
	if (fstat(fd, &st) < 0)
		return -errno;
	end->out.socket = S_ISSOCK(st.st_mode);
	r = io_source_new(end->console->loop, fd, 0, out_event, end, &end->out.source);
	/* Regular files, /dev/null: never make us wait, cannot be watched. */
	return r == -EPERM ? 0 : r;
}

/* Bytes written; 0 when it would block or the reader is gone (closed then). */
static size_t out_write(struct console_end *end, const void *data, size_t len)
{
	struct console_out *out = &end->out;
	ssize_t n;

	do {
		n = out->socket ? send(out->fd, data, len, MSG_DONTWAIT | MSG_NOSIGNAL)
				: write(out->fd, data, len);
	} while (n < 0 && errno == EINTR);
	if (n > 0)
		return (size_t)n;
	if (n < 0 && errno == EAGAIN) {
		if (!out->source) /* cannot be watched: tried again with the next output */
			return 0;
		out_watch(end, true);
	} else if (out->lossy) {
		/* The disk is full: these bytes are lost, later ones may find room. */
		end->console->counters.output_dropped_bytes += len;
		return len;
	} else {
		out_close(end);
	}
	return 0;
}

static int out_mark_gap(struct console_out *out)
{
	int n = asprintf(&out->prefix, "\r\n[sardine: %llu bytes of console output lost]\r\n",
			 (unsigned long long)out->gap);

	if (n < 0) {
		out->prefix = NULL;
		return -ENOMEM;
	}
	out->prefix_len = (size_t)n;
	out->prefix_off = 0;
	out->gap = 0;
	return 0;
}

/* Write one piece: the prefix, or a chunk of history. Return: false when there is nothing to do, or no room. */
static bool out_step(struct console_end *end)
{
	struct console_out *out = &end->out;
	uint8_t buf[CHUNK_BYTES];
	uint64_t lost;
	size_t len, n;

	if (!out->prefix && out->gap)
		(void)!out_mark_gap(out);
	if (out->prefix) {
		n = out_write(end, out->prefix + out->prefix_off, out->prefix_len - out->prefix_off);
		out->prefix_off += n;
		if (out->prefix && out->prefix_off == out->prefix_len)
			free(TAKE_PTR(out->prefix));
		return n > 0;
	}
	len = console_copy(end->console, &out->pos, buf, sizeof(buf), &lost);
	if (lost) {
		out->gap += lost;
		end->console->counters.output_dropped_bytes += lost;
		return true;
	}
	if (len == 0)
		return false;
	n = out_write(end, buf, len);
	out->pos += n;
	return n > 0;
}

void console_out_drain(struct console_end *end)
{
	struct console_out *out = &end->out;
	/* Not what comes meanwhile: a quick reader must not let the others fall behind. */
	uint64_t head = console_head(end->console);

	while (out->fd >= 0 && (out->prefix || out->gap || out->pos < head))
		if (!out_step(end))
			return;
	out_watch(end, false);
}

bool console_out_done(struct console_end *end)
{
	const struct console_out *out = &end->out;

	return out->fd < 0 || (!out->prefix && !out->gap && out->pos == console_head(end->console));
}

static void in_event(void *arg, uint32_t events)
{
	struct console_end *end = arg;

	(void)events;
	console_in_pump(end);
	console_end_reap(end);
}

int console_in_open(struct console_end *end, int fd, bool terminal)
{
	struct console_in *in = &end->in;
	struct stat st;
	int r;

	in->fd = fd;
	in->terminal = terminal;
	if (fstat(fd, &st) < 0)
		return -errno;
	in->socket = S_ISSOCK(st.st_mode);
	r = io_source_new(end->console->loop, fd, EPOLLIN, in_event, end, &in->source);
	in->pollable = r == 0;
	return r == -EPERM ? 0 : r;
}

/*
 * Watch or not. A source that is not wanted is freed rather than left with no events: a hung-up peer would
 * report without end.
 */
static void in_watch(struct console_end *end, bool want)
{
	struct console_in *in = &end->in;

	if (!in->pollable || in->fd < 0 || want == (in->source != NULL))
		return;
	if (!want)
		io_source_free(TAKE_PTR(in->source));
	else if (io_source_new(end->console->loop, in->fd, EPOLLIN, in_event, end, &in->source) < 0)
		in_close(end);
}

/* Give the guest what is pending. Return: true when nothing is left. */
static bool in_deliver(struct console_end *end)
{
	struct console *console = end->console;
	struct console_in *in = &end->in;

	for (unsigned attempt = 0; attempt < 2 && in->pending_len; attempt++) {
		size_t n = console->input_fn
				   ? console->input_fn(console->input_arg, in->pending + in->pending_off,
						       in->pending_len)
				   : 0;

		in->pending_off += n;
		in->pending_len -= n;
		console->counters.input_bytes += n;
		/* Told before the second attempt: no room made in between goes unseen. */
		if (in->pending_len)
			atomic_store(&console->input_stalled, true);
	}
	if (in->pending_len)
		return false;
	in->pending_off = 0;
	return true;
}

/* Read one piece. Return: false at the end of input (closed then), or when nothing is there. */
static bool in_read(struct console_end *end)
{
	struct console_in *in = &end->in;
	uint8_t buf[CONSOLE_INPUT_BYTES];
	size_t len, room;
	ssize_t n;

	/* It may be shared with another process that was faster, and may be blocking. */
	if (in->pollable && !in->socket && poll(&(struct pollfd){.fd = in->fd, .events = POLLIN}, 1, 0) <= 0)
		return false;
	do {
		n = in->socket ? recv(in->fd, buf, sizeof(buf), MSG_DONTWAIT)
			       : read(in->fd, buf, sizeof(buf));
	} while (n < 0 && errno == EINTR);
	if (n < 0 && errno == EAGAIN)
		return false;
	if (n <= 0) {
		in_close(end);
		return false;
	}
	len = (size_t)n;
	if (in->terminal && terminal_escape_filter(&in->escape, buf, &len))
		console_quit(end->console);
	memmove(in->pending, in->pending + in->pending_off, in->pending_len);
	in->pending_off = 0;
	room = sizeof(in->pending) - in->pending_len;
	if (len > room) {
		end->console->counters.input_dropped_bytes += len - room;
		len = room;
	}
	memcpy(in->pending + in->pending_len, buf, len);
	in->pending_len += len;
	return true;
}

void console_in_pump(struct console_end *end)
{
	struct console_in *in = &end->in;

	for (unsigned i = 0; i < PUMP_ROUNDS; i++) {
		bool taken = in_deliver(end);

		if (in->fd < 0)
			return;
		if (!taken && !in->terminal) {
			in_watch(end, false);
			return;
		}
		if (!in_read(end))
			break;
	}
	in_deliver(end);
	if (in->fd < 0)
		return;
	in_watch(end, in->terminal || in->pending_len == 0);
	if (!in->pollable && in->pending_len == 0) {
		/* A file: go on after the loop had its turn. */
		atomic_store(&end->console->input_stalled, true);
		console_input_room(end->console);
	}
}
