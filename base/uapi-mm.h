/* SPDX-License-Identifier: Apache-2.0 */
/* Kernel interfaces to memory that are newer than Debian 12's headers (Linux 6.1): userfaultfd features
 * of 6.4 to 6.8, PAGEMAP_SCAN of 6.7, UFFDIO_MOVE of 6.8, memfd flags of 6.3. Layouts and numbers:
 * include/uapi/linux/userfaultfd.h, fs.h, memfd.h and fcntl.h of Linux 6.8. */
#ifndef SARDINE_BASE_UAPI_MM_H
#define SARDINE_BASE_UAPI_MM_H

#include <linux/userfaultfd.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/ioctl.h>

#ifndef UFFD_FEATURE_WP_UNPOPULATED
#define UFFD_FEATURE_WP_UNPOPULATED (1 << 13) /* 6.4 */
#endif
#ifndef UFFD_FEATURE_POISON
#define UFFD_FEATURE_POISON (1 << 14) /* 6.6 */
#endif
#ifndef UFFD_FEATURE_WP_ASYNC
#define UFFD_FEATURE_WP_ASYNC (1 << 15) /* 6.7 */
#endif
#ifndef UFFD_FEATURE_MOVE
#define UFFD_FEATURE_MOVE (1 << 16) /* 6.8 */
#endif

/* struct page_region and struct pm_scan_arg; under names of our own, so that newer headers do not clash. */
struct uapi_page_region {
	uint64_t start;
	uint64_t end;
	uint64_t categories;
};
_Static_assert(sizeof(struct uapi_page_region) == 24, "layout of struct page_region");

struct uapi_pm_scan_arg {
	uint64_t size;
	uint64_t flags;
	uint64_t start;
	uint64_t end;
	uint64_t walk_end; /* out */
	uint64_t vec;	   /* struct uapi_page_region * */
	uint64_t vec_len;
	uint64_t max_pages;
	uint64_t category_inverted;
	uint64_t category_mask;
	uint64_t category_anyof_mask;
	uint64_t return_mask;
};
_Static_assert(sizeof(struct uapi_pm_scan_arg) == 96, "layout of struct pm_scan_arg");
_Static_assert(offsetof(struct uapi_pm_scan_arg, walk_end) == 32, "layout of struct pm_scan_arg");
_Static_assert(offsetof(struct uapi_pm_scan_arg, category_mask) == 72, "layout of struct pm_scan_arg");

#define UAPI_PAGEMAP_SCAN _IOWR('f', 16, struct uapi_pm_scan_arg)
_Static_assert(UAPI_PAGEMAP_SCAN == 0xc0606610, "number of PAGEMAP_SCAN");

#define UAPI_PM_SCAN_WP_MATCHING   (1u << 0)
#define UAPI_PM_SCAN_CHECK_WPASYNC (1u << 1)

#define UAPI_PAGE_IS_WPALLOWED (1u << 0)
#define UAPI_PAGE_IS_WRITTEN   (1u << 1)
#define UAPI_PAGE_IS_FILE      (1u << 2)
#define UAPI_PAGE_IS_PRESENT   (1u << 3)
#define UAPI_PAGE_IS_SWAPPED   (1u << 4)
#define UAPI_PAGE_IS_PFNZERO   (1u << 5)
#define UAPI_PAGE_IS_HUGE      (1u << 6)

/* struct uffdio_move: moves anonymous pages from one place of an address space to another without a copy. */
struct uapi_uffdio_move {
	uint64_t dst;
	uint64_t src;
	uint64_t len;
	uint64_t mode;
	int64_t move; /* out: bytes moved, or a negative errno */
};
_Static_assert(sizeof(struct uapi_uffdio_move) == 40, "layout of struct uffdio_move");
_Static_assert(offsetof(struct uapi_uffdio_move, move) == 32, "layout of struct uffdio_move");

#define UAPI_UFFDIO_MOVE _IOWR(UFFDIO, 0x05, struct uapi_uffdio_move)
_Static_assert(UAPI_UFFDIO_MOVE == 0xc028aa05, "number of UFFDIO_MOVE");

#define UAPI_UFFDIO_MOVE_MODE_DONTWAKE	      (1u << 0)
#define UAPI_UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES (1u << 1)

/* memfd_create() and its seals. */
#define UAPI_MFD_NOEXEC_SEAL 0x0008u /* 6.3: never executable, and sealed so; allows other seals, too */
#define UAPI_F_SEAL_EXEC     0x0020u /* 6.3 */

#define UAPI_MADV_COLLAPSE 25 /* 6.1; Debian 12 has the kernel, not the definition */

#endif
