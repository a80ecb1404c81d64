/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Any bytes from clients of the control socket, in any pieces: each answer is one line of JSON, no client gets
 * more answers than it sent lines, and none stays when it has left.
 *
 * Input: bytes that are sent; 0xff and one byte more is a step, see enum step.
 */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "tests/fuzz/require.h"
#include "tests/fuzz/tempdir.h"
#include "tests/unit/fake-vm.h"
#include "vmm/control-internal.h"

#define CLIENTS	    3
#define MANY	    64 /* requests of STEP_MANY */
#define BULK_MAX    16 /* steps that send much, per input */
#define DEADLINE_S  20
#define STEP_PREFIX 0xff

enum step {
	STEP_LITERAL, /* 0xff itself */
	STEP_LOOP,    /* what was sent so far is one piece; the loop runs */
	STEP_READ,    /* and what was answered is read */
	STEP_END,     /* shut the sending side down */
	STEP_FD,      /* a descriptor goes with the next piece */
	STEP_MANY,    /* many pings */
	STEP_LONG,    /* a line that is too long, without its end */
	STEP_SLOW,    /* answers may stay unread for a nanosecond only */
	STEP_REFUSE,  /* the VM refuses what it is asked from now on, each time for another reason */
	STEP_CLIENT,  /* go on as the next client */
	STEP_LEAVE,   /* without reading */
	STEP_STAY,    /* to the end of the VM, which otherwise comes when all have left */
	STEPS,
};

struct client {
	int fd; /* -1: none */
	bool pass_fd;
	size_t lines, answers; /* sent, got; the greeting is an answer */
	bool stream;	       /* the console's: its bytes are not ours to check */
	char *got;	       /* of a line that is not complete */
	size_t got_len;
};

struct room {
	struct io_loop *loop;
	struct control *control;
	struct fake_vm vm;
	struct client clients[CLIENTS];
	unsigned now;
	unsigned bulk;
	unsigned refusals;
	bool stay;
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct tempdir dir;

static void stop(void *arg)
{
	io_loop_stop(arg);
}

static void run_loop(struct room *room)
{
	for (unsigned i = 0; i < 3; i++)
		require(io_loop_post(room->loop, stop, room->loop) == 0 && io_loop_run(room->loop) == 0);
}

static struct client *client_now(struct room *room)
{
	struct client *c = &room->clients[room->now];
	const int small = 1; /* the kernel makes some 4 KiB of it: soon full */

	if (c->fd < 0) {
		*c = (struct client){.fd = -1};
		require(unix_connect(tempdir_file(&dir, "sock"), &c->fd) == 0);
		run_loop(room);
		require(room->control->clients != NULL);
		setsockopt(room->control->clients->fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
	}
	return c;
}

static void client_leave(struct client *c)
{
	if (c->fd >= 0)
		close(c->fd);
	c->fd = -1;
	free(TAKE_PTR(c->got));
	c->got_len = 0;
}

static ssize_t send_piece(struct client *c, const void *data, size_t len)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} ancillary = {0};
	struct iovec iov = {.iov_base = (void *)(uintptr_t)data, .iov_len = len};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
	int fd = -1;
	ssize_t n;

	if (c->pass_fd) {
		fd = memfd_create("passed", MFD_CLOEXEC);
		msg.msg_control = ancillary.bytes;
		msg.msg_controllen = sizeof(ancillary.bytes);
		*CMSG_FIRSTHDR(&msg) = (struct cmsghdr){
			.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(fd))};
		memcpy(CMSG_DATA(CMSG_FIRSTHDR(&msg)), &fd, sizeof(fd));
		c->pass_fd = false;
	}
	n = sendmsg(c->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (fd >= 0)
		close(fd);
	return n;
}

/* Whatever the socket does not take for a while is not sent: the server may have stopped reading. */
static void send_bytes(struct room *room, const char *data, size_t len)
{
	struct client *c = client_now(room);

	for (unsigned patience = 0; len && patience < 16;) {
		ssize_t n = send_piece(c, data, len);

		run_loop(room);
		if (n < 0 && errno != EAGAIN)
			return;
		if (n <= 0) {
			patience++;
			continue;
		}
		for (ssize_t i = 0; i < n; i++)
			c->lines += data[i] == '\n';
		data += n;
		len -= (size_t)n;
	}
}

static void check_answer(struct client *c, const char *line, size_t len)
{
	json_t *json = json_loadb(line, len, JSON_REJECT_DUPLICATES, NULL);
	const json_t *ok = json_object_get(json, "ok");

	require(json_is_object(json));
	if (c->answers++ == 0 && !ok) {
		require(json_is_string(json_object_get(json, "sardine")));
	} else {
		require(json_is_boolean(ok) && json_object_get(json, "id"));
		require(json_is_object(json_object_get(json, "result")) == json_is_true(ok));
		require(json_is_string(json_object_get(json, "error")) == json_is_false(ok));
	}
	/* One more is the greeting, another what is said of a line without its end. */
	require(c->answers <= c->lines + 2);
	c->stream = json_is_true(json_object_get(json_object_get(json, "result"), "stream"));
	json_decref(json);
}

