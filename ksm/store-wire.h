/* SPDX-License-Identifier: Apache-2.0 */
/* What VMs and the daemon say to each other: messages over a socket, and the memory file with their rings. */
#ifndef SARDINE_KSM_STORE_WIRE_H
#define SARDINE_KSM_STORE_WIRE_H

#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/errmsg.h"
#include "ksm/ring.h"
#include "ksm/store-types.h"

/*
 * Protocol
 *
 * A connection is a Unix socket of type SOCK_SEQPACKET; a message is one struct below, in the byte order of the host. A
 * client sends a call and gets one answer with the call's serial. Between answers the daemon may send bells
 * (STORE_WIRE_BELL): events lie in the ring. Calls of one connection are worked on in their order.
 *
 * The first call is HELLO, with a range of versions; the answer says which one is spoken from then on: the highest that both
 * know. A daemon serves VMs of the previous release, so each release keeps the last one's version. HELLO and the heads of calls and answers
 * never change. With it comes one memory file, sealed against growing and shrinking, with what struct store_wire_room describes; both sides check it.
 *
 * The rings of records and answers are empty between calls, and both sides begin each call at their start: small batches touch
 * little memory.
 *
 * A call that is not known is answered -ENOSYS. A message that is malformed (its length, an index of a ring, a descriptor too
 * many) ends the connection. Calls with results below 0 changed nothing, but for REFS, which says how many were done.
 *
 * Whose VM it is the daemon learns from the kernel (SCM_CREDENTIALS of HELLO: handed-over sockets were made by somebody
 * else), never from a message.
 */
#define STORE_WIRE_VERSION_MIN 1u
#define STORE_WIRE_VERSION_MAX 1u

/* Frames that a VM may have: 1 TiB, as much as a configuration takes. A bitmap of 32 MiB. */
#define STORE_WIRE_FRAMES_MAX (1u << 28)
/* Records of one submission, and references of one call. */
#define STORE_WIRE_BATCH STORE_BATCH_MAX
/* Events that wait for a VM to read them. */
#define STORE_WIRE_EVENTS 4096u
#define STORE_WIRE_NAME	  64u

enum store_wire_kind {
	STORE_WIRE_HELLO = 1,
	STORE_WIRE_SUBMIT, /* count: so many struct store_record in the ring of records; answers come in theirs */
	STORE_WIRE_LEND,  /* count: pages; the answer: value is the loan, and a descriptor */
	STORE_WIRE_OFFER, /* count: the loan; value: the segment */
	STORE_WIRE_ADOPT, /* with a descriptor; value: the segment */
	STORE_WIRE_FETCH, /* count: the segment; the answer comes with a descriptor */
	STORE_WIRE_REFS, /* count: so many struct store_wire_ref in the ring of records; value: how many were done */
	STORE_WIRE_BYE,
	STORE_WIRE_STATS, /* instead of HELLO; the answer comes with a memory file: JSON, of value bytes */
	STORE_WIRE_ANSWER = 0x1000,
	STORE_WIRE_BELL,
};

/* All calls but HELLO. */
struct store_wire_call {
	uint32_t kind;
	uint32_t serial;
	uint32_t count;
	uint32_t reserved; /* 0 */
};

struct store_wire_hello {
	uint32_t kind;
	uint32_t serial;
	uint32_t version_min, version_max;
	uint64_t frames;
	uint64_t reserved;	       /* 0 */
	char vm_name[STORE_WIRE_NAME]; /* ended by a zero byte */
};

/* Answers, and bells (all zero but the kind). */
struct store_wire_answer {
	uint32_t kind;
	uint32_t serial;
	int32_t result;	  /* 0 or a negative errno */
	uint32_t version; /* of HELLO */
	uint32_t value;
	uint32_t reserved; /* 0 */
};

/* In the ring of records. */
struct store_wire_ref {
	uint32_t segment;
	uint32_t page, pages;
	int32_t delta; /* 1 or -1 */
};

_Static_assert(sizeof(struct store_wire_call) == 16 && sizeof(struct store_wire_answer) == 24 &&
		       sizeof(struct store_wire_hello) == 96 &&
		       offsetof(struct store_wire_hello, frames) == 16 &&
		       offsetof(struct store_wire_hello, vm_name) == 32,
	       "these cross process boundaries");
_Static_assert(sizeof(struct store_wire_ref) == sizeof(struct store_record), "they share a ring");

/* What the whole store comes to, written by the daemon about twice a second; a VM believes or not. */
struct store_wire_figures {
	_Atomic uint64_t known;		  /* 1: they were written */
	_Atomic uint64_t mappings, saved; /* as in struct store_shares */
	uint64_t reserved[5];
};
_Static_assert(sizeof(struct store_wire_figures) == 64, "rings behind it are aligned");

/* The memory file of a connection: figures, rings, and from bitmap_at on (a multiple of 4,096) the bits of recorded frames. */
struct store_wire_room {
	size_t figures_at, records_at, answers_at, events_at, bitmap_at, bitmap_bytes, bytes;
};

/* For 1 to STORE_WIRE_FRAMES_MAX frames. */
struct store_wire_room store_wire_room(uint64_t frames);

/**
 * store_wire_room_new() - Make the memory file of a connection, zeroed and sealed.
 *
 * Return: 0 or the errno of memfd_create, ftruncate or fcntl.
 */
int store_wire_room_new(const struct store_wire_room *room, int *ret_fd) must_check;

/**
 * store_wire_room_check() - Whether a descriptor is such a file: of that size, for ever, in small pages.
 * @fd: not trusted.
 *
 * Reading and writing it through a mapping cannot fail then, whatever the other side does with it.
 *
 * Return: 0, -EPERM when seals are missing, or -EINVAL.
 */
int store_wire_room_check(int fd, const struct store_wire_room *room) must_check;

/* A message as it was received. Descriptors are the receiver's to close. */
#define STORE_WIRE_FDS_MAX 4u
struct store_wire_message {
	union {
		struct store_wire_call call;
		struct store_wire_hello hello;
		struct store_wire_answer answer;
		uint8_t bytes[128];
	};
	size_t len; /* above sizeof(bytes): cut off */
	int fds[STORE_WIRE_FDS_MAX];
	size_t fd_count;
	bool fds_lost; /* there were more */
	bool credited; /* the kernel said who sent it: */
	uint32_t pid, uid;
};

/**
 * store_wire_send() - Send a message, never waiting.
 * @pass_fd: goes with it; -1: none.
 *
 * Return: 0, -EAGAIN when the other side does not read, -EPIPE, or another errno.
 */
int store_wire_send(int fd, const void *bytes, size_t len, int pass_fd) must_check;

/**
 * store_wire_receive() - Receive a message, never waiting.
 * @ret: ended with store_wire_message_done(), but after a failure.
 *
 * Return: 0, -EAGAIN, -ECONNRESET when the other side is gone, or another errno.
 */
int store_wire_receive(int fd, struct store_wire_message *ret) must_check;
/* Close the descriptors that nobody took. */
void store_wire_message_done(struct store_wire_message *m);

#endif
