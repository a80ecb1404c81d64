/* SPDX-License-Identifier: Apache-2.0 */
/* The terminal gets its mode back on every way out; the escape key. */
#include "vmm/terminal.h"

#include <errno.h>
#include <fcntl.h>
#include <pty.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <termios.h>
#include <utmp.h>

#include "tests/unit/loop-thread.h"
#include "tests/unit/test.h"
#include "vmm/console.h"

/* The address sanitizer, where it is linked, asks for this: faults are ours here. */
const char *__asan_default_options(void);

__attribute__((visibility("default"))) const char *__asan_default_options(void)
{
	return "handle_segv=0:handle_sigbus=0:handle_sigfpe=0:handle_abort=0";
}

/* Ways out of a process whose terminal is raw. */
static void leave_exit(void)
{
	exit(3);
}

static void leave_restore(void)
{
	terminal_restore();
	_exit(4);
}

static void leave_abort(void)
{
	abort();
}

static void leave_fault(void)
{
	volatile int *p = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	*p = 1; /* a fault that neither compiler nor sanitizer sees coming */
}

static void leave_term(void)
{
	kill(getpid(), SIGTERM);
}

static void leave_hup(void)
{
	kill(getpid(), SIGHUP);
}

static void *divide(void *arg)
{
	(void)arg;
	raise(SIGFPE);
	return NULL;
}

static void leave_from_thread(void)
{
	pthread_t t;

	pthread_create(&t, NULL, divide, NULL);
	pthread_join(t, NULL);
}

/* A handler of the program's own, installed before: it is not replaced, and exit() restores. */
static void own_handler(int signo)
{
	(void)signo;
	exit(5);
}

static void leave_own_handler(void)
{
	kill(getpid(), SIGUSR1);
}

/* The console of `run`: Ctrl-A x makes SIGTERM. */
static void leave_console(void)
{
	struct io_loop *loop;
	struct console *console;

	terminal_restore();
	if (io_loop_new(&loop) < 0 || console_new(loop, CONSOLE_STDIO, NULL, NULL, &console) < 0)
		_exit(9);
	(void)!write(STDOUT_FILENO, "R", 1);
	(void)!io_loop_run(loop);
}

static void leave_console_free(void)
{
	struct io_loop *loop;
	struct console *console;

	terminal_restore();
	if (io_loop_new(&loop) < 0 || console_new(loop, CONSOLE_STDIO, NULL, NULL, &console) < 0)
		_exit(9);
	console_free(console);
	_exit(6);
}

struct result {
	bool raw_seen;
	bool restored;
	int status;
};

static bool tty_is_raw(int fd)
{
	struct termios t;

	return tcgetattr(fd, &t) == 0 && !(t.c_lflag & (ICANON | ECHO | ISIG));
}

/*
 * The child of the session's leader: it does the leaving. The leader looks at the terminal after it, since
 * the end of a leader resets the terminal by itself.
 */
static void __attribute__((noreturn)) leaver(void (*leave)(void))
{
	setrlimit(RLIMIT_CORE, &(struct rlimit){0});
	/* Sanitizers have handlers of their own. */
	signal(SIGSEGV, SIG_DFL);
	signal(SIGFPE, SIG_DFL);
	signal(SIGABRT, SIG_DFL);
	signal(SIGUSR1, own_handler);
	if (terminal_raw(STDIN_FILENO) < 0 || !tty_is_raw(STDIN_FILENO))
		_exit(99);
	leave();
	_exit(98);
}

static void __attribute__((noreturn)) leader(int slave, int report, void (*leave)(void))
{
	struct result r = {0};
	struct termios before, after;
	pid_t pid;

	if (login_tty(slave) < 0 || tcgetattr(STDIN_FILENO, &before) < 0)
		_exit(1);
	pid = fork();
	if (pid == 0)
		leaver(leave);
	if (waitpid(pid, &r.status, 0) != pid || tcgetattr(STDIN_FILENO, &after) < 0)
		_exit(1);
	r.restored = before.c_lflag == after.c_lflag && before.c_iflag == after.c_iflag &&
		     before.c_oflag == after.c_oflag && before.c_cc[VMIN] == after.c_cc[VMIN];
	r.raw_seen = !(WIFEXITED(r.status) && WEXITSTATUS(r.status) == 99);
	if (write(report, &r, sizeof(r)) != sizeof(r))
		_exit(1);
	_exit(0);
}

static struct result run_on_terminal(void (*leave)(void), const char *keys)
{
	struct result r = {0};
	int master, slave, report[2];
	pid_t pid;

	assert_int_equal(openpty(&master, &slave, NULL, NULL, NULL), 0);
	assert_int_equal(pipe2(report, O_CLOEXEC), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0)
		leader(slave, report[1], leave);
	close(report[1]);
	close(slave);
	if (keys) {
		char ready;

		assert_int_equal(test_read(master, &ready, 1), 1);
		assert_int_equal(write(master, keys, strlen(keys)), strlen(keys));
	}
	assert_int_equal(test_read(report[0], &r, sizeof(r)), sizeof(r));
	waitpid(pid, NULL, 0);
	close(master);
	close(report[0]);
	return r;
}

