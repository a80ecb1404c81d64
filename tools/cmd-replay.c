/* SPDX-License-Identifier: Apache-2.0 */
/* `sardine replay`: guest RAM without vCPUs under a name of its own, from its command line to its end; and the check of one
 * that runs. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>

#include "base/addr.h"
#include "base/log.h"
#include "base/size.h"
#include "tools/cli.h"
#include "tools/client.h"
#include "tools/replay-spec.h"
#include "tools/replay-vm.h"
#include "tools/run-cgroup.h"
#include "tools/run-signals.h"
#include "vmm/rundir.h"

#define MEM_MAX	 (UINT64_C(1) << 40)
#define RATE_MAX 1000000000u
/* Where is written unless told. */
#define PARTS_DEFAULT (REPLAY_PARTS / 10)

enum {
	OPT_IMAGE = 256,
	OPT_SYNTHETIC,
	OPT_NAME,
	OPT_MEM,
	OPT_SEED,
	OPT_WRITE_RATE,
	OPT_WRITE_SET,
	OPT_ENGINE,
	OPT_THP,
	OPT_CGROUP,
	OPT_MANUAL,
	OPT_CHECK,
};

struct args {
	struct replay_vm_config vm;
	const char *cgroup;
	bool check, json, write_set, any; /* any: an option that says what to start */
	struct errmsg err;		  /* the first thing that is wrong */
};

/* What a replay holds, in the order it is made; undone backwards. */
struct replay {
	struct rundir rundir;
	struct rundir_name *name;
	struct io_loop *loop;
	struct replay_vm *vm;
	struct control *control;
	struct run_signals *signals;
};

static void wrong(struct args *a, const char *option, const char *arg, const char *wanted)
{
	errmsg_set(&a->err, -EINVAL, "--%s %.80s: %s", option, arg, wanted);
}

static void set_mem(struct args *a, const char *arg)
{
	uint64_t bytes;

	if (size_parse(arg, &bytes) < 0 || bytes == 0 || bytes > MEM_MAX || bytes & PAGE_MASK)
		wrong(a, "mem", arg, "give a size of whole pages of 4096 bytes, at most 1T");
	else
		a->vm.load.frames = bytes / PAGE_BYTES;
}

/* A share of 1 with at most six digits. */
static void set_write_set(struct args *a, const char *arg)
{
	const char *p = arg;
	uint64_t parts = 0, unit = REPLAY_PARTS;

	if (*p == '0' || *p == '1')
		parts = (uint64_t)(*p++ - '0') * REPLAY_PARTS;
	if (*p == '.')
		for (p++; *p >= '0' && *p <= '9' && unit > 1; p++)
			parts += (uint64_t)(*p - '0') * (unit /= 10);
	if (p == arg || *p || parts == 0 || parts > REPLAY_PARTS)
		wrong(a, "write-set", arg, "give a share of the memory, such as 0.1: above 0, at most 1");
	a->vm.write_parts = parts;
	a->write_set = true;
}

static void set_engine(struct args *a, const char *arg)
{
	for (int i = 0; i < REPLAY_ENGINES; i++) {
		if (strcmp(arg, replay_engine_name((enum replay_engine)i)) == 0) {
			a->vm.engine = (enum replay_engine)i;
			return;
		}
	}
	wrong(a, "engine", arg, "must be off, local, store or ksm");
}

