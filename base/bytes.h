/* SPDX-License-Identifier: Apache-2.0 */
/* Little-endian fields of structures shared with a guest or a disk, and unaligned loads. */
#ifndef SARDINE_BASE_BYTES_H
#define SARDINE_BASE_BYTES_H

#include <endian.h>
#include <stdint.h>
#include <string.h>

/* Opaque on purpose: they are read and written by get/put only. */
typedef struct {
	uint16_t raw;
} le16_t;

typedef struct {
	uint32_t raw;
} le32_t;

typedef struct {
	uint64_t raw;
} le64_t;

static inline uint16_t le16_get(const le16_t *p)
{
	return le16toh(__atomic_load_n(&p->raw, __ATOMIC_RELAXED));
}

static inline uint32_t le32_get(const le32_t *p)
{
	return le32toh(__atomic_load_n(&p->raw, __ATOMIC_RELAXED));
}

static inline uint64_t le64_get(const le64_t *p)
{
	return le64toh(__atomic_load_n(&p->raw, __ATOMIC_RELAXED));
}

static inline void le16_put(le16_t *p, uint16_t v)
{
	__atomic_store_n(&p->raw, htole16(v), __ATOMIC_RELAXED);
}

static inline void le32_put(le32_t *p, uint32_t v)
{
	__atomic_store_n(&p->raw, htole32(v), __ATOMIC_RELAXED);
}

static inline void le64_put(le64_t *p, uint64_t v)
{
	__atomic_store_n(&p->raw, htole64(v), __ATOMIC_RELAXED);
}

/* Ring indices: acquire pairs with the guest's release, release with the guest's acquire
 * (virtio 1.2, 2.7.13). */
static inline uint16_t le16_get_acquire(const le16_t *p)
{
	return le16toh(__atomic_load_n(&p->raw, __ATOMIC_ACQUIRE));
}

static inline void le16_put_release(le16_t *p, uint16_t v)
{
	__atomic_store_n(&p->raw, htole16(v), __ATOMIC_RELEASE);
}

/* Unaligned little-endian loads and stores in byte buffers. */
#define DEFINE_LE_BYTES(bits)                                                                                \
	static inline uint##bits##_t load_le##bits(const void *p)                                            \
	{                                                                                                    \
		uint##bits##_t v;                                                                            \
		memcpy(&v, p, sizeof(v));                                                                    \
		return (uint##bits##_t)le##bits##toh(v);                                                     \
	}                                                                                                    \
	static inline void store_le##bits(void *p, uint##bits##_t v)                                         \
	{                                                                                                    \
		v = (uint##bits##_t)htole##bits(v);                                                          \
		memcpy(p, &v, sizeof(v));                                                                    \
	}
DEFINE_LE_BYTES(16)
DEFINE_LE_BYTES(32)
DEFINE_LE_BYTES(64)

#endif
