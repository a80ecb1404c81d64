/* SPDX-License-Identifier: Apache-2.0 */
/* One vsock connection: its states, its credit, and what is in between. */
/*
 * Theory of operation
 *
 * States and moves are declared in moves[]; vsock-connection.h says what each state means. A connection that the guest
 * began is made once the host's socket is connected, and is OPEN at once.
 *
 * What is for the guest. Each kind of packet has a bit in `pending`, so what a connection can owe is bounded without a queue:
 * packets are made when the guest has room for one. Payload is not kept here at all: it stays in the Unix socket (whose sender
 * the kernel stops in time) until it is read straight into the guest's buffer, and only as much as the guest's credit
 * covers.
 *
 * What is for the host. Payload goes straight from guest memory into the Unix socket; what that does not take is kept in a
 * buffer of VSOCK_BUFFER_BYTES, which is the room that the guest is told (buf_alloc). A guest that sends more breaks
 * the protocol and loses the connection. So neither side can make us keep more than this, and a side that does not read
 * stops its own connection and nothing else.
 *
 * Ends. A half that ends is told on once all before it is delivered:
 *   the host's program sends no more (end of file)	SHUTDOWN(SEND) to the guest
 *   it receives no more (EPIPE, hang-up)		SHUTDOWN(RECEIVE) to the guest; what it sends is dropped
 *   the guest sends no more				the socket's writing side is shut down
 *   it receives no more				the socket's reading side is shut down
 * When the host's program has ended both, the guest answers with RST (CLOSING, which has a deadline). When the guest has,
 * it gets its RST at once, and the buffer is still delivered (DRAINING). What goes wrong in between is an RST.
 *
 * A CREDIT_UPDATE goes out when the guest believes in less than half of the buffer and there is more; every other packet
 * tells the same.
 */
#include "vmm/vsock-connection.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/planted.h"
#include "vmm/virtqueue.h"

/* In the order in which packets go out, with payload in between. */
#define VSOCK_PEND_RST		  0x01u
#define VSOCK_PEND_REQUEST	  0x02u
#define VSOCK_PEND_RESPONSE	  0x04u
#define VSOCK_PEND_SHUTDOWN	  0x08u
#define VSOCK_PEND_CREDIT_UPDATE  0x10u
#define VSOCK_PEND_CREDIT_REQUEST 0x20u

/* Patience in ticks: with a host's program that does not say its port, with a guest that does not answer a request, and with
 * one that does not answer the end of both halves (Linux waits 8 s for ours). */
#define HELLO_TICKS   10
#define REQUEST_TICKS 10
#define CLOSING_TICKS 8

static const char *const state_names[] = {
	[VSOCK_HELLO] = "hello",     [VSOCK_REQUESTED] = "requested", [VSOCK_OPEN] = "open",
	[VSOCK_CLOSING] = "closing", [VSOCK_DRAINING] = "draining",   [VSOCK_RESETTING] = "resetting",
	[VSOCK_GONE] = "gone",
};
_Static_assert(ARRAY_SIZE(state_names) == VSOCK_STATES, "a name for each state");

#define TO(state) (1u << VSOCK_##state)

static const unsigned moves[VSOCK_STATES] = {
	[VSOCK_HELLO] = TO(REQUESTED) | TO(GONE),
	[VSOCK_REQUESTED] = TO(OPEN) | TO(RESETTING) | TO(GONE),
	[VSOCK_OPEN] = TO(CLOSING) | TO(DRAINING) | TO(RESETTING) | TO(GONE),
	[VSOCK_CLOSING] = TO(RESETTING) | TO(GONE),
	[VSOCK_DRAINING] = TO(RESETTING) | TO(GONE),
	[VSOCK_RESETTING] = TO(GONE),
	[VSOCK_GONE] = 0,
};

const char *vsock_state_name(enum vsock_state state)
{
	return state_names[state];
}

bool vsock_state_may_move(enum vsock_state from, enum vsock_state to)
{
	return moves[from] & 1u << to;
}

static void move(struct vsock_connection *c, enum vsock_state to)
{
	assert(vsock_state_may_move(c->state, to));
	c->state = to;
	c->ticks = 0;
}

struct vsock_connection *vsock_connection_new(enum vsock_state state, int fd, void *owner,
					      struct vsock_totals *totals)
{
	struct vsock_connection *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	*c = (struct vsock_connection){.state = state, .fd = fd, .owner = owner, .totals = totals};
	if (state == VSOCK_HELLO)
		c->ticks = HELLO_TICKS;
	else
		c->pending = VSOCK_PEND_RESPONSE;
	return c;
}

