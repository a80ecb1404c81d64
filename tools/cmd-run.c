/* SPDX-License-Identifier: Apache-2.0 */
/* `sardine run`: one VM, from its command line to its end. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <termios.h>

#include "base/log-limit.h"
#include "ksm/store-remote.h"
#include "tools/cli.h"
#include "tools/client.h"
#include "tools/confine-start.h"
#include "tools/run-cgroup.h"
#include "tools/run-confine.h"
#include "tools/run-control.h"
#include "tools/run-detach.h"
#include "tools/run-engine.h"
#include "tools/run-memory.h"
#include "tools/run-notify.h"
#include "tools/run-options.h"
#include "tools/run-signals.h"
#include "tools/run-sweeper.h"
#include "tools/store-client.h"
#include "vmm/console.h"
#include "vmm/rundir.h"
#include "vmm/vm.h"

/* From the end of the guest's time to the end of the process, as told to a service manager. */
#define STOP_MARGIN_S 15

/* What a run holds, in the order it is made; undone backwards. */
struct run {
	const char *verb;
	struct log_limit reboot_lines; /* what a guest can make us say */
	struct log_limit crash_lines;
	struct log_limit dump_lines;
	const struct vm_config *config;
	int report_fd; /* detached: to the starter; else -1 */
	bool log_is_file;
	bool started; /* the guest runs, or did */
	bool on_terminal;
	bool hangup_ignored;
	struct run_notify notify;
	struct confine_user user;
	struct confine_plan plan;
	struct run_sweeper sweeper;
	bool leave_files; /* out of reach: the sweeper removes them */
	struct rundir rundir;
	struct rundir_name *name;
	struct io_loop *loop;
	struct console *console;
	struct vm *vm;
	struct run_control *control;
	struct store_link *link; /* borrowed; NULL: there is no agent, or it knows no daemon */
	struct run_signals *signals;
};

/* Whoever started us gets one line; the log too, when it is elsewhere. */
static int run_failed(struct run *run, int error, const struct errmsg *err)
{
	int code = error == -ENOTSUP ? CLI_CANNOT : CLI_FAILED;
	const char *text = errmsg_text(err, error);

	if (run->log_is_file)
		log_error("%s", text);
	if (run->report_fd < 0)
		return cli_error(run->verb, code, "%s", text);
	if (detach_report(&run->report_fd, code, text) < 0)
		log_debug("nobody waits for the report any more");
	return code;
}

static int open_log(struct run *run, struct errmsg *err)
{
	const struct vm_config *config = run->config;
	auto_free char *own = NULL;
	const char *path = config->log_file;
	char tag[sizeof("sardine ") + CONFIG_NAME_MAX];
	int r;

	if (!path && config->detach) {
		own = rundir_file(&run->rundir, config->name, "log");
		if (!own)
			return -ENOMEM;
		path = own;
	}
	snprintf(tag, sizeof(tag), "sardine %s", config->name);
	r = log_open(path, config->log_level, tag);
	if (r == -ENXIO)
		return errmsg_set(
			err, r, "--log-file %s: a pipe that nobody reads, or no file; start its reader first",
			path);
	if (r < 0)
		return errmsg_set(err, r, "%s %s: cannot write there: %s", path == own ? "log" : "--log-file",
				  path, strerror(-r));
	run->log_is_file = path != NULL;
	return 0;
}

static void stop_vm(void *arg)
{
	struct run *run = arg;
	uint64_t timeout_s = run->config->stop_timeout_s;

	/* The guest has its time, whatever the manager's own limit is. */
	run_notify_send(&run->notify, "STOPPING=1\nSTATUS=stopping\nEXTEND_TIMEOUT_USEC=%llu",
			(unsigned long long)(timeout_s + STOP_MARGIN_S) * 1000000);
	run_control_stop(run->control, timeout_s * 1000000000);
}

