/* SPDX-License-Identifier: Apache-2.0 */
/* A network namespace for this process alone, and taps in it. */
#ifndef SARDINE_TESTS_UNIT_NET_NAMESPACE_H
#define SARDINE_TESTS_UNIT_NET_NAMESPACE_H

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

/* Enter a namespace of our own. Return: NULL, or why this host does not let us have taps. */
static inline const char *net_namespace_enter(void)
{
	static char why[128];
	int fd;

	if (unshare(CLONE_NEWNET) < 0) {
		snprintf(why, sizeof(why), "no network namespace of our own: %s", strerror(errno));
		return why;
	}
	fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
	if (fd < 0) {
		snprintf(why, sizeof(why), "/dev/net/tun: %s", strerror(errno));
		return why;
	}
	close(fd);
	return NULL;
}

/* Attach to a tap or tun, made with these IFF_* flags. Return: its descriptor, without close-on-exec, or -errno. */
static inline int net_attach(const char *name, int flags)
{
	struct ifreq req = {.ifr_flags = (short)flags};
	int fd = open("/dev/net/tun", O_RDWR);

	snprintf(req.ifr_name, sizeof(req.ifr_name), "%s", name);
	if (fd >= 0 && ioctl(fd, TUNSETIFF, &req) < 0) {
		int r = -errno;

		close(fd);
		return r;
	}
	return fd < 0 ? -errno : fd;
}

/* Make a persistent device. Return: whether it is there. */
static inline bool net_make(const char *name, int flags)
{
	int fd = net_attach(name, flags);
	bool made = fd >= 0 && ioctl(fd, TUNSETPERSIST, 1) == 0;

	if (fd >= 0)
		close(fd);
	return made;
}

/* An ioctl on a network device by its name. Return: 0 or -errno. */
static inline int net_request(const char *name, unsigned long request, struct ifreq *req)
{
	int sock = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int r;

	snprintf(req->ifr_name, sizeof(req->ifr_name), "%s", name);
	r = ioctl(sock, request, req) < 0 ? -errno : 0;
	close(sock);
	return r;
}

#endif
