/* SPDX-License-Identifier: Apache-2.0 */
/* `sardine pause` and `sardine resume`: a VM that stands still, and goes on. */
#include "tools/cli.h"
#include "tools/client.h"

/* A pause waits for disk I/O in flight, and for a reboot under way. */
#define PAUSE_ANSWER_S 60

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	return client_parse(state->input, 1, false, key, arg, state);
}

static int ask(int argc, char **argv, const char *doc, const char *cmd, const char *state)
{
	static const struct argp_option options[] = {CLIENT_OPTION_JSON, {0}};
	const struct argp argp = {
		.options = options,
		.parser = parse_option,
		.args_doc = "NAME",
		.doc = doc,
	};
	struct client_args args = {0};
	struct errmsg err = {0};
	struct client client = CLIENT_NONE;
	int r;

	argp_parse(&argp, argc, argv, 0, NULL, &args);
	r = client_open(args.name, &err, &client);
	if (r == 0)
		r = client_call(&client, json_pack("{s:s}", "cmd", cmd), -1, PAUSE_ANSWER_S, &err, NULL);
	client_close(&client);
	if (r < 0)
		return cli_error(argv[0], CLI_FAILED, "%s", errmsg_text(&err, r));
	if (args.json)
		return client_print_json(argv[0], json_pack("{s:s, s:s}", "name", args.name, "state", state),
					 false);
	printf("%s: %s\n", args.name, state);
	return CLI_OK;
}

int cmd_pause(int argc, char **argv)
{
	return ask(argc, argv,
		   "Stops a VM's vCPUs and devices until `sardine resume`. It keeps its memory and costs no "
		   "CPU.\v"
		   "Exit status: 0 it stands still (also when it did before), 1 it cannot, or there is no "
		   "such VM.",
		   "pause", "paused");
}

int cmd_resume(int argc, char **argv)
{
	return ask(argc, argv,
		   "Lets a paused VM go on.\v"
		   "Exit status: 0 it runs (also when it did before), 1 there is no such VM.",
		   "resume", "running");
}