static void client_read(struct client *c)
{
	char buf[16384];
	ssize_t n;

	while (c->fd >= 0 && (n = recv(c->fd, buf, sizeof(buf), MSG_DONTWAIT)) > 0) {
		char *end, *more = realloc(c->got, c->got_len + (size_t)n);

		require(more != NULL);
		c->got = more;
		memcpy(c->got + c->got_len, buf, (size_t)n);
		c->got_len += (size_t)n;
		while (!c->stream && c->got_len && (end = memchr(c->got, '\n', c->got_len))) {
			size_t len = (size_t)(end - c->got);

			check_answer(c, c->got, len);
			c->got_len -= len + 1;
			memmove(c->got, end + 1, c->got_len);
		}
		if (c->stream)
			c->got_len = 0;
	}
}

static void send_bulk(struct room *room, enum step step)
{
	static const char ping[] = "{\"cmd\":\"ping\"}\n";
	static char text[CONTROL_LINE_MAX];
	size_t len = step == STEP_LONG ? sizeof(text) : MANY * (sizeof(ping) - 1);

	if (room->bulk++ >= BULK_MAX)
		return;
	for (size_t i = 0; i < len; i++)
		text[i] = step == STEP_LONG ? ' ' : ping[i % (sizeof(ping) - 1)];
	send_bytes(room, text, len);
}

static void refuse(struct fake_vm *vm, unsigned n)
{
	static const int errors[] = {-EINVAL, -ENODEV, -EUSERS, -EMSGSIZE, -ENOMEM, 0};

	vm->balloon_result = vm->console_result = vm->attach_result = errors[n % ARRAY_SIZE(errors)];
	atomic_store(&vm->usage_result, errors[n % ARRAY_SIZE(errors)]);
}

static void run_step(struct room *room, enum step step)
{
	switch (step) {
	case STEP_LOOP:
		run_loop(room);
		break;
	case STEP_READ:
		run_loop(room);
		client_read(client_now(room));
		run_loop(room);
		break;
	case STEP_END:
		shutdown(client_now(room)->fd, SHUT_WR);
		run_loop(room);
		break;
	case STEP_FD:
		client_now(room)->pass_fd = true;
		break;
	case STEP_MANY:
	case STEP_LONG:
		send_bulk(room, step);
		break;
	case STEP_SLOW:
		room->control->slow_ns = 1;
		break;
	case STEP_REFUSE:
		refuse(&room->vm, room->refusals++);
		break;
	case STEP_CLIENT:
		room->now = (room->now + 1) % CLIENTS;
		break;
	case STEP_LEAVE:
		client_leave(client_now(room));
		run_loop(room);
		break;
	case STEP_STAY:
		room->stay = true;
		break;
	case STEP_LITERAL:
	case STEPS:
		break;
	}
}

static void run(struct room *room, const uint8_t *data, size_t size)
{
	while (size) {
		const uint8_t *next = memchr(data, STEP_PREFIX, size);
		size_t len = next ? (size_t)(next - data) : size;

		send_bytes(room, (const char *)data, len);
		if (!next)
			return;
		data += len + 1;
		size -= len + 1;
		if (!size)
			return;
		if (*data % STEPS == STEP_LITERAL)
			send_bytes(room, "\xff", 1);
		else
			run_step(room, (enum step)(*data % STEPS));
		data++;
		size--;
	}
}

static bool idle(const struct control *control)
{
	const struct control_client *c = control->clients;

	while (c && !c->working && !c->out_len)
		c = c->next;
	return !c && !control->dump && !control->stats_waits;
}

/* Everybody reads until nothing is left to be said, and hears of the end; then they leave, if they do. */
static void finish(struct room *room)
{
	time_t deadline = time(NULL) + DEADLINE_S;

	do {
		run_loop(room);
		for (unsigned i = 0; i < CLIENTS; i++)
			client_read(&room->clients[i]);
		require(time(NULL) < deadline);
	} while (!idle(room->control) && sched_yield() == 0);
	control_ended(room->control, "power-off", "");
	for (unsigned i = 0; i < CLIENTS; i++)
		client_read(&room->clients[i]);
	for (unsigned i = 0; i < CLIENTS && !room->stay; i++)
		client_leave(&room->clients[i]);
	while (!room->stay && room->control->clients) {
		require(time(NULL) < deadline);
		run_loop(room);
	}
	control_free(room->control);
	for (unsigned i = 0; i < CLIENTS; i++)
		client_leave(&room->clients[i]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct room room = {.vm = {.dump_go = true, .work_go = true}};
	struct errmsg err = {0};

	if (!dir.path[0]) {
		dir = tempdir_make_until_exit();
		signal(SIGPIPE, SIG_IGN);
	}
	for (unsigned i = 0; i < CLIENTS; i++)
		room.clients[i].fd = -1;
	require(io_loop_new(&room.loop) == 0);
	require(control_new(room.loop, tempdir_file(&dir, "sock"), "web1", &fake_ops, &room.vm, &err,
			    &room.control) == 0);
	run(&room, data, size);
	finish(&room);
	io_loop_free(room.loop);
	return 0;
}
