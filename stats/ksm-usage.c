/* SPDX-License-Identifier: Apache-2.0 */
/* What KSM did: for one process, and on the host. */
#include "stats/ksm-usage.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/fs.h"

#define TEXT_MAX 4096

static bool read_number(const char *folder, const char *file, uint64_t *ret)
{
	char path[512];
	int n = snprintf(path, sizeof(path), "%s/%s", folder, file);

	return n > 0 && (size_t)n < sizeof(path) && file_read_u64(path, ret) == 0;
}

/* "ksm_zero_pages 12" in a file of such lines. */
static bool find_field(const char *text, const char *name, uint64_t *ret)
{
	size_t len = strlen(name);

	for (const char *line = text; line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (strncmp(line, name, len) == 0 && line[len] == ' ')
			return sscanf(line + len, " %" SCNu64, ret) == 1;
	}
	return false;
}

void ksm_process_usage_read(const char *proc, struct ksm_process_usage *ret)
{
	struct ksm_process_usage u = {0};
	auto_free char *text = NULL;
	char path[512];

	u.known = read_number(proc, "ksm_merging_pages", &u.merging_pages);
	snprintf(path, sizeof(path), "%s/ksm_stat", proc);
	if (file_read_text(path, TEXT_MAX, &text) == 0) {
		u.zero_known = find_field(text, "ksm_zero_pages", &u.zero_pages);
		if (!u.known)
			u.known = find_field(text, "ksm_merging_pages", &u.merging_pages);
	}
	*ret = u;
}

void ksm_host_usage_read(const char *root, struct ksm_host_usage *ret)
{
	struct ksm_host_usage u = {0};

	u.known = read_number(root, "pages_shared", &u.pages_shared) &&
		  read_number(root, "pages_sharing", &u.pages_sharing);
	u.zero_known = read_number(root, "ksm_zero_pages", &u.zero_pages);
	*ret = u;
}
