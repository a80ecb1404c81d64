/* SPDX-License-Identifier: Apache-2.0 */
/* The command line of `sardine run`, turned into a configuration. */
#include "tools/run-options.h"

#include <argp.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

enum { OPT_DRY_RUN = 0x200, OPT_DETACH, OPT_JSON, OPT_CONFIG, OPT_TEXT };

/* Options whose text goes to vm_config_set_text(): their argp key is OPT_TEXT and the line of the row. */
#define ROW(option_, arg_, doc_)                                                                             \
	{                                                                                                    \
		.name = option_, .key = OPT_TEXT + __LINE__, .arg = arg_, .doc = doc_                        \
	}

static const struct argp_option options[] = {
	ROW("name", "NAME", "the VM's name: letters, digits, '-', '_' and '.', at most 63"),
	ROW("kernel", "FILE", "a bzImage or an ELF vmlinux"),
	ROW("initrd", "FILE", "an initial RAM disk"),
	ROW("cmdline", "STRING", "the kernel's command line (console=ttyS0 panic=-1)"),
	ROW("mem", "SIZE", "RAM, 16M to 1024G (256M)"),
	ROW("cpus", "N", "vCPUs, 1 to 32 (1)"),
	ROW("disk", "path=FILE[,ro][,direct=on|off][,serial=S][,bw=SIZE][,iops=N]",
	    "a raw disk image; once per disk"),
	ROW("net", "tap=NAME|tap-fd=N[,mac=MAC][,mtu=N][,bw=SIZE][,iops=N]",
	    "a network device on a tap; once per device"),
	ROW("console", "stdio|none|file:PATH|unix:PATH", "where the serial port goes (stdio)"),
	ROW("engine", "auto|store|local|off",
	    "who shares equal pages: our store, with other VMs, or inside this one only (auto: store if possible)"),
	ROW("daemon", "PATH", "the socket of sardined (/run/sardine/sardined.sock for root)"),
	ROW("mergeable", "on|off", "let the kernel's KSM merge this VM's memory (off)"),
	ROW("kaslr", "on|off", "let the kernel choose its own addresses; shares less (off)"),
	ROW("vsock", "cid=N,path=PATH[,bw=SIZE][,iops=N]",
	    "sockets between the guest and Unix sockets: PATH, PATH_PORT (off)"),
	ROW("rng", "on|off|[bw=SIZE][,iops=N]",
	    "random numbers for the guest, at most so many a second (on)"),
	ROW("balloon", "on|off|[size=SIZE][,reporting=on|off]..",
	    "a memory balloon device (on), with what it takes from the guest (0)"),
	ROW("stop-timeout", "SECONDS", "from the power button by SIGTERM to the kill (30)"),
	ROW("cgroup", "PATH", "a control group's folder, joined before memory is used"),
	ROW("log-file", "FILE", "append the log here (stderr; detached: NAME.log)"),
	ROW("log-level", "LEVEL", "error, warn, info or debug (info)"),
	ROW("cache-dir", "DIR", "where unpacked kernels and initrds are kept (/var/cache/sardine for root)"),
	ROW("on-reboot", "restart|exit", "when the guest resets: boot it again, or end (restart)"),
	ROW("on-crash", "restart|exit", "when the guest crashes (exit)"),
	ROW("user", "NAME[:GROUP]", "run as this user once everything is open (root only)"),
	ROW("sandbox", "auto|on|off",
	    "an empty root, no capabilities, tight limits; auto: as far as possible (auto)"),
	ROW("seccomp", "auto|on|log|off",
	    "kill a VM whose threads make system calls they have no need of (auto)"),
	{.name = "config",
	 .key = OPT_CONFIG,
	 .arg = "FILE",
	 .doc = "a JSON configuration, read before the other options"},
	{.name = "dry-run", .key = OPT_DRY_RUN, .doc = "print the resolved configuration as JSON and stop"},
	{.name = "detach",
	 .key = OPT_DETACH,
	 .doc = "return once the VM runs; it lives on in the background"},
	{.name = "json", .key = OPT_JSON, .doc = "with --detach: print the VM's name and pid as JSON"},
	{0},
};

/* What argp saw, applied later: --config comes first wherever it stands. */
struct given {
	int key;
	const char *name;
	const char *arg;
};

struct parse {
	struct given *given; /* room for every argument */
	size_t count;
};

/* The name of a row; NULL: argp asks about something else. */
static const char *option_name(int key)
{
	for (size_t i = 0; i < ARRAY_SIZE(options); i++)
		if (options[i].key == key)
			return options[i].name;
	return NULL;
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	const char *name = option_name(key);
	struct parse *parse = state->input;

	if (key == ARGP_KEY_ARG)
		argp_error(state, "%s: not an option; a VM is named with --name", arg);
	if (key < OPT_DRY_RUN || !name)
		return ARGP_ERR_UNKNOWN;
	parse->given[parse->count++] = (struct given){.key = key, .name = name, .arg = arg};
	return 0;
}

static int apply(const struct given *given, struct run_options *o, struct errmsg *err)
{
	switch (given->key) {
	case OPT_CONFIG:
		return 0;
	case OPT_DRY_RUN:
		o->dry_run = true;
		return 0;
	case OPT_DETACH:
		o->config.detach = true;
		return 0;
	case OPT_JSON:
		o->json = true;
		return 0;
	default:
		return vm_config_set_text(&o->config, given->name, given->arg, err);
	}
}

static int resolve(struct vm_config *config, struct errmsg *err)
{
	auto_free char *cwd = getcwd(NULL, 0);
	int r;

	if (!cwd)
		return errmsg_set(err, -errno, "the current folder: %s; start from another", strerror(errno));
	r = vm_config_resolve(config, cwd);
	return r < 0 ? r : vm_config_check(config, err);
}

int run_options_parse(int argc, char **argv, struct run_options *ret, struct errmsg *err)
{
	static const struct argp argp = {
		.options = options,
		.parser = parse_option,
		.doc = "Starts a VM and stays with it until it ends. SIGTERM and SIGINT press its power "
		       "button, a "
		       "second one kills it.\vExit status: 0 the guest powered off, 1 killed or failed, 2 "
		       "wrong "
		       "command line or configuration, 77 this host cannot.",
	};
	auto_free struct given *given = calloc((size_t)argc, sizeof(*given));
	struct parse parse = {.given = given};
	int r;

	*ret = (struct run_options){0};
	r = vm_config_init(&ret->config);
	if (r < 0 || !given)
		return -ENOMEM;
	r = argp_parse(&argp, argc, argv, 0, NULL, &parse);
	if (r != 0)
		return -r;
	for (size_t i = 0; i < parse.count; i++) {
		if (given[i].key != OPT_CONFIG)
			continue;
		r = vm_config_load(&ret->config, given[i].arg, err);
		if (r < 0)
			return r;
	}
	for (size_t i = 0; i < parse.count; i++) {
		r = apply(&given[i], ret, err);
		if (r < 0)
			return r;
	}
	return resolve(&ret->config, err);
}
