/* SPDX-License-Identifier: Apache-2.0 */
/* The console: nothing is lost to a reader in time, nobody waits for one who is late, input waits for room. */
#include "vmm/console.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/fs.h"
#include "tests/unit/loop-thread.h"
#include "tests/unit/tempdir.h"
#include "tests/unit/test.h"
#include "vmm/unix-socket.h"

/* A guest that takes what it has room for. */
struct guest {
	pthread_mutex_t mutex;
	size_t room;
	size_t len;
	uint8_t data[4 * CONSOLE_INPUT_BYTES];
};

static size_t guest_take(void *arg, const uint8_t *data, size_t len)
{
	struct guest *g = arg;

	pthread_mutex_lock(&g->mutex);
	if (len > g->room)
		len = g->room;
	if (len > sizeof(g->data) - g->len)
		len = sizeof(g->data) - g->len;
	memcpy(g->data + g->len, data, len);
	g->len += len;
	g->room -= len;
	pthread_mutex_unlock(&g->mutex);
	return len;
}

static void guest_make_room(struct guest *g, struct console *console, size_t room)
{
	pthread_mutex_lock(&g->mutex);
	g->room += room;
	pthread_mutex_unlock(&g->mutex);
	console_input_room(console);
}

struct fixture {
	struct tempdir dir;
	struct loop_thread t;
	struct console *console;
	struct guest guest;
};

static void fixture_start(struct fixture *f, enum console_kind kind, const char *path)
{
	struct errmsg err = {0};

	*f = (struct fixture){.dir = f->dir};
	pthread_mutex_init(&f->guest.mutex, NULL);
	assert_int_equal(io_loop_new(&f->t.loop), 0);
	assert_int_equal(console_new(f->t.loop, kind, path, &err, &f->console), 0);
	console_set_input(f->console, guest_take, &f->guest);
	loop_thread_start(&f->t);
}

static void fixture_stop(struct fixture *f)
{
	loop_thread_stop(&f->t);
	console_free(f->console);
	io_loop_free(f->t.loop);
	pthread_mutex_destroy(&f->guest.mutex);
}

static void print(struct console *console, const char *text)
{
	for (; *text; text++)
		console_output(console, (uint8_t)*text);
}

struct attach {
	struct console *console;
	int fd;
	const char *prefix;
	const char *input;
	int result;
};

static void attach_run(void *arg)
{
	struct attach *a = arg;

	a->result =
		console_attach(a->console, a->fd, a->prefix, strlen(a->prefix), a->input, strlen(a->input));
}

/* A client; its end of the connection. */
static int attach(struct fixture *f, const char *prefix, const char *input)
{
	struct attach a = {.console = f->console, .prefix = prefix, .input = input};
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	a.fd = pair[0];
	loop_thread_call(&f->t, attach_run, &a);
	assert_int_equal(a.result, 0);
	return pair[1];
}

struct counters_call {
	struct console *console;
	struct console_counters counters;
};

static void counters_run(void *arg)
{
	struct counters_call *c = arg;

	console_counters(c->console, &c->counters);
}

static struct console_counters counters(struct fixture *f)
{
	struct counters_call c = {.console = f->console};

	loop_thread_call(&f->t, counters_run, &c);
	return c.counters;
}

static bool no_readers(void *arg)
{
	return counters(arg).readers == 0;
}

static bool one_reader(void *arg)
{
	return counters(arg).readers == 1;
}

static bool guest_has_5(void *arg)
{
	struct fixture *f = arg;
	bool has;

	pthread_mutex_lock(&f->guest.mutex);
	has = f->guest.len >= 5;
	pthread_mutex_unlock(&f->guest.mutex);
	return has;
}

static bool guest_has_all(void *arg)
{
	struct fixture *f = arg;
	bool has;

	pthread_mutex_lock(&f->guest.mutex);
	has = f->guest.len == 3 * CONSOLE_INPUT_BYTES;
	pthread_mutex_unlock(&f->guest.mutex);
	return has;
}

/* All that 15 clients typed, 3 bytes each. */
static bool guest_has_kept(void *arg)
{
	struct fixture *f = arg;
	bool has;

	pthread_mutex_lock(&f->guest.mutex);
	has = f->guest.len == (CONSOLE_ENDS_MAX - 1) * 3;
	pthread_mutex_unlock(&f->guest.mutex);
	return has;
}

