/* SPDX-License-Identifier: Apache-2.0 */
/* The account of a VM's memory: what the kernel says of this process, read for the ranges of guest RAM. */
#include <errno.h>

#include "vmm/vm-internal.h"

int vm_usage(struct vm *vm, struct vm_usage *ret)
{
	struct smaps_range ranges[GUEST_MEMORY_REGIONS_MAX];
	size_t count = guest_memory_region_count(vm->mem);
	struct usage_input in = {
		.configured_bytes = guest_memory_bytes(vm->mem),
		.mergeable = guest_memory_mergeable(vm->mem),
	};
	auto_file smaps = fopen("/proc/self/smaps", "re");
	auto_file rollup = fopen("/proc/self/smaps_rollup", "re");
	int r;

	if (!smaps)
		return -errno;
	(void)guest_memory_settle(vm->mem);
	/* The guest may well answer before the kernel has: then its sample is in this answer. */
	if (vm->balloon)
		virtio_balloon_ask(vm->balloon);
	for (size_t i = 0; i < count; i++) {
		const struct guest_region *region = guest_memory_region(vm->mem, i);

		ranges[i].start = (uintptr_t)region->hva;
		ranges[i].end = (uintptr_t)region->hva + region->bytes;
	}
	r = smaps_read(smaps, ranges, count, &in.guest, &in.rest);
	if (r < 0)
		return r;
	in.file_pss_known = rollup && smaps_rollup_read(rollup, &in.file_pss) == 0;
	ksm_process_usage_read("/proc/self", &in.ksm);
	ksm_host_usage_read("/sys/kernel/mm/ksm", &in.ksm_host);
	if (vm->balloon) {
		struct virtio_balloon_stats balloon;

		virtio_balloon_stats(vm->balloon, &balloon);
		in.ballooned_bytes = balloon.balloon.frames * PAGE_BYTES;
	}
	vm_usage_account(&in, ret);
	return 0;
}
