/* SPDX-License-Identifier: Apache-2.0 */
/* kill -9 of the daemon, and of VMs, at any moment while VMs submit, donate, map and unmap: what a VM holds stays what it was, the
 * next daemon knows of every reference, and nothing is left when all are gone.
 *
 *     stress_daemon SARDINED     the test
 *     stress_daemon client ..    one VM, started by it: what an agent does with its link, without a guest
 *
 * SARDINE_KILLS: how many; default 12, with SARDINE_FULL 200. SARDINE_KILL_SEED: of what is drawn by chance.
 */
#include <dirent.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/unit/store-vm.h"
#include "tests/unit/tempdir.h"
#include "tools/store-client.h"

#define require(x_)                                                                                          \
	do {                                                                                                 \
		if (!(x_)) {                                                                                 \
			fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #x_);                     \
			abort();                                                                             \
		}                                                                                            \
	} while (0)

#define CLIENTS	    4u
#define CONTENTS    300u
#define MAPPINGS    400u
#define DEADLINE_NS 60000000000ull

enum phase { RUN, REST, LEAVE };

/* Shared by the test and its VMs. */
struct board {
	_Atomic uint32_t phase;
	struct {
		_Atomic uint32_t rests; /* connected, and says what it holds: */
		_Atomic uint64_t references;
		_Atomic uint64_t refused, found, donated, moved, lost, checked;
	} vm[CLIENTS];
};

static uint64_t draw(uint64_t *seed, uint64_t below)
{
	*seed = *seed * 6364136223846793005u + 1442695040888963407u;
	return (*seed >> 33) % below;
}

static void rest_ms(unsigned ms)
{
	nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000}, NULL);
}

/* The VMs. */

struct mapping {
	uint32_t segment, page;
	uint64_t content;
};

struct vm {
	struct store_vm vm;
	struct board *board;
	unsigned index;
	uint64_t seed;
	uint16_t contents[VM_FRAMES]; /* + 1; 0: never submitted */
	struct mapping mappings[MAPPINGS];
	unsigned mapping_count;
	uint16_t wanted[64];
	unsigned wanted_count;
};

/* What is in the store under the number of a content is that content. Return: false when the segment is gone. */
static bool check_page(struct vm *v, uint32_t segment, uint32_t page, uint64_t content)
{
	const struct segment_view *view;
	uint64_t want[PAGE_BYTES / 8];
	int r = v->vm.link->ops->view(v->vm.link, segment, &view);

	if (r == -ENOENT)
		return false;
	require(r == 0 && page < view->pages);
	store_vm_page(content, want);
	require(memcmp(view->bytes + page * PAGE_BYTES, want, PAGE_BYTES) == 0);
	atomic_fetch_add(&v->board->vm[v->index].checked, 1);
	return true;
}

static void map(struct vm *v, uint32_t segment, uint32_t page, uint64_t content)
{
	int r;

	if (v->mapping_count == MAPPINGS || !check_page(v, segment, page, content))
		return;
	r = v->vm.link->ops->refs(v->vm.link, segment, page, 1, 1);
	if (r == -ENOENT) /* its daemon died in between */
		return;
	require(r == 0);
	v->mappings[v->mapping_count++] = (struct mapping){segment, page, content};
	atomic_fetch_add(&v->board->vm[v->index].found, 1);
}

static void unmap(struct vm *v, unsigned i)
{
	const struct mapping m = v->mappings[i];

	/* What is held is there, whatever became of the daemon. */
	require(check_page(v, m.segment, m.page, m.content));
	require(v->vm.link->ops->refs(v->vm.link, m.segment, m.page, 1, -1) == 0);
	v->mappings[i] = v->mappings[--v->mapping_count];
}

static void want(struct vm *v, uint32_t frame)
{
	if (v->contents[frame] && v->wanted_count < ARRAY_SIZE(v->wanted))
		v->wanted[v->wanted_count++] = v->contents[frame];
}

