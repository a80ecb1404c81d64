/* SPDX-License-Identifier: Apache-2.0 */
/* The control socket: requests and answers, and clients that behave badly. No VM behind it. */
#include "vmm/control.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "base/fs.h"
#include "base/size.h"
#include "tests/unit/control-vm.h"

static void send_fd(int fd, const char *text, const int *fds, size_t count)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(16 * sizeof(int))];
	} ancillary = {0};
	char copy[256];
	struct iovec iov = {.iov_base = copy, .iov_len = strlen(text)};
	struct msghdr msg = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = ancillary.bytes,
			     .msg_controllen = CMSG_SPACE(count * sizeof(int))};
	struct cmsghdr *c = CMSG_FIRSTHDR(&msg);

	strcpy(copy, text);
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(count * sizeof(int));
	memcpy(CMSG_DATA(c), fds, count * sizeof(int));
	assert_int_equal(sendmsg(fd, &msg, 0), strlen(text));
}

struct clients_call {
	struct control *control;
	unsigned count;
};

static void clients_run(void *arg)
{
	struct clients_call *c = arg;

	c->count = c->control->client_count;
}

static unsigned clients(struct fixture *f)
{
	struct clients_call c = {.control = f->control};

	loop_thread_call(&f->t, clients_run, &c);
	return c.count;
}

TEST(greets)
{
	struct fixture f;
	int fd;
	json_t *json;
	const char *version, *name;
	int min, max, pid;

	fixture_start(&f);
	assert_int_equal(unix_connect(f.path, &fd), 0);
	json = json_loads(get_line(fd), 0, NULL);
	assert_int_equal(json_unpack(json, "{s:s, s:{s:i, s:i}, s:s, s:i !}", "sardine", &version, "protocol",
				     "min", &min, "max", &max, "name", &name, "pid", &pid),
			 0);
	assert_string_equal(version, SARDINE_VERSION);
	assert_string_equal(name, "web1");
	assert_int_equal(pid, getpid());
	json_decref(json);
	close(fd);
	fixture_stop(&f);
}

/* Each row on one connection, in order: bad requests do not end it. */
TEST(answers)
{
	static const struct {
		const char *request;
		const char *answer;
	} rows[] = {
		{"{\"id\":1,\"cmd\":\"ping\"}", "{\"id\":1,\"ok\":true,\"result\":{}}"},
		{"{\"cmd\":\"ping\"}", "{\"id\":null,\"ok\":true,\"result\":{}}"},
		{"{\"id\":3,\"cmd\":\"power-button\"}", "{\"id\":3,\"ok\":true,\"result\":{}}"},
		{"{\"id\":3,\"cmd\":\"balloon\",\"target_bytes\":8192}",
		 "\"result\":{\"target_bytes\":8192}"},
		{"{\"id\":4,\"cmd\":\"balloon\",\"target_mib\":96}",
		 "\"result\":{\"target_bytes\":100663296}"},
		{"{\"id\":5,\"cmd\":\"balloon\"}", "\"result\":{\"target_bytes\":100663296}"},
		{"{\"id\":5,\"cmd\":\"balloon\",\"target_bytes\":-1}", "\"error\":\"target_bytes: must be"},
		{"{\"id\":5,\"cmd\":\"balloon\",\"target_bytes\":1,\"target_mib\":1}", "give one of them"},
		{"{\"id\":6,\"cmd\":\"balloon\",\"target_mib\":-1}", "\"error\":\"target_mib: must be"},
		{"{\"id\":7,\"cmd\":\"balloon\",\"target_mib\":\"1\"}", "\"error\":\"target_mib: must be"},
		{"{\"id\":8,\"cmd\":\"balloon\",\"target_mib\":9223372036854775807}",
		 "\"error\":\"target_mib"},
		{"{\"id\":9,\"cmd\":\"balloon\",\"target_mib\":1.5}", "\"error\":\"target_mib: must be"},
		{"{\"id\":10,\"cmd\":\"fly\"}",
		 "{\"id\":10,\"ok\":false,\"error\":\"no command \\\"fly\\\"\"}"},
		{"{\"id\":11,\"cmd\":\"ping\",\"x\":1}", "\"error\":\"ping has no argument \\\"x\\\"\""},
		{"{\"id\":12}", "{\"id\":12,\"ok\":false,\"error\":\"cmd: is missing"},
		{"{\"id\":13,\"cmd\":7}", "{\"id\":13,\"ok\":false,\"error\":\"cmd: is missing"},
		{"{\"id\":[1],\"cmd\":\"ping\"}", "\"error\":\"id: must be"},
		{"{\"id\":14,\"cmd\":\"dump\"}", "\"error\":\"pass the file's descriptor"},
		{"{\"id\":15,\"cmd\":\"dump\",\"format\":\"zip\"}", "\"error\":\"format: must be"},
		{"{\"id\":16,\"cmd\":\"stop\",\"timeout_s\":86401}", "\"error\":\"timeout_s: must be"},
		{"", "\"error\":\"not a request"},
		{"[]", "\"error\":\"not a request: an object is needed\""},
		{"{", "{\"id\":null,\"ok\":false,\"error\":\"not a request"},
		{"{\"id\":1,\"id\":2,\"cmd\":\"ping\"}", "\"error\":\"not a request"},
		{"{\"id\":1,\"cmd\":\"ping\"} x", "\"error\":\"not a request"},
		{"\xff\xfe", "\"error\":\"not a request"},
		{"{\"id\":1,\"cmd\":\"a\\nb\\u00e4\"}", "no command \\\"a?b??\\\""},
	};
	struct fixture f;
	int fd;

	fixture_start(&f);
	fd = join(&f);
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		const char *line;

		send_text(fd, rows[i].request);
		send_text(fd, "\n");
		line = get_line(fd);
		if (!strstr(line, rows[i].answer))
			fail_msg("row %zu: %s", i, line);
	}
	assert_int_equal(atomic_load(&f.vm.presses), 1);
	assert_int_equal(atomic_load(&f.vm.balloon_bytes), 96 * MIB);
	close(fd);
	fixture_stop(&f);
}

