/* SPDX-License-Identifier: Apache-2.0 */
/* `sardine stop`, `sardine kill` and `sardine wait`: the end of a VM. */
#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "base/size.h"
#include "tools/cli.h"
#include "tools/client.h"
#include "vmm/control.h"

struct args {
	struct client_args common;
	uint64_t timeout_s;
};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct args *args = state->input;

	if (key != 't')
		return client_parse(&args->common, 1, false, key, arg, state);
	if (number_parse(arg, CONTROL_STOP_MAX_S, &args->timeout_s) < 0)
		argp_error(state, "--timeout %s: give seconds, 0 to %u", arg, CONTROL_STOP_MAX_S);
	return 0;
}

static error_t parse_plain(int key, char *arg, struct argp_state *state)
{
	struct args *args = state->input;

	return client_parse(&args->common, 1, false, key, arg, state);
}

/* What is said, and the exit code: an orderly end is what the guest did itself. */
static int report(const char *verb, const struct args *args, const char *end, const char *detail)
{
	bool orderly = strcmp(end, "power-off") == 0;

	if (args->common.json) {
		int code = client_print_json(
			verb,
			json_pack("{s:s, s:s, s:s}", "name", args->common.name, "end", end, "detail", detail),
			false);

		return code != CLI_OK || orderly ? code : CLI_FAILED;
	}
	if (orderly) {
		printf("%s: %s\n", args->common.name, end);
		return CLI_OK;
	}
	return cli_error(verb, CLI_FAILED, "%s: %s%s%s", args->common.name, end, detail[0] ? ": " : "",
			 detail);
}

/*
 * Why a VM that we asked to stop was killed. When our own time was over we have waited for that long, too: we
 * began to count earlier. Before that it was another `stop`, a `kill` or a signal.
 */
static const char *why_killed(uint64_t timeout_s, uint64_t waited_ns, char *buf, size_t len)
{
	bool ours = waited_ns >= timeout_s * 1000000000;

	snprintf(buf, len,
		 ours ? "the guest did not power off within %llu s"
		      : "by someone else, before the %llu s were over",
		 (unsigned long long)timeout_s);
	return buf;
}

/* Asks, waits for the VM's end and until its name is free. @stop: say why it was killed. */
static int until_end(const char *verb, const struct args *args, json_t *request, bool stop)
{
	const uint64_t start_ns = clock_now_ns();
	uint64_t answered_ns;
	char why[96];
	struct errmsg err = {0};
	struct client client;
	json_t *result = NULL;
	const char *end, *detail;
	int r, code;

	r = client_open(args->common.name, &err, &client);
	if (r < 0) {
		json_decref(request);
		return cli_error(verb, CLI_FAILED, "%s", errmsg_text(&err, r));
	}
	r = client_call(&client, request, -1, 0, &err, &result);
	answered_ns = clock_now_ns();
	/* Also when the process died under us: it lets go of its name a moment after it closes the socket. */
	if (r == 0)
		r = client_wait_gone(&client, &err);
	else if (r == -ECONNRESET)
		(void)!client_wait_gone(&client, &err);
	if (r == 0 && json_unpack(result, "{s:s, s:s}", "end", &end, "detail", &detail) < 0)
		r = errmsg_set(&err, -EPROTO, "%s: the VM did not say how it ended", args->common.name);
	if (r < 0)
		code = cli_error(verb, CLI_FAILED, "%s", errmsg_text(&err, r));
	else
		code = report(verb, args, end,
			      stop && strcmp(end, "killed") == 0 && !detail[0]
				      ? why_killed(args->timeout_s, answered_ns - start_ns, why, sizeof(why))
				      : detail);
	json_decref(result);
	client_close(&client);
	return code;
}

int cmd_stop(int argc, char **argv)
{
	static const struct argp_option options[] = {
		{.name = "timeout",
		 .key = 't',
		 .arg = "SECONDS",
		 .doc = "kill the VM when it still runs after that time (default 30)"},
		CLIENT_OPTION_JSON,
		{0},
	};
	static const struct argp argp = {
		.options = options,
		.parser = parse_option,
		.args_doc = "NAME",
		.doc = "Presses the VM's power button and waits for its end.\v"
		       "Exit status: 0 the guest powered itself off, 1 it was killed or ended in another way "
		       "(the "
		       "reason is on standard error), or there is no such VM.",
	};
	struct args args = {.timeout_s = CONTROL_STOP_DEFAULT_S};

	argp_parse(&argp, argc, argv, 0, NULL, &args);
	return until_end(argv[0], &args,
			 json_pack("{s:s, s:I}", "cmd", "stop", "timeout_s", (json_int_t)args.timeout_s),
			 true);
}

int cmd_wait(int argc, char **argv)
{
	static const struct argp_option options[] = {CLIENT_OPTION_JSON, {0}};
	static const struct argp argp = {
		.options = options,
		.parser = parse_plain,
		.args_doc = "NAME",
		.doc = "Waits for the VM's end and says how it ended.\v"
		       "Exit status: 0 the guest powered itself off, 1 it ended in another way (the reason "
		       "is on "
		       "standard error), or there is no such VM.",
	};
	struct args args = {0};

	argp_parse(&argp, argc, argv, 0, NULL, &args);
	return until_end(argv[0], &args, json_pack("{s:s}", "cmd", "wait"), false);
}

int cmd_kill(int argc, char **argv)
{
	static const struct argp_option options[] = {CLIENT_OPTION_JSON, {0}};
	static const struct argp argp = {
		.options = options,
		.parser = parse_plain,
		.args_doc = "NAME",
		.doc = "Ends the VM at once, as pulling the plug would.\v"
		       "Exit status: 0 it is gone, 1 there is no such VM.",
	};
	struct args args = {0};
	struct errmsg err = {0};
	struct client client = CLIENT_NONE;
	int r;

	argp_parse(&argp, argc, argv, 0, NULL, &args);
	r = client_open(args.common.name, &err, &client);
	if (r == 0)
		r = client_call(&client, json_pack("{s:s}", "cmd", "kill"), -1, CLIENT_ANSWER_S, &err, NULL);
	if (r == 0)
		r = client_wait_gone(&client, &err);
	client_close(&client);
	if (r < 0)
		return cli_error(argv[0], CLI_FAILED, "%s", errmsg_text(&err, r));
	if (args.common.json)
		return client_print_json(
			argv[0], json_pack("{s:s, s:s}", "name", args.common.name, "end", "killed"), false);
	printf("%s: killed\n", args.common.name);
	return CLI_OK;
}
