/* SPDX-License-Identifier: Apache-2.0 */
/* `sardine merge`: share what can be shared, now, and say what that came to. */
#include <errno.h>
#include <string.h>

#include "base/size.h"
#include "tools/cli.h"
#include "tools/client.h"
#include "vmm/control.h"

/* Of --all: VMs that write more than they share could go on for ever. */
#define ROUNDS_MAX 64u

enum { OPT_TIMEOUT = 256 };

struct args {
	struct client_args common;
	bool all;
	uint64_t timeout_s;
};

struct route {
	uint64_t pages, bytes;
};

/* Of one VM, over all rounds. */
struct merged {
	char name[CONFIG_NAME_MAX + 1];
	struct route store, zero;
	uint64_t passes, holds;
	double cpu_s, elapsed_s;
	bool settled;
	struct errmsg err; /* set: it could not */
};

struct work {
	struct merged *vms;
	size_t count;
	unsigned rounds;
};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct args *args = state->input;

	switch (key) {
	case 'a':
		args->all = true;
		return 0;
	case OPT_TIMEOUT:
		if (number_parse(arg, CONTROL_MERGE_MAX_S, &args->timeout_s) < 0)
			argp_error(state, "--timeout %s: give seconds, 0 to %u", arg, CONTROL_MERGE_MAX_S);
		return 0;
	case ARGP_KEY_END:
		if (args->all == (args->common.name != NULL))
			argp_error(state, args->all ? "give either NAME or --all" : "give NAME or --all");
		return 0;
	default:
		return client_parse(&args->common, 1, true, key, arg, state);
	}
}

static int add_route(const json_t *result, const char *name, struct route *to)
{
	json_int_t pages, bytes;

	if (json_unpack((json_t *)(uintptr_t)result, "{s:{s:{s:I, s:I}}}", "routes", name, "pages", &pages,
			"bytes", &bytes) < 0)
		return -EPROTO;
	to->pages += (uint64_t)pages;
	to->bytes += (uint64_t)bytes;
	return 0;
}

/* Add an answer to what is known. Return: how many pages it shared, or an errno. */
static int64_t add_result(struct merged *vm, const json_t *result)
{
	uint64_t before = vm->store.pages + vm->zero.pages;
	json_int_t passes, holds;
	double cpu_s, elapsed_s;
	int settled;

	if (add_route(result, "store", &vm->store) < 0 || add_route(result, "zero", &vm->zero) < 0 ||
	    json_unpack((json_t *)(uintptr_t)result, "{s:I, s:I, s:F, s:F, s:b}", "passes", &passes, "holds",
			&holds, "cpu_s", &cpu_s, "elapsed_s", &elapsed_s, "settled", &settled) < 0)
		return -EPROTO;
	vm->passes += (uint64_t)passes;
	vm->holds += (uint64_t)holds;
	vm->cpu_s += cpu_s;
	vm->elapsed_s += elapsed_s;
	vm->settled = settled;
	return (int64_t)(vm->store.pages + vm->zero.pages - before);
}

/* Ask one VM. Return: as add_result(); the reason is in the VM's message. */
static int64_t merge_one(struct merged *vm, uint64_t timeout_s)
{
	struct client client = CLIENT_NONE;
	json_t *result = NULL;
	int64_t r = client_open(vm->name, &vm->err, &client);

	if (r == 0)
		r = client_call(&client,
				json_pack("{s:s, s:I}", "cmd", "merge", "timeout_s", (json_int_t)timeout_s),
				-1, (unsigned)timeout_s + CLIENT_ANSWER_S, &vm->err, &result);
	if (r == 0)
		r = add_result(vm, result);
	if (r == -EPROTO)
		errmsg_set(&vm->err, (int)r, "%s: answers what this sardine does not understand", vm->name);
	else if (r < 0)
		errmsg_set(&vm->err, (int)r, "%s: %s", vm->name, strerror((int)-r));
	json_decref(result);
	client_close(&client);
	return r;
}

/* Round after round, since what one VM donates others find, until nothing new comes of it. */
static void merge_rounds(struct work *work, uint64_t timeout_s)
{
	bool more = true;

	while (more && work->rounds < ROUNDS_MAX) {
		more = false;
		work->rounds++;
		for (size_t i = 0; i < work->count; i++)
			if (!work->vms[i].err.text[0])
				more |= merge_one(&work->vms[i], timeout_s) > 0;
		more &= work->count > 1;
	}
}

static int list_all(struct errmsg *err, struct work *work)
{
	struct rundir dir = RUNDIR_NONE;
	auto_free struct rundir_entry *entries = NULL;
	struct errmsg ignored = {0};
	int r = rundir_open(false, &ignored, &dir);

	if (r == -ENOENT) /* nobody ever ran a VM */
		return 0;
	if (r < 0)
		return errmsg_set(err, r, "%s", ignored.text);
	(void)rundir_clean(&dir);
	r = rundir_list(&dir, &entries, &work->count);
	if (r == 0 && work->count) {
		work->vms = calloc(work->count, sizeof(*work->vms));
		r = work->vms ? 0 : -ENOMEM;
	}
	for (size_t i = 0; r == 0 && i < work->count; i++)
		strcpy(work->vms[i].name, entries[i].name);
	rundir_close(&dir);
	return r;
}

