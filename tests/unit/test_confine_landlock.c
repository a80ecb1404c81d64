/* SPDX-License-Identifier: Apache-2.0 */
/* What a process can still do under Landlock. Each attempt is made by a child, since there is no way back. */
#include "tools/confine-landlock.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "base/reopen.h"
#include "tests/unit/tempdir.h"
#include "tests/unit/test.h"

struct place {
	struct tempdir dir;
	int logs; /* the folder that is allowed, O_PATH */
	int held; /* a file of the other one, open since before */
};

static struct place place_make(void)
{
	struct place p = {.dir = tempdir_make()};
	const char *logs = tempdir_file(&p.dir, "logs"), *other = tempdir_file(&p.dir, "other");

	assert_int_equal(mkdir(logs, 0700), 0);
	p.held = open(other, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	p.logs = open(logs, O_PATH | O_DIRECTORY | O_CLOEXEC);
	assert_true(p.held >= 0 && p.logs >= 0);
	return p;
}

static void place_remove(struct place *p)
{
	close(p->logs);
	close(p->held);
	tempdir_remove(&p->dir);
}

typedef int (*attempt_fn)(const struct place *p);

/* 0 or a negative errno. */
static int said(long r)
{
	return r < 0 ? -errno : 0;
}

static int under_landlock(const struct place *p, attempt_fn attempt)
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		const int folders[] = {-1, p->logs};
		struct errmsg err;
		int abi_now;

		if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
		    confine_landlock(folders, ARRAY_SIZE(folders), &err, &abi_now) < 0 || !abi_now)
			_exit(255);
		_exit(-attempt(p));
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) != 255);
	return -WEXITSTATUS(status);
}

static long abi(void)
{
	return syscall(SYS_landlock_create_ruleset, NULL, 0, 1 /* LANDLOCK_CREATE_RULESET_VERSION */);
}

static int create_in_folder(const struct place *p)
{
	return said(openat(p->logs, "new", REOPEN_FLAGS, 0600));
}

static int append_in_folder(const struct place *p)
{
	return said(openat(p->logs, "old", REOPEN_FLAGS, 0600));
}

static int read_in_folder(const struct place *p)
{
	return said(openat(p->logs, "old", O_RDONLY));
}

static int remove_in_folder(const struct place *p)
{
	return said(unlinkat(p->logs, "old", 0));
}

static int create_beside(const struct place *p)
{
	return said(openat(p->logs, "../new", REOPEN_FLAGS, 0600));
}

static int append_beside(const struct place *p)
{
	return said(openat(p->logs, "../other", REOPEN_FLAGS, 0600));
}

static int append_by_path(const struct place *p)
{
	return said(open(tempdir_file(&p->dir, "other"), REOPEN_FLAGS, 0600));
}

static int list_root(const struct place *p)
{
	(void)p;
	return said(open("/", O_RDONLY | O_DIRECTORY));
}

static int use_what_is_open(const struct place *p)
{
	char c;

	if (pwrite(p->held, "x", 1, 0) != 1 || pread(p->held, &c, 1, 0) != 1 || c != 'x')
		return -EIO;
	return said(ftruncate(p->held, 0));
}

TEST(files)
{
	struct place p;

	if (abi() < 1)
		TEST_SKIP("this kernel has no Landlock");
	p = place_make();
	close(openat(p.logs, "old", O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
	assert_int_equal(under_landlock(&p, create_in_folder), 0);
	assert_int_equal(under_landlock(&p, append_in_folder), 0);
	assert_int_equal(under_landlock(&p, read_in_folder), -EACCES);
	assert_int_equal(under_landlock(&p, remove_in_folder), -EACCES);
	assert_int_equal(under_landlock(&p, create_beside), -EACCES);
	assert_int_equal(under_landlock(&p, append_beside), -EACCES);
	assert_int_equal(under_landlock(&p, append_by_path), -EACCES);
	assert_int_equal(under_landlock(&p, list_root), -EACCES);
	assert_int_equal(under_landlock(&p, use_what_is_open), 0);
	place_remove(&p);
}

static int connect_tcp(const struct place *p)
{
	const struct sockaddr_in addr = {
		.sin_family = AF_INET, .sin_port = htons(9), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};

	(void)p;
	return said(connect(socket(AF_INET, SOCK_STREAM, 0), (const struct sockaddr *)&addr, sizeof(addr)));
}

TEST(tcp)
{
	struct place p;

	if (abi() < 4)
		TEST_SKIP("Landlock knows no network before Linux 6.7");
	p = place_make();
	assert_int_equal(under_landlock(&p, connect_tcp), -EACCES);
	place_remove(&p);
}

static socklen_t abstract_address(const struct place *p, struct sockaddr_un *ret)
{
	*ret = (struct sockaddr_un){.sun_family = AF_UNIX};
	strcpy(ret->sun_path + 1, p->dir.path);
	return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(p->dir.path));
}

static int connect_abstract(const struct place *p)
{
	struct sockaddr_un addr;
	socklen_t len = abstract_address(p, &addr);

	return said(connect(socket(AF_UNIX, SOCK_STREAM, 0), (const struct sockaddr *)&addr, len));
}

static int signal_parent(const struct place *p)
{
	(void)p;
	return said(kill(getppid(), 0));
}

static int signal_itself(const struct place *p)
{
	(void)p;
	return said(kill(getpid(), 0));
}

TEST(other_processes)
{
	struct sockaddr_un addr;
	struct place p;
	socklen_t len;
	int server;

	if (abi() < 6)
		TEST_SKIP("Landlock knows no signals before Linux 6.12");
	p = place_make();
	len = abstract_address(&p, &addr);
	server = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(server, (const struct sockaddr *)&addr, len), 0);
	assert_int_equal(listen(server, 1), 0);
	assert_int_equal(under_landlock(&p, connect_abstract), -EPERM);
	assert_int_equal(under_landlock(&p, signal_parent), -EPERM);
	assert_int_equal(under_landlock(&p, signal_itself), 0);
	close(server);
	place_remove(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(files),
		cmocka_unit_test(tcp),
		cmocka_unit_test(other_processes),
	};

	return TEST_RUN(tests);
}
