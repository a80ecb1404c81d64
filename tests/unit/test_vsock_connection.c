/* SPDX-License-Identifier: Apache-2.0 */
/* The states of a vsock connection: who may do what when, and that patience ends. */
#include "vmm/vsock-connection.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "tests/unit/tempdir.h"
#include "tests/unit/test.h"
#include "vmm/vsock-host.h"

struct fixture {
	struct vsock_totals totals;
	struct vsock_connection *c;
	int host; /* the program's end */
};

static void begin(struct fixture *f, enum vsock_state state)
{
	bool asking = state == VSOCK_HELLO || state == VSOCK_REQUESTED;
	int pair[2];

	*f = (struct fixture){.host = -1};
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
	f->host = pair[0];
	f->c = vsock_connection_new(asking ? VSOCK_HELLO : VSOCK_OPEN, pair[1], NULL, &f->totals);
	f->c->guest_alloc = 1000;
	if (state == VSOCK_REQUESTED)
		vsock_connection_requested(f->c, 9, 8);
}

static void end(struct fixture *f)
{
	vsock_connection_free(f->c);
	close_fd_p(&f->host);
}

/* The program closes. */
static void hang_up(struct fixture *f)
{
	close(TAKE_FD(f->host));
	vsock_connection_host_event(f->c, EPOLLIN | EPOLLHUP);
}

/* The op of the next packet, VSOCK_OP_INVALID when there is none. */
static uint16_t next_op(struct fixture *f)
{
	char room[100];
	const struct iovec iov = {room, sizeof(room)};
	struct vsock_packet p;

	if (!vsock_connection_has_packet(f->c) || !vsock_connection_make(f->c, &iov, 1, &p))
		return VSOCK_OP_INVALID;
	return p.op;
}

static void take(struct fixture *f, uint16_t op, uint32_t flags)
{
	const struct vsock_packet p = {.type = 1, .op = op, .flags = flags, .buf_alloc = 1000};

	vsock_connection_take(f->c, &p, NULL, 0);
}

TEST(states)
{
	/* Every state has a name, and nothing leaves the end. */
	for (unsigned from = 0; from < VSOCK_STATES; from++) {
		assert_non_null(vsock_state_name(from));
		assert_int_equal(vsock_state_may_move(from, VSOCK_GONE), from != VSOCK_GONE);
		assert_false(vsock_state_may_move(VSOCK_GONE, from));
		assert_false(vsock_state_may_move(from, VSOCK_HELLO));
	}
	assert_true(vsock_state_may_move(VSOCK_HELLO, VSOCK_REQUESTED));
	assert_false(vsock_state_may_move(VSOCK_HELLO, VSOCK_OPEN));
	assert_false(vsock_state_may_move(VSOCK_DRAINING, VSOCK_OPEN));
}

static void wait_out(struct fixture *f, enum vsock_state state)
{
	assert_int_equal(f->c->state, state);
	for (unsigned i = 0; f->c->state == state; i++, vsock_connection_tick(f->c))
		assert_true(i < 60);
}

TEST(patience_ends)
{
	struct fixture f;

	/* A program that says nothing: the guest never hears of it. */
	begin(&f, VSOCK_HELLO);
	wait_out(&f, VSOCK_HELLO);
	assert_int_equal(f.c->state, VSOCK_GONE);
	assert_int_equal(next_op(&f), VSOCK_OP_INVALID);
	end(&f);
	/* A guest that does not answer. */
	begin(&f, VSOCK_REQUESTED);
	assert_int_equal(next_op(&f), VSOCK_OP_REQUEST);
	wait_out(&f, VSOCK_REQUESTED);
	assert_int_equal(next_op(&f), VSOCK_OP_RST);
	assert_int_equal(f.c->state, VSOCK_GONE);
	end(&f);
	/* One that was never asked, for want of room. */
	begin(&f, VSOCK_REQUESTED);
	wait_out(&f, VSOCK_REQUESTED);
	assert_int_equal(f.c->state, VSOCK_GONE);
	end(&f);
	/* One that does not answer the end of both halves. */
	begin(&f, VSOCK_OPEN);
	assert_int_equal(next_op(&f), VSOCK_OP_RESPONSE);
	hang_up(&f);
	assert_int_equal(next_op(&f), VSOCK_OP_SHUTDOWN);
	assert_int_equal(f.c->fd, -1);
	wait_out(&f, VSOCK_CLOSING);
	assert_int_equal(next_op(&f), VSOCK_OP_RST);
	end(&f);
	/* An open one waits for ever. */
	begin(&f, VSOCK_OPEN);
	for (unsigned i = 0; i < 1000; i++)
		vsock_connection_tick(f.c);
	assert_int_equal(f.c->state, VSOCK_OPEN);
	end(&f);
}

