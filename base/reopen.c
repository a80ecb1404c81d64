/* SPDX-License-Identifier: Apache-2.0 */
/* Files that are appended to and may be moved away under us. */
#include "base/reopen.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>

static bool is_regular(int fd)
{
	struct stat st;

	return fstat(fd, &st) == 0 && S_ISREG(st.st_mode);
}

int reopen_hold(const char *path, struct reopen *ret)
{
	const char *slash = strrchr(path, '/');
	auto_free char *dir = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
	auto_free char *name = strdup(slash ? slash + 1 : path);
	int fd;

	if (!dir || !name)
		return -ENOMEM;
	if (!name[0])
		return -EISDIR;
	fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	*ret = (struct reopen){.dir_fd = fd, .name = TAKE_PTR(name)};
	return 0;
}

void reopen_done(struct reopen *r)
{
	close_fd_p(&r->dir_fd);
	free(r->name);
	*r = REOPEN_NONE;
}

int reopen_file(const struct reopen *r, int fd)
{
	auto_fd now = -1;

	if (r->dir_fd < 0 || !is_regular(fd))
		return 0;
	now = openat(r->dir_fd, r->name, REOPEN_FLAGS, 0600);
	if (now < 0)
		return -errno;
	if (!is_regular(now))
		return -ENOTSUP;
	return dup3(now, fd, O_CLOEXEC) < 0 ? -errno : 0;
}

DEFINE_SYSCALLS(reopen_syscalls, SYSCALL_IF(openat, 2, REOPEN_FLAGS), SYSCALL(dup3),
		SYSCALL_IF(newfstatat, 3, AT_EMPTY_PATH));
