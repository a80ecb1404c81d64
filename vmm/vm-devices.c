/* SPDX-License-Identifier: Apache-2.0 */
/* The devices of a VM: made, given their interrupt lines and kicks, put on their buses. */
#include "vmm/vm-internal.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "vmm/console.h"

static void on_serial_output(void *arg, uint8_t byte)
{
	struct vm *vm = arg;

	console_output(vm->console, byte);
}

static void on_serial_room(void *arg)
{
	struct vm *vm = arg;

	console_input_room(vm->console);
}

static size_t on_console_input(void *arg, const uint8_t *data, size_t len)
{
	struct vm *vm = arg;

	return serial_input(vm->serial, data, len);
}

static void on_power_off(void *arg)
{
	vm_end(arg, VM_END_POWER_OFF);
}

static void on_reset(void *arg)
{
	vm_restart_wish(arg, RESTART_RESET, "");
}

static void on_panic(void *arg)
{
	vm_restart_wish(arg, RESTART_CRASH, "guest panic");
}

static void on_panic_with_dump(void *arg)
{
	vm_restart_note_dump(arg);
}

static int panic_port_new(struct vm *vm)
{
	struct pvpanic_config config = {
		.panicked = on_panic,
		.crash_loaded = on_panic_with_dump,
		.shutdown = on_power_off,
		.arg = vm,
	};
	int r = pvpanic_new(&config, &vm->pvpanic);

	if (r < 0)
		return r;
	return bus_add(&vm->pio, LAYOUT_PVPANIC, LAYOUT_PVPANIC_LEN, &pvpanic_bus_ops, vm->pvpanic);
}

static int legacy_new(struct vm *vm)
{
	struct serial_config serial = {.output = on_serial_output, .input_room = on_serial_room, .arg = vm};
	struct ged_config ged = {.power_off = on_power_off, .reset = on_reset, .arg = vm};
	int r;

	r = kvm_irq_line(&vm->kvm, LAYOUT_GSI_COM1, &vm->serial_irq);
	if (r < 0)
		return r;
	r = kvm_irq_line(&vm->kvm, LAYOUT_GSI_GED, &vm->ged_irq);
	if (r < 0)
		return r;
	serial.irq = vm->serial_irq;
	r = serial_new(&serial, &vm->serial);
	if (r < 0)
		return r;
	ged.irq = vm->ged_irq;
	r = ged_new(&ged, &vm->ged);
	if (r < 0)
		return r;
	r = i8042_new(on_reset, vm, &vm->i8042);
	if (r < 0)
		return r;
	r = rtc_new(NULL, NULL, &vm->rtc);
	if (r < 0)
		return r;
	r = bus_add(&vm->pio, LAYOUT_COM1, LAYOUT_COM1_LEN, &serial_bus_ops, vm->serial);
	if (r < 0)
		return r;
	r = bus_add(&vm->pio, LAYOUT_I8042, LAYOUT_I8042_LEN, &i8042_bus_ops, vm->i8042);
	if (r < 0)
		return r;
	r = bus_add(&vm->pio, LAYOUT_RTC, LAYOUT_RTC_LEN, &rtc_bus_ops, vm->rtc);
	if (r < 0)
		return r;
	r = bus_add(&vm->mmio, LAYOUT_GED, LAYOUT_GED_BYTES, &ged_bus_ops, vm->ged);
	if (r < 0)
		return r;
	console_set_input(vm->console, on_console_input, vm);
	return panic_port_new(vm);
}

