/* SPDX-License-Identifier: Apache-2.0 */
/* What every verb of the command shares: exit codes, the verb table's row, the one-line error. */
#ifndef SARDINE_TOOLS_CLI_H
#define SARDINE_TOOLS_CLI_H

/* Exit codes of all verbs. */
enum cli_exit {
	CLI_OK = 0,
	CLI_FAILED = 1,	 /* everything that has no code of its own */
	CLI_USAGE = 2,	 /* the command line or the configuration is wrong */
	CLI_CANNOT = 77, /* this host cannot; the reason is on stderr */
};

/* @argv[0] is "sardine VERB". Return: an exit code. */
typedef int (*cli_verb_fn)(int argc, char **argv);

/* One verb per function; each parses its own options with argp. */
int cmd_run(int argc, char **argv);
int cmd_replay(int argc, char **argv);
int cmd_merge(int argc, char **argv);
int cmd_check(int argc, char **argv);
int cmd_ps(int argc, char **argv);
int cmd_stop(int argc, char **argv);
int cmd_kill(int argc, char **argv);
int cmd_pause(int argc, char **argv);
int cmd_resume(int argc, char **argv);
int cmd_wait(int argc, char **argv);
int cmd_console(int argc, char **argv);
int cmd_stats(int argc, char **argv);
int cmd_balloon(int argc, char **argv);
int cmd_dump(int argc, char **argv);
int cmd_bench(int argc, char **argv);
int cmd_analyze(int argc, char **argv);

/**
 * cli_error() - Say one line about a failure on stderr, "sardine VERB: message".
 * @verb: the verb's argv[0].
 * @code: returned as it is.
 *
 * Return: @code.
 */
int cli_error(const char *verb, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

#endif
