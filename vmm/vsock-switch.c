/* SPDX-License-Identifier: Apache-2.0 */
/* The connections of a vsock device, and which packet goes where. */
/*
 * Theory of operation
 *
 * A packet of the guest is for the connection with its two ports, or asks for a new one. Packets to the guest are made when it
 * has a buffer for one: connections have their turn one after the other, so that none starves. What has no
 * connection gets an RST from a ring of VSOCK_RESETS_MAX; while that is full, the guest's packets wait in their queue (a driver
 * must offer buffers independently of that: virtio 1.2, 5.10.6.1.1). So whatever the guest does, what is kept for it is
 * bounded.
 *
 * The guest's mistakes: a packet that says it comes from somebody else is dropped; one for another CID, of another type or
 * for a connection that there is not gets an RST (5.10.6.4.2); one that a connection's state does not allow resets this
 * connection. All but those for no connection are counted as violations.
 *
 * Sources of the loop can be freed on its thread only, and a device is reset by a vCPU: vsock_switch_drop() shuts the sockets down,
 * so that the host's programs see the end at once, and leaves the connections to vsock_switch_bury().
 */
#include "vmm/vsock-switch.h"

#include <sys/epoll.h>

/* Ports that stand for the host's programs: above those that people choose. */
#define HOST_PORT_FIRST 0x40000000u
#define HOST_PORT_LAST	0x7fffffffu

static void list_append(struct vsock_connection **list, struct vsock_connection *c)
{
	while (*list)
		list = &(*list)->next;
	c->next = NULL;
	*list = c;
}

static void list_remove(struct vsock_connection **list, const struct vsock_connection *c)
{
	while (*list != c)
		list = &(*list)->next;
	*list = c->next;
}

static struct vsock_connection *find(const struct vsock_switch *s, uint32_t host_port, uint32_t guest_port)
{
	for (struct vsock_connection *c = s->connections; c; c = c->next)
		if (vsock_connection_is_known(c) && c->host_port == host_port && c->guest_port == guest_port)
			return c;
	return NULL;
}

/* Whether the guest has yet to get the RST of an earlier connection with these ports. */
static bool is_ending(const struct vsock_switch *s, uint32_t host_port, uint32_t guest_port)
{
	for (struct vsock_connection *c = s->connections; c; c = c->next)
		if (vsock_connection_owes_reset(c) && c->host_port == host_port &&
		    c->guest_port == guest_port)
			return true;
	return false;
}

/* A port that no connection has. */
static uint32_t host_port_take(struct vsock_switch *s)
{
	const struct vsock_connection *c;
	uint32_t port;

	do {
		port = s->next_host_port;
		s->next_host_port = port == HOST_PORT_LAST ? HOST_PORT_FIRST : port + 1;
		for (c = s->connections; c && c->host_port != port; c = c->next)
			;
	} while (c);
	return port;
}

/* @fd: taken on success. Return: NULL when there are too many, or without memory. */
static struct vsock_connection *connection_add(struct vsock_switch *s, enum vsock_state state, int *fd)
{
	struct vsock_connection *c;

	if (s->count == VSOCK_CONNECTIONS_MAX)
		return NULL;
	c = vsock_connection_new(state, *fd, s->owner, &s->totals);
	if (!c)
		return NULL;
	c->watched = vsock_connection_wants(c);
	if (io_source_new(s->loop, *fd, c->watched, s->ready, c, &c->source) < 0) {
		c->fd = -1;
		vsock_connection_free(c);
		return NULL;
	}
	*fd = -1;
	list_append(&s->connections, c);
	s->count++;
	return c;
}

static void watch(struct vsock_connection *c)
{
	uint32_t wants = vsock_connection_wants(c);

	if (!c->source || wants == c->watched)
		return;
	if (io_source_set_events(c->source, wants) < 0)
		vsock_connection_reset(c);
	c->watched = wants;
}

void vsock_switch_bury(struct vsock_switch *s)
{
	while (s->dead) {
		struct vsock_connection *c = s->dead;

		s->dead = c->next;
		vsock_connection_free(c);
	}
}

/* An RST in answer to a packet; there is room for it. An RST itself is never answered. */
static void add_reset(struct vsock_switch *s, const struct vsock_packet *to)
{
	if (to->op == VSOCK_OP_RST)
		return;
	s->resets[(s->resets_at + s->resets_count++) % VSOCK_RESETS_MAX] = (struct vsock_packet){
		.src_cid = to->dst_cid,
		.src_port = to->dst_port,
		.dst_port = to->src_port,
		.type = to->type,
		.op = VSOCK_OP_RST,
	};
}

/* The guest connects to PATH_PORT. Return: whether it may. */
static bool guest_connects(struct vsock_switch *s, const struct vsock_packet *p)
{
	struct vsock_connection *c;
	auto_fd fd = -1;

	if (s->count == VSOCK_CONNECTIONS_MAX || vsock_host_connect(s->host, p->dst_port, &fd) < 0)
		return false;
	c = connection_add(s, VSOCK_OPEN, &fd);
	if (!c)
		return false;
	c->host_port = p->dst_port;
	c->guest_port = p->src_port;
	c->guest_alloc = p->buf_alloc;
	c->guest_taken = p->fwd_cnt;
	s->made++;
	return true;
}

