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
#else
bool guest_bytes_equal(const void *guest, const void *other, size_t bytes)
{
	return memcmp(guest, other, bytes) == 0;
}
#endif
