/* SPDX-License-Identifier: Apache-2.0 */
/* What a page is at first sight: zero, a fill pattern, or data with a hash. */
#ifndef SARDINE_KSM_PAGE_HASH_H
#define SARDINE_KSM_PAGE_HASH_H

#include <stddef.h>
#include <stdint.h>

enum page_kind {
	PAGE_ZERO, /* every byte is zero */
	PAGE_FILL, /* one 8-byte word, not zero, over and over */
	PAGE_DATA, /* anything else */
};

/* A page's kind and the key of its content. Pages of different kind differ. Zero: the key is 0. Fill: the
 * key is never 0 and says the word, so equal keys are equal pages. Data: the key is a hash, never 0; equal
 * pages have equal keys, but equal keys are only a hint. */
struct page_id {
	enum page_kind kind;
	uint64_t key;
};

/**
 * page_identify() - Look at a page once.
 * @page: the bytes, 8-byte aligned.
 * @bytes: its size, a multiple of 8 and at least 16.
 *
 * The hash is XXH3 with 64 bits and no seed, so that keys of different hosts can be compared.
 *
 * Context: any thread, no locks.
 * Return: kind and key.
 */
struct page_id page_identify(const void *page, size_t bytes);

/**
 * page_fill_word() - The word of a fill pattern, back from its key.
 * @key: of a page of kind PAGE_FILL.
 *
 * Return: the repeated word.
 */
uint64_t page_fill_word(uint64_t key);

#endif
