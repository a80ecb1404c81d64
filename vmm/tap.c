/* SPDX-License-Identifier: Apache-2.0 */
/* A tap device of the host. */
#include "vmm/tap.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/ethtool.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

_Static_assert(TAP_OFFLOAD_CSUM == TUN_F_CSUM && TAP_OFFLOAD_TSO4 == TUN_F_TSO4, "linux/if_tun.h");
_Static_assert(TAP_OFFLOAD_TSO6 == TUN_F_TSO6 && TAP_OFFLOAD_ECN == TUN_F_TSO_ECN, "linux/if_tun.h");

/* ifr_flags is a short, and IFF_VNET_HDR and IFF_TUN_EXCL are its upper bits. */
#define TAP_FLAGS (IFF_TAP | IFF_NO_PI | IFF_VNET_HDR)

static struct ifreq request_for(const char *name)
{
	struct ifreq req = {0};

	strncpy(req.ifr_name, name, IFNAMSIZ - 1);
	return req;
}

/* The kernel driver of a network device; "" when it does not say. */
static void driver_of(int sock, const char *name, char driver[32])
{
	struct ethtool_drvinfo info = {.cmd = ETHTOOL_GDRVINFO};
	struct ifreq req = request_for(name);

	req.ifr_data = (void *)&info;
	driver[0] = '\0';
	if (ioctl(sock, SIOCETHTOOL, &req) < 0)
		return;
	/* The tun driver tells its two kinds of devices apart by the bus. */
	memcpy(driver, strncmp(info.driver, "tun", 4) == 0 ? info.bus_info : info.driver, 31);
	driver[31] = '\0';
}

static int no_device(const char *name, const char *label, struct errmsg *err)
{
	return errmsg_set(err, -ENODEV,
			  "%s: no such network device here; make it: ip tuntap add dev %s mode tap vnet_hdr",
			  label, name);
}

/* Why TUNSETIFF refused the device. */
static int refused(int sock, const char *name, const char *label, int error, struct errmsg *err)
{
	char driver[32];

	switch (error) {
	case EBUSY:
		return errmsg_set(err, -EBUSY, "%s: another process uses it; each VM needs a tap of its own",
				  label);
	case EPERM:
		return errmsg_set(
			err, -EPERM,
			"%s: it belongs to another user; make it with: ip tuntap add dev %s mode tap "
			"vnet_hdr user NAME",
			label, name);
	case EINVAL:
		driver_of(sock, name, driver);
		if (strcmp(driver, "tap") == 0)
			return errmsg_set(err, -EINVAL,
					  "%s: a tap with several queues; make it without multi_queue",
					  label);
		return errmsg_set(err, -EINVAL, "%s: not a tap, but a device of the kind \"%s\"", label,
				  driver);
	default:
		return errmsg_set(err, -error, "%s: cannot attach to it: %s", label, strerror(error));
	}
}

/* What every tap gets, however it came here. */
static int set_up(int fd, const char *label, struct errmsg *err)
{
	int bytes = TAP_HEADER_BYTES, little_endian = 1, flags = fcntl(fd, F_GETFL);

	/* Refused only by kernels that do not know it, and so are little-endian as we are. */
	if (ioctl(fd, TUNSETVNETLE, &little_endian) < 0 && errno != EINVAL)
		return errmsg_set(err, -errno, "%s: cannot set its byte order: %s", label, strerror(errno));
	if (ioctl(fd, TUNSETVNETHDRSZ, &bytes) < 0 || ioctl(fd, TUNSETOFFLOAD, 0ul) < 0)
		return errmsg_set(err, -errno, "%s: its headers cannot be set up: %s", label,
				  strerror(errno));
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return -errno;
	return 0;
}

static int open_tun(const char *label, struct errmsg *err)
{
	int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);

	if (fd >= 0)
		return fd;
	if (errno == ENOENT || errno == ENODEV || errno == ENXIO)
		return errmsg_set(err, -ENODEV,
				  "%s: no /dev/net/tun on this host; load the module: modprobe tun", label);
	return errmsg_set(err, -errno, "%s: /dev/net/tun: %s; allow this user to read and write it", label,
			  strerror(errno));
}

int tap_open(const char *name, const char *label, struct errmsg *err, struct tap *ret)
{
	auto_fd sock = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct ifreq req = request_for(name);
	struct tap tap = {.fd = -1};
	auto_fd fd = -1;
	int r;

	if (sock < 0)
		return -errno;
	/* TUNSETIFF makes what does not exist, for those who may. */
	if (ioctl(sock, SIOCGIFMTU, &req) < 0)
		return no_device(name, label, err);
	tap.mtu = (unsigned)req.ifr_mtu;
	fd = open_tun(label, err);
	if (fd < 0)
		return fd;
	req = request_for(name);
	req.ifr_flags = TAP_FLAGS;
	if (ioctl(fd, TUNSETIFF, &req) < 0)
		return refused(sock, name, label, errno, err);
	/* One that vanished since was made anew just now. */
	if (ioctl(fd, TUNGETIFF, &req) < 0 || !(req.ifr_flags & IFF_PERSIST))
		return no_device(name, label, err);
	r = set_up(fd, label, err);
	if (r < 0)
		return r;
	memcpy(tap.name, req.ifr_name, sizeof(tap.name));
	tap.fd = TAKE_FD(fd);
	*ret = tap;
	return 0;
}

int tap_adopt(int fd, const char *label, struct errmsg *err, struct tap *ret)
{
	int flags = fcntl(fd, F_GETFD);
	struct ifreq req = {0};
	auto_fd copy = -1;
	int r;

	/* Whatever we opened ourselves would not outlive exec. */
	if (flags < 0 || (flags & FD_CLOEXEC))
		return errmsg_set(err, -EBADF,
				  "%s: no descriptor of this number was handed in; it must be open, and stay "
				  "so over exec",
				  label);
	if (ioctl(fd, TUNGETIFF, &req) < 0)
		return errmsg_set(err, -EINVAL, "%s: not the descriptor of a tap, or not attached to one",
				  label);
	if (!(req.ifr_flags & IFF_TAP))
		return errmsg_set(err, -EINVAL, "%s: %.15s is a tun, not a tap", label, req.ifr_name);
	if (!(req.ifr_flags & IFF_VNET_HDR) || !(req.ifr_flags & IFF_NO_PI))
		return errmsg_set(err, -EINVAL,
				  "%s: %.15s must have been attached with IFF_VNET_HDR and IFF_NO_PI", label,
				  req.ifr_name);
	if (req.ifr_flags & IFF_MULTI_QUEUE)
		return errmsg_set(
			err, -EINVAL,
			"%s: %.15s has several queues, and the others would get frames, too; attach "
			"without IFF_MULTI_QUEUE",
			label, req.ifr_name);
	copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	if (copy < 0)
		return -errno;
	r = set_up(copy, label, err);
	if (r < 0)
		return r;
	*ret = (struct tap){0};
	memcpy(ret->name, req.ifr_name, sizeof(ret->name));
	ret->fd = TAKE_FD(copy);
	return 0;
}

void tap_done(struct tap *tap)
{
	if (tap->fd >= 0)
		close(tap->fd);
	tap->fd = -1;
}

int tap_set_offload(const struct tap *tap, unsigned offload)
{
	return ioctl(tap->fd, TUNSETOFFLOAD, (unsigned long)offload) < 0 ? -errno : 0;
}