static void buffer_drop(struct vsock_connection *c)
{
	c->taken += c->buffer_len;
	c->buffer_len = 0;
	c->buffer_at = 0;
	free(TAKE_PTR(c->buffer));
}

void vsock_connection_close(struct vsock_connection *c)
{
	io_source_free(TAKE_PTR(c->source));
	if (c->fd >= 0)
		close(TAKE_FD(c->fd));
	buffer_drop(c);
	c->readable = false;
}

void vsock_connection_free(struct vsock_connection *c)
{
	if (!c)
		return;
	vsock_connection_close(c);
	free(c);
}

void vsock_connection_drop(struct vsock_connection *c)
{
	if (c->fd >= 0)
		shutdown(c->fd, SHUT_RDWR);
	if (c->state != VSOCK_GONE)
		move(c, VSOCK_GONE);
	c->pending = 0;
}

void vsock_connection_reset(struct vsock_connection *c)
{
	/* A guest that was not told of the connection, or has ended it already, needs no RST of this. */
	bool known = c->state != VSOCK_HELLO && !(c->pending & VSOCK_PEND_REQUEST);

	vsock_connection_close(c);
	if (c->state == VSOCK_RESETTING || c->state == VSOCK_GONE)
		return;
	if (c->state != VSOCK_DRAINING) {
		c->totals->resets += known;
		c->pending = known ? VSOCK_PEND_RST : 0;
	}
	move(c, c->pending & VSOCK_PEND_RST ? VSOCK_RESETTING : VSOCK_GONE);
}

static void violate(struct vsock_connection *c)
{
	c->totals->violations++;
	vsock_connection_reset(c);
}

void vsock_connection_requested(struct vsock_connection *c, uint32_t host_port, uint32_t guest_port)
{
	c->host_port = host_port;
	c->guest_port = guest_port;
	c->pending = VSOCK_PEND_REQUEST;
	move(c, VSOCK_REQUESTED);
	c->ticks = REQUEST_TICKS;
}

bool vsock_connection_is_known(const struct vsock_connection *c)
{
	return c->state == VSOCK_REQUESTED || c->state == VSOCK_OPEN || c->state == VSOCK_CLOSING;
}

bool vsock_connection_owes_reset(const struct vsock_connection *c)
{
	return c->pending & VSOCK_PEND_RST;
}

/* What the guest's socket has room for. */
static uint32_t guest_room(const struct vsock_connection *c)
{
	uint32_t on_the_way = c->sent - c->guest_taken;

	/* A guest that takes back what it said, or says nonsense, gets nothing. */
	return on_the_way < c->guest_alloc ? c->guest_alloc - on_the_way : 0;
}

static uint32_t buffer_room(const struct vsock_connection *c)
{
	return VSOCK_BUFFER_BYTES - c->buffer_len;
}

/* Tell the guest of room when it believes in less than half of the buffer. */
static void credit_consider(struct vsock_connection *c)
{
	uint32_t believed_used = c->received - c->taken_told;

	if (c->state == VSOCK_OPEN && believed_used > VSOCK_BUFFER_BYTES / 2 && c->taken != c->taken_told)
		c->pending |= VSOCK_PEND_CREDIT_UPDATE;
}

/* One half, or both, of the host's program have ended: the guest is to know. */
static void host_ends(struct vsock_connection *c, uint32_t what)
{
	if ((c->host_end & what) == what)
		return;
	c->host_end |= what;
	c->pending |= VSOCK_PEND_SHUTDOWN;
	if (what & VSOCK_SHUTDOWN_RECEIVE)
		buffer_drop(c);
}

/* Once all that the guest has sent is delivered: its end, too. */
static void guest_end_tell(struct vsock_connection *c)
{
	if (c->buffer_len || c->fd < 0)
		return;
	if (c->state == VSOCK_DRAINING) {
		vsock_connection_close(c);
		move(c, c->pending & VSOCK_PEND_RST ? VSOCK_RESETTING : VSOCK_GONE);
	} else if (c->guest_end & VSOCK_SHUTDOWN_SEND) {
		shutdown(c->fd, SHUT_WR);
	}
}

