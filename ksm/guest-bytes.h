/* SPDX-License-Identifier: Apache-2.0 */
/* Reading guest memory that somebody may be writing: what is read is a hint until it is proven unwritten. */
#ifndef SARDINE_KSM_GUEST_BYTES_H
#define SARDINE_KSM_GUEST_BYTES_H

#include <stdbool.h>
#include <stddef.h>

/**
 * guest_bytes_equal() - Compare bytes of a guest with others.
 * @guest: guest memory; may change meanwhile.
 * @other: memory that does not change.
 * @bytes: a multiple of 8; both 8-byte aligned.
 *
 * Context: any thread.
 * Return: true when the bytes that it happened to see are equal.
 */
bool guest_bytes_equal(const void *guest, const void *other, size_t bytes);

/* Whether the bytes that it happened to see are zero; as guest_bytes_equal(), @bytes at least 16. */
bool guest_bytes_zero(const void *guest, size_t bytes);

/**
 * guest_bytes_read() - Bytes of a guest for functions that do not expect them to change.
 * @room: @bytes of the caller's, used under the thread sanitizer only, which would call the race a bug.
 *
 * Return: @guest, or @room with a copy.
 */
const void *guest_bytes_read(const void *guest, void *room, size_t bytes);

#endif
