/* SPDX-License-Identifier: Apache-2.0 */
/* The account of a VM's memory: what the kernel says of this process, read for the ranges of guest RAM. */
#include <errno.h>
#include <fcntl.h>

#include "vmm/engine.h"
#include "vmm/vm-internal.h"

void vm_usage_open(struct vm *vm)
{
	struct vm_usage_files *files = &vm->usage_files;

	files->smaps = open("/proc/self/smaps", O_RDONLY | O_CLOEXEC);
	files->rollup = open("/proc/self/smaps_rollup", O_RDONLY | O_CLOEXEC);
	ksm_process_files_open("/proc/self", &files->ksm);
	ksm_host_files_open("/sys/kernel/mm/ksm", &files->ksm_host);
}

void vm_usage_close(struct vm *vm)
{
	struct vm_usage_files *files = &vm->usage_files;

	close_fd_p(&files->smaps);
	close_fd_p(&files->rollup);
	ksm_process_files_close(&files->ksm);
	ksm_host_files_close(&files->ksm_host);
}

/* A stream over a file of ours, from its start; closing it leaves the file open. */
static FILE *stream_of(int fd)
{
	auto_fd copy = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 0);
	FILE *f;

	if (copy < 0 || lseek(copy, 0, SEEK_SET) < 0)
		return NULL;
	f = fdopen(copy, "r");
	if (f)
		copy = -1;
	return f;
}

int vm_usage(struct vm *vm, struct vm_usage *ret)
{
	struct smaps_range ranges[GUEST_MEMORY_REGIONS_MAX];
	size_t count = guest_memory_region_count(vm->mem);
	struct usage_input in = {
		.configured_bytes = guest_memory_bytes(vm->mem),
		.mergeable = guest_memory_mergeable(vm->mem),
	};
	auto_file smaps = stream_of(vm->usage_files.smaps);
	auto_file rollup = NULL;
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
	rollup = stream_of(vm->usage_files.rollup);
	in.file_pss_known = rollup && smaps_rollup_read(rollup, &in.file_pss) == 0;
	ksm_process_usage_read(&vm->usage_files.ksm, &in.ksm);
	ksm_host_usage_read(&vm->usage_files.ksm_host, &in.ksm_host);
	if (vm->balloon) {
		struct virtio_balloon_stats balloon;

		virtio_balloon_stats(vm->balloon, &balloon);
		in.ballooned_bytes = balloon.balloon.frames * PAGE_BYTES;
	}
	if (vm->agent) {
		struct agent_stats stats;

		agent_stats(vm->agent, &stats);
		engine_usage(&stats, &in.store);
	}
	vm_usage_account(&in, ret);
	return 0;
}

DEFINE_SYSCALLS(vm_usage_syscalls, SYSCALL(read), SYSCALL(lseek), SYSCALL_IF(fcntl, 1, F_DUPFD_CLOEXEC),
		/* fdopen() */
		SYSCALL_IF(fcntl, 1, F_GETFL), SYSCALL_IF(newfstatat, 3, AT_EMPTY_PATH));
