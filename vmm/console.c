/* SPDX-License-Identifier: Apache-2.0 */
/* Where a VM's serial port goes: the history, and the back ends. */
#include "vmm/console.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "vmm/console-internal.h"

/*
 * Theory of operation
 *
 * The history is a ring of the last 64 KiB; `head` counts all bytes ever written. A vCPU appends one byte
 * under the mutex and wakes the loop's thread, once until that thread has looked (wake_sent), and not while it
 * looks again by itself. Everything else belongs to the loop's thread.
 *
 * An *end* has two halves, each with its own descriptor and event source: *out* reads the history at its own
 * place and *in* types. There is one ring for all readers: one that falls more than 64 KiB behind is moved to
 * the oldest byte kept, and told in its stream how much it lost. Nobody waits for a reader.
 *
 * Input goes the other way with back-pressure: what the guest does not take stays in the end's buffer and
 * nothing more is read from that end, until console_input_room(). The terminal of `run` is the exception,
 * since Ctrl-A x must work when the guest is stuck: there, what does not fit is dropped and counted.
 *
 * input_stalled is set before the guest is asked a second time; the device frees room under its own mutex,
 * under which it also takes input. So either that second attempt sees the room, or the device, freeing it
 * later, sees input_stalled.
 */

/* How long console_free() waits for readers in all. */
#define FREE_WAIT_MS 1000
/* Between two looks at a guest that keeps writing: a screen's refresh, and far from 64 KiB at a serial port's speed. */
#define PACE_NS 4000000

void console_wake(struct console *console)
{
	uint64_t one = 1;

	if (write(console->wake_fd, &one, sizeof(one)) < 0) {
		/* EAGAIN: the counter is full, so it is awake. */
	}
}

void console_output(struct console *console, uint8_t byte)
{
	bool wake;

	pthread_mutex_lock(&console->mutex);
	console->ring[console->head % CONSOLE_HISTORY_BYTES] = byte;
	console->head++;
	wake = !console->wake_sent;
	console->wake_sent = true;
	pthread_mutex_unlock(&console->mutex);
	if (wake)
		console_wake(console);
}

void console_input_room(struct console *console)
{
	if (!atomic_load(&console->input_stalled))
		return;
	atomic_store(&console->input_room, true);
	console_wake(console);
}

uint64_t console_head(struct console *console)
{
	uint64_t head;

	pthread_mutex_lock(&console->mutex);
	head = console->head;
	pthread_mutex_unlock(&console->mutex);
	return head;
}

static uint64_t history_start(struct console *console)
{
	uint64_t head = console_head(console);

	return head > CONSOLE_HISTORY_BYTES ? head - CONSOLE_HISTORY_BYTES : 0;
}

size_t console_copy(struct console *console, uint64_t *pos, uint8_t *buf, size_t len, uint64_t *ret_lost)
{
	uint64_t at = *pos, behind, lost = 0;
	size_t first;

	pthread_mutex_lock(&console->mutex);
	behind = console->head - at;
	if (behind > CONSOLE_HISTORY_BYTES) {
		lost = behind - CONSOLE_HISTORY_BYTES;
		at += lost;
		behind = CONSOLE_HISTORY_BYTES;
	}
	if (len > behind)
		len = (size_t)behind;
	first = CONSOLE_HISTORY_BYTES - (size_t)(at % CONSOLE_HISTORY_BYTES);
	if (first > len)
		first = len;
	memcpy(buf, console->ring + at % CONSOLE_HISTORY_BYTES, first);
	memcpy(buf + first, console->ring, len - first);
	pthread_mutex_unlock(&console->mutex);
	*pos = at;
	*ret_lost = lost;
	return len;
}

void console_quit(struct console *console)
{
	if (console->quit_fn)
		console->quit_fn(console->quit_arg);
	else
		kill(getpid(), SIGTERM);
}

static void pump_all(struct console *console)
{
	struct console_end *next;

	for (struct console_end *end = console->ends; end; end = next) {
		next = end->next;
		console_in_pump(end);
		console_end_reap(end);
	}
}

