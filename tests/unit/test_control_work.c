/* SPDX-License-Identifier: Apache-2.0 */
/* Merges and checks by clients: one after the other on a thread, in order, without holding up the loop or the VM's end. */
#include "tests/unit/control-vm.h"

static void say(int fd, int id, const char *rest)
{
	char line[128];

	snprintf(line, sizeof(line), "{\"id\":%d,%s}\n", id, rest);
	send_text(fd, line);
}

static bool silent(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	return poll(&p, 1, 30) == 0;
}

static bool merge_begun(void *arg)
{
	return atomic_load(&((struct fake_vm *)arg)->merges) > 0;
}

TEST(answered_when_done)
{
	struct fixture f;
	int a, b;

	fixture_start(&f);
	a = join(&f);
	b = join(&f);
	say(a, 1, "\"cmd\":\"merge\",\"timeout_s\":7");
	assert_true(test_wait(merge_begun, &f.vm));
	assert_int_equal(atomic_load(&f.vm.merge_max_ms), 7000);
	say(b, 2, "\"cmd\":\"check\"");
	say(b, 4, "\"cmd\":\"ping\""); /* it is in the queue by then */
	assert_string_equal(get_line(b), "{\"id\":4,\"ok\":true,\"result\":{}}\n");
	say(a, 3, "\"cmd\":\"check\"");
	assert_true(silent(a));
	assert_true(silent(b));
	assert_int_equal(atomic_load(&f.vm.checks), 0); /* one at a time */
	atomic_store(&f.vm.work_go, true);
	assert_string_equal(
		get_line(a),
		"{\"id\":1,\"ok\":true,\"result\":{\"routes\":{\"store\":{\"pages\":3,\"bytes\":12288},"
		"\"zero\":{\"pages\":2,\"bytes\":8192}},\"passes\":4,\"holds\":0,\"cpu_s\":0.0,"
		"\"elapsed_s\":0.0,\"settled\":true}}\n");
	assert_string_equal(get_line(b),
			    "{\"id\":2,\"ok\":true,\"result\":{\"frames\":9,\"wrong_frame\":null}}\n");
	assert_string_equal(get_line(a),
			    "{\"id\":3,\"ok\":true,\"result\":{\"frames\":9,\"wrong_frame\":7}}\n");
	close(a);
	close(b);
	fixture_stop(&f);
}

TEST(errors_are_said)
{
	struct fixture f;
	int fd;

	fixture_start(&f);
	fd = join(&f);
	atomic_store(&f.vm.work_go, true);
	atomic_store(&f.vm.work_result, -EIO);
	say(fd, 1, "\"cmd\":\"merge\"");
	assert_string_equal(get_line(fd), "{\"id\":1,\"ok\":false,\"error\":\"it does not work\"}\n");
	assert_int_equal(atomic_load(&f.vm.merge_max_ms), CONTROL_MERGE_DEFAULT_S * 1000);
	say(fd, 2, "\"cmd\":\"merge\",\"timeout_s\":86401");
	assert_non_null(strstr(get_line(fd), "timeout_s: must be a whole number from 0 to 86400"));
	say(fd, 3, "\"cmd\":\"check\",\"timeout_s\":1");
	assert_non_null(strstr(get_line(fd), "check has no argument"));
	close(fd);
	fixture_stop(&f);
}

/* A client that left is passed over, and what others asked is still done. */
TEST(a_client_that_left_changes_nothing)
{
	struct fixture f;
	int a, b;

	fixture_start(&f);
	a = join(&f);
	b = join(&f);
	say(a, 1, "\"cmd\":\"merge\"");
	assert_true(test_wait(merge_begun, &f.vm));
	say(b, 2, "\"cmd\":\"merge\"");
	close(a);
	assert_true(silent(b));
	atomic_store(&f.vm.work_go, true);
	assert_non_null(strstr(get_line(b), "\"id\":2,\"ok\":true"));
	assert_int_equal(atomic_load(&f.vm.merges), 2);
	close(b);
	fixture_stop(&f);
}

TEST(the_end_cancels_it)
{
	struct fixture f;
	int fd;

	fixture_start(&f);
	fd = join(&f);
	for (int i = 0; i < (int)CONTROL_WAITS_MAX; i++)
		say(fd, i, "\"cmd\":\"merge\"");
	say(fd, 99, "\"cmd\":\"check\"");
	assert_non_null(strstr(get_line(fd), "too many requests"));
	assert_true(test_wait(merge_begun, &f.vm));
	fixture_stop(&f);
	assert_int_equal(atomic_load(&f.vm.works_cancelled), 1);
	assert_int_equal(atomic_load(&f.vm.merges), 1);
	close(fd);
}

static const struct control_ops bare_ops = {.stats = fake_stats, .usage = fake_usage};

TEST(what_a_vm_has_not)
{
	static const char *const rows[][2] = {
		{"\"cmd\":\"merge\"", "no engine looks after this VM's memory"},
		{"\"cmd\":\"check\"", "only a replay VM knows"},
		{"\"cmd\":\"dump\"", "a replay VM is not dumped"},
		{"\"cmd\":\"console\"", "a replay VM has no console"},
	};
	struct fixture f = {.dir = tempdir_make()};
	struct errmsg err = {0};
	int fd;

	snprintf(f.path, sizeof(f.path), "%s/a.sock", f.dir.path);
	assert_int_equal(io_loop_new(&f.t.loop), 0);
	assert_int_equal(control_new(f.t.loop, f.path, "r", &bare_ops, &f.vm, &err, &f.control), 0);
	loop_thread_start(&f.t);
	fd = join(&f);
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		say(fd, 1, rows[i][0]);
		assert_non_null(strstr(get_line(fd), rows[i][1]));
	}
	close(fd);
	fixture_stop(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(answered_when_done),
		cmocka_unit_test(errors_are_said),
		cmocka_unit_test(a_client_that_left_changes_nothing),
		cmocka_unit_test(the_end_cancels_it),
		cmocka_unit_test(what_a_vm_has_not),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
