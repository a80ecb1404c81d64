/* SPDX-License-Identifier: Apache-2.0 */
/* Network: frames that the host laid in memory are sent as it says, and those of one kind are received. */
#include "virtio.h"

#define RX	      0
#define TX	      1
#define BUFFERS_MAX   256
#define BUFFER_BYTES  2048
#define FRAME_MAX     65600
#define PARTS_MAX     64
#define TX_SLOTS      64
#define F_STATUS      (1ull << 16)
#define F_MTU	      (1ull << 3)
#define CONFIG_STATUS (REG_CONFIG + 6)
#define CONFIG_MTU    (REG_CONFIG + 10)

struct net_header {
	uint8_t flags, gso_type;
	uint16_t hdr_len, gso_size, csum_start, csum_offset, num_buffers;
};

static uint8_t buffers[BUFFERS_MAX][BUFFER_BYTES] __attribute__((aligned(4096)));
static uint8_t frame[sizeof(struct net_header) + FRAME_MAX];
static struct net_header headers[TX_SLOTS];
static uint32_t buffer_bytes;

static void offer(struct device *d, uint16_t i)
{
	struct queue *q = &d->queue[RX];

	q->desc[i] = (struct desc){(uint64_t)buffers[i], buffer_bytes, DESC_WRITE, 0};
	queue_add(q, i);
}

/* Start the device anew, with so many receive buffers. */
static void net(const struct command *c)
{
	struct device *d = virtio_device(c, VIRTIO_ID_NET);
	unsigned count = (unsigned)arg(c, "buffers", 64);
	const char *error;

	buffer_bytes = (uint32_t)arg(c, "bytes", BUFFER_BYTES);
	if (!d)
		return;
	if (count > BUFFERS_MAX || buffer_bytes == 0 || buffer_bytes > BUFFER_BYTES) {
		fail(c, "buffers or bytes");
		return;
	}
	error = virtio_start(d, arg(c, "features", F_EVENT_IDX) | F_STATUS | F_MTU, 2,
			     (unsigned)arg(c, "size", QUEUE_SIZE_MAX));
	if (error) {
		fail(c, "%s", error);
		return;
	}
	virtio_irqs(d, arg(c, "irq", 0));
	for (uint16_t i = 0; i < count && i < d->queue[RX].size; i++)
		offer(d, i);
	queue_kick(d, RX);
	answer(c);
	say(" features=%lx status=%lu mtu=%lu mac=", d->features, mmio_read(d->base + CONFIG_STATUS, 2),
	    mmio_read(d->base + CONFIG_MTU, 2));
	for (unsigned i = 0; i < 6; i++) {
		uint8_t b = (uint8_t)mmio_read(d->base + REG_CONFIG + i, 1);

		say("%c%c%s", "0123456789abcdef"[b >> 4], "0123456789abcdef"[b & 15], i < 5 ? ":" : "");
	}
}

/* The frame at `at` in `parts` descriptors behind the header's. */
static void send_one(const struct command *c, struct device *d, uint16_t head, unsigned parts)
{
	struct queue *q = &d->queue[TX];
	uint64_t from = arg(c, "at", 0);
	uint32_t bytes = (uint32_t)arg(c, "bytes", 60), each = bytes / parts;
	struct net_header *h = &headers[head / (parts + 1)];

	*h = (struct net_header){
		.flags = (uint8_t)arg(c, "flags", 0),
		.gso_type = (uint8_t)arg(c, "gso", 0),
		.hdr_len = (uint16_t)arg(c, "hdr", 0),
		.gso_size = (uint16_t)arg(c, "gsosize", 0),
		.csum_start = (uint16_t)arg(c, "start", 0),
		.csum_offset = (uint16_t)arg(c, "offset", 0),
	};
	q->desc[head] = (struct desc){(uint64_t)h, sizeof(*h), DESC_NEXT, (uint16_t)(head + 1)};
	for (unsigned i = 0; i < parts; i++) {
		bool last = i + 1 == parts;

		q->desc[head + 1 + i] = (struct desc){from + i * each, last ? bytes - i * each : each,
						      last ? 0 : DESC_NEXT, (uint16_t)(head + 2 + i)};
	}
	queue_add(q, head);
	queue_kick(d, TX);
}

