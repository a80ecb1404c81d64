/* SPDX-License-Identifier: Apache-2.0 */
/* What a page is at first sight: zero, a fill pattern, or data with a hash. */
#include "ksm/page-hash.h"

#include <string.h>
#include <xxhash.h>

/* An odd multiplier and its inverse modulo 2^64; with the shifts a bijection, so that keys of fill patterns
 * spread over the table and still say the word exactly. */
#define FILL_MULTIPLY 0x9e3779b97f4a7c15ull
#define FILL_INVERSE  0xf1de83e19937733dull

_Static_assert(FILL_MULTIPLY *FILL_INVERSE == 1, "the inverse undoes the multiplication");

static uint64_t fill_key(uint64_t word)
{
	uint64_t x = word ^ (word >> 32);

	x *= FILL_MULTIPLY;
	return x ^ (x >> 32);
}

uint64_t page_fill_word(uint64_t key)
{
	uint64_t x = key ^ (key >> 32);

	x *= FILL_INVERSE;
	return x ^ (x >> 32);
}

struct page_id page_identify(const void *page, size_t bytes)
{
	const char *p = page;
	uint64_t word, hash;

	memcpy(&word, p, sizeof(word));
	/* A page that equals itself moved by one word repeats that word. Most pages differ at once. */
	if (memcmp(p, p + sizeof(word), bytes - sizeof(word)) == 0) {
		if (word == 0)
			return (struct page_id){PAGE_ZERO, 0};
		return (struct page_id){PAGE_FILL, fill_key(word)};
	}
	hash = XXH3_64bits(page, bytes);
	return (struct page_id){PAGE_DATA, hash ? hash : 1};
}
