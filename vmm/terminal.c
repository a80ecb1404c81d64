/* SPDX-License-Identifier: Apache-2.0 */
/* The user's terminal in raw mode, given back on every way out of the process. */
#include "vmm/terminal.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/ioctl.h>
#include <termios.h>

/*
 * Theory of operation. A process has one controlling terminal, and a signal handler has no argument: this is
 * the one place with state that is global and mutable. `raw` is set (release) after `fd`, `saved` and
 * `wanted` are complete, and a handler reads it (acquire) before them; they do not change while it is set.
 *
 * Everything the handlers call is on POSIX's list of async-signal-safe functions: tcsetattr, tcgetpgrp,
 * getpgrp, raise; and pthread_sigmask, which is one system call in glibc.
 */
static struct {
	atomic_bool raw;
	int fd;
	struct termios saved;
	struct termios wanted;
	bool atexit_done;
} terminal;

/* Those that end a process by default and that a VMM may meet. */
static const int fatal_signals[] = {SIGHUP,  SIGINT,  SIGPIPE, SIGQUIT, SIGILL,	   SIGTRAP,
				    SIGABRT, SIGBUS,  SIGFPE,  SIGUSR1, SIGSEGV,   SIGUSR2,
				    SIGALRM, SIGTERM, SIGXCPU, SIGXFSZ, SIGVTALRM, SIGSYS};

/* In the background, the terminal is another process's and already in its mode; setting it would stop us. */
static bool in_foreground(int fd)
{
	pid_t group = tcgetpgrp(fd);

	return group < 0 || group == getpgrp(); /* no job control on it: nobody else's either */
}

/* tcsetattr that never stops the process, even when it loses the foreground in between. */
static int set_mode(const struct termios *mode)
{
	sigset_t ttou, old;
	int r;

	sigemptyset(&ttou);
	sigaddset(&ttou, SIGTTOU);
	pthread_sigmask(SIG_BLOCK, &ttou, &old);
	r = tcsetattr(terminal.fd, TCSANOW, mode) < 0 ? -errno : 0;
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return r;
}

static void on_fatal(int signo)
{
	int saved_errno = errno;

	terminal_restore();
	/*
	 * The default disposition is back (SA_RESETHAND) and the signal is not blocked (SA_NODEFER): the
	 * process dies of the very signal here, so that its parent sees the right status.
	 */
	raise(signo);
	errno = saved_errno;
}

static void on_continue(int signo)
{
	int saved_errno = errno;

	(void)signo;
	if (atomic_load_explicit(&terminal.raw, memory_order_acquire) && in_foreground(terminal.fd))
		set_mode(&terminal.wanted);
	errno = saved_errno;
}

/* Take a signal over unless somebody has taken it already. */
static void take_signal(int signo, void (*handler)(int), int flags)
{
	struct sigaction old, new = {.sa_handler = handler, .sa_flags = flags};

	sigemptyset(&new.sa_mask);
	if (sigaction(signo, NULL, &old) < 0 || (old.sa_flags & SA_SIGINFO) || old.sa_handler != SIG_DFL)
		return;
	(void)!sigaction(signo, &new, NULL);
}

static void give_signal_back(int signo, void (*handler)(int))
{
	struct sigaction old, new = {.sa_handler = SIG_DFL};

	sigemptyset(&new.sa_mask);
	if (sigaction(signo, NULL, &old) == 0 && !(old.sa_flags & SA_SIGINFO) && old.sa_handler == handler)
		(void)!sigaction(signo, &new, NULL);
}

int terminal_raw(int fd)
{
	struct termios mode;
	int r;

	if (atomic_load_explicit(&terminal.raw, memory_order_relaxed))
		return -EBUSY;
	if (tcgetattr(fd, &mode) < 0)
		return -errno;
	if (!in_foreground(fd))
		return -EPERM;
	terminal.fd = fd;
	terminal.saved = mode;
	mode.c_iflag &= ~(tcflag_t)(IGNBRK | BRKINT | PARMRK | ISTRIP | INLCR | IGNCR | ICRNL | IXON);
	mode.c_lflag &= ~(tcflag_t)(ECHO | ECHONL | ICANON | ISIG | IEXTEN);
	mode.c_cc[VMIN] = 1;
	mode.c_cc[VTIME] = 0;
	terminal.wanted = mode;
	if (!terminal.atexit_done && atexit(terminal_restore) != 0)
		return -ENOMEM;
	terminal.atexit_done = true;
	/* Before the mode changes, so that no signal finds the terminal raw and nobody in charge. */
	atomic_store_explicit(&terminal.raw, true, memory_order_release);
	for (size_t i = 0; i < ARRAY_SIZE(fatal_signals); i++)
		take_signal(fatal_signals[i], on_fatal, (int)(SA_RESETHAND | SA_NODEFER | SA_ONSTACK));
	take_signal(SIGCONT, on_continue, SA_RESTART | SA_ONSTACK);
	r = set_mode(&mode);
	if (r < 0)
		terminal_restore();
	return r;
}

void terminal_restore(void)
{
	if (!atomic_load_explicit(&terminal.raw, memory_order_acquire))
		return;
	/* First the mode, then the mark: a signal that arrives in between does it again, which harms nobody. */
	if (in_foreground(terminal.fd))
		set_mode(&terminal.saved);
	atomic_store_explicit(&terminal.raw, false, memory_order_release);
	for (size_t i = 0; i < ARRAY_SIZE(fatal_signals); i++)
		give_signal_back(fatal_signals[i], on_fatal);
	give_signal_back(SIGCONT, on_continue);
}

bool terminal_escape_filter(struct terminal_escape *state, uint8_t *buf, size_t *len)
{
	size_t out = 0;

	for (size_t i = 0; i < *len; i++) {
		uint8_t c = buf[i];

		if (!state->armed && c == TERMINAL_ESCAPE) {
			state->armed = true;
			continue;
		}
		if (!state->armed) {
			buf[out++] = c;
			continue;
		}
		state->armed = false;
		if (c == 'x' || c == 'X') {
			*len = out;
			return true;
		}
		if (c == 'a' || c == TERMINAL_ESCAPE)
			buf[out++] = TERMINAL_ESCAPE;
	}
	*len = out;
	return false;
}

/* A terminal is put back, whatever ends the process. */
DEFINE_SYSCALLS(terminal_syscalls, SYSCALL_IF(ioctl, 1, TCGETS), SYSCALL_IF(ioctl, 1, TCSETS),
		SYSCALL_IF(ioctl, 1, TIOCGPGRP), SYSCALL(getpgrp), SYSCALL(rt_sigaction));
