/* SPDX-License-Identifier: Apache-2.0 */
/* The requests of the control socket: what may be asked, with which arguments, and the answers. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>

#include "base/planted.h"
#include "base/size.h"
#include "vmm/control-internal.h"

#define REQUEST_ARGS_MAX 3

struct request {
	struct control_client *client;
	const json_t *json;
	const json_t *id; /* NULL: none was given */
	const char *rest; /* bytes after the line */
	size_t rest_len;
};

struct command {
	const char *name;
	const char *args[REQUEST_ARGS_MAX]; /* besides id and cmd */
	enum control_verdict (*run)(const struct request *r);
};

static enum control_verdict fail(const struct request *r, const char *text)
{
	control_answer_error(r->client, r->id, "%s", text);
	return CONTROL_ANSWERED;
}

/* A whole number among the arguments. False: the error is answered. */
static bool get_number(const struct request *r, const char *key, uint64_t max, const uint64_t *def,
		       uint64_t *ret)
{
	const json_t *v = json_object_get(r->json, key);
	json_int_t n;

	if (!v && def) {
		*ret = *def;
		return true;
	}
	n = json_integer_value(v);
	if (!json_is_integer(v) || n < 0 || (uint64_t)n > max) {
		control_answer_error(r->client, r->id, "%s: %s a whole number from 0 to %llu", key,
				     v ? "must be" : "is missing;", (unsigned long long)max);
		return false;
	}
	*ret = (uint64_t)n;
	return true;
}

static enum control_verdict cmd_ping(const struct request *r)
{
	control_answer(r->client, r->id, NULL);
	return CONTROL_ANSWERED;
}

static enum control_verdict cmd_stats(const struct request *r)
{
	int e;

	if (r->client->working >= CONTROL_WAITS_MAX)
		return fail(r, "too many requests of this client wait already");
	e = control_stats_start(r->client, r->id);
	if (e < 0)
		return fail(r, strerror(-e));
	return CONTROL_ANSWERED;
}

static enum control_verdict cmd_power_button(const struct request *r)
{
	struct control *control = r->client->control;

	control->ops->power_button(control->arg);
	control_answer(r->client, r->id, NULL);
	return CONTROL_ANSWERED;
}

/* Answer when the VM ends. False: the error is answered. */
static bool wait_for_end(const struct request *r)
{
	struct control_client *client = r->client;

	if (client->wait_count == CONTROL_WAITS_MAX && !PLANTED("control")) {
		fail(r, "too many requests of this client wait already");
		return false;
	}
	client->waits[client->wait_count++] = r->id ? json_deep_copy(r->id) : json_null();
	return true;
}

static enum control_verdict cmd_wait(const struct request *r)
{
	(void)wait_for_end(r);
	return CONTROL_ANSWERED;
}

static enum control_verdict cmd_stop(const struct request *r)
{
	static const uint64_t def = CONTROL_STOP_DEFAULT_S;
	uint64_t timeout_s;

	if (get_number(r, "timeout_s", CONTROL_STOP_MAX_S, &def, &timeout_s) && wait_for_end(r))
		control_stop(r->client->control, timeout_s * 1000000000);
	return CONTROL_ANSWERED;
}

static enum control_verdict cmd_kill(const struct request *r)
{
	struct control *control = r->client->control;

	control_answer(r->client, r->id, NULL);
	control->ops->kill(control->arg);
	return CONTROL_ANSWERED;
}

/* The target among the arguments, in bytes. Return: 1, 0 when there is none, -1 when the error is answered. */
static int get_target(const struct request *r, uint64_t *ret)
{
	bool bytes = json_object_get(r->json, "target_bytes");
	bool mib = json_object_get(r->json, "target_mib");
	uint64_t mibs;

	if (bytes && mib) {
		control_answer_error(r->client, r->id, "target_bytes and target_mib: give one of them");
		return -1;
	}
	if (bytes)
		return get_number(r, "target_bytes", INT64_MAX, NULL, ret) ? 1 : -1;
	if (!mib)
		return 0;
	if (!get_number(r, "target_mib", UINT64_MAX / MIB / 2, NULL, &mibs))
		return -1;
	*ret = mibs * MIB;
	return 1;
}

static enum control_verdict cmd_balloon(const struct request *r)
{
	struct control *control = r->client->control;
	uint64_t target;
	json_t *state;
	int given = get_target(r, &target);
	int e;

