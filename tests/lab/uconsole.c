/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The lab's way to Unix sockets, for an outer machine that has only busybox.
 *
 *   uconsole DEVICE SOCKET           carries bytes both ways between a character device and a guest's console
 *   uconsole --request SOCKET LINE   sends one line to a control socket and prints the answer
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum {
	CONNECT_SECONDS = 60, /* the VMM may be slow to create its socket */
	BUFFER_BYTES = 4096,
};

static int console_connect(const char *path)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};

	if (strlen(path) >= sizeof(addr.sun_path)) {
		fprintf(stderr, "uconsole: %s: path too long for a socket\n", path);
		return -1;
	}
	memcpy(addr.sun_path, path, strlen(path) + 1);
	for (int tries = 0; tries < CONNECT_SECONDS * 20; tries++) {
		int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

		if (fd < 0) {
			perror("uconsole: socket");
			return -1;
		}
		if (connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) == 0)
			return fd;
		close(fd);
		nanosleep(&(struct timespec){.tv_nsec = 50 * 1000 * 1000}, NULL);
	}
	fprintf(stderr, "uconsole: %s: nobody listens after %d s\n", path, CONNECT_SECONDS);
	return -1;
}

static bool write_all(int fd, const char *data, size_t len)
{
	while (len > 0) {
		ssize_t put = write(fd, data, len);

		if (put < 0 && errno == EINTR)
			continue;
		if (put < 0)
			return false;
		data += put;
		len -= (size_t)put;
	}
	return true;
}

/* Moves what `from` has to `to`; false at the end of the stream or on an error. */
static bool console_copy(int from, int to)
{
	char buffer[BUFFER_BYTES];
	ssize_t got = read(from, buffer, sizeof(buffer));

	if (got < 0)
		return errno == EINTR || errno == EAGAIN;
	return got > 0 && write_all(to, buffer, (size_t)got);
}

static int carry(const char *device_path, const char *socket_path)
{
	int device = open(device_path, O_RDWR | O_CLOEXEC | O_NOCTTY);

	if (device < 0) {
		fprintf(stderr, "uconsole: %s: %s\n", device_path, strerror(errno));
		return 1;
	}
	int console = console_connect(socket_path);

	if (console < 0)
		return 1;
	for (;;) {
		struct pollfd fds[2] = {{.fd = device, .events = POLLIN}, {.fd = console, .events = POLLIN}};

		if (poll(fds, 2, -1) < 0 && errno != EINTR)
			return 1;
		if ((fds[0].revents & POLLIN) && !console_copy(device, console))
			return 1;
		if ((fds[1].revents & (POLLIN | POLLHUP | POLLERR)) && !console_copy(console, device))
			return 0;
		if (!(fds[0].revents & POLLIN) && (fds[0].revents & (POLLHUP | POLLERR)))
			return 1;
	}
}

/* The server opens with a greeting line; the answer is the first line after the request. */
static int request(const char *socket_path, const char *line)
{
	int fd = console_connect(socket_path);
	FILE *in = fd < 0 ? NULL : fdopen(fd, "r");
	char *got = NULL;
	size_t room = 0;
	int code = 1;

	if (in == NULL)
		return 1;
	if (getline(&got, &room, in) <= 0)
		fprintf(stderr, "uconsole: %s: no greeting\n", socket_path);
	else if (!write_all(fd, line, strlen(line)) || !write_all(fd, "\n", 1))
		perror("uconsole: write");
	else if (getline(&got, &room, in) <= 0)
		fprintf(stderr, "uconsole: %s: no answer\n", socket_path);
	else
		code = fputs(got, stdout) < 0 || fflush(stdout) != 0;
	free(got);
	fclose(in);
	return code;
}

int main(int argc, char **argv)
{
	if (argc == 4 && strcmp(argv[1], "--request") == 0)
		return request(argv[2], argv[3]);
	if (argc == 3 && argv[1][0] != '-')
		return carry(argv[1], argv[2]);
	fprintf(stderr, "usage: uconsole DEVICE SOCKET | uconsole --request SOCKET LINE\n");
	return 2;
}