/* Every operation in every state in which packets find a connection: what it leads to. */
static const struct row {
	enum vsock_state state;
	uint16_t op;
	uint32_t flags;
	enum vsock_state then;
	bool violation;
} rows[] = {
	{VSOCK_REQUESTED, VSOCK_OP_RESPONSE, 0, VSOCK_OPEN, false},
	{VSOCK_REQUESTED, VSOCK_OP_RST, 0, VSOCK_GONE, false},
	{VSOCK_REQUESTED, VSOCK_OP_RW, 0, VSOCK_RESETTING, true},
	{VSOCK_REQUESTED, VSOCK_OP_REQUEST, 0, VSOCK_RESETTING, true},
	{VSOCK_REQUESTED, VSOCK_OP_SHUTDOWN, 3, VSOCK_RESETTING, true},
	{VSOCK_REQUESTED, VSOCK_OP_CREDIT_UPDATE, 0, VSOCK_RESETTING, true},
	{VSOCK_OPEN, VSOCK_OP_RW, 0, VSOCK_OPEN, false},
	{VSOCK_OPEN, VSOCK_OP_CREDIT_UPDATE, 0, VSOCK_OPEN, false},
	{VSOCK_OPEN, VSOCK_OP_CREDIT_REQUEST, 0, VSOCK_OPEN, false},
	{VSOCK_OPEN, VSOCK_OP_SHUTDOWN, 0, VSOCK_OPEN, false},
	{VSOCK_OPEN, VSOCK_OP_SHUTDOWN, 1, VSOCK_OPEN, false},
	{VSOCK_OPEN, VSOCK_OP_SHUTDOWN, 2, VSOCK_OPEN, false},
	{VSOCK_OPEN, VSOCK_OP_SHUTDOWN, 3, VSOCK_RESETTING, false}, /* nothing to deliver */
	{VSOCK_OPEN, VSOCK_OP_SHUTDOWN, UINT32_MAX, VSOCK_RESETTING, false},
	{VSOCK_OPEN, VSOCK_OP_RST, 0, VSOCK_GONE, false},
	{VSOCK_OPEN, VSOCK_OP_REQUEST, 0, VSOCK_RESETTING, true},
	{VSOCK_OPEN, VSOCK_OP_RESPONSE, 0, VSOCK_RESETTING, true},
	{VSOCK_OPEN, 0xffff, 0, VSOCK_RESETTING, true},
	{VSOCK_CLOSING, VSOCK_OP_RW, 0, VSOCK_CLOSING, false},
	{VSOCK_CLOSING, VSOCK_OP_CREDIT_REQUEST, 0, VSOCK_CLOSING, false},
	{VSOCK_CLOSING, VSOCK_OP_SHUTDOWN, 2, VSOCK_CLOSING, false},
	{VSOCK_CLOSING, VSOCK_OP_SHUTDOWN, 3, VSOCK_RESETTING, false},
	{VSOCK_CLOSING, VSOCK_OP_RST, 0, VSOCK_GONE, false},
	{VSOCK_CLOSING, VSOCK_OP_REQUEST, 0, VSOCK_RESETTING, true},
};

TEST(operations)
{
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct fixture f;

		begin(&f, rows[i].state);
		next_op(&f);
		if (rows[i].state == VSOCK_CLOSING) {
			hang_up(&f);
			next_op(&f);
		}
		assert_int_equal(f.c->state, rows[i].state);
		assert_true(vsock_connection_is_known(f.c));
		take(&f, rows[i].op, rows[i].flags);
		if (f.c->state != rows[i].then || f.totals.violations != rows[i].violation)
			fail_msg("row %zu: %s, %u violations", i, vsock_state_name(f.c->state),
				 (unsigned)f.totals.violations);
		assert_int_equal(vsock_connection_owes_reset(f.c), rows[i].then == VSOCK_RESETTING);
		assert_int_equal(f.c->fd >= 0, rows[i].then == VSOCK_OPEN);
		end(&f);
	}
}

/* After the guest said that it sends no more, it may not; once it receives no more, it is sent nothing. */
TEST(ends_are_kept)
{
	struct fixture f;

	begin(&f, VSOCK_OPEN);
	next_op(&f);
	take(&f, VSOCK_OP_SHUTDOWN, VSOCK_SHUTDOWN_RECEIVE);
	assert_int_equal(send(f.host, "x", 1, MSG_NOSIGNAL), -1);
	assert_int_equal(errno, EPIPE);
	assert_int_equal(vsock_connection_wants(f.c) & EPOLLIN, 0);
	assert_int_equal(next_op(&f), VSOCK_OP_INVALID);
	take(&f, VSOCK_OP_SHUTDOWN, VSOCK_SHUTDOWN_SEND);
	assert_int_equal(f.c->state, VSOCK_RESETTING);
	end(&f);
	begin(&f, VSOCK_OPEN);
	next_op(&f);
	take(&f, VSOCK_OP_SHUTDOWN, VSOCK_SHUTDOWN_SEND);
	take(&f, VSOCK_OP_RW, 0);
	assert_int_equal(f.totals.violations, 1);
	assert_int_equal(next_op(&f), VSOCK_OP_RST);
	end(&f);
}

