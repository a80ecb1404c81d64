/* SPDX-License-Identifier: Apache-2.0 */
/* Writes ACPI Machine Language (ACPI 6.5 chapter 20) and resource descriptors (6.4) into a buffer. */
#include "vmm/acpi-aml.h"

#include <string.h>

#include "base/bytes.h"
#include "base/planted.h"
#include "base/size.h"

/* Opcodes, table 20.4. */
enum {
	OP_ZERO = 0x00,
	OP_ONE = 0x01,
	OP_NAME = 0x08,
	OP_BYTE = 0x0a,
	OP_WORD = 0x0b,
	OP_DWORD = 0x0c,
	OP_STRING = 0x0d,
	OP_QWORD = 0x0e,
	OP_SCOPE = 0x10,
	OP_BUFFER = 0x11,
	OP_PACKAGE = 0x12,
	OP_METHOD = 0x14,
	OP_DUAL_NAME = 0x2e,
	OP_MULTI_NAME = 0x2f,
	OP_EXT = 0x5b,
	OP_EXT_REGION = 0x80,
	OP_EXT_FIELD = 0x81,
	OP_EXT_DEVICE = 0x82,
	OP_LOCAL0 = 0x60,
	OP_STORE = 0x70,
	OP_AND = 0x7b,
	OP_NOTIFY = 0x86,
	OP_IF = 0xa0,
};

#define REGION_SYSTEM_MEMORY   0
#define FIELD_BYTE_ACC	       0x01
#define FIELD_WRITE_AS_ZEROS   0x40
#define METHOD_SERIALIZED      0x08
#define METHOD_ARGS_MAX	       7
#define PKG_LENGTH_MAX	       0x0fffffff
#define SEGMENTS_MAX	       8
#define RES_IO		       0x47 /* small descriptor 8, 7 bytes */
#define RES_END_TAG	       0x79
#define RES_MEMORY32_FIXED     0x86
#define RES_INTERRUPT	       0x89
#define RES_INTERRUPT_CONSUMER 0x01
#define RES_INTERRUPT_EDGE     0x02

void aml_bytes(struct aml *a, const void *p, size_t len)
{
	if (a->error || !range_fits(a->len, len, a->cap)) {
		a->error = true;
		return;
	}
	memcpy(a->buf + a->len, p, len);
	a->len += len;
}

void aml_u8(struct aml *a, uint8_t v)
{
	aml_bytes(a, &v, 1);
}

void aml_u16(struct aml *a, uint16_t v)
{
	uint8_t b[2];

	store_le16(b, v);
	aml_bytes(a, b, sizeof(b));
}

void aml_u32(struct aml *a, uint32_t v)
{
	uint8_t b[4];

	store_le32(b, v);
	aml_bytes(a, b, sizeof(b));
}

void aml_u64(struct aml *a, uint64_t v)
{
	uint8_t b[8];

	store_le64(b, v);
	aml_bytes(a, b, sizeof(b));
}

/* One segment of a path, padded to four characters; the length taken, or 0 when it is none. */
static size_t segment(const char *s, char seg[4])
{
	size_t n = 0;

	memset(seg, '_', 4);
	for (; s[n] && s[n] != '.'; n++) {
		bool letter = (s[n] >= 'A' && s[n] <= 'Z') || s[n] == '_';
		bool digit = s[n] >= '0' && s[n] <= '9';

		if (n == 4 || !(letter || (digit && n > 0)))
			return 0;
		seg[n] = s[n];
	}
	return n;
}

void aml_path(struct aml *a, const char *path)
{
	char segs[SEGMENTS_MAX][4];
	size_t count = 0;

	if (*path == '\\')
		aml_u8(a, (uint8_t)*path++);
	else
		while (*path == '^')
			aml_u8(a, (uint8_t)*path++);
	for (;;) {
		size_t n = count < SEGMENTS_MAX ? segment(path, segs[count]) : 0;

		if (n == 0) {
			a->error = true;
			return;
		}
		count++;
		path += n;
		if (!*path)
			break;
		path++;
	}
	if (count == 2) {
		aml_u8(a, OP_DUAL_NAME);
	} else if (count > 2) {
		aml_u8(a, OP_MULTI_NAME);
		aml_u8(a, (uint8_t)count);
	}
	aml_bytes(a, segs, count * sizeof(segs[0]));
}

