/* SPDX-License-Identifier: Apache-2.0 */
/* What a benchmark changes on the host, put back also when it is killed. */
#include "tools/bench-guard.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include "base/clock.h"
#include "base/fs.h"
#include "base/signals.h"

/*
 * Theory of operation
 *
 * The guard is a child that waits for the end of a pipe whose other end the benchmark alone holds: it sees the end however the
 * benchmark dies. In the orderly case the benchmark closes the pipe and waits for the guard, so that there is one way to
 * put things back. The guard leads a session of its own and blocks signals: Ctrl-C and the death of a terminal are the
 * benchmark's business.
 *
 * The state file says the same in words, for the case that both are killed (the machine's OOM killer, kill -9 on the group). The
 * guard holds its lock; whoever gets the lock knows that nobody is left who would do the work. After a reboot the file is
 * gone with /run, as the settings are.
 */
#define STATE_MAX      16384
#define CGROUP_WAIT_NS 10000000000u /* processes that were killed leave their group a moment later */

const char *const bench_ksm_files[BENCH_KSM_SETTINGS] = {
	"pages_to_scan", "sleep_millisecs", "smart_scan", "use_zero_pages", "advisor_mode", "run",
};

struct bench_guard {
	int pipe_fd;
	pid_t pid;
};

static int write_file(const char *root, const char *name, const char *value)
{
	char path[PATH_MAX];
	auto_fd fd = -1;

	if (snprintf(path, sizeof(path), "%s/%s", root, name) >= (int)sizeof(path))
		return -ENAMETOOLONG;
	fd = open(path, O_WRONLY | O_CLOEXEC | O_TRUNC);
	if (fd < 0)
		return -errno;
	return write_full(fd, value, strlen(value));
}

int bench_ksm_read(const char *root, struct bench_ksm *ret)
{
	struct bench_ksm ksm = {0};

	for (unsigned i = 0; i < BENCH_KSM_SETTINGS; i++) {
		char path[PATH_MAX];
		auto_free char *text = NULL;
		int r;

		if (snprintf(path, sizeof(path), "%s/%s", root, bench_ksm_files[i]) >= (int)sizeof(path))
			return -ENAMETOOLONG;
		if (strcmp(bench_ksm_files[i], "advisor_mode") == 0) {
			r = file_read_choice(path, ksm.value[i], sizeof(ksm.value[i]));
		} else {
			r = file_read_text(path, sizeof(ksm.value[i]) - 1, &text);
			if (r == 0)
				snprintf(ksm.value[i], sizeof(ksm.value[i]), "%.*s", (int)strcspn(text, "\n"),
					 text);
		}
		if (r == -ENOENT && i != BENCH_KSM_RUN)
			continue; /* an older kernel */
		if (r < 0)
			return r;
	}
	*ret = ksm;
	return 0;
}

int bench_ksm_write(const char *root, const struct bench_ksm *settings)
{
	int r = 0;

	/* Whatever it is now: the advisor owns some of them. */
	(void)!write_file(root, "advisor_mode", "none");
	for (unsigned i = 0; i < BENCH_KSM_SETTINGS; i++) {
		const char *value = settings->value[i];
		int e;

		if (!value[0])
			continue;
		e = write_file(root, bench_ksm_files[i], i == BENCH_KSM_RUN && value[0] == '2' ? "0" : value);
		if (r == 0)
			r = e;
	}
	return r;
}

static int remove_cgroup(const char *path)
{
	uint64_t end = clock_now_ns() + CGROUP_WAIT_NS;

	while (rmdir(path) < 0) {
		if (errno == ENOENT)
			return 0;
		if (errno != EBUSY || clock_now_ns() > end)
			return -errno;
		nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
	}
	return 0;
}

/* A folder of ours, without folders in it. */
static int remove_folder(const char *path)
{
	auto_dir dir = opendir(path);
	struct dirent *e;

	while (dir && (e = readdir(dir)))
		if (e->d_name[0] != '.')
			(void)unlinkat(dirfd(dir), e->d_name, 0);
	return rmdir(path) < 0 && errno != ENOENT ? -errno : 0;
}

static int first_error(int a, int b)
{
	return a < 0 ? a : b;
}

static int put_back(const struct bench_mess *mess, const struct bench_ksm *ksm)
{
	int r = mess->ksm ? bench_ksm_write(mess->ksm, ksm) : 0;

	if (mess->cgroup)
		r = first_error(r, remove_cgroup(mess->cgroup));
	if (mess->runtime)
		r = first_error(r, remove_folder(mess->runtime));
	return r;
}

/* One line per thing. */
static int state_write(int fd, const struct bench_mess *mess, const struct bench_ksm *ksm)
{
	char text[STATE_MAX];
	size_t len = 0;
	int r = 0;

	text[0] = '\0';
#define LINE(...) len += (size_t)snprintf(text + len, sizeof(text) - len, __VA_ARGS__)
	if (mess->ksm) {
		LINE("ksm %s\n", mess->ksm);
		for (unsigned i = 0; i < BENCH_KSM_SETTINGS; i++)
			if (ksm->value[i][0])
				LINE("set %s %s\n", bench_ksm_files[i], ksm->value[i]);
	}
	if (mess->cgroup && len < sizeof(text))
		LINE("cgroup %s\n", mess->cgroup);
	if (mess->runtime && len < sizeof(text))
		LINE("runtime %s\n", mess->runtime);
#undef LINE
	if (len >= sizeof(text))
		return -ENAMETOOLONG;
	if (ftruncate(fd, 0) < 0)
		r = -errno;
	if (r == 0)
		r = pwrite_full(fd, text, len, 0);
	return r == 0 && fsync(fd) < 0 ? -errno : r;
}

