/* SPDX-License-Identifier: Apache-2.0 */
/* Takes ACPI tables apart and holds them against the machine they were made for. */
#include "tests/fuzz/acpi_check.h"

#include <stdbool.h>
#include <string.h>

#include "base/bytes.h"
#include "base/size.h"
#include "tests/fuzz/aml_reader.h"
#include "tests/fuzz/require.h"
#include "vmm/layout.h"

#define HEADER_BYTES 36
#define DEVICES_MAX  64
#define NONE	     UINT64_MAX

struct blob {
	const uint8_t *data;
	size_t len;
	uint64_t base;
};

/* What a device object says of itself. */
struct device {
	char path[AML_PATH_MAX];
	char hid[AML_PATH_MAX]; /* as text; "" when it is an EISA id */
	uint64_t uid, memory, memory_bytes, io, irq;
};

struct namespace
{
	struct device devices[DEVICES_MAX];
	unsigned count;
	unsigned depth; /* of what is open */
	unsigned device_depth;
	bool in_device;
	char name[AML_PATH_MAX]; /* the Name() whose object comes next */
	bool soft_off;
};

static void check_sum(const uint8_t *p, size_t len)
{
	uint8_t sum = 0;

	while (len--)
		sum = (uint8_t)(sum + *p++);
	require(sum == 0);
}

static const uint8_t *table(const struct blob *b, uint64_t gpa, const char *signature, size_t *ret_len)
{
	uint64_t offset = gpa - b->base;
	const uint8_t *t = b->data + offset;

	require(offset % 16 == 0 && range_fits(offset, HEADER_BYTES, b->len));
	*ret_len = load_le32(t + 4);
	require(memcmp(t, signature, 4) == 0 && *ret_len >= HEADER_BYTES);
	require(range_fits(offset, *ret_len, b->len));
	check_sum(t, *ret_len);
	return t;
}

static void check_madt(const struct acpi_config *config, const uint8_t *t, size_t len)
{
	unsigned cpus = 0, ioapics = 0;
	size_t at = HEADER_BYTES + 8;

	require(len >= at && load_le32(t + HEADER_BYTES) == LAYOUT_LAPIC);
	while (at < len) {
		const uint8_t *e = t + at;

		require(len - at >= 2 && e[1] >= 2 && e[1] <= len - at);
		if (e[0] == 0) {
			require(e[1] == 8 && e[2] == cpus && e[3] == cpus && load_le32(e + 4) == 1);
			cpus++;
		} else {
			require(e[0] == 1 && e[1] == 12 && load_le32(e + 4) == LAYOUT_IOAPIC);
			ioapics++;
		}
		at += e[1];
	}
	require(cpus == config->cpus && ioapics == 1);
}

static void begin_device(struct namespace *ns, const struct aml_event *e)
{
	struct device *d = &ns->devices[ns->count++];

	require(ns->count < DEVICES_MAX && !ns->in_device);
	*d = (struct device){.uid = NONE, .memory = NONE, .io = NONE, .irq = NONE};
	strcpy(d->path, e->path);
	for (const struct device *other = ns->devices; other < d; other++)
		require(strcmp(other->path, d->path) != 0);
	ns->in_device = true;
	ns->device_depth = ns->depth;
}

static void set_once(uint64_t *member, uint64_t value)
{
	require(*member == NONE && value != NONE);
	*member = value;
}

static void device_event(struct device *d, const char *name, const struct aml_event *e)
{
	if (e->kind == AML_STRING && !strcmp(name, "_HID"))
		strcpy(d->hid, e->path);
	if (e->kind == AML_INTEGER && !strcmp(name, "_UID"))
		set_once(&d->uid, e->a);
	if (e->kind == AML_MEMORY) {
		set_once(&d->memory, e->a);
		d->memory_bytes = e->b;
	}
	if (e->kind == AML_IO)
		set_once(&d->io, e->a);
	if (e->kind == AML_IRQ)
		set_once(&d->irq, e->a);
}

