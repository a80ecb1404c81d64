/* SPDX-License-Identifier: Apache-2.0 */
/* Any guest against the random numbers: the device survives, with a kernel that has none at times. */
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "tests/fuzz/virtio_program.h"
#include "vmm/virtio-rng.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t given;
static unsigned calls;

static ssize_t fill(void *arg, void *buf, size_t len)
{
	size_t n = ++calls % 3 ? len : len / 2;

	(void)arg;
	if (n == 0)
		return -EAGAIN;
	memset(buf, 0xa5, n);
	given += n;
	return (ssize_t)n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct driver d;
	static struct virtio_rng *rng;
	struct virtio_rng_options options = {.fill = fill};
	struct virtio_rng_stats stats;

	if (!rng) {
		require(driver_init(&d) == 0 && virtio_rng_new(&options, d.mem, d.loop, &d.irq, &rng) == 0);
		d.mmio = virtio_rng_mmio(rng);
	}
	calls = 0;
	program_run(&d, data, size);
	virtio_rng_stats(rng, &stats);
	require(stats.bytes == given && stats.bytes <= stats.virtio.requests * RNG_REQUEST_BYTES_MAX);
	return 0;
}
