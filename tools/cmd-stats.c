/* SPDX-License-Identifier: Apache-2.0 */
/* `sardine stats`: what the VMs occupy, and what sharing saves. docs/stats.md says what each figure means. */
#include <errno.h>
#include <string.h>
#include <time.h>

#include "base/size.h"
#include "tools/cli.h"
#include "tools/client.h"
#include "tools/store-client.h"
#include "tools/vm-list.h"

#define WATCH_MAX_S 86400

struct args {
	struct client_args common;
	uint64_t watch_s; /* 0: once */
};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct args *args = state->input;

	if (key != 'w')
		return client_parse(&args->common, 1, true, key, arg, state);
	if (number_parse(arg, WATCH_MAX_S, &args->watch_s) < 0 || args->watch_s == 0)
		argp_error(state, "--watch %s: give seconds, 1 to %d", arg, WATCH_MAX_S);
	return 0;
}

static void print_row(const char *name, const char *state, const struct vm_usage *u)
{
	const uint64_t figures[] = {
		u->configured, u->populated, u->private,     u->shared_from_birth,
		u->merged,     u->store,     u->saved_total,
	};

	printf("%-20s %-9s", name, state);
	for (size_t i = 0; i < ARRAY_SIZE(figures); i++) {
		char size[16];

		printf(" %10s", size_format(figures[i], size, sizeof(size)));
	}
	putchar('\n');
}

static void print_host(const struct host_usage *host)
{
	char without[16], occupied[16], zero[16], total[32];

	snprintf(total, sizeof(total), "total of %u", host->vms);
	print_row(total, "", &host->sum);
	printf("ratio %.2f: %s without sharing, %s with it", host_usage_ratio(host),
	       size_format(host->sum.occupied + host->sum.saved_total, without, sizeof(without)),
	       size_format(host->sum.occupied, occupied, sizeof(occupied)));
	if (host->sum.zero_known || !host->vms)
		printf("; zero pages, not counted: %s\n",
		       size_format(host->sum.saved_zero, zero, sizeof(zero)));
	else
		printf("; zero pages: not counted, this kernel does not tell\n");
}

static void print_table(const struct vm_list *list)
{
	printf("%-20s %-9s %10s %10s %10s %10s %10s %10s %10s\n", "NAME", "STATE", "CONFIGURED", "POPULATED",
	       "PRIVATE", "BIRTH", "MERGED", "STORE", "SAVED");
	for (size_t i = 0; i < list->count; i++) {
		const struct vm_item *item = &list->items[i];
		const char *state = json_string_value(json_object_get(item->stats, "state"));

		print_row(item->entry.name, state ? state : "silent", &item->usage);
	}
}

/* The numbers of an object, to the end of the line. */
static void print_members(const json_t *object)
{
	const char *key;
	json_t *value;

	json_object_foreach((json_t *)(uintptr_t)object, key, value)
	{
		if (json_is_integer(value))
			printf(" %s=%lld", key, (long long)json_integer_value(value));
	}
	putchar('\n');
}

static void print_devices(const json_t *devices)
{
	size_t index;
	json_t *device;

	json_array_foreach(devices, index, device)
	{
		const json_t *guest, *liveness = json_object_get(device, "liveness");

		printf("%s", json_string_value(json_object_get(device, "type")));
		if (json_is_string(liveness))
			printf(" %s", json_string_value(liveness));
		print_members(device);
		guest = json_object_get(device, "guest");
		if (json_is_object(guest)) {
			printf("  guest, %.1f s ago", json_number_value(json_object_get(guest, "age_s")));
			print_members(guest);
		}
	}
}

/* What of --sandbox and --seccomp is in force. A VM of an older version does not say. */
static void print_confinement(const json_t *c)
{
	const char *seccomp = json_string_value(json_object_get(c, "seccomp"));
	bool sandbox = json_is_true(json_object_get(c, "sandbox"));
	long long abi = json_integer_value(json_object_get(c, "landlock_abi"));
	char landlock[32] = "no Landlock";

	if (!c)
		return;
	if (abi)
		snprintf(landlock, sizeof(landlock), "Landlock %lld", abi);
	printf("%-26s %10s", "sandbox", sandbox ? "on" : "off");
	if (sandbox)
		printf(", %s, %s",
		       json_is_true(json_object_get(c, "empty_root")) ? "empty root" : "the host's root",
		       landlock);
	printf("; seccomp %s; uid %lld\n", seccomp ? seccomp : "?",
	       (long long)json_integer_value(json_object_get(c, "uid")));
}

static void print_quantiles(const char *what, const json_t *of)
{
	if (!of)
		return;
	printf("  %s p50_us=%.0f p99_us=%.0f p999_us=%.0f max_us=%.0f", what,
	       json_number_value(json_object_get(of, "p50_us")),
	       json_number_value(json_object_get(of, "p99_us")),
	       json_number_value(json_object_get(of, "p999_us")),
	       json_number_value(json_object_get(of, "max_us")));
	print_members(of);
}

