/* SPDX-License-Identifier: Apache-2.0 */
/* One vsock connection: a guest's socket at one end, a Unix socket of the host at the other. */
#ifndef SARDINE_VMM_VSOCK_CONNECTION_H
#define SARDINE_VMM_VSOCK_CONNECTION_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/cleanup.h"
#include "base/syscalls.h"
#include "vmm/io-loop.h"
#include "vmm/vsock-packet.h"

/* What a guest may send beyond what the host's program has taken; allocated only while there is something in it. */
#define VSOCK_BUFFER_BYTES 32768u

/* The most payload of one packet to the guest. */
#define VSOCK_PAYLOAD_MAX 65536u

/* Longest first line of a host's program, "CONNECT PORT\n". */
#define VSOCK_HELLO_MAX 32

enum vsock_state {
	VSOCK_HELLO,	 /* a host's program came and has not said its port yet */
	VSOCK_REQUESTED, /* the guest was asked whether it takes the connection */
	VSOCK_OPEN,
	VSOCK_CLOSING,	 /* the host's end is gone, and the guest knows; its RST is the last we hear */
	VSOCK_DRAINING,	 /* the guest's end is gone; the host's program takes what is in the buffer */
	VSOCK_RESETTING, /* all is gone but the RST, which waits for the guest's room */
	VSOCK_GONE,	 /* to be freed */
	VSOCK_STATES,
};

/* Sums over all connections of a device. */
struct vsock_totals {
	uint64_t to_host_bytes;
	uint64_t to_guest_bytes;
	uint64_t refused; /* connections that never were: nobody listens, or too many */
	uint64_t resets;  /* connections that ended by an RST, of either side, because something went wrong */
	uint64_t violations; /* packets against the protocol */
};

struct vsock_connection {
	enum vsock_state state;
	struct vsock_totals *totals;
	void *owner;		  /* the device */
	struct io_source *source; /* NULL: nothing to watch for any more */
	uint32_t watched;	  /* EPOLL* bits of it */
	int fd;			  /* -1: the host's end is closed */
	uint32_t host_port;
	uint32_t guest_port;
	unsigned pending;   /* VSOCK_PEND_*: packets for the guest */
	unsigned ticks;	    /* patience left, in VSOCK_TICK_NS; 0: endless */
	uint32_t guest_end; /* VSOCK_SHUTDOWN_*: what the guest will do no more */
	uint32_t host_end;  /* VSOCK_SHUTDOWN_*: what the host's program will do no more */
	bool readable;	    /* the host's program has sent something, or its end */
	bool hung_up;	    /* it has closed; what it sent before can be read still */

	/* Credit (virtio 1.2, 5.10.6.3). Counters wrap. */
	uint32_t guest_alloc; /* room of the guest's socket */
	uint32_t guest_taken; /* what its program has taken (fwd_cnt) */
	uint32_t sent;	      /* to it */
	bool credit_asked;    /* CREDIT_REQUEST is out */
	uint32_t received;    /* from the guest */
	uint32_t taken;	      /* of that, by the host's program: our fwd_cnt */
	uint32_t taken_told;  /* as the guest knows it */

	uint8_t *buffer; /* VSOCK_BUFFER_BYTES, or NULL while it is empty */
	uint32_t buffer_at;
	uint32_t buffer_len;

	char hello[VSOCK_HELLO_MAX];
	unsigned hello_len;

	struct vsock_connection *next; /* for the owner's lists */
};

/* The unit of patience; a device that is held has endless patience. */
#define VSOCK_TICK_NS 1000000000ull

/* "open".. A constant string. */
const char *vsock_state_name(enum vsock_state state);
/* Whether a connection may go from one state to another. */
bool vsock_state_may_move(enum vsock_state from, enum vsock_state to);

/**
 * vsock_connection_new() - A connection, not watched yet.
 * @state: VSOCK_HELLO for one that a host's program began, VSOCK_OPEN for one of the guest's that was connected.
 * @fd: of the host's end, non-blocking; the connection's on success.
 * @owner: the device.
 * @totals: outlives the connection.
 *
 * Context: this and all others but vsock_connection_drop(): the loop's thread, under the device's lock.
 * Return: NULL without memory.
 */
struct vsock_connection *vsock_connection_new(enum vsock_state state, int fd, void *owner,
					      struct vsock_totals *totals);
void vsock_connection_free(struct vsock_connection *c);

/**
 * vsock_connection_requested() - The host's program has said where to: ask the guest.
 * @c: in state VSOCK_HELLO.
 * @host_port: the number that stands for the program.
 * @guest_port: where to.
 */
void vsock_connection_requested(struct vsock_connection *c, uint32_t host_port, uint32_t guest_port);

/**
 * vsock_connection_take() - A packet of the guest for this connection.
 * @c: in a state in which packets find it: vsock_connection_is_known().
 * @p: the header; @p->len bytes of payload are in @iov.
 */
void vsock_connection_take(struct vsock_connection *c, const struct vsock_packet *p, struct iovec *iov,
			   unsigned count);

/* Whether the guest's packets with these ports are for @c. */
bool vsock_connection_is_known(const struct vsock_connection *c);

/* Whether the guest has yet to get the RST that ends the connection: its ports are not free before. */
bool vsock_connection_owes_reset(const struct vsock_connection *c);

/* Whether there is a packet for the guest; making it may find that there is none after all. */
bool vsock_connection_has_packet(const struct vsock_connection *c);

/**
 * vsock_connection_make() - The next packet for the guest.
 * @c: the connection.
 * @iov, @count: room for payload.
 * @ret: all but the CIDs.
 *
 * Return: whether there is one.
 */
bool vsock_connection_make(struct vsock_connection *c, const struct iovec *iov, unsigned count,
			   struct vsock_packet *ret);

/* EPOLL* bits of the host's end, but for its first line. */
void vsock_connection_host_event(struct vsock_connection *c, uint32_t events);

/* EPOLL* bits to watch for now. */
uint32_t vsock_connection_wants(const struct vsock_connection *c);

/* A tick of the clock: patience may end. */
void vsock_connection_tick(struct vsock_connection *c);

/* End it, with an RST to the guest if it knows of the connection. */
void vsock_connection_reset(struct vsock_connection *c);

/**
 * vsock_connection_drop() - End it without a word to the guest: the device is reset. The host's program sees the end at once; the
 * descriptor is closed by vsock_connection_free().
 *
 * Context: any thread, under the device's lock.
 */
void vsock_connection_drop(struct vsock_connection *c);

/* Close the host's end. */
void vsock_connection_close(struct vsock_connection *c);

extern const struct syscall_list vsock_connection_syscalls;
extern const struct syscall_list vsock_drop_syscalls;

#endif
