/* SPDX-License-Identifier: Apache-2.0 */
/* Running our store for a benchmark. */
#include "tools/bench-store.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>

#include "base/clock.h"
#include "tools/run-cgroup.h"
#include "tools/store-client.h"

#define START_S	      10u
#define START_POLL_NS 5000000
/* Of one merge: then another is asked for, or the run is over. */
#define MERGE_S 2u

/* In the child. */
static void exec_daemon(const struct bench_room *room, const char *program, pid_t parent)
	__attribute__((noreturn));
static void exec_daemon(const struct bench_room *room, const char *program, pid_t parent)
{
	struct errmsg ignored = {0};
	char log[96];
	int fd;

	snprintf(log, sizeof(log), "%s/sardined.log", room->runtime);
	fd = open(log, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != parent || fd < 0 ||
	    dup2(fd, STDOUT_FILENO) < 0 || dup2(fd, STDERR_FILENO) < 0 ||
	    (room->cgroup[0] && cgroup_join(room->cgroup, &ignored) < 0))
		_exit(126);
	execl(program, "sardined", (char *)NULL);
	_exit(127);
}

/* Beside the program that runs. */
static int daemon_program(char *path, size_t len, struct errmsg *err)
{
	ssize_t n = readlink("/proc/self/exe", path, len - 1);
	char *end;

	path[n > 0 ? n : 0] = '\0';
	end = strrchr(path, '/');
	if (!end || (size_t)(end - path) + sizeof("/sardined") > len)
		return errmsg_set(err, -ENOTSUP, "cannot tell where sardined is");
	strcpy(end, "/sardined");
	if (access(path, X_OK) < 0)
		return errmsg_set(err, -ENOTSUP, "%s: %s", path, strerror(errno));
	return 0;
}

static int wait_answer(pid_t pid, struct errmsg *err)
{
	uint64_t end = clock_now_ns() + START_S * 1000000000ull;
	auto_free char *path = store_socket_path();

	if (!path)
		return -ENOMEM;
	for (;;) {
		struct errmsg ignored = {0};
		json_t *json;

		if (store_daemon_status(path, &ignored, &json) == 0) {
			json_decref(json);
			return 0;
		}
		if (waitpid(pid, NULL, WNOHANG) == pid)
			return errmsg_set(err, -ECHILD, "sardined ended at once");
		if (clock_now_ns() > end)
			return errmsg_set(err, -ETIMEDOUT, "sardined does not answer: %s", ignored.text);
		nanosleep(&(struct timespec){.tv_nsec = START_POLL_NS}, NULL);
	}
}

int bench_daemon_start(const struct bench_room *room, pid_t *ret_pid, struct errmsg *err)
{
	char program[PATH_MAX];
	pid_t parent = getpid(), pid;
	int r = daemon_program(program, sizeof(program), err);

	if (r < 0)
		return r;
	pid = fork();
	if (pid == 0)
		exec_daemon(room, program, parent);
	if (pid < 0)
		return errmsg_set(err, -errno, "cannot start a process: %s", strerror(errno));
	r = wait_answer(pid, err);
	if (r < 0) {
		bench_daemon_end(pid);
		return r;
	}
	*ret_pid = pid;
	return 0;
}