static int list_one(const char *name, struct errmsg *err, struct work *work)
{
	if (!rundir_name_valid(name))
		return errmsg_set(err, -EINVAL, "%.80s: no VM of this name runs here; see: sardine ps", name);
	work->vms = calloc(1, sizeof(*work->vms));
	if (!work->vms)
		return -ENOMEM;
	work->count = 1;
	strcpy(work->vms[0].name, name);
	return 0;
}

static json_t *route_json(const struct route *r)
{
	return json_pack("{s:I, s:I}", "pages", (json_int_t)r->pages, "bytes", (json_int_t)r->bytes);
}

static json_t *vm_json(const struct merged *vm)
{
	if (vm->err.text[0])
		return json_pack("{s:s, s:s}", "name", vm->name, "error", vm->err.text);
	return json_pack("{s:s, s:{s:o, s:o}, s:I, s:I, s:f, s:f, s:b}", "name", vm->name, "routes", "store",
			 route_json(&vm->store), "zero", route_json(&vm->zero), "passes",
			 (json_int_t)vm->passes, "holds", (json_int_t)vm->holds, "cpu_s", vm->cpu_s,
			 "elapsed_s", vm->elapsed_s, "settled", (int)vm->settled);
}

static struct merged total_of(const struct work *work)
{
	struct merged t = {.settled = true};

	for (size_t i = 0; i < work->count; i++) {
		const struct merged *vm = &work->vms[i];

		t.store.pages += vm->store.pages;
		t.store.bytes += vm->store.bytes;
		t.zero.pages += vm->zero.pages;
		t.zero.bytes += vm->zero.bytes;
		t.passes += vm->passes;
		t.holds += vm->holds;
		t.cpu_s += vm->cpu_s;
		t.elapsed_s += vm->elapsed_s;
		t.settled &= vm->settled;
	}
	strcpy(t.name, "total");
	return t;
}

static int print_json(const char *verb, const struct work *work)
{
	struct merged total = total_of(work);
	json_t *vms = json_array();

	for (size_t i = 0; i < work->count; i++)
		if (json_array_append_new(vms, vm_json(&work->vms[i])) < 0) {
			json_decref(vms);
			return client_print_json(verb, NULL, false);
		}
	return client_print_json(verb,
				 json_pack("{s:i, s:o, s:o}", "rounds", (int)work->rounds, "vms", vms,
					   "total", vm_json(&total)),
				 false);
}

static void print_row(const struct merged *vm)
{
	char store[16], zero[16];

	printf("%-20s %10s %10s %7llu %7llu %8.3f %8.3f %s\n", vm->name,
	       size_format(vm->store.bytes, store, sizeof(store)),
	       size_format(vm->zero.bytes, zero, sizeof(zero)), (unsigned long long)vm->passes,
	       (unsigned long long)vm->holds, vm->cpu_s, vm->elapsed_s, vm->settled ? "yes" : "no");
}

static void print_table(const struct work *work)
{
	struct merged total = total_of(work);

	printf("%-20s %10s %10s %7s %7s %8s %8s %s\n", "NAME", "STORE", "ZERO", "PASSES", "HOLDS", "CPU_S",
	       "TIME_S", "SETTLED");
	for (size_t i = 0; i < work->count; i++)
		if (!work->vms[i].err.text[0])
			print_row(&work->vms[i]);
	if (work->count > 1)
		print_row(&total);
}

int cmd_merge(int argc, char **argv)
{
	static const struct argp_option options[] = {
		{.name = "all",
		 .key = 'a',
		 .doc = "all VMs that run here, in turn, until a round shares nothing new"},
		{.name = "timeout",
		 .key = OPT_TIMEOUT,
		 .arg = "SECONDS",
		 .doc = "give a VM up after that time, each time it is asked (default 600)"},
		CLIENT_OPTION_JSON,
		{0},
	};
	static const struct argp argp = {
		.options = options,
		.parser = parse_option,
		.args_doc = "[NAME]",
		.doc = "Looks through a VM's memory now and shares what can be shared; returns when that is "
		       "done.\v"
		       "STORE: mapped from the page store. ZERO: pages of zeros given back. SETTLED: nothing "
		       "is left to do.\n"
		       "Exit status: 0 done, 1 a VM could not (the reason is on standard error).",
	};
	struct args args = {.timeout_s = CONTROL_MERGE_DEFAULT_S};
	struct errmsg err = {0};
	struct work work = {0};
	int code = CLI_OK, r;

	argp_parse(&argp, argc, argv, 0, NULL, &args);
	r = args.all ? list_all(&err, &work) : list_one(args.common.name, &err, &work);
	if (r < 0)
		return cli_error(argv[0], CLI_FAILED, "%s", errmsg_text(&err, r));
	merge_rounds(&work, args.timeout_s);
	for (size_t i = 0; i < work.count; i++)
		if (work.vms[i].err.text[0])
			code = cli_error(argv[0], CLI_FAILED, "%s", work.vms[i].err.text);
	if (args.common.json) {
		int printed = args.all || code == CLI_OK ? print_json(argv[0], &work) : CLI_OK;

		code = code == CLI_OK ? printed : code;
	} else if (args.all || code == CLI_OK) {
		print_table(&work);
	}
	free(work.vms);
	return code;
}
