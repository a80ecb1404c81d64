/* SPDX-License-Identifier: Apache-2.0 */
/* Segments of the page store: filled, sealed, checked. */
#include "ksm/segment.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "base/fs.h"
#include "base/uapi-mm.h"
#include "ksm/break.h"

/*
 * Theory of operation
 *
 * Invariant (I3 of the design): no page of a segment that anybody may map into a guest can change, whoever wants it.
 *
 * The kernel holds that, not we: F_SEAL_WRITE refuses every write by whatever way (also to those who opened the file
 * writable before), and cannot be set while a writable shared mapping or a pinned page exists; F_SEAL_SHRINK keeps
 * pages from vanishing (SIGBUS); F_SEAL_GROW makes the size that was checked the size that stays; F_SEAL_SEAL makes
 * all that final. F_SEAL_FUTURE_WRITE would let old writable mappings write on, so it is no substitute. A read-only
 * descriptor is no boundary at all: its owner, and root, reopen it writable through /proc.
 *
 * Until it is sealed a segment is filled by pwrite(), so that there is no writable mapping that could stand in the way
 * of the seal, and its descriptor is not given out by any function here. Those who receive a segment check it again;
 * the check cannot be outdated, since nothing that it asks for can be undone.
 */
#define SEGMENT_SEALS (F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

struct segment {
	int fd;
	uint32_t room;
	uint32_t pages;
	bool sealed;
};

static int memfd_new(void)
{
	int fd = memfd_create("sardine-segment", MFD_CLOEXEC | MFD_ALLOW_SEALING | UAPI_MFD_NOEXEC_SEAL);

	if (fd < 0 && errno == EINVAL) /* before 6.3 */
		fd = memfd_create("sardine-segment", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	return fd < 0 ? -errno : fd;
}

/* @fd: taken on success. */
static int segment_of(int fd, uint32_t pages, struct segment **ret)
{
	struct segment *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	s->room = pages;
	s->fd = fd;
	*ret = s;
	return 0;
}

static int file_new(uint32_t pages, int *ret_fd)
{
	auto_fd fd = -1;

	if (pages == 0 || pages > SEGMENT_PAGES_MAX)
		return -EINVAL;
	fd = memfd_new();
	if (fd < 0)
		return fd;
	if (ftruncate(fd, (off_t)(pages * PAGE_BYTES)) < 0)
		return -errno;
	*ret_fd = TAKE_FD(fd);
	return 0;
}

int segment_new(uint32_t pages, struct segment **ret)
{
	auto_fd fd = -1;
	int r = file_new(pages, &fd);

	if (r == 0)
		r = segment_of(fd, pages, ret);
	if (r == 0)
		(void)TAKE_FD(fd);
	return r;
}

static int collapse(int fd, uint64_t bytes)
{
	uint64_t reserved = bytes + HUGE_PAGE_BYTES;
	uint8_t *room, *at;
	int r = 0;

	room = mmap(NULL, reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (room == MAP_FAILED)
		return -errno;
	at = room + (-(uintptr_t)room & (HUGE_PAGE_BYTES - 1));
	/* Read-only, and gone before the seal. */
	if (mmap(at, bytes, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED ||
	    madvise(at, bytes, UAPI_MADV_COLLAPSE) < 0)
		r = -errno;
	munmap(room, reserved);
	return r;
}

/*
 * One huge page: from a file with a single page the kernel makes it in 0.5 ms, and it takes bytes in half the time then;
 * 512 pages that are filled already cost 1.0 to 1.5 ms more. When there is none to be had small ones do.
 */
static int huge_page_new(int fd)
{
	static const uint8_t page[PAGE_BYTES];
	int r = pwrite_full(fd, page, sizeof(page), 0);

	return r < 0 ? r : collapse(fd, HUGE_PAGE_BYTES);
}

int segment_file_new(uint32_t pages, int *ret_fd)
{
	auto_fd fd = -1;
	int r = file_new(pages, &fd);

	if (r < 0)
		return r;
	/* Pages belong to whose process first touches them. */
	if ((pages != SEGMENT_PAGES || huge_page_new(fd) < 0) &&
	    fallocate(fd, 0, 0, (off_t)(pages * PAGE_BYTES)) < 0)
		return -errno;
	if (fcntl(fd, F_ADD_SEALS, F_SEAL_GROW) < 0)
		return -errno;
	*ret_fd = TAKE_FD(fd);
	return 0;
}

int segment_adopt_file(int fd, uint32_t pages, struct segment **ret)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode) || pages == 0 || pages > SEGMENT_PAGES_MAX ||
	    (uint64_t)st.st_size != pages * PAGE_BYTES)
		return -EINVAL;
	return segment_of(fd, pages, ret);
}

void segment_free(struct segment *s)
{
	if (!s)
		return;
	close_fd_p(&s->fd);
	free(s);
}

