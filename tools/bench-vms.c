/* SPDX-License-Identifier: Apache-2.0 */
/* Replay VMs of a benchmark: child processes that die with it. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include "base/addr.h"
#include "base/clock.h"
#include "base/fs.h"
#include "tools/bench.h"
#include "tools/client.h"

#define ARGS_MAX      24u
#define START_POLL_NS 5000000
#define LOG_MAX	      65536

static void log_path(const struct bench_room *room, const struct bench_vm *vm, char *path, size_t len)
{
	snprintf(path, len, "%s/%s.log", room->runtime, vm->name);
}

/* In the child. */
static void exec_vm(const struct bench_options *o, const struct bench_room *room, const struct bench_vm *vm,
		    unsigned number, const char *engine, pid_t parent) __attribute__((noreturn));
static void exec_vm(const struct bench_options *o, const struct bench_room *room, const struct bench_vm *vm,
		    unsigned number, const char *engine, pid_t parent)
{
	char mem[32], seed[16], log[96];
	const char *args[ARGS_MAX] = {"sardine",  "replay", "--name", vm->name,
				      "--engine", engine,   "--thp",  o->thp ? "on" : "off",
				      "--seed",	  seed};
	unsigned n = 10;
	int fd;

	snprintf(seed, sizeof(seed), "%u", number + 1);
	snprintf(mem, sizeof(mem), "%llu", (unsigned long long)o->mem_bytes);
	args[n++] = o->synthetic ? "--synthetic" : "--image";
	args[n++] = o->synthetic ? o->synthetic : o->images[number % o->image_count];
	if (o->mem_bytes) {
		args[n++] = "--mem";
		args[n++] = mem;
	}
	if (strcmp(engine, "store") == 0)
		args[n++] = "--manual";
	if (room->cgroup[0]) {
		args[n++] = "--cgroup";
		args[n++] = room->cgroup;
	}
	log_path(room, vm, log, sizeof(log));
	fd = open(log, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != parent || fd < 0 ||
	    dup2(fd, STDOUT_FILENO) < 0 || dup2(fd, STDERR_FILENO) < 0)
		_exit(126);
	execv("/proc/self/exe", (char *const *)(uintptr_t)args);
	_exit(127);
}

/* The last line that a VM wrote. */
static int say_why(const struct bench_room *room, const struct bench_vm *vm, struct errmsg *err)
{
	auto_free char *text = NULL;
	char path[96], *line;

	log_path(room, vm, path, sizeof(path));
	if (file_read_text(path, LOG_MAX, &text) < 0 || !text[0])
		return errmsg_set(err, -ECHILD, "%s: ended before it was filled", vm->name);
	text[strlen(text) - 1] = '\0';
	line = strrchr(text, '\n');
	return errmsg_set(err, -ECHILD, "%s", line ? line + 1 : text);
}

static int wait_filled(const struct bench_room *room, struct bench_vm *vm, struct errmsg *err)
{
	uint64_t end = clock_now_ns() + (uint64_t)BENCH_FILL_S * 1000000000;

	for (;;) {
		struct errmsg ignored = {0};
		struct client client;

		if (waitpid(vm->pid, NULL, WNOHANG) == vm->pid) {
			vm->pid = 0;
			return say_why(room, vm, err);
		}
		if (client_open(vm->name, &ignored, &client) == 0) {
			client_close(&client);
			return 0;
		}
		if (clock_now_ns() > end)
			return errmsg_set(err, -ETIMEDOUT, "%s: not filled within %d s", vm->name,
					  BENCH_FILL_S);
		nanosleep(&(struct timespec){.tv_nsec = START_POLL_NS}, NULL);
	}
}

static int learn(struct bench_vm *vm, struct errmsg *err)
{
	json_t *stats = NULL;
	json_int_t address, bytes;
	int r = bench_vm_ask(vm, json_pack("{s:s}", "cmd", "stats"), &stats, err);

	if (r == 0 && json_unpack(stats, "{s:{s:I}, s:{s:I}}", "replay", "address", &address, "memory",
				  "configured_bytes", &bytes) < 0)
		r = errmsg_set(err, -EPROTO, "%s: does not say where its memory is", vm->name);
	json_decref(stats);
	if (r < 0)
		return r;
	vm->address = (uint64_t)address;
	vm->frames = (uint64_t)bytes / PAGE_BYTES;
	return 0;
}

int bench_vms_start(const struct bench_options *options, const struct bench_room *room, const char *engine,
		    struct bench_vm *ret, struct errmsg *err)
{
	pid_t parent = getpid();
	int r = 0;

	for (unsigned i = 0; i < options->vms; i++) {
		struct bench_vm *vm = &ret[i];

		*vm = (struct bench_vm){0};
		snprintf(vm->name, sizeof(vm->name), "vm%u", i);
		vm->pid = fork();
		if (vm->pid == 0)
			exec_vm(options, room, vm, i, engine, parent);
		if (vm->pid < 0) {
			r = errmsg_set(err, -errno, "cannot start a process: %s", strerror(errno));
			vm->pid = 0;
			break;
		}
	}
	for (unsigned i = 0; i < options->vms && r == 0; i++)
		r = wait_filled(room, &ret[i], err);
	for (unsigned i = 0; i < options->vms && r == 0; i++)
		r = learn(&ret[i], err);
	return r;
}

void bench_vms_end(struct bench_vm *vms, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		if (vms[i].pid)
			kill(vms[i].pid, SIGKILL);
	for (unsigned i = 0; i < count; i++) {
		if (vms[i].pid)
			waitpid(vms[i].pid, NULL, 0);
		vms[i].pid = 0;
	}
}

int bench_vm_ask(const struct bench_vm *vm, json_t *request, json_t **ret, struct errmsg *err)
{
	struct client client;
	int r = client_open(vm->name, err, &client);

	if (r < 0) {
		json_decref(request);
		return r;
	}
	r = client_call(&client, request, -1, 0, err, ret);
	client_close(&client);
	return r;
}

int bench_vms_check(const struct bench_vm *vms, unsigned count, struct errmsg *err)
{
	for (unsigned i = 0; i < count; i++) {
		json_t *result = NULL;
		const json_t *frame;
		int r = bench_vm_ask(&vms[i], json_pack("{s:s}", "cmd", "check"), &result, err);

		if (r < 0)
			return r;
		frame = json_object_get(result, "wrong_frame");
		if (!json_is_null(frame))
			r = errmsg_set(err, -EBADMSG, "%s: frame %lld reads wrong", vms[i].name,
				       (long long)json_integer_value(frame));
		json_decref(result);
		if (r < 0)
			return r;
	}
	return 0;
}