static void guest_ends(struct vsock_connection *c, uint32_t what)
{
	c->guest_end |= what & VSOCK_SHUTDOWN_BOTH;
	if (c->state == VSOCK_CLOSING) {
		/* Both ends at once; the RST that it waits for. */
		if (c->guest_end == VSOCK_SHUTDOWN_BOTH) {
			c->pending = VSOCK_PEND_RST;
			move(c, VSOCK_RESETTING);
		}
		return;
	}
	if (c->guest_end == VSOCK_SHUTDOWN_BOTH) {
		c->pending = VSOCK_PEND_RST;
		move(c, VSOCK_DRAINING);
	}
	if (c->guest_end & VSOCK_SHUTDOWN_RECEIVE) {
		shutdown(c->fd, SHUT_RD);
		c->readable = false;
	}
	guest_end_tell(c);
}

/* Whether the errno of a write or a read means "later". */
static bool is_later(int error)
{
	return error == EAGAIN || error == EINTR;
}

/* The host's socket does not take any more. */
static void write_failed(struct vsock_connection *c, int error)
{
	if (is_later(error))
		return;
	if (c->state == VSOCK_DRAINING || error != EPIPE)
		vsock_connection_reset(c);
	else
		host_ends(c, VSOCK_SHUTDOWN_RECEIVE);
}

static void buffer_flush(struct vsock_connection *c)
{
	while (c->buffer_len) {
		uint32_t to_end = VSOCK_BUFFER_BYTES - c->buffer_at;
		uint32_t part = c->buffer_len < to_end ? c->buffer_len : to_end;
		ssize_t n = send(c->fd, c->buffer + c->buffer_at, part, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n < 0) {
			write_failed(c, errno);
			return;
		}
		c->buffer_at = (c->buffer_at + (uint32_t)n) % VSOCK_BUFFER_BYTES;
		c->buffer_len -= (uint32_t)n;
		c->taken += (uint32_t)n;
		c->totals->to_host_bytes += (uint64_t)n;
		if ((uint32_t)n < part)
			break;
	}
	if (!c->buffer_len) {
		buffer_drop(c);
		guest_end_tell(c);
	}
	credit_consider(c);
}

/* Keep payload from @skip on. Return: 0 or -ENOMEM. */
static int buffer_add(struct vsock_connection *c, const struct iovec *iov, unsigned count, uint32_t skip,
		      uint32_t len)
{
	uint32_t at = (c->buffer_at + c->buffer_len) % VSOCK_BUFFER_BYTES;
	uint32_t to_end = VSOCK_BUFFER_BYTES - at;
	uint32_t first = len < to_end ? len : to_end;

	if (!c->buffer)
		c->buffer = malloc(VSOCK_BUFFER_BYTES);
	if (!c->buffer)
		return -ENOMEM;
	iov_copy_out(iov, count, skip, c->buffer + at, first);
	iov_copy_out(iov, count, skip + first, c->buffer, len - first);
	c->buffer_len += len;
	return 0;
}

/* @iov holds at least @len bytes; what lies behind is cut off. */
static void take_payload(struct vsock_connection *c, struct iovec *iov, unsigned count, uint32_t len)
{
	struct msghdr msg = {.msg_iov = iov};
	uint32_t done = 0, left = len;

	if (c->guest_end & VSOCK_SHUTDOWN_SEND || (len > buffer_room(c) && !PLANTED("virtio_vsock"))) {
		violate(c);
		return;
	}
	c->received += len;
	if (c->host_end & VSOCK_SHUTDOWN_RECEIVE) {
		c->taken += len;
		return;
	}
	for (unsigned i = 0; i < count && left; i++) {
		if (iov[i].iov_len > left)
			iov[i].iov_len = left;
		left -= (uint32_t)iov[i].iov_len;
		msg.msg_iovlen = i + 1;
	}
	if (!c->buffer_len && len) {
		ssize_t n = sendmsg(c->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n >= 0) {
			done = (uint32_t)n;
			c->taken += done;
			c->totals->to_host_bytes += done;
		} else if (!is_later(errno)) {
			c->taken += len;
			write_failed(c, errno);
			return;
		}
	}
	if (done < len && buffer_add(c, iov, (unsigned)msg.msg_iovlen, done, len - done) < 0)
		vsock_connection_reset(c);
	else
		credit_consider(c);
}

/* The guest has taken the connection of a host's program. */
static void accepted(struct vsock_connection *c)
{
	char line[32];
	int len = snprintf(line, sizeof(line), "OK %u\n", c->host_port);

	move(c, VSOCK_OPEN);
	/* The first bytes into an empty socket go through whole, or not at all. */
	if (send(c->fd, line, (size_t)len, MSG_DONTWAIT | MSG_NOSIGNAL) != len)
		vsock_connection_reset(c);
}

