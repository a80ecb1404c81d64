/* SPDX-License-Identifier: Apache-2.0 */
/* The memory agent of a VM: what it is told of the VM's memory, and when it works. */
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "vmm/vm-internal.h"

/*
 * The agent is suspended from its start until the guest starts, and while a reboot gives RAM back and fills it anew. It sees
 * guest memory by vm_guest_view() and hears of discards by struct guest_memory_watch.
 */

static void on_remapped(void *arg, gfn_t first, uint64_t frames, hva_t at)
{
	(void)first;
	/* What is not watched is not shared any more, which costs memory and nothing else. */
	if (agent_watch(arg, at, frames * PAGE_BYTES) < 0)
		log_debug("memory agent: %llu frames are not watched any more", (unsigned long long)frames);
}

static void on_discarded(void *arg, gfn_t first, uint64_t frames)
{
	agent_discarded(arg, first, frames);
}

static void on_reset_begins(void *arg)
{
	agent_suspend(arg);
}

static void on_reset_ended(void *arg)
{
	int r = agent_resume(arg, true);

	if (r < 0)
		log_warn("memory agent: cannot watch memory again after the reboot: %s; parts of it are not shared",
			 strerror(-r));
}

static const struct guest_memory_watch watch = {
	.remapped = on_remapped,
	.discarded = on_discarded,
	.reset_begins = on_reset_begins,
	.reset_ended = on_reset_ended,
};

static void on_thread_begins(void *arg)
{
	const struct vm *vm = arg;

	if (vm->confine)
		vm->confine(THREAD_AGENT);
}

uint64_t vm_agent_frames(struct vm *vm)
{
	const struct guest_region *last = guest_memory_region(vm->mem, guest_memory_region_count(vm->mem) - 1);

	return (last->gpa.v + last->bytes) / PAGE_BYTES;
}

int vm_agent_new(struct vm *vm, struct store_link *link, _Atomic uint64_t *recorded, struct errmsg *err)
{
	struct agent_range ranges[GUEST_MEMORY_REGIONS_MAX];
	struct agent_config config = {
		.view = vm_guest_view(vm),
		.ranges = ranges,
		.range_count = guest_memory_region_count(vm->mem),
		.link = link,
		.recorded = recorded,
		.thread_begins = on_thread_begins,
		.thread_arg = vm,
	};
	int r;

	for (size_t i = 0; i < config.range_count; i++) {
		const struct guest_region *region = guest_memory_region(vm->mem, i);

		ranges[i] = (struct agent_range){gpa_to_gfn(region->gpa), region->bytes / PAGE_BYTES};
	}
	r = agent_new(&config, err, &vm->agent);
	if (r < 0)
		return r;
	agent_suspend(vm->agent);
	guest_memory_set_watch(vm->mem, &watch, vm->agent);
	return 0;
}

int vm_agent_start(struct vm *vm)
{
	return vm->agent ? agent_start(vm->agent) : 0;
}

struct agent *vm_agent(struct vm *vm)
{
	return vm->agent;
}

void vm_agent_free(struct vm *vm)
{
	if (!vm->agent)
		return;
	guest_memory_set_watch(vm->mem, NULL, NULL);
	agent_free(TAKE_PTR(vm->agent));
}
