/* SPDX-License-Identifier: Apache-2.0 */
/* What a guest says of its own memory. */
#include "balloon/guest-stats.h"

#include "base/bytes.h"

static const char *const names[] = {
	[GUEST_STAT_SWAP_IN] = "swap_in_bytes",
	[GUEST_STAT_SWAP_OUT] = "swap_out_bytes",
	[GUEST_STAT_MAJOR_FAULTS] = "major_faults",
	[GUEST_STAT_MINOR_FAULTS] = "minor_faults",
	[GUEST_STAT_FREE] = "free_bytes",
	[GUEST_STAT_TOTAL] = "total_bytes",
	[GUEST_STAT_AVAILABLE] = "available_bytes",
	[GUEST_STAT_CACHES] = "cache_bytes",
	[GUEST_STAT_HUGETLB_ALLOCS] = "hugetlb_allocations",
	[GUEST_STAT_HUGETLB_FAILS] = "hugetlb_failures",
	[GUEST_STAT_OOM_KILLS] = "oom_kills",
	[GUEST_STAT_ALLOC_STALLS] = "allocation_stalls",
	[GUEST_STAT_ASYNC_SCAN] = "async_scan_bytes",
	[GUEST_STAT_DIRECT_SCAN] = "direct_scan_bytes",
	[GUEST_STAT_ASYNC_RECLAIM] = "async_reclaim_bytes",
	[GUEST_STAT_DIRECT_RECLAIM] = "direct_reclaim_bytes",
};
_Static_assert(ARRAY_SIZE(names) == GUEST_STATS, "a name for each statistic");
_Static_assert(GUEST_STATS <= 32, "a bit for each statistic");

const char *guest_stat_name(enum guest_stat stat)
{
	return names[stat];
}

unsigned guest_stats_parse(const uint8_t *message, size_t bytes, struct guest_stats *ret)
{
	struct guest_stats stats = {.known = 0};
	size_t entries = bytes / GUEST_STAT_BYTES;
	unsigned ignored = bytes % GUEST_STAT_BYTES ? 1 : 0;

	if (entries > GUEST_STATS_ENTRIES_MAX) {
		entries = GUEST_STATS_ENTRIES_MAX;
		ignored = 1;
	}
	for (size_t i = 0; i < entries; i++) {
		uint16_t tag = load_le16(message + i * GUEST_STAT_BYTES);
		uint64_t value = load_le64(message + i * GUEST_STAT_BYTES + sizeof(tag));

		/* No guest has that much of anything; readers of JSON could not hold it. */
		if (tag >= GUEST_STATS || value > INT64_MAX) {
			ignored++;
			continue;
		}
		stats.known |= (uint32_t)1 << tag;
		stats.values[tag] = value;
	}
	*ret = stats;
	return ignored;
}
