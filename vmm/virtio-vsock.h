/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-vsock (virtio 1.2, 5.10): stream sockets between the guest and programs of the host. */
#ifndef SARDINE_VMM_VIRTIO_VSOCK_H
#define SARDINE_VMM_VIRTIO_VSOCK_H

#include <stdint.h>

#include "base/cleanup.h"
#include "base/errmsg.h"
#include "vmm/token-bucket.h"
#include "vmm/virtio-mmio.h"
#include "vmm/vsock-switch.h"

struct virtio_vsock;

struct virtio_vsock_options {
	uint32_t cid;		 /* the guest's, VSOCK_CID_MIN to VSOCK_CID_MAX */
	const char *path;	 /* PATH, see vmm/vsock-host.h */
	struct rate_config rate; /* of both directions together: payload, and packets */
};

struct virtio_vsock_stats {
	uint32_t cid;
	uint64_t connections; /* that were made, by either side */
	uint64_t open;	      /* at present, with those that are about to come or go */
	struct vsock_totals totals;
	uint64_t throttled; /* times packets waited for the limits */
	struct virtio_counters virtio;
};

/**
 * virtio_vsock_new() - Make the device, and listen on PATH.
 * @options: copied where needed.
 * @mem: guest RAM; outlives the device.
 * @loop: outlives the device.
 * @irq: copied.
 * @err: one line that names PATH on failure.
 * @ret: freed with virtio_vsock_free().
 *
 * Context: the loop's thread, or before it runs.
 * Return: 0, as vsock_host_new(), -ENOMEM, or the errno of eventfd, timerfd and epoll.
 */
int virtio_vsock_new(const struct virtio_vsock_options *options, const struct guest_memory *mem,
		     struct io_loop *loop, const struct irq_line *irq, struct errmsg *err,
		     struct virtio_vsock **ret) must_check;

/* Context: the vCPUs and the loop have stopped. NULL is allowed. */
void virtio_vsock_free(struct virtio_vsock *v);
DEFINE_CLEANUP(struct virtio_vsock, virtio_vsock_free)

struct virtio_mmio *virtio_vsock_mmio(struct virtio_vsock *v);

/* Where PATH_PORT is from now on: see vsock_host_set_folder(). Context: before the loop runs. */
int virtio_vsock_set_folder(struct virtio_vsock *v, const char *folder) must_check;
/* From now on PATH is left behind in the end: the process is confined. */
void virtio_vsock_leave_file(struct virtio_vsock *v);

/* Context: any thread but one that holds the device's lock. */
void virtio_vsock_stats(struct virtio_vsock *v, struct virtio_vsock_stats *ret);

#endif
