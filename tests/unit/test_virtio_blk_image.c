/* SPDX-License-Identifier: Apache-2.0 */
/* Opening a disk image: what is no image is refused with one clear line, and locks keep writers apart. */
#include "vmm/virtio-blk-image.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/unit/test.h"

struct fixture {
	char dir[64];
	char path[96];
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	*state = f;
	snprintf(f->dir, sizeof(f->dir), "test-image-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->path, sizeof(f->path), "%s/x.img", f->dir);
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	unlink(f->path);
	rmdir(f->path);
	rmdir(f->dir);
	free(f);
	return 0;
}

static void make_file(struct fixture *f, off_t size)
{
	auto_fd fd = open(f->path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, size), 0);
}

/* Refused with this errno, the file's name and a word in the message; and nothing is left open. */
static void refused(const char *path, bool read_only, bool direct, int error, const char *word)
{
	struct errmsg err = {0};
	struct blk_image image = {.fd = -77};
	int before = dup(0), after, r;

	close(before);
	r = blk_image_open(path, read_only, direct, &err, &image);
	if (r != error || !strstr(err.text, path) || !strstr(err.text, word) || strchr(err.text, '\n'))
		fail_msg("%s: %d, \"%s\", wanted %d, \"%s\"", path, r, err.text, error, word);
	assert_int_equal(image.fd, -77);
	after = dup(0);
	close(after);
	assert_int_equal(before, after);
}

static void files_that_are_no_images(void **state)
{
	struct fixture *f = *state;

	for (unsigned read_only = 0; read_only < 2; read_only++) {
		refused(f->path, read_only, false, -ENOENT, "No such file");
		refused("/dev/null", read_only, false, -EINVAL, "neither");
		make_file(f, 0);
		refused(f->path, read_only, false, -EINVAL, "empty");
		make_file(f, 513);
		refused(f->path, read_only, false, -EINVAL, "513 bytes");
		unlink(f->path);
		assert_int_equal(mkfifo(f->path, 0600), 0);
		refused(f->path, read_only, false, -EINVAL, "FIFO"); /* and does not hang */
		unlink(f->path);
		assert_int_equal(mkdir(f->path, 0700), 0);
		refused(f->path, read_only, false, -EINVAL, "directory");
		rmdir(f->path);
		assert_int_equal(symlink("x.img", f->path), 0);
		refused(f->path, read_only, false, -ELOOP, "cannot open");
		unlink(f->path);
	}
	refused("/proc/version", false, false, geteuid() ? -EACCES : -EINVAL, geteuid() ? ",ro" : "empty");
}

static void opened(const char *path, bool read_only, bool direct, struct blk_image *image)
{
	struct errmsg err = {0};

	if (blk_image_open(path, read_only, direct, &err, image) < 0)
		fail_msg("%s", err.text);
}

static void locks(void **state)
{
	struct fixture *f = *state;
	struct blk_image a, b;

	make_file(f, 4096);
	opened(f->path, false, false, &a);
	assert_int_equal(a.bytes, 4096);
	refused(f->path, false, false, -EBUSY, "in use");
	refused(f->path, true, false, -EBUSY, "in use for writing");
	blk_image_close(&a);
	opened(f->path, true, false, &a);
	opened(f->path, true, false, &b);
	refused(f->path, false, false, -EBUSY, "in use");
	blk_image_close(&a);
	refused(f->path, false, false, -EBUSY, "in use");
	blk_image_close(&b);
	opened(f->path, false, false, &a);
	blk_image_close(&a);
	blk_image_close(&a); /* twice is harmless */
}

/* The lock covers the file by whichever name, and with direct=on too. */
static void locks_by_other_names(void **state)
{
	struct fixture *f = *state;
	struct blk_image a;
	char other[128];

	make_file(f, 4096);
	snprintf(other, sizeof(other), "%s/y.img", f->dir);
	assert_int_equal(link(f->path, other), 0);
	opened(f->path, false, true, &a);
	refused(other, false, false, -EBUSY, "in use");
	blk_image_close(&a);
	unlink(other);
}

static void flags(void **state)
{
	struct fixture *f = *state;
	struct blk_image a;

	make_file(f, 1 << 20);
	opened(f->path, true, false, &a);
	assert_int_equal(fcntl(a.fd, F_GETFL) & (O_ACCMODE | O_NONBLOCK | O_DIRECT), O_RDONLY);
	assert_int_equal(fcntl(a.fd, F_GETFD), FD_CLOEXEC);
	blk_image_close(&a);
	opened(f->path, false, true, &a);
	assert_int_equal(fcntl(a.fd, F_GETFL) & (O_ACCMODE | O_NONBLOCK | O_DIRECT), O_RDWR | O_DIRECT);
	/* The guest is told of sectors that O_DIRECT takes. */
	assert_true(blk_image_takes_range(&a, a.logical_bytes, a.logical_bytes));
	assert_true(a.physical_bytes >= a.logical_bytes);
	blk_image_close(&a);
}

static void alignment(void **state)
{
	static char buf[8192] __attribute__((aligned(4096)));
	const struct blk_image direct = {.fd = 1, .direct = true, .memory_align = 4, .offset_align = 512};
	const struct blk_image plain = {.fd = 1};
	struct iovec iov[] = {{buf, 4096}, {buf + 4096, 512}};

	(void)state;
	assert_true(blk_image_takes_range(&direct, 1024, 512));
	assert_false(blk_image_takes_range(&direct, 1025, 512));
	assert_false(blk_image_takes_range(&direct, 1024, 511));
	assert_true(blk_image_takes_range(&plain, 1025, 511));
	assert_true(blk_image_takes_buffers(&direct, iov, 2));
	iov[0].iov_base = buf + 4;
	assert_true(blk_image_takes_buffers(&direct, iov, 2));
	iov[0].iov_base = buf + 2;
	assert_false(blk_image_takes_buffers(&direct, iov, 2));
	assert_true(blk_image_takes_buffers(&plain, iov, 2));
	iov[0].iov_base = buf;
	iov[1].iov_len = 511;
	assert_false(blk_image_takes_buffers(&direct, iov, 2));
}

/* Nothing of the last bytes may be out of the guest's reach. */
static void direct_size(void **state)
{
	struct fixture *f = *state;
	struct blk_image a;

	make_file(f, 8192);
	opened(f->path, false, true, &a);
	blk_image_close(&a);
	make_file(f, 8192 + 512);
	if (a.offset_align > 512)
		refused(f->path, false, true, -EINVAL, "direct=off");
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(files_that_are_no_images), T(locks), T(locks_by_other_names), T(flags), T(direct_size),
		cmocka_unit_test(alignment),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
