/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Both ends of a vsock connection, for machines that have only busybox:
 *
 *   uvsock listen PORT                    in a guest: takes one connection and echoes it to its end
 *   uvsock connect PORT BYTES             in a guest: connects to the host, sends and compares the echo
 *   uvsock unix-listen PATH               on the host, as listen
 *   uvsock unix-connect PATH PORT BYTES   on the host: through the VM's PATH to a port of the guest, as connect
 */
#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

enum {
	CONNECT_SECONDS = 60,
	SILENCE_MS = 60000, /* a connection that stands still so long has failed */
	BUFFER_BYTES = 16384,
};

union address {
	struct sockaddr any;
	struct sockaddr_un un;
	struct sockaddr_vm vm;
};

static int fail(const char *what)
{
	fprintf(stderr, "uvsock: %s: %s\n", what, strerror(errno));
	return 1;
}

static socklen_t unix_address(union address *addr, const char *path)
{
	memset(addr, 0, sizeof(*addr));
	addr->un.sun_family = AF_UNIX;
	snprintf(addr->un.sun_path, sizeof(addr->un.sun_path), "%s", path);
	return sizeof(addr->un);
}

static socklen_t vm_address(union address *addr, unsigned cid, unsigned port)
{
	memset(addr, 0, sizeof(*addr));
	addr->vm.svm_family = AF_VSOCK;
	addr->vm.svm_cid = cid;
	addr->vm.svm_port = port;
	return sizeof(addr->vm);
}

/* Connect, once somebody listens. */
static int connect_to(const union address *addr, socklen_t len)
{
	for (int tries = 0; tries < CONNECT_SECONDS * 20; tries++) {
		int fd = socket(addr->any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

		if (fd < 0)
			return -1;
		if (connect(fd, &addr->any, len) == 0)
			return fd;
		close(fd);
		nanosleep(&(struct timespec){.tv_nsec = 50 * 1000 * 1000}, NULL);
	}
	return -1;
}

static int accept_one(const union address *addr, socklen_t len)
{
	int listener = socket(addr->any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int fd;

	if (listener < 0 || bind(listener, &addr->any, len) < 0 || listen(listener, 1) < 0)
		return -1;
	printf("listening\n");
	fflush(stdout);
	fd = accept(listener, NULL, NULL);
	close(listener);
	return fd;
}

static bool write_all(int fd, const uint8_t *data, size_t len)
{
	while (len > 0) {
		ssize_t put = send(fd, data, len, MSG_NOSIGNAL);

		if (put < 0)
			return false;
		data += put;
		len -= (size_t)put;
	}
	return true;
}

static int echo(int fd)
{
	uint8_t buffer[BUFFER_BYTES];
	unsigned long total = 0;
	ssize_t got;

	while ((got = recv(fd, buffer, sizeof(buffer), 0)) > 0) {
		if (!write_all(fd, buffer, (size_t)got))
			return fail("echo");
		total += (unsigned long)got;
	}
	if (got < 0)
		return fail("read");
	printf("echoed %lu bytes\n", total);
	return 0;
}

/* Neither a run of one value nor one that repeats within a packet. */
static uint8_t pattern(unsigned long at)
{
	return (uint8_t)(at * 2654435761u >> 16 ^ at >> 7);
}

/* Send and compare at the same time, since an echo stops when it is not read; then end, and see the end. */
static int compare_echo(int fd, unsigned long bytes)
{
	uint8_t buffer[BUFFER_BYTES];
	unsigned long sent = 0, got = 0;

	for (;;) {
		struct pollfd p = {.fd = fd, .events = (short)(POLLIN | (sent < bytes ? POLLOUT : 0))};
		ssize_t n;

		if (poll(&p, 1, SILENCE_MS) != 1) {
			fprintf(stderr, "uvsock: stands still, %lu sent, %lu got\n", sent, got);
			return 1;
		}
		if (p.revents & POLLOUT && sent < bytes) {
			size_t part = bytes - sent < sizeof(buffer) ? bytes - sent : sizeof(buffer);

			for (size_t i = 0; i < part; i++)
				buffer[i] = pattern(sent + i);
			n = send(fd, buffer, part, MSG_DONTWAIT | MSG_NOSIGNAL);
			if (n < 0 && errno != EAGAIN)
				return fail("send");
			sent += n > 0 ? (unsigned long)n : 0;
			if (sent == bytes && shutdown(fd, SHUT_WR) < 0)
				return fail("shutdown");
		}
		if (!(p.revents & (POLLIN | POLLHUP | POLLERR)))
			continue;
		n = recv(fd, buffer, sizeof(buffer), MSG_DONTWAIT);
		if (n < 0 && errno != EAGAIN)
			return fail("recv");
		if (n == 0)
			break;
		for (ssize_t i = 0; i < n; i++, got++) {
			if (buffer[i] != pattern(got)) {
				fprintf(stderr, "uvsock: byte %lu is wrong\n", got);
				return 1;
			}
		}
	}
	printf("%lu of %lu bytes came back\n", got, bytes);
	return got != bytes;
}

/* "CONNECT PORT", "OK HOSTPORT". */
static bool say_port(int fd, const char *port)
{
	char line[64];
	size_t len = 0;

	snprintf(line, sizeof(line), "CONNECT %s\n", port);
	if (!write_all(fd, (const uint8_t *)line, strlen(line)))
		return false;
	while (len < sizeof(line) - 1 && recv(fd, line + len, 1, 0) == 1)
		if (line[len++] == '\n')
			break;
	line[len] = '\0';
	return len > 3 && strncmp(line, "OK ", 3) == 0;
}

int main(int argc, char **argv)
{
	const char *verb = argc > 2 ? argv[1] : "";
	union address addr;
	socklen_t len;
	int fd;

	if (strcmp(verb, "listen") == 0 && argc == 3) {
		len = vm_address(&addr, VMADDR_CID_ANY, (unsigned)strtoul(argv[2], NULL, 10));
		fd = accept_one(&addr, len);
		return fd < 0 ? fail("listen") : echo(fd);
	}
	if (strcmp(verb, "unix-listen") == 0 && argc == 3) {
		len = unix_address(&addr, argv[2]);
		fd = accept_one(&addr, len);
		return fd < 0 ? fail(argv[2]) : echo(fd);
	}
	if (strcmp(verb, "connect") == 0 && argc == 4) {
		len = vm_address(&addr, VMADDR_CID_HOST, (unsigned)strtoul(argv[2], NULL, 10));
		fd = connect_to(&addr, len);
		return fd < 0 ? fail("connect") : compare_echo(fd, strtoul(argv[3], NULL, 10));
	}
	if (strcmp(verb, "unix-connect") == 0 && argc == 5) {
		len = unix_address(&addr, argv[2]);
		fd = connect_to(&addr, len);
		if (fd < 0)
			return fail(argv[2]);
		if (!say_port(fd, argv[3])) {
			fprintf(stderr, "uvsock: %s: the guest does not take port %s\n", argv[2], argv[3]);
			return 1;
		}
		return compare_echo(fd, strtoul(argv[4], NULL, 10));
	}
	fprintf(stderr, "usage: uvsock listen PORT | connect PORT BYTES | unix-listen PATH | "
			"unix-connect PATH PORT BYTES\n");
	return 2;
}
