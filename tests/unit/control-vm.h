/* SPDX-License-Identifier: Apache-2.0 */
/* A control socket on a loop's thread with a VM behind it that counts what it is asked, and its clients. */
#ifndef SARDINE_TESTS_UNIT_CONTROL_VM_H
#define SARDINE_TESTS_UNIT_CONTROL_VM_H

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "base/fs.h"
#include "tests/unit/fake-vm.h"
#include "tests/unit/loop-thread.h"
#include "tests/unit/tempdir.h"
#include "tests/unit/test.h"
#include "vmm/control-internal.h"

struct fixture {
	struct tempdir dir;
	struct loop_thread t;
	struct control *control;
	struct fake_vm vm;
	char path[256];
};

static inline void fixture_start(struct fixture *f)
{
	struct errmsg err = {0};

	*f = (struct fixture){.dir = tempdir_make()};
	snprintf(f->path, sizeof(f->path), "%s/a.sock", f->dir.path);
	assert_int_equal(io_loop_new(&f->t.loop), 0);
	assert_int_equal(control_new(f->t.loop, f->path, "web1", &fake_ops, &f->vm, &err, &f->control), 0);
	loop_thread_start(&f->t);
}

static inline void fixture_stop(struct fixture *f)
{
	struct stat st;

	loop_thread_stop(&f->t);
	control_free(f->control);
	io_loop_free(f->t.loop);
	assert_int_equal(lstat(f->path, &st), -1); /* the socket is removed */
	tempdir_remove(&f->dir);
}

/* One line; "" at the end of the stream or the deadline. */
static inline const char *get_line(int fd)
{
	static char buf[CONTROL_OUTPUT_MAX + 4096];
	size_t len = 0;

	while (len < sizeof(buf) - 1 && test_read(fd, buf + len, 1) == 1)
		if (buf[len++] == '\n')
			break;
	buf[len] = '\0';
	return buf;
}

static inline int join(struct fixture *f)
{
	int fd;

	assert_int_equal(unix_connect(f->path, &fd), 0);
	assert_non_null(strstr(get_line(fd), "\"protocol\""));
	return fd;
}

static inline void send_text(int fd, const char *text)
{
	assert_int_equal(write_full(fd, text, strlen(text)), 0);
}

#endif