static void submit(struct vm *v)
{
	struct store_record records[64];
	struct store_answer answers[64];
	uint64_t contents[64]; /* a frame may come twice */
	unsigned count = 1 + (unsigned)draw(&v->seed, 64);

	for (unsigned i = 0; i < count; i++) {
		uint32_t frame = (uint32_t)draw(&v->seed, VM_FRAMES);
		uint16_t content = (uint16_t)draw(&v->seed, CONTENTS);

		contents[i] = content;
		v->contents[frame] = (uint16_t)(content + 1);
		records[i] = (struct store_record){.key = store_vm_key(content), .frame = frame};
		atomic_fetch_or(&v->vm.recorded[frame / 64], 1ull << (frame % 64));
	}
	require(v->vm.link->ops->submit(v->vm.link, records, count, answers) == 0);
	for (unsigned i = 0; i < count; i++) {
		if (answers[i].kind == STORE_FOUND)
			map(v, answers[i].segment, answers[i].page, contents[i]);
		else if (answers[i].kind == STORE_WANTED)
			want(v, records[i].frame);
	}
}

static void donate(struct vm *v)
{
	struct segment *s = NULL;
	uint32_t pages = v->wanted_count < 16 ? v->wanted_count : 16, at, segment;
	uint16_t contents[16];
	int r;

	if (!pages)
		return;
	for (uint32_t i = 0; i < pages; i++)
		contents[i] = v->wanted[--v->wanted_count];
	r = v->vm.link->ops->lend(v->vm.link, pages, &s);
	require(r == 0);
	for (uint32_t i = 0; i < pages; i++) {
		uint64_t page[PAGE_BYTES / 8];

		store_vm_page(contents[i] - 1u, page);
		require(segment_append(s, page, 1, &at) == 0);
	}
	require(v->vm.link->ops->offer(v->vm.link, s, &segment) == 0);
	map(v, segment, 0, contents[0] - 1u);
	atomic_fetch_add(&v->board->vm[v->index].donated, pages);
}

static void move(struct vm *v, const struct store_event *e)
{
	for (unsigned i = v->mapping_count; i-- > 0;) {
		struct mapping *m = &v->mappings[i];

		if (m->segment != e->segment || m->page < e->page || m->page - e->page >= e->run)
			continue;
		map(v, e->to_segment, e->to_page + m->page - e->page, m->content);
		unmap(v, i);
		atomic_fetch_add(&v->board->vm[v->index].moved, 1);
	}
}

static void events(struct vm *v)
{
	v->vm.event_count = 0;
	require(v->vm.link->ops->events(v->vm.link, store_vm_take, &v->vm) == 0);
	for (unsigned i = 0; i < v->vm.event_count; i++) {
		const struct store_event *e = &v->vm.events[i];

		if (e->kind == STORE_EVENT_FOUND && store_vm_key(v->contents[e->frame] - 1u) == e->key)
			map(v, e->segment, e->page, v->contents[e->frame] - 1u);
		else if (e->kind == STORE_EVENT_WANTED && store_vm_key(v->contents[e->frame] - 1u) == e->key)
			want(v, e->frame);
		else if (e->kind == STORE_EVENT_MOVE)
			move(v, e);
		else if (e->kind == STORE_EVENT_RESET)
			v->wanted_count = 0;
	}
}

static void rest(struct vm *v)
{
	struct store_link_stats stats;

	for (unsigned i = 0; i < v->mapping_count; i++)
		require(check_page(v, v->mappings[i].segment, v->mappings[i].page, v->mappings[i].content));
	store_vm_wait_name(&v->vm, "sardined");
	/* Also sends what waits to be sent. */
	do {
		events(v);
		store_link_remote_stats(v->vm.link, &stats);
	} while (v->vm.event_count);
	atomic_store(&v->board->vm[v->index].references, stats.references);
	require(stats.references == v->mapping_count);
	atomic_store(&v->board->vm[v->index].refused, stats.refused);
	atomic_store(&v->board->vm[v->index].lost, stats.lost);
	atomic_store(&v->board->vm[v->index].rests, 1);
	while (atomic_load(&v->board->phase) == REST)
		rest_ms(5);
	atomic_store(&v->board->vm[v->index].rests, 0);
}

