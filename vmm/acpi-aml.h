/* SPDX-License-Identifier: Apache-2.0 */
/* Writes ACPI Machine Language (ACPI 6.5 chapter 20) and resource descriptors (6.4) into a buffer. */
#ifndef SARDINE_VMM_ACPI_AML_H
#define SARDINE_VMM_ACPI_AML_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Once something does not fit, or cannot be encoded, error is set and everything further is dropped; callers
 * look at it once, at the end. */
struct aml {
	uint8_t *buf;
	size_t len; /* written */
	size_t cap;
	bool error;
};

/* Where an open package began, for aml_close(). */
typedef struct {
	size_t pos;
} aml_mark_t;

/* Raw little-endian bytes. */
void aml_u8(struct aml *a, uint8_t v);
void aml_u16(struct aml *a, uint16_t v);
void aml_u32(struct aml *a, uint32_t v);
void aml_u64(struct aml *a, uint64_t v);
void aml_bytes(struct aml *a, const void *p, size_t len);

/**
 * aml_path() - A NameString (20.2.2).
 * @a: the writer.
 * @path: as in ASL: segments of 1 to 4 characters A-Z 0-9 _ joined by dots, after an optional '\' or '^'s.
 * Short segments are padded with '_'.
 */
void aml_path(struct aml *a, const char *path);

/* Data objects (20.2.3): an integer in its shortest form, an ASCII string, an EISA id such as "PNP0501". */
void aml_integer(struct aml *a, uint64_t v);
void aml_string(struct aml *a, const char *s);
void aml_eisa_id(struct aml *a, const char *id);

/* Name(path, ..): the object follows. */
void aml_name(struct aml *a, const char *path);
/* Name(path, integer) and Name(path, EisaId(id)). */
void aml_name_integer(struct aml *a, const char *path, uint64_t v);
void aml_name_eisa_id(struct aml *a, const char *path, const char *id);
void aml_name_string(struct aml *a, const char *path, const char *s);

/* Opened here, filled by what is written next, closed by aml_close(); they nest. */
aml_mark_t aml_scope(struct aml *a, const char *path);
aml_mark_t aml_device(struct aml *a, const char *path);
aml_mark_t aml_method(struct aml *a, const char *path, unsigned args, bool serialized);
aml_mark_t aml_package(struct aml *a, uint8_t elements);
/* If: the predicate follows, then the body. */
aml_mark_t aml_if(struct aml *a);
/* Field(region, ByteAcc, NoLock, WriteAsZeros): aml_field_unit()s follow. */
aml_mark_t aml_field_bytes(struct aml *a, const char *region);
void aml_close(struct aml *a, aml_mark_t mark);

/* A named unit of a field; @bits below 64. */
void aml_field_unit(struct aml *a, const char *name, unsigned bits);
/* OperationRegion(name, SystemMemory, base, bytes). */
void aml_memory_region(struct aml *a, const char *name, uint64_t base, uint64_t bytes);

/* Store(path, LocalN); And(LocalN, mask) as an expression; Notify(path, value). */
void aml_store_to_local(struct aml *a, const char *path, unsigned local);
void aml_and_local(struct aml *a, unsigned local, uint64_t mask);
void aml_notify(struct aml *a, const char *path, uint64_t value);

/* ResourceTemplate() {..} of at most 255 bytes: descriptors between begin and end. */
aml_mark_t aml_resources_begin(struct aml *a);
void aml_resources_end(struct aml *a, aml_mark_t mark);
/* Memory32Fixed(ReadWrite, base, bytes) (6.4.3.4). */
void aml_memory32_fixed(struct aml *a, uint32_t base, uint32_t bytes);
/* IO(Decode16, base, base, 1, bytes) (6.4.2.5). */
void aml_io(struct aml *a, uint16_t base, uint8_t bytes);
/* Interrupt(ResourceConsumer, Edge, ActiveHigh, Exclusive) {gsi} (6.4.3.6). */
void aml_interrupt_edge(struct aml *a, uint32_t gsi);

#endif
