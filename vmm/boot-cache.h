/* SPDX-License-Identifier: Apache-2.0 */
/* The content-addressed cache of unpacked kernels and of initrds, whose files guest RAM maps. */
#ifndef SARDINE_VMM_BOOT_CACHE_H
#define SARDINE_VMM_BOOT_CACHE_H

#include <stdbool.h>

#include "base/errmsg.h"
#include "vmm/boot-image.h"

struct boot_cache;

/**
 * boot_cache_open() - Open, or create, the cache of this sharing domain.
 * @dir: its folder (--cache-dir), or NULL for the default: /var/cache/sardine for root, else
 * $XDG_CACHE_HOME/sardine or $HOME/.cache/sardine.
 * @err: says what to do on failure.
 * @ret: the cache; freed with boot_cache_free().
 */
int boot_cache_open(const char *dir, struct errmsg *err, struct boot_cache **ret) must_check;
void boot_cache_free(struct boot_cache *cache);
DEFINE_CLEANUP(struct boot_cache, boot_cache_free)

/**
 * boot_cache_kernel() - Find or make the flat image of a kernel file (bzImage or ELF).
 * @cache: the cache.
 * @path: the user's file, for reading and for messages.
 * @kaslr: enter a bzImage as it is; otherwise unpack it here.
 * @err: one line on failure.
 * @ret: the image; the caller ends it with boot_image_done().
 *
 * Return: 0 or a negative errno (-ENOEXEC: not a kernel we can boot).
 */
int boot_cache_kernel(struct boot_cache *cache, const char *path, bool kaslr, struct errmsg *err,
		      struct boot_image *ret) must_check;

/* The same for an initrd, which is kept as it is. */
int boot_cache_initrd(struct boot_cache *cache, const char *path, struct errmsg *err,
		      struct boot_blob *ret) must_check;

#endif
