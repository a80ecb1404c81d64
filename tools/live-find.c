/* SPDX-License-Identifier: Apache-2.0 */
/* Which processes run virtual machines? */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "base/size.h"
#include "tools/live-process.h"

static bool holds_kvm_vm(pid_t pid, bool *ret_hidden)
{
	auto_dir folder = NULL;
	struct dirent *e;
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
	folder = opendir(path);
	*ret_hidden = !folder && errno == EACCES;
	while (folder && (e = readdir(folder))) {
		char target[64];
		ssize_t n = readlinkat(dirfd(folder), e->d_name, target, sizeof(target) - 1);

		if (n <= 0)
			continue;
		target[n] = '\0';
		if (strcmp(target, "anon_inode:kvm-vm") == 0)
			return true;
	}
	return false;
}

/* A monitor may emulate, without KVM; the name in comm is cut to 15 characters. */
static bool is_known_monitor(pid_t pid)
{
	static const char *const names[] = {"qemu-system", "qemu-kvm", "firecracker", "cloud-hyperviso",
					    "crosvm",	   "lkvm",     "kvmtool",     "dragonball"};
	char path[64], comm[32] = "";
	auto_file f = NULL;

	snprintf(path, sizeof(path), "/proc/%d/comm", (int)pid);
	f = fopen(path, "re");
	if (!f || !fgets(comm, sizeof(comm), f))
		return false;
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (strncmp(comm, names[i], strlen(names[i])) == 0)
			return true;
	return false;
}

static int pid_order(const void *a, const void *b)
{
	pid_t x = *(const pid_t *)a, y = *(const pid_t *)b;

	return x < y ? -1 : x > y;
}

int live_find_vms(pid_t **ret_pids, size_t *ret_count, size_t *ret_hidden)
{
	auto_dir proc = opendir("/proc");
	auto_free pid_t *pids = NULL;
	size_t count = 0, space = 0, hidden = 0;
	struct dirent *e;

	if (!proc)
		return -errno;
	while ((e = readdir(proc))) {
		bool no_look = false, by_name;
		uint64_t pid;

		if (!isdigit((unsigned char)e->d_name[0]) || number_parse(e->d_name, INT32_MAX, &pid) < 0 ||
		    (pid_t)pid == getpid())
			continue;
		by_name = is_known_monitor((pid_t)pid);
		if (!holds_kvm_vm((pid_t)pid, &no_look) && !by_name)
			continue;
		hidden += no_look;
		if (count == space) {
			pid_t *v = realloc(pids, (space = space ? space * 2 : 16) * sizeof(*v));

			if (!v)
				return -ENOMEM;
			pids = v;
		}
		pids[count++] = (pid_t)pid;
	}
	if (count)
		qsort(pids, count, sizeof(*pids), pid_order);
	*ret_pids = TAKE_PTR(pids);
	*ret_count = count;
	*ret_hidden = hidden;
	return 0;
}
