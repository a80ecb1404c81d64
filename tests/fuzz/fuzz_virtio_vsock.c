/* SPDX-License-Identifier: Apache-2.0 */
/* Any guest against vsock: the device survives, keeps no more than it may, and a reset ends all. Programs of the host talk, listen
 * and leave meanwhile. */
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "tests/fuzz/virtio_program.h"
#include "vmm/virtio-vsock.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CID	 7
#define PORT	 1
#define PROGRAMS 4

static struct driver d;
static struct virtio_vsock *vsock;
static char dir[] = "/tmp/fuzz-vsock-XXXXXX";
static char path[64], port_path[64];
static int listener;

static int make_socket(const char *where, bool listening)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	require(fd >= 0);
	memcpy(addr.sun_path, where, strlen(where) + 1);
	if (listening)
		require(bind(fd, (const struct sockaddr *)&addr, sizeof(addr)) == 0 && listen(fd, 64) == 0);
	else
		(void)!connect(fd, (const struct sockaddr *)&addr, sizeof(addr));
	return fd;
}

static void clean(void)
{
	virtio_vsock_free(vsock);
	unlink(port_path);
	rmdir(dir);
}

static void make(void)
{
	struct virtio_vsock_options options = {.cid = CID, .path = path};

	require(mkdtemp(dir) != NULL);
	snprintf(path, sizeof(path), "%s/v", dir);
	snprintf(port_path, sizeof(port_path), "%s/v_%d", dir, PORT);
	listener = make_socket(port_path, true);
	require(driver_init(&d) == 0);
	require(virtio_vsock_new(&options, d.mem, d.loop, &d.irq, NULL, &vsock) == 0);
	d.mmio = virtio_vsock_mmio(vsock);
	atexit(clean);
}

/* What the programs do is in the last bytes of the input: a letter each. */
static void programs_begin(const uint8_t *data, size_t size, int fds[PROGRAMS])
{
	static const char hello[] = "CONNECT 5\nand more";

	for (unsigned i = 0; i < PROGRAMS; i++) {
		uint8_t what = i < size ? data[size - 1 - i] : 0;

		fds[i] = -1;
		if (what % 4 == 0)
			continue;
		fds[i] = make_socket(path, false);
		(void)!send(fds[i], hello, what % sizeof(hello), MSG_NOSIGNAL);
		if (what % 4 == 3)
			shutdown(fds[i], what & 16 ? SHUT_WR : SHUT_RDWR);
	}
}

static void programs_end(int fds[PROGRAMS])
{
	int fd;

	for (unsigned i = 0; i < PROGRAMS; i++)
		if (fds[i] >= 0)
			close(fds[i]);
	while ((fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0)
		close(fd);
	driver_loop(&d);
	driver_loop(&d);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct virtio_vsock_stats stats;
	int fds[PROGRAMS];

	if (!vsock)
		make();
	programs_begin(data, size, fds);
	program_run(&d, data, size);
	virtio_vsock_stats(vsock, &stats);
	require(stats.open <= VSOCK_CONNECTIONS_MAX);
	programs_end(fds);
	driver_write(&d, REG_STAT, 0);
	driver_loop(&d);
	virtio_vsock_stats(vsock, &stats);
	require(stats.open == 0);
	return 0;
}
