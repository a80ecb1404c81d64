/* SPDX-License-Identifier: Apache-2.0 */
/* A tap device of the host: opened by its name, or handed in as a descriptor. */
#ifndef SARDINE_VMM_TAP_H
#define SARDINE_VMM_TAP_H

#include <net/if.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/errmsg.h"

/* What the kernel may leave to us on frames that it hands out (TUNSETOFFLOAD). */
#define TAP_OFFLOAD_CSUM 0x01u
#define TAP_OFFLOAD_TSO4 0x02u
#define TAP_OFFLOAD_TSO6 0x04u
#define TAP_OFFLOAD_ECN	 0x08u

/* Each frame is read and written behind a virtio-net header of so many bytes. */
#define TAP_HEADER_BYTES 12

struct tap {
	int fd; /* non-blocking; one read or write is one frame */
	char name[IFNAMSIZ];
	unsigned mtu; /* when it was opened; 0: not known, as of one that was handed in */
};

/**
 * tap_open() - Attach to a tap device that exists and that nobody uses.
 * @name: its name in this network namespace.
 * @err: one line that begins with @label.
 * @label: e.g. "--net tap=tap0".
 * @ret: ended with tap_done().
 *
 * No device is made: a tap that is not persistent would be gone with the VM, out of its bridge.
 *
 * Context: any thread; may wait for the kernel's lock on network devices.
 * Return: 0; -ENODEV when there is no such device or no /dev/net/tun; -EBUSY; -EPERM; -EINVAL when it is no tap, or
 * one with several queues; or the errno of open and ioctl.
 */
int tap_open(const char *name, const char *label, struct errmsg *err, struct tap *ret) must_check;

/**
 * tap_adopt() - Use a tap device whose descriptor was handed in.
 * @fd: inherited over exec; stays open and the caller's, so that it can be adopted again.
 * @label: e.g. "--net tap-fd=5".
 * @err: one line that begins with @label.
 * @ret: ended with tap_done().
 *
 * Return: 0; -EBADF when it was not handed in; -EINVAL when it is no tap, has several queues, or lacks IFF_VNET_HDR
 * or IFF_NO_PI; or the errno of fcntl and ioctl.
 */
int tap_adopt(int fd, const char *label, struct errmsg *err, struct tap *ret) must_check;

/* Ended, or never opened (fd -1): nothing happens. */
void tap_done(struct tap *tap);

/* Allow these TAP_OFFLOAD_* on frames read from now on, and no others; frames that wait already stay as they are.
 * Return: 0 or the errno of ioctl. */
int tap_set_offload(const struct tap *tap, unsigned offload) must_check;

#endif