	if (given < 0)
		return CONTROL_ANSWERED;
	e = given ? control->ops->balloon(control->arg, target) : 0;
	if (e == -EINVAL)
		return fail(r, "the target is more than the VM's memory");
	if (e < 0 && e != -ENODEV)
		return fail(r, strerror(-e));
	state = control->ops->balloon_state(control->arg);
	if (!state)
		return fail(r, "the VM has no balloon");
	control_answer(r->client, r->id, state);
	return CONTROL_ANSWERED;
}

/* Pauses and resumes that take no time are answered here, others when they are done. */
static enum control_verdict pause_or_resume(const struct request *r, bool pause)
{
	bool later = false;
	int e;

	if (r->client->working >= CONTROL_WAITS_MAX)
		return fail(r, "too many requests of this client wait already");
	e = pause ? control_pause(r->client, r->id, &later) : control_resume(r->client, r->id, &later);
	if (e == -ESHUTDOWN)
		return fail(r, CONTROL_STOPPING_TEXT);
	if (e < 0)
		return fail(r, strerror(-e));
	if (!later)
		control_answer(r->client, r->id, NULL);
	return CONTROL_ANSWERED;
}

static enum control_verdict cmd_pause(const struct request *r)
{
	return pause_or_resume(r, true);
}

static enum control_verdict cmd_resume(const struct request *r)
{
	return pause_or_resume(r, false);
}

/* Merging and checking take their time: answered when done. */
static enum control_verdict work(const struct request *r, bool have, enum control_work_kind kind,
				 uint64_t timeout_s)
{
	int e;

	if (!have)
		return fail(r, kind == CONTROL_MERGE ? "no engine looks after this VM's memory"
						     : "only a replay VM knows what its memory must hold");
	if (r->client->working >= CONTROL_WAITS_MAX)
		return fail(r, "too many requests of this client wait already");
	e = control_work_add(r->client, r->id, kind, (unsigned)timeout_s * 1000);
	return e < 0 ? fail(r, strerror(-e)) : CONTROL_ANSWERED;
}

static enum control_verdict cmd_merge(const struct request *r)
{
	static const uint64_t def = CONTROL_MERGE_DEFAULT_S;
	uint64_t timeout_s;

	if (!get_number(r, "timeout_s", CONTROL_MERGE_MAX_S, &def, &timeout_s))
		return CONTROL_ANSWERED;
	return work(r, r->client->control->ops->merge, CONTROL_MERGE, timeout_s);
}

static enum control_verdict cmd_check(const struct request *r)
{
	return work(r, r->client->control->ops->check, CONTROL_CHECK, 0);
}

static enum control_verdict cmd_dump(const struct request *r)
{
	const json_t *v = json_object_get(r->json, "format");
	enum dump_format format = DUMP_ELF;
	int e;

	if (!r->client->control->ops->dump)
		return fail(r, "a replay VM is not dumped");
	if (v && (!json_is_string(v) || dump_format_parse(json_string_value(v), &format) < 0))
		return fail(r, "format: must be \"elf\" or \"raw\"");
	if (r->client->passed_fd < 0)
		return fail(r, "pass the file's descriptor with the request (SCM_RIGHTS)");
	e = control_dump_start(r->client, r->id, r->client->passed_fd, format);
	if (e == -EBUSY)
		return fail(r, "a dump of this VM is being written already");
	if (e < 0)
		return fail(r, strerror(-e));
	r->client->passed_fd = -1;
	return CONTROL_ANSWERED;
}

static enum control_verdict cmd_attach_store(const struct request *r)
{
	struct control *control = r->client->control;

	int e;

	if (r->client->passed_fd < 0)
		return fail(r, "pass the socket with the request (SCM_RIGHTS)");
	e = control->ops->attach_store(control->arg, r->client->passed_fd);
	if (e == -ENODEV)
		return fail(r, "this VM has no memory agent");
	if (e < 0)
		return fail(r, strerror(-e));
	r->client->passed_fd = -1;
	control_answer(r->client, r->id, NULL);
	return CONTROL_ANSWERED;
}

static enum control_verdict cmd_console(const struct request *r)
{
	struct control_client *client = r->client;
	struct control *control = client->control;
	auto_free char *line = NULL;
	auto_free char *prefix = NULL;
	int fd, e;

