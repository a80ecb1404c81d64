/* SPDX-License-Identifier: Apache-2.0 */
/* `sardine`: one command with verbs. */
#include <argp.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "tools/cli.h"

static const struct verb {
	const char *name;
	const char *summary;
	cli_verb_fn run;
} verbs[] = {
	{"run", "start a VM and stay with it until it ends", cmd_run},
	{"ps", "list the VMs that run here", cmd_ps},
	{"stop", "press a VM's power button, wait, then kill it", cmd_stop},
	{"kill", "end a VM at once", cmd_kill},
	{"pause", "let a VM stand still", cmd_pause},
	{"resume", "let a paused VM go on", cmd_resume},
	{"wait", "wait for a VM's end and say how it ended", cmd_wait},
	{"console", "a terminal on a VM's serial port", cmd_console},
	{"stats", "what VMs occupy, and what sharing saves", cmd_stats},
	{"balloon", "take memory from a VM, or give it back", cmd_balloon},
	{"dump", "write a VM's memory to a file", cmd_dump},
	{"merge", "share what can be shared, now", cmd_merge},
	{"replay", "run guest memory without a guest, to measure and to test", cmd_replay},
	{"bench", "measure what sharing is worth and what it costs", cmd_bench},
	{"check", "say what this host can do for VMs", cmd_check},
	{"analyze", "say exactly what sharing identical pages would save", cmd_analyze},
};

static void print_help(void)
{
	printf("Usage: sardine VERB [OPTION...]\n"
	       "Runs virtual machines packed tightly.\n\n");
	for (size_t i = 0; i < ARRAY_SIZE(verbs); i++)
		printf("  %-9s %s\n", verbs[i].name, verbs[i].summary);
	printf("\n`sardine VERB --help` lists a verb's options; `sardine --version` prints the version.\n"
	       "The manual: sardine(1), sardine-config(5).\n"
	       "Exit status: 0 done, 1 failed, 2 wrong command line or configuration, 77 this host "
	       "cannot.\n");
}

/* Output that could not be written is a failure, e.g. `sardine ps --json > /dev/full`. */
static int finish(int code)
{
	if (fflush(stdout) != 0 || ferror(stdout)) {
		if (code == CLI_OK)
			code = cli_error("sardine", CLI_FAILED, "standard output: %s", strerror(errno));
	}
	return code;
}

/* A standard descriptor that is closed would go to the next file opened, and output meant for it would end up there. */
static void fill_standard_descriptors(void)
{
	int fd;

	do {
		fd = open("/dev/null", O_RDWR);
	} while (fd >= 0 && fd <= STDERR_FILENO);
	if (fd >= 0)
		close(fd);
}

int main(int argc, char **argv)
{
	char name[64];

	fill_standard_descriptors();
	argp_err_exit_status = CLI_USAGE;
	/* A file that reaches `ulimit -f` is an error like any other (-EFBIG), not death by signal. */
	signal(SIGXFSZ, SIG_IGN);
	if (argc < 2)
		return cli_error("sardine", CLI_USAGE, "no verb; `sardine --help` lists them");
	if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0) {
		print_help();
		return finish(CLI_OK);
	}
	if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0) {
		printf("sardine %s\n", SARDINE_VERSION);
		return finish(CLI_OK);
	}
	for (size_t i = 0; i < ARRAY_SIZE(verbs); i++) {
		if (strcmp(argv[1], verbs[i].name) != 0)
			continue;
		snprintf(name, sizeof(name), "sardine %s", verbs[i].name);
		argv[1] = name;
		return finish(verbs[i].run(argc - 1, argv + 1));
	}
	return cli_error("sardine", CLI_USAGE, "%.40s: no such verb; `sardine --help` lists them", argv[1]);
}
