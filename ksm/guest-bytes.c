/* SPDX-License-Identifier: Apache-2.0 */
/* Comparing memory that may be written meanwhile. */
#include "ksm/guest-bytes.h"

#include <stdint.h>
#include <string.h>

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define UNDER_TSAN 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define UNDER_TSAN 1
#endif

#ifdef UNDER_TSAN
/* The race is meant; memcmp() would be watched. */
__attribute__((no_sanitize("thread"))) bool guest_bytes_equal(const void *guest, const void *other,
							      size_t bytes)
{
	const volatile uint64_t *a = guest;
	const uint64_t *b = other;

	for (size_t i = 0; i < bytes / sizeof(*b); i++)
		if (a[i] != b[i])
			return false;
	return true;
}

__attribute__((no_sanitize("thread"))) bool guest_bytes_zero(const void *guest, size_t bytes)
{
	const volatile uint64_t *a = guest;

	for (size_t i = 0; i < bytes / sizeof(*a); i++)
		if (a[i])
			return false;
	return true;
}

__attribute__((no_sanitize("thread"))) const void *guest_bytes_read(const void *guest, void *room,
								    size_t bytes)
{
	const volatile uint64_t *a = guest;
	uint64_t *b = room;

	for (size_t i = 0; i < bytes / sizeof(*b); i++)
		b[i] = a[i];
	return room;
}
#else
bool guest_bytes_equal(const void *guest, const void *other, size_t bytes)
{
	return memcmp(guest, other, bytes) == 0;
}

bool guest_bytes_zero(const void *guest, size_t bytes)
{
	const char *p = guest;
	uint64_t word;

	memcpy(&word, p, sizeof(word));
	return word == 0 && memcmp(p, p + sizeof(word), bytes - sizeof(word)) == 0;
}

const void *guest_bytes_read(const void *guest, void *room, size_t bytes)
{
	(void)room;
	(void)bytes;
	return guest;
}
#endif