/* Give a transport its slot: registers on the bus, kicks from KVM. */
static int transport_attach(struct vm *vm, struct virtio_mmio *transport)
{
	uint64_t base = LAYOUT_VIRTIO_MMIO + vm->transport_count * LAYOUT_VIRTIO_MMIO_BYTES;
	int r;

	r = bus_add(&vm->mmio, base, LAYOUT_VIRTIO_MMIO_BYTES, &virtio_mmio_bus_ops, transport);
	if (r < 0)
		return r;
	for (unsigned q = 0; q < virtio_mmio_queue_count(transport); q++) {
		r = kvm_ioeventfd(&vm->kvm, GPA(base + VIRTIO_MMIO_REG_NOTIFY), q,
				  virtio_mmio_queue_fd(transport, q));
		if (r < 0)
			return r;
	}
	vm->transports[vm->transport_count++] = transport;
	return 0;
}

/* The interrupt line of the next slot. */
static int next_irq(struct vm *vm, const struct irq_line **ret)
{
	struct irq_line *line = &vm->virtio_irqs[vm->transport_count];
	int r = kvm_irq_line(&vm->kvm, LAYOUT_GSI_VIRTIO_FIRST + (uint32_t)vm->transport_count, line);

	if (r < 0)
		return r;
	*ret = line;
	return 0;
}

static int disks_new(struct vm *vm, struct errmsg *err)
{
	for (size_t i = 0; i < vm->config->disk_count; i++) {
		const struct disk_config *disk = &vm->config->disks[i];
		const struct virtio_blk_options options = {
			.path = disk->path,
			.read_only = disk->read_only,
			.direct = disk->direct,
			.serial = disk->serial[0] ? disk->serial : NULL,
			.rate = disk->rate,
		};
		const struct irq_line *irq;
		int r = next_irq(vm, &irq);

		if (r < 0)
			return r;
		r = virtio_blk_new(&options, vm->mem, vm->loop, irq, err, &vm->disks[i]);
		if (r < 0)
			return r;
		r = transport_attach(vm, virtio_blk_mmio(vm->disks[i]));
		if (r < 0)
			return r;
	}
	return 0;
}

/* The tap of a network device, and the MTU that the guest is told (0: none). */
static int net_tap(const struct net_config *net, struct errmsg *err, struct tap *ret, unsigned *ret_mtu)
{
	char label[64];
	int r;

	if (net->tap[0]) {
		snprintf(label, sizeof(label), "--net tap=%s", net->tap);
		r = tap_open(net->tap, label, err, ret);
	} else {
		snprintf(label, sizeof(label), "--net tap-fd=%u", (unsigned)net->tap_fd);
		r = tap_adopt((int)net->tap_fd, label, err, ret);
	}
	if (r < 0)
		return r;
	*ret_mtu = net->mtu ? (unsigned)net->mtu : ret->mtu;
	if (net->mtu && ret->mtu && net->mtu > ret->mtu) {
		r = errmsg_set(err, -EINVAL, "%s: mtu=%u, but the tap has %u; ip link set %s mtu %u", label,
			       (unsigned)net->mtu, ret->mtu, net->tap, (unsigned)net->mtu);
		tap_done(ret);
	}
	return r;
}

static int net_new(struct vm *vm, unsigned i, struct errmsg *err)
{
	const struct net_config *net = &vm->config->nets[i];
	struct virtio_net_options options = {.rate = net->rate};
	static const uint8_t none[CONFIG_MAC_BYTES];
	cleanup(tap_done) struct tap tap = {.fd = -1};
	const struct irq_line *irq;
	int r = next_irq(vm, &irq);

	if (r < 0)
		return r;
	r = net_tap(net, err, &tap, &options.mtu);
	if (r < 0)
		return r;
	if (memcmp(net->mac, none, sizeof(none)) == 0)
		virtio_net_default_mac(vm->config->name, i, options.mac);
	else
		memcpy(options.mac, net->mac, sizeof(options.mac));
	r = virtio_net_new(&options, &tap, vm->mem, vm->loop, irq, &vm->nets[i]);
	if (r < 0)
		return r;
	return transport_attach(vm, virtio_net_mmio(vm->nets[i]));
}

static int nets_new(struct vm *vm, struct errmsg *err)
{
	int r = 0;

	for (unsigned i = 0; i < vm->config->net_count && r == 0; i++)
		r = net_new(vm, i, err);
	return r;
}