static void kill_vm(void *arg)
{
	struct run *run = arg;

	vm_end(run->vm, VM_END_KILLED);
}

static void on_rebooted(void *arg)
{
	struct run *run = arg;

	if (log_allowed(&run->reboot_lines, LOG_LEVEL_INFO)) {
		log_info("rebooted");
		run_notify_send(&run->notify, "STATUS=running, rebooted");
	}
	run_control_rebooted(run->control);
}

static void on_crashed(void *arg, const char *why, char (*registers)[VCPU_REGISTERS_MAX], unsigned count,
		       bool restart, uint64_t space_ns)
{
	struct run *run = arg;

	if (!log_allowed(&run->crash_lines, LOG_LEVEL_ERROR))
		return;
	for (unsigned i = 0; i < count; i++)
		log_error("%s", registers[i]);
	if (restart) {
		run_notify_send(&run->notify, "STATUS=crashed: %.200s", why);
		log_error("the guest crashed: %s: booting it again in %llu ms", why,
			  (unsigned long long)(space_ns / 1000000));
	}
}

static void on_dumping(void *arg)
{
	struct run *run = arg;

	log_limited(&run->dump_lines, LOG_LEVEL_WARN, "the guest panicked, and writes a dump of its own");
}

static const struct vm_events vm_events = {
	.rebooted = on_rebooted,
	.dumping = on_dumping,
	.crashed = on_crashed,
};

/* Say how it went. Return: whether there was a file. */
static bool reopened(const char *what, int r)
{
	if (r > 0)
		log_info("hang-up signal: %s reopened", what);
	else if (r < 0)
		log_warn("hang-up signal: cannot reopen %s: %s; it goes on where it was", what, strerror(-r));
	return r != 0;
}

/* The terminal that the VM was started on is gone: the shell passed the news on. */
static bool terminal_gone(const struct run *run)
{
	struct termios t;

	return run->on_terminal && tcgetattr(STDIN_FILENO, &t) < 0;
}

/*
 * A hang-up of the terminal stops the VM: nobody would see it any more. A signal that somebody sent is for the files, if there
 * are any; under a service manager it is a reload in any case.
 */
static bool on_hangup(void *arg, bool by_kernel)
{
	struct run *run = arg;
	bool files;

	if ((by_kernel || terminal_gone(run)) && !run->hangup_ignored)
		return false;
	files = reopened("the log", log_reopen());
	files |= reopened("the console's file", console_reopen(run->console));
	if (!files && run->notify.fd >= 0)
		log_info("hang-up signal: there is no file to open anew");
	return files || run->config->detach || run->hangup_ignored || run->notify.fd >= 0;
}

static const struct run_signals_ops signal_ops = {.hangup = on_hangup, .stop = stop_vm, .kill = kill_vm};

static int open_control(struct run *run, struct errmsg *err)
{
	auto_free char *path = rundir_file(&run->rundir, run->config->name, "sock");

	if (!path)
		return -ENOMEM;
	return run_control_new(run->loop, path, run->vm, run->console, run->config->name, err, &run->control);
}

static void attach_store(void *arg, int fd)
{
	store_link_remote_attach(arg, fd);
}

