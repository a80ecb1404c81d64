/* SPDX-License-Identifier: Apache-2.0 */
/* `sardine balloon`: how much a VM gives up of its memory. */
#include <errno.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/size.h"
#include "tools/cli.h"
#include "tools/client.h"

#define WAIT_MAX_S 86400
/* The guest is asked for nothing by a look at its balloon. */
#define LOOK_NS 50000000

struct args {
	struct client_args common; /* file: the size */
	uint64_t target_bytes;
	uint64_t wait_s; /* 0: do not wait */
};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct args *args = state->input;

	switch (key) {
	case 'w':
		if (number_parse(arg, WAIT_MAX_S, &args->wait_s) < 0 || args->wait_s == 0)
			argp_error(state, "--wait %s: give seconds, 1 to %d", arg, WAIT_MAX_S);
		return 0;
	case ARGP_KEY_END:
		if (!args->common.name)
			argp_error(state, "NAME is missing");
		if (args->common.file && (size_parse(args->common.file, &args->target_bytes) < 0 ||
					  args->target_bytes > INT64_MAX))
			argp_error(state, "%s: not a size; say how much to take from the guest, e.g. 96M",
				   args->common.file);
		return 0;
	default:
		return client_parse(&args->common, 2, true, key, arg, state);
	}
}

static int call(struct client *client, json_t *request, struct errmsg *err, json_t **ret)
{
	return client_call(client, request, -1, CLIENT_ANSWER_S, err, ret);
}

static uint64_t number(const json_t *state, const char *key)
{
	return (uint64_t)json_integer_value(json_object_get(state, key));
}

static const char *liveness(const json_t *state)
{
	const char *text = json_string_value(json_object_get(state, "liveness"));

	return text ? text : "?";
}

/* Look again until the balloon is where it was asked to be, or for as long as we may. */
static int wait_for_target(struct client *client, uint64_t wait_s, struct errmsg *err, json_t **state)
{
	uint64_t end_ns = clock_now_ns() + wait_s * 1000000000;

	while (number(*state, "ballooned_bytes") != number(*state, "target_bytes") &&
	       clock_now_ns() < end_ns) {
		json_t *next;
		int r;

		nanosleep(&(struct timespec){.tv_nsec = LOOK_NS}, NULL);
		r = call(client, json_pack("{s:s}", "cmd", "balloon"), err, &next);
		if (r < 0)
			return r;
		json_decref(*state);
		*state = next;
	}
	return 0;
}

static int balloon(const struct args *args, struct errmsg *err, json_t **ret)
{
	json_t *request = json_pack("{s:s}", "cmd", "balloon");
	struct client client = CLIENT_NONE;
	json_t *state = NULL;
	int r;

	if (args->common.file)
		json_object_set_new(request, "target_bytes", json_integer((json_int_t)args->target_bytes));
	r = client_open(args->common.name, err, &client);
	if (r < 0) {
		json_decref(request);
		return r;
	}
	r = call(&client, request, err, &state);
	if (r == 0 && args->wait_s)
		r = wait_for_target(&client, args->wait_s, err, &state);
	client_close(&client);
	if (r < 0)
		json_decref(state);
	else
		*ret = state;
	return r;
}

static int report(const char *verb, const struct args *args, json_t *state)
{
	uint64_t target = number(state, "target_bytes"), actual = number(state, "ballooned_bytes");
	bool late = args->wait_s && target != actual;
	char a[16], b[16];
	int code = CLI_OK;

	size_format(target, a, sizeof(a));
	size_format(actual, b, sizeof(b));
	if (args->common.json) {
		json_object_set_new(state, "name", json_string(args->common.name));
		code = client_print_json(verb, json_incref(state), false);
	} else if (!late) {
		printf("%s: target %s, actual %s, %s\n", args->common.name, a, b, liveness(state));
	}
	if (late)
		code = cli_error(verb, CLI_FAILED, "%s: not within %llu s: target %s, actual %s, %s",
				 args->common.name, (unsigned long long)args->wait_s, a, b, liveness(state));
	json_decref(state);
	return code;
}

int cmd_balloon(int argc, char **argv)
{
	static const struct argp_option options[] = {
		{.name = "wait",
		 .key = 'w',
		 .arg = "SECONDS",
		 .doc = "wait until the guest has given up or taken back that much"},
		CLIENT_OPTION_JSON,
		{0},
	};
	static const struct argp argp = {
		.options = options,
		.parser = parse_option,
		.args_doc = "NAME [SIZE]",
		.doc = "Asks a VM's guest to give up SIZE of its memory in total, 0 gives all of it back; "
		       "without "
		       "SIZE only says where its balloon is.\v"
		       "idle: at its target. moving: on the way. stalled: no progress for 5 s. no-driver: "
		       "the "
		       "guest "
		       "does not work on it. Exit status: 0 done, 1 with --wait: not in time; or there is no "
		       "such "
		       "VM, it "
		       "has no balloon, or less memory.",
	};
	struct args args = {0};
	struct errmsg err = {0};
	json_t *state;
	int r;

	argp_parse(&argp, argc, argv, 0, NULL, &args);
	r = balloon(&args, &err, &state);
	if (r < 0)
		return cli_error(argv[0], CLI_FAILED, "%s", errmsg_text(&err, r));
	return report(argv[0], &args, state);
}