int segment_append(struct segment *s, const void *bytes, uint32_t pages, uint32_t *ret_first)
{
	int r;

	if (s->sealed || pages > segment_room(s))
		return -ENOSPC;
	r = pwrite_full(s->fd, bytes, pages * PAGE_BYTES, s->pages * PAGE_BYTES);
	if (r < 0)
		return r;
	*ret_first = s->pages;
	s->pages += pages;
	return 0;
}

uint32_t segment_pages(const struct segment *s)
{
	return s->pages;
}

uint32_t segment_room(const struct segment *s)
{
	return s->room - s->pages;
}

int segment_collapse(struct segment *s)
{
	uint64_t bytes = s->pages * PAGE_BYTES;

	if (s->sealed || bytes == 0 || bytes % HUGE_PAGE_BYTES)
		return -EINVAL;
	return collapse(s->fd, bytes);
}

int segment_seal(struct segment *s, int *ret_fd)
{
	auto_fd fd = -1;

	if (s->sealed || s->pages == 0)
		return -EINVAL;
	s->sealed = true;
	/* No holes: what is not filled is cut off. */
	if (ftruncate(s->fd, (off_t)(s->pages * PAGE_BYTES)) < 0)
		return -errno;
	s->room = s->pages;
	if (!broken(BREAK_NO_SEAL) && fcntl(s->fd, F_ADD_SEALS, SEGMENT_SEALS) < 0)
		return -errno;
	fd = fcntl(s->fd, F_DUPFD_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	*ret_fd = TAKE_FD(fd);
	return 0;
}

int segment_check(int fd, uint32_t *ret_pages, struct errmsg *err)
{
	struct statfs fs;
	struct stat st;
	int seals;

	if (fstat(fd, &st) < 0 || fstatfs(fd, &fs) < 0)
		return errmsg_set(err, -EINVAL, "store segment: %s", strerror(errno));
	if (!S_ISREG(st.st_mode) || fs.f_type != TMPFS_MAGIC)
		return errmsg_set(err, -EINVAL, "store segment: not a memory file in small pages");
	seals = fcntl(fd, F_GET_SEALS);
	if (seals < 0)
		return errmsg_set(err, -EINVAL, "store segment: not a memory file that can be sealed");
	if (!broken(BREAK_NO_CHECK) && (seals & SEGMENT_SEALS) != SEGMENT_SEALS)
		return errmsg_set(err, -EPERM, "store segment: seals %#x are missing; it could be changed",
				  (unsigned)(SEGMENT_SEALS & ~seals));
	if (st.st_size <= 0 || (uint64_t)st.st_size & PAGE_MASK ||
	    (uint64_t)st.st_size > SEGMENT_PAGES_MAX * PAGE_BYTES)
		return errmsg_set(err, -EINVAL, "store segment: %lld bytes; wanted are 1 to %u whole pages",
				  (long long)st.st_size, SEGMENT_PAGES_MAX);
	*ret_pages = (uint32_t)((uint64_t)st.st_size / PAGE_BYTES);
	return 0;
}

int segment_view_init(int fd, struct segment_view *ret, struct errmsg *err)
{
	auto_fd own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	uint32_t pages;
	void *bytes;
	int r;

	if (own < 0)
		return errmsg_set(err, -errno, "store segment: %s", strerror(errno));
	r = segment_check(own, &pages, err);
	if (r < 0)
		return r;
	/* Private: a sealed file cannot be mapped shared before 6.7, and this never writes. */
	bytes = mmap(NULL, pages * PAGE_BYTES, PROT_READ, MAP_PRIVATE | MAP_NORESERVE | MAP_POPULATE, own, 0);
	if (bytes == MAP_FAILED)
		return errmsg_set(err, -errno, "store segment: cannot map it: %s", strerror(errno));
	(void)madvise(bytes, pages * PAGE_BYTES, MADV_DONTDUMP);
	*ret = (struct segment_view){.fd = TAKE_FD(own), .pages = pages, .bytes = bytes};
	return 0;
}

void segment_view_done(struct segment_view *view)
{
	if (view->bytes)
		munmap((void *)(uintptr_t)view->bytes, view->pages * PAGE_BYTES);
	close_fd_p(&view->fd);
	*view = (struct segment_view){.fd = -1};
}

DEFINE_SYSCALLS(segment_syscalls, SYSCALL(memfd_create), SYSCALL(ftruncate), SYSCALL(fallocate),
		SYSCALL(pwrite64), SYSCALL_IF(fcntl, 1, F_DUPFD_CLOEXEC), SYSCALL_IF(fcntl, 1, F_ADD_SEALS),
		SYSCALL_IF(fcntl, 1, F_GET_SEALS), SYSCALL_IF(newfstatat, 3, AT_EMPTY_PATH), SYSCALL(fstatfs),
		SYSCALL_WITHOUT(mmap, 2, PROT_EXEC), SYSCALL(munmap),
		SYSCALL_IF(madvise, 2, UAPI_MADV_COLLAPSE), SYSCALL_IF(madvise, 2, MADV_DONTDUMP));