static void set_thp(struct args *a, const char *arg)
{
	if (strcmp(arg, "on") == 0)
		a->vm.load.thp = REPLAY_THP_ON;
	else if (strcmp(arg, "off") == 0)
		a->vm.load.thp = REPLAY_THP_OFF;
	else
		wrong(a, "thp", arg, "must be on or off");
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct args *a = state->input;

	a->any |= key > OPT_NAME && key < OPT_CHECK;
	switch (key) {
	case 'j':
		a->json = true;
		return 0;
	case OPT_CHECK:
		a->check = true;
		return 0;
	case OPT_IMAGE:
		a->vm.load.image = arg;
		return 0;
	case OPT_SYNTHETIC:
		a->vm.load.synthetic = arg;
		return 0;
	case OPT_NAME:
		a->vm.name = arg;
		return 0;
	case OPT_MEM:
		set_mem(a, arg);
		return 0;
	case OPT_SEED:
		if (number_parse(arg, UINT32_MAX, &a->vm.load.seed) < 0)
			wrong(a, "seed", arg, "give a number, 0 to 4294967295");
		return 0;
	case OPT_WRITE_RATE:
		if (number_parse(arg, RATE_MAX, &a->vm.write_rate) < 0)
			wrong(a, "write-rate", arg, "give writes a second, 0 to 1000000000");
		return 0;
	case OPT_WRITE_SET:
		set_write_set(a, arg);
		return 0;
	case OPT_ENGINE:
		set_engine(a, arg);
		return 0;
	case OPT_THP:
		set_thp(a, arg);
		return 0;
	case OPT_MANUAL:
		a->vm.manual = true;
		return 0;
	case OPT_CGROUP:
		a->cgroup = arg;
		return 0;
	case ARGP_KEY_ARG:
		errmsg_set(&a->err, -EINVAL, "%.80s: one argument too many", arg);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

/* What no single option can know. */
static void check_args(struct args *a)
{
	const struct replay_load *load = &a->vm.load;
	struct replay_spec spec;
	struct errmsg err = {0};

	if (!a->vm.name)
		errmsg_set(&a->err, -EINVAL, "--name is missing: give the VM a name");
	else if (!rundir_name_valid(a->vm.name))
		errmsg_set(&a->err, -EINVAL,
			   "--name %.80s: use letters, digits, '-', '_' and '.', at most %d, a letter or a "
			   "digit "
			   "first",
			   a->vm.name, CONFIG_NAME_MAX);
	if (a->check) {
		if (a->any || load->image)
			errmsg_set(&a->err, -EINVAL,
				   "--check looks at a replay VM that runs: give only --name with it");
		return;
	}
	if (a->json)
		errmsg_set(&a->err, -EINVAL, "--json is for --check");
	if (!load->image == !load->synthetic)
		errmsg_set(&a->err, -EINVAL,
			   load->image ? "--image and --synthetic: give one of them"
				       : "--image or --synthetic: give one of them");
	else if (load->synthetic && replay_spec_parse(load->synthetic, &err, &spec) < 0)
		errmsg_set(&a->err, -EINVAL, "--synthetic %s", err.text);
	else if (load->synthetic)
		replay_spec_done(&spec);
	if (load->synthetic && !load->frames)
		errmsg_set(&a->err, -EINVAL, "--mem is missing: say how much memory to generate");
	if (a->write_set && !a->vm.write_rate)
		errmsg_set(&a->err, -EINVAL, "--write-set: give --write-rate, too");
}

/* Ask one that runs. */
static int check_running(const char *verb, const struct args *a)
{
	struct errmsg err = {0};
	struct client client = CLIENT_NONE;
	json_t *result = NULL;
	const json_t *frame;
	int code = CLI_OK;
	int r = client_open(a->vm.name, &err, &client);

	if (r == 0)
		r = client_call(&client, json_pack("{s:s}", "cmd", "check"), -1, 0, &err, &result);
	client_close(&client);
	if (r < 0)
		return cli_error(verb, CLI_FAILED, "%s", errmsg_text(&err, r));
	frame = json_object_get(result, "wrong_frame");
	if (a->json) {
		code = client_print_json(verb, json_incref(result), false);
		if (code == CLI_OK && json_is_integer(frame))
			code = CLI_FAILED;
	} else if (json_is_integer(frame)) {
		code = cli_error(verb, CLI_FAILED, "%s: frame %lld reads wrong", a->vm.name,
				 (long long)json_integer_value(frame));
	} else {
		printf("%s: %lld frames read as they must\n", a->vm.name,
		       (long long)json_integer_value(json_object_get(result, "frames")));
	}
	json_decref(result);
	return code;
}

static bool on_hangup(void *arg, bool by_kernel)
{
	(void)arg;
	(void)by_kernel;
	return run_signals_hangup_ignored();
}

static void on_stop(void *arg)
{
	struct replay *replay = arg;

	replay_vm_end(replay->vm, VM_END_POWER_OFF);
}

static void on_kill(void *arg)
{
	struct replay *replay = arg;

	replay_vm_end(replay->vm, VM_END_KILLED);
}

static const struct run_signals_ops signal_ops = {.hangup = on_hangup, .stop = on_stop, .kill = on_kill};

static int prepare(struct replay *replay, const struct args *a, struct errmsg *err)
{
	auto_free char *path = NULL;
	int r = rundir_open(true, err, &replay->rundir);

	if (r == 0)
		r = rundir_claim(&replay->rundir, a->vm.name, err, &replay->name);
	if (r == 0 && a->cgroup)
		r = cgroup_join(a->cgroup, err);
	if (r < 0)
		return r;
	run_signals_block();
	path = rundir_file(&replay->rundir, a->vm.name, "sock");
	r = path ? io_loop_new(&replay->loop) : -ENOMEM;
	if (r == 0)
		r = replay_vm_new(&a->vm, replay->loop, err, &replay->vm);
	if (r == 0)
		r = run_signals_new(replay->loop, &signal_ops, replay, err, &replay->signals);
	if (r == 0)
		r = replay_vm_start(replay->vm, err);
	/* Last: who finds the socket finds a VM that runs. */
	if (r == 0)
		r = control_new(replay->loop, path, a->vm.name, &replay_vm_ops, replay->vm, err,
				&replay->control);
	return r;
}

static void undo(struct replay *replay)
{
	control_free(replay->control);
	run_signals_free(replay->signals);
	replay_vm_free(replay->vm);
	io_loop_free(replay->loop);
	rundir_release(replay->name);
	rundir_close(&replay->rundir);
}

/* Check, tell who waits, say it. */
static int ended(const char *verb, struct replay *replay, const char *name)
{
	const char *detail;
	enum vm_end end = replay_vm_finish(replay->vm, &detail);

	control_ended(replay->control, vm_end_name(end), detail);
	if (end == VM_END_POWER_OFF) {
		log_info("ended: every byte read as it must");
		return CLI_OK;
	}
	return cli_error(verb, CLI_FAILED, "%s: %s%s%s", name, vm_end_name(end), detail[0] ? ": " : "",
			 detail);
}

static int run_replay(const char *verb, const struct args *a)
{
	struct replay replay = {.rundir = RUNDIR_NONE};
	struct errmsg err = {0};
	char tag[sizeof("sardine ") + CONFIG_NAME_MAX];
	int r, code;

	snprintf(tag, sizeof(tag), "sardine %s", a->vm.name);
	r = log_open(NULL, LOG_LEVEL_INFO, tag);
	if (r == 0)
		r = prepare(&replay, a, &err);
	if (r == 0) {
		log_info("running: pid %d", (int)getpid());
		r = io_loop_run(replay.loop);
	}
	if (r == -ECANCELED)
		errmsg_set(&err, r, "stopped by a signal before it was filled");
	code = r < 0 ? cli_error(verb, r == -ENOTSUP ? CLI_CANNOT : CLI_FAILED, "%s", errmsg_text(&err, r))
		     : ended(verb, &replay, a->vm.name);
	undo(&replay);
	return code;
}

#define ROW(name_, key_, arg_, doc_)                                                                         \
	{                                                                                                    \
		.name = name_, .key = key_, .arg = arg_, .doc = doc_                                         \
	}

int cmd_replay(int argc, char **argv)
{
	static const struct argp_option options[] = {
		ROW("name", OPT_NAME, "NAME", "the VM's name, as of `run`"),
		ROW("image", OPT_IMAGE, "FILE",
		    "fill the memory from a dump, in any form that `analyze` reads"),
		ROW("synthetic", OPT_SYNTHETIC, "SPEC",
		    "generate it, e.g. zero:50,copy:64x512,fill:16,unique:8, or one of the presets guests, "
		    "clones, "
		    "runs, scattered, unique"),
		ROW("mem", OPT_MEM, "SIZE",
		    "how much memory; with --image its size unless given: the rest is never touched"),
		ROW("seed", OPT_SEED, "N",
		    "of what is unique, of where copies lie and of what is written (default 1)"),
		ROW("write-rate", OPT_WRITE_RATE, "N", "write so many times a second (default 0)"),
		ROW("write-set", OPT_WRITE_SET, "SHARE", "in this share of the memory (default 0.1)"),
		ROW("engine", OPT_ENGINE, "off|local|store|ksm",
		    "what shares equal pages: nothing, our store inside this VM (default) or through "
		    "sardined, the kernel's KSM"),
		ROW("manual", OPT_MANUAL, NULL, "look for what to share only when asked by `merge`"),
		ROW("thp", OPT_THP, "on|off", "transparent huge pages; as the host is set unless given"),
		ROW("cgroup", OPT_CGROUP, "DIR", "join this control group first"),
		ROW("check", OPT_CHECK, NULL, "check every byte of the replay VM NAME that runs, and end"),
		CLIENT_OPTION_JSON,
		{0},
	};
	static const struct argp argp = {
		.options = options,
		.parser = parse_option,
		.doc = "Runs a VM without vCPUs: guest memory from a dump or from a specification, which is "
		       "shared and "
		       "given back like any VM's, and of which every byte is known. Needs no /dev/kvm.\v"
		       "`ps`, `stats`, `merge`, `pause`, `resume`, `wait`, `stop` and `kill` work on it. At "
		       "its end, by `stop` "
		       "or a signal, it checks every byte.\n"
		       "Exit status: 0 all were right, 1 one was not (the frame's number is on standard "
		       "error) or it was "
		       "killed, 2 wrong command line, 77 this host cannot.",
	};
	struct args a = {.vm = {.load = {.seed = 1, .stopped = run_signals_pending},
				.write_parts = PARTS_DEFAULT,
				.engine = REPLAY_ENGINE_LOCAL}};

	argp_parse(&argp, argc, argv, 0, NULL, &a);
	check_args(&a);
	if (a.err.text[0])
		return cli_error(argv[0], CLI_USAGE, "%s", a.err.text);
	return a.check ? check_running(argv[0], &a) : run_replay(argv[0], &a);
}
