/* SPDX-License-Identifier: Apache-2.0 */
/* Any guest against the balloon: the device survives, the account stays within RAM, and a reset empties it. */
#include <stddef.h>
#include <stdint.h>

#include "tests/fuzz/virtio_program.h"
#include "vmm/virtio-balloon.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct driver d;
	static struct virtio_balloon *balloon;
	struct virtio_balloon_stats stats;
	uint64_t target = size ? data[0] * PAGE_BYTES : 0;

	if (!balloon) {
		require(driver_init(&d) == 0 && virtio_balloon_new(d.mem, d.loop, &d.irq, &balloon) == 0);
		d.mmio = virtio_balloon_mmio(balloon);
	}
	require(virtio_balloon_set_target(balloon, target) == 0);
	program_run(&d, data, size);
	virtio_balloon_stats(balloon, &stats);
	require(stats.balloon.frames == 0 && stats.actual_bytes == 0 && stats.target_bytes == target);
	require(stats.balloon.discard_errors == 0);
	return 0;
}
