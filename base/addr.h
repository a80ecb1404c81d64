/* SPDX-License-Identifier: Apache-2.0 */
/* Address types: guest physical address, guest frame number, host virtual address. Mixing them does not
 * compile. */
#ifndef SARDINE_BASE_ADDR_H
#define SARDINE_BASE_ADDR_H

#include <stdint.h>

#define PAGE_SHIFT	12
#define PAGE_BYTES	((uint64_t)1 << PAGE_SHIFT)
#define PAGE_MASK	(PAGE_BYTES - 1)
#define HUGE_PAGE_BYTES ((uint64_t)2 << 20)

typedef struct {
	uint64_t v;
} gpa_t;

typedef struct {
	uint64_t v;
} gfn_t;

typedef struct {
	uintptr_t v;
} hva_t;

#define GPA(x) ((gpa_t){(x)})
#define GFN(x) ((gfn_t){(x)})

static inline gfn_t gpa_to_gfn(gpa_t a)
{
	return GFN(a.v >> PAGE_SHIFT);
}

static inline gpa_t gfn_to_gpa(gfn_t f)
{
	return GPA(f.v << PAGE_SHIFT);
}

static inline hva_t hva_of(const void *p)
{
	return (hva_t){(uintptr_t)p};
}

static inline void *hva_ptr(hva_t a)
{
	return (void *)a.v;
}

/* Rounds to pages; the caller has checked that page_up() cannot wrap. */
static inline uint64_t page_down(uint64_t x)
{
	return x & ~PAGE_MASK;
}

static inline uint64_t page_up(uint64_t x)
{
	return (x + PAGE_MASK) & ~PAGE_MASK;
}

#endif
