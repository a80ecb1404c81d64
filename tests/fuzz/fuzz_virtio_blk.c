/* SPDX-License-Identifier: Apache-2.0 */
/* Any guest against a disk: the device survives, nothing stays in flight, and the image keeps its size. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "tests/fuzz/virtio_program.h"
#include "vmm/virtio-blk.h"

#define IMAGE_BYTES 65536

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct driver d;
static struct virtio_blk *blk;
static int image_fd = -1;

static void make(void)
{
	char path[64];
	struct virtio_blk_options options = {.path = path, .serial = "fuzz", .engine = BLK_ENGINE_PLAIN};

	image_fd = memfd_create("disk", MFD_CLOEXEC);
	require(image_fd >= 0 && ftruncate(image_fd, IMAGE_BYTES) == 0 && driver_init(&d) == 0);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", image_fd);
	require(virtio_blk_new(&options, d.mem, d.loop, &d.irq, NULL, &blk) == 0);
	d.mmio = virtio_blk_mmio(blk);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct virtio_blk_stats stats;
	struct stat st;

	if (!blk)
		make();
	program_run(&d, data, size);
	virtio_blk_stats(blk, &stats);
	require(stats.in_flight == 0);
	require(fstat(image_fd, &st) == 0 && st.st_size == IMAGE_BYTES);
	return 0;
}
