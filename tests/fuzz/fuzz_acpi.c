/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Any machine's ACPI tables, and any program of the AML writer, read back by a reader of its own: what is
 * announced is what was asked for, and nothing is written behind the room there is.
 *
 * Input: u8 vCPUs, u8 virtio devices, u16 room for tables, u16 room for AML (0: plenty), then the writer's
 * program: a byte per step, see enum step, with operands.
 */
#include "vmm/acpi.h"

#include <byteswap.h>
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "tests/fuzz/acpi_check.h"
#include "tests/fuzz/aml_reader.h"
#include "tests/fuzz/require.h"
#include "vmm/acpi-aml.h"
#include "vmm/layout.h"

#define TABLES_ROOM  (LAYOUT_ACPI_END - LAYOUT_ACPI)
#define AML_ROOM     65536
#define EVENTS_MAX   256
#define NESTING_MAX  8
#define HEADER_BYTES 6

enum step {
	STEP_INTEGER,	/* path, u64 */
	STEP_STRING,	/* path, u8 length */
	STEP_EISA,	/* path, u32 */
	STEP_RESOURCES, /* path, u8 count, a u8 each */
	STEP_PACKAGE,	/* path, u8 count */
	STEP_DEVICE,	/* path; open until STEP_CLOSE */
	STEP_SCOPE,	/* path; open */
	STEP_METHOD,	/* path, u8 arguments; open */
	STEP_IF,	/* u8 local, u64 mask; open */
	STEP_CLOSE,
	STEP_REGION, /* path, u64, u64 */
	STEP_FIELD,  /* path, u8 count, per unit a path and u8 bits */
	STEP_STORE,  /* path, u8 local */
	STEP_NOTIFY, /* path, u64 */
	STEPS,
};