TEST(requests_may_come_in_pieces_and_heaps)
{
	struct fixture f;
	int fd;
	char buf[64];

	fixture_start(&f);
	fd = join(&f);
	for (const char *p = "{\"id\":1,\"cmd\":\"ping\"}\n"; *p; p++)
		assert_int_equal(write_full(fd, p, 1), 0);
	assert_non_null(strstr(get_line(fd), "\"id\":1,"));
	for (int i = 0; i < 500; i++) {
		snprintf(buf, sizeof(buf), "{\"id\":%d,\"cmd\":\"ping\"}\n", i);
		send_text(fd, buf);
	}
	/* Half closed: the answers still come, in order, and then the end. */
	shutdown(fd, SHUT_WR);
	for (int i = 0; i < 500; i++) {
		snprintf(buf, sizeof(buf), "{\"id\":%d,", i);
		assert_non_null(strstr(get_line(fd), buf));
	}
	assert_string_equal(get_line(fd), "");
	close(fd);
	fixture_stop(&f);
}

static bool pressed_400_times(void *arg)
{
	return atomic_load(&((struct fixture *)arg)->vm.presses) >= 400;
}

static bool no_clients(void *arg)
{
	return clients(arg) == 0;
}

/* More than one round's requests, and more than one read takes; the client reads no answer. */
TEST(requests_of_a_client_that_left_count)
{
	static const char press[] = "{\"id\":1,\"cmd\":\"power-button\"}\n";
	struct fixture f;
	char buf[400 * sizeof(press)];
	size_t len = 0;
	int fd;

	fixture_start(&f);
	for (unsigned i = 0; i < 400; i++)
		len += (size_t)sprintf(buf + len, "%s", press);
	strcpy(buf + len, "{\"id\":2,\"cmd\":\"kill\"}"); /* not a whole line */
	for (unsigned i = 0; i < 4; i++) {
		atomic_store(&f.vm.presses, 0);
		fd = join(&f);
		if (i & 1) /* with what takes time: nobody waits for it any more */
			send_text(fd, "{\"id\":3,\"cmd\":\"wait\"}\n{\"id\":4,\"cmd\":\"stats\"}\n");
		/* It takes no answers, and stays for a while. Said first: unread answers would hold up the rest. */
		if (i & 2)
			shutdown(fd, SHUT_RD);
		send_text(fd, buf);
		if (!(i & 2))
			close(fd);
		assert_true(test_wait(pressed_400_times, &f));
		assert_int_equal(atomic_load(&f.vm.presses), 400);
		if (i & 2)
			close(fd);
		assert_true(test_wait(no_clients, &f));
	}
	assert_int_equal(atomic_load(&f.vm.kills), 0);
	fixture_stop(&f);
}