void aml_integer(struct aml *a, uint64_t v)
{
	if (v <= 1) {
		aml_u8(a, v ? OP_ONE : OP_ZERO);
	} else if (v <= UINT8_MAX) {
		aml_u8(a, OP_BYTE);
		aml_u8(a, (uint8_t)v);
	} else if (v <= UINT16_MAX) {
		aml_u8(a, OP_WORD);
		aml_u16(a, (uint16_t)v);
	} else if (v <= UINT32_MAX) {
		aml_u8(a, OP_DWORD);
		aml_u32(a, (uint32_t)v);
	} else {
		aml_u8(a, OP_QWORD);
		aml_u64(a, v);
	}
}

void aml_string(struct aml *a, const char *s)
{
	aml_u8(a, OP_STRING);
	aml_bytes(a, s, strlen(s) + 1);
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

/* 19.3.4: three letters of five bits each and four hex digits, most significant byte first. */
void aml_eisa_id(struct aml *a, const char *id)
{
	uint32_t v = 0;
	uint8_t b[4];

	for (unsigned i = 0; i < 7; i++) {
		int digit = i < 3 ? id[i] - 0x40 : hex_digit(id[i]);

		if (digit < 0 || (i < 3 && (digit < 1 || digit > 26))) {
			a->error = true;
			return;
		}
		v = v << (i < 3 ? 5 : 4) | (uint32_t)digit;
	}
	for (unsigned i = 0; i < 4; i++)
		b[i] = (uint8_t)(v >> (24 - 8 * i));
	aml_u8(a, OP_DWORD);
	aml_bytes(a, b, sizeof(b));
}

void aml_name(struct aml *a, const char *path)
{
	aml_u8(a, OP_NAME);
	aml_path(a, path);
}

void aml_name_integer(struct aml *a, const char *path, uint64_t v)
{
	aml_name(a, path);
	aml_integer(a, v);
}

void aml_name_eisa_id(struct aml *a, const char *path, const char *id)
{
	aml_name(a, path);
	aml_eisa_id(a, id);
}

void aml_name_string(struct aml *a, const char *path, const char *s)
{
	aml_name(a, path);
	aml_string(a, s);
}

/* PkgLength (20.2.4) of a @body that follows it; it counts itself. Returns its size, 0 when there is no
 * encoding. */
static size_t pkg_length(size_t body, uint8_t out[4])
{
	size_t size, total;

	if (body > PKG_LENGTH_MAX - 4)
		return 0;
	if (body + 1 < (1 << 6) + PLANTED("acpi")) {
		out[0] = (uint8_t)(body + 1);
		return 1;
	}
	for (size = 2; size < 4; size++)
		if (body + size < (size_t)1 << (4 + 8 * (size - 1)))
			break;
	total = body + size;
	out[0] = (uint8_t)((size - 1) << 6 | (total & 0x0f));
	for (size_t i = 1; i < size; i++)
		out[i] = (uint8_t)(total >> (4 + 8 * (i - 1)));
	return size;
}

static aml_mark_t open_here(const struct aml *a)
{
	return (aml_mark_t){a->len};
}

/* Inserts the length between the opcode and what was written since. */
void aml_close(struct aml *a, aml_mark_t mark)
{
	uint8_t length[4];
	size_t body = a->len - mark.pos;
	size_t size = pkg_length(body, length);

	if (a->error || size == 0 || !range_fits(a->len, size, a->cap)) {
		a->error = true;
		return;
	}
	memmove(a->buf + mark.pos + size, a->buf + mark.pos, body);
	memcpy(a->buf + mark.pos, length, size);
	a->len += size;
}

aml_mark_t aml_scope(struct aml *a, const char *path)
{
	aml_mark_t mark;

	aml_u8(a, OP_SCOPE);
	mark = open_here(a);
	aml_path(a, path);
	return mark;
}

aml_mark_t aml_device(struct aml *a, const char *path)
{
	aml_mark_t mark;

	aml_u8(a, OP_EXT);
	aml_u8(a, OP_EXT_DEVICE);
	mark = open_here(a);
	aml_path(a, path);
	return mark;
}

aml_mark_t aml_method(struct aml *a, const char *path, unsigned args, bool serialized)
{
	aml_mark_t mark;

	if (args > METHOD_ARGS_MAX)
		a->error = true;
	aml_u8(a, OP_METHOD);
	mark = open_here(a);
	aml_path(a, path);
	aml_u8(a, (uint8_t)(args | (serialized ? METHOD_SERIALIZED : 0)));
	return mark;
}

aml_mark_t aml_package(struct aml *a, uint8_t elements)
{
	aml_mark_t mark;

	aml_u8(a, OP_PACKAGE);
	mark = open_here(a);
	aml_u8(a, elements);
	return mark;
}

aml_mark_t aml_if(struct aml *a)
{
	aml_u8(a, OP_IF);
	return open_here(a);
}

aml_mark_t aml_field_bytes(struct aml *a, const char *region)
{
	aml_mark_t mark;

	aml_u8(a, OP_EXT);
	aml_u8(a, OP_EXT_FIELD);
	mark = open_here(a);
	aml_path(a, region);
	aml_u8(a, FIELD_BYTE_ACC | FIELD_WRITE_AS_ZEROS);
	return mark;
}

void aml_field_unit(struct aml *a, const char *name, unsigned bits)
{
	if (bits == 0 || bits >= 1 << 6)
		a->error = true;
	aml_path(a, name);
	aml_u8(a, (uint8_t)bits); /* a PkgLength of one byte, which here counts bits and not itself */
}

void aml_memory_region(struct aml *a, const char *name, uint64_t base, uint64_t bytes)
{
	aml_u8(a, OP_EXT);
	aml_u8(a, OP_EXT_REGION);
	aml_path(a, name);
	aml_u8(a, REGION_SYSTEM_MEMORY);
	aml_integer(a, base);
	aml_integer(a, bytes);
}

void aml_store_to_local(struct aml *a, const char *path, unsigned local)
{
	aml_u8(a, OP_STORE);
	aml_path(a, path);
	aml_u8(a, (uint8_t)(OP_LOCAL0 + (local & 7)));
}

void aml_and_local(struct aml *a, unsigned local, uint64_t mask)
{
	aml_u8(a, OP_AND);
	aml_u8(a, (uint8_t)(OP_LOCAL0 + (local & 7)));
	aml_integer(a, mask);
	aml_u8(a, OP_ZERO); /* no target: the value of the expression is what counts */
}

void aml_notify(struct aml *a, const char *path, uint64_t value)
{
	aml_u8(a, OP_NOTIFY);
	aml_path(a, path);
	aml_integer(a, value);
}

/* A buffer whose size, a byte constant, is filled in at the end. */
aml_mark_t aml_resources_begin(struct aml *a)
{
	aml_mark_t mark;

	aml_u8(a, OP_BUFFER);
	mark = open_here(a);
	aml_u8(a, OP_BYTE);
	aml_u8(a, 0);
	return mark;
}

void aml_resources_end(struct aml *a, aml_mark_t mark)
{
	size_t bytes;

	aml_u8(a, RES_END_TAG);
	aml_u8(a, 0); /* checksum: 0 is always right (6.4.2.9) */
	bytes = a->len - mark.pos - 2;
	if (a->error || bytes > UINT8_MAX) {
		a->error = true;
		return;
	}
	a->buf[mark.pos + 1] = (uint8_t)bytes;
	aml_close(a, mark);
}

void aml_memory32_fixed(struct aml *a, uint32_t base, uint32_t bytes)
{
	aml_u8(a, RES_MEMORY32_FIXED);
	aml_u16(a, 9);
	aml_u8(a, 1); /* writable */
	aml_u32(a, base);
	aml_u32(a, bytes);
}

void aml_io(struct aml *a, uint16_t base, uint8_t bytes)
{
	aml_u8(a, RES_IO);
	aml_u8(a, 1); /* decodes 16 bits */
	aml_u16(a, base);
	aml_u16(a, base);
	aml_u8(a, 1); /* alignment */
	aml_u8(a, bytes);
}

void aml_interrupt_edge(struct aml *a, uint32_t gsi)
{
	aml_u8(a, RES_INTERRUPT);
	aml_u16(a, 6);
	aml_u8(a, RES_INTERRUPT_CONSUMER | RES_INTERRUPT_EDGE); /* active high, exclusive: zeros */
	aml_u8(a, 1);						/* one interrupt */
	aml_u32(a, gsi);
}
