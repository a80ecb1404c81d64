/* SPDX-License-Identifier: Apache-2.0 */
/* The runtime directory: a name is in use exactly while its VMM lives, and the dead leave nothing behind. */
#include "vmm/rundir.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "tests/unit/tempdir.h"
#include "tests/unit/test.h"

static struct rundir open_in(const struct tempdir *dir)
{
	struct rundir run = RUNDIR_NONE;
	struct errmsg err = {0};

	setenv("SARDINE_RUNTIME_DIR", tempdir_file(dir, "sardine"), 1);
	assert_int_equal(rundir_open(true, &err, &run), 0);
	return run;
}

static bool exists(const struct tempdir *dir, const char *name)
{
	struct stat st;

	return lstat(tempdir_file(dir, name), &st) == 0;
}

TEST(names)
{
	static const struct {
		const char *name;
		bool valid;
	} rows[] = {
		{"web1", true},
		{"a", true},
		{"1", true},
		{"a.b-c_d", true},
		{"", false},
		{".", false},
		{"..", false},
		{".a", false},
		{"-a", false},
		{"_a", false},
		{"a/b", false},
		{"/", false},
		{"a b", false},
		{"a\nb", false},
		{"\xc3\xa4", false},
		{"a\xc3", false},
		{"0123456789012345678901234567890123456789012345678901234567890123", false}, /* 64 */
		{"012345678901234567890123456789012345678901234567890123456789012", true},   /* 63 */
	};

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		assert_int_equal(rundir_name_valid(rows[i].name), rows[i].valid);
}

