/* SPDX-License-Identifier: Apache-2.0 */
/* Reads the AML that the VMM writes, by recursive descent. */
#include "tests/fuzz/aml_reader.h"

#include <string.h>

#include "base/bytes.h"
#include "tests/fuzz/require.h"

struct reader {
	const uint8_t *at, *end;
	aml_event_fn fn;
	void *arg;
};

static void read_terms(struct reader *r);
static uint64_t read_integer(struct reader *r);

static void emit(const struct reader *r, enum aml_kind kind, const char *path, uint64_t a, uint64_t b)
{
	struct aml_event e = {.kind = kind, .a = a, .b = b};

	require(strlen(path) < sizeof(e.path));
	strcpy(e.path, path);
	r->fn(r->arg, &e);
}

static const uint8_t *take(struct reader *r, size_t n)
{
	const uint8_t *p = r->at;

	require(n <= (size_t)(r->end - r->at));
	r->at += n;
	return p;
}

static uint8_t take_byte(struct reader *r)
{
	return *take(r, 1);
}

/* PkgLength (20.2.4): in the shortest form, within what encloses it. Returns the reader of the inside; @r goes
 * behind it. */
static struct reader package(struct reader *r)
{
	struct reader inner = *r;
	const uint8_t *start = r->at;
	uint8_t lead = take_byte(r);
	size_t length = lead & 0x3f;

	if (lead >> 6) {
		require((lead & 0x30) == 0);
		for (unsigned i = 0; i < lead >> 6; i++)
			length |= (size_t)take_byte(r) << (4 + 8 * i);
		/* One byte less would not have held it, with that byte gone from the count. */
		require(length - 1 >= (size_t)1 << (lead >> 6 == 1 ? 6 : 8 * (lead >> 6) - 4));
	}
	inner.at = r->at;
	r->at = start;
	take(r, length);
	require(inner.at <= r->at);
	inner.end = r->at;
	return inner;
}

/* NameString (20.2.2). */
static void read_path(struct reader *r, char path[static AML_PATH_MAX])
{
	char *out = path;
	unsigned segments = 1;

	while (r->at < r->end && (*r->at == '\\' || *r->at == '^') && out - path < AML_PATH_MAX / 2)
		*out++ = (char)take_byte(r);
	require(out == path || path[0] == '^' || out == path + 1);
	if (*r->at == 0x2e) {
		take(r, 1);
		segments = 2;
	} else if (*r->at == 0x2f) {
		take(r, 1);
		segments = take_byte(r);
		require(segments > 2);
	}
	require((size_t)(out - path) + 5 * segments <= AML_PATH_MAX);
	for (unsigned i = 0; i < segments; i++) {
		const uint8_t *seg = take(r, 4);

		for (unsigned k = 0; k < 4; k++) {
			require((seg[k] >= 'A' && seg[k] <= 'Z') || seg[k] == '_' ||
				(k && seg[k] >= '0' && seg[k] <= '9'));
			*out++ = (char)seg[k];
		}
		*out++ = i + 1 < segments ? '.' : '\0';
	}
}

static uint64_t integer_of(struct reader *r, unsigned bytes)
{
	uint8_t raw[8] = {0};
	uint64_t v;

	memcpy(raw, take(r, bytes), bytes);
	v = load_le64(raw);
	require(bytes == 1 ? v > 1 : v >> (bytes * 4)); /* no shorter form would do */
	return v;
}

static uint64_t read_integer(struct reader *r)
{
	switch (take_byte(r)) {
	case 0x00:
		return 0;
	case 0x01:
		return 1;
	case 0x0a:
		return integer_of(r, 1);
	case 0x0b:
		return integer_of(r, 2);
	case 0x0c:
		return integer_of(r, 4);
	case 0x0e:
		return integer_of(r, 8);
	default:
		require(false);
		return 0;
	}
}

/* ResourceTemplate (6.4): descriptors up to the end tag, which is the buffer's end. */
static void read_resources(struct reader *r)
{
	struct reader in = package(r);
	const uint8_t *p;

	require(take_byte(&in) == 0x0a);
	require(take_byte(&in) == in.end - in.at);
	emit(r, AML_RESOURCES, "", 0, 0);
	for (;;) {
		switch (take_byte(&in)) {
		case 0x86:
			p = take(&in, 11);
			require(load_le16(p) == 9 && p[2] == 1);
			emit(r, AML_MEMORY, "", load_le32(p + 3), load_le32(p + 7));
			break;
		case 0x47:
			p = take(&in, 7);
			require(p[0] == 1 && load_le16(p + 1) == load_le16(p + 3) && p[5] == 1);
			emit(r, AML_IO, "", load_le16(p + 1), p[6]);
			break;
		case 0x89:
			p = take(&in, 8);
			require(load_le16(p) == 6 && p[2] == 3 && p[3] == 1);
			emit(r, AML_IRQ, "", load_le32(p + 4), 0);
			break;
		case 0x79:
			require(take_byte(&in) == 0 && in.at == in.end);
			emit(r, AML_END, "", 0, 0);
			return;
		default:
			require(false);
		}
	}
}

