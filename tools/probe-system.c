/* SPDX-License-Identifier: Apache-2.0 */
/* The rest of the host: kernel, memory, huge pages, tun, io_uring, control groups. */
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/if_tun.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>

#include "base/fs.h"
#include "tools/host-probe.h"

#define TUN_DEVICE    "/dev/net/tun"
#define MOUNTINFO_MAX ((size_t)1 << 20)

/* Fields of a line of mountinfo, proc(5): the mount point is the fifth; type and options follow " - ". */
static bool mount_parse(char *line, const char **ret_mount, const char **ret_type, char **ret_options)
{
	char *rest = strstr(line, " - "), *save = NULL, *word = NULL;

	if (!rest)
		return false;
	*rest = '\0';
	for (int i = 0; i < 5; i++) {
		word = strtok_r(i ? NULL : line, " ", &save);
		if (!word)
			return false;
	}
	*ret_mount = word;
	*ret_type = strtok_r(rest + 3, " ", &save);
	if (!*ret_type || !strtok_r(NULL, " ", &save))
		return false;
	*ret_options = save;
	return true;
}

static bool has_option(char *options, const char *wanted)
{
	char *save = NULL;

	for (char *o = strtok_r(options, ", ", &save); o; o = strtok_r(NULL, ", ", &save))
		if (strcmp(o, wanted) == 0)
			return true;
	return false;
}

/* A version 1 hierarchy with the memory controller wins: on such hosts version 2 is mounted without it. */
void probe_cgroup_parse(char *mountinfo, struct probe_cgroup *ret)
{
	char *save = NULL;

	*ret = (struct probe_cgroup){0};
	for (char *line = strtok_r(mountinfo, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		const char *mount, *type;
		char *options;
		unsigned version;

		if (!mount_parse(line, &mount, &type, &options))
			continue;
		if (strcmp(type, "cgroup2") == 0 && ret->version == 0)
			version = 2;
		else if (strcmp(type, "cgroup") == 0 && ret->version != 1 && has_option(options, "memory"))
			version = 1;
		else
			continue;
		ret->version = version;
		ret->memory = version == 1;
		snprintf(ret->mount, sizeof(ret->mount), "%s", mount);
	}
}

static void probe_cgroup(struct probe_cgroup *ret)
{
	auto_free char *text = NULL, *controllers = NULL;
	char path[300], *save = NULL;

	if (file_read_text("/proc/self/mountinfo", MOUNTINFO_MAX, &text) < 0)
		return;
	probe_cgroup_parse(text, ret);
	if (ret->version != 2)
		return;
	snprintf(path, sizeof(path), "%s/cgroup.controllers", ret->mount);
	if (file_read_text(path, 4096, &controllers) < 0)
		return;
	for (char *c = strtok_r(controllers, " \n", &save); c; c = strtok_r(NULL, " \n", &save))
		if (strcmp(c, "memory") == 0)
			ret->memory = true;
}

/* Opens the device and asks for its features; makes no interface. */
static void probe_tun(struct probe_system *ret)
{
	auto_fd fd = open(TUN_DEVICE, O_RDWR | O_CLOEXEC);
	unsigned features;

	if (fd < 0)
		errmsg_set(&ret->tun_why, -errno, "%s: %s", TUN_DEVICE, strerror(errno));
	else if (ioctl(fd, TUNGETFEATURES, &features) < 0)
		errmsg_set(&ret->tun_why, -errno, "TUNGETFEATURES: %s", strerror(errno));
	else
		ret->tun = true;
}

static void probe_io_uring(struct probe_system *ret)
{
	struct io_uring ring;
	int r = io_uring_queue_init(2, &ring, 0);

	ret->io_uring = r == 0;
	if (r == 0)
		io_uring_queue_exit(&ring);
	else
		errmsg_set(&ret->io_uring_why, r, "io_uring_setup: %s", strerror(-r));
}

void probe_system(struct probe_system *ret)
{
	struct utsname uts;
	struct sysinfo info;
	uint64_t v;

	*ret = (struct probe_system){.max_map_count = -1};
	if (uname(&uts) == 0)
		snprintf(ret->kernel, sizeof(ret->kernel), "%s", uts.release);
	if (sysinfo(&info) == 0)
		ret->memory_bytes = (uint64_t)info.totalram * info.mem_unit;
	ret->cpus = (unsigned)get_nprocs();
	if (file_read_u64("/proc/sys/vm/max_map_count", &v) == 0)
		ret->max_map_count = (int64_t)v;
	if (file_read_choice("/sys/kernel/mm/transparent_hugepage/enabled", ret->thp, sizeof(ret->thp)) < 0)
		ret->thp[0] = '\0';
	if (file_read_choice("/sys/kernel/mm/transparent_hugepage/shmem_enabled", ret->thp_shmem,
			     sizeof(ret->thp_shmem)) < 0)
		ret->thp_shmem[0] = '\0';
	probe_tun(ret);
	probe_io_uring(ret);
	probe_cgroup(&ret->cgroup);
}