/* Of a packet of the guest's own, for no connection that we know. */
static void take_unknown(struct vsock_switch *s, const struct vsock_packet *p)
{
	if (p->op == VSOCK_OP_REQUEST && is_ending(s, p->dst_port, p->src_port)) {
		s->totals.refused++; /* by the RST that is under way */
	} else if (p->op != VSOCK_OP_REQUEST) {
		add_reset(s, p);
	} else if (!guest_connects(s, p)) {
		s->totals.refused++;
		add_reset(s, p);
	}
}

void vsock_switch_take(struct vsock_switch *s, const struct vsock_packet *p, struct iovec *iov,
		       unsigned count)
{
	struct vsock_connection *c;
	bool asked;

	if (p->src_cid != s->cid) {
		s->totals.violations++;
		return;
	}
	if (p->dst_cid != VSOCK_CID_HOST || p->type != VSOCK_TYPE_STREAM) {
		s->totals.violations++;
		add_reset(s, p);
		return;
	}
	c = find(s, p->dst_port, p->src_port);
	if (!c) {
		take_unknown(s, p);
		return;
	}
	asked = c->state == VSOCK_REQUESTED;
	vsock_connection_take(c, p, iov, count);
	s->made += asked && c->state == VSOCK_OPEN;
}

bool vsock_switch_settle(struct vsock_switch *s)
{
	struct vsock_connection *next;
	bool patience = false;

	for (struct vsock_connection *c = s->connections; c; c = next) {
		next = c->next;
		watch(c);
		patience |= c->ticks > 0;
		if (c->state != VSOCK_GONE)
			continue;
		list_remove(&s->connections, c);
		s->count--;
		vsock_connection_free(c);
	}
	return patience;
}

/* The first whose turn it is; it goes to the end. */
static struct vsock_connection *next_sender(struct vsock_switch *s)
{
	struct vsock_connection *c = s->connections;

	while (c && !vsock_connection_has_packet(c))
		c = c->next;
	if (c) {
		list_remove(&s->connections, c);
		list_append(&s->connections, c);
	}
	return c;
}

bool vsock_switch_next(struct vsock_switch *s, const struct iovec *iov, unsigned count,
		       struct vsock_packet *ret)
{
	struct vsock_connection *c;

	if (s->resets_count) {
		*ret = s->resets[s->resets_at];
		ret->dst_cid = s->cid;
		s->resets_at = (s->resets_at + 1) % VSOCK_RESETS_MAX;
		s->resets_count--;
		return true;
	}
	/* One that had nothing after all has nothing when it is asked again. */
	while ((c = next_sender(s))) {
		if (!vsock_connection_make(c, iov, count, ret))
			continue;
		ret->src_cid = VSOCK_CID_HOST;
		ret->dst_cid = s->cid;
		return true;
	}
	return false;
}

bool vsock_switch_has_packet(const struct vsock_switch *s)
{
	if (s->resets_count)
		return true;
	for (const struct vsock_connection *c = s->connections; c; c = c->next)
		if (vsock_connection_has_packet(c))
			return true;
	return false;
}

void vsock_switch_add_program(struct vsock_switch *s, int new_fd)
{
	auto_fd fd = new_fd;

	if (!connection_add(s, VSOCK_HELLO, &fd))
		s->totals.refused++;
}

/* A program says where to. */
static void hello(struct vsock_switch *s, struct vsock_connection *c, bool running)
{
	uint32_t port;
	int r = vsock_hello_read(c->fd, c->hello, sizeof(c->hello), &c->hello_len, &port);

	if (r == 0)
		return;
	if (r > 0 && running) {
		vsock_connection_requested(c, host_port_take(s), port);
		return;
	}
	s->totals.refused++;
	vsock_connection_reset(c);
}

void vsock_switch_host_event(struct vsock_switch *s, struct vsock_connection *c, uint32_t events,
			     bool running)
{
	if (c->state == VSOCK_HELLO && !(events & (EPOLLHUP | EPOLLERR)))
		hello(s, c, running);
	else
		vsock_connection_host_event(c, events);
}

void vsock_switch_tick(struct vsock_switch *s, bool guest_too)
{
	for (struct vsock_connection *c = s->connections; c; c = c->next)
		if (guest_too || c->state == VSOCK_HELLO)
			vsock_connection_tick(c);
}

void vsock_switch_drop(struct vsock_switch *s)
{
	while (s->connections) {
		struct vsock_connection *c = s->connections;

		s->connections = c->next;
		vsock_connection_drop(c);
		list_append(&s->dead, c);
	}
	s->count = 0;
	s->resets_count = 0;
}

int vsock_switch_init(struct vsock_switch *s, const char *path, unix_server_fn came, struct errmsg *err)
{
	s->next_host_port = HOST_PORT_FIRST;
	return vsock_host_new(s->loop, path, came, s->owner, err, &s->host);
}

void vsock_switch_done(struct vsock_switch *s)
{
	vsock_host_free(TAKE_PTR(s->host));
	vsock_switch_drop(s);
	vsock_switch_bury(s);
}