static void print_engine(const json_t *engine)
{
	if (!engine)
		return;
	printf("engine %s %s cpu_s=%.3f", json_string_value(json_object_get(engine, "link")),
	       json_string_value(json_object_get(engine, "tracker")),
	       json_number_value(json_object_get(engine, "cpu_s")));
	print_members(engine);
	printf("  frames");
	print_members(json_object_get(engine, "frames"));
	print_quantiles("work in holds", json_object_get(engine, "hold"));
	print_quantiles("guest held", json_object_get(engine, "held"));
}

/* What the table has no room for, of one VM. */
static void print_more(const struct vm_item *item)
{
	static const struct {
		const char *label;
		size_t offset;
	} figures[] = {
		{"saved by files from birth", offsetof(struct vm_usage, saved_birth)},
		{"saved by KSM", offsetof(struct vm_usage, saved_ksm)},
		{"saved by the store", offsetof(struct vm_usage, saved_store)},
		{"occupied", offsetof(struct vm_usage, occupied)},
		{"ballooned", offsetof(struct vm_usage, ballooned)},
		{"in huge pages", offsetof(struct vm_usage, huge)},
		{"swapped out", offsetof(struct vm_usage, swapped)},
		{"private to the VMM", offsetof(struct vm_usage, vmm_private)},
	};
	const json_t *boot = json_object_get(item->stats, "boot"), *entry = json_object_get(boot, "entry");
	char size[16];

	putchar('\n');
	for (size_t i = 0; i < ARRAY_SIZE(figures); i++) {
		const uint64_t *v = (const void *)((const char *)&item->usage + figures[i].offset);

		printf("%-26s %10s\n", figures[i].label, size_format(*v, size, sizeof(size)));
	}
	printf("%-26s %10s, %lld bytes copied\n", "entered by",
	       json_is_string(entry) ? json_string_value(entry) : "?",
	       (long long)json_integer_value(json_object_get(boot, "copied_bytes")));
	print_confinement(json_object_get(item->stats, "confinement"));
	print_engine(json_object_get(item->stats, "engine"));
	print_devices(json_object_get(item->stats, "devices"));
}

static int print_json(const char *verb, const struct args *args, const struct vm_list *list)
{
	json_t *vms, *host;

	if (args->common.name)
		return client_print_json(verb, json_incref(list->items[0].stats), args->watch_s > 0);
	vms = json_array();
	for (size_t i = 0; i < list->count; i++)
		if (list->items[i].stats)
			json_array_append(vms, list->items[i].stats);
	host = host_usage_json(&list->host);
	if (json_object_set_new(host, "store", store_host_json()) < 0) {
		json_decref(host);
		host = NULL;
	}
	return client_print_json(
		verb, json_pack("{s:i, s:o, s:o}", "schema", USAGE_SCHEMA, "host", host, "vms", vms),
		args->watch_s > 0);
}

static int print_once(const char *verb, const struct args *args)
{
	struct errmsg err = {0};
	struct vm_list list;
	int code = CLI_OK;
	int r = vm_list_get(args->common.name, &err, &list);

	if (r < 0)
		return cli_error(verb, CLI_FAILED, "%s", errmsg_text(&err, r));
	if (args->common.json) {
		code = print_json(verb, args, &list);
	} else {
		print_table(&list);
		if (args->common.name)
			print_more(&list.items[0]);
		else
			print_host(&list.host);
	}
	vm_list_done(&list);
	return code;
}

/* On a terminal each table takes the place of the last one; elsewhere they follow each other. */
static int watch(const char *verb, const struct args *args)
{
	bool redraw = isatty(STDOUT_FILENO) == 1 && !args->common.json;

	for (;;) {
		int code;

		if (redraw)
			printf("\033[H\033[J");
		code = print_once(verb, args);
		if (code != CLI_OK)
			return code;
		if (!redraw && !args->common.json)
			putchar('\n');
		if (fflush(stdout) != 0)
			return cli_error(verb, CLI_FAILED, "standard output: %s", strerror(errno));
		nanosleep(&(struct timespec){.tv_sec = (time_t)args->watch_s}, NULL);
	}
}

int cmd_stats(int argc, char **argv)
{
	static const struct argp_option options[] = {
		{.name = "watch",
		 .key = 'w',
		 .arg = "SECONDS",
		 .doc = "again and again; with --json a line each time"},
		CLIENT_OPTION_JSON,
		{0},
	};
	static const struct argp argp = {
		.options = options,
		.parser = parse_option,
		.args_doc = "[NAME]",
		.doc = "Shows what the VMs that run here occupy, and what sharing saves; more of one VM when "
		       "it is "
		       "named.\vBIRTH: frames shared since the start, of kernel and initrd. MERGED: frames "
		       "that KSM "
		       "merged. STORE: frames that are pages of the page store. SAVED: what the VM would "
		       "occupy more without them. Saved by zero pages is "
		       "not in it.",
	};
	struct args args = {0};

	argp_parse(&argp, argc, argv, 0, NULL, &args);
	return args.watch_s ? watch(argv[0], &args) : print_once(argv[0], &args);
}