static int set_one(struct bench_ksm *ksm, const char *line)
{
	for (unsigned i = 0; i < BENCH_KSM_SETTINGS; i++) {
		size_t len = strlen(bench_ksm_files[i]);

		if (strncmp(line, bench_ksm_files[i], len) == 0 && line[len] == ' ' &&
		    strlen(line + len + 1) < sizeof(ksm->value[i])) {
			strcpy(ksm->value[i], line + len + 1);
			return 0;
		}
	}
	return -EINVAL;
}

/* Cuts @text into lines, which @ret_mess points into. */
static int state_parse(char *text, struct bench_mess *ret_mess, struct bench_ksm *ret_ksm)
{
	char *save = NULL;

	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		if (strncmp(line, "ksm /", 5) == 0)
			ret_mess->ksm = line + 4;
		else if (strncmp(line, "cgroup /", 8) == 0)
			ret_mess->cgroup = line + 7;
		else if (strncmp(line, "runtime /", 9) == 0)
			ret_mess->runtime = line + 8;
		else if (strncmp(line, "set ", 4) != 0 || set_one(ret_ksm, line + 4) < 0)
			return -EINVAL;
	}
	return 0;
}

/* Open and lock. */
static int state_open(const char *path, int flags, struct errmsg *err, int *ret_fd)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	auto_fd fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | flags, 0600);
	struct stat st;

	if (fd < 0)
		return errmsg_set(err, -errno, "%s: %s", path, strerror(errno));
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_uid != geteuid())
		return errmsg_set(err, -EPERM, "%s: not a file of this user; remove it", path);
	if (fcntl(fd, F_OFD_SETLK, &lock) < 0)
		return errmsg_set(err, -EBUSY, "%s: another benchmark is running", path);
	*ret_fd = TAKE_FD(fd);
	return 0;
}

int bench_guard_repair(const char *state, struct errmsg *err)
{
	struct errmsg why = {0};
	struct bench_mess mess = {0};
	struct bench_ksm ksm = {0};
	char text[STATE_MAX];
	auto_fd fd = -1;
	ssize_t n;
	int r = state_open(state, 0, &why, &fd);

	if (r == -ENOENT)
		return 0;
	if (r < 0)
		return errmsg_set(err, r, "%s", why.text);
	n = pread(fd, text, sizeof(text) - 1, 0);
	if (n < 0)
		return errmsg_set(err, -errno, "%s: %s", state, strerror(errno));
	text[n] = '\0';
	r = state_parse(text, &mess, &ksm);
	if (r < 0)
		return errmsg_set(err, r, "%s: not the state of a benchmark; look at it and remove it",
				  state);
	r = put_back(&mess, &ksm);
	if (r < 0)
		return errmsg_set(err, r, "%s: cannot put back what a benchmark left: %s", state,
				  strerror(-r));
	(void)unlink(state);
	return n > 0;
}

/* The guard's own life. */
static void guard_main(int pipe_fd, const struct bench_mess *mess, const struct bench_ksm *ksm)
	__attribute__((noreturn));
static void guard_main(int pipe_fd, const struct bench_mess *mess, const struct bench_ksm *ksm)
{
	sigset_t all;
	char byte;
	ssize_t n;
	int r;

	signals_fill_but_faults(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	(void)setsid();
	prctl(PR_SET_NAME, "sardine-guard");
	do {
		n = read(pipe_fd, &byte, 1);
	} while (n > 0 || (n < 0 && errno == EINTR));
	r = put_back(mess, ksm);
	/* What is left to do is left to the next benchmark. */
	if (r == 0 && mess->state)
		(void)unlink(mess->state);
	_exit(r < 0 ? (-r < 127 ? -r : 126) : 0);
}

int bench_guard_start(const struct bench_mess *mess, struct errmsg *err, struct bench_guard **ret)
{
	struct bench_guard *g;
	struct bench_ksm ksm = {0};
	auto_fd state_fd = -1;
	int fds[2], r = 0;
	pid_t pid;

	if (mess->ksm)
		r = bench_ksm_read(mess->ksm, &ksm);
	if (r < 0)
		return errmsg_set(err, r, "%s: %s", mess->ksm, strerror(-r));
	if (mess->state)
		r = state_open(mess->state, O_CREAT, err, &state_fd);
	if (r == 0 && mess->state)
		r = state_write(state_fd, mess, &ksm);
	if (r < 0)
		return errmsg_set(err, r, "%s: %s", mess->state, strerror(-r));
	g = calloc(1, sizeof(*g));
	if (!g || pipe2(fds, O_CLOEXEC) < 0) {
		free(g);
		return -ENOMEM;
	}
	pid = fork();
	if (pid == 0) {
		close(fds[1]);
		guard_main(fds[0], mess, &ksm);
	}
	close(fds[0]);
	if (pid < 0) {
		r = -errno;
		close(fds[1]);
		free(g);
		return errmsg_set(err, r, "cannot start a process: %s", strerror(-r));
	}
	/* The lock is the open file's, which the guard has, too. */
	*g = (struct bench_guard){.pipe_fd = fds[1], .pid = pid};
	*ret = g;
	return 0;
}

int bench_guard_end(struct bench_guard *g)
{
	int status = 0;

	if (!g)
		return 0;
	close(g->pipe_fd);
	while (waitpid(g->pid, &status, 0) < 0 && errno == EINTR)
		;
	free(g);
	if (WIFEXITED(status))
		return -WEXITSTATUS(status);
	return -ECHILD;
}
