/* SPDX-License-Identifier: Apache-2.0 */
/* `sardined`: the daemon that VMs share memory through. */
#include <argp.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/log.h"
#include "base/size.h"
#include "tools/cli.h"
#include "tools/client.h"
#include "tools/run-notify.h"
#include "tools/sardined-attach.h"
#include "tools/sardined-server.h"
#include "tools/store-client.h"
#include "vmm/rundir.h"

#define VERB		"sardined"
#define THREADS_DEFAULT 2u

enum { OPT_SOCKET = 0x200, OPT_THREADS, OPT_LOG_LEVEL, OPT_LOG_FILE, OPT_STATUS, OPT_JSON };

struct args {
	const char *socket; /* NULL: the default */
	const char *log_file;
	enum log_level log_level;
	unsigned threads;
	bool status, json;
};

/* What runs, in the order it is made; undone backwards. */
struct daemon {
	struct run_notify notify;
	struct io_loop *loop;
	int signals;
	struct io_source *signal_source;
	struct server *server;
	struct attacher *attacher;
};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct args *args = state->input;
	uint64_t n;

	switch (key) {
	case OPT_SOCKET:
		args->socket = arg;
		return 0;
	case OPT_THREADS:
		if (number_parse(arg, SERVER_THREADS_MAX, &n) < 0 || n == 0)
			argp_error(state, "--threads %s: 1 to %u", arg, SERVER_THREADS_MAX);
		args->threads = (unsigned)n;
		return 0;
	case OPT_LOG_LEVEL:
		if (log_level_parse(arg, &args->log_level) < 0)
			argp_error(state, "--log-level %s: error, warn, info or debug", arg);
		return 0;
	case OPT_LOG_FILE:
		args->log_file = arg;
		return 0;
	case OPT_STATUS:
		args->status = true;
		return 0;
	case OPT_JSON:
		args->json = true;
		return 0;
	case ARGP_KEY_ARG:
		argp_error(state, "%s: not an option", arg);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static void on_signal(void *arg, uint32_t events)
{
	struct daemon *d = arg;
	struct signalfd_siginfo info;
	int r;

	(void)events;
	if (read(d->signals, &info, sizeof(info)) != (ssize_t)sizeof(info))
		return;
	if (info.ssi_signo != SIGHUP) {
		log_info("signal %u (%s): ending; VMs keep what they share", info.ssi_signo,
			 strsignal((int)info.ssi_signo));
		io_loop_stop(d->loop);
		return;
	}
	r = log_reopen();
	if (r < 0)
		log_warn("hang-up signal: cannot reopen the log: %s; it goes on where it was", strerror(-r));
	else
		log_info("hang-up signal: %s",
			 r > 0 ? "the log is reopened" : "there is no file to open anew");
}

static int watch_signals(struct daemon *d, struct errmsg *err)
{
	sigset_t set;
	int r;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	/* A file that reaches `ulimit -f` is an error like any other (-EFBIG), not death by signal. */
	signal(SIGXFSZ, SIG_IGN);
	d->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	r = d->signals < 0 ? -errno
			   : io_source_new(d->loop, d->signals, EPOLLIN, on_signal, d, &d->signal_source);
	return r < 0 ? errmsg_set(err, r, "cannot watch signals: %s", strerror(-r)) : 0;
}

/* The directory of the default socket is made when it is missing, as a VM would. */
static int make_folder(const struct args *args, struct errmsg *err)
{
	struct rundir dir = RUNDIR_NONE;
	int r;

	if (args->socket)
		return 0;
	r = rundir_open(true, err, &dir);
	rundir_close(&dir);
	return r;
}

static int start(struct daemon *d, const struct args *args, const char *path, struct errmsg *err)
{
	int r = log_open(args->log_file, args->log_level, VERB);

	if (r < 0)
		return errmsg_set(err, r, "--log-file %s: cannot write there: %s", args->log_file,
				  strerror(-r));
	descriptors_raise();
	r = make_folder(args, err);
	if (r == 0)
		r = io_loop_new(&d->loop);
	if (r == 0)
		r = watch_signals(d, err);
	if (r == 0)
		r = server_new(d->loop, path, args->threads, err, &d->server);
	if (r == 0)
		r = attacher_new(d->server, &d->attacher);
	return r;
}

static int serve(const struct args *args, const char *path)
{
	struct daemon d = {.notify = RUN_NOTIFY_NONE, .signals = -1};
	struct errmsg err = {0}, notify_err = {0};
	int r;

	run_notify_open(&d.notify, &notify_err);
	r = start(&d, args, path, &err);
	if (notify_err.text[0])
		log_warn("%s", notify_err.text);
	if (r == 0) {
		log_info("serving %s: pid %d", path, (int)getpid());
		run_notify_send(&d.notify, "READY=1\nMAINPID=%d\nSTATUS=serving", (int)getpid());
		r = io_loop_run(d.loop);
		run_notify_send(&d.notify, "STOPPING=1");
	}
	attacher_free(d.attacher);
	server_free(d.server);
	io_source_free(d.signal_source);
	io_loop_free(d.loop);
	close_fd_p(&d.signals);
	run_notify_close(&d.notify);
	if (r < 0 && args->log_file)
		log_error("%s", errmsg_text(&err, r));
	return r < 0 ? cli_error(VERB, CLI_FAILED, "%s", errmsg_text(&err, r)) : CLI_OK;
}

static void print_domain(const json_t *domain)
{
	const char *key;
	json_t *value;

	json_object_foreach((json_t *)(uintptr_t)domain, key, value)
		printf("%s%s=%lld", strcmp(key, "uid") ? " " : "", key, (long long)json_integer_value(value));
	putchar('\n');
}

static int status(const struct args *args, const char *path)
{
	struct errmsg err = {0};
	json_t *json = NULL, *domain;
	size_t i;
	int r = store_daemon_status(path, &err, &json);

	if (r < 0)
		return cli_error(VERB, CLI_FAILED, "%s", errmsg_text(&err, r));
	if (args->json)
		return client_print_json(VERB, json, false);
	printf("sardined %s: pid %lld, %lld connections, %lld protocol errors\n",
	       json_string_value(json_object_get(json, "version")),
	       (long long)json_integer_value(json_object_get(json, "pid")),
	       (long long)json_integer_value(json_object_get(json, "connections")),
	       (long long)json_integer_value(json_object_get(json, "protocol_errors")));
	json_array_foreach(json_object_get(json, "domains"), i, domain) print_domain(domain);
	json_decref(json);
	return CLI_OK;
}

int main(int argc, char **argv)
{
	static const struct argp_option options[] = {
		{.name = "socket",
		 .key = OPT_SOCKET,
		 .arg = "PATH",
		 .doc = "listen there (sardined.sock in the runtime directory)"},
		{.name = "threads",
		 .key = OPT_THREADS,
		 .arg = "N",
		 .doc = "that work on calls of VMs, 1 to 64 (2)"},
		{.name = "log-file",
		 .key = OPT_LOG_FILE,
		 .arg = "FILE",
		 .doc = "append the log here (stderr)"},
		{.name = "log-level",
		 .key = OPT_LOG_LEVEL,
		 .arg = "LEVEL",
		 .doc = "error, warn, info or debug (info)"},
		{.name = "status", .key = OPT_STATUS, .doc = "say what the daemon that runs serves, and end"},
		{.name = "json", .key = OPT_JSON, .doc = "with --status: as JSON"},
		{0},
	};
	static const struct argp argp = {
		.options = options,
		.parser = parse_option,
		.doc = "Lets the VMs of this host share memory with one another. Stays in the foreground.\v"
		       "VMs that run find it by themselves, and outlive it. Exit status: 0 ended by SIGTERM "
		       "or SIGINT, 1 failed, 2 wrong command line.",
	};
	struct args args = {.log_level = LOG_LEVEL_INFO, .threads = THREADS_DEFAULT};
	auto_free char *own = NULL;

	argp_program_version = VERB " " SARDINE_VERSION;
	argp_err_exit_status = CLI_USAGE;
	argp_parse(&argp, argc, argv, 0, NULL, &args);
	if (args.json && !args.status)
		return cli_error(VERB, CLI_USAGE, "--json: only with --status");
	if (!args.socket) {
		own = store_socket_path();
		if (!own)
			return cli_error(VERB, CLI_FAILED, "SARDINE_RUNTIME_DIR: must be an absolute path");
	}
	return args.status ? status(&args, args.socket ? args.socket : own)
			   : serve(&args, args.socket ? args.socket : own);
}
