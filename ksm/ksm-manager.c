/* SPDX-License-Identifier: Apache-2.0 */
/* Who else turns KSM's knobs on this host. */
#include "ksm/ksm-manager.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "base/fs.h"
#include "base/size.h"

/* comm of the daemons that write to /sys/kernel/mm/ksm by themselves. */
static const char *const tuners[] = {"ksmtuned", "momd", "vdsmd", "uksmd"};
static const char *const unit_names[] = {"ksmtuned.service", "ksm.service"};

static bool comm_is_tuner(const char *proc, const char *pid, const char **ret_name)
{
	char path[PATH_MAX];
	auto_free char *comm = NULL;

	if (snprintf(path, sizeof(path), "%s/%s/comm", proc, pid) >= (int)sizeof(path) ||
	    file_read_text(path, 64, &comm) < 0)
		return false; /* it has ended meanwhile */
	comm[strcspn(comm, "\n")] = '\0';
	for (size_t i = 0; i < ARRAY_SIZE(tuners); i++) {
		if (strcmp(comm, tuners[i]) == 0) {
			*ret_name = tuners[i];
			return true;
		}
	}
	return false;
}

static int find_process(const char *proc, struct ksm_manager *ret)
{
	auto_dir dir = opendir(proc);
	const struct dirent *entry;

	if (!dir)
		return -errno;
	while ((entry = readdir(dir))) {
		const char *name;
		uint64_t pid;

		if (number_parse(entry->d_name, INT_MAX, &pid) < 0)
			continue;
		if (!comm_is_tuner(proc, entry->d_name, &name))
			continue;
		snprintf(ret->name, sizeof(ret->name), "%s", name);
		ret->pid = (pid_t)pid;
		break;
	}
	return 0;
}

static void find_unit(const char *units, struct ksm_manager *ret)
{
	for (size_t i = 0; i < ARRAY_SIZE(unit_names) && !ret->name[0]; i++) {
		char path[PATH_MAX], target[64];

		/* Links whose target is the invocation id, not a file: readlink, not access. */
		if (snprintf(path, sizeof(path), "%s/invocation:%s", units, unit_names[i]) <
			    (int)sizeof(path) &&
		    readlink(path, target, sizeof(target)) > 0)
			snprintf(ret->name, sizeof(ret->name), "%s", unit_names[i]);
	}
}

int ksm_manager_find(const struct ksm_state *state, const char *proc, const char *units,
		     struct ksm_manager *ret)
{
	struct ksm_manager found = {0};
	int r = find_process(proc, &found);

	if (r < 0)
		return r;
	if (!found.name[0])
		find_unit(units, &found);
	if (!found.name[0] && state->advisor[0] && strcmp(state->advisor, "none") != 0)
		snprintf(found.name, sizeof(found.name), "advisor");
	*ret = found;
	return 0;
}
