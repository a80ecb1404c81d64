/* SPDX-License-Identifier: Apache-2.0 */
/* `sardine run`: one VM, from its command line to its end. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "tools/cli.h"
#include "tools/run-options.h"

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
	else if (!options.dry_run)
		code = cli_error(argv[0], CLI_FAILED, "only --dry-run is built so far");
	else
		code = print_config(argv[0], &options.config);
	vm_config_done(&options.config);
	return code;
}