static void expect(int fd, const char *text)
{
	char buf[512];
	size_t len = strlen(text);

	assert_int_equal(test_read(fd, buf, len), len);
	assert_memory_equal(buf, text, len);
}

TEST(late_client_gets_history_then_live)
{
	struct fixture f = {0};
	int fd;

	fixture_start(&f, CONSOLE_NONE, NULL);
	print(f.console, "early\r\n");
	fd = attach(&f, "hello\n", "");
	expect(fd, "hello\nearly\r\n");
	print(f.console, "live");
	expect(fd, "live");
	assert_int_equal(counters(&f).readers, 1);
	close(fd);
	assert_true(test_wait(no_readers, &f));
	fixture_stop(&f);
}

TEST(history_is_the_last_64_kib)
{
	struct fixture f = {0};
	auto_free char *buf = malloc(CONSOLE_HISTORY_BYTES);
	int fd;

	fixture_start(&f, CONSOLE_NONE, NULL);
	for (unsigned i = 0; i < CONSOLE_HISTORY_BYTES + 1000; i++)
		console_output(f.console, (uint8_t)(i % 251));
	fd = attach(&f, "", "");
	assert_int_equal(test_read(fd, buf, CONSOLE_HISTORY_BYTES), CONSOLE_HISTORY_BYTES);
	for (unsigned i = 0; i < CONSOLE_HISTORY_BYTES; i++)
		assert_int_equal((uint8_t)buf[i], (i + 1000) % 251);
	close(fd);
	fixture_stop(&f);
}

TEST(slow_reader_is_told_of_its_gap_and_stops_nobody)
{
	struct fixture f = {0};
	const size_t total = 1 << 20;
	auto_free char *buf = malloc(total + 4096);
	unsigned long long lost = 0;
	size_t len;
	char *mark;
	int slow, quick;

	fixture_start(&f, CONSOLE_NONE, NULL);
	slow = attach(&f, "", "");
	quick = attach(&f, "", "");
	/* The socket of the slow one fills up; the quick one keeps getting all, in order. */
	for (size_t i = 0; i < total / 4096; i++) {
		uint8_t block[4096];

		for (size_t k = 0; k < sizeof(block); k++)
			console_output(f.console, (uint8_t)('a' + i % 26));
		assert_int_equal(test_read(quick, block, sizeof(block)), sizeof(block));
		for (size_t k = 0; k < sizeof(block); k++)
			assert_int_equal(block[k], 'a' + i % 26);
	}
	print(f.console, "!");
	/* Now it reads: a start, the mark, and the end; what it got and what it lost are all there was. */
	for (len = 0; len == 0 || buf[len - 1] != '!'; len++)
		assert_int_equal(test_read(slow, buf + len, 1), 1);
	buf[len] = '\0';
	mark = strstr(buf, "\r\n[sardine: ");
	assert_non_null(mark);
	assert_int_equal(sscanf(mark, "\r\n[sardine: %llu bytes of console output lost]", &lost), 1);
	assert_null(strstr(mark + 1, "\r\n[sardine: "));
	mark = strchr(mark, ']') + 3;
	assert_int_equal((size_t)(mark - buf) - strlen("\r\n[sardine: ") -
				 strlen(" bytes of console output lost]\r\n") -
				 (size_t)snprintf(NULL, 0, "%llu", lost) + lost + strlen(mark),
			 total + 1);
	assert_int_equal(counters(&f).output_dropped_bytes, lost);
	close(slow);
	close(quick);
	fixture_stop(&f);
}

