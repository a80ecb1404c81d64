/* SPDX-License-Identifier: Apache-2.0 */
/* Any guest against the random numbers: the device survives, with a kernel that has none at times. */
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "tests/fuzz/virtio_program.h"
#include "vmm/virtio-rng.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* One device has all it asks for, the other runs into its limit. */
static struct room {
	struct driver d;
	struct virtio_rng *rng;
	uint64_t given;
	unsigned calls;
} rooms[2];

static ssize_t fill(void *arg, void *buf, size_t len)
{
	struct room *room = arg;
	size_t n = len;

	switch (++room->calls % 5) {
	case 2:
		n = (len + 1) / 2;
		break;
	case 4:
		return -EAGAIN;
	default:
		break;
	}
	memset(buf, 0xa5, n);
	room->given += n;
	return (ssize_t)n;
}

static void make(struct room *room, uint64_t ops_per_s)
{
	struct virtio_rng_options options = {.fill = fill, .arg = room, .rate = {.ops_per_s = ops_per_s}};

	require(driver_init(&room->d) == 0);
	require(virtio_rng_new(&options, room->d.mem, room->d.loop, &room->d.irq, &room->rng) == 0);
	room->d.mmio = virtio_rng_mmio(room->rng);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct room *room = &rooms[size % 2];
	struct virtio_rng_stats stats;

	if (!room->rng)
		make(room, size % 2);
	room->calls = 0;
	program_run(&room->d, data, size);
	virtio_rng_stats(room->rng, &stats);
	require(stats.bytes == room->given);
	require(stats.bytes <= stats.virtio.requests * RNG_REQUEST_BYTES_MAX);
	return 0;
}
