/* SPDX-License-Identifier: Apache-2.0 */
/* vsock: one connection at a time, its packets by hand or as a stream with credit. */
#include "virtio.h"

#define RX	     0
#define TX	     1
#define QUEUES	     3
#define BUFFERS	     8
#define HEADER_BYTES 44
#define BUFFER_BYTES 4096
#define CHUNK	     2048
#define ROOM	     65536
#define TIMEOUT_US   20000000

enum { OP_REQUEST = 1, OP_RESPONSE, OP_RST, OP_SHUTDOWN, OP_RW, OP_CREDIT_UPDATE, OP_CREDIT_REQUEST };

struct header {
	uint64_t src_cid, dst_cid;
	uint32_t src_port, dst_port, len;
	uint16_t type, op;
	uint32_t flags, buf_alloc, fwd_cnt;
} __attribute__((packed));
_Static_assert(sizeof(struct header) == HEADER_BYTES, "virtio 1.2, 5.10.6");

static uint8_t rx[BUFFERS][BUFFER_BYTES] __attribute__((aligned(4096)));
static uint8_t tx[HEADER_BYTES + CHUNK] __attribute__((aligned(4096)));

static struct {
	bool up;
	uint32_t guest_port, host_port;
	uint32_t sent, received;	/* payload, since the connection began */
	uint32_t host_room, host_taken; /* as its last packet said */
} vs;

static void offer(struct device *d, uint16_t i)
{
	d->queue[RX].desc[i] = (struct desc){(uint64_t)rx[i], BUFFER_BYTES, DESC_WRITE, 0};
	queue_add(&d->queue[RX], i);
}

static struct device *start(const struct command *c)
{
	struct device *d = virtio_device(c, VIRTIO_ID_VSOCK);
	const char *error;

	if (!d || (vs.up && !arg(c, "restart", 0)))
		return d;
	memset(&vs, 0, sizeof(vs));
	error = virtio_start(d, arg(c, "features", F_EVENT_IDX), QUEUES, BUFFERS);
	if (error) {
		fail(c, "%s", error);
		return NULL;
	}
	for (uint16_t i = 0; i < BUFFERS; i++)
		offer(d, i);
	queue_kick(d, RX);
	vs.up = true;
	return d;
}

/* Send a packet whose payload is in tx already. */
static const char *send(struct device *d, uint16_t op, uint32_t flags, uint32_t len)
{
	struct queue *q = &d->queue[TX];
	const struct header h = {
		.src_cid = mmio_read32(d->base + REG_CONFIG),
		.dst_cid = 2,
		.src_port = vs.guest_port,
		.dst_port = vs.host_port,
		.len = len,
		.type = 1,
		.op = op,
		.flags = flags,
		.buf_alloc = ROOM,
		.fwd_cnt = vs.received,
	};
	const char *error;
	uint32_t written;
	uint16_t head;

	memcpy(tx, &h, sizeof(h));
	q->desc[0] = (struct desc){(uint64_t)tx, HEADER_BYTES + len, 0, 0};
	queue_add(q, 0);
	queue_kick(d, TX);
	error = queue_wait(d, TX, TIMEOUT_US);
	if (!error && !queue_pop(q, &head, &written))
		error = "used-unknown-head";
	if (op == OP_RW)
		vs.sent += len;
	return error;
}

/* The next packet: header in *ret, payload in *data until it is offered again. Its buffer's number in *i. */
static const char *receive(struct device *d, struct header *ret, const uint8_t **data, uint16_t *i)
{
	const char *error = queue_wait(d, RX, TIMEOUT_US);
	uint32_t written;

	if (error)
		return error;
	if (!queue_pop(&d->queue[RX], i, &written) || *i >= BUFFERS || written < HEADER_BYTES)
		return "bad-used-element";
	memcpy(ret, rx[*i], sizeof(*ret));
	if (ret->len != written - HEADER_BYTES)
		return "bad-length";
	*data = rx[*i] + HEADER_BYTES;
	vs.host_room = ret->buf_alloc;
	vs.host_taken = ret->fwd_cnt;
	return NULL;
}

static void give_back(struct device *d, uint16_t i)
{
	offer(d, i);
	queue_kick(d, RX);
}

/* The next packet must be this one. */
static const char *expect(struct device *d, uint16_t op, struct header *ret)
{
	const uint8_t *data;
	uint16_t i;
	const char *error = receive(d, ret, &data, &i);

	if (error)
		return error;
	give_back(d, i);
	if (ret->op == OP_RST && op != OP_RST)
		return "rst";
	return ret->op == op ? NULL : "another-op";
}

