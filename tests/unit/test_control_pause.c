/* SPDX-License-Identifier: Apache-2.0 */
/* Pause and resume by clients: several are one, nobody is answered too early, and a stop ends them. */
#include "tests/unit/control-vm.h"

static void say(int fd, const char *cmd)
{
	char line[64];

	snprintf(line, sizeof(line), "{\"id\":1,\"cmd\":\"%s\"}\n", cmd);
	send_text(fd, line);
}

static void expect_ok(int fd)
{
	assert_string_equal(get_line(fd), "{\"id\":1,\"ok\":true,\"result\":{}}\n");
}

static bool pause_begun(void *arg)
{
	return atomic_load(&((struct fake_vm *)arg)->pausing) > 0;
}

static bool silent(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	return poll(&p, 1, 30) == 0;
}

TEST(several_are_one)
{
	struct fixture f;
	int a, b;

	(void)state;
	fixture_start(&f);
	a = join(&f);
	b = join(&f);
	say(a, "resume"); /* it runs */
	expect_ok(a);
	for (unsigned i = 1; i <= 3; i++) {
		say(a, "pause");
		expect_ok(a);
		say(b, "pause");
		expect_ok(b);
		assert_int_equal(atomic_load(&f.vm.pauses), i);
		assert_int_equal(atomic_load(&f.vm.resumes), i - 1);
		say(b, "resume");
		expect_ok(b);
		say(a, "resume");
		expect_ok(a);
		assert_int_equal(atomic_load(&f.vm.resumes), i);
	}
	close(a);
	close(b);
	fixture_stop(&f);
}

/* While the pause takes its time, the loop goes on, and all that is asked is done in order. */
TEST(answers_wait_for_it)
{
	struct fixture f;
	int a, b;

	(void)state;
	fixture_start(&f);
	a = join(&f);
	b = join(&f);
	atomic_store(&f.vm.pause_wait, true);
	say(a, "pause");
	say(a, "resume");
	say(a, "resume");
	say(a, "pause");
	say(b, "pause");
	assert_true(silent(a));
	assert_true(silent(b));
	say(b, "ping");
	expect_ok(b);
	atomic_store(&f.vm.pause_wait, false);
	for (unsigned i = 0; i < 4; i++)
		expect_ok(a);
	expect_ok(b);
	assert_int_equal(atomic_load(&f.vm.pauses), 2);
	assert_int_equal(atomic_load(&f.vm.resumes), 1);
	close(a);
	close(b);
	fixture_stop(&f);
}

TEST(a_client_that_left_changes_nothing)
{
	struct fixture f;
	int a, b;

	(void)state;
	fixture_start(&f);
	a = join(&f);
	b = join(&f);
	atomic_store(&f.vm.pause_wait, true);
	say(a, "pause");
	assert_true(test_wait(pause_begun, &f.vm));
	assert_true(silent(a));
	say(b, "pause");
	assert_true(silent(b));
	close(a);
	atomic_store(&f.vm.pause_wait, false);
	expect_ok(b);
	close(b);
	/* It holds without them, and the end is not held up by it. */
	assert_int_equal(atomic_load(&f.vm.resumes), 0);
	fixture_stop(&f);
}

static void stop_run(void *arg)
{
	control_stop(arg, 60ull * 1000000000);
}

static bool resumed_once(void *arg)
{
	struct fake_vm *vm = arg;

	return atomic_load(&vm->resumes) == 1;
}

TEST(a_stop_ends_it)
{
	for (unsigned early = 0; early < 2; early++) {
		struct fixture f;
		int fd;

		(void)state;
		fixture_start(&f);
		fd = join(&f);
		atomic_store(&f.vm.pause_wait, early);
		say(fd, "pause");
		if (early)
			assert_true(test_wait(pause_begun, &f.vm));
		else
			expect_ok(fd);
		loop_thread_call(&f.t, stop_run, f.control);
		assert_int_equal(atomic_load(&f.vm.presses), 1);
		atomic_store(&f.vm.pause_wait, false);
		if (early)
			expect_ok(fd);
		/* The answer may come before the loop gets to it. */
		assert_true(test_wait(resumed_once, &f.vm));
		/* There is no point in holding one that has to go. */
		say(fd, "pause");
		assert_non_null(strstr(get_line(fd), "\"error\":\"the VM is being stopped\""));
		assert_int_equal(atomic_load(&f.vm.pauses), 1);
		say(fd, "resume");
		expect_ok(fd);
		close(fd);
		fixture_stop(&f);
	}
}

TEST(the_end_waits_for_the_thread)
{
	struct fixture f;
	int fd;

	(void)state;
	fixture_start(&f);
	fd = join(&f);
	atomic_store(&f.vm.pause_wait, true);
	for (unsigned i = 0; i < CONTROL_WAITS_MAX; i++)
		say(fd, i % 2 ? "resume" : "pause");
	say(fd, "pause"); /* one too many */
	assert_non_null(strstr(get_line(fd), "too many requests"));
	loop_thread_stop(&f.t);
	atomic_store(&f.vm.pause_wait, false);
	control_free(f.control);
	assert_int_equal(atomic_load(&f.vm.pauses), 1);
	io_loop_free(f.t.loop);
	tempdir_remove(&f.dir);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(several_are_one),
		cmocka_unit_test(answers_wait_for_it),
		cmocka_unit_test(a_client_that_left_changes_nothing),
		cmocka_unit_test(a_stop_ends_it),
		cmocka_unit_test(the_end_waits_for_the_thread),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
