/* SPDX-License-Identifier: Apache-2.0 */
/* The account of a VM's memory, and of the host's. */
#include "stats/usage.h"

#define KSM_PAGE_BYTES 4096

static uint64_t at_most(uint64_t a, uint64_t limit)
{
	return a < limit ? a : limit;
}

/* @part / @whole of @x, without losing it to rounding: products stay below 2^84, so in double precision. */
static uint64_t share_of(uint64_t x, uint64_t part, uint64_t whole)
{
	return whole ? (uint64_t)((double)x * ((double)part / (double)whole)) : 0;
}

/*
 * The VM's share of the boot file pages it maps. The Pss of their mappings has merged copies of such pages in it, too,
 * of which the kernel does not tell the share per mapping; it does tell the file pages' share of the process, and all
 * that is not guest RAM is never merged.
 */
static uint64_t birth_pss(const struct usage_input *in)
{
	uint64_t others = in->rest.file_pss + in->rest.shmem_pss + in->rest.store_pss + in->guest.store_pss;

	if (!in->file_pss_known)
		return in->guest.file_pss;
	return in->file_pss > others ? in->file_pss - others : 0;
}

/*
 * Pages of the store that the VM maps: as many as its agent has mapped, whether the guest has touched them or not. The kernel
 * counts only those that were (and 16 neighbours at a time), and its Pss is no share of theirs: the daemon maps them, too.
 */
static uint64_t store_bytes(const struct usage_input *in, uint64_t rss)
{
	if (!in->store.known || in->store.mapped_bytes < rss)
		return rss;
	return at_most(in->store.mapped_bytes, in->configured_bytes);
}

void vm_usage_account(const struct usage_input *in, struct vm_usage *ret)
{
	const struct smaps_sum *guest = &in->guest;
	const uint64_t store_rss = at_most(guest->store_rss, guest->rss);
	uint64_t rss = guest->rss - store_rss;
	struct vm_usage u = {
		.configured = in->configured_bytes,
		.store = store_bytes(in, store_rss),
		.ballooned = in->ballooned_bytes,
		.huge = guest->huge,
		.swapped = guest->swap,
		.zero = in->ksm.zero_pages * KSM_PAGE_BYTES,
		.zero_known = in->ksm.zero_known,
		.vmm_private = in->rest.private + in->rest.swap + in->rest.shmem_pss,
		.mergeable = in->mergeable,
	};

	u.populated = rss + u.store;
	u.shared_from_birth = at_most(guest->file_rss, rss);
	/* The VMM's own memory is never mergeable, so what KSM counts for the process is guest RAM. */
	u.merged = at_most(in->ksm.merging_pages * KSM_PAGE_BYTES, rss - u.shared_from_birth);
	u.private = rss - u.shared_from_birth - u.merged;
	u.saved_birth = u.shared_from_birth - at_most(birth_pss(in), u.shared_from_birth);
	u.saved_ksm = share_of(u.merged, in->ksm_host.pages_sharing,
			       in->ksm_host.pages_sharing + in->ksm_host.pages_shared);
	/* As with KSM, each mapped page is credited with the store's average: the sum over its VMs is exact. */
	u.saved_store = share_of(u.store, at_most(in->store.saved, in->store.mappings), in->store.mappings);
	u.saved_total = u.saved_birth + u.saved_ksm + u.saved_store;
	u.saved_zero = u.zero;
	u.occupied = u.populated - u.saved_total;
	*ret = u;
}

void host_usage_add(struct host_usage *host, const struct vm_usage *vm)
{
	struct vm_usage *s = &host->sum;

	host->vms++;
	s->configured += vm->configured;
	s->populated += vm->populated;
	s->private += vm->private;
	s->shared_from_birth += vm->shared_from_birth;
	s->merged += vm->merged;
	s->store += vm->store;
	s->ballooned += vm->ballooned;
	s->huge += vm->huge;
	s->swapped += vm->swapped;
	s->zero += vm->zero;
	s->occupied += vm->occupied;
	s->vmm_private += vm->vmm_private;
	s->saved_birth += vm->saved_birth;
	s->saved_ksm += vm->saved_ksm;
	s->saved_store += vm->saved_store;
	s->saved_total += vm->saved_total;
	s->saved_zero += vm->saved_zero;
	s->zero_known |= vm->zero_known;
}

double host_usage_ratio(const struct host_usage *host)
{
	if (!host->sum.occupied)
		return 1.0;
	return (double)(host->sum.occupied + host->sum.saved_total) / (double)host->sum.occupied;
}
