/* SPDX-License-Identifier: Apache-2.0 */
/* The process that removes a confined VM's files in the end. */
/*
 * Theory of operation: a confined VM cannot remove its files: no path leads out of its root, and what it may not do itself nobody who
 * takes it over can do either. So a process is split off before anything is opened. It closes all that it inherited but the folder and the
 * lock of the VM's name and one end of a socket pair, and waits with all signals blocked. What it will remove it knows by then: the paths of the configuration. It
 * is told two things: one byte when the files are there, and the end of the stream when the VM is gone, by whatever death. It reads
 * nothing else, so there is nothing that a stolen VM could have it do but its work, too early.
 *
 * It removes the sockets of console and vsock if they are the files that were there when it was told (their places are not ours alone),
 * then NAME.sock and NAME.lock, as a VM that is not confined does. The lock is one of the open file, which both hold: until the sweeper
 * ends, the name is in use. The VM waits for it at an orderly end, so that who waits for the VM finds its files gone.
 *
 * If it is killed, files stay: `sardine ps` and all that look for VMs remove NAME.sock and NAME.lock (rundir_clean()), and a VM that
 * wants the place of a dead socket takes it.
 */
#include "tools/run-sweeper.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "base/fs.h"

/* Longer than it takes on a host that works; after it, files may be there a moment longer than the VM. */
#define END_WAIT_MS 1000

struct swept {
	const char *path; /* NULL: none */
	dev_t dev;
	ino_t ino;
};

/* What is at a path now, if it is a socket. */
static void note(struct swept *s)
{
	struct stat st;

	if (s->path && lstat(s->path, &st) == 0 && S_ISSOCK(st.st_mode))
		*s = (struct swept){.path = s->path, .dev = st.st_dev, .ino = st.st_ino};
	else
		s->path = NULL;
}

static void sweep(const struct swept *s)
{
	struct stat st;

	if (s->path && lstat(s->path, &st) == 0 && st.st_dev == s->dev && st.st_ino == s->ino)
		(void)!unlink(s->path);
}

/* Return: whether a byte came; false at the end of the stream. */
static bool wait_for_byte(int fd)
{
	char byte;
	ssize_t n;

	do
		n = recv(fd, &byte, 1, 0);
	while (n < 0 && errno == EINTR);
	return n == 1;
}

/* The other process. */
static _Noreturn void be_sweeper(const struct vm_config *config, const struct rundir *dir,
				 struct rundir_name *name, int fd)
{
	struct swept files[] = {
		{.path = config->console == CONSOLE_UNIX ? config->console_path : NULL},
		{.path = config->vsock.on ? config->vsock.path : NULL},
	};
	int keep[] = {fd, dir->fd, rundir_name_fd(name)};
	sigset_t all;

	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, NULL);
	(void)!prctl(PR_SET_NAME, "sardine-sweeper");
	close_other_fds(keep, ARRAY_SIZE(keep), STDIN_FILENO);
	/* So that no file system is held in use. */
	if (chdir("/") < 0 || !wait_for_byte(fd))
		_exit(0);
	for (size_t i = 0; i < ARRAY_SIZE(files); i++)
		note(&files[i]);
	(void)wait_for_byte(fd);
	for (size_t i = 0; i < ARRAY_SIZE(files); i++)
		sweep(&files[i]);
	rundir_release(name);
	_exit(0);
}

int run_sweeper_start(const struct vm_config *config, const struct rundir *dir, struct rundir_name *name,
		      struct errmsg *err, struct run_sweeper *ret)
{
	int fds[2];
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
		return errmsg_set(err, -errno, "cannot start what removes the VM's files: %s",
				  strerror(errno));
	pid = fork();
	if (pid == 0)
		be_sweeper(config, dir, name, fds[1]);
	close(fds[1]);
	if (pid < 0) {
		int r = -errno;

		close(fds[0]);
		return errmsg_set(err, r, "cannot start what removes the VM's files: fork: %s", strerror(-r));
	}
	ret->fd = fds[0];
	return 0;
}

void run_sweeper_arm(struct run_sweeper *s)
{
	/* One that somebody has killed: then files stay, as the theory says. */
	if (s->fd >= 0)
		(void)!send(s->fd, "", 1, MSG_NOSIGNAL);
}

void run_sweeper_end(struct run_sweeper *s)
{
	struct pollfd p = {.fd = s->fd, .events = POLLIN};

	if (s->fd < 0)
		return;
	/* The answer is that its end is closed. */
	if (shutdown(s->fd, SHUT_WR) == 0)
		(void)!poll(&p, 1, END_WAIT_MS);
	close(s->fd);
	*s = RUN_SWEEPER_NONE;
}

DEFINE_SYSCALLS(run_sweeper_syscalls, SYSCALL_IF(shutdown, 1, SHUT_WR), SYSCALL(poll));
