/* SPDX-License-Identifier: Apache-2.0 */
/* Numbers and sizes that come from outside: checked arithmetic and parsing. */
#ifndef SARDINE_BASE_SIZE_H
#define SARDINE_BASE_SIZE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"

#define KIB ((uint64_t)1 << 10)
#define MIB ((uint64_t)1 << 20)
#define GIB ((uint64_t)1 << 30)

/* True when [off, off + len) lies inside [0, limit); tested by subtraction, so that nothing wraps. */
static inline bool range_fits(uint64_t off, uint64_t len, uint64_t limit)
{
	return len <= limit && off <= limit - len;
}

/**
 * size_parse() - Parse "256M", "1G", "4096", "64K" (powers of 1024; suffixes K M G T, any case, an optional B
 * or iB).
 * @s: the text.
 * @ret_bytes: the size in bytes.
 *
 * Return: 0, -EINVAL when @s is not a size, -ERANGE when it exceeds 64 bits.
 */
int size_parse(const char *s, uint64_t *ret_bytes) must_check;

/**
 * number_parse() - Parse a whole decimal number, digits only.
 * @s: the text.
 * @max: the largest value accepted.
 * @ret: the number.
 *
 * Return: 0, -EINVAL when @s is not a number, -ERANGE when it is above @max.
 */
int number_parse(const char *s, uint64_t max, uint64_t *ret) must_check;

/**
 * size_format() - Write a size for people: "256 MiB", "1.5 GiB", "12 KiB".
 * @bytes: the size.
 * @buf: where to write.
 * @len: size of @buf; 16 is enough.
 *
 * Return: @buf.
 */
const char *size_format(uint64_t bytes, char *buf, size_t len);

#endif
