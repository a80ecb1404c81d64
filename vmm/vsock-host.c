/* SPDX-License-Identifier: Apache-2.0 */
/* The host's side of vsock. */
#include "vmm/vsock-host.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#include "base/size.h"
#include "vmm/vsock-packet.h"

struct vsock_host {
	struct unix_server *server;
	char *folder; /* "" or with a '/' at its end */
	char *name;   /* of PATH in it */
};

int vsock_host_set_folder(struct vsock_host *host, const char *folder)
{
	size_t len = strlen(folder);
	char *copy = NULL;

	if (asprintf(&copy, "%s%s", folder, len && folder[len - 1] != '/' ? "/" : "") < 0)
		return -ENOMEM;
	free(host->folder);
	host->folder = copy;
	return 0;
}

void vsock_host_leave_file(struct vsock_host *host)
{
	unix_server_leave(host->server);
}

/* Keep folder and name apart. */
static int path_split(struct vsock_host *host, const char *path)
{
	const char *slash = strrchr(path, '/');
	const char *name = slash ? slash + 1 : path;
	auto_free char *folder = strndup(path, (size_t)(name - path));

	host->name = strdup(name);
	if (!folder || !host->name)
		return -ENOMEM;
	return vsock_host_set_folder(host, folder);
}

/* The one place that says where a port of the host is. Return: the path, NULL without memory. */
static char *port_path(const struct vsock_host *host, uint32_t port)
{
	char *path = NULL;

	if (asprintf(&path, "%s%s_%" PRIu32, host->folder, host->name, port) < 0)
		return NULL;
	return path;
}

int vsock_host_new(struct io_loop *loop, const char *path, unix_server_fn fn, void *arg, struct errmsg *err,
		   struct vsock_host **ret)
{
	cleanup(vsock_host_free_p) struct vsock_host *host = calloc(1, sizeof(*host));
	auto_free char *what = NULL;
	int r;

	if (!host)
		return -ENOMEM;
	r = path_split(host, path);
	if (r < 0)
		return r;
	if (asprintf(&what, "--vsock path=%s", path) < 0) {
		what = NULL;
		return -ENOMEM;
	}
	if (strlen(host->name) > VSOCK_HOST_NAME_MAX)
		return errmsg_set(err, -ENAMETOOLONG, "%s: the file's name is longer than %d bytes", what,
				  VSOCK_HOST_NAME_MAX);
	r = unix_server_new(loop, path, what, fn, arg, err, &host->server);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(host);
	return 0;
}

void vsock_host_free(struct vsock_host *host)
{
	if (!host)
		return;
	unix_server_free(host->server);
	free(host->folder);
	free(host->name);
	free(host);
}

int vsock_host_connect(const struct vsock_host *host, uint32_t port, int *ret_fd)
{
	auto_free char *path = port_path(host, port);

	return path ? unix_connect_now(path, ret_fd) : -ENOMEM;
}

/* @line ends with a NUL instead of its newline. */
static int hello_parse(const char *line, uint32_t *ret_port)
{
	const char *word = "connect ";
	uint64_t port = 0;
	const char *p = line + strlen(word);

	if (strncasecmp(line, word, strlen(word)) != 0 || !*p)
		return -EPROTO;
	for (; *p; p++) {
		if (!isdigit((unsigned char)*p))
			return -EPROTO;
		port = port * 10 + (uint64_t)(*p - '0');
		if (port >= VSOCK_PORT_ANY)
			return -EPROTO;
	}
	*ret_port = (uint32_t)port;
	return 1;
}

/* recv() that tells the end of the stream as an error. Return: bytes, or a negative errno. */
static ssize_t receive(int fd, char *buf, size_t len, int flags)
{
	ssize_t n = recv(fd, buf, len, flags | MSG_DONTWAIT);

	if (n < 0)
		return -errno;
	return n ? n : -ECONNRESET;
}

int vsock_hello_read(int fd, char *line, unsigned max, unsigned *len, uint32_t *ret_port)
{
	char *at = line + *len;
	size_t room = max - *len;
	const char *newline;
	ssize_t n = receive(fd, at, room, MSG_PEEK);

	/* Looked at first: what is behind the line is the guest's. */
	if (n > 0) {
		newline = memchr(at, '\n', (size_t)n);
		n = receive(fd, at, newline ? (size_t)(newline - at) + 1 : (size_t)n, 0);
	}
	if (n == -EAGAIN || n == -EINTR)
		return 0;
	if (n < 0)
		return (int)n;
	*len += (unsigned)n;
	if (line[*len - 1] != '\n')
		return *len < max ? 0 : -EPROTO;
	line[*len - 1] = '\0';
	/* A NUL within would hide what follows it. */
	return strlen(line) == *len - 1 ? hello_parse(line, ret_port) : -EPROTO;
}

DEFINE_SYSCALLS(vsock_host_syscalls, SYSCALL_IF(socket, 0, AF_UNIX), SYSCALL(connect), SYSCALL(recvfrom));
