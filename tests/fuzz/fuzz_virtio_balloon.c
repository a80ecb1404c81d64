/* SPDX-License-Identifier: Apache-2.0 */
/* Any guest against the balloon: the device survives, the account stays within RAM, a reset empties it. */
#include <stddef.h>
#include <stdint.h>

#include "tests/fuzz/virtio_program.h"
#include "vmm/virtio-balloon.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct virtio_balloon *balloon;
static uint64_t now_ns;

static uint64_t fuzz_clock(void)
{
	return now_ns;
}

/* A client asks for statistics, a second after the last one did. */
static void between(struct driver *d)
{
	struct virtio_balloon_stats stats;

	(void)d;
	now_ns += 1000000000;
	virtio_balloon_ask(balloon);
	virtio_balloon_stats(balloon, &stats);
	require(stats.balloon.frames <= DRIVER_RAM >> PAGE_SHIFT && stats.actual_bytes <= DRIVER_RAM);
	require(stats.guest_age_ns <= now_ns);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct driver d;
	static const struct virtio_balloon_options options = {.stats = true,
							      .deflate_on_oom = true,
							      .reporting = true,
							      .poison = true,
							      .now_ns = fuzz_clock};
	struct virtio_balloon_stats stats;
	uint64_t target = size ? data[0] * PAGE_BYTES : 0;

	if (!balloon) {
		require(driver_init(&d) == 0 &&
			virtio_balloon_new(&options, d.mem, d.loop, &d.irq, &balloon) == 0);
		d.mmio = virtio_balloon_mmio(balloon);
		d.between = between;
	}
	require(virtio_balloon_set_target(balloon, target) == 0);
	program_run(&d, data, size);
	virtio_balloon_stats(balloon, &stats);
	require(stats.balloon.frames == 0 && stats.actual_bytes == 0 && stats.target_bytes == target);
	require(stats.balloon.discard_errors == 0);
	require(stats.liveness == BALLOON_NO_DRIVER && !stats.guest_known);
	return 0;
}