/* Room that a guest takes back, or says nonsense of, is no room. */
TEST(credit_that_is_none)
{
	static const struct {
		uint32_t buf_alloc, fwd_cnt;
	} none[] = {{0, 0}, {0, 1}, {1, 1}, {1, UINT32_MAX}};
	struct vsock_packet p = {.type = 1, .op = VSOCK_OP_CREDIT_UPDATE};
	struct fixture f;

	begin(&f, VSOCK_OPEN);
	next_op(&f);
	assert_int_equal(send(f.host, "0123456789", 10, 0), 10);
	f.c->guest_alloc = 0;
	vsock_connection_host_event(f.c, EPOLLIN);
	assert_int_equal(next_op(&f), VSOCK_OP_CREDIT_REQUEST);
	for (size_t i = 0; i < ARRAY_SIZE(none); i++) {
		p.buf_alloc = none[i].buf_alloc;
		p.fwd_cnt = none[i].fwd_cnt;
		vsock_connection_take(f.c, &p, NULL, 0);
		/* It was asked once, and is not for each of these. */
		if (next_op(&f) != VSOCK_OP_INVALID)
			fail_msg("row %zu", i);
	}
	p.buf_alloc = 4;
	p.fwd_cnt = 0;
	vsock_connection_take(f.c, &p, NULL, 0);
	assert_int_equal(next_op(&f), VSOCK_OP_RW);
	assert_int_equal(f.c->sent, 4);
	assert_int_equal(next_op(&f), VSOCK_OP_CREDIT_REQUEST);
	end(&f);
}

/* A line may come in pieces, and what is behind it stays. */
TEST(hello_in_pieces)
{
	const char *text = "CONNECT 1234\nrest";
	char line[VSOCK_HELLO_MAX], rest[8];
	unsigned len = 0;
	uint32_t port = 0;
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	assert_int_equal(vsock_hello_read(pair[1], line, sizeof(line), &len, &port), 0);
	for (unsigned i = 0; i < 12; i++) {
		assert_int_equal(send(pair[0], text + i, 1, 0), 1);
		assert_int_equal(vsock_hello_read(pair[1], line, sizeof(line), &len, &port), 0);
	}
	assert_int_equal(send(pair[0], text + 12, 5, 0), 5);
	assert_int_equal(vsock_hello_read(pair[1], line, sizeof(line), &len, &port), 1);
	assert_int_equal(port, 1234);
	assert_int_equal(recv(pair[1], rest, sizeof(rest), 0), 4);
	close(pair[0]);
	len = 0;
	assert_int_equal(vsock_hello_read(pair[1], line, sizeof(line), &len, &port), -ECONNRESET);
	close(pair[1]);
}

static void nobody(void *arg, int fd)
{
	(void)arg;
	close(fd);
}

/* Folder and name are apart: the folder may come to be seen at another place. */
TEST(ports_in_another_folder)
{
	struct tempdir dir = tempdir_make();
	struct errmsg err = {0};
	struct unix_listener port = UNIX_LISTENER_NONE;
	struct vsock_host *host;
	struct io_loop *loop;
	char long_name[512];
	int fd = -1;

	assert_int_equal(io_loop_new(&loop), 0);
	assert_int_equal(vsock_host_new(loop, tempdir_file(&dir, "v"), nobody, NULL, &err, &host), 0);
	assert_int_equal(unix_listen(tempdir_file(&dir, "v_4294967294"), "port", &err, &port), 0);
	assert_int_equal(vsock_host_connect(host, 1, &fd), -ENOENT);
	assert_int_equal(vsock_host_connect(host, 4294967294u, &fd), 0);
	assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK);
	close(fd);
	assert_int_equal(vsock_host_set_folder(host, "/nowhere"), 0);
	assert_int_equal(vsock_host_connect(host, 4294967294u, &fd), -ENOENT);
	assert_int_equal(vsock_host_set_folder(host, dir.path), 0);
	assert_int_equal(vsock_host_connect(host, 4294967294u, &fd), 0);
	close(fd);
	unix_listener_close(&port);
	assert_int_equal(vsock_host_connect(host, 4294967294u, &fd), -ENOENT);
	vsock_host_free(host);
	snprintf(long_name, sizeof(long_name), "%s/%065d", dir.path, 0);
	assert_int_equal(vsock_host_new(loop, long_name, nobody, NULL, &err, &host), -ENAMETOOLONG);
	assert_non_null(strstr(err.text, "longer than 64"));
	io_loop_free(loop);
	tempdir_remove(&dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(states),
		cmocka_unit_test(patience_ends),
		cmocka_unit_test(operations),
		cmocka_unit_test(ends_are_kept),
		cmocka_unit_test(credit_that_is_none),
		cmocka_unit_test(hello_in_pieces),
		cmocka_unit_test(ports_in_another_folder),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
