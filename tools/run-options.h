/* SPDX-License-Identifier: Apache-2.0 */
/* The command line of `sardine run`, turned into a configuration. */
#ifndef SARDINE_TOOLS_RUN_OPTIONS_H
#define SARDINE_TOOLS_RUN_OPTIONS_H

#include <stdbool.h>

#include "base/cleanup.h"
#include "base/errmsg.h"
#include "vmm/config.h"

struct run_options {
	struct vm_config config; /* resolved and checked */
	bool dry_run;
	bool json; /* for what is printed; the configuration of dry_run is JSON anyway */
};

/**
 * run_options_parse() - Configuration files first, then the other options over them, in the order given.
 * @argc, @argv: of the verb; argp prints its own message and exits with CLI_USAGE for what it does not know.
 * @ret: initialised here in any case; the caller ends it with vm_config_done(&ret->config).
 * @err: one line that names the option.
 *
 * Return: 0 or a negative errno.
 */
int run_options_parse(int argc, char **argv, struct run_options *ret, struct errmsg *err) must_check;

#endif
