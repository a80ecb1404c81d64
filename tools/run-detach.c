/* SPDX-License-Identifier: Apache-2.0 */
/* `run --detach`: the VM in a process of its own, whose starter waits until it runs or has failed. */
#include "tools/run-detach.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/fs.h"
#include "tools/cli.h"

/* Below PIPE_BUF, so it arrives whole or not at all. */
struct report {
	int32_t code;
	char text[ERRMSG_MAX];
};
_Static_assert(sizeof(struct report) <= 4096, "a report is written at once");

static int become_session(void)
{
	auto_fd null = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (null < 0 || setsid() < 0 || chdir("/") < 0)
		return -errno;
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
		if (dup2(null, fd) < 0)
			return -errno;
	return 0;
}

pid_t detach_fork(int *ret_fd, struct errmsg *err)
{
	int fds[2], r;
	pid_t pid;

	/* Nothing buffered may be written by both. */
	fflush(NULL);
	if (pipe2(fds, O_CLOEXEC) < 0)
		return errmsg_set(err, -errno, "--detach: pipe: %s", strerror(errno));
	pid = fork();
	if (pid < 0) {
		r = -errno;
		close(fds[0]);
		close(fds[1]);
		return errmsg_set(err, r, "--detach: fork: %s", strerror(-r));
	}
	if (pid > 0) {
		close(fds[1]);
		*ret_fd = fds[0];
		return pid;
	}
	close(fds[0]);
	r = become_session();
	if (r < 0) {
		char text[ERRMSG_MAX];

		snprintf(text, sizeof(text), "--detach: cannot go to the background: %s", strerror(-r));
		r = detach_report(&fds[1], CLI_FAILED, text);
		_exit(r < 0 ? CLI_USAGE : CLI_FAILED);
	}
	*ret_fd = fds[1];
	return 0;
}

void detach_wait(int fd, int *ret_code, struct errmsg *text)
{
	struct report report = {0};
	size_t have = 0;

	while (have < sizeof(report)) {
		ssize_t n = read(fd, (char *)&report + have, sizeof(report) - have);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		have += (size_t)n;
	}
	if (have < sizeof(report)) {
		*ret_code = CLI_FAILED;
		errmsg_set(text, 0, "the VM's process died before it could say why; see its log");
		return;
	}
	report.text[sizeof(report.text) - 1] = '\0';
	*ret_code = report.code;
	*text = (struct errmsg){0};
	errmsg_set(text, 0, "%s", report.text);
}

int detach_report(int *fd, int code, const char *text)
{
	struct report report = {.code = code};
	int r;

	snprintf(report.text, sizeof(report.text), "%s", text);
	r = write_full(*fd, &report, sizeof(report));
	close(*fd);
	*fd = -1;
	return r;
}
