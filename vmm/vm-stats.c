/* SPDX-License-Identifier: Apache-2.0 */
/* What the VM itself knows for `stats`: state, boot, vCPUs, devices. Memory figures come from the kernel
 * (stats/). */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "vmm/engine.h"
#include "vmm/vm-internal.h"

static double seconds_since(const struct timespec *then)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)(now.tv_sec - then->tv_sec) + (double)(now.tv_nsec - then->tv_nsec) / 1e9;
}

static json_t *boot_json(const struct vm *vm)
{
	uint64_t initrd_bytes = vm->initrd.fd >= 0 ? page_up(vm->initrd.bytes) : 0;

	return json_pack("{s:s, s:I, s:I, s:I, s:I}", "entry", boot_entry_name(vm->boot.kind), "kernel_bytes",
			 (json_int_t)vm->kernel.bytes, "initrd_bytes", (json_int_t)initrd_bytes,
			 "copied_bytes", (json_int_t)vm->boot.copied_bytes, "shared_bytes",
			 (json_int_t)(guest_memory_boot_file_frames(vm->mem) * PAGE_BYTES));
}

static json_t *vcpus_json(const struct vm *vm)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < vm->config->cpus; i++) {
		struct vcpu_counters c;

		vcpu_set_counters(vm->vcpus, i, &c);
		if (json_array_append_new(list,
					  json_pack("{s:I, s:I, s:I, s:I, s:I}", "exits", (json_int_t)c.exits,
						    "exits_pio", (json_int_t)c.exits_pio, "exits_mmio",
						    (json_int_t)c.exits_mmio, "exits_interrupted",
						    (json_int_t)c.exits_interrupted, "unclaimed",
						    (json_int_t)c.unclaimed)) < 0) {
			json_decref(list);
			return NULL;
		}
	}
	return list;
}

static json_t *virtio_json(const struct virtio_counters *c)
{
	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "kicks", (json_int_t)c->kicks, "interrupts",
			 (json_int_t)c->interrupts, "requests", (json_int_t)c->requests, "errors",
			 (json_int_t)c->errors, "hostile", (json_int_t)c->hostile, "ignored",
			 (json_int_t)c->ignored, "resets", (json_int_t)c->resets);
}

static json_t *disk_json(const struct disk_config *config, struct virtio_blk *disk)
{
	struct virtio_blk_stats s;

	virtio_blk_stats(disk, &s);
	return json_pack(
		"{s:s, s:s, s:I, s:b, s:b, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o}",
		"type", "block", "path", config->path, "capacity_bytes", (json_int_t)s.capacity_bytes,
		"read_only", (int)s.read_only, "direct", (int)s.direct, "engine", blk_engine_name(s.engine),
		"reads", (json_int_t)s.reads, "writes", (json_int_t)s.writes, "flushes",
		(json_int_t)s.flushes, "discards", (json_int_t)s.discards, "write_zeroes",
		(json_int_t)s.write_zeroes, "read_bytes", (json_int_t)s.read_bytes, "write_bytes",
		(json_int_t)s.write_bytes, "misaligned", (json_int_t)s.misaligned, "in_flight",
		(json_int_t)s.in_flight, "throttled", (json_int_t)s.throttled, "virtio",
		virtio_json(&s.virtio));
}

static json_t *net_json(struct virtio_net *net)
{
	struct virtio_net_stats s;
	char mac[3 * VIRTIO_NET_MAC_BYTES];

	virtio_net_stats(net, &s);
	snprintf(mac, sizeof(mac), "%02x:%02x:%02x:%02x:%02x:%02x", s.mac[0], s.mac[1], s.mac[2], s.mac[3],
		 s.mac[4], s.mac[5]);
	return json_pack(
		"{s:s, s:s, s:s, s:I, s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, "
		"s:I, s:o}",
		"type", "net", "tap", virtio_net_tap_name(net), "mac", mac, "mtu", (json_int_t)s.mtu, "link",
		(int)s.link, "rx_packets", (json_int_t)s.rx_packets, "rx_bytes", (json_int_t)s.rx_bytes,
		"tx_packets", (json_int_t)s.tx_packets, "tx_bytes", (json_int_t)s.tx_bytes, "rx_dropped_long",
		(json_int_t)s.rx_dropped_long, "rx_dropped_offload", (json_int_t)s.rx_dropped_offload,
		"rx_errors", (json_int_t)s.rx_errors, "tx_dropped_header", (json_int_t)s.tx_dropped_header,
		"tx_dropped_length", (json_int_t)s.tx_dropped_length, "tx_dropped_tap",
		(json_int_t)s.tx_dropped_tap, "rx_waits", (json_int_t)s.rx_waits, "tx_waits",
		(json_int_t)s.tx_waits, "throttled", (json_int_t)s.throttled, "virtio",
		virtio_json(&s.virtio));
}

static json_t *vsock_json(struct virtio_vsock *vsock)
{
	struct virtio_vsock_stats s;

	virtio_vsock_stats(vsock, &s);
	return json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o}", "type", "vsock", "cid",
			 (json_int_t)s.cid, "connections", (json_int_t)s.connections, "open",
			 (json_int_t)s.open, "refused", (json_int_t)s.totals.refused, "resets",
			 (json_int_t)s.totals.resets, "violations", (json_int_t)s.totals.violations,
			 "to_host_bytes", (json_int_t)s.totals.to_host_bytes, "to_guest_bytes",
			 (json_int_t)s.totals.to_guest_bytes, "throttled", (json_int_t)s.throttled, "virtio",
			 virtio_json(&s.virtio));
}