static void drain_all(struct console *console)
{
	struct console_end *next;

	for (struct console_end *end = console->ends; end; end = next) {
		next = end->next;
		if (!end->out.blocked)
			console_out_drain(end);
		console_end_reap(end);
	}
}

/*
 * Look at what the guest has written, and again after a while as long as there was something: wake_sent
 * stays set meanwhile, so that a stream of bytes does not wake us for each of them.
 */
static void output_look(struct console *console)
{
	bool news;

	pthread_mutex_lock(&console->mutex);
	news = console->head != console->looked_at;
	console->looked_at = console->head;
	console->wake_sent = news;
	pthread_mutex_unlock(&console->mutex);
	if (!news)
		return;
	drain_all(console);
	if (io_timer_set(console->pace, PACE_NS) < 0) {
		pthread_mutex_lock(&console->mutex);
		console->wake_sent = false;
		pthread_mutex_unlock(&console->mutex);
	}
}

static void pace_over(void *arg, uint32_t events)
{
	(void)events;
	output_look(arg);
}

static void console_woken(void *arg, uint32_t events)
{
	struct console *console = arg;
	uint64_t count;

	(void)events;
	if (read(console->wake_fd, &count, sizeof(count)) < 0)
		return;
	output_look(console);
	if (atomic_exchange(&console->input_room, false)) {
		atomic_store(&console->input_stalled, false);
		pump_all(console);
	}
}

void console_set_input(struct console *console, console_input_fn fn, void *arg)
{
	console->input_fn = fn;
	console->input_arg = arg;
	/* What came before waits in the ends' buffers. */
	atomic_store(&console->input_stalled, true);
	console_input_room(console);
}

void console_set_quit(struct console *console, void (*fn)(void *arg), void *arg)
{
	console->quit_fn = fn;
	console->quit_arg = arg;
}

int console_attach(struct console *console, int fd, const void *prefix, size_t prefix_len, const void *input,
		   size_t input_len)
{
	auto_fd out_fd = fd;
	auto_fd in_fd = -1;
	struct console_end *end;
	int r = 0;

	if (input_len > CONSOLE_INPUT_BYTES)
		return -EMSGSIZE;
	in_fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (in_fd < 0)
		return -errno;
	end = console_end_new(console, &r);
	if (!end)
		return r;
	end->client = true;
	if (prefix_len) {
		end->out.prefix = malloc(prefix_len);
		if (!end->out.prefix) {
			console_end_free(end);
			return -ENOMEM;
		}
		memcpy(end->out.prefix, prefix, prefix_len);
		end->out.prefix_len = prefix_len;
	}
	memcpy(end->in.pending, input, input_len);
	end->in.pending_len = input_len;
	r = console_out_open(end, TAKE_FD(out_fd), history_start(console));
	if (r == 0)
		r = console_in_open(end, TAKE_FD(in_fd), false);
	if (r < 0) {
		console_end_free(end);
		return r;
	}
	console_out_drain(end);
	console_in_pump(end);
	console_end_reap(end);
	return 0;
}

static void console_accept(void *arg, int fd)
{
	/* Too many: closed, which is all that a raw stream can say. */
	(void)!console_attach(arg, fd, "", 0, "", 0);
}

/*
 * A descriptor of our own for the same file, non-blocking: O_NONBLOCK belongs to the open file, which for
 * standard input and output is shared with the shell. -1 with errno where it cannot be had.
 */
