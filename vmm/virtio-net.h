/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-net (virtio 1.2, 5.1): a network device on a tap of the host. */
#ifndef SARDINE_VMM_VIRTIO_NET_H
#define SARDINE_VMM_VIRTIO_NET_H

#include <stdbool.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/syscalls.h"
#include "vmm/tap.h"
#include "vmm/token-bucket.h"
#include "vmm/virtio-mmio.h"

#define VIRTIO_NET_MAC_BYTES 6
/* virtio 1.2, 5.1.4.1. */
#define VIRTIO_NET_MTU_MIN 68
#define VIRTIO_NET_MTU_MAX 65535

struct virtio_net;

struct virtio_net_options {
	uint8_t mac[VIRTIO_NET_MAC_BYTES];
	unsigned mtu;		 /* told to the guest; 0: nothing is */
	struct rate_config rate; /* frames and their bytes, for each direction apart */
};

/* Frames and their bytes, without the virtio-net header; rx is towards the guest. */
struct virtio_net_stats {
	uint8_t mac[VIRTIO_NET_MAC_BYTES];
	unsigned mtu; /* told to the guest; 0: none was */
	bool link;    /* false: the tap is gone */
	uint64_t rx_packets, rx_bytes;
	uint64_t tx_packets, tx_bytes;
	uint64_t rx_dropped_long;    /* longer than the guest's buffers can be */
	uint64_t rx_dropped_offload; /* from before the guest said which offloads it takes */
	uint64_t rx_errors;	     /* reads of the tap that failed */
	uint64_t tx_dropped_header;  /* an offload that was not negotiated, or one that makes no sense */
	uint64_t tx_dropped_length;  /* no Ethernet frame: too short or too long */
	uint64_t tx_dropped_tap; /* refused by the tap: it is down or gone, or the host is out of memory */
	uint64_t rx_waits;	 /* times that the guest had no buffer for more */
	uint64_t tx_waits;	 /* times that the tap took no more */
	uint64_t throttled;	 /* times that a direction had to wait for its rate limit */
	struct virtio_counters virtio;
};

/**
 * virtio_net_default_mac() - The address of a device that was given none: the same for the same name and number.
 * @vm_name: of the VM.
 * @index: of the device among the VM's network devices, from 0.
 * @ret: locally administered, unicast: the first six bytes of the SHA-256 of "NAME/INDEX", with two bits of the first
 * byte set to say so.
 */
void virtio_net_default_mac(const char *vm_name, unsigned index, uint8_t ret[VIRTIO_NET_MAC_BYTES]);

/**
 * virtio_net_new() - Make the device.
 * @options: copied.
 * @tap: taken over on success (its descriptor becomes -1).
 * @mem: guest RAM; outlives the device.
 * @loop: outlives the device.
 * @irq: copied.
 * @ret: freed with virtio_net_free().
 *
 * Context: the loop's thread, or before it runs.
 * Return: 0, -ENOMEM, or the errno of eventfd, timerfd and epoll.
 */
int virtio_net_new(const struct virtio_net_options *options, struct tap *tap, const struct guest_memory *mem,
		   struct io_loop *loop, const struct irq_line *irq, struct virtio_net **ret) must_check;

/* Context: the vCPUs and the loop have stopped. NULL is allowed. */
void virtio_net_free(struct virtio_net *net);
DEFINE_CLEANUP(struct virtio_net, virtio_net_free)

struct virtio_mmio *virtio_net_mmio(struct virtio_net *net);

/* The tap's name, as long as the device lives. */
const char *virtio_net_tap_name(const struct virtio_net *net);

/* Context: any thread but one that holds the device's lock. */
void virtio_net_stats(struct virtio_net *net, struct virtio_net_stats *ret);

extern const struct syscall_list virtio_net_syscalls;

#endif
