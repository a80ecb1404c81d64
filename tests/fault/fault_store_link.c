/* SPDX-License-Identifier: Apache-2.0 */
/* Whichever allocation or system call fails, of a VM's link to the daemon or of the daemon's side of a connection: a clear error
 * or the right result, what is held stays held, nothing leaks, and the next attempt succeeds. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ksm/store-serve.h"
#include "tests/fault/fault.h"
#include "tests/unit/store-vm.h"
#include "tests/unit/tempdir.h"
#include "tools/sardined-server.h"

#define CALLS_MAX 3000u
#define CONTENT	  5u

/* A daemon in a process of its own, whose calls are not counted. */
static pid_t start_daemon(const char *path)
{
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		struct errmsg err = {0};
		struct server *server;
		struct io_loop *loop;

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (io_loop_new(&loop) < 0 || server_new(loop, path, 1, &err, &server) < 0 ||
		    io_loop_run(loop) < 0)
			_exit(1);
		_exit(0);
	}
	while (access(path, F_OK) < 0)
		usleep(1000);
	return pid;
}

struct held {
	uint32_t segment;
	bool known, referenced;
};

/* What an agent does, as far as nothing fails. */
static int use_link(struct store_vm *vm, struct held *held)
{
	const struct segment_view *view;
	struct store_record record = {.key = store_vm_key(CONTENT), .frame = 1};
	struct store_answer answer;
	int r = vm->link->ops->submit(vm->link, &record, 1, &answer);

	if (r == 0 && answer.kind != STORE_FOUND)
		r = store_vm_donate(vm, CONTENT, 2, &held->segment);
	else if (r == 0)
		held->segment = answer.segment;
	if (r < 0)
		return r;
	held->known = true;
	r = vm->link->ops->view(vm->link, held->segment, &view);
	if (r == 0)
		r = vm->link->ops->refs(vm->link, held->segment, 0, 2, 1);
	if (r < 0)
		return r;
	held->referenced = true;
	r = vm->link->ops->refs(vm->link, held->segment, 1, 1, -1);
	if (r == 0)
		r = vm->link->ops->events(vm->link, store_vm_take, vm);
	return r;
}

/* False when the n-th call was never made. */
static bool attempt_link(unsigned nth, const char *path)
{
	const struct store_link_config config = {.frames = VM_FRAMES, .vm_name = "vm"};
	unsigned fds = fault_open_fds();
	struct store_vm vm = {0};
	struct held held = {0};
	struct errmsg err = {0};
	struct store_link_stats stats;
	const char *failed;
	int r;

	fault_arm(nth);
	r = store_link_remote_new(&config, &path, 1, &err, &vm.recorded, &vm.link);
	if (r == 0)
		r = use_link(&vm, &held);
	failed = fault_disarm();
	if (!vm.link) {
		assert_non_null(failed);
		assert_int_equal(fault_open_fds(), fds);
		return true;
	}
	if (!failed) {
		assert_int_equal(r, 0);
		assert_string_equal(vm.link->ops->name(vm.link), "sardined");
		store_link_remote_stats(vm.link, &stats);
		assert_int_equal(stats.references, 1);
	}
	/* Whatever happened: it goes on. */
	if (held.referenced)
		store_vm_assert_page(&vm, held.segment, 0, CONTENT);
	held = (struct held){0};
	r = use_link(&vm, &held);
	/* The daemon may have taken what came with a call that failed; a second attempt is told so. */
	if (r < 0)
		r = use_link(&vm, &held);
	if (r < 0)
		fprintf(stderr, "%s, call %u: afterwards: %s\n", failed ? failed : "", nth, strerror(-r));
	assert_int_equal(r, 0);
	store_vm_assert_page(&vm, held.segment, 0, CONTENT);
	store_vm_end(&vm);
	assert_int_equal(fault_open_fds(), fds);
	return failed != NULL;
}

TEST(the_link_survives_any_failure)
{
	struct tempdir dir = tempdir_make();
	char path[128];
	unsigned n = 1;
	int status;
	pid_t pid;

	snprintf(path, sizeof(path), "%s/sardined.sock", dir.path);
	pid = start_daemon(path);
	/* Once without: what is made on the first call of a process (threads of the C library) is there then. */
	(void)attempt_link(CALLS_MAX, path);
	while (attempt_link(n, path))
		assert_true(++n < CALLS_MAX);
	printf("%u calls\n", n - 1);
	assert_true(n > 20);
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
	tempdir_remove(&dir);
}

/* The daemon's side, without sockets. */

struct peer {
	struct store *store;
	struct store_serve *serve;
	struct store_wire_room room;
	int fd;
	uint8_t *memory;
	struct ring records;
};