static int reopen(int fd, int flags)
{
	char path[32];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return open(path, flags | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
}

static int stdio_open_out(struct console_end *end)
{
	struct stat st;
	int fd = -1, flags;

	if (fstat(STDOUT_FILENO, &st) < 0)
		return 0; /* closed: nothing to write to */
	/* A regular file never makes us wait, and its position is shared: keep that. Nor can a socket be
	 * reopened, but it has MSG_DONTWAIT. */
	if (!S_ISREG(st.st_mode) && !S_ISSOCK(st.st_mode))
		fd = reopen(STDOUT_FILENO, O_WRONLY);
	if (fd < 0) {
		fd = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
		if (fd < 0)
			return -errno;
		flags = fcntl(fd, F_GETFL);
		if (!S_ISREG(st.st_mode) && !S_ISSOCK(st.st_mode) && flags >= 0 && !(flags & O_NONBLOCK)) {
			end->out.restore_flags = flags;
			(void)!fcntl(fd, F_SETFL, flags | O_NONBLOCK);
		}
	}
	end->out.lossy = S_ISREG(st.st_mode);
	return console_out_open(end, fd, 0);
}

static int stdio_open_in(struct console *console, struct console_end *end)
{
	bool terminal = isatty(STDIN_FILENO) == 1;
	struct stat st;
	int fd = -1;

	if (fstat(STDIN_FILENO, &st) < 0)
		return 0;
	if (terminal) {
		int r = terminal_raw(STDIN_FILENO);

		/* In the background: to read would stop the VM, so it has no keyboard. */
		if (r == -EPERM)
			return 0;
		if (r < 0)
			return r;
		console->raw = true;
	}
	if (!S_ISREG(st.st_mode) && !S_ISSOCK(st.st_mode))
		fd = reopen(STDIN_FILENO, O_RDONLY);
	if (fd < 0)
		fd = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3);
	if (fd < 0)
		return -errno;
	return console_in_open(end, fd, terminal);
}

static int file_open(struct console_end *end, const char *path, struct errmsg *err)
{
	const int flags = O_WRONLY | O_CREAT | O_APPEND | O_NONBLOCK | O_CLOEXEC | O_NOCTTY;
	int fd = open(path, flags | O_EXCL, 0600);
	struct stat st;
	int r;

	if (fd >= 0)
		end->console->created_path = strdup(path); /* NULL: an empty file may stay behind */
	else if (errno == EEXIST)
		fd = open(path, flags, 0600);
	if (fd < 0 && errno == ENXIO)
		return errmsg_set(err, -ENXIO,
				  "--console file:%s: nobody reads this pipe; start its reader first", path);
	if (fd < 0)
		return errmsg_set(err, -errno, "--console file:%s: cannot open it for writing: %s", path,
				  strerror(errno));
	r = reopen_hold(path, &end->console->file);
	if (r < 0) {
		close(fd);
		return errmsg_set(err, r, "--console file:%s: cannot open its folder: %s", path,
				  strerror(-r));
	}
	end->out.lossy = fstat(fd, &st) == 0 && S_ISREG(st.st_mode);
	return console_out_open(end, fd, 0);
}

int console_reopen(struct console *console)
{
	for (struct console_end *end = console->ends; end; end = end->next) {
		int r;

		if (end->client || !end->out.lossy || end->out.fd < 0)
			continue;
		console_out_drain(end);
		r = reopen_file(&console->file, end->out.fd);
		return r < 0 ? r : 1;
	}
	return 0;
}

int console_folder(const struct console *console)
{
	return console->file.dir_fd;
}

void console_discard_file(struct console *console)
{
	struct stat st;

	if (console->created_path && stat(console->created_path, &st) == 0 && S_ISREG(st.st_mode) &&
	    st.st_size == 0)
		unlink(console->created_path);
}

static int backend_open(struct console *console, enum console_kind kind, const char *path, struct errmsg *err)
{
	struct console_end *end;
	char what[64 + 4096];
	int r = 0;

	if (kind == CONSOLE_UNIX) {
		snprintf(what, sizeof(what), "--console unix:%s", path);
		return unix_server_new(console->loop, path, what, console_accept, console, err,
				       &console->server);
	}
	if (kind == CONSOLE_NONE)
		return 0;
	end = console_end_new(console, &r);
	if (!end)
		return r;
	if (kind == CONSOLE_FILE)
		return file_open(end, path, err);
	r = stdio_open_out(end);
	if (r == 0)
		r = stdio_open_in(console, end);
	return r < 0 ? errmsg_set(err, r, "--console stdio: %s", strerror(-r)) : 0;
}