static void done(const struct command *c, const char *error)
{
	if (error)
		fail(c, "%s", error);
	else
		answer(c);
}

static void vs_start(const struct command *c)
{
	if (start(c))
		answer(c);
}

/* vs_connect port= [from=]: as a client. */
static void vs_connect(const struct command *c)
{
	struct device *d = start(c);
	struct header h;
	const char *error;

	if (!d)
		return;
	vs.host_port = (uint32_t)arg(c, "port", 0);
	vs.guest_port = (uint32_t)arg(c, "from", 1000);
	vs.sent = vs.received = 0;
	error = send(d, OP_REQUEST, 0, 0);
	if (!error)
		error = expect(d, OP_RESPONSE, &h);
	done(c, error);
}

/* vs_accept: wait for a connection of the host's, and take it (or, with refuse=1, not). */
static void vs_accept(const struct command *c)
{
	struct device *d = start(c);
	struct header h;
	const char *error;

	if (!d)
		return;
	error = expect(d, OP_REQUEST, &h);
	if (!error) {
		vs.host_port = h.src_port;
		vs.guest_port = h.dst_port;
		vs.sent = vs.received = 0;
		error = send(d, arg(c, "refuse", 0) ? OP_RST : OP_RESPONSE, 0, 0);
	}
	done(c, error);
	if (!error)
		say(" port=%u host_port=%u", h.dst_port, h.src_port);
}

/* vs_send bytes= seed=: a stream of units of CHUNK, within the host's credit. */
static void vs_send(const struct command *c)
{
	struct device *d = start(c);
	uint64_t bytes = arg(c, "bytes", CHUNK), seed = arg(c, "seed", 1), waits = 0;
	const char *error = NULL;
	struct header h;

	if (!d)
		return;
	for (uint64_t at = 0; at < bytes && !error; at += CHUNK) {
		while (!error && vs.host_room - (vs.sent - vs.host_taken) < CHUNK) {
			error = expect(d, OP_CREDIT_UPDATE, &h);
			waits++;
		}
		pattern_fill(tx + HEADER_BYTES, CHUNK, pattern_base(seed, at / CHUNK));
		if (!error)
			error = send(d, OP_RW, 0, CHUNK);
	}
	done(c, error);
	if (!error)
		say(" sent=%u waits=%lu", vs.sent, waits);
}

/* vs_receive bytes=: take a stream; says its checksum and how it came. */
static void vs_receive(const struct command *c)
{
	struct device *d = start(c);
	uint64_t bytes = arg(c, "bytes", 1), packets = 0;
	uint32_t crc = 0, told = vs.received;
	const char *error = NULL;

	if (!d)
		return;
	for (uint64_t got = 0; got < bytes && !error; packets++) {
		const uint8_t *data;
		struct header h;
		uint16_t i;

		error = receive(d, &h, &data, &i);
		if (error)
			break;
		if (h.op == OP_RW) {
			crc = crc32(crc, data, h.len);
			got += h.len;
			vs.received += h.len;
		}
		give_back(d, i);
		if (h.op == OP_CREDIT_REQUEST || vs.received - told > ROOM / 2) {
			told = vs.received;
			error = send(d, OP_CREDIT_UPDATE, 0, 0);
		} else if (h.op != OP_RW && h.op != OP_CREDIT_UPDATE) {
			error = h.op == OP_RST ? "rst" : "another-op";
		}
	}
	done(c, error);
	if (!error)
		say(" received=%u packets=%lu crc=%u", vs.received, packets, crc);
}

/* vs_op op= [flags=]: one packet without payload. */
static void vs_op(const struct command *c)
{
	struct device *d = start(c);

	if (d)
		done(c, send(d, (uint16_t)arg(c, "op", 0), (uint32_t)arg(c, "flags", 0), 0));
}

/* vs_expect: what comes next, payload aside. */
static void vs_expect(const struct command *c)
{
	struct device *d = start(c);
	const uint8_t *data;
	const char *error;
	struct header h;
	uint16_t i;

	if (!d)
		return;
	error = receive(d, &h, &data, &i);
	if (!error)
		give_back(d, i);
	done(c, error);
	if (!error)
		say(" op=%u flags=%u len=%u", (unsigned)h.op, h.flags, h.len);
}

const struct verb vsock_verbs[] = {
	{"vs_start", vs_start},	    {"vs_connect", vs_connect},
	{"vs_accept", vs_accept},   {"vs_send", vs_send},
	{"vs_receive", vs_receive}, {"vs_op", vs_op},
	{"vs_expect", vs_expect},   {NULL, NULL},
};
