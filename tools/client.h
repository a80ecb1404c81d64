/* SPDX-License-Identifier: Apache-2.0 */
/* The client's side of the control socket: connect to a VM by name, ask, wait until it is gone. */
#ifndef SARDINE_TOOLS_CLIENT_H
#define SARDINE_TOOLS_CLIENT_H

#include <argp.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

#include "base/errmsg.h"
#include "vmm/rundir.h"

/* How long a VM may take for an answer that needs no guest. */
#define CLIENT_ANSWER_S 10
/* How long a VM that has ended may take to go. */
#define CLIENT_GONE_S 30

struct client {
	struct rundir dir;
	char name[CONFIG_NAME_MAX + 1];
	int fd;
	char *buf; /* received, not yet a whole line */
	size_t len;
	json_t *greeting;
};

#define CLIENT_NONE ((struct client){.dir = RUNDIR_NONE, .fd = -1})

/**
 * client_open() - Connect to a VM and check that it speaks our protocol.
 * @name: the VM.
 * @err: one line that names the VM on failure.
 * @ret: closed with client_close().
 *
 * Return: 0, -ENOENT when no such VM runs, -EPROTO when it speaks another protocol, or an errno.
 */
int client_open(const char *name, struct errmsg *err, struct client *ret) must_check;
void client_close(struct client *client);

/**
 * client_call() - Ask, and wait for the answer.
 * @request: "cmd" and arguments; stolen; NULL counts as no memory.
 * @pass_fd: a descriptor that goes with it; -1: none.
 * @timeout_s: 0 waits without end.
 * @err: one line that names the VM on failure; what the VM answered.
 * @ret: "result" of the answer, a new reference; may be NULL.
 *
 * Return: 0, -EREMOTEIO when the VM answered with an error, -ETIMEDOUT, -ECONNRESET when the connection ended
 * before the answer, or an errno.
 */
int client_call(struct client *client, json_t *request, int pass_fd, unsigned timeout_s, struct errmsg *err,
		json_t **ret) must_check;

/**
 * client_wait_gone() - Wait until the VM's process has let go of its name, after it ended.
 *
 * Return: 0 or -ETIMEDOUT after CLIENT_GONE_S.
 */
int client_wait_gone(struct client *client, struct errmsg *err) must_check;

/* What all verbs that name a VM take. */
struct client_args {
	const char *name; /* NULL: none was given */
	const char *file; /* a second argument */
	bool json;
};

/* For an argp parser: handles --json (key 'j') and the arguments. @wanted: how many; @optional: may be fewer. */
error_t client_parse(struct client_args *args, unsigned wanted, bool optional, int key, char *arg,
		     struct argp_state *state);
#define CLIENT_OPTION_JSON                                                                                   \
	{                                                                                                    \
		.name = "json", .key = 'j', .doc = "print JSON"                                              \
	}

/* Print a value and a newline, indented or on one line. Steals it; NULL counts as no memory. Return: an exit
 * code. */
int client_print_json(const char *verb, json_t *json, bool one_line);

#endif
