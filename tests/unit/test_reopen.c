/* SPDX-License-Identifier: Apache-2.0 */
/* A file that was moved away is opened anew by its name, and nothing else is. */
#include "base/reopen.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "tests/unit/tempdir.h"
#include "tests/unit/test.h"

struct room {
	struct tempdir dir;
	char path[256];
	char moved[256];
	struct reopen r;
	int fd;
};

static void enter(struct room *m)
{
	*m = (struct room){.dir = tempdir_make(), .r = REOPEN_NONE};
	snprintf(m->path, sizeof(m->path), "%s/a.log", m->dir.path);
	snprintf(m->moved, sizeof(m->moved), "%s/a.log.1", m->dir.path);
	m->fd = open(m->path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	assert_true(m->fd >= 0);
	assert_int_equal(reopen_hold(m->path, &m->r), 0);
}

static void leave(struct room *m)
{
	reopen_done(&m->r);
	close(m->fd);
	tempdir_remove(&m->dir);
}

static void say(struct room *m, const char *text)
{
	assert_int_equal(write(m->fd, text, strlen(text)), strlen(text));
}

static void holds(const char *path, const char *text)
{
	char buf[64] = {0};
	int fd = open(path, O_RDONLY);

	assert_true(fd >= 0);
	assert_true(read(fd, buf, sizeof(buf) - 1) >= 0);
	assert_string_equal(buf, text);
	close(fd);
}

TEST(follows_the_name)
{
	struct room m;
	struct stat st;

	(void)state;
	enter(&m);
	say(&m, "1");
	assert_int_equal(reopen_file(&m.r, m.fd), 0); /* the same file: appended to */
	say(&m, "2");
	assert_int_equal(rename(m.path, m.moved), 0);
	say(&m, "3");
	assert_int_equal(reopen_file(&m.r, m.fd), 0);
	say(&m, "4");
	holds(m.moved, "123");
	holds(m.path, "4");
	assert_int_equal(stat(m.path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	assert_true(fcntl(m.fd, F_GETFD) & FD_CLOEXEC);
	assert_true(fcntl(m.fd, F_GETFL) & O_APPEND);
	/* The folder is held, not looked up. */
	snprintf(m.moved, sizeof(m.moved), "%s.moved", m.dir.path);
	assert_int_equal(rename(m.dir.path, m.moved), 0);
	assert_int_equal(reopen_file(&m.r, m.fd), 0);
	assert_int_equal(rename(m.moved, m.dir.path), 0);
	leave(&m);
}

TEST(refuses_what_others_put_there)
{
	struct room m;

	(void)state;
	enter(&m);
	assert_int_equal(rename(m.path, m.moved), 0);
	assert_int_equal(symlink("a.log.1", m.path), 0);
	assert_int_equal(reopen_file(&m.r, m.fd), -ELOOP);
	assert_int_equal(unlink(m.path), 0);
	assert_int_equal(mkfifo(m.path, 0600), 0);
	assert_int_equal(reopen_file(&m.r, m.fd), -ENXIO);
	assert_int_equal(unlink(m.path), 0);
	assert_int_equal(mkdir(m.path, 0700), 0);
	assert_int_equal(reopen_file(&m.r, m.fd), -EISDIR);
	assert_int_equal(rmdir(m.path), 0);
	say(&m, "still here");
	holds(m.moved, "still here");
	leave(&m);
}

TEST(leaves_other_things_alone)
{
	struct room m;
	int fds[2];

	(void)state;
	enter(&m);
	assert_int_equal(pipe(fds), 0);
	assert_int_equal(reopen_file(&m.r, fds[1]), 0);
	assert_int_equal(write(fds[1], "x", 1), 1);
	assert_int_equal(reopen_file(&REOPEN_NONE, m.fd), 0);
	close(fds[0]);
	close(fds[1]);
	assert_int_equal(reopen_hold("/proc/no/such/folder/x", &m.r), -ENOENT);
	assert_int_equal(reopen_hold("/tmp/", &m.r), -EISDIR);
	leave(&m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(follows_the_name),
		cmocka_unit_test(refuses_what_others_put_there),
		cmocka_unit_test(leaves_other_things_alone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