static void on_event(void *arg, const struct aml_event *e)
{
	struct namespace *ns = arg;

	switch (e->kind) {
	case AML_DEVICE:
		begin_device(ns, e);
		ns->depth++;
		break;
	case AML_SCOPE:
	case AML_METHOD:
	case AML_IF:
	case AML_PACKAGE:
	case AML_FIELD:
	case AML_RESOURCES:
		ns->depth++;
		break;
	case AML_END:
		ns->depth--;
		ns->in_device = ns->in_device && ns->depth != ns->device_depth;
		break;
	case AML_NAME:
		strcpy(ns->name, e->path);
		ns->soft_off |= !strcmp(e->path, "\\_S5_");
		break;
	case AML_REGION:
	case AML_UNIT:
	case AML_INTEGER:
	case AML_STRING:
	case AML_STORE:
	case AML_AND:
	case AML_NOTIFY:
	case AML_MEMORY:
	case AML_IO:
	case AML_IRQ:
	case AML_KINDS:
		break;
	}
	if (ns->in_device)
		device_event(&ns->devices[ns->count - 1], ns->name, e);
}

/* No two devices share a line or a byte of memory. */
static void check_apart(const struct namespace *ns)
{
	for (unsigned i = 0; i < ns->count; i++) {
		const struct device *a = &ns->devices[i];

		for (unsigned j = 0; j < i; j++) {
			const struct device *b = &ns->devices[j];

			require(a->irq == NONE || a->irq != b->irq);
			require(a->memory == NONE || b->memory == NONE ||
				a->memory + a->memory_bytes <= b->memory ||
				b->memory + b->memory_bytes <= a->memory);
		}
	}
}

static void check_dsdt(const struct acpi_config *config, const uint8_t *t, size_t len)
{
	static struct namespace ns;
	unsigned virtio = 0;
	bool serial = false;

	ns = (struct namespace){.count = 0};
	aml_read(t + HEADER_BYTES, len - HEADER_BYTES, on_event, &ns);
	require(ns.depth == 0 && ns.soft_off);
	for (unsigned i = 0; i < ns.count; i++) {
		const struct device *d = &ns.devices[i];

		serial |= d->io == LAYOUT_COM1 && d->irq == LAYOUT_GSI_COM1;
		if (strcmp(d->hid, "LNRO0005") != 0)
			continue;
		require(d->uid == virtio && d->irq == LAYOUT_GSI_VIRTIO_FIRST + virtio);
		require(d->memory == LAYOUT_VIRTIO_MMIO + (uint64_t)virtio * LAYOUT_VIRTIO_MMIO_BYTES);
		require(d->memory_bytes == LAYOUT_VIRTIO_MMIO_BYTES && d->io == NONE);
		virtio++;
	}
	require(virtio == config->virtio_devices && serial);
	check_apart(&ns);
}

void acpi_check(const struct acpi_config *config, uint64_t base, const uint8_t *blob, size_t len)
{
	const struct blob b = {.data = blob, .len = len, .base = base};
	const uint8_t *xsdt, *t;
	size_t xsdt_len, bytes;
	unsigned fadts = 0, madts = 0;

	require(len >= HEADER_BYTES && memcmp(blob, "RSD PTR ", 8) == 0 && load_le32(blob + 20) == 36);
	check_sum(blob, 20);
	check_sum(blob, 36);
	xsdt = table(&b, load_le64(blob + 24), "XSDT", &xsdt_len);
	require((xsdt_len - HEADER_BYTES) % 8 == 0);
	for (size_t at = HEADER_BYTES; at < xsdt_len; at += 8) {
		uint64_t gpa = load_le64(xsdt + at);

		require(range_fits(gpa - base, HEADER_BYTES, len));
		if (memcmp(blob + (gpa - base), "APIC", 4) == 0) {
			t = table(&b, gpa, "APIC", &bytes);
			check_madt(config, t, bytes);
			madts++;
			continue;
		}
		t = table(&b, gpa, "FACP", &bytes);
		require(bytes == 276 && load_le32(t + 112) & 1u << 20);
		t = table(&b, load_le64(t + 140), "DSDT", &bytes);
		check_dsdt(config, t, bytes);
		fadts++;
	}
	require(fadts == 1 && madts == 1);
}
