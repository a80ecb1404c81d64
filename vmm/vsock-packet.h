/* SPDX-License-Identifier: Apache-2.0 */
/* The packets of virtio-vsock (virtio 1.2, 5.10.6): the header on the wire, and as numbers. */
#ifndef SARDINE_VMM_VSOCK_PACKET_H
#define SARDINE_VMM_VSOCK_PACKET_H

#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"

/* Context identifiers (virtio 1.2, 5.10.4): 0 to 2 are reserved, 2 is the host; the upper 32 bits are zero. */
#define VSOCK_CID_HOST 2u
#define VSOCK_CID_MIN  3u
#define VSOCK_CID_MAX  0xfffffffeu

/* No port (VMADDR_PORT_ANY of linux/vm_sockets.h). */
#define VSOCK_PORT_ANY 0xffffffffu

#define VSOCK_TYPE_STREAM 1

enum vsock_op {
	VSOCK_OP_INVALID,
	VSOCK_OP_REQUEST,
	VSOCK_OP_RESPONSE,
	VSOCK_OP_RST,
	VSOCK_OP_SHUTDOWN,
	VSOCK_OP_RW,
	VSOCK_OP_CREDIT_UPDATE,
	VSOCK_OP_CREDIT_REQUEST,
};

/* Flags of VSOCK_OP_SHUTDOWN: the sender will receive, or send, no more. */
#define VSOCK_SHUTDOWN_RECEIVE 1u
#define VSOCK_SHUTDOWN_SEND    2u
#define VSOCK_SHUTDOWN_BOTH    3u

/* On the wire, before the payload; packed, since a guest may put it anywhere. */
struct vsock_wire {
	le64_t src_cid;
	le64_t dst_cid;
	le32_t src_port;
	le32_t dst_port;
	le32_t len;
	le16_t type;
	le16_t op;
	le32_t flags;
	le32_t buf_alloc;
	le32_t fwd_cnt;
} __attribute__((packed, aligned(4)));

#define VSOCK_WIRE_BYTES 44
_Static_assert(sizeof(struct vsock_wire) == VSOCK_WIRE_BYTES, "virtio 1.2, 5.10.6");
_Static_assert(offsetof(struct vsock_wire, op) == 30, "virtio 1.2, 5.10.6");

/* A header as numbers, read once. */
struct vsock_packet {
	uint64_t src_cid;
	uint64_t dst_cid;
	uint32_t src_port;
	uint32_t dst_port;
	uint32_t len; /* of the payload */
	uint16_t type;
	uint16_t op;
	uint32_t flags;
	uint32_t buf_alloc;
	uint32_t fwd_cnt;
};

/* @wire: a copy of our own, not in guest memory. */
static inline struct vsock_packet vsock_packet_decode(const uint8_t wire[VSOCK_WIRE_BYTES])
{
	return (struct vsock_packet){
		.src_cid = load_le64(wire),
		.dst_cid = load_le64(wire + offsetof(struct vsock_wire, dst_cid)),
		.src_port = load_le32(wire + offsetof(struct vsock_wire, src_port)),
		.dst_port = load_le32(wire + offsetof(struct vsock_wire, dst_port)),
		.len = load_le32(wire + offsetof(struct vsock_wire, len)),
		.type = load_le16(wire + offsetof(struct vsock_wire, type)),
		.op = load_le16(wire + offsetof(struct vsock_wire, op)),
		.flags = load_le32(wire + offsetof(struct vsock_wire, flags)),
		.buf_alloc = load_le32(wire + offsetof(struct vsock_wire, buf_alloc)),
		.fwd_cnt = load_le32(wire + offsetof(struct vsock_wire, fwd_cnt)),
	};
}

static inline void vsock_packet_encode(const struct vsock_packet *p, uint8_t wire[VSOCK_WIRE_BYTES])
{
	store_le64(wire, p->src_cid);
	store_le64(wire + offsetof(struct vsock_wire, dst_cid), p->dst_cid);
	store_le32(wire + offsetof(struct vsock_wire, src_port), p->src_port);
	store_le32(wire + offsetof(struct vsock_wire, dst_port), p->dst_port);
	store_le32(wire + offsetof(struct vsock_wire, len), p->len);
	store_le16(wire + offsetof(struct vsock_wire, type), p->type);
	store_le16(wire + offsetof(struct vsock_wire, op), p->op);
	store_le32(wire + offsetof(struct vsock_wire, flags), p->flags);
	store_le32(wire + offsetof(struct vsock_wire, buf_alloc), p->buf_alloc);
	store_le32(wire + offsetof(struct vsock_wire, fwd_cnt), p->fwd_cnt);
}

#endif