/* Of a connection that both know of. */
static void take_open(struct vsock_connection *c, const struct vsock_packet *p, struct iovec *iov,
		      unsigned count)
{
	switch (p->op) {
	case VSOCK_OP_RW:
		take_payload(c, iov, count, p->len);
		break;
	case VSOCK_OP_CREDIT_UPDATE:
		break;
	case VSOCK_OP_CREDIT_REQUEST:
		if (c->state == VSOCK_OPEN)
			c->pending |= VSOCK_PEND_CREDIT_UPDATE;
		break;
	case VSOCK_OP_SHUTDOWN:
		guest_ends(c, p->flags);
		break;
	default:
		violate(c);
		break;
	}
}

/* Ask for credit when there is something to send and no room for it. */
static void credit_ask(struct vsock_connection *c)
{
	if (c->state != VSOCK_OPEN || !c->readable || c->credit_asked || guest_room(c))
		return;
	c->credit_asked = true;
	c->pending |= VSOCK_PEND_CREDIT_REQUEST;
}

void vsock_connection_take(struct vsock_connection *c, const struct vsock_packet *p, struct iovec *iov,
			   unsigned count)
{
	if (p->op == VSOCK_OP_RST) {
		c->totals->refused += c->state == VSOCK_REQUESTED;
		c->totals->resets += c->state == VSOCK_OPEN;
		vsock_connection_close(c);
		c->pending = 0;
		move(c, VSOCK_GONE);
		return;
	}
	c->guest_alloc = p->buf_alloc;
	c->guest_taken = p->fwd_cnt;
	if (guest_room(c))
		c->credit_asked = false;
	if (c->state != VSOCK_REQUESTED)
		take_open(c, p, iov, count);
	else if (p->op == VSOCK_OP_RESPONSE && !(c->pending & VSOCK_PEND_REQUEST))
		accepted(c);
	else
		violate(c);
	credit_ask(c);
}

/* Whether payload may go to the guest. */
static bool may_send(const struct vsock_connection *c)
{
	return c->state == VSOCK_OPEN && c->readable && !(c->pending & VSOCK_PEND_RESPONSE) && guest_room(c);
}

bool vsock_connection_has_packet(const struct vsock_connection *c)
{
	return c->pending || may_send(c);
}

/* Read for the guest. Return: bytes, 0 when there are none now. */
static uint32_t read_host(struct vsock_connection *c, const struct iovec *iov, unsigned count)
{
	struct iovec part[VIRTQUEUE_SIZE_MAX];
	struct msghdr msg = {.msg_iov = part};
	uint32_t room = guest_room(c), left;
	ssize_t n;

	if (room > VSOCK_PAYLOAD_MAX)
		room = VSOCK_PAYLOAD_MAX;
	left = room;
	for (unsigned i = 0; i < count && i < VIRTQUEUE_SIZE_MAX && left; i++) {
		part[i] = iov[i];
		if (part[i].iov_len > left)
			part[i].iov_len = left;
		left -= (uint32_t)part[i].iov_len;
		msg.msg_iovlen = i + 1;
	}
	room -= left;
	if (room == 0)
		return 0; /* a buffer of the guest's that has room for a header only */
	n = recvmsg(c->fd, &msg, MSG_DONTWAIT);
	if (n < 0 && !is_later(errno)) {
		vsock_connection_reset(c);
		return 0;
	}
	/* Short: the socket is empty, and will say so when it is not; one that hung up says nothing more. */
	if (n <= 0 || (n < (ssize_t)room && !c->hung_up))
		c->readable = false;
	if (n == 0)
		host_ends(c, VSOCK_SHUTDOWN_SEND);
	return n > 0 ? (uint32_t)n : 0;
}

/* The packet of the first of the pending bits. */
static uint16_t pending_take(struct vsock_connection *c)
{
	static const struct {
		unsigned bit;
		uint16_t op;
	} order[] = {
		{VSOCK_PEND_RST, VSOCK_OP_RST},
		{VSOCK_PEND_REQUEST, VSOCK_OP_REQUEST},
		{VSOCK_PEND_RESPONSE, VSOCK_OP_RESPONSE},
		{VSOCK_PEND_SHUTDOWN, VSOCK_OP_SHUTDOWN},
		{VSOCK_PEND_CREDIT_REQUEST, VSOCK_OP_CREDIT_REQUEST},
		{VSOCK_PEND_CREDIT_UPDATE, VSOCK_OP_CREDIT_UPDATE},
	};

	for (size_t i = 0; i < ARRAY_SIZE(order); i++) {
		if (c->pending & order[i].bit) {
			c->pending &= ~order[i].bit;
			return order[i].op;
		}
	}
	return VSOCK_OP_INVALID;
}

