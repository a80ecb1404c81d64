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
#include <unistd.h>

#include "base/bytes.h"
#include "tests/fuzz/virtio_program.h"
#include "vmm/virtio-vsock.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CID	 7
#define PORT	 1
#define PROGRAMS 4
#define ACCEPTED 4

/* Where seeds_virtio.c has the guest's packet and its receive buffers. */
#define PACKET	      (DRIVER_DATA + 0x100)
#define BUFFERS	      (DRIVER_DATA + 0x1000)
#define BUFFER_STRIDE 0x200

static struct driver d;
static struct virtio_vsock *vsock;
static char dir[] = "/tmp/fuzz-vsock-XXXXXX";
static char path[64], port_path[64];
static int listener;
static int accepted[ACCEPTED];
static unsigned looks;

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

/* Listeners take what comes, read at times, and leave. */
static void listeners_go_on(void)
{
	static uint8_t buf[65536];

	for (unsigned i = 0; i < ACCEPTED; i++) {
		int *fd = &accepted[i];

		if (*fd < 0)
			*fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (*fd < 0)
			return;
		if (looks % 8 == 5)
			(void)!send(*fd, buf, 100, MSG_NOSIGNAL);
		else if (looks % 16 == 14)
			while (recv(*fd, buf, sizeof(buf), 0) > 0)
				;
		else if (looks % 32 == 31)
			shutdown(*fd, looks & 32 ? SHUT_WR : SHUT_RD);
	}
}

/* A guest cannot guess which port a program of the host has: its packet is made an answer to the last request. */
static void guest_learns(void)
{
	uint8_t *packet = driver_ptr(&d, PACKET, 44);

	for (unsigned i = 0; i < 4; i++) {
		const uint8_t *request = driver_ptr(&d, BUFFERS + BUFFER_STRIDE * i, 44);

		if (load_le16(request + 30) != 1) /* VIRTIO_VSOCK_OP_REQUEST */
			continue;
		memcpy(packet + 16, request + 20, 4);
		memcpy(packet + 20, request + 16, 4);
	}
}

static void host(struct driver *driver)
{
	(void)driver;
	looks++;
	listeners_go_on();
	guest_learns();
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
	d.between = host;
	memset(accepted, -1, sizeof(accepted));
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
	for (unsigned i = 0; i < ACCEPTED; i++)
		if (accepted[i] >= 0)
			close(accepted[i]);
	memset(accepted, -1, sizeof(accepted));
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
	looks = 0;
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
