/* SPDX-License-Identifier: Apache-2.0 */
/* Signals to a running VM: the first asks its guest to power off, the second kills it. */
#include "tools/run-signals.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>

#include "base/clock.h"
#include "base/fs.h"
#include "base/log.h"

/* `timeout` and some service managers send a signal to a process and then to its group: that is one request. */
#define SAME_REQUEST_NS 100000000ull

struct run_signals {
	int fd;
	struct io_source *source;
	uint64_t asked_ns; /* CLOCK_MONOTONIC; 0: not yet */
	const struct run_signals_ops *ops;
	void *arg;
};

static void signal_set(sigset_t *set)
{
	sigemptyset(set);
	sigaddset(set, SIGTERM);
	sigaddset(set, SIGINT);
	sigaddset(set, SIGHUP);
}

void run_signals_block(void)
{
	sigset_t set;

	signal_set(&set);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
}

bool run_signals_pending(void)
{
	sigset_t pending;

	sigpending(&pending);
	return sigismember(&pending, SIGTERM) == 1 || sigismember(&pending, SIGINT) == 1;
}

bool run_signals_hangup_ignored(void)
{
	struct sigaction action;

	return sigaction(SIGHUP, NULL, &action) == 0 && !(action.sa_flags & SA_SIGINFO) &&
	       action.sa_handler == SIG_IGN;
}

static void on_signal(void *arg, uint32_t events)
{
	struct run_signals *s = arg;
	struct signalfd_siginfo info;
	const char *name;

	(void)events;
	if (read(s->fd, &info, sizeof(info)) != (ssize_t)sizeof(info))
		return;
	if (info.ssi_signo == SIGHUP && s->ops->hangup(s->arg, info.ssi_code == SI_KERNEL))
		return;
	name = strsignal((int)info.ssi_signo);
	if (s->asked_ns && clock_now_ns() - s->asked_ns < SAME_REQUEST_NS)
		return;
	if (s->asked_ns) {
		log_warn("signal %u (%s): killing the guest", info.ssi_signo, name);
		s->ops->kill(s->arg);
		return;
	}
	s->asked_ns = clock_now_ns();
	log_info("signal %u (%s): stopping the guest; a second one kills it", info.ssi_signo, name);
	s->ops->stop(s->arg);
}

int run_signals_new(struct io_loop *loop, const struct run_signals_ops *ops, void *arg, struct errmsg *err,
		    struct run_signals **ret)
{
	cleanup(run_signals_free_p) struct run_signals *s = calloc(1, sizeof(*s));
	sigset_t set;
	int r;

	if (!s)
		return -ENOMEM;
	*s = (struct run_signals){.fd = -1, .ops = ops, .arg = arg};
	signal_set(&set);
	s->fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (s->fd < 0)
		return errmsg_set(err, -errno, "signalfd: %s", strerror(errno));
	r = io_source_new(loop, s->fd, EPOLLIN, on_signal, s, &s->source);
	if (r < 0)
		return errmsg_set(err, r, "cannot watch signals: %s", strerror(-r));
	*ret = TAKE_PTR(s);
	return 0;
}

void run_signals_free(struct run_signals *s)
{
	if (!s)
		return;
	io_source_free(s->source);
	close_fd_p(&s->fd);
	free(s);
}
