/* SPDX-License-Identifier: Apache-2.0 */
/* Kernel interfaces to memory that are newer than Debian 12's headers (Linux 6.1): userfaultfd features
 * of 6.4 to 6.8 and PAGEMAP_SCAN of 6.7. Layouts and numbers: include/uapi/linux/userfaultfd.h and fs.h of
 * Linux 6.8. */
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

#endif