/* Everything up to the first instruction of the guest. */
static int run_prepare(struct run *run, struct errmsg *err)
{
	const struct vm_config *config = run->config;
	int r;

	r = confine_user_parse(config->user, &run->user, err);
	if (r == 0)
		r = rundir_open(true, err, &run->rundir);
	if (r == 0)
		r = rundir_claim(&run->rundir, config->name, err, &run->name);
	if (r == 0 && confine_plan_any(&run->plan, &run->user))
		r = run_sweeper_start(config, &run->rundir, run->name, err, &run->sweeper);
	if (r == 0)
		r = open_log(run, err);
	if (r == 0 && config->cgroup)
		r = cgroup_join(config->cgroup, err);
	if (r < 0)
		return r;
	run_signals_block();
	run->on_terminal = config->console == CONSOLE_STDIO && isatty(STDIN_FILENO);
	run->hangup_ignored = run_signals_hangup_ignored();
	r = io_loop_new(&run->loop);
	if (r < 0)
		return r;
	r = console_new(run->loop, config->console, config->console_path, err, &run->console);
	if (r == 0)
		r = vm_new(config, run->loop, run->console, err, &run->vm);
	if (r == 0) {
		vm_set_events(run->vm, &vm_events, run);
		r = open_control(run, err);
	}
	if (r == 0)
		r = run_engine_new(config, run->vm, err, &run->link);
	if (r == 0 && run->link)
		run_control_set_attach(run->control, attach_store, run->link);
	if (r == 0)
		r = run_signals_new(run->loop, &signal_ops, run, err, &run->signals);
	return r;
}

static void run_undo(struct run *run)
{
	run_signals_free(run->signals);
	run_control_free(run->control);
	vm_free(run->vm);
	if (!run->started && run->console)
		console_discard_file(run->console);
	console_free(run->console);
	io_loop_free(run->loop);
	if (run->leave_files)
		rundir_name_forget(run->name);
	else
		rundir_release(run->name);
	run_sweeper_end(&run->sweeper);
	rundir_close(&run->rundir);
}

/* One line that says how the VM ended. */
static int run_ended(struct run *run)
{
	enum vm_end end = vm_ended(run->vm);
	const char *detail = vm_end_detail(run->vm);
	enum log_level level = end == VM_END_POWER_OFF ? LOG_LEVEL_INFO : LOG_LEVEL_ERROR;

	run_control_ended(run->control, vm_end_name(end), detail);
	log_line(level, "ended: %s%s%s", vm_end_name(end), detail[0] ? ": " : "", detail);
	run_notify_send(&run->notify, "STOPPING=1\nSTATUS=ended: %s%s%.200s", vm_end_name(end),
			detail[0] ? ": " : "", detail);
	return end == VM_END_POWER_OFF ? CLI_OK : CLI_FAILED;
}

/* Everything is open: give up what the guest must not reach through us. */
static int run_confine(struct run *run, struct errmsg *err)
{
	const struct vm_config *config = run->config;
	thread_confine_fn confine = confine_threads(run->plan.seccomp);
	const int folders[] = {log_folder(), console_folder(run->console)};
	struct confine_done done;
	int r;

	run->leave_files = confine_plan_any(&run->plan, &run->user);
	if (run->leave_files)
		run_sweeper_arm(&run->sweeper);
	r = confine_process(config, &run->plan, &run->user, &run->rundir, folders, ARRAY_SIZE(folders), err,
			    &done);
	if (r == 0)
		r = confine_start_filter(done.seccomp, config->vsock.on, folders[0] >= 0 || folders[1] >= 0,
					 err);
	if (r < 0)
		return r;
	confine_log_missing(&run->plan, &done);
	if (run->leave_files)
		console_leave_file(run->console);
	run_control_confined(run->control, &done, confine, run->leave_files);
	vm_set_confine(run->vm, confine);
	r = vm_confined(run->vm, run->leave_files, done.new_root);
	if (r < 0)
		return r;
	/* A descriptor that leads out of the empty root. */
	if (run->leave_files)
		rundir_close(&run->rundir);
	/* The daemon finds us, if we cannot find it any more. Before our own filter: what the agent may do, we may not. */
	if (run->link && (run->leave_files || confine))
		store_link_remote_stay(run->link);
	r = vm_agent_start(run->vm);
	if (r < 0)
		return errmsg_set(err, r, "cannot start the memory agent: %s", strerror(-r));
	if (confine)
		confine(THREAD_LOOP);
	return 0;
}

