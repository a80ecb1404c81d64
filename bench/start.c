/* SPDX-License-Identifier: Apache-2.0 */
/* How long a VM takes to answer: start SOCKET COMMAND.. starts it and prints the nanoseconds from exec to the greeting and
 * the answer to a ping on its control socket; then the VM is killed. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/fs.h"
#include "vmm/unix-socket.h"

#define DEADLINE_NS 30000000000u
#define PAUSE_NS    20000

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* Read up to and with the @lines-th newline. Return: 0 or -ENODATA. */
static int read_lines(int fd, unsigned lines)
{
	char buf[4096];

	while (lines) {
		ssize_t n = read(fd, buf, sizeof(buf));

		if (n <= 0)
			return -ENODATA;
		for (ssize_t i = 0; i < n && lines; i++)
			lines -= buf[i] == '\n';
	}
	return 0;
}

static int exchange(const char *path, uint64_t deadline, int *ret_fd)
{
	static const char ping[] = "{\"cmd\":\"ping\"}\n";
	int fd, r;

	while ((r = unix_connect(path, &fd)) < 0) {
		if (now_ns() > deadline)
			return r;
		nanosleep(&(struct timespec){.tv_nsec = PAUSE_NS}, NULL);
	}
	*ret_fd = fd;
	r = write_full(fd, ping, strlen(ping));
	return r < 0 ? r : read_lines(fd, 2);
}

int main(int argc, char **argv)
{
	static const char kill_it[] = "{\"cmd\":\"kill\"}\n";
	_Atomic uint64_t *begin =
		mmap(NULL, sizeof(*begin), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	uint64_t end;
	pid_t pid;
	auto_fd fd = -1;
	int r;

	if (argc < 3 || begin == MAP_FAILED) {
		fprintf(stderr, "usage: start SOCKET COMMAND..\n");
		return 2;
	}
	pid = fork();
	if (pid == 0) {
		*begin = now_ns();
		execv(argv[2], argv + 2);
		_exit(127);
	}
	r = pid < 0 ? -errno : exchange(argv[1], now_ns() + DEADLINE_NS, &fd);
	end = now_ns();
	if (r == 0)
		r = write_full(fd, kill_it, strlen(kill_it));
	if (r < 0) {
		fprintf(stderr, "start: %s: %s\n", argv[1], strerror(-r));
		return 1;
	}
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
	printf("%" PRIu64 "\n", end - *begin);
	return 0;
}