TEST(long_line_ends_the_connection_and_no_other)
{
	struct fixture f;
	auto_free char *junk = malloc(2 * CONTROL_LINE_MAX);
	int fd, other;

	fixture_start(&f);
	fd = join(&f);
	other = join(&f);
	memset(junk, 'x', 2 * CONTROL_LINE_MAX);
	(void)!send(fd, junk, 2 * CONTROL_LINE_MAX, MSG_NOSIGNAL | MSG_DONTWAIT);
	assert_non_null(strstr(get_line(fd), "longer than"));
	assert_string_equal(get_line(fd), "");
	send_text(other, "{\"id\":1,\"cmd\":\"ping\"}\n");
	assert_non_null(strstr(get_line(other), "\"ok\":true"));
	close(fd);
	close(other);
	fixture_stop(&f);
}

TEST(client_that_never_reads_is_dropped)
{
	struct fixture f;
	int fd, other;
	int64_t deadline = test_now_ms() + TEST_DEADLINE_MS;

	fixture_start(&f);
	f.control->slow_ns = 50000000;
	fd = join(&f);
	assert_int_equal(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
	/* Asks until the connection ends. */
	while (test_now_ms() < deadline) {
		ssize_t n = send(fd, "{\"id\":1,\"cmd\":\"ping\"}\n", 22, MSG_NOSIGNAL);

		if (n < 0 && errno != EAGAIN)
			break;
		if (n < 0)
			nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	}
	assert_true(test_now_ms() < deadline);
	other = join(&f);
	send_text(other, "{\"id\":1,\"cmd\":\"ping\"}\n");
	assert_non_null(strstr(get_line(other), "\"ok\":true"));
	close(fd);
	close(other);
	fixture_stop(&f);
}

TEST(clients_are_bounded)
{
	struct fixture f;
	int fds[CONTROL_CLIENTS_MAX], fd;

	fixture_start(&f);
	for (unsigned i = 0; i < CONTROL_CLIENTS_MAX; i++)
		fds[i] = join(&f);
	assert_int_equal(unix_connect(f.path, &fd), 0);
	assert_non_null(strstr(get_line(fd), "too many clients"));
	assert_string_equal(get_line(fd), "");
	close(fd);
	for (unsigned i = 0; i < CONTROL_CLIENTS_MAX; i++)
		close(fds[i]);
	/* Their places are free again. */
	for (int64_t deadline = test_now_ms() + TEST_DEADLINE_MS;; close(fd)) {
		assert_true(test_now_ms() < deadline);
		assert_int_equal(unix_connect(f.path, &fd), 0);
		if (strstr(get_line(fd), "\"protocol\""))
			break;
	}
	close(fd);
	fixture_stop(&f);
}

static void end_vm(struct fixture *f)
{
	loop_thread_stop(&f->t);
	control_ended(f->control, "power-off", "a line");
	loop_thread_start(&f->t);
}

TEST(waits_are_answered_at_the_end)
{
	static const char answer[] = "\"ok\":true,\"result\":{\"end\":\"power-off\",\"detail\":\"a line\"}}";
	struct fixture f;
	int a, b;

	fixture_start(&f);
	a = join(&f);
	b = join(&f);
	send_text(a, "{\"id\":1,\"cmd\":\"wait\"}\n{\"id\":2,\"cmd\":\"stop\",\"timeout_s\":3600}\n");
	send_text(b, "{\"cmd\":\"wait\"}\n");
	shutdown(b, SHUT_WR);
	send_text(a, "{\"id\":3,\"cmd\":\"ping\"}\n"); /* they do not stand in its way */
	assert_non_null(strstr(get_line(a), "\"id\":3"));
	assert_int_equal(atomic_load(&f.vm.presses), 1);
	end_vm(&f);
	assert_non_null(strstr(get_line(a), answer));
	assert_non_null(strstr(get_line(a), answer));
	assert_non_null(strstr(get_line(b), answer));
	assert_int_equal(atomic_load(&f.vm.kills), 0);
	close(a);
	close(b);
	fixture_stop(&f);
}

TEST(waits_are_bounded)
{
	struct fixture f;
	int fd;

	fixture_start(&f);
	fd = join(&f);
	for (unsigned i = 0; i <= CONTROL_WAITS_MAX; i++)
		send_text(fd, "{\"id\":1,\"cmd\":\"wait\"}\n");
	assert_non_null(strstr(get_line(fd), "too many requests"));
	close(fd);
	fixture_stop(&f);
}

static bool killed(void *arg)
{
	return atomic_load(&((struct fixture *)arg)->vm.kills) > 0;
}

TEST(stop_kills_after_its_time)
{
	struct fixture f;
	int fd;

	fixture_start(&f);
	fd = join(&f);
	send_text(fd, "{\"id\":1,\"cmd\":\"stop\",\"timeout_s\":3600}\n");
	/* The earlier of two counts. */
	send_text(fd, "{\"id\":2,\"cmd\":\"stop\",\"timeout_s\":0}\n");
	assert_true(test_wait(killed, &f));
	assert_int_equal(atomic_load(&f.vm.presses), 2);
	close(fd);
	fixture_stop(&f);
	fixture_start(&f);
	fd = join(&f);
	send_text(fd, "{\"id\":1,\"cmd\":\"stop\",\"timeout_s\":1}\n");
	assert_true(test_wait(killed, &f));
	assert_int_equal(atomic_load(&f.vm.presses), 1);
	close(fd);
	fixture_stop(&f);
}

TEST(kill_answers_first)
{
	struct fixture f;
	int fd;

	fixture_start(&f);
	fd = join(&f);
	send_text(fd, "{\"id\":1,\"cmd\":\"kill\"}\n");
	assert_non_null(strstr(get_line(fd), "\"ok\":true"));
	assert_true(killed(&f));
	close(fd);
	fixture_stop(&f);
}

TEST(stats_are_read_once_for_all_who_ask)
{
	struct fixture f;
	int a, b;

	fixture_start(&f);
	a = join(&f);
	b = join(&f);
	atomic_store(&f.vm.usage_wait, true);
	send_text(a, "{\"id\":1,\"cmd\":\"stats\"}\n{\"id\":2,\"cmd\":\"ping\"}\n");
	assert_non_null(strstr(get_line(a), "\"id\":2")); /* the loop goes on */
	send_text(b, "{\"id\":3,\"cmd\":\"stats\"}\n{\"id\":4,\"cmd\":\"ping\"}\n");
	shutdown(b, SHUT_WR);
	assert_non_null(strstr(get_line(b), "\"id\":4"));
	atomic_store(&f.vm.usage_wait, false);
	for (unsigned i = 0; i < 2; i++) {
		json_t *json = json_loads(get_line(i ? b : a), 0, NULL);
		json_t *result = json_object_get(json, "result");
		const char *name, *vm_state;
		int schema, pid, configured;

		assert_int_equal(json_integer_value(json_object_get(json, "id")), i ? 3 : 1);
		assert_int_equal(json_unpack(result, "{s:i, s:s, s:i, s:s, s:{s:i}, s:{}}", "schema", &schema,
					     "name", &name, "pid", &pid, "state", &vm_state, "memory",
					     "configured_bytes", &configured, "saved"),
				 0);
		assert_int_equal(schema, 1);
		assert_string_equal(name, "web1");
		assert_string_equal(vm_state, "running");
		assert_int_equal(configured, 7);
		json_decref(json);
	}
	assert_int_equal(atomic_load(&f.vm.usages), 1);
	atomic_store(&f.vm.usage_result, -EACCES);
	send_text(a, "{\"id\":5,\"cmd\":\"stats\"}\n");
	assert_non_null(strstr(get_line(a), "cannot read the memory figures: Permission denied"));
	/* A client that leaves, and the server's end, while it is read. */
	send_text(a, "{\"id\":6,\"cmd\":\"stats\"}\n");
	close(a);
	close(b);
	fixture_stop(&f);
}

TEST(balloon_errors)
{
	struct fixture f;
	int fd;

	fixture_start(&f);
	fd = join(&f);
	f.vm.balloon_result = -EINVAL;
	send_text(fd, "{\"id\":1,\"cmd\":\"balloon\",\"target_mib\":1}\n");
	assert_non_null(strstr(get_line(fd), "more than the VM's memory"));
	f.vm.balloon_result = -ENODEV;
	send_text(fd, "{\"id\":1,\"cmd\":\"balloon\",\"target_mib\":1}\n");
	assert_non_null(strstr(get_line(fd), "no balloon"));
	close(fd);
	fixture_stop(&f);
}

TEST(console_takes_the_connection)
{
	struct fixture f;
	char buf[256];
	size_t len;
	int fd;

	fixture_start(&f);
	fd = join(&f);
	f.vm.console_result = -EUSERS;
	send_text(fd, "{\"id\":1,\"cmd\":\"console\"}\n");
	assert_non_null(strstr(get_line(fd), "as many clients as it takes"));
	/* The connection is as it was. */
	f.vm.console_result = 0;
	send_text(fd, "{\"id\":2,\"cmd\":\"ping\"}\n{\"id\":3,\"cmd\":\"console\"}\n{\"typed\n");
	len = test_read(fd, buf, sizeof(buf) - 1);
	buf[len] = '\0';
	assert_string_equal(buf, "{\"id\":2,\"ok\":true,\"result\":{}}\n"
				 "{\"id\":3,\"ok\":true,\"result\":{\"stream\":true}}\n"
				 "history|{\"typed\n");
	close(fd);
	fd = join(&f);
	send_text(fd, "{\"id\":1,\"cmd\":\"wait\"}\n{\"id\":2,\"cmd\":\"console\"}\n");
	assert_non_null(strstr(get_line(fd), "without an answer"));
	close(fd);
	fixture_stop(&f);
}

TEST(what_follows_a_refused_console_is_no_request)
{
	static const struct {
		int result;
		const char *request;
		const char *answer;
	} rows[] = {
		{-EMSGSIZE, "{\"id\":1,\"cmd\":\"console\"}\n", "too much was typed before the answer"},
		{-EUSERS, "{\"id\":1,\"cmd\":\"console\"}\n", "as many clients as it takes"},
		{0, "{\"id\":1,\"cmd\":\"console\",\"x\":1}\n", "has no argument"},
		{0, "{\"id\":1,\"cmd\":\"wait\"}\n{\"id\":2,\"cmd\":\"console\"}\n", "without an answer"},
	};
	struct fixture f;
	char text[CONTROL_READ_BYTES + 64];

	fixture_start(&f);
	for (size_t i = 0; i < 2 * ARRAY_SIZE(rows); i++) {
		size_t row = i / 2, len = strlen(rows[row].request);
		int fd = join(&f);

		/* In the same read, or in the next: then blanks fill up the first. */
		memset(text, ' ', sizeof(text));
		memcpy(text + (i & 1 ? CONTROL_READ_BYTES - len : 0), rows[row].request, len);
		strcpy(text + (i & 1 ? CONTROL_READ_BYTES : len), "{\"id\":3,\"cmd\":\"kill\"}\n");
		f.vm.console_result = rows[row].result;
		send_text(fd, text);
		assert_non_null(strstr(get_line(fd), rows[row].answer));
		assert_string_equal(get_line(fd), "");
		close(fd);
	}
	assert_int_equal(atomic_load(&f.vm.kills), 0);
	fixture_stop(&f);
}

TEST(dump_goes_to_the_descriptor_while_the_loop_goes_on)
{
	struct fixture f;
	char *text = NULL;
	int a, b, file;

	fixture_start(&f);
	a = join(&f);
	b = join(&f);
	file = open(tempdir_file(&f.dir, "dump"), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
	send_fd(a, "{\"id\":1,\"cmd\":\"dump\"}\n", &file, 1);
	send_text(a, "{\"id\":2,\"cmd\":\"ping\"}\n");
	assert_non_null(strstr(get_line(a), "\"id\":2"));
	send_fd(b, "{\"id\":1,\"cmd\":\"dump\"}\n", &file, 1);
	assert_non_null(strstr(get_line(b), "being written already"));
	atomic_store(&f.vm.dump_go, true);
	assert_string_equal(get_line(a),
			    "{\"id\":1,\"ok\":true,\"result\":{\"file_bytes\":5,\"data_bytes\":3}}\n");
	assert_int_equal(file_read_text(tempdir_file(&f.dir, "dump"), 100, &text), 0);
	assert_string_equal(text, "abc");
	free(text);
	/* b's descriptor is still there. */
	send_text(b, "{\"id\":2,\"cmd\":\"dump\",\"format\":\"raw\"}\n");
	assert_non_null(
		strstr(get_line(b), "cannot write: no space; the file is incomplete: 3 B were written"));
	close(a);
	close(b);
	close(file);
	fixture_stop(&f);
}

TEST(a_daemons_socket_is_passed_on)
{
	struct fixture f;
	int fd, file = open("/dev/null", O_RDWR | O_CLOEXEC);

	fixture_start(&f);
	fd = join(&f);
	send_text(fd, "{\"id\":1,\"cmd\":\"attach-store\"}\n");
	assert_non_null(strstr(get_line(fd), "pass the socket"));
	f.vm.attach_result = -ENODEV;
	send_fd(fd, "{\"id\":2,\"cmd\":\"attach-store\"}\n", &file, 1);
	assert_non_null(strstr(get_line(fd), "no memory agent"));
	f.vm.attach_result = 0;
	/* The one that was refused is still there, for one more attempt. */
	send_text(fd, "{\"id\":3,\"cmd\":\"attach-store\"}\n");
	assert_string_equal(get_line(fd), "{\"id\":3,\"ok\":true,\"result\":{}}\n");
	send_text(fd, "{\"id\":4,\"cmd\":\"attach-store\"}\n");
	assert_non_null(strstr(get_line(fd), "pass the socket"));
	assert_int_equal(atomic_load(&f.vm.attached), 1);
	close(fd);
	close(file);
	fixture_stop(&f);
}

static bool dump_cancelled(void *arg)
{
	return atomic_load(&((struct fixture *)arg)->vm.dumps_cancelled) == 1;
}

TEST(dump_ends_with_its_client_and_with_the_server)
{
	struct fixture f;
	int fd, file;

	fixture_start(&f);
	file = open(tempdir_file(&f.dir, "dump"), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
	fd = join(&f);
	send_fd(fd, "{\"id\":1,\"cmd\":\"dump\"}\n", &file, 1);
	close(fd);
	assert_true(test_wait(dump_cancelled, &f));
	fd = join(&f);
	/* Until the first one is cleared away. */
	do
		send_fd(fd, "{\"id\":1,\"cmd\":\"dump\"}\n{\"id\":2,\"cmd\":\"ping\"}\n", &file, 1);
	while (strstr(get_line(fd), "already") && get_line(fd));
	fixture_stop(&f); /* joins the thread */
	close(fd);
	close(file);
}

static unsigned open_fds(void)
{
	unsigned count = 0;

	for (int fd = 0; fd < 256; fd++)
		count += fcntl(fd, F_GETFD) >= 0;
	return count;
}

TEST(unwanted_descriptors_are_closed)
{
	struct fixture f;
	unsigned before;
	int fds[8], fd;

	fixture_start(&f);
	fd = join(&f);
	for (unsigned i = 0; i < ARRAY_SIZE(fds); i++)
		fds[i] = open("/dev/null", O_RDONLY | O_CLOEXEC);
	before = open_fds();
	for (unsigned i = 0; i < 5; i++) {
		send_fd(fd, "{\"id\":1,\"cmd\":\"ping\"}\n", fds, ARRAY_SIZE(fds));
		assert_non_null(strstr(get_line(fd), "\"ok\":true"));
	}
	assert_int_equal(open_fds(), before + 1); /* one is kept for a dump */
	close(fd);
	for (unsigned i = 0; i < ARRAY_SIZE(fds); i++)
		close(fds[i]);
	fixture_stop(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(greets),
		cmocka_unit_test(answers),
		cmocka_unit_test(requests_may_come_in_pieces_and_heaps),
		cmocka_unit_test(requests_of_a_client_that_left_count),
		cmocka_unit_test(long_line_ends_the_connection_and_no_other),
		cmocka_unit_test(client_that_never_reads_is_dropped),
		cmocka_unit_test(clients_are_bounded),
		cmocka_unit_test(waits_are_answered_at_the_end),
		cmocka_unit_test(waits_are_bounded),
		cmocka_unit_test(stop_kills_after_its_time),
		cmocka_unit_test(kill_answers_first),
		cmocka_unit_test(stats_are_read_once_for_all_who_ask),
		cmocka_unit_test(balloon_errors),
		cmocka_unit_test(console_takes_the_connection),
		cmocka_unit_test(what_follows_a_refused_console_is_no_request),
		cmocka_unit_test(dump_goes_to_the_descriptor_while_the_loop_goes_on),
		cmocka_unit_test(a_daemons_socket_is_passed_on),
		cmocka_unit_test(dump_ends_with_its_client_and_with_the_server),
		cmocka_unit_test(unwanted_descriptors_are_closed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