static int domain_get(void *ctx, uint32_t uid, struct store **ret)
{
	(void)uid;
	*ret = ((struct peer *)ctx)->store;
	return 0;
}

static void domain_put(void *ctx, struct store *store)
{
	(void)ctx, (void)store;
}

static void bell(void *ctx)
{
	(void)ctx;
}

static int stats(void *ctx, int *ret_fd, uint32_t *ret_bytes)
{
	(void)ctx, (void)ret_fd, (void)ret_bytes;
	return -EPERM;
}

static const struct store_serve_ops ops = {domain_get, domain_put, bell, stats};

/* Return: the result that was answered, or that of the connection. */
static int say(struct peer *p, const struct store_wire_message *m, struct store_serve_reply *reply)
{
	int r = store_serve_message(p->serve, m, reply);

	return r < 0 ? r : reply->answer.result;
}

static int call(struct peer *p, uint32_t kind, uint32_t count, struct store_serve_reply *reply)
{
	const struct store_wire_message m = {.call = {.kind = kind, .count = count}, .len = sizeof(m.call)};

	return say(p, &m, reply);
}

static int serve_all(struct peer *p)
{
	const struct store_record record = {.key = 77, .frame = 3};
	const struct store_wire_message hello = {
		.hello = {.kind = STORE_WIRE_HELLO,
			  .version_min = 1,
			  .version_max = 1,
			  .frames = 100,
			  .vm_name = "vm"},
		.len = sizeof(hello.hello),
		.fds = {p->fd},
		.fd_count = 1,
		.credited = true,
		.pid = 1,
	};
	struct store_serve_reply reply;
	struct segment *s = NULL;
	uint64_t page[PAGE_BYTES / 8];
	auto_fd sealed = -1;
	uint32_t at, loan;
	int r = store_serve_new(&ops, p, &p->serve);

	if (r == 0)
		r = say(p, &hello, &reply);
	if (r == 0)
		r = ring_put(&p->records, &record, 1, NULL);
	if (r == 0)
		r = call(p, STORE_WIRE_SUBMIT, 1, &reply);
	if (r == 0)
		r = call(p, STORE_WIRE_LEND, 1, &reply);
	if (r < 0)
		return r;
	loan = reply.answer.value;
	r = segment_adopt_file(reply.fd, 1, &s);
	if (r < 0) {
		close(reply.fd);
		return r;
	}
	store_vm_page(CONTENT, page);
	r = segment_append(s, page, 1, &at);
	if (r == 0)
		r = segment_seal(s, &sealed);
	segment_free(s);
	if (r == 0)
		r = call(p, STORE_WIRE_OFFER, loan, &reply);
	if (r == 0) {
		const struct store_wire_ref ref = {reply.answer.value, 0, 1, 1};

		ring_rewind_writer(&p->records);
		r = ring_put(&p->records, &ref, 1, NULL);
		if (r == 0)
			r = call(p, STORE_WIRE_REFS, 1, &reply);
	}
	return r;
}

static bool attempt_serve(unsigned nth)
{
	unsigned fds = fault_open_fds();
	struct peer p = {.room = store_wire_room(100)};
	struct store_stats figures;
	const char *failed;
	int r;

	assert_int_equal(store_new(&(struct store_config){0}, NULL, &p.store), 0);
	assert_int_equal(store_wire_room_new(&p.room, &p.fd), 0);
	p.memory = mmap(NULL, p.room.bytes, PROT_READ | PROT_WRITE, MAP_SHARED, p.fd, 0);
	assert_true(p.memory != MAP_FAILED);
	ring_init(&p.records, p.memory + p.room.records_at, sizeof(struct store_record), STORE_WIRE_BATCH);
	fault_arm(nth);
	r = serve_all(&p);
	failed = fault_disarm();
	/* A call that fails may have a way round: then all is well. */
	assert_true(failed || r == 0);
	store_serve_free(p.serve);
	store_stats(p.store, &figures);
	assert_int_equal(figures.clients, 0);
	assert_int_equal(figures.mappings, 0);
	store_free(p.store);
	munmap(p.memory, p.room.bytes);
	close(p.fd);
	assert_int_equal(fault_open_fds(), fds);
	return failed != NULL;
}

TEST(the_daemons_side_survives_any_failure)
{
	unsigned n = 1;

	(void)attempt_serve(CALLS_MAX);
	while (attempt_serve(n))
		assert_true(++n < CALLS_MAX);
	printf("%u calls\n", n - 1);
	assert_true(n > 10);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_link_survives_any_failure),
		cmocka_unit_test(the_daemons_side_survives_any_failure),
	};

	return TEST_RUN(tests);
}
