/* SPDX-License-Identifier: Apache-2.0 */
/* The connections of a vsock device, and which packet goes where. */
#ifndef SARDINE_VMM_VSOCK_SWITCH_H
#define SARDINE_VMM_VSOCK_SWITCH_H

#include "vmm/vsock-connection.h"
#include "vmm/vsock-host.h"

/* Connections at a time, whoever began them, until they are gone altogether. */
#define VSOCK_CONNECTIONS_MAX 64
/* RSTs that wait for the guest's room, for packets that have no connection. */
#define VSOCK_RESETS_MAX 32

/* All under the device's lock, on the loop's thread where nothing else is said. */
struct vsock_switch {
	/* Set by the device before vsock_switch_init(). */
	struct io_loop *loop;
	void *owner;	    /* the device, as in each connection */
	io_source_fn ready; /* for the events of a connection's host end, with the connection */
	uint32_t cid;	    /* the guest's */

	struct vsock_host *host;
	struct vsock_connection *connections; /* in the order of their turns */
	unsigned count;
	struct vsock_connection *dead; /* of before a reset */
	uint32_t next_host_port;
	struct vsock_packet resets[VSOCK_RESETS_MAX];
	unsigned resets_at, resets_count;
	uint64_t made; /* connections that came to be */
	struct vsock_totals totals;
};

/**
 * vsock_switch_init() - Listen for the host's programs.
 * @path, @err: as vsock_host_new().
 * @came: called with the owner for each program that connects.
 *
 * Return: as vsock_host_new(); vsock_switch_done() in any case.
 */
int vsock_switch_init(struct vsock_switch *s, const char *path, unix_server_fn came,
		      struct errmsg *err) must_check;
/* Context: the loop has stopped. */
void vsock_switch_done(struct vsock_switch *s);

/* Whether a packet of the guest must wait, since the answer to it might have no room. */
static inline bool vsock_switch_is_full(const struct vsock_switch *s)
{
	return s->resets_count == VSOCK_RESETS_MAX;
}

/* A packet of the guest, with its payload (@p->len bytes) in @iov; not while the switch is full. */
void vsock_switch_take(struct vsock_switch *s, const struct vsock_packet *p, struct iovec *iov,
		       unsigned count);

/* Whether there is a packet for the guest; it may turn out that there is none. */
bool vsock_switch_has_packet(const struct vsock_switch *s);

/**
 * vsock_switch_next() - Make the next packet for the guest.
 * @iov, @count: room for payload, at least a byte.
 *
 * Return: whether there is one.
 */
bool vsock_switch_next(struct vsock_switch *s, const struct iovec *iov, unsigned count,
		       struct vsock_packet *ret);

/* A program of the host has connected; @fd is ours. */
void vsock_switch_add_program(struct vsock_switch *s, int fd);

/* EPOLL* bits of a connection's host end. @running: there is a guest's driver to ask for new connections. */
void vsock_switch_host_event(struct vsock_switch *s, struct vsock_connection *c, uint32_t events,
			     bool running);

/* VSOCK_TICK_NS have passed. @guest_too: for the guest as well, which could have answered. */
void vsock_switch_tick(struct vsock_switch *s, bool guest_too);

/* After anything has happened: watch for what is wanted, free what is gone. Return: whether ticks are wanted. */
bool vsock_switch_settle(struct vsock_switch *s);

/* End all connections. Context: any thread. */
void vsock_switch_drop(struct vsock_switch *s);

/* Free what vsock_switch_drop() left. */
void vsock_switch_bury(struct vsock_switch *s);

#endif