struct program {
	const uint8_t *at;
	size_t left;
	struct aml aml;
	bool malformed; /* something was asked for that cannot be encoded */
	aml_mark_t open[NESTING_MAX];
	unsigned depth;
	struct aml_event events[EVENTS_MAX]; /* what the reader has to find */
	unsigned count, seen;
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t take(struct program *p, size_t bytes)
{
	uint8_t raw[8] = {0};
	size_t n = bytes < p->left ? bytes : p->left;

	memcpy(raw, p->at, n);
	p->at += n;
	p->left -= n;
	return load_le64(raw);
}

static void expect(struct program *p, enum aml_kind kind, const char *path, uint64_t a, uint64_t b)
{
	struct aml_event *e = &p->events[p->count++];

	require(p->count < EVENTS_MAX);
	*e = (struct aml_event){.kind = kind, .a = a, .b = b};
	strcpy(e->path, path);
}

/* ASL's form of a path to the reader's: each segment padded. False when it is none. */
static bool path_pad(const char *path, char out[static AML_PATH_MAX])
{
	size_t n = strspn(path, "^"), segments = 0;

	if (n == 0 && path[0] == '\\')
		n = 1;
	memcpy(out, path, n);
	out += n;
	for (path += n;; path++) {
		size_t len = strspn(path, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789");

		if (len < 1 || len > 4 || (*path >= '0' && *path <= '9') || ++segments > 8)
			return false;
		memcpy(out, "____", 4);
		memcpy(out, path, len);
		out += 4;
		path += len;
		*out++ = *path;
		if (*path != '.')
			return !*path;
	}
}

/* Up to 15 characters: most of them are such that a path may have. */
static void take_path(struct program *p, char path[static 16], char padded[static AML_PATH_MAX])
{
	static const char letters[] = "AZ_09BCDEFX.\\^ a";
	size_t len = take(p, 1) % 16;

	for (size_t i = 0; i < len; i++)
		path[i] = letters[take(p, 1) % (sizeof(letters) - 1)];
	path[len] = '\0';
	if (!path_pad(path, padded)) {
		p->malformed = true;
		strcpy(padded, "");
	}
}

static void step_eisa(struct program *p, const char *path, const char *padded)
{
	static const char hex[] = "0123456789ABCDEF";
	/* Never below 16 bits, whose shorter form as an integer the reader would ask for. */
	uint32_t v = (uint32_t)take(p, 4) | 1;
	char id[8];

	for (unsigned i = 0; i < 3; i++)
		id[i] = (char)(0x40 + (v >> (26 - 5 * i) & 0x1f));
	for (unsigned i = 0; i < 4; i++)
		id[3 + i] = hex[v >> (12 - 4 * i) & 0xf];
	id[7] = '\0';
	for (unsigned i = 0; i < 3; i++)
		p->malformed |= id[i] < 'A' || id[i] > 'Z';
	aml_name_eisa_id(&p->aml, path, id);
	expect(p, AML_NAME, padded, 0, 0);
	expect(p, AML_INTEGER, "", bswap_32(v & 0x7fffffff), 0);
}

static void step_string(struct program *p, const char *path, const char *padded)
{
	char text[AML_PATH_MAX];
	size_t len = take(p, 1) % AML_PATH_MAX;

	memset(text, 'x', len);
	text[len] = '\0';
	aml_name_string(&p->aml, path, text);
	expect(p, AML_NAME, padded, 0, 0);
	expect(p, AML_STRING, text, 0, 0);
}

static void step_resources(struct program *p, const char *path, const char *padded)
{
	unsigned count = (unsigned)take(p, 1) % 32, bytes = 2;
	aml_mark_t mark;

	aml_name(&p->aml, path);
	mark = aml_resources_begin(&p->aml);
	expect(p, AML_NAME, padded, 0, 0);
	expect(p, AML_RESOURCES, "", 0, 0);
	for (unsigned i = 0; i < count; i++) {
		uint32_t v = (uint32_t)take(p, 1);

		if (v % 3 == 0) {
			aml_memory32_fixed(&p->aml, v << 24, v << 4);
			expect(p, AML_MEMORY, "", v << 24, v << 4);
			bytes += 12;
		} else if (v % 3 == 1) {
			aml_io(&p->aml, (uint16_t)(v << 8), (uint8_t)v);
			expect(p, AML_IO, "", v << 8, v);
			bytes += 8;
		} else {
			aml_interrupt_edge(&p->aml, v << 16);
			expect(p, AML_IRQ, "", v << 16, 0);
			bytes += 9;
		}
	}
	aml_resources_end(&p->aml, mark);
	expect(p, AML_END, "", 0, 0);
	p->malformed |= bytes > UINT8_MAX;
}

static void step_package(struct program *p, const char *path, const char *padded)
{
	unsigned count = (unsigned)take(p, 1) % 8;
	aml_mark_t mark;

	aml_name(&p->aml, path);
	mark = aml_package(&p->aml, (uint8_t)count);
	expect(p, AML_NAME, padded, 0, 0);
	expect(p, AML_PACKAGE, "", count, 0);
	for (unsigned i = 0; i < count; i++) {
		uint64_t v = take(p, 8);

		aml_integer(&p->aml, v);
		expect(p, AML_INTEGER, "", v, 0);
	}
	aml_close(&p->aml, mark);
	expect(p, AML_END, "", 0, 0);
}

static void step_field(struct program *p, const char *path, const char *padded)
{
	unsigned count = (unsigned)take(p, 1) % 4;
	aml_mark_t mark = aml_field_bytes(&p->aml, path);

	expect(p, AML_FIELD, padded, 0x41, 0);
	for (unsigned i = 0; i < count; i++) {
		static const char *const names[] = {"A", "BC", "DEF", "GHIJ"};
		static const char *const padded_names[] = {"A___", "BC__", "DEF_", "GHIJ"};
		unsigned bits = (unsigned)take(p, 1);

		aml_field_unit(&p->aml, names[i], bits);
		expect(p, AML_UNIT, padded_names[i], bits, 0);
		p->malformed |= bits == 0 || bits > 63;
	}
	aml_close(&p->aml, mark);
	expect(p, AML_END, "", 0, 0);
}

static void step_region(struct program *p, const char *path, const char *padded)
{
	uint64_t base = take(p, 8), bytes = take(p, 8);

	aml_memory_region(&p->aml, path, base, bytes);
	expect(p, AML_REGION, padded, base, bytes);
}

static void step_method(struct program *p, const char *path, const char *padded)
{
	unsigned args = (unsigned)take(p, 1), flags = args >> 7;

	args &= 0x7f;
	p->malformed |= args > 7;
	p->open[p->depth++] = aml_method(&p->aml, path, args, flags);
	expect(p, AML_METHOD, padded, args, flags);
}

static void step_if(struct program *p)
{
	unsigned local = (unsigned)take(p, 1) % 8;
	uint64_t mask = take(p, 8);

	p->open[p->depth++] = aml_if(&p->aml);
	aml_and_local(&p->aml, local, mask);
	expect(p, AML_IF, "", 0, 0);
	expect(p, AML_AND, "", local, 0);
	expect(p, AML_INTEGER, "", mask, 0);
}

static void step_named(struct program *p, enum step step)
{
	char path[16], padded[AML_PATH_MAX];
	uint64_t v;

	take_path(p, path, padded);
	switch (step) {
	case STEP_INTEGER:
		v = take(p, 8);
		aml_name_integer(&p->aml, path, v);
		expect(p, AML_NAME, padded, 0, 0);
		expect(p, AML_INTEGER, "", v, 0);
		return;
	case STEP_STRING:
		step_string(p, path, padded);
		return;
	case STEP_EISA:
		step_eisa(p, path, padded);
		return;
	case STEP_RESOURCES:
		step_resources(p, path, padded);
		return;
	case STEP_PACKAGE:
		step_package(p, path, padded);
		return;
	case STEP_DEVICE:
		p->open[p->depth++] = aml_device(&p->aml, path);
		expect(p, AML_DEVICE, padded, 0, 0);
		return;
	case STEP_SCOPE:
		p->open[p->depth++] = aml_scope(&p->aml, path);
		expect(p, AML_SCOPE, padded, 0, 0);
		return;
	case STEP_METHOD:
		step_method(p, path, padded);
		return;
	case STEP_REGION:
		step_region(p, path, padded);
		return;
	case STEP_FIELD:
		step_field(p, path, padded);
		return;
	case STEP_STORE:
		v = take(p, 1) % 8;
		aml_store_to_local(&p->aml, path, (unsigned)v);
		expect(p, AML_STORE, padded, v, 0);
		return;
	case STEP_NOTIFY:
		v = take(p, 8);
		aml_notify(&p->aml, path, v);
		expect(p, AML_NOTIFY, padded, 0, 0);
		expect(p, AML_INTEGER, "", v, 0);
		return;
	case STEP_IF:
	case STEP_CLOSE:
	case STEPS:
		return;
	}
}

static void close_one(struct program *p)
{
	aml_close(&p->aml, p->open[--p->depth]);
	expect(p, AML_END, "", 0, 0);
}

static void on_event(void *arg, const struct aml_event *e)
{
	struct program *p = arg;
	const struct aml_event *want = &p->events[p->seen++];

	require(p->seen <= p->count && e->kind == want->kind && e->a == want->a && e->b == want->b);
	require(strcmp(e->path, want->path) == 0);
}

static void check_writer(struct program *p, size_t room)
{
	auto_free uint8_t *buf = malloc(room);

	require(buf != NULL);
	p->aml = (struct aml){.buf = buf, .cap = room};
	while (p->left && p->count < EVENTS_MAX - 48) {
		enum step step = (enum step)(take(p, 1) % STEPS);

		if (step == STEP_CLOSE ? !p->depth : p->depth == NESTING_MAX)
			continue;
		if (step == STEP_CLOSE)
			close_one(p);
		else if (step == STEP_IF)
			step_if(p);
		else
			step_named(p, step);
	}
	while (p->depth)
		close_one(p);
	require(p->aml.len <= room);
	if (p->aml.error) {
		require(p->malformed || room < AML_ROOM);
		return;
	}
	require(!p->malformed);
	aml_read(buf, p->aml.len, on_event, p);
	require(p->seen == p->count);
}

static void check_tables(const struct acpi_config *config, uint64_t base, size_t room)
{
	static uint8_t plenty[TABLES_ROOM];
	auto_free uint8_t *buf = malloc(room);
	size_t full = 0, bytes = 0;
	int r = acpi_build(config, base, plenty, sizeof(plenty), &full);

	require(buf != NULL);
	if (config->cpus < 1 || config->cpus > LAYOUT_VCPUS_MAX ||
	    config->virtio_devices > LAYOUT_VIRTIO_MAX) {
		require(r == -EINVAL);
		return;
	}
	require(r == 0 && full <= sizeof(plenty));
	acpi_check(config, base, plenty, full);
	r = acpi_build(config, base, buf, room, &bytes);
	require(r == (room < full ? -ENOSPC : 0));
	if (r == 0)
		require(bytes == full && memcmp(buf, plenty, full) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct acpi_config config = {.cpus = 1};
	static struct program p;
	size_t room;

	if (size < HEADER_BYTES)
		return 0;
	config.cpus = data[0];
	config.virtio_devices = data[1];
	check_tables(&config, (uint64_t)load_le32(data) << 4, load_le16(data + 2));
	room = load_le16(data + 4);
	p = (struct program){.at = data + HEADER_BYTES, .left = size - HEADER_BYTES};
	check_writer(&p, room ? room : AML_ROOM);
	return 0;
}