TEST(input_waits_for_room_and_keeps_its_order)
{
	struct fixture f = {0};
	uint8_t data[3 * CONSOLE_INPUT_BYTES];
	int fd;

	fixture_start(&f, CONSOLE_NONE, NULL);
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i % 253);
	fd = attach(&f, "", "01234");
	assert_int_equal(write_full(fd, data, sizeof(data)), 0);
	assert_int_equal(counters(&f).input_bytes, 0);
	guest_make_room(&f.guest, f.console, 5);
	assert_true(test_wait(guest_has_5, &f));
	assert_memory_equal(f.guest.data, "01234", 5);
	pthread_mutex_lock(&f.guest.mutex);
	f.guest.len = 0;
	pthread_mutex_unlock(&f.guest.mutex);
	/* The client leaves before the guest has read: what it typed still arrives. */
	close(fd);
	for (size_t i = 0; i < sizeof(data); i += 16)
		guest_make_room(&f.guest, f.console, 16);
	assert_true(test_wait(guest_has_all, &f));
	assert_memory_equal(f.guest.data, data, sizeof(data));
	fixture_stop(&f);
}

TEST(half_closed_client_still_reads)
{
	struct fixture f = {0};
	int fd;

	fixture_start(&f, CONSOLE_NONE, NULL);
	fd = attach(&f, "", "");
	shutdown(fd, SHUT_WR);
	print(f.console, "still here");
	expect(fd, "still here");
	close(fd);
	assert_true(test_wait(no_readers, &f));
	fixture_stop(&f);
}

TEST(clients_are_bounded)
{
	struct fixture f = {0};
	int fds[CONSOLE_ENDS_MAX], pair[2];
	struct attach a;

	fixture_start(&f, CONSOLE_NONE, NULL);
	for (unsigned i = 0; i < CONSOLE_ENDS_MAX; i++)
		fds[i] = attach(&f, "", "");
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	a = (struct attach){.console = f.console, .fd = pair[0], .prefix = "", .input = ""};
	loop_thread_call(&f.t, attach_run, &a);
	assert_int_equal(a.result, -EUSERS);
	assert_int_equal(read(pair[1], fds, 0), 0);
	for (unsigned i = 0; i < CONSOLE_ENDS_MAX; i++)
		close(fds[i]);
	close(pair[1]);
	fixture_stop(&f);
}

/* A guest that reads nothing: what those who left have typed goes, the oldest first, when others come. */
TEST(clients_that_left_make_place)
{
	static const char typed[] = "0123456789abcdefghij";
	struct fixture f = {0};
	char input[] = "?";
	int fd, reader;

	fixture_start(&f, CONSOLE_NONE, NULL);
	reader = attach(&f, "", "");
	for (unsigned i = 0; i < CONSOLE_ENDS_MAX + 4; i++) {
		input[0] = typed[i];
		fd = attach(&f, "", input);
		/* More than the guest takes, and not all of it read from the socket. */
		assert_int_equal(write_full(fd, "xx", 2), 0);
		close(fd);
		assert_true(test_wait(one_reader, &f));
	}
	assert_int_equal(counters(&f).input_dropped_bytes, 5);
	/* Who reads was left alone; the input of those who kept their place still arrives. */
	print(f.console, "still here");
	expect(reader, "still here");
	guest_make_room(&f.guest, f.console, sizeof(f.guest.data));
	assert_true(test_wait(guest_has_kept, &f));
	pthread_mutex_lock(&f.guest.mutex);
	for (unsigned i = 0; i < CONSOLE_ENDS_MAX + 4; i++)
		assert_int_equal(memchr(f.guest.data, typed[i], f.guest.len) != NULL, i >= 5);
	pthread_mutex_unlock(&f.guest.mutex);
	close(reader);
	fixture_stop(&f);
}

TEST(file_gets_all_and_is_appended_to)
{
	struct fixture f = {.dir = tempdir_make()};
	const char *path = tempdir_file(&f.dir, "log");
	char *text = NULL;
	struct stat st;

	for (unsigned run = 0; run < 2; run++) {
		fixture_start(&f, CONSOLE_FILE, path);
		print(f.console, "one\n");
		fixture_stop(&f); /* drains */
	}
	assert_int_equal(file_read_text(path, 100, &text), 0);
	assert_string_equal(text, "one\none\n");
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	free(text);
	tempdir_remove(&f.dir);
}

/* What a failed start takes back, but not when the process can look at no file any more. */
TEST(a_new_file_is_taken_back_unless_it_is_left)
{
	for (unsigned leave = 0; leave < 2; leave++) {
		struct fixture f = {.dir = tempdir_make()};
		const char *path = tempdir_file(&f.dir, "new");

		fixture_start(&f, CONSOLE_FILE, path);
		if (leave)
			console_leave_file(f.console);
		console_discard_file(f.console);
		assert_int_equal(access(path, F_OK), leave ? 0 : -1);
		fixture_stop(&f);
		tempdir_remove(&f.dir);
	}
}

