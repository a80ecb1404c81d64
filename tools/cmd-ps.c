/* SPDX-License-Identifier: Apache-2.0 */
/* `sardine ps`: the VMs that run here. */
#include <errno.h>

#include "base/size.h"
#include "tools/cli.h"
#include "tools/client.h"
#include "tools/vm-list.h"

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	return client_parse(state->input, 0, false, key, arg, state);
}

static const char *state_of(const struct vm_item *item)
{
	const char *s = json_string_value(json_object_get(item->stats, "state"));

	return s ? s : "silent"; /* its process lives and does not answer */
}

static int print_json(const char *verb, const struct vm_list *list)
{
	json_t *vms = json_array();

	for (size_t i = 0; i < list->count; i++) {
		const struct vm_item *item = &list->items[i];

		if (json_array_append_new(
			    vms, json_pack("{s:s, s:i, s:s, s:f, s:I, s:I}", "name", item->entry.name, "pid",
					   (int)item->entry.pid, "state", state_of(item), "uptime_s",
					   json_number_value(json_object_get(item->stats, "uptime_s")),
					   "configured_bytes", (json_int_t)item->usage.configured,
					   "populated_bytes", (json_int_t)item->usage.populated)) < 0) {
			json_decref(vms);
			return client_print_json(verb, NULL, false);
		}
	}
	return client_print_json(verb, json_pack("{s:o}", "vms", vms), false);
}

static void print_table(const struct vm_list *list)
{
	char configured[16], populated[16];

	printf("%-20s %8s %-9s %10s %10s %10s\n", "NAME", "PID", "STATE", "UPTIME_S", "MEMORY", "POPULATED");
	for (size_t i = 0; i < list->count; i++) {
		const struct vm_item *item = &list->items[i];

		printf("%-20s %8d %-9s %10.0f %10s %10s\n", item->entry.name, (int)item->entry.pid,
		       state_of(item), json_number_value(json_object_get(item->stats, "uptime_s")),
		       size_format(item->usage.configured, configured, sizeof(configured)),
		       size_format(item->usage.populated, populated, sizeof(populated)));
	}
}

int cmd_ps(int argc, char **argv)
{
	static const struct argp_option options[] = {CLIENT_OPTION_JSON, {0}};
	static const struct argp argp = {
		.options = options,
		.parser = parse_option,
		.doc = "Lists the VMs that run under this user's runtime directory.\vA VM whose process "
		       "lives but does "
		       "not answer is listed as silent.",
	};
	struct client_args args = {0};
	struct errmsg err = {0};
	struct vm_list list;
	int r, code = CLI_OK;

	argp_parse(&argp, argc, argv, 0, NULL, &args);
	r = vm_list_get(NULL, &err, &list);
	if (r < 0)
		return cli_error(argv[0], CLI_FAILED, "%s", errmsg_text(&err, r));
	if (args.json)
		code = print_json(argv[0], &list);
	else
		print_table(&list);
	vm_list_done(&list);
	return code;
}