/* What follows from a packet that was made. */
static void made(struct vsock_connection *c, uint16_t op)
{
	if (op == VSOCK_OP_RST && c->state == VSOCK_RESETTING) {
		move(c, VSOCK_GONE);
	} else if (op == VSOCK_OP_SHUTDOWN && c->host_end == VSOCK_SHUTDOWN_BOTH) {
		vsock_connection_close(c);
		move(c, VSOCK_CLOSING);
		c->pending = 0;
		c->ticks = CLOSING_TICKS;
	}
	/* Every packet tells the room. */
	c->taken_told = c->taken;
	c->pending &= ~VSOCK_PEND_CREDIT_UPDATE;
}

bool vsock_connection_make(struct vsock_connection *c, const struct iovec *iov, unsigned count,
			   struct vsock_packet *ret)
{
	uint16_t op = VSOCK_OP_INVALID;
	uint32_t len = 0;

	/* Payload first, but for what must come before it; so an end never overtakes what was sent before it. */
	if (!(c->pending & (VSOCK_PEND_RST | VSOCK_PEND_REQUEST | VSOCK_PEND_RESPONSE)) && may_send(c)) {
		len = read_host(c, iov, count);
		if (len)
			op = VSOCK_OP_RW;
	}
	if (op == VSOCK_OP_INVALID)
		op = pending_take(c);
	c->sent += len;
	c->totals->to_guest_bytes += len;
	*ret = (struct vsock_packet){
		.src_port = c->host_port,
		.dst_port = c->guest_port,
		.len = len,
		.type = VSOCK_TYPE_STREAM,
		.op = op,
		.flags = op == VSOCK_OP_SHUTDOWN ? c->host_end : 0,
		.buf_alloc = VSOCK_BUFFER_BYTES,
		.fwd_cnt = c->taken,
	};
	if (op == VSOCK_OP_INVALID)
		return false;
	made(c, op);
	credit_ask(c);
	return true;
}

/* The host's program has closed its end altogether. */
static void hung_up(struct vsock_connection *c)
{
	/* It cannot be waited for any more: nothing changes at the other end. */
	io_source_free(TAKE_PTR(c->source));
	c->hung_up = true;
	switch (c->state) {
	case VSOCK_OPEN:
		host_ends(c, VSOCK_SHUTDOWN_RECEIVE);
		/* What it sent before is still there; its end is found by reading. */
		if (c->guest_end & VSOCK_SHUTDOWN_RECEIVE)
			host_ends(c, VSOCK_SHUTDOWN_SEND);
		else if (!(c->host_end & VSOCK_SHUTDOWN_SEND))
			c->readable = true;
		break;
	case VSOCK_HELLO:
	case VSOCK_REQUESTED:
	case VSOCK_DRAINING:
		vsock_connection_reset(c);
		break;
	case VSOCK_CLOSING:
	case VSOCK_RESETTING:
	case VSOCK_GONE:
	case VSOCK_STATES:
		break;
	}
}

void vsock_connection_host_event(struct vsock_connection *c, uint32_t events)
{
	if (events & (EPOLLHUP | EPOLLERR)) {
		hung_up(c);
	} else {
		if (events & EPOLLOUT)
			buffer_flush(c);
		if (events & EPOLLIN && c->state == VSOCK_OPEN)
			c->readable = true;
	}
	credit_ask(c);
}

uint32_t vsock_connection_wants(const struct vsock_connection *c)
{
	uint32_t events = c->buffer_len ? EPOLLOUT : 0;

	if (c->state == VSOCK_HELLO)
		return EPOLLIN;
	if (c->state == VSOCK_OPEN && !c->readable && !(c->host_end & VSOCK_SHUTDOWN_SEND) &&
	    !(c->guest_end & VSOCK_SHUTDOWN_RECEIVE))
		events |= EPOLLIN;
	return events;
}

void vsock_connection_tick(struct vsock_connection *c)
{
	if (c->ticks && --c->ticks == 0)
		vsock_connection_reset(c);
}

DEFINE_SYSCALLS(vsock_connection_syscalls, SYSCALL(recvmsg), SYSCALL(sendto), SYSCALL(sendmsg),
		SYSCALL(shutdown));

/* vsock_connection_drop(), the part that any thread may call. */
DEFINE_SYSCALLS(vsock_drop_syscalls, SYSCALL(shutdown));