static int client_main(char **argv)
{
	static struct vm v;
	char name[16];

	v.index = (unsigned)atoi(argv[2]);
	v.seed = strtoull(argv[3], NULL, 10);
	v.board = mmap(NULL, sizeof(*v.board), PROT_READ | PROT_WRITE, MAP_SHARED, atoi(argv[4]), 0);
	require(v.board != MAP_FAILED && v.index < CLIENTS);
	snprintf(name, sizeof(name), "vm%u", v.index);
	store_vm_start(&v.vm, name, argv[5]);
	while (atomic_load(&v.board->phase) != LEAVE) {
		if (atomic_load(&v.board->phase) == REST) {
			rest(&v);
			continue;
		}
		submit(&v);
		events(&v);
		donate(&v);
		while (v.mapping_count && draw(&v.seed, 3))
			unmap(&v, (unsigned)draw(&v.seed, v.mapping_count));
		if (draw(&v.seed, 20) == 0)
			rest_ms(1);
	}
	store_vm_end(&v.vm);
	return 0;
}

/* The test. */

struct test {
	const char *self, *sardined;
	struct tempdir dir;
	char path[128];
	struct board *board;
	int board_fd;
	uint64_t seed;
	pid_t daemon, vms[CLIENTS];
};

static pid_t spawn(char *const argv[])
{
	pid_t pid = fork();

	require(pid >= 0);
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL); /* nothing outlives a test that fails */
		execv(argv[0], argv);
		_exit(127);
	}
	return pid;
}

static void start_daemon(struct test *t)
{
	char *const argv[] = {(char *)(uintptr_t)t->sardined, (char[]){"--socket"}, t->path,
			      (char[]){"--log-level"},	      (char[]){"warn"},	    NULL};

	t->daemon = spawn(argv);
}

static void start_vm(struct test *t, unsigned i)
{
	char index[12], seed[24], fd[12];
	char *const argv[] = {(char *)(uintptr_t)t->self, (char[]){"client"}, index, seed, fd, t->path, NULL};

	snprintf(index, sizeof(index), "%u", i);
	snprintf(seed, sizeof(seed), "%llu", (unsigned long long)(draw(&t->seed, 1u << 30) + 1));
	snprintf(fd, sizeof(fd), "%d", t->board_fd);
	t->vms[i] = spawn(argv);
}

static int end(pid_t pid, int signal)
{
	int status;

	if (signal)
		require(kill(pid, signal) == 0);
	require(waitpid(pid, &status, 0) == pid);
	return status;
}

static json_int_t figure(struct test *t, bool of_domain, const char *key)
{
	struct errmsg err = {0};
	json_t *json = NULL;
	const json_t *in, *value;
	json_int_t n = -1;

	if (store_daemon_status(t->path, &err, &json) < 0)
		return -2;
	in = of_domain ? json_array_get(json_object_get(json, "domains"), 0) : json;
	value = json_object_get(in, key);
	if (json_is_integer(value))
		n = json_integer_value(value);
	json_decref(json);
	return n;
}

static void check_alive(struct test *t)
{
	for (unsigned i = 0; i < CLIENTS; i++) {
		int status;

		if (waitpid(t->vms[i], &status, WNOHANG) == 0)
			continue;
		fprintf(stderr, "VM %u failed: status %#x\n", i, (unsigned)status);
		abort();
	}
}

/* All rest; the daemon knows of exactly what they hold. */
static void check_references(struct test *t)
{
	uint64_t deadline = clock_now_ns() + DEADLINE_NS, sum = 0, refused = 0;
	unsigned resting;

	atomic_store(&t->board->phase, REST);
	do {
		check_alive(t);
		require(clock_now_ns() < deadline);
		rest_ms(5);
		resting = 0;
		for (unsigned i = 0; i < CLIENTS; i++)
			resting += atomic_load(&t->board->vm[i].rests);
	} while (resting < CLIENTS);
	for (unsigned i = 0; i < CLIENTS; i++) {
		sum += atomic_load(&t->board->vm[i].references);
		refused += atomic_load(&t->board->vm[i].refused);
	}
	if (figure(t, true, "mappings") != (json_int_t)sum || refused)
		fprintf(stderr, "the daemon knows of %lld references, VMs hold %llu; %llu were refused\n",
			(long long)figure(t, true, "mappings"), (unsigned long long)sum,
			(unsigned long long)refused);
	require(figure(t, true, "mappings") == (json_int_t)sum && !refused);
	require(figure(t, true, "vms") == CLIENTS && figure(t, false, "protocol_errors") == 0);
	atomic_store(&t->board->phase, RUN);
	do {
		rest_ms(2);
		resting = 0;
		for (unsigned i = 0; i < CLIENTS; i++)
			resting += atomic_load(&t->board->vm[i].rests);
		require(clock_now_ns() < deadline);
	} while (resting);
}

