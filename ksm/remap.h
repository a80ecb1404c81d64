/* SPDX-License-Identifier: Apache-2.0 */
/* The moves by which memory of a guest is exchanged: aside, in, back, away. */
#ifndef SARDINE_KSM_REMAP_H
#define SARDINE_KSM_REMAP_H

#include <stdbool.h>
#include <stdint.h>

#include "base/addr.h"
#include "base/cleanup.h"
#include "base/syscalls.h"

/**
 * remap_split() - Split huge folios that a range covers only in part.
 *
 * Else the part that is replaced would not be freed: a folio is freed as a whole. Best effort; what stays huge is
 * memory that is not saved, no more. Contents and write protection stay as they are.
 *
 * Context: some 0.4 ms per huge page that is split; the guest may run.
 */
void remap_split(hva_t start, uint64_t bytes);

/**
 * remap_aside() - Move pages of private anonymous memory to another address.
 * @start, @bytes: the range; inside one mapping.
 * @hint: where they would best go; congruent to @start modulo 2 MiB moves whole page tables.
 * @ret_aside: where they went. Not watched by any userfaultfd.
 *
 * The range stays mapped as it is, and empty.
 *
 * Return: 0 or the errno of mremap; then nothing changed.
 */
int remap_aside(hva_t start, uint64_t bytes, hva_t hint, hva_t *ret_aside) must_check;

/**
 * remap_in() - Map a file privately over a range.
 *
 * Return: 0 or the errno of mmap; then the range is as it was, or (before Linux 6.12) unmapped.
 */
int remap_in(hva_t start, uint64_t bytes, int fd, uint64_t offset) must_check;

/**
 * remap_back() - Undo remap_aside() after remap_in() failed.
 *
 * Return: 0 when the bytes are back in the mapping that was there; 1 when the pages are, in a mapping that is not
 * watched by userfaultfd; a negative errno when the pages are still aside, and nothing is mapped in their place.
 */
int remap_back(hva_t start, uint64_t bytes, hva_t aside) must_check;

/**
 * remap_fresh() - Map empty private anonymous memory over a range.
 *
 * Without advice, and watched by nobody.
 *
 * Return: as remap_in().
 */
int remap_fresh(hva_t start, uint64_t bytes) must_check;

/* Whether all of a range is mapped. */
bool remap_is_mapped(hva_t start, uint64_t bytes);

/* Have the pages of a private mapping of a file mapped, without copying any. Best effort. */
void remap_populate(hva_t start, uint64_t bytes);

/* Free what was moved aside. */
void remap_drop(hva_t aside, uint64_t bytes);

extern const struct syscall_list remap_syscalls;

#endif
