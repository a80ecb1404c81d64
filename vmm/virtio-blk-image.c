/* SPDX-License-Identifier: Apache-2.0 */
/* A raw disk image: opened, checked and locked. */
/*
 * An image whose size is no multiple of 512 bytes is refused: rounding down would hide the last bytes of what
 * is most likely the wrong file or a cut one, rounding up would write beyond its end.
 *
 * direct=on: the kernel wants offsets, lengths and buffers aligned.
 *
 *   offsets and lengths   their unit is the logical block size that the guest is told, so only a guest that
 *                         ignores it sends others: I/O errors (virtio-blk.c).
 *   buffers               may lie anywhere (virtio 1.2, 2.7.4): the engine copies, a bounded piece at a time.
 *
 * Never by a second descriptor without O_DIRECT: the page cache and asynchronous direct I/O on one file are
 * not coherent. A direct write that cannot drop a cached page next to it, dirty meanwhile, is reported as a
 * lost write, and fdatasync fails.
 */
#include "vmm/virtio-blk-image.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include "base/addr.h"

/* The physical block of an image in a file. */
#define FILE_BLOCK_BYTES 4096

/* When the kernel does not tell: the page, which suits every disk. */
#define DIRECT_ALIGN_DEFAULT 4096u

/* statx's answer on direct I/O (STATX_DIOALIGN, linux/stat.h since 6.1); glibc's struct statx has spare room
 * there. */
#define STATX_DIO_MASK	 0x2000u
#define STATX_DIO_OFFSET 152
struct statx_dio {
	uint32_t mem_align;
	uint32_t offset_align;
};
_Static_assert(sizeof(struct statx) >= STATX_DIO_OFFSET + sizeof(struct statx_dio), "statx(2)");

