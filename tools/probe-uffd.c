/* SPDX-License-Identifier: Apache-2.0 */
/* userfaultfd and PAGEMAP_SCAN: which parts of them this kernel grants to this user. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "base/addr.h"
#include "base/fs.h"
#include "base/uapi-mm.h"
#include "tools/host-probe.h"

#define UFFD_DEVICE "/dev/userfaultfd"
#define SCAN_PAGES  4

/* By bit of UFFD_FEATURE_*. */
static const char *const feature_names[] = {
	"pagefault_flag_wp",
	"event_fork",
	"event_remap",
	"event_remove",
	"missing_hugetlbfs",
	"missing_shmem",
	"event_unmap",
	"sigbus",
	"thread_id",
	"minor_hugetlbfs",
	"minor_shmem",
	"exact_address",
	"wp_hugetlbfs_shmem",
	"wp_unpopulated",
	"poison",
	"wp_async",
	"move",
};
_Static_assert(UFFD_FEATURE_WP_HUGETLBFS_SHMEM == 1 << 12, "place in feature_names");
_Static_assert(UFFD_FEATURE_MOVE == 1 << (ARRAY_SIZE(feature_names) - 1), "place in feature_names");

const char *probe_uffd_feature_name(unsigned bit)
{
	return bit < ARRAY_SIZE(feature_names) ? feature_names[bit] : NULL;
}

static int uffd_open(int flags)
{
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | flags);

	return fd < 0 ? -errno : fd;
}

static int uffd_open_device(void)
{
	auto_fd device = open(UFFD_DEVICE, O_RDWR | O_CLOEXEC);
	int fd;

	if (device < 0)
		return -errno;
	fd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
	return fd < 0 ? -errno : fd;
}

/* Asks for no feature, which makes the kernel list those that it has. */
static uint64_t uffd_features(int fd)
{
	struct uffdio_api api = {.api = UFFD_API};

	return ioctl(fd, UFFDIO_API, &api) < 0 ? 0 : api.features;
}

void probe_uffd(struct probe_uffd *ret)
{
	auto_fd full = uffd_open(0);
	auto_fd user = uffd_open(UFFD_USER_MODE_ONLY);
	auto_fd device = uffd_open_device();
	uint64_t sysctl;

	*ret = (struct probe_uffd){
		.syscall = full >= 0, .user_mode_only = user >= 0, .device = device >= 0, .sysctl = -1};
	if (file_read_u64("/proc/sys/vm/unprivileged_userfaultfd", &sysctl) == 0)
		ret->sysctl = (int64_t)sysctl;
	if (full >= 0 || device >= 0 || user >= 0)
		ret->features = uffd_features(full >= 0 ? full : device >= 0 ? device : user);
}

static int scan(int pagemap, const uint8_t *mem, unsigned flags, unsigned category,
		struct uapi_page_region regions[SCAN_PAGES])
{
	struct uapi_pm_scan_arg arg = {
		.size = sizeof(arg),
		.flags = flags,
		.start = (uintptr_t)mem,
		.end = (uintptr_t)mem + SCAN_PAGES * PAGE_BYTES,
		.vec = (uintptr_t)regions,
		.vec_len = SCAN_PAGES,
		.category_mask = category,
		.return_mask = category,
	};
	int r = ioctl(pagemap, UAPI_PAGEMAP_SCAN, &arg);

	return r < 0 ? -errno : r;
}

static bool found_only(int count, const struct uapi_page_region *regions, const uint8_t *page)
{
	return count == 1 && regions[0].start == (uintptr_t)page &&
	       regions[0].end == (uintptr_t)page + PAGE_BYTES;
}

static int watch_writes(const uint8_t *mem, int *ret_fd)
{
	struct uffdio_api api = {
		.api = UFFD_API,
		.features = (uint64_t)UFFD_FEATURE_WP_ASYNC | (uint64_t)UFFD_FEATURE_WP_UNPOPULATED,
	};
	struct uffdio_register reg = {
		.range = {.start = (uintptr_t)mem, .len = SCAN_PAGES * PAGE_BYTES},
		.mode = UFFDIO_REGISTER_MODE_WP,
	};
	auto_fd fd = uffd_open(UFFD_USER_MODE_ONLY);

	if (fd < 0)
		return fd;
	if (ioctl(fd, UFFDIO_API, &api) < 0 || ioctl(fd, UFFDIO_REGISTER, &reg) < 0)
		return -errno;
	*ret_fd = TAKE_FD(fd);
	return 0;
}

/* Touch, protect, write one page: the scan must name that page and no other. */
static int tracks_writes(int pagemap, uint8_t *mem)
{
	struct uapi_page_region regions[SCAN_PAGES];
	auto_fd fd = -1;
	int r = watch_writes(mem, &fd);

	if (r < 0)
		return r;
	memset(mem, 1, SCAN_PAGES * PAGE_BYTES);
	r = scan(pagemap, mem, UAPI_PM_SCAN_WP_MATCHING | UAPI_PM_SCAN_CHECK_WPASYNC, UAPI_PAGE_IS_WRITTEN,
		 regions);
	if (r < 0)
		return r;
	((volatile uint8_t *)mem)[2 * PAGE_BYTES] = 2;
	r = scan(pagemap, mem, 0, UAPI_PAGE_IS_WRITTEN, regions);
	if (r < 0)
		return r;
	return found_only(r, regions, mem + 2 * PAGE_BYTES) ? 0 : -EIO;
}

void probe_pagemap(struct probe_pagemap *ret)
{
	struct uapi_page_region regions[SCAN_PAGES];
	auto_fd pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	uint8_t *mem;
	int r;

	*ret = (struct probe_pagemap){0};
	if (pagemap < 0) {
		errmsg_set(&ret->why, -errno, "/proc/self/pagemap: %s", strerror(errno));
		return;
	}
	mem = mmap(NULL, SCAN_PAGES * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (mem == MAP_FAILED) {
		errmsg_set(&ret->why, -errno, "mmap: %s", strerror(errno));
		return;
	}
	((volatile uint8_t *)mem)[PAGE_BYTES] = 1;
	r = scan(pagemap, mem, 0, UAPI_PAGE_IS_PRESENT, regions);
	ret->scan = r >= 0 && found_only(r, regions, mem + PAGE_BYTES);
	if (r < 0) {
		errmsg_set(&ret->why, r, "PAGEMAP_SCAN: %s (it is in Linux 6.7 and later)", strerror(-r));
	} else {
		r = tracks_writes(pagemap, mem);
		ret->tracks_writes = r == 0;
		if (r < 0)
			errmsg_set(&ret->why, r, "write tracking: %s", strerror(-r));
	}
	munmap(mem, SCAN_PAGES * PAGE_BYTES);
}