static void ignore_sigpipe(void)
{
	struct sigaction old, ignore = {.sa_handler = SIG_IGN};

	sigemptyset(&ignore.sa_mask);
	if (sigaction(SIGPIPE, NULL, &old) == 0 && !(old.sa_flags & SA_SIGINFO) && old.sa_handler == SIG_DFL)
		(void)!sigaction(SIGPIPE, &ignore, NULL);
}

int console_new(struct io_loop *loop, enum console_kind kind, const char *path, struct errmsg *err,
		struct console **ret)
{
	cleanup(console_free_p) struct console *console = calloc(1, sizeof(*console));
	int r;

	if (!console)
		return -ENOMEM;
	console->loop = loop;
	console->file = REOPEN_NONE;
	pthread_mutex_init(&console->mutex, NULL);
	console->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (console->wake_fd < 0)
		return errmsg_set(err, -errno, "console: %s", strerror(errno));
	console->ring = malloc(CONSOLE_HISTORY_BYTES);
	if (!console->ring)
		return -ENOMEM;
	r = io_source_new(loop, console->wake_fd, EPOLLIN, console_woken, console, &console->wake);
	if (r == 0)
		r = io_timer_new(loop, pace_over, console, &console->pace);
	if (r < 0)
		return r;
	ignore_sigpipe();
	r = backend_open(console, kind, path, err);
	if (r < 0)
		return r;
	/* Input from a file cannot be polled for: the first look at it is ours. */
	atomic_store(&console->input_stalled, true);
	console_input_room(console);
	*ret = TAKE_PTR(console);
	return 0;
}

static int64_t now_ms(void)
{
	return (int64_t)(clock_now_ns() / 1000000);
}

static void drain_last(struct console *console)
{
	int64_t deadline = now_ms() + FREE_WAIT_MS;

	for (struct console_end *end = console->ends; end; end = end->next) {
		while (end->out.fd >= 0) {
			struct pollfd p = {.fd = end->out.fd, .events = POLLOUT};
			int64_t left = deadline - now_ms();

			console_out_drain(end);
			if (console_out_done(end) || left <= 0 || poll(&p, 1, (int)left) <= 0)
				break;
		}
	}
}

void console_leave_file(struct console *console)
{
	free(TAKE_PTR(console->created_path));
	unix_server_leave(console->server);
}

void console_free(struct console *console)
{
	if (!console)
		return;
	if (console->ring)
		drain_last(console);
	while (console->ends)
		console_end_free(console->ends);
	unix_server_free(console->server);
	if (console->raw)
		terminal_restore();
	io_source_free(console->wake);
	io_source_free(console->pace);
	if (console->wake_fd >= 0)
		close(console->wake_fd);
	pthread_mutex_destroy(&console->mutex);
	reopen_done(&console->file);
	free(console->created_path);
	free(console->ring);
	free(console);
}

void console_counters(struct console *console, struct console_counters *ret)
{
	*ret = console->counters;
	ret->output_bytes = console_head(console);
	ret->readers = 0;
	for (const struct console_end *end = console->ends; end; end = end->next)
		ret->readers += end->out.fd >= 0;
}

DEFINE_SYSCALLS(console_syscalls, SYSCALL(read), SYSCALL(write), SYSCALL(recvfrom), SYSCALL(sendto),
		SYSCALL(poll), SYSCALL_IF(fcntl, 1, F_DUPFD_CLOEXEC), SYSCALL_IF(fcntl, 1, F_GETFL),
		SYSCALL_IF(fcntl, 1, F_SETFL), SYSCALL_IF(newfstatat, 3, AT_EMPTY_PATH),
		/* Ctrl-A x stops the VM as SIGTERM does */
		SYSCALL_IF(kill, 1, SIGTERM));