static json_t *rng_json(struct virtio_rng *rng)
{
	struct virtio_rng_stats s;

	virtio_rng_stats(rng, &s);
	return json_pack("{s:s, s:I, s:I, s:I, s:o}", "type", "rng", "bytes", (json_int_t)s.bytes,
			 "throttled", (json_int_t)s.throttled, "no_data", (json_int_t)s.no_data, "virtio",
			 virtio_json(&s.virtio));
}

/* What the guest says of its memory; JSON null when it says nothing. */
static json_t *guest_json(const struct virtio_balloon_stats *s)
{
	json_t *json;
	int r = 0;

	if (!s->guest_known)
		return json_null();
	json = json_pack("{s:f}", "age_s", (double)s->guest_age_ns / 1e9);
	for (enum guest_stat i = 0; json && i < GUEST_STATS && r == 0; i++)
		if (s->guest.known >> i & 1)
			r = json_object_set_new(json, guest_stat_name(i),
						json_integer((json_int_t)s->guest.values[i]));
	if (r == 0)
		return json;
	json_decref(json);
	return NULL;
}

static json_t *balloon_json(struct virtio_balloon *balloon)
{
	struct virtio_balloon_stats s;
	json_t *json;

	virtio_balloon_stats(balloon, &s);
	json = json_pack("{s:s, s:s, s:o, s:o}", "type", "balloon", "liveness",
			 balloon_liveness_name(s.liveness), "guest", guest_json(&s), "virtio",
			 virtio_json(&s.virtio));
	if (!json)
		return NULL;
	const struct {
		const char *key;
		uint64_t value;
	} figures[] = {
		{"target_bytes", s.target_bytes},
		{"actual_bytes", s.actual_bytes},
		{"inflated_pages", s.balloon.inflated},
		{"deflated_pages", s.balloon.deflated},
		{"repeated_pages", s.balloon.repeated},
		{"refused_pages", s.balloon.refused},
		{"reported_pages", s.balloon.reported},
		{"report_kept_pages", s.balloon.report_kept},
		{"report_ignored_ranges", s.balloon.report_ignored},
		{"discard_ranges", s.balloon.discard_ranges},
		{"discard_calls", s.balloon.discard_calls},
		{"discard_errors", s.balloon.discard_errors},
		{"guest_samples", s.guest_samples},
		{"guest_ignored", s.guest_ignored},
	};
	for (size_t i = 0; i < ARRAY_SIZE(figures); i++) {
		if (json_object_set_new(json, figures[i].key, json_integer((json_int_t)figures[i].value)) <
		    0) {
			json_decref(json);
			return NULL;
		}
	}
	return json;
}

json_t *vm_balloon_json(struct vm *vm)
{
	struct virtio_balloon_stats s;

	if (!vm->balloon)
		return NULL;
	virtio_balloon_stats(vm->balloon, &s);
	return json_pack("{s:I, s:I, s:I, s:s}", "target_bytes", (json_int_t)s.target_bytes, "actual_bytes",
			 (json_int_t)s.actual_bytes, "ballooned_bytes",
			 (json_int_t)(s.balloon.frames * PAGE_BYTES), "liveness",
			 balloon_liveness_name(s.liveness));
}

static json_t *devices_json(const struct vm *vm)
{
	json_t *list = json_array();
	int r = list ? 0 : -ENOMEM;

	for (size_t i = 0; i < vm->config->disk_count && r == 0; i++)
		r = json_array_append_new(list, disk_json(&vm->config->disks[i], vm->disks[i]));
	for (size_t i = 0; i < vm->config->net_count && r == 0; i++)
		r = json_array_append_new(list, net_json(vm->nets[i]));
	if (vm->vsock && r == 0)
		r = json_array_append_new(list, vsock_json(vm->vsock));
	if (vm->rng && r == 0)
		r = json_array_append_new(list, rng_json(vm->rng));
	if (vm->balloon && r == 0)
		r = json_array_append_new(list, balloon_json(vm->balloon));
	if (r == 0)
		return list;
	json_decref(list);
	return NULL;
}

/* As json_pack() takes it where a key may be missing. */
static json_t *agent_json(struct vm *vm)
{
	struct agent_stats stats;

	if (!vm->agent)
		return NULL;
	agent_stats(vm->agent, &stats);
	return engine_json(&stats);
}

json_t *vm_stats_json(struct vm *vm)
{
	enum vm_state state = vm_state(vm);
	uint64_t reboots, crashes;

	pthread_mutex_lock(&vm->mutex);
	reboots = vm->restart.reboots;
	crashes = vm->restart.crashes;
	pthread_mutex_unlock(&vm->mutex);
	return json_pack("{s:s, s:f, s:I, s:I, s:o, s:o, s:o, s:o*}", "state", vm_state_name(state), "uptime_s",
			 vm->running ? seconds_since(&vm->started) : 0.0, "reboots", (json_int_t)reboots,
			 "crashes", (json_int_t)crashes, "boot", boot_json(vm), "vcpus", vcpus_json(vm),
			 "devices", devices_json(vm), "engine", agent_json(vm));
}