static void read_package(struct reader *r)
{
	struct reader in = package(r);
	uint8_t elements = take_byte(&in);

	emit(r, AML_PACKAGE, "", elements, 0);
	while (in.at < in.end)
		emit(r, AML_INTEGER, "", read_integer(&in), 0);
	emit(r, AML_END, "", 0, 0);
}

/* A DataRefObject (20.2.3). */
static void read_object(struct reader *r)
{
	const uint8_t *nul;

	require(r->at < r->end);
	switch (*r->at) {
	case 0x0d:
		take(r, 1);
		nul = memchr(r->at, 0, (size_t)(r->end - r->at));
		require(nul != NULL);
		emit(r, AML_STRING, (const char *)r->at, 0, 0);
		r->at = nul + 1;
		return;
	case 0x11:
		take(r, 1);
		read_resources(r);
		return;
	case 0x12:
		take(r, 1);
		read_package(r);
		return;
	default:
		emit(r, AML_INTEGER, "", read_integer(r), 0);
	}
}

static void read_field(struct reader *r)
{
	struct reader in = package(r);
	char path[AML_PATH_MAX];

	read_path(&in, path);
	emit(r, AML_FIELD, path, take_byte(&in), 0);
	while (in.at < in.end) {
		const char *name = (const char *)in.at;
		char unit[5] = {0};

		take(&in, 4);
		memcpy(unit, name, 4);
		emit(r, AML_UNIT, unit, take_byte(&in), 0);
	}
	emit(r, AML_END, "", 0, 0);
}

static void read_extended(struct reader *r)
{
	char path[AML_PATH_MAX];
	struct reader in;
	uint64_t base;

	switch (take_byte(r)) {
	case 0x80:
		read_path(r, path);
		require(take_byte(r) == 0); /* SystemMemory */
		base = read_integer(r);
		emit(r, AML_REGION, path, base, read_integer(r));
		return;
	case 0x81:
		read_field(r);
		return;
	case 0x82:
		in = package(r);
		read_path(&in, path);
		emit(r, AML_DEVICE, path, 0, 0);
		read_terms(&in);
		emit(r, AML_END, "", 0, 0);
		return;
	default:
		require(false);
	}
}

static void read_method(struct reader *r)
{
	struct reader in = package(r);
	char path[AML_PATH_MAX];
	uint8_t flags;

	read_path(&in, path);
	flags = take_byte(&in);
	require((flags & 0xf0) == 0);
	emit(r, AML_METHOD, path, flags & 7, flags >> 3);
	read_terms(&in);
	emit(r, AML_END, "", 0, 0);
}

/* And(LocalN, mask), without a target. */
static void read_and(struct reader *r)
{
	uint8_t local;

	require(take_byte(r) == 0x7b);
	local = take_byte(r);
	require(local >= 0x60 && local <= 0x67);
	emit(r, AML_AND, "", local - 0x60u, 0);
	emit(r, AML_INTEGER, "", read_integer(r), 0);
	require(take_byte(r) == 0);
}

static void read_if(struct reader *r)
{
	struct reader in = package(r);

	emit(r, AML_IF, "", 0, 0);
	read_and(&in);
	read_terms(&in);
	emit(r, AML_END, "", 0, 0);
}

static void read_term(struct reader *r)
{
	char path[AML_PATH_MAX];
	struct reader in;

	switch (take_byte(r)) {
	case 0x08:
		read_path(r, path);
		emit(r, AML_NAME, path, 0, 0);
		read_object(r);
		return;
	case 0x10:
		in = package(r);
		read_path(&in, path);
		emit(r, AML_SCOPE, path, 0, 0);
		read_terms(&in);
		emit(r, AML_END, "", 0, 0);
		return;
	case 0x14:
		read_method(r);
		return;
	case 0x5b:
		read_extended(r);
		return;
	case 0x70:
		read_path(r, path);
		emit(r, AML_STORE, path, take_byte(r) - 0x60u, 0);
		return;
	case 0x86:
		read_path(r, path);
		emit(r, AML_NOTIFY, path, 0, 0);
		emit(r, AML_INTEGER, "", read_integer(r), 0);
		return;
	case 0xa0:
		read_if(r);
		return;
	default:
		require(false);
	}
}

static void read_terms(struct reader *r)
{
	while (r->at < r->end)
		read_term(r);
}

void aml_read(const uint8_t *terms, size_t len, aml_event_fn fn, void *arg)
{
	struct reader r = {.at = terms, .end = terms + len, .fn = fn, .arg = arg};

	read_terms(&r);
}