/* Send the frame `count` times, as many at once as the queue holds. */
static void net_send(const struct command *c)
{
	struct device *d = virtio_device(c, VIRTIO_ID_NET);
	unsigned parts = (unsigned)arg(c, "parts", 1), slots, busy = 0;
	uint64_t count = arg(c, "count", 1), sent = 0, done = 0, begun = tsc();
	const char *error = NULL;
	uint32_t written;
	uint16_t head;

	if (!d)
		return;
	slots = d->queue[TX].size / (parts + 1);
	slots = slots < TX_SLOTS ? slots : TX_SLOTS;
	if (parts == 0 || parts > PARTS_MAX || slots == 0) {
		fail(c, "parts");
		return;
	}
	while (done < count && !error) {
		while (busy < slots && sent < count) {
			send_one(c, d, (uint16_t)(sent % slots * (parts + 1)), parts);
			sent++;
			busy++;
		}
		error = queue_wait(d, TX, 20000000);
		while (!error && queue_pop(&d->queue[TX], &head, &written)) {
			if (written)
				error = "wrote-to-a-frame";
			done++;
			busy--;
		}
	}
	if (error) {
		fail(c, "%s after %lu", error, done);
		return;
	}
	answer(c);
	say(" sent=%lu kicks=%lu us=%lu", done, d->kicks, (tsc() - begun) * 1000 / machine.tsc_khz);
}

/* Put the next frame together in `frame`. Its bytes with the header; 0: none in time; NULL in *ret_error unless wrong. */
static uint32_t receive_one(struct device *d, uint64_t timeout_us, unsigned *ret_buffers,
			    const char **ret_error)
{
	const struct net_header *h = (const struct net_header *)frame;
	struct queue *q = &d->queue[RX];
	uint32_t at = 0, written;
	unsigned n = 0, wanted = 1;
	uint16_t head;

	*ret_error = queue_wait(d, RX, timeout_us);
	if (*ret_error) {
		if (text_equal(*ret_error, "timeout"))
			*ret_error = NULL;
		return 0;
	}
	for (; n < wanted; n++) {
		if (!queue_pop(q, &head, &written))
			*ret_error = "buffers-missing";
		else if (head >= BUFFERS_MAX || written > buffer_bytes || at + written > sizeof(frame))
			*ret_error = "used-nonsense";
		if (*ret_error)
			return 0;
		memcpy(frame + at, buffers[head], written);
		at += written;
		offer(d, head);
		if (n == 0)
			wanted = h->num_buffers;
	}
	queue_kick(d, RX);
	*ret_buffers = n;
	return at;
}

/* Wait for `count` frames of an Ethernet type; the last one is left at `to`, without its header. */
static void net_receive(const struct command *c)
{
	struct device *d = virtio_device(c, VIRTIO_ID_NET);
	const struct net_header *h = (const struct net_header *)frame;
	uint64_t count = arg(c, "count", 1), type = arg(c, "type", 0x88b5), frames = 0, bytes = 0;
	uint64_t end = tsc() + us_to_cycles(arg(c, "timeout_ms", 10000) * 1000);
	uint64_t to = arg(c, "to", 0);
	uint32_t got = 0, crc = 0;
	unsigned used = 0;
	const char *error = NULL;

	if (!d)
		return;
	while (frames < count && !error && tsc() < end) {
		uint32_t n = receive_one(d, 100000, &used, &error), size = n - (uint32_t)sizeof(*h);
		const uint8_t *p = frame + sizeof(*h);

		if (n < sizeof(*h) + 14 || (p[12] << 8 | p[13]) != (int)type)
			continue;
		frames++;
		got = size;
		bytes += size;
		crc = crc32(crc, p, size);
	}
	if (error) {
		fail(c, "%s", error);
		return;
	}
	if (to)
		memcpy(at(to), frame + sizeof(*h), got);
	answer(c);
	say(" frames=%lu bytes=%lu last=%u buffers=%u flags=%u gso=%u gsosize=%u crc=%u", frames, bytes, got,
	    used, h->flags, h->gso_type, h->gso_size, crc);
}

const struct verb net_verbs[] = {
	{"net", net}, {"net_send", net_send}, {"net_receive", net_receive}, {NULL, NULL}};