static int vsock_attach(struct vm *vm, struct errmsg *err)
{
	const struct virtio_vsock_options options = {
		.cid = (uint32_t)vm->config->vsock.cid,
		.path = vm->config->vsock.path,
		.rate = vm->config->vsock.rate,
	};
	const struct irq_line *irq;
	int r;

	if (!vm->config->vsock.on)
		return 0;
	r = next_irq(vm, &irq);
	if (r < 0)
		return r;
	r = virtio_vsock_new(&options, vm->mem, vm->loop, irq, err, &vm->vsock);
	if (r < 0)
		return r;
	return transport_attach(vm, virtio_vsock_mmio(vm->vsock));
}

static int rng_attach(struct vm *vm)
{
	const struct virtio_rng_options options = {.rate = vm->config->rng.rate};
	const struct irq_line *irq;
	int r;

	if (!vm->config->rng.on)
		return 0;
	r = next_irq(vm, &irq);
	if (r < 0)
		return r;
	r = virtio_rng_new(&options, vm->mem, vm->loop, irq, &vm->rng);
	if (r < 0)
		return r;
	return transport_attach(vm, virtio_rng_mmio(vm->rng));
}

static int balloon_attach(struct vm *vm)
{
	const struct balloon_config *config = &vm->config->balloon;
	const struct virtio_balloon_options options = {
		.stats = config->stats,
		.deflate_on_oom = config->deflate_on_oom,
		.reporting = config->reporting,
		.poison = config->poison,
		.stats_interval_s = config->stats_interval_s,
		.target_bytes = config->size_bytes,
	};
	const struct irq_line *irq;
	int r;

	if (!config->on)
		return 0;
	r = next_irq(vm, &irq);
	if (r < 0)
		return r;
	r = virtio_balloon_new(&options, vm->mem, vm->loop, irq, &vm->balloon);
	if (r < 0)
		return r;
	return transport_attach(vm, virtio_balloon_mmio(vm->balloon));
}

int vm_devices_new(struct vm *vm, struct errmsg *err)
{
	int r;

	r = legacy_new(vm);
	if (r == 0)
		r = disks_new(vm, err);
	if (r == 0)
		r = nets_new(vm, err);
	if (r == 0)
		r = vsock_attach(vm, err);
	if (r == 0)
		r = rng_attach(vm);
	if (r == 0)
		r = balloon_attach(vm);
	if (r < 0)
		return errmsg_set(err, r, "cannot set up the devices: %s", strerror(-r));
	return 0;
}

void vm_devices_reset(struct vm *vm)
{
	for (size_t i = 0; i < vm->transport_count; i++)
		virtio_mmio_reset(vm->transports[i]);
	serial_reset(vm->serial);
	i8042_reset(vm->i8042);
	rtc_reset(vm->rtc);
	/* The event device has one state: a press of the button that the guest has not taken, which stays. */
}

void vm_devices_free(struct vm *vm)
{
	virtio_balloon_free(vm->balloon);
	virtio_rng_free(vm->rng);
	virtio_vsock_free(vm->vsock);
	for (size_t i = vm->config->net_count; i-- > 0;)
		virtio_net_free(vm->nets[i]);
	for (size_t i = vm->config->disk_count; i-- > 0;)
		virtio_blk_free(vm->disks[i]);
	console_set_input(vm->console, NULL, NULL);
	pvpanic_free(vm->pvpanic);
	i8042_free(vm->i8042);
	rtc_free(vm->rtc);
	ged_free(vm->ged);
	serial_free(vm->serial);
	for (size_t i = ARRAY_SIZE(vm->virtio_irqs); i-- > 0;)
		close_fd_p(&vm->virtio_irqs[i].fd);
	close_fd_p(&vm->ged_irq.fd);
	close_fd_p(&vm->serial_irq.fd);
}
