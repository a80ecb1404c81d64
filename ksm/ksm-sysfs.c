/* SPDX-License-Identifier: Apache-2.0 */
/* The knobs and counters of the kernel's KSM, read from sysfs. */
#include "ksm/ksm-sysfs.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "base/fs.h"
#include "base/size.h"

static const char *const names[] = {
	[KSM_RUN] = "run",
	[KSM_PAGES_TO_SCAN] = "pages_to_scan",
	[KSM_SLEEP_MS] = "sleep_millisecs",
	[KSM_MERGE_ACROSS_NODES] = "merge_across_nodes",
	[KSM_MAX_PAGE_SHARING] = "max_page_sharing",
	[KSM_USE_ZERO_PAGES] = "use_zero_pages",
	[KSM_SMART_SCAN] = "smart_scan",
	[KSM_STABLE_NODE_CHAINS_PRUNE_MS] = "stable_node_chains_prune_millisecs",
	[KSM_ADVISOR_MAX_CPU] = "advisor_max_cpu",
	[KSM_ADVISOR_MIN_PAGES_TO_SCAN] = "advisor_min_pages_to_scan",
	[KSM_ADVISOR_MAX_PAGES_TO_SCAN] = "advisor_max_pages_to_scan",
	[KSM_ADVISOR_TARGET_SCAN_TIME_S] = "advisor_target_scan_time",
	[KSM_PAGES_SHARED] = "pages_shared",
	[KSM_PAGES_SHARING] = "pages_sharing",
	[KSM_PAGES_UNSHARED] = "pages_unshared",
	[KSM_PAGES_VOLATILE] = "pages_volatile",
	[KSM_PAGES_SKIPPED] = "pages_skipped",
	[KSM_PAGES_SCANNED] = "pages_scanned",
	[KSM_ZERO_PAGES] = "ksm_zero_pages",
	[KSM_FULL_SCANS] = "full_scans",
	[KSM_STABLE_NODE_CHAINS] = "stable_node_chains",
	[KSM_STABLE_NODE_DUPS] = "stable_node_dups",
	[KSM_GENERAL_PROFIT_BYTES] = "general_profit",
};
_Static_assert(ARRAY_SIZE(names) == KSM_FIELDS, "a file for each field");

const char *ksm_field_name(enum ksm_field field)
{
	return names[field];
}

static int field_path(char *path, size_t len, const char *root, const char *name)
{
	int n = snprintf(path, len, "%s/%s", root, name);

	return n < 0 || (size_t)n >= len ? -ENAMETOOLONG : 0;
}

static int read_field(const char *root, enum ksm_field field, struct ksm_state *state)
{
	auto_free char *text = NULL;
	char path[PATH_MAX];
	uint64_t v;
	bool negative;
	int r = field_path(path, sizeof(path), root, names[field]);

	if (r == 0)
		r = file_read_text(path, 64, &text);
	if (r < 0)
		return r;
	text[strcspn(text, "\n")] = '\0';
	negative = text[0] == '-';
	r = number_parse(text + negative, INT64_MAX, &v);
	if (r < 0)
		return r;
	state->value[field] = negative ? -(int64_t)v : (int64_t)v;
	state->known[field] = true;
	return 0;
}

static void read_advisor(const char *root, struct ksm_state *state)
{
	char path[PATH_MAX];

	if (field_path(path, sizeof(path), root, "advisor_mode") < 0 ||
	    file_read_choice(path, state->advisor, sizeof(state->advisor)) < 0)
		state->advisor[0] = '\0';
}

int ksm_state_read(const char *root, struct ksm_state *ret)
{
	struct ksm_state state = {0};
	int r = read_field(root, KSM_RUN, &state);

	if (r == -ENOENT || r == -ENOTDIR) {
		*ret = state;
		return 0;
	}
	if (r < 0)
		return r;
	state.present = true;
	for (int field = KSM_RUN + 1; field < KSM_FIELDS; field++) {
		r = read_field(root, (enum ksm_field)field, &state);
		if (r == -ENOMEM)
			return r;
	}
	read_advisor(root, &state);
	*ret = state;
	return 0;
}
