/* SPDX-License-Identifier: Apache-2.0 */
/* The guest's side of a vsock device, for tests: packets in and out, in whatever order and form. */
#ifndef SARDINE_TESTS_UNIT_VSOCK_GUEST_H
#define SARDINE_TESTS_UNIT_VSOCK_GUEST_H

#include <string.h>

#include "tests/unit/virtio_driver.h"
#include "vmm/vsock-packet.h"

#define GUEST_RX	 0
#define GUEST_TX	 1
#define GUEST_BUFFERS	 16u
#define GUEST_BUFFER_LEN (VSOCK_WIRE_BYTES + 4096u)
#define GUEST_RX_DATA	 DRIVER_DATA
#define GUEST_TX_DATA	 (DRIVER_DATA + 0x100000u)
#define GUEST_CID	 7u

struct vsock_guest {
	struct driver *d;
	uint32_t buf_alloc, fwd_cnt; /* what send() says of its room */
};

static inline void guest_offer(struct vsock_guest *g, uint16_t i)
{
	struct driver_queue *q = &g->d->queues[GUEST_RX];

	driver_desc(q, i, GUEST_RX_DATA + i * 0x2000u, GUEST_BUFFER_LEN, VIRTQ_DESC_F_WRITE, 0);
	driver_offer(q, i);
}

/* All of it: the driver is up and has offered @buffers. */
static inline bool guest_start(struct vsock_guest *g, struct driver *d, unsigned buffers)
{
	*g = (struct vsock_guest){.d = d, .buf_alloc = 65536};
	if (!driver_start(d, VIRTIO_FEATURE_EVENT_IDX | 1, 64))
		return false;
	for (uint16_t i = 0; i < buffers; i++)
		guest_offer(g, i);
	driver_kick(d, GUEST_RX);
	return true;
}

static inline struct vsock_packet guest_packet(const struct vsock_guest *g, uint32_t guest_port,
					       uint32_t host_port, uint16_t op)
{
	return (struct vsock_packet){
		.src_cid = GUEST_CID,
		.dst_cid = VSOCK_CID_HOST,
		.src_port = guest_port,
		.dst_port = host_port,
		.type = VSOCK_TYPE_STREAM,
		.op = op,
		.buf_alloc = g->buf_alloc,
		.fwd_cnt = g->fwd_cnt,
	};
}

/* Put a packet, as it stands, into the queue and kick; descriptor 0 is the one in use. */
static inline void guest_post(struct vsock_guest *g, const struct vsock_packet *p, const void *data,
			      uint32_t len)
{
	uint8_t *at = driver_ptr(g->d, GUEST_TX_DATA, VSOCK_WIRE_BYTES + len);

	vsock_packet_encode(p, at);
	if (len)
		memcpy(at + VSOCK_WIRE_BYTES, data, len);
	driver_desc(&g->d->queues[GUEST_TX], 0, GUEST_TX_DATA, VSOCK_WIRE_BYTES + len, 0, 0);
	driver_send(g->d, GUEST_TX, 0);
}

/* The same, and wait until it was taken. */
static inline bool guest_send(struct vsock_guest *g, struct vsock_packet p, const void *data, uint32_t len)
{
	p.len = len;
	guest_post(g, &p, data, len);
	return driver_wait(g->d, GUEST_TX, 1) && driver_take(&g->d->queues[GUEST_TX], NULL) == 0;
}

/* A packet that is there already. Return: whether there was one; its payload is in @data, of 4096 bytes; the buffer is
 * offered again if @again. */
static inline bool guest_take(struct vsock_guest *g, struct vsock_packet *ret, void *data, bool again)
{
	uint32_t written = 0, i;
	uint8_t *at;

	i = driver_take(&g->d->queues[GUEST_RX], &written);
	if (i >= GUEST_BUFFERS || written < VSOCK_WIRE_BYTES || written > GUEST_BUFFER_LEN)
		return false;
	at = driver_ptr(g->d, GUEST_RX_DATA + i * 0x2000u, GUEST_BUFFER_LEN);
	*ret = vsock_packet_decode(at);
	if (ret->len != written - VSOCK_WIRE_BYTES)
		return false;
	if (data)
		memcpy(data, at + VSOCK_WIRE_BYTES, ret->len);
	if (again) {
		guest_offer(g, (uint16_t)i);
		driver_kick(g->d, GUEST_RX);
	}
	return true;
}

/* The next packet, within 10 s. */
static inline bool guest_receive(struct vsock_guest *g, struct vsock_packet *ret, void *data)
{
	return driver_wait(g->d, GUEST_RX, 1) && guest_take(g, ret, data, true);
}

#endif
