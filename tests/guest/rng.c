/* SPDX-License-Identifier: Apache-2.0 */
/* Random numbers: asked for in one buffer or in several. */
#include "virtio.h"

#define BUFFER_BYTES 16384
#define TIMEOUT_US   20000000

static uint8_t buffer[BUFFER_BYTES] __attribute__((aligned(4096)));
static bool running;

/* Ask once for `bytes`, in `parts` buffers. NULL, or what went wrong. */
static const char *ask(struct device *d, uint32_t bytes, unsigned parts, uint32_t *ret_written)
{
	struct queue *q = &d->queue[0];
	uint32_t each = bytes / parts;
	const char *error;
	uint16_t head;

	for (unsigned i = 0; i < parts; i++) {
		bool last = i + 1 == parts;

		q->desc[i] =
			(struct desc){(uint64_t)buffer + i * each, last ? bytes - i * each : each,
				      (uint16_t)(DESC_WRITE | (last ? 0 : DESC_NEXT)), (uint16_t)(i + 1)};
	}
	queue_add(q, 0);
	queue_kick(d, 0);
	error = queue_wait(d, 0, TIMEOUT_US);
	if (!error && (!queue_pop(q, &head, ret_written) || head != 0))
		error = "used-unknown-head";
	if (!error && *ret_written > bytes)
		error = "more-than-asked-for";
	return error;
}

/* `count` requests; says how much came, what the last brought, and whether anything lies behind it. */
static void rng(const struct command *c)
{
	struct device *d = virtio_device(c, VIRTIO_ID_RNG);
	uint32_t bytes = (uint32_t)arg(c, "bytes", 64), written = 0;
	unsigned parts = (unsigned)arg(c, "parts", 1);
	uint64_t count = arg(c, "count", 1), total = 0, start, stray = 0;
	const char *error = NULL;

	if (!d)
		return;
	if (bytes > BUFFER_BYTES || parts == 0 || parts > bytes || parts > 64) {
		fail(c, "bytes or parts");
		return;
	}
	if (!running || arg(c, "restart", 0))
		error = virtio_start(d, arg(c, "features", F_EVENT_IDX), 1, QUEUE_SIZE_MAX);
	running = !error;
	start = tsc();
	for (uint64_t i = 0; i < count && !error; i++) {
		memset(buffer, 0, sizeof(buffer));
		error = ask(d, bytes, parts, &written);
		total += written;
	}
	if (error) {
		running = false;
		fail(c, "%s", error);
		return;
	}
	for (unsigned i = written; i < BUFFER_BYTES; i++)
		stray += buffer[i] != 0;
	answer(c);
	say(" bytes=%lu written=%u stray=%lu us=%lu crc=%u", total, written, stray,
	    (tsc() - start) * 1000 / machine.tsc_khz, crc32(0, buffer, written));
}

const struct verb rng_verbs[] = {{"rng", rng}, {NULL, NULL}};
