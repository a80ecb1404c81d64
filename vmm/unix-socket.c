/* SPDX-License-Identifier: Apache-2.0 */
/* Stream sockets in the file system. */
#include "vmm/unix-socket.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#define LISTEN_BACKLOG 16

/*
 * The address of a path. One longer than sockaddr_un takes is named through its directory's descriptor, which
 * the caller closes after use.
 */
static int address_make(const char *path, struct sockaddr_un *ret_addr, int *ret_dir_fd)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	const char *slash = strrchr(path, '/');
	auto_fd dir = -1;
	auto_free char *parent = NULL;
	int n;

	if (!path[0])
		return -EINVAL;
	if (strlen(path) < sizeof(addr.sun_path)) {
		strcpy(addr.sun_path, path);
		*ret_addr = addr;
		*ret_dir_fd = -1;
		return 0;
	}
	if (!slash)
		return -ENAMETOOLONG;
	parent = strndup(path, (size_t)(slash - path) + 1);
	if (!parent)
		return -ENOMEM;
	dir = open(parent, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		return -errno;
	n = snprintf(addr.sun_path, sizeof(addr.sun_path), "/proc/self/fd/%d/%s", dir, slash + 1);
	if (n < 0 || (size_t)n >= sizeof(addr.sun_path))
		return -ENAMETOOLONG;
	*ret_addr = addr;
	*ret_dir_fd = TAKE_FD(dir);
	return 0;
}

static int socket_connect(int fd, const char *path)
{
	struct sockaddr_un addr;
	auto_fd dir = -1;
	int r = address_make(path, &addr, &dir);

	if (r < 0)
		return r;
	while (connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0)
		if (errno != EINTR)
			return -errno;
	return 0;
}

static int socket_bind(int fd, const char *path)
{
	struct sockaddr_un addr;
	auto_fd dir = -1;
	int r = address_make(path, &addr, &dir);

	if (r < 0)
		return r;
	return bind(fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0 ? -errno : 0;
}

/* Make room at @path if what is there is a socket on which nobody listens. */
static int remove_dead(const char *path, int type, const char *what, struct errmsg *err)
{
	struct stat st;
	auto_fd fd = -1;
	int r;

	if (lstat(path, &st) < 0)
		return errno == ENOENT ? 0 : errmsg_set(err, -errno, "%s: %s", what, strerror(errno));
	if (!S_ISSOCK(st.st_mode))
		return errmsg_set(err, -EEXIST,
				  "%s: the file exists and is no socket; remove it or choose another path",
				  what);
	/* Non-blocking: a listener with a full backlog answers EAGAIN at once, and is alive. */
	fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	r = socket_connect(fd, path);
	if (r == -ECONNREFUSED)
		return unlink(path) < 0 && errno != ENOENT
			       ? errmsg_set(err, -errno, "%s: cannot remove the stale socket: %s", what,
					    strerror(errno))
			       : 0;
	if (r == -ENOENT)
		return 0;
	if (r < 0 && r != -EAGAIN && r != -EPROTOTYPE)
		return errmsg_set(err, r, "%s: %s", what, strerror(-r));
	return errmsg_set(err, -EADDRINUSE, "%s: in use by a running program; choose another path", what);
}

int unix_listen(const char *path, const char *what, struct errmsg *err, struct unix_listener *ret)
{
	return unix_listen_type(path, SOCK_STREAM, what, err, ret);
}

int unix_listen_type(const char *path, int type, const char *what, struct errmsg *err,
		     struct unix_listener *ret)
{
	auto_fd fd = -1;
	auto_free char *copy = NULL;
	struct stat st;
	int r = remove_dead(path, type, what, err);

	if (r < 0)
		return r;
	fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	/* bind() gives the file the mode of the socket: there is no moment with a wider one. */
	if (fd < 0 || fchmod(fd, 0600) < 0)
		return errmsg_set(err, -errno, "%s: %s", what, strerror(errno));
	copy = strdup(path);
	if (!copy)
		return -ENOMEM;
	r = socket_bind(fd, path);
	if (r < 0)
		return errmsg_set(err, r, "%s: cannot create the socket: %s", what, strerror(-r));
	if (listen(fd, LISTEN_BACKLOG) < 0 || lstat(path, &st) < 0) {
		r = -errno;
		unlink(path);
		return errmsg_set(err, r, "%s: %s", what, strerror(-r));
	}
	*ret = (struct unix_listener){
		.fd = TAKE_FD(fd), .path = TAKE_PTR(copy), .dev = st.st_dev, .ino = st.st_ino};
	return 0;
}

void unix_listener_close(struct unix_listener *listener)
{
	struct stat st;

	if (listener->fd < 0)
		return;
	if (listener->path && lstat(listener->path, &st) == 0 && st.st_dev == listener->dev &&
	    st.st_ino == listener->ino)
		unlink(listener->path);
	close(listener->fd);
	free(listener->path);
	*listener = UNIX_LISTENER_NONE;
}

void unix_listener_leave(struct unix_listener *listener)
{
	free(listener->path);
	listener->path = NULL;
}

static int connect_new(const char *path, int flags, int *ret_fd)
{
	auto_fd fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);
	int r;

	if (fd < 0)
		return -errno;
	r = socket_connect(fd, path);
	if (r < 0)
		return r;
	*ret_fd = TAKE_FD(fd);
	return 0;
}

int unix_connect(const char *path, int *ret_fd)
{
	return connect_new(path, 0, ret_fd);
}

int unix_connect_now(const char *path, int *ret_fd)
{
	return connect_new(path, SOCK_NONBLOCK, ret_fd);
}

int unix_peer_uid(int fd, uid_t *ret_uid)
{
	struct ucred cred;
	socklen_t len = sizeof(cred);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
		return -errno;
	*ret_uid = cred.uid;
	return 0;
}