TEST(directory_is_private)
{
	struct tempdir dir = tempdir_make();
	struct rundir run = open_in(&dir);
	struct errmsg err = {0};
	struct stat st;

	assert_int_equal(stat(run.path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0700);
	rundir_close(&run);
	assert_int_equal(chmod(tempdir_file(&dir, "sardine"), 0750), 0);
	assert_int_equal(rundir_open(true, &err, &run), -EPERM);
	assert_non_null(strstr(err.text, "chmod 700"));
	if (geteuid() == 0) {
		err = (struct errmsg){0};
		assert_int_equal(chown(tempdir_file(&dir, "sardine"), 12345, 0), 0);
		assert_int_equal(rundir_open(true, &err, &run), -EPERM);
		assert_non_null(strstr(err.text, "uid 12345"));
	}
	tempdir_remove(&dir);
}

TEST(directory_that_cannot_be)
{
	struct tempdir dir = tempdir_make();
	struct rundir run;
	struct errmsg err = {0};
	int fd;

	setenv("SARDINE_RUNTIME_DIR", tempdir_file(&dir, "missing/sardine"), 1);
	assert_int_equal(rundir_open(true, &err, &run), -ENOENT);
	assert_non_null(strstr(err.text, "SARDINE_RUNTIME_DIR"));
	setenv("SARDINE_RUNTIME_DIR", tempdir_file(&dir, "sardine"), 1);
	assert_int_equal(rundir_open(false, NULL, &run), -ENOENT);
	fd = open(tempdir_file(&dir, "sardine"), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	close(fd);
	assert_int_equal(rundir_open(true, NULL, &run), -ENOTDIR);
	/* procfs stands for a file system on which nothing can be created, for root too. */
	err = (struct errmsg){0};
	setenv("SARDINE_RUNTIME_DIR", "/proc/self/sardine", 1);
	assert_true(rundir_open(true, &err, &run) < 0);
	assert_non_null(strstr(err.text, "cannot create it"));
	err = (struct errmsg){0};
	setenv("SARDINE_RUNTIME_DIR", "relative", 1);
	assert_int_equal(rundir_open(true, &err, &run), -EINVAL);
	assert_non_null(strstr(err.text, "SARDINE_RUNTIME_DIR=relative"));
	tempdir_remove(&dir);
}

TEST(directory_by_user_and_environment)
{
	static const struct {
		uid_t uid;
		const char *own, *xdg, *path; /* NULL: -EINVAL */
	} rows[] = {
		{1000, NULL, "/run/user/1000", "/run/user/1000/sardine"},
		{1000, "", "/run/user/1000", "/run/user/1000/sardine"},
		{1000, NULL, NULL, "/run/sardine"},
		/* The XDG specification: a relative path is as good as none. */
		{1000, NULL, "relative", "/run/sardine"},
		{1000, NULL, "", "/run/sardine"},
		{1000, "/own", "/run/user/1000", "/own"},
		{1000, "own", "/run/user/1000", NULL},
		/* Root's login has an XDG_RUNTIME_DIR, its services have none: they see the same VMs. */
		{0, NULL, "/run/user/0", "/run/sardine"},
		{0, "", "/run/user/0", "/run/sardine"},
		{0, NULL, NULL, "/run/sardine"},
		{0, "/own", "/run/user/0", "/own"},
		{0, "own", NULL, NULL},
	};

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		auto_free char *path = NULL;
		int r = rundir_where(rows[i].uid, rows[i].own, rows[i].xdg, &path);

		assert_int_equal(r, rows[i].path ? 0 : -EINVAL);
		if (rows[i].path)
			assert_string_equal(path, rows[i].path);
		else
			assert_null(path);
	}
}

TEST(name_is_held_once)
{
	struct tempdir dir = tempdir_make();
	struct rundir run = open_in(&dir);
	struct rundir_name *a, *b, *c;
	struct rundir_entry entry;
	struct errmsg err = {0};
	char pid[32];

	assert_int_equal(rundir_claim(&run, "a", &err, &a), 0);
	assert_int_equal(rundir_claim(&run, "a", &err, &b), -EBUSY);
	snprintf(pid, sizeof(pid), "process %d;", getpid());
	assert_non_null(strstr(err.text, pid));
	assert_int_equal(rundir_claim(&run, "c", NULL, &c), 0);
	assert_int_equal(rundir_claim(&run, "a/b", NULL, &b), -EINVAL);
	assert_int_equal(rundir_claim(&run, "sardined", NULL, &b), -EINVAL);
	assert_int_equal(rundir_find(&run, "a", &entry), 0);
	assert_int_equal(entry.pid, getpid());
	assert_int_equal(rundir_find(&run, "b", &entry), -ENOENT);
	rundir_release(a);
	assert_false(exists(&dir, "sardine/a.lock"));
	assert_int_equal(rundir_claim(&run, "a", NULL, &a), 0);
	rundir_release(a);
	rundir_release(c);
	rundir_close(&run);
	tempdir_remove(&dir);
}

TEST(lists_the_living_by_name)
{
	struct tempdir dir = tempdir_make();
	struct rundir run = open_in(&dir);
	struct rundir_name *a, *b;
	auto_free struct rundir_entry *entries = NULL;
	size_t count = 99;
	int fd;

	assert_int_equal(rundir_claim(&run, "b", NULL, &b), 0);
	assert_int_equal(rundir_claim(&run, "a", NULL, &a), 0);
	/* Neither a stale lock, nor other files, nor a name that cannot be. */
	fd = openat(run.fd, "dead.lock", O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	close(fd);
	fd = openat(run.fd, "-.lock", O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	close(fd);
	fd = openat(run.fd, "a.log", O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	close(fd);
	assert_int_equal(rundir_list(&run, &entries, &count), 0);
	assert_int_equal(count, 2);
	assert_string_equal(entries[0].name, "a");
	assert_string_equal(entries[1].name, "b");
	rundir_release(a);
	rundir_release(b);
	rundir_close(&run);
	tempdir_remove(&dir);
}

/* A VMM that is killed with its name and socket: both are there after it. */
static void leave_dead(const struct rundir *run, const char *name)
{
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		struct rundir_name *held;
		struct unix_listener l;
		char *path = rundir_file(run, name, "sock");

		if (rundir_claim(run, name, NULL, &held) < 0 || unix_listen(path, "x", NULL, &l) < 0)
			_exit(1);
		kill(getpid(), SIGKILL);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status));
}

/* The same without a claim, which would clean up after others. */
static void fake_dead(const struct rundir *run, const char *name)
{
	auto_free char *lock = rundir_file(run, name, "lock");
	auto_free char *sock = rundir_file(run, name, "sock");
	auto_fd fd = open(lock, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	struct unix_listener l;

	assert_true(fd >= 0);
	assert_int_equal(unix_listen(sock, "x", NULL, &l), 0);
	close(l.fd);
	free(l.path);
}

TEST(the_dead_are_recognised_and_cleaned)
{
	struct tempdir dir = tempdir_make();
	struct rundir run = open_in(&dir);
	struct rundir_entry entry;
	struct rundir_name *a;
	struct errmsg err = {0};
	int fd;

	leave_dead(&run, "a");
	assert_true(exists(&dir, "sardine/a.sock"));
	assert_int_equal(rundir_find(&run, "a", &entry), -ENOENT);
	assert_int_equal(rundir_connect(&run, "a", &err, &fd), -ENOENT);
	assert_non_null(strstr(err.text, "no VM of this name"));
	fake_dead(&run, "b");
	assert_int_equal(rundir_claim(&run, "a", NULL, &a), 0);
	assert_false(exists(&dir, "sardine/a.sock"));
	assert_false(exists(&dir, "sardine/b.sock")); /* of others too */
	assert_false(exists(&dir, "sardine/b.lock"));
	fake_dead(&run, "b");
	assert_int_equal(rundir_clean(&run), 1); /* and not the living a */
	assert_true(exists(&dir, "sardine/a.lock"));
	assert_false(exists(&dir, "sardine/b.lock"));
	assert_false(exists(&dir, "sardine/b.sock"));
	rundir_release(a);
	rundir_close(&run);
	tempdir_remove(&dir);
}

TEST(a_name_goes_with_a_fork)
{
	struct tempdir dir = tempdir_make();
	struct rundir run = open_in(&dir);
	struct rundir_name *a, *b;
	struct rundir_entry entry;
	int go[2], ready[2], status;
	char c;
	pid_t pid;

	assert_int_equal(pipe2(go, O_CLOEXEC), 0);
	assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
	assert_int_equal(rundir_claim(&run, "a", NULL, &a), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		close(go[1]);
		if (rundir_name_set_pid(a) < 0 || write(ready[1], "x", 1) != 1)
			_exit(1);
		(void)!read(go[0], &c, 1); /* until the parent closes */
		rundir_release(a);
		_exit(0);
	}
	rundir_name_forget(a);
	assert_int_equal(read(ready[0], &c, 1), 1);
	assert_int_equal(rundir_claim(&run, "a", NULL, &b), -EBUSY);
	assert_int_equal(rundir_find(&run, "a", &entry), 0);
	assert_int_equal(entry.pid, pid);
	close(go[1]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(rundir_find(&run, "a", &entry), -ENOENT);
	close(go[0]);
	close(ready[0]);
	close(ready[1]);
	rundir_close(&run);
	tempdir_remove(&dir);
}

/* Many at once for one name: one gets it, each time. */
TEST(claims_race)
{
	enum { RACERS = 8, ROUNDS = 10 };
	struct tempdir dir = tempdir_make();
	struct rundir run = open_in(&dir);

	for (unsigned round = 0; round < ROUNDS; round++) {
		int go[2], done[2], winners = 0;
		pid_t pids[RACERS];

		if (round % 2)
			leave_dead(&run, "a");
		assert_int_equal(pipe(go), 0);
		assert_int_equal(pipe(done), 0);
		for (unsigned i = 0; i < RACERS; i++) {
			pids[i] = fork();
			assert_true(pids[i] >= 0);
			if (pids[i] == 0) {
				struct rundir_name *held;
				char c = 'l';

				close(go[1]);
				rundir_clean(&run);
				if (rundir_claim(&run, "a", NULL, &held) == 0)
					c = 'w';
				(void)!write(done[1], &c, 1);
				(void)!read(go[0], &c, 1);
				_exit(0);
			}
		}
		for (unsigned i = 0; i < RACERS; i++) {
			char c;

			assert_int_equal(read(done[0], &c, 1), 1);
			winners += c == 'w';
		}
		close(go[1]);
		for (unsigned i = 0; i < RACERS; i++)
			waitpid(pids[i], NULL, 0);
		close(go[0]);
		close(done[0]);
		close(done[1]);
		assert_int_equal(winners, 1);
	}
	rundir_close(&run);
	tempdir_remove(&dir);
}

/* Holders that come and go at once: never two at a time, though each removes the lock file that others may
 * have open. */
TEST(holders_exclude_each_other)
{
	enum { RACERS = 4, ROUNDS = 300 };
	struct tempdir dir = tempdir_make();
	struct rundir run = open_in(&dir);
	int status;

	for (unsigned i = 0; i < RACERS; i++) {
		pid_t pid = fork();

		assert_true(pid >= 0);
		if (pid > 0)
			continue;
		for (unsigned round = 0; round < ROUNDS; round++) {
			struct rundir_name *held;
			int fd;

			if (rundir_claim(&run, "a", NULL, &held) < 0)
				continue;
			fd = openat(run.fd, "owner", O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
			if (fd < 0 || close(fd) < 0 || unlinkat(run.fd, "owner", 0) < 0)
				_exit(1);
			rundir_release(held);
		}
		_exit(0);
	}
	for (unsigned i = 0; i < RACERS; i++) {
		assert_true(wait(&status) > 0);
		assert_int_equal(status, 0);
	}
	rundir_close(&run);
	tempdir_remove(&dir);
}

TEST(long_paths_work)
{
	struct tempdir dir = tempdir_make();
	char path[300];
	struct unix_listener l;
	struct errmsg err = {0};
	int fd;

	snprintf(path, sizeof(path), "%s/%0100d", dir.path, 1);
	assert_int_equal(mkdir(path, 0700), 0);
	strcat(path, "/s.sock");
	assert_int_equal(unix_listen(path, "x", &err, &l), 0);
	assert_int_equal(unix_connect(path, &fd), 0);
	close(fd);
	unix_listener_close(&l);
	assert_int_equal(unix_connect(path, &fd), -ENOENT);
	tempdir_remove(&dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names),
		cmocka_unit_test(directory_is_private),
		cmocka_unit_test(directory_that_cannot_be),
		cmocka_unit_test(directory_by_user_and_environment),
		cmocka_unit_test(name_is_held_once),
		cmocka_unit_test(lists_the_living_by_name),
		cmocka_unit_test(the_dead_are_recognised_and_cleaned),
		cmocka_unit_test(a_name_goes_with_a_fork),
		cmocka_unit_test(claims_race),
		cmocka_unit_test(holders_exclude_each_other),
		cmocka_unit_test(long_paths_work),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
