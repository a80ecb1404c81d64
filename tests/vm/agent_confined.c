/* SPDX-License-Identifier: Apache-2.0 */
/* The memory agent at work under the system call filters of a confined VM: a call that its list lacks ends this process.
 *   agent_confined [SARDINED]	with a daemon, or with a store of the VM's own
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/size.h"
#include "ksm/agent.h"
#include "ksm/replay-memory.h"
#include "ksm/store-remote.h"
#include "tools/confine-start.h"
#include "tools/run-confine.h"

#define FRAMES	8192u
#define WAIT_NS 20000000000u
#define MERGE_MS 60000u

static thread_confine_fn confine;

#define require(what_)                                                                                       \
	do {                                                                                                 \
		if (!(what_)) {                                                                              \
			fprintf(stderr, "agent_confined:%d: %s\n", __LINE__, #what_);                        \
			_exit(1);                                                                            \
		}                                                                                            \
	} while (0)

static void on_begins(void *arg)
{
	(void)arg;
	confine(THREAD_AGENT);
}

static int on_watch(void *ctx, hva_t start, uint64_t bytes)
{
	return agent_watch(ctx, start, bytes);
}

static void on_discarded(void *ctx, gfn_t first, uint64_t frames)
{
	agent_discarded(ctx, first, frames);
}

static pid_t start_daemon(char *program, char *path)
{
	uint64_t end = clock_now_ns() + WAIT_NS;
	pid_t pid = fork();

	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		execl(program, program, "--socket", path, "--log-level", "error", NULL);
		_exit(127);
	}
	require(pid > 0);
	while (access(path, F_OK) < 0) {
		require(clock_now_ns() < end && waitpid(pid, NULL, WNOHANG) == 0);
		nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
	}
	return pid;
}

/* Share, write what is shared, give some back, and share again. */
static void work(struct replay_memory *m, struct agent *a, bool daemon)
{
	struct agent_merge_result r;
	struct agent_stats stats;
	uint64_t end = clock_now_ns() + WAIT_NS;

	do {
		require(agent_merge(a, MERGE_MS, &r) == 0);
		agent_stats(a, &stats);
		require(clock_now_ns() < end);
	} while (daemon && strcmp(stats.link, "sardined") != 0);
	require(stats.frames[PAGE_STATE_SHARED] > 1000);
	for (uint64_t i = 0; i < FRAMES; i += 3)
		require(replay_memory_write_word(m, GFN(i), 5, i));
	require(replay_memory_discard(m, GFN(512), 512) == 0);
	require(replay_memory_discard(m, GFN(3000), 40) == 0);
	for (uint64_t i = 0; i < FRAMES; i++)
		require(replay_memory_restore(m, GFN(i)));
	for (unsigned i = 0; i < 3; i++)
		require(agent_merge(a, MERGE_MS, &r) == 0);
	agent_suspend(a);
	require(replay_memory_verify(m, GFN(0), FRAMES));
	require(agent_resume(a, true) == 0);
	require(agent_merge(a, MERGE_MS, &r) == 0);
}

/* The process of the VM. All that a confined one does but for its empty root: what is left behind here is the parent's to remove. */
static int vm_main(const char *path, bool daemon)
{
	static const struct replay_run runs[] = {
		{REPLAY_COPY, 1024}, {REPLAY_FILL, 700}, {REPLAY_UNIQUE, 200}, {REPLAY_ZERO, 124}, {REPLAY_COPY, 3}};
	const struct replay_spec spec = {
		.seed = 1, .pool_seed = 2, .pool_pages = 1100, .runs = runs, .count = ARRAY_SIZE(runs)};
	const struct agent_range range = {GFN(0), FRAMES};
	struct store_link_config link_config = {.frames = FRAMES, .vm_name = "vm"};
	struct agent_config config = {
		.ranges = &range, .range_count = 1, .manual = true, .thread_begins = on_begins};
	struct replay_memory *m;
	struct agent *a;
	struct errmsg err = {0};
	int r;

	require(replay_memory_new(FRAMES, &spec, &m) == 0);
	require(store_link_remote_new(&link_config, &path, 1, &err, &config.recorded, &config.link) == 0);
	store_link_remote_stay(config.link);
	config.view = replay_memory_view(m);
	r = agent_new(&config, &err, &a);
	if (r == -ENOTSUP) {
		fprintf(stderr, "skipped: %s\n", err.text);
		return 77;
	}
	require(r == 0);
	replay_memory_watch_by(m, &(struct replay_watcher){on_watch, on_discarded, a});
	confine = confine_threads(CONFIG_SECCOMP_ON);
	require(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
	require(confine_start_filter(CONFIG_SECCOMP_ON, false, false, &err) == 0);
	require(agent_start(a) == 0);
	confine(THREAD_LOOP);
	work(m, a, daemon);
	agent_free(a);
	replay_memory_free(m);
	return 0;
}

int main(int argc, char **argv)
{
	char dir[] = "/tmp/sardine-agent-confined-XXXXXX", path[64];
	pid_t daemon = 0, vm;
	int status;

	require(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/sardined.sock", dir);
	if (argc > 1)
		daemon = start_daemon(argv[1], path);
	vm = fork();
	if (vm == 0)
		_exit(vm_main(path, daemon != 0));
	require(vm > 0 && waitpid(vm, &status, 0) == vm);
	if (daemon) {
		kill(daemon, SIGTERM);
		waitpid(daemon, NULL, 0);
	}
	unlink(path);
	rmdir(dir);
	if (WIFSIGNALED(status))
		fprintf(stderr, "agent_confined: ended by signal %d (%s)\n", WTERMSIG(status),
			strsignal(WTERMSIG(status)));
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