TEST(every_way_out_restores)
{
	static const struct {
		void (*leave)(void);
		int exit_code; /* or -1 */
		int signo;     /* or 0 */
		const char *keys;
	} rows[] = {
		{leave_exit, 3, 0, NULL},
		{leave_restore, 4, 0, NULL},
		{leave_own_handler, 5, 0, NULL},
		{leave_abort, -1, SIGABRT, NULL},
		{leave_fault, -1, SIGSEGV, NULL},
		{leave_term, -1, SIGTERM, NULL},
		{leave_hup, -1, SIGHUP, NULL},
		{leave_from_thread, -1, SIGFPE, NULL},
		{leave_console, -1, SIGTERM, "abc\001x"},
		{leave_console_free, 6, 0, NULL},
	};

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct result r = run_on_terminal(rows[i].leave, rows[i].keys);

		if (!r.raw_seen || !r.restored)
			fail_msg("row %zu: %s (status %#x)", i, r.raw_seen ? "not restored" : "was never raw",
				 (unsigned)r.status);
		if (rows[i].signo) {
			assert_true(WIFSIGNALED(r.status));
			assert_int_equal(WTERMSIG(r.status), rows[i].signo);
		} else {
			assert_true(WIFEXITED(r.status));
			assert_int_equal(WEXITSTATUS(r.status), rows[i].exit_code);
		}
	}
}

static void leave_in_background(void)
{
	struct io_loop *loop;
	struct console *console;

	terminal_restore();
	setpgid(0, 0); /* and the terminal stays the leader's */
	if (terminal_raw(STDIN_FILENO) != -EPERM)
		_exit(1);
	if (io_loop_new(&loop) < 0 || console_new(loop, CONSOLE_STDIO, NULL, NULL, &console) < 0)
		_exit(2);
	console_free(console);
	_exit(tty_is_raw(STDIN_FILENO) ? 3 : 0);
}

TEST(background_process_leaves_the_terminal_alone)
{
	struct result r = run_on_terminal(leave_in_background, NULL);

	assert_true(WIFEXITED(r.status));
	assert_int_equal(WEXITSTATUS(r.status), 0);
}

static void leave_after_continue(void)
{
	struct termios t;

	/* As a shell does while the process is stopped: it sets its own mode. */
	tcgetattr(STDIN_FILENO, &t);
	t.c_lflag |= ICANON | ECHO | ISIG;
	tcsetattr(STDIN_FILENO, TCSANOW, &t);
	raise(SIGCONT);
	exit(tty_is_raw(STDIN_FILENO) ? 0 : 1);
}

TEST(raw_again_after_stop_and_continue)
{
	struct result r = run_on_terminal(leave_after_continue, NULL);

	assert_true(r.restored);
	assert_true(WIFEXITED(r.status));
	assert_int_equal(WEXITSTATUS(r.status), 0);
}

TEST(not_a_terminal)
{
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

	assert_int_equal(terminal_raw(fd), -ENOTTY);
	close(fd);
}

TEST(escape_keys)
{
	static const struct {
		const char *typed;
		const char *left;
		bool quit;
		bool armed;
	} rows[] = {
		{"abc", "abc", false, false},	    {"a\001xb", "a", true, false},
		{"\001X", "", true, false},	    {"\001a", "\001", false, false},
		{"\001\001", "\001", false, false}, {"\001", "", false, true},
		{"\001qz", "z", false, false},	    {"x", "x", false, false},
	};

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct terminal_escape e = {0};
		uint8_t buf[16];
		size_t len = strlen(rows[i].typed);

		memcpy(buf, rows[i].typed, len);
		assert_int_equal(terminal_escape_filter(&e, buf, &len), rows[i].quit);
		assert_int_equal(len, strlen(rows[i].left));
		assert_memory_equal(buf, rows[i].left, len);
		assert_int_equal(e.armed, rows[i].armed);
	}
}

TEST(escape_across_reads)
{
	struct terminal_escape e = {0};
	uint8_t key = TERMINAL_ESCAPE;
	size_t len = 1;

	assert_false(terminal_escape_filter(&e, &key, &len));
	assert_int_equal(len, 0);
	key = 'x';
	len = 1;
	assert_true(terminal_escape_filter(&e, &key, &len));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_way_out_restores),
		cmocka_unit_test(background_process_leaves_the_terminal_alone),
		cmocka_unit_test(raw_again_after_stop_and_continue),
		cmocka_unit_test(not_a_terminal),
		cmocka_unit_test(escape_keys),
		cmocka_unit_test(escape_across_reads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