static int open_image(const char *path, bool read_only, struct errmsg *err)
{
	/* Non-blocking so that a FIFO does not hang here; taken off again once we know what it is. */
	int fd = open(path, (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	int r = fd < 0 ? -errno : 0;

	if (r == 0)
		return fd;
	if (r == -EISDIR)
		return errmsg_set(err, -EINVAL, "--disk %s: a directory; give a raw image or a block device",
				  path);
	if (r == -EROFS || ((r == -EACCES || r == -EPERM) && !read_only))
		return errmsg_set(err, r,
				  "--disk %s: cannot open for writing: %s; give write permission or add ,ro",
				  path, strerror(-r));
	return errmsg_set(err, r, "--disk %s: cannot open: %s; check the path", path, strerror(-r));
}

static int set_flags(int fd, bool read_only, bool direct)
{
	int flags = read_only ? O_RDONLY : O_RDWR;

	return fcntl(fd, F_SETFL, flags | (direct ? O_DIRECT : 0)) < 0 ? -errno : 0;
}

static int lock_image(int fd, const char *path, bool read_only, struct errmsg *err)
{
	struct flock lock = {.l_type = read_only ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET};

	if (fcntl(fd, F_OFD_SETLK, &lock) == 0)
		return 0;
	if (errno == EAGAIN || errno == EACCES)
		return errmsg_set(
			err, -EBUSY, "--disk %s: in use %s; stop the other user, or have all users add ,ro",
			path,
			read_only ? "for writing by another VM or program" : "by another VM or program");
	return errmsg_set(err, -errno, "--disk %s: cannot lock: %s", path, strerror(errno));
}

static const char *file_kind(mode_t mode)
{
	if (S_ISDIR(mode))
		return "a directory";
	if (S_ISFIFO(mode))
		return "a FIFO";
	return "neither a regular file nor a block device";
}

/* What it is, and how large. */
static int measure(int fd, const char *path, struct blk_image *image, struct errmsg *err)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return errmsg_set(err, -errno, "--disk %s: cannot stat: %s", path, strerror(errno));
	if (S_ISREG(st.st_mode)) {
		image->bytes = (uint64_t)st.st_size;
		image->logical_bytes = BLK_SECTOR_BYTES;
		/* What network and copy-on-write file systems like even better is no property of a disk. */
		image->physical_bytes =
			st.st_blksize >= FILE_BLOCK_BYTES ? FILE_BLOCK_BYTES : BLK_SECTOR_BYTES;
	} else if (S_ISBLK(st.st_mode)) {
		unsigned physical = 0;
		int logical = 0;

		if (ioctl(fd, BLKGETSIZE64, &image->bytes) < 0 || ioctl(fd, BLKSSZGET, &logical) < 0 ||
		    ioctl(fd, BLKPBSZGET, &physical) < 0)
			return errmsg_set(err, -errno, "--disk %s: cannot measure: %s", path,
					  strerror(errno));
		image->logical_bytes = (uint32_t)logical;
		image->physical_bytes = physical;
	} else {
		return errmsg_set(err, -EINVAL, "--disk %s: %s; give a raw image or a block device", path,
				  file_kind(st.st_mode));
	}
	if (image->bytes == 0)
		return errmsg_set(err, -EINVAL, "--disk %s: empty; make an image of the wanted size first",
				  path);
	if (image->bytes % BLK_SECTOR_BYTES)
		return errmsg_set(err, -EINVAL,
				  "--disk %s: %llu bytes are no multiple of 512; is it a raw image? pad it "
				  "with truncate -s %%512",
				  path, (unsigned long long)image->bytes);
	return 0;
}

static bool is_power_of_two(uint32_t n)
{
	return n && !(n & (n - 1));
}

static int measure_direct(int fd, const char *path, struct blk_image *image, struct errmsg *err)
{
	struct statx sx;
	struct statx_dio dio = {0};

	image->memory_align = DIRECT_ALIGN_DEFAULT;
	image->offset_align = DIRECT_ALIGN_DEFAULT;
	memset(&sx, 0, sizeof(sx));
	if (statx(fd, "", AT_EMPTY_PATH, STATX_DIO_MASK, &sx) == 0 && (sx.stx_mask & STATX_DIO_MASK))
		memcpy(&dio, (const char *)&sx + STATX_DIO_OFFSET, sizeof(dio));
	if (is_power_of_two(dio.mem_align) && is_power_of_two(dio.offset_align)) {
		image->memory_align = dio.mem_align;
		image->offset_align = dio.offset_align;
	}
	if (image->memory_align > BLK_ALIGN_MAX || image->offset_align > BLK_ALIGN_MAX)
		return errmsg_set(err, -ENOTSUP,
				  "--disk %s: O_DIRECT takes units of %u bytes here, at most %u are "
				  "supported; use direct=off",
				  path,
				  image->offset_align > image->memory_align ? image->offset_align
									    : image->memory_align,
				  BLK_ALIGN_MAX);
	if (image->bytes % image->offset_align)
		return errmsg_set(err, -EINVAL,
				  "--disk %s: %llu bytes are no multiple of %u, which O_DIRECT needs; pad it "
				  "with truncate -s %%%u, or use direct=off",
				  path, (unsigned long long)image->bytes, image->offset_align,
				  image->offset_align);
	if (image->logical_bytes < image->offset_align)
		image->logical_bytes = image->offset_align;
	if (image->physical_bytes < image->logical_bytes)
		image->physical_bytes = image->logical_bytes;
	return 0;
}

int blk_image_open(const char *path, bool read_only, bool direct, struct errmsg *err, struct blk_image *ret)
{
	cleanup(blk_image_close) struct blk_image image = {
		.fd = -1, .read_only = read_only, .direct = direct};
	int r;

	image.fd = open_image(path, read_only, err);
	if (image.fd < 0)
		return image.fd;
	r = measure(image.fd, path, &image, err);
	if (r < 0)
		return r;
	r = lock_image(image.fd, path, read_only, err);
	if (r < 0)
		return r;
	if (direct) {
		r = measure_direct(image.fd, path, &image, err);
		if (r < 0)
			return r;
	}
	r = set_flags(image.fd, read_only, direct);
	if (r == -EINVAL && direct)
		return errmsg_set(err, -EINVAL, "--disk %s: its file system has no O_DIRECT; use direct=off",
				  path);
	if (r < 0)
		return errmsg_set(err, r, "--disk %s: cannot set flags: %s", path, strerror(-r));
	*ret = image;
	image.fd = -1;
	return 0;
}

void blk_image_close(struct blk_image *image)
{
	close_fd_p(&image->fd);
	image->fd = -1;
}

bool blk_image_takes_range(const struct blk_image *image, uint64_t offset, uint64_t bytes)
{
	return !image->direct || !((offset | bytes) & (image->offset_align - 1));
}

bool blk_image_takes_buffers(const struct blk_image *image, const struct iovec *iov, unsigned count)
{
	if (!image->direct)
		return true;
	for (unsigned i = 0; i < count; i++) {
		if ((uintptr_t)iov[i].iov_base & (image->memory_align - 1) ||
		    iov[i].iov_len & (image->offset_align - 1))
			return false;
	}
	return true;
}