static bool two_dropped(void *arg)
{
	return counters(arg).output_dropped_bytes == 2;
}

/* A file that may not grow further (EFBIG) stands for a full disk (ENOSPC): both fail the write. */
TEST(full_disk_loses_bytes_and_no_more)
{
	struct fixture f = {.dir = tempdir_make()};
	const char *path = tempdir_file(&f.dir, "log");
	char *text = NULL;
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		setrlimit(RLIMIT_FSIZE, &(struct rlimit){.rlim_cur = 3, .rlim_max = RLIM_INFINITY});
		signal(SIGXFSZ, SIG_IGN);
		fixture_start(&f, CONSOLE_FILE, path);
		print(f.console, "abcde");
		if (!test_wait(two_dropped, &f))
			_exit(1);
		setrlimit(RLIMIT_FSIZE,
			  &(struct rlimit){.rlim_cur = RLIM_INFINITY, .rlim_max = RLIM_INFINITY});
		print(f.console, "f");
		fixture_stop(&f);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(file_read_text(path, 100, &text), 0);
	assert_string_equal(text, "abcf");
	free(text);
	tempdir_remove(&f.dir);
}

TEST(bad_files_are_refused_with_a_line)
{
	struct tempdir dir = tempdir_make();
	struct io_loop *loop;
	struct console *console;
	struct errmsg err = {0};

	assert_int_equal(io_loop_new(&loop), 0);
	assert_int_equal(console_new(loop, CONSOLE_FILE, dir.path, &err, &console), -EISDIR);
	assert_non_null(strstr(err.text, "--console file:"));
	err = (struct errmsg){0};
	assert_int_equal(mkfifo(tempdir_file(&dir, "fifo"), 0600), 0);
	assert_int_equal(console_new(loop, CONSOLE_FILE, tempdir_file(&dir, "fifo"), &err, &console), -ENXIO);
	assert_non_null(strstr(err.text, "nobody reads"));
	err = (struct errmsg){0};
	assert_int_equal(console_new(loop, CONSOLE_UNIX, tempdir_file(&dir, "fifo"), &err, &console),
			 -EEXIST);
	assert_non_null(strstr(err.text, "no socket"));
	io_loop_free(loop);
	tempdir_remove(&dir);
}

