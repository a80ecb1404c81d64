/* SPDX-License-Identifier: Apache-2.0 */
/* Reads the AML that the VMM writes (ACPI 6.5 chapter 20 and 6.4), without a line in common with the writer. */
#ifndef SARDINE_TESTS_FUZZ_AML_READER_H
#define SARDINE_TESTS_FUZZ_AML_READER_H

#include <stddef.h>
#include <stdint.h>

/* What is met, in the order of the bytes. Paths come as in ASL with segments padded to four characters. */
enum aml_kind {
	AML_NAME,      /* path; its object follows */
	AML_SCOPE,     /* path; up to its AML_END */
	AML_DEVICE,    /* path */
	AML_METHOD,    /* path, a: arguments, b: serialized */
	AML_IF,	       /* its predicate follows */
	AML_PACKAGE,   /* a: elements */
	AML_REGION,    /* path, a: base, b: bytes; both follow as integers */
	AML_FIELD,     /* path of the region, a: flags */
	AML_UNIT,      /* path, a: bits */
	AML_RESOURCES, /* descriptors follow */
	AML_END,
	AML_INTEGER, /* a, as short as it can be */
	AML_STRING,  /* path: the text */
	AML_STORE,   /* path, a: number of the local */
	AML_AND,     /* a: number of the local; the mask follows */
	AML_NOTIFY,  /* path; the value follows */
	AML_MEMORY,  /* a: base, b: bytes */
	AML_IO,	     /* a: base, b: bytes */
	AML_IRQ,     /* a: GSI */
	AML_KINDS,
};

#define AML_PATH_MAX 64

struct aml_event {
	enum aml_kind kind;
	char path[AML_PATH_MAX];
	uint64_t a, b;
};

typedef void (*aml_event_fn)(void *arg, const struct aml_event *event);

/* Read a list of terms; dies (require()) unless every length, name and object in it is right to the byte. */
void aml_read(const uint8_t *terms, size_t len, aml_event_fn fn, void *arg);

#endif
