/* SPDX-License-Identifier: Apache-2.0 */
/* `run --cgroup`: join a control group. */
#include "tools/run-cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/vfs.h>

#include "base/fs.h"

static const char *advice(int error)
{
	switch (error) {
	case -EACCES:
	case -EPERM:
	case -EROFS:
		return "let this user write it";
	case -EOPNOTSUPP:
		return "it is a threaded group; name one that is not";
	case -EBUSY:
		return "it passes controllers on to groups below it; name one of those";
	case -ENOSPC:
		return "its cpuset has no CPUs or memory nodes; set them";
	default:
		return "see the kernel's documentation of control groups";
	}
}

int cgroup_join(const char *path, struct errmsg *err)
{
	char file[PATH_MAX], pid[32];
	struct statfs fs;
	auto_fd fd = -1;
	int r, n;

	if (snprintf(file, sizeof(file), "%s/cgroup.procs", path) >= (int)sizeof(file))
		return errmsg_set(err, -ENAMETOOLONG, "--cgroup: the path is too long");
	if (statfs(path, &fs) < 0)
		return errmsg_set(err, -errno, "--cgroup %s: %s; make the group first", path,
				  strerror(errno));
	if (fs.f_type != CGROUP2_SUPER_MAGIC && fs.f_type != CGROUP_SUPER_MAGIC)
		return errmsg_set(err, -ENOTDIR,
				  "--cgroup %s: not in a control group file system; name a folder such as "
				  "/sys/fs/cgroup/vms",
				  path);
	fd = open(file, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return errmsg_set(err, -errno, "--cgroup %s: %s; %s", file, strerror(errno), advice(-errno));
	n = snprintf(pid, sizeof(pid), "%d\n", (int)getpid());
	r = write_full(fd, pid, (size_t)n);
	if (r < 0)
		return errmsg_set(err, r, "--cgroup %s: %s; %s", file, strerror(-r), advice(r));
	return 0;
}