TEST(unix_clients_come_and_go)
{
	struct fixture f = {.dir = tempdir_make()};
	const char *path = tempdir_file(&f.dir, "sock");
	struct console *second;
	struct io_loop *loop;
	struct errmsg err = {0};
	struct stat st;
	int a, b;

	fixture_start(&f, CONSOLE_UNIX, path);
	print(f.console, "boot");
	assert_int_equal(unix_connect(path, &a), 0);
	expect(a, "boot");
	assert_int_equal(unix_connect(path, &b), 0);
	expect(b, "boot");
	guest_make_room(&f.guest, f.console, 5);
	assert_int_equal(write_full(b, "typed", 5), 0);
	assert_true(test_wait(guest_has_5, &f));
	close(b);
	print(f.console, "more");
	expect(a, "more");
	assert_int_equal(lstat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	/* In use: not replaced. */
	assert_int_equal(io_loop_new(&loop), 0);
	assert_int_equal(console_new(loop, CONSOLE_UNIX, path, &err, &second), -EADDRINUSE);
	io_loop_free(loop);
	fixture_stop(&f);
	assert_int_equal(test_read(a, &(char){0}, 1), 0); /* the end */
	close(a);
	assert_int_equal(lstat(path, &st), -1); /* removed */
	tempdir_remove(&f.dir);
}

TEST(dead_socket_is_replaced)
{
	struct fixture f = {.dir = tempdir_make()};
	const char *path = tempdir_file(&f.dir, "sock");
	struct unix_listener dead;
	int fd;

	assert_int_equal(unix_listen(path, "x", NULL, &dead), 0);
	close(dead.fd); /* as a killed process does: the file stays */
	free(dead.path);
	fixture_start(&f, CONSOLE_UNIX, path);
	assert_int_equal(unix_connect(path, &fd), 0);
	print(f.console, "ok");
	expect(fd, "ok");
	close(fd);
	fixture_stop(&f);
	tempdir_remove(&f.dir);
}

/* Run a console on stdio in a child whose standard input is @in and output a pipe. Return: the pipe. */
static int stdio_child(int in, pid_t *ret_pid)
{
	int out[2];

	assert_int_equal(pipe2(out, O_CLOEXEC), 0);
	*ret_pid = fork();
	assert_true(*ret_pid >= 0);
	if (*ret_pid == 0) {
		static struct fixture f;

		dup2(in, STDIN_FILENO);
		dup2(out[1], STDOUT_FILENO);
		f.guest.room = 0;
		fixture_start(&f, CONSOLE_STDIO, NULL);
		print(f.console, "up\n");
		guest_make_room(&f.guest, f.console, 5);
		if (!test_wait(guest_has_5, &f))
			_exit(1);
		console_output(f.console, f.guest.data[0]);
		console_output(f.console, f.guest.data[4]);
		fixture_stop(&f);
		_exit(0);
	}
	close(out[1]);
	return out[0];
}

TEST(stdin_may_be_a_file_or_a_pipe)
{
	struct tempdir dir = tempdir_make();

	for (unsigned i = 0; i < 2; i++) {
		int in, status, out, pair[2];
		pid_t pid;

		if (i == 0) {
			in = open(tempdir_file(&dir, "in"), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
			assert_int_equal(pwrite_full(in, "hello", 5, 0), 0);
		} else {
			assert_int_equal(pipe2(pair, O_CLOEXEC), 0);
			in = pair[0];
			assert_int_equal(write_full(pair[1], "hello", 5), 0);
			close(pair[1]);
		}
		out = stdio_child(in, &pid);
		expect(out, "up\nho");
		assert_int_equal(test_read(out, &(char){0}, 1), 0);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_int_equal(status, 0);
		close(in);
		close(out);
	}
	tempdir_remove(&dir);
}

static int64_t cpu_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

TEST(ended_stdin_costs_nothing)
{
	/* The child sees the end of /dev/null, of a file, of a closed pipe; and a closed pipe with input that
	 * the guest does not take. */
	for (unsigned i = 0; i < 3; i++) {
		int status, pair[2];
		pid_t pid = fork();

		assert_true(pid >= 0);
		if (pid == 0) {
			static struct fixture f;
			int64_t begin;
			int in = open("/dev/null", O_RDONLY | O_CLOEXEC);

			if (i > 0) {
				if (pipe(pair) < 0)
					_exit(3);
				in = pair[0];
				if (i == 2 && write(pair[1], "x", 1) != 1)
					_exit(3);
				close(pair[1]);
			}
			dup2(in, STDIN_FILENO);
			dup2(open("/dev/null", O_WRONLY), STDOUT_FILENO);
			fixture_start(&f, CONSOLE_STDIO, NULL);
			begin = cpu_ms();
			nanosleep(&(struct timespec){.tv_nsec = 200000000}, NULL); /* is measured */
			_exit(cpu_ms() - begin > 50);
		}
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_int_equal(status, 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(late_client_gets_history_then_live),
		cmocka_unit_test(history_is_the_last_64_kib),
		cmocka_unit_test(slow_reader_is_told_of_its_gap_and_stops_nobody),
		cmocka_unit_test(input_waits_for_room_and_keeps_its_order),
		cmocka_unit_test(half_closed_client_still_reads),
		cmocka_unit_test(clients_are_bounded),
		cmocka_unit_test(clients_that_left_make_place),
		cmocka_unit_test(a_new_file_is_taken_back_unless_it_is_left),
		cmocka_unit_test(file_gets_all_and_is_appended_to),
		cmocka_unit_test(full_disk_loses_bytes_and_no_more),
		cmocka_unit_test(bad_files_are_refused_with_a_line),
		cmocka_unit_test(unix_clients_come_and_go),
		cmocka_unit_test(dead_socket_is_replaced),
		cmocka_unit_test(stdin_may_be_a_file_or_a_pipe),
		cmocka_unit_test(ended_stdin_costs_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