/* Memory files of the store that a process has open. */
static unsigned memfds(pid_t pid)
{
	char path[64], name[64];
	struct dirent *e;
	unsigned n = 0;
	auto_dir d = NULL;

	snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
	d = opendir(path);
	require(d);
	while ((e = readdir(d))) {
		ssize_t len = readlinkat(dirfd(d), e->d_name, name, sizeof(name) - 1);

		if (len > 0) {
			name[len] = '\0';
			n += strstr(name, "sardine-segment") || strstr(name, "sardine-rings");
		}
	}
	return n;
}

static void check_empty(struct test *t)
{
	uint64_t deadline = clock_now_ns() + DEADLINE_NS;

	atomic_store(&t->board->phase, LEAVE);
	for (unsigned i = 0; i < CLIENTS; i++)
		require(end(t->vms[i], 0) == 0);
	while (figure(t, false, "connections") > 1) { /* ours */
		require(clock_now_ns() < deadline);
		rest_ms(2);
	}
	require(figure(t, true, "vms") == -1);
	require(memfds(t->daemon) == 0);
	require(end(t->daemon, SIGTERM) == 0);
	require(access(t->path, F_OK) < 0);
}

static uint64_t env_number(const char *name, uint64_t otherwise)
{
	const char *text = getenv(name);

	return text ? strtoull(text, NULL, 10) : otherwise;
}

int main(int argc, char **argv)
{
	uint64_t kills = env_number("SARDINE_KILLS", getenv("SARDINE_FULL") ? 200 : 12);
	struct test t = {.self = "/proc/self/exe", .sardined = argv[1]};

	if (argc == 6 && strcmp(argv[1], "client") == 0)
		return client_main(argv);
	require(argc == 2);
	t.seed = env_number("SARDINE_KILL_SEED", (uint64_t)time(NULL));
	printf("seed %llu\n", (unsigned long long)t.seed);
	fflush(stdout);
	t.dir = tempdir_make();
	/* No VM of this host is looked for. */
	setenv("SARDINE_RUNTIME_DIR", t.dir.path, 1);
	snprintf(t.path, sizeof(t.path), "%s/sardined.sock", t.dir.path);
	t.board_fd = memfd_create("board", 0);
	require(t.board_fd >= 0 && ftruncate(t.board_fd, sizeof(*t.board)) == 0);
	t.board = mmap(NULL, sizeof(*t.board), PROT_READ | PROT_WRITE, MAP_SHARED, t.board_fd, 0);
	require(t.board != MAP_FAILED);
	start_daemon(&t);
	for (unsigned i = 0; i < CLIENTS; i++)
		start_vm(&t, i);
	for (uint64_t i = 0; i < kills; i++) {
		rest_ms((unsigned)(50 + draw(&t.seed, i % 3 ? 300 : 1200)));
		check_alive(&t);
		if (i % 4 == 3) {
			unsigned vm = (unsigned)draw(&t.seed, CLIENTS);

			require(WIFSIGNALED(end(t.vms[vm], SIGKILL)));
			start_vm(&t, vm);
		} else {
			int status = end(t.daemon, SIGKILL);

			require(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
			start_daemon(&t);
		}
		if (i % 6 == 5)
			check_references(&t);
	}
	check_references(&t);
	for (unsigned i = 0; i < CLIENTS; i++)
		printf("vm%u: %llu found, %llu donated, %llu moved, %llu pages checked, %llu daemons lost\n",
		       i, (unsigned long long)atomic_load(&t.board->vm[i].found),
		       (unsigned long long)atomic_load(&t.board->vm[i].donated),
		       (unsigned long long)atomic_load(&t.board->vm[i].moved),
		       (unsigned long long)atomic_load(&t.board->vm[i].checked),
		       (unsigned long long)atomic_load(&t.board->vm[i].lost));
	check_empty(&t);
	tempdir_remove(&t.dir);
	return 0;
}
