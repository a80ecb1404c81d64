/* SPDX-License-Identifier: Apache-2.0 */
/* The log of a program. The sink is the one process-wide state of the project: a process has one log. */
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/fs.h"
#include "base/reopen.h"
#include "base/syscalls.h"

static const char *const level_names[] = {
	[LOG_LEVEL_ERROR] = "error",
	[LOG_LEVEL_WARN] = "warn",
	[LOG_LEVEL_INFO] = "info",
	[LOG_LEVEL_DEBUG] = "debug",
};
_Static_assert(ARRAY_SIZE(level_names) == LOG_LEVEL_DEBUG + 1, "a name for each level");

static struct {
	int fd;
	enum log_level level;
	char tag[64];
	struct reopen file;
} sink = {.file = {.dir_fd = -1}, .fd = STDERR_FILENO, .level = LOG_LEVEL_INFO, .tag = "sardine"};

int log_level_parse(const char *s, enum log_level *ret)
{
	for (size_t i = 0; i < ARRAY_SIZE(level_names); i++) {
		if (strcmp(s, level_names[i]) == 0) {
			*ret = (enum log_level)i;
			return 0;
		}
	}
	return -EINVAL;
}

const char *log_level_name(enum log_level level)
{
	return level_names[level];
}

int log_open(const char *path, enum log_level level, const char *tag)
{
	struct reopen file = REOPEN_NONE;
	int fd = STDERR_FILENO;

	/* Reads /etc/localtime, which gmtime_r() would do later, when the process may open nothing any more. */
	tzset();
	if (path) {
		int r;

		/* Non-blocking: whoever reads a pipe too slowly loses lines, and stops nobody. */
		fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0600);
		if (fd < 0)
			return -errno;
		r = reopen_hold(path, &file);
		if (r < 0) {
			close(fd);
			return r;
		}
	}
	reopen_done(&sink.file);
	sink.file = file;
	if (sink.fd != STDERR_FILENO)
		close(sink.fd);
	sink.fd = fd;
	sink.level = level;
	snprintf(sink.tag, sizeof(sink.tag), "%s", tag);
	return 0;
}

int log_reopen(void)
{
	struct stat st;
	int r;

	if (sink.fd == STDERR_FILENO || fstat(sink.fd, &st) < 0 || !S_ISREG(st.st_mode))
		return 0;
	r = reopen_file(&sink.file, sink.fd);
	return r < 0 ? r : 1;
}

int log_folder(void)
{
	return sink.file.dir_fd;
}

void log_line(enum log_level level, const char *fmt, ...)
{
	char line[1024];
	int n = 0, m;
	va_list ap;

	if (level > sink.level)
		return;
	if (sink.fd != STDERR_FILENO) {
		struct timespec now;
		struct tm tm;

		clock_gettime(CLOCK_REALTIME, &now);
		gmtime_r(&now.tv_sec, &tm);
		n = (int)strftime(line, sizeof(line), "%Y-%m-%dT%H:%M:%S", &tm);
		n += snprintf(line + n, sizeof(line) - (size_t)n, ".%03ldZ ", now.tv_nsec / 1000000);
	}
	n += snprintf(line + n, sizeof(line) - (size_t)n, "%s: %s%s", sink.tag,
		      level == LOG_LEVEL_INFO ? "" : level_names[level], level == LOG_LEVEL_INFO ? "" : ": ");
	va_start(ap, fmt);
	m = vsnprintf(line + n, sizeof(line) - (size_t)n - 1, fmt, ap);
	va_end(ap);
	n += m;
	if (n > (int)sizeof(line) - 2)
		n = (int)sizeof(line) - 2;
	for (char *p = line; p < line + n; p++)
		if ((unsigned char)*p < ' ')
			*p = ' ';
	line[n] = '\n';
	if (write_full(sink.fd, line, (size_t)n + 1) < 0) {
		/* Nowhere left to say it. */
	}
}

DEFINE_SYSCALLS(log_syscalls, SYSCALL(write));
