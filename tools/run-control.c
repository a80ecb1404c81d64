/* SPDX-License-Identifier: Apache-2.0 */
/* The control socket of a running VM: what its requests do to VM and console. */
#include "tools/run-control.h"

#include <errno.h>

#include "base/log.h"
#include "vmm/engine.h"

struct run_control {
	struct confine_done done;
	thread_confine_fn confine; /* NULL: threads keep what they may do */
	struct vm *vm;
	struct console *console;
	struct control *control;
	void (*attach)(void *arg, int fd);
	void *attach_arg;
};

/* The console is not the VM's, but people look for it among the devices. */
static json_t *console_json(struct console *console)
{
	struct console_counters c;

	console_counters(console, &c);
	return json_pack("{s:s, s:I, s:I, s:I, s:I, s:i}", "type", "console", "output_bytes",
			 (json_int_t)c.output_bytes, "output_dropped_bytes",
			 (json_int_t)c.output_dropped_bytes, "input_bytes", (json_int_t)c.input_bytes,
			 "input_dropped_bytes", (json_int_t)c.input_dropped_bytes, "readers", (int)c.readers);
}

static json_t *confinement_json(const struct confine_done *done)
{
	static const char *const modes[] = {[CONFIG_SECCOMP_AUTO] = "off", /* not yet confined */
					    [CONFIG_SECCOMP_ON] = "on",
					    [CONFIG_SECCOMP_LOG] = "log",
					    [CONFIG_SECCOMP_OFF] = "off"};

	return json_pack("{s:b, s:b, s:i, s:s, s:I}", "sandbox", done->sandbox, "empty_root", done->new_root,
			 "landlock_abi", done->landlock_abi, "seccomp", modes[done->seccomp], "uid",
			 (json_int_t)done->uid);
}

static json_t *on_stats(void *arg)
{
	struct run_control *rc = arg;
	json_t *stats = vm_stats_json(rc->vm);

	if (!stats)
		return NULL;
	if (json_array_append_new(json_object_get(stats, "devices"), console_json(rc->console)) < 0 ||
	    json_object_set_new(stats, "confinement", confinement_json(&rc->done)) < 0) {
		json_decref(stats);
		return NULL;
	}
	return stats;
}

static int on_usage(void *arg, struct vm_usage *ret)
{
	struct run_control *rc = arg;

	return vm_usage(rc->vm, ret);
}

static void on_power_button(void *arg)
{
	struct run_control *rc = arg;

	log_info("pressing the power button");
	vm_power_button(rc->vm);
}

static void on_kill(void *arg)
{
	struct run_control *rc = arg;

	vm_end(rc->vm, VM_END_KILLED);
}

static int on_balloon(void *arg, uint64_t bytes)
{
	struct run_control *rc = arg;

	return vm_balloon_set(rc->vm, bytes);
}

static json_t *on_balloon_state(void *arg)
{
	struct run_control *rc = arg;

	return vm_balloon_json(rc->vm);
}

/* The guest stands still meanwhile, so that the dump is of one moment. */
static int on_dump(void *arg, int fd, enum dump_format format, const atomic_bool *cancel, struct errmsg *err,
		   struct dump_result *ret)
{
	struct run_control *rc = arg;
	int r;

	vm_pause(rc->vm);
	r = dump_write(vm_memory(rc->vm), fd, format, cancel, err, ret);
	vm_resume(rc->vm);
	return r;
}

static void on_pause(void *arg)
{
	struct run_control *rc = arg;

	vm_pause(rc->vm);
}

static void on_resume(void *arg)
{
	struct run_control *rc = arg;

	vm_resume(rc->vm);
}

static int on_merge(void *arg, unsigned max_ms, const atomic_bool *cancel, struct errmsg *err,
		    struct control_merged *ret)
{
	struct run_control *rc = arg;

	if (!vm_agent(rc->vm))
		return errmsg_set(err, -ENOTSUP, "this VM shares no pages: --engine off, or its kernel cannot");
	return engine_merge(vm_agent(rc->vm), max_ms, cancel, err, ret);
}

static int on_attach_store(void *arg, int fd)
{
	struct run_control *rc = arg;

	if (!rc->attach)
		return -ENODEV;
	rc->attach(rc->attach_arg, fd);
	return 0;
}

static void on_thread_started(void *arg)
{
	struct run_control *rc = arg;

	if (rc->confine)
		rc->confine(THREAD_WORKER);
}

static int on_console(void *arg, int fd, const void *prefix, size_t prefix_len, const void *input,
		      size_t input_len)
{
	struct run_control *rc = arg;

	return console_attach(rc->console, fd, prefix, prefix_len, input, input_len);
}

static const struct control_ops ops = {
	.stats = on_stats,
	.usage = on_usage,
	.power_button = on_power_button,
	.kill = on_kill,
	.balloon = on_balloon,
	.balloon_state = on_balloon_state,
	.dump = on_dump,
	.pause = on_pause,
	.resume = on_resume,
	.merge = on_merge,
	.attach_store = on_attach_store,
	.thread_started = on_thread_started,
	.console = on_console,
};

int run_control_new(struct io_loop *loop, const char *path, struct vm *vm, struct console *console,
		    const char *name, struct errmsg *err, struct run_control **ret)
{
	cleanup(run_control_free_p) struct run_control *rc = calloc(1, sizeof(*rc));
	int r;

	if (!rc)
		return -ENOMEM;
	rc->vm = vm;
	rc->console = console;
	r = control_new(loop, path, name, &ops, rc, err, &rc->control);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(rc);
	return 0;
}

void run_control_set_attach(struct run_control *rc, void (*attach)(void *arg, int fd), void *arg)
{
	rc->attach = attach;
	rc->attach_arg = arg;
}

void run_control_confined(struct run_control *rc, const struct confine_done *done, thread_confine_fn confine,
			  bool leave_file)
{
	rc->done = *done;
	rc->confine = confine;
	if (leave_file)
		control_leave_file(rc->control);
}

void run_control_free(struct run_control *rc)
{
	if (!rc)
		return;
	control_free(rc->control);
	free(rc);
}

void run_control_stop(struct run_control *rc, uint64_t timeout_ns)
{
	control_stop(rc->control, timeout_ns);
}

void run_control_rebooted(struct run_control *rc)
{
	control_rebooted(rc->control);
}

void run_control_ended(struct run_control *rc, const char *end, const char *detail)
{
	control_ended(rc->control, end, detail);
}