void bench_daemon_end(pid_t pid)
{
	if (pid <= 0)
		return;
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

static uint64_t figure(const json_t *domain, const char *key)
{
	return (uint64_t)json_integer_value(json_object_get(domain, key));
}

int bench_daemon_read(struct bench_daemon *ret, struct errmsg *err)
{
	auto_free char *path = store_socket_path();
	struct bench_daemon sum = {0};
	json_t *json, *domain;
	size_t i;
	int r = path ? store_daemon_status(path, err, &json) : -ENOMEM;

	if (r < 0)
		return r;
	json_array_foreach(json_object_get(json, "domains"), i, domain)
	{
		sum.index_bytes += figure(domain, "index_bytes") + figure(domain, "table_bytes");
		sum.mappings += figure(domain, "mappings");
		sum.saved_pages += figure(domain, "pages_saved");
	}
	json_decref(json);
	*ret = sum;
	return 0;
}

struct merger {
	const struct bench_vm *vm;
	pthread_t thread;
	int result; /* 1: there is more to do; 0; an errno */
	struct errmsg err;
};

struct bench_merges {
	unsigned count;
	pthread_t thread;
	atomic_bool stop, done;
	int result; /* 1: settled; 0: ended before; an errno */
	struct errmsg err;
	struct merger mergers[BENCH_VMS_MAX];
};

/* One merge of one VM. */
static void *merger_main(void *arg)
{
	struct merger *me = arg;
	json_t *result = NULL;
	json_int_t store, zero;
	int settled;
	int r = bench_vm_ask(me->vm, json_pack("{s:s, s:i}", "cmd", "merge", "timeout_s", (int)MERGE_S),
			     &result, &me->err);

	if (r == 0 && json_unpack(result, "{s:{s:{s:I}, s:{s:I}}, s:b}", "routes", "store", "pages", &store,
				  "zero", "pages", &zero, "settled", &settled) < 0)
		r = errmsg_set(&me->err, -EPROTO, "%s: does not say what it merged", me->vm->name);
	json_decref(result);
	me->result = r < 0 ? r : store > 0 || zero > 0 || !settled;
	return NULL;
}

/* A merge of each VM at the same time. Return: whether there is more to do, or the first errno. */
static int merge_round(struct bench_merges *m)
{
	unsigned started = 0;
	int more = 0;

	while (started < m->count && more == 0) {
		more = -pthread_create(&m->mergers[started].thread, NULL, merger_main, &m->mergers[started]);
		started += more == 0;
	}
	for (unsigned i = 0; i < started; i++) {
		struct merger *me = &m->mergers[i];

		pthread_join(me->thread, NULL);
		if (me->result < 0)
			errmsg_set(&m->err, me->result, "%s", me->err.text);
		if (more >= 0 && me->result != 0)
			more = me->result;
	}
	return more;
}

/* Rounds: what one donates, others find. */
static void *rounds_main(void *arg)
{
	struct bench_merges *m = arg;
	int r = 1;

	while (r > 0 && !atomic_load(&m->stop))
		r = merge_round(m);
	m->result = r < 0 ? r : r == 0;
	atomic_store(&m->done, true);
	return NULL;
}

int bench_merges_start(const struct bench_vm *vms, unsigned count, struct bench_merges **ret)
{
	struct bench_merges *m = calloc(1, sizeof(*m));
	int r;

	if (!m)
		return -ENOMEM;
	m->count = count;
	for (unsigned i = 0; i < count; i++)
		m->mergers[i].vm = &vms[i];
	r = -pthread_create(&m->thread, NULL, rounds_main, m);
	if (r < 0) {
		free(m);
		return r;
	}
	*ret = m;
	return 0;
}

bool bench_merges_done(struct bench_merges *m)
{
	return atomic_load(&m->done);
}

int bench_merges_end(struct bench_merges *m, struct errmsg *err)
{
	int r;

	atomic_store(&m->stop, true);
	pthread_join(m->thread, NULL);
	r = m->result;
	if (r < 0)
		errmsg_set(err, r, "%s", errmsg_text(&m->err, r));
	free(m);
	return r;
}

static void larger(double *a, double b)
{
	if (b > *a)
		*a = b;
}

int bench_engines_read(const struct bench_vm *vms, unsigned count, struct bench_engines *ret,
		       struct errmsg *err)
{
	struct bench_engines sum = {0};
	int r = 0;

	for (unsigned i = 0; i < count && r == 0; i++) {
		json_t *stats = NULL;
		json_int_t extents, mapped, scattered, bytes;
		double cpu, p50, p99, p999, max;

		r = bench_vm_ask(&vms[i], json_pack("{s:s}", "cmd", "stats"), &stats, err);
		if (r == 0 &&
		    json_unpack(stats, "{s:{s:F, s:I, s:I, s:I, s:I, s:{s:F, s:F, s:F, s:F}}}", "engine",
				"cpu_s", &cpu, "extents", &extents, "store_pages_mapped", &mapped,
				"scattered_pages", &scattered, "metadata_bytes", &bytes, "hold", "p50_us",
				&p50, "p99_us", &p99, "p999_us", &p999, "max_us", &max) < 0)
			r = errmsg_set(err, -EPROTO, "%s: does not say what its engine did", vms[i].name);
		json_decref(stats);
		if (r < 0)
			break;
		sum.agent_s += cpu;
		sum.extents += (uint64_t)extents;
		sum.mapped_pages += (uint64_t)mapped;
		sum.scattered += (uint64_t)scattered;
		sum.metadata_bytes += (uint64_t)bytes;
		larger(&sum.p50_us, p50);
		larger(&sum.p99_us, p99);
		larger(&sum.p999_us, p999);
		larger(&sum.max_us, max);
	}
	*ret = sum;
	return r;
}