	if (!control->ops->console)
		return fail(r, "a replay VM has no console");
	if (client->wait_count || client->working)
		return fail(r, "this connection has requests without an answer; use another one");
	line = control_answer_line(r->id, json_pack("{s:b}", "stream", 1));
	if (line)
		prefix = malloc(client->out_len + strlen(line));
	if (!prefix)
		return fail(r, "out of memory");
	if (client->out_len)
		memcpy(prefix, client->out, client->out_len);
	memcpy(prefix + client->out_len, line, strlen(line));
	/* A descriptor of its own, so that on failure ours is as it was. */
	fd = fcntl(client->fd, F_DUPFD_CLOEXEC, 0);
	if (fd < 0)
		return fail(r, strerror(errno));
	e = control->ops->console(control->arg, fd, prefix, client->out_len + strlen(line), r->rest,
				  r->rest_len);
	if (e == -EUSERS)
		return fail(r, "the console has as many clients as it takes");
	if (e == -EMSGSIZE)
		return fail(r, "too much was typed before the answer");
	if (e < 0)
		return fail(r, strerror(-e));
	return CONTROL_STREAM;
}

static const struct command commands[] = {
	{"ping", {NULL}, cmd_ping},
	{"stats", {NULL}, cmd_stats},
	{"power-button", {NULL}, cmd_power_button},
	{"stop", {"timeout_s"}, cmd_stop},
	{"kill", {NULL}, cmd_kill},
	{"wait", {NULL}, cmd_wait},
	{"console", {NULL}, cmd_console},
	{"balloon", {"target_mib", "target_bytes"}, cmd_balloon},
	{"dump", {"format"}, cmd_dump},
	{"merge", {"timeout_s"}, cmd_merge},
	{"check", {NULL}, cmd_check},
	{"pause", {NULL}, cmd_pause},
	{"resume", {NULL}, cmd_resume},
	{"attach-store", {NULL}, cmd_attach_store},
};

/*
 * What follows a request for the console is meant for the guest. When it is refused, those bytes must not be
 * taken for requests: the connection ends with the answer.
 */
static void console_refused(const struct request *r)
{
	char byte;

	if (r->rest_len || recv(r->client->fd, &byte, sizeof(byte), MSG_PEEK | MSG_DONTWAIT) > 0)
		r->client->closing = true;
}

static bool arg_known(const struct command *c, const char *key)
{
	if (strcmp(key, "id") == 0 || strcmp(key, "cmd") == 0)
		return true;
	for (size_t i = 0; i < REQUEST_ARGS_MAX && c->args[i]; i++)
		if (strcmp(key, c->args[i]) == 0)
			return true;
	return false;
}

static enum control_verdict run_command(const struct command *c, const struct request *r)
{
	const char *key;
	json_t *value;

	json_object_foreach((json_t *)(uintptr_t)r->json, key, value)
	{
		if (!arg_known(c, key)) {
			control_answer_error(r->client, r->id, "%s has no argument \"%.64s\"", c->name, key);
			return CONTROL_ANSWERED;
		}
	}
	return c->run(r);
}

static enum control_verdict dispatch(const struct request *r, const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
		const struct command *c = &commands[i];
		enum control_verdict verdict;

		if (strcmp(name, c->name) != 0)
			continue;
		verdict = run_command(c, r);
		if (c->run == cmd_console && verdict == CONTROL_ANSWERED)
			console_refused(r);
		return verdict;
	}
	control_answer_error(r->client, r->id, "no command \"%.64s\"", name);
	return CONTROL_ANSWERED;
}

enum control_verdict control_request(struct control_client *client, const char *line, size_t len,
				     const char *rest, size_t rest_len)
{
	struct request r = {.client = client, .rest = rest, .rest_len = rest_len};
	enum control_verdict verdict = CONTROL_ANSWERED;
	json_error_t error;
	json_t *json;
	const json_t *cmd;

	json = json_loadb(line, len, JSON_REJECT_DUPLICATES, &error);
	r.json = json;
	if (!json_is_object(json)) {
		control_answer_error(client, NULL, "not a request: %s",
				     json ? "an object is needed" : error.text);
		goto out;
	}
	r.id = json_object_get(json, "id");
	if (r.id && !json_is_integer(r.id)) {
		control_answer_error(client, NULL, "id: must be a whole number");
		goto out;
	}
	cmd = json_object_get(json, "cmd");
	if (json_is_string(cmd))
		verdict = dispatch(&r, json_string_value(cmd));
	else
		control_answer_error(client, r.id, "cmd: is missing, or no string");
out:
	json_decref(json);
	return verdict;
}