static int run_until_end(struct run *run, struct errmsg *err)
{
	int r;

	/* Somebody changed his mind while files were read. */
	if (run_signals_pending()) {
		return errmsg_set(err, -ECANCELED, "stopped by a signal before the guest was started");
	}
	run_memory_trim();
	r = run_confine(run, err);
	if (r == 0)
		r = vm_start(run->vm, err);
	if (r < 0)
		return r;
	run->started = true;
	log_info("running: pid %d", (int)getpid());
	run_notify_send(&run->notify, "READY=1\nMAINPID=%d\nSTATUS=running", (int)getpid());
	/* A starter that is gone is not told; nobody would look after this VM. */
	if (run->report_fd >= 0 && detach_report(&run->report_fd, CLI_OK, "") < 0) {
		log_error("whoever started this VM is gone: killing it");
		vm_end(run->vm, VM_END_KILLED);
	}
	return io_loop_run(run->loop);
}

/* Context: the process that is the VM. */
static int run_vm(const char *verb, const struct vm_config *config, int report_fd)
{
	struct run run = {
		.verb = verb,
		.config = config,
		.report_fd = report_fd,
		.rundir = RUNDIR_NONE,
		.sweeper = RUN_SWEEPER_NONE,
		.reboot_lines = LOG_LIMIT_INIT,
		.crash_lines = LOG_LIMIT_INIT,
		.dump_lines = LOG_LIMIT_INIT,
	};
	struct errmsg err = {0}, notify_err = {0};
	int code, r;

	run_memory_init();
	r = confine_plan_make(config, &run.plan, &err);
	descriptors_raise();
	/* What whoever started us left open is nothing that a guest should come near. */
	if (run.plan.sandbox)
		confine_inherited(config, report_fd);

	run_notify_open(&run.notify, &notify_err);
	if (r == 0)
		r = run_prepare(&run, &err);
	if (notify_err.text[0])
		log_warn("%s", notify_err.text);
	if (r == 0)
		r = run_until_end(&run, &err);
	code = r < 0 ? run_failed(&run, r, &err) : run_ended(&run);
	run_undo(&run);
	run_notify_close(&run.notify);
	return code;
}

static int run_detached(const char *verb, const struct vm_config *config, bool json)
{
	struct errmsg text = {0};
	int fd, code;
	pid_t pid = detach_fork(&fd, &text);

	if (pid < 0)
		return cli_error(verb, CLI_FAILED, "%s", errmsg_text(&text, pid));
	if (pid == 0)
		return run_vm(verb, config, fd);
	detach_wait(fd, &code, &text);
	close(fd);
	if (code != CLI_OK)
		return cli_error(verb, code, "%s", text.text);
	if (json)
		return client_print_json(verb,
					 json_pack("{s:s, s:s, s:i}", "name", config->name, "state",
						   "running", "pid", (int)pid),
					 false);
	printf("%s: running, pid %d\n", config->name, (int)pid);
	return CLI_OK;
}

static int print_config(const char *verb, const struct vm_config *config)
{
	json_t *json = vm_config_to_json(config);
	int r;

	if (!json)
		return cli_error(verb, CLI_FAILED, "--dry-run: a path is not UTF-8, or memory ran out");
	r = json_dumpf(json, stdout, JSON_INDENT(2));
	json_decref(json);
	return r < 0 || putchar('\n') == EOF ? CLI_FAILED : CLI_OK;
}

int cmd_run(int argc, char **argv)
{
	struct run_options options;
	struct errmsg err = {0};
	int r = run_options_parse(argc, argv, &options, &err);
	int code;

	if (r < 0)
		code = cli_error(argv[0], CLI_USAGE, "%s", errmsg_text(&err, r));
	else if (options.dry_run)
		code = print_config(argv[0], &options.config);
	else if (options.config.detach)
		code = run_detached(argv[0], &options.config, options.json);
	else
		code = run_vm(argv[0], &options.config, -1);
	vm_config_done(&options.config);
	return code;
}
