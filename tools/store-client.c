/* SPDX-License-Identifier: Apache-2.0 */
/* Where the daemon's socket is, and what it serves. */
#include "tools/store-client.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "base/addr.h"
#include "base/fs.h"
#include "ksm/store-backend.h"
#include "vmm/rundir.h"

#define STATUS_BYTES_MAX (1u << 20)

char *store_socket_path(void)
{
	auto_free char *dir = NULL;
	char *path = NULL;

	if (rundir_where(geteuid(), getenv("SARDINE_RUNTIME_DIR"), getenv("XDG_RUNTIME_DIR"), &dir) < 0 ||
	    asprintf(&path, "%s/sardined.sock", dir) < 0)
		return NULL;
	return path;
}

/* The JSON in a memory file. */
static int read_json(int fd, uint32_t bytes, json_t **ret)
{
	auto_free char *text = NULL;
	json_t *json;
	int r;

	if (bytes == 0 || bytes > STATUS_BYTES_MAX)
		return -EPROTO;
	text = malloc(bytes);
	if (!text)
		return -ENOMEM;
	r = pread_full(fd, text, bytes, 0);
	if (r < 0)
		return r;
	json = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, NULL);
	if (!json_is_object(json)) {
		json_decref(json);
		return -EPROTO;
	}
	*ret = json;
	return 0;
}

static int ask(int fd, json_t **ret)
{
	const struct store_wire_call call = {.kind = STORE_WIRE_STATS, .serial = 1};
	struct pollfd p = {.fd = fd, .events = POLLIN};
	struct store_wire_message m;
	int r = store_wire_send(fd, &call, sizeof(call), -1);

	if (r < 0)
		return r;
	r = poll(&p, 1, (int)(STORE_DEADLINE_NS / 1000000));
	if (r <= 0)
		return r < 0 ? -errno : -ETIMEDOUT;
	r = store_wire_receive(fd, &m);
	if (r < 0)
		return r;
	if (m.len != sizeof(m.answer) || m.answer.kind != STORE_WIRE_ANSWER || m.answer.result > 0)
		r = -EPROTO;
	else if (m.answer.result < 0)
		r = m.answer.result;
	else
		r = m.fd_count == 1 ? read_json(m.fds[0], m.answer.value, ret) : -EPROTO;
	store_wire_message_done(&m);
	return r;
}

int store_daemon_status(const char *path, struct errmsg *err, json_t **ret)
{
	auto_fd fd = -1;
	int r = store_daemon_connect(path, &fd);

	if (r == -ENOENT || r == -ECONNREFUSED)
		return errmsg_set(err, -ENOENT, "%s: no sardined listens there", path);
	if (r == 0)
		r = ask(fd, ret);
	if (r < 0)
		return errmsg_set(err, r, "%s: the daemon does not answer: %s", path, strerror(-r));
	return 0;
}

static json_int_t sum(const json_t *domains, const char *key)
{
	const json_t *domain;
	json_int_t n = 0;
	size_t i;

	json_array_foreach(domains, i, domain) n += json_integer_value(json_object_get(domain, key));
	return n;
}

json_t *store_host_json(void)
{
	auto_free char *path = store_socket_path();
	const json_t *domains;
	struct errmsg err = {0};
	json_t *status = NULL, *ret;

	if (!path || store_daemon_status(path, &err, &status) < 0)
		return json_null();
	domains = json_object_get(status, "domains");
	ret = json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "pid",
			json_integer_value(json_object_get(status, "pid")), "vms", sum(domains, "vms"),
			"segments", sum(domains, "segments"), "held_bytes",
			sum(domains, "segment_pages") * (json_int_t)PAGE_BYTES, "mapped_bytes",
			sum(domains, "mappings") * (json_int_t)PAGE_BYTES, "saved_bytes",
			sum(domains, "pages_saved") * (json_int_t)PAGE_BYTES, "dead_bytes",
			sum(domains, "dead_pages") * (json_int_t)PAGE_BYTES, "index_bytes",
			sum(domains, "index_bytes") + sum(domains, "table_bytes"), "protocol_errors",
			json_integer_value(json_object_get(status, "protocol_errors")));
	json_decref(status);
	return ret;
}

void descriptors_raise(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur == limit.rlim_max)
		return;
	limit.rlim_cur = limit.rlim_max;
	(void)setrlimit(RLIMIT_NOFILE, &limit);
}
