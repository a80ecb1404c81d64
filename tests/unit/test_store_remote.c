/* SPDX-License-Identifier: Apache-2.0 */
/* Links of VMs and a daemon's server: what one donates the other finds; daemons come and go and nothing that a VM holds is lost. */
#include "ksm/store-remote.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "ksm/store-backend.h"
#include "tests/unit/daemon-room.h"
#include "tests/unit/store-vm.h"

static int setup(void **state)
{
	struct daemon_room *room = calloc(1, sizeof(*room));

	if (!room)
		return -1;
	daemon_room_init(room);
	*state = room;
	return 0;
}

static int teardown(void **state)
{
	struct daemon_room *room = *state;

	daemon_room_done(room);
	free(room);
	return 0;
}

static void refs(struct store_vm *vm, uint32_t segment, uint32_t page, uint32_t pages, int delta)
{
	assert_int_equal(vm->link->ops->refs(vm->link, segment, page, pages, delta), 0);
}

/* Content 7 gets a twin, is donated by the second VM, and found by both. Returns the second VM's number of the segment. */
static uint32_t share(struct store_vm *a, struct store_vm *b, uint32_t pages)
{
	const struct store_event *found;
	uint32_t segment = UINT32_MAX;

	assert_int_equal(store_vm_submit(a, 1, 7).kind, STORE_UNIQUE);
	assert_int_equal(store_vm_submit(b, 2, 7).kind, STORE_WANTED);
	assert_int_equal(store_vm_donate(b, 7, pages, &segment), 0);
	store_vm_assert_page(b, segment, 0, 7);
	refs(b, segment, 0, pages, 1);
	found = store_vm_wait(a, STORE_EVENT_FOUND);
	assert_int_equal(found->frame, 1);
	assert_int_equal(found->page, 0);
	store_vm_assert_page(a, found->segment, found->page, 7);
	refs(a, found->segment, 0, 1, 1);
	return segment;
}

TEST(what_one_donates_the_other_finds)
{
	struct daemon_room *room = *state;
	struct store_vm a, b;
	struct store_answer answer;

	daemon_start(room);
	store_vm_start(&a, "a", room->path);
	store_vm_start(&b, "b", room->path);
	share(&a, &b, 4);
	assert_string_equal(a.link->ops->name(a.link), "sardined");
	answer = store_vm_submit(&a, 5, 9); /* page 2 */
	assert_int_equal(answer.kind, STORE_FOUND);
	assert_int_equal(answer.page, 2);
	store_vm_assert_page(&a, answer.segment, answer.page, 9);
	assert_int_equal(daemon_figure(room, true, "vms"), 2);
	assert_int_equal(daemon_figure(room, true, "mappings"), 5);
	assert_int_equal(daemon_figure(room, true, "pages_saved"), 1);
	/* References go with the VM, and the domain with its last one. */
	store_vm_end(&b);
	store_vm_end(&a);
	while (daemon_figure(room, false, "connections") > 0)
		sched_yield();
	assert_int_equal(daemon_figure(room, true, "vms"), -1);
	assert_int_equal(daemon_figure(room, false, "protocol_errors"), 0);
}

TEST(the_daemon_says_what_all_share)
{
	struct daemon_room *room = *state;
	uint64_t deadline = clock_now_ns() + VM_DEADLINE_S * 1000000000ull;
	struct store_shares shares;
	struct store_vm a, b;

	store_vm_start(&a, "a", room->path);
	a.link->ops->shares(a.link, &shares);
	assert_false(shares.known);
	daemon_start(room);
	store_vm_start(&b, "b", room->path);
	store_vm_wait_name(&a, "sardined");
	share(&a, &b, 4);
	do {
		assert_true(clock_now_ns() < deadline);
		a.link->ops->shares(a.link, &shares);
	} while (!shares.known || shares.mappings != 5);
	assert_int_equal(shares.saved, 1);
	daemon_end(room);
	assert_int_equal(store_vm_submit(&a, 3, 3).kind, STORE_UNIQUE);
	a.link->ops->shares(a.link, &shares);
	assert_true(shares.known && shares.bytes > 0);
	assert_int_equal(shares.mappings, 1);
	assert_int_equal(shares.saved, 0);
	store_vm_end(&a);
	store_vm_end(&b);
}

TEST(large_batches_come_in_parts)
{
	static struct store_record records[STORE_BATCH_MAX + 100];
	static struct store_answer answers[STORE_BATCH_MAX + 100];
	struct daemon_room *room = *state;
	struct store_vm a;

	daemon_start(room);
	store_vm_start(&a, "a", room->path);
	memset(a.recorded, 0xff, VM_FRAMES / 8);
	for (uint32_t i = 0; i < STORE_BATCH_MAX + 100; i++)
		records[i] = (struct store_record){.key = 1000 + i % VM_FRAMES, .frame = i % VM_FRAMES};
	for (unsigned again = 0; again < 3; again++) {
		memset(answers, 0xff, sizeof(answers));
		assert_int_equal(a.link->ops->submit(a.link, records, ARRAY_SIZE(records), answers), 0);
		for (size_t i = 0; i < ARRAY_SIZE(records); i++)
			assert_int_equal(answers[i].kind, STORE_UNIQUE);
	}
	assert_string_equal(a.link->ops->name(a.link), "sardined");
	store_vm_end(&a);
}

TEST(without_a_daemon_it_shares_with_itself)
{
	struct daemon_room *room = *state;
	struct store_vm a;
	uint32_t segment;

	store_vm_start(&a, "a", room->path);
	assert_int_equal(store_vm_submit(&a, 1, 7).kind, STORE_UNIQUE);
	assert_int_equal(store_vm_submit(&a, 2, 7).kind, STORE_WANTED);
	assert_string_equal(a.link->ops->name(a.link), "local");
	assert_int_equal(store_vm_donate(&a, 7, 1, &segment), 0);
	assert_int_equal(store_vm_wait(&a, STORE_EVENT_FOUND)->frame, 1);
	refs(&a, segment, 0, 1, 1);
	refs(&a, segment, 0, 1, 1);
	/* A daemon comes: it is told what is held. */
	daemon_start(room);
	store_vm_wait_name(&a, "sardined");
	assert_non_null(store_vm_find_event(&a, STORE_EVENT_RESET));
	assert_int_equal(daemon_figure(room, true, "mappings"), 2);
	assert_int_equal(daemon_figure(room, true, "segments"), 1);
	store_vm_assert_page(&a, segment, 0, 7);
	assert_int_equal(store_vm_submit(&a, 3, 7).kind, STORE_FOUND);
	store_vm_end(&a);
}

TEST(a_new_daemon_takes_over)
{
	struct daemon_room *room = *state;
	struct store_vm a, b;
	struct store_link_stats stats;
	struct store_answer answer;
	uint32_t segment;

	daemon_start(room);
	store_vm_start(&a, "a", room->path);
	store_vm_start(&b, "b", room->path);
	segment = share(&a, &b, 4);
	refs(&b, segment, 1, 2, 1);
	refs(&b, segment, 3, 1, -1);
	daemon_end(room);
	/* Calls do not fail meanwhile, and numbers stay. */
	store_vm_assert_page(&b, segment, 2, 9);
	answer = store_vm_submit(&b, 9, 8);
	assert_int_equal(answer.kind, STORE_FOUND);
	assert_int_equal(answer.segment, segment);
	assert_string_equal(b.link->ops->name(b.link), "local");
	refs(&b, segment, 2, 1, 1);
	daemon_start(room);
	store_vm_wait_name(&a, "sardined");
	store_vm_wait_name(&b, "sardined");
	assert_non_null(store_vm_find_event(&a, STORE_EVENT_RESET));
	assert_non_null(store_vm_find_event(&b, STORE_EVENT_RESET));
	/* One segment, whoever brings it; b: 0 once, 1 twice, 2 three times; a: 0 once. */
	assert_int_equal(daemon_figure(room, true, "segments"), 1);
	assert_int_equal(daemon_figure(room, true, "mappings"), 7);
	assert_int_equal(daemon_figure(room, true, "pages_saved"), 4);
	assert_int_equal(daemon_figure(room, true, "dead_pages"), 1);
	store_link_remote_stats(b.link, &stats);
	assert_int_equal(stats.references, 6);
	assert_int_equal(stats.lost, 1);
	assert_int_equal(stats.connected, 2);
	assert_int_equal(stats.refused, 0);
	answer = store_vm_submit(&a, 3, 9);
	assert_int_equal(answer.kind, STORE_FOUND);
	assert_int_equal(answer.page, 2);
	store_vm_end(&a);
	store_vm_end(&b);
}

TEST(a_loan_of_a_dead_daemon_is_handed_to_the_next)
{
	struct daemon_room *room = *state;
	uint64_t page[PAGE_BYTES / 8];
	struct segment *s = NULL;
	struct store_vm a;
	uint32_t at, segment;

	daemon_start(room);
	store_vm_start(&a, "a", room->path);
	assert_int_equal(a.link->ops->lend(a.link, 1, &s), 0);
	store_vm_page(3, page);
	assert_int_equal(segment_append(s, page, 1, &at), 0);
	daemon_end(room);
	assert_int_equal(a.link->ops->offer(a.link, s, &segment), 0);
	store_vm_assert_page(&a, segment, 0, 3);
	assert_int_equal(store_vm_submit(&a, 0, 3).kind, STORE_FOUND);
	store_vm_end(&a);
}

TEST(a_socket_can_be_handed_in)
{
	struct daemon_room *room = *state;
	struct store_vm a;
	const int one = 1;
	int fds[2];

	/* Who has no path finds no daemon. */
	daemon_start(room);
	store_vm_start(&a, "a", NULL);
	assert_int_equal(store_vm_submit(&a, 1, 7).kind, STORE_UNIQUE);
	assert_string_equal(a.link->ops->name(a.link), "local");
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
	assert_int_equal(setsockopt(fds[0], SOL_SOCKET, SO_PASSCRED, &one, sizeof(one)), 0);
	assert_int_equal(server_add(room->server, fds[0]), 0);
	store_link_remote_attach(a.link, fds[1]);
	assert_non_null(store_vm_wait(&a, STORE_EVENT_RESET));
	assert_string_equal(a.link->ops->name(a.link), "sardined");
	/* It has one: a second socket is closed. */
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
	store_link_remote_attach(a.link, fds[1]);
	assert_int_equal(store_vm_submit(&a, 1, 7).kind, STORE_UNIQUE);
	assert_int_equal(recv(fds[0], &(char){0}, 1, 0), 0);
	close(fds[0]);
	/* What is no socket does no harm. */
	daemon_end(room);
	store_link_remote_attach(a.link, memfd_create("none", MFD_CLOEXEC));
	assert_int_equal(store_vm_submit(&a, 2, 7).kind, STORE_UNIQUE);
	assert_string_equal(a.link->ops->name(a.link), "local");
	store_vm_end(&a);
}

TEST(views_stay_while_references_do)
{
	struct daemon_room *room = *state;
	struct store_vm a;
	uint32_t segments[12];
	const struct segment_view *view;

	daemon_start(room);
	store_vm_start(&a, "a", room->path);
	for (unsigned i = 0; i < ARRAY_SIZE(segments); i++) {
		assert_int_equal(store_vm_donate(&a, 100 + i, 1, &segments[i]), 0);
		refs(&a, segments[i], 0, 1, 1);
	}
	daemon_end(room);
	for (unsigned i = 0; i < ARRAY_SIZE(segments); i++)
		store_vm_assert_page(&a, segments[i], 0, 100 + i);
	assert_int_equal(a.link->ops->view(a.link, 999, &view), -ENOENT);
	assert_int_equal(a.link->ops->refs(a.link, 999, 0, 1, 1), -ENOENT);
	assert_int_equal(a.link->ops->refs(a.link, segments[0], 0, 2, 1), -EINVAL);
	assert_int_equal(a.link->ops->refs(a.link, segments[0], 1, 1, 1), -EINVAL);
	refs(&a, segments[0], 0, 1, -1);
	assert_int_equal(a.link->ops->refs(a.link, segments[0], 0, 1, -1), -ENOENT);
	store_vm_end(&a);
}

/* A daemon that answers nothing: once its time is over the VM goes on alone, and does not try again at once. */
TEST(a_daemon_that_stands_still_is_left)
{
	struct daemon_room *room = *state;
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	auto_fd fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	struct store_vm a;
	uint64_t start;

	strcpy(addr.sun_path, room->path);
	assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(listen(fd, 8), 0);
	store_vm_start(&a, "a", room->path);
	start = clock_now_ns();
	assert_int_equal(store_vm_submit(&a, 1, 7).kind, STORE_UNIQUE);
	assert_true(clock_now_ns() - start >= STORE_DEADLINE_NS);
	for (unsigned i = 0; i < 100; i++)
		assert_int_equal(store_vm_submit(&a, 1, i).kind, STORE_UNIQUE);
	/* Not 100 times the deadline: one attempt at most fell into that time. */
	assert_true(clock_now_ns() - start < 3 * STORE_DEADLINE_NS);
	assert_string_equal(a.link->ops->name(a.link), "local");
	store_vm_end(&a);
}

/* A daemon that is killed in the middle of taking over: it answers HELLO and one ADOPT. */
static void *dying_daemon(void *arg)
{
	auto_fd fd = accept4(*(int *)arg, NULL, NULL, SOCK_CLOEXEC);
	struct store_wire_message m;

	for (uint32_t i = 0; i < 2; i++) {
		struct store_wire_answer answer = {
			.kind = STORE_WIRE_ANSWER, .version = STORE_WIRE_VERSION_MAX, .value = 900};
		struct pollfd p = {.fd = fd, .events = POLLIN};

		if (poll(&p, 1, 10000) != 1 || store_wire_receive(fd, &m) < 0)
			return NULL;
		answer.serial = m.call.serial;
		store_wire_message_done(&m);
		if (store_wire_send(fd, &answer, sizeof(answer), -1) < 0)
			return NULL;
	}
	return NULL;
}

TEST(a_daemon_that_dies_while_it_takes_over)
{
	struct daemon_room *room = *state;
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	struct store_answer answer;
	uint32_t segments[3];
	pthread_t thread;
	struct store_vm a;

	strcpy(addr.sun_path, room->path);
	store_vm_start(&a, "a", room->path);
	assert_int_equal(store_vm_submit(&a, 9, 9).kind, STORE_UNIQUE);
	for (unsigned i = 0; i < ARRAY_SIZE(segments); i++) {
		assert_int_equal(store_vm_donate(&a, 100 + i, 1, &segments[i]), 0);
		refs(&a, segments[i], 0, 1, 1);
	}
	assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(listen(fd, 8), 0);
	assert_int_equal(pthread_create(&thread, NULL, dying_daemon, &fd), 0);
	assert_non_null(store_vm_wait(&a, STORE_EVENT_RESET));
	pthread_join(thread, NULL);
	close(fd);
	assert_string_equal(a.link->ops->name(a.link), "local");
	/* All as it was, under the same numbers. */
	for (unsigned i = 0; i < ARRAY_SIZE(segments); i++) {
		answer = store_vm_submit(&a, i, 100 + i);
		assert_int_equal(answer.kind, STORE_FOUND);
		assert_int_equal(answer.segment, segments[i]);
		store_vm_assert_page(&a, segments[i], 0, 100 + i);
	}
	unlink(room->path);
	store_vm_end(&a);
}

TEST(a_second_daemon_is_refused)
{
	struct daemon_room *room = *state;
	struct server *second = NULL;
	struct io_loop *loop;
	struct errmsg err = {0};

	daemon_start(room);
	assert_int_equal(io_loop_new(&loop), 0);
	assert_int_equal(server_new(loop, room->path, 1, &err, &second), -EADDRINUSE);
	assert_non_null(strstr(err.text, "in use"));
	io_loop_free(loop);
}

/* Whoever has a segment's descriptor, the daemon or anybody else: the kernel stops him. */
TEST(offered_segments_cannot_be_changed_by_who_holds_them)
{
	struct daemon_room *room = *state;
	struct store_vm a, b;
	uint64_t page[PAGE_BYTES / 8], byte = 0;
	auto_fd fd = -1;
	uint32_t number, segment;
	struct store_backend *raw = NULL;
	const struct store_link_config config = {.frames = 64, .vm_name = "scribbler"};
	_Atomic uint64_t *bits =
		mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	auto_fd epoll = epoll_create1(EPOLL_CLOEXEC);
	char path[64];

	daemon_start(room);
	store_vm_start(&a, "a", room->path);
	store_vm_start(&b, "b", room->path);
	segment = share(&a, &b, 2);
	/* The daemon's own descriptor, as a third VM gets it. */
	assert_int_equal(store_daemon_connect(room->path, &fd), 0);
	assert_int_equal(store_daemon_new(&config, TAKE_FD(fd), bits, epoll, &raw), 0);
	for (number = 0; raw->ops->fetch(raw, number, &fd) < 0; number++)
		assert_true(number < 1000);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	for (unsigned i = 0; i < 2; i++) {
		auto_fd again = open(path, O_RDWR | O_CLOEXEC);
		int use = i ? again : fd;

		if (use < 0)
			continue;
		assert_int_equal(pwrite(use, &byte, sizeof(byte), 0), -1);
		assert_int_equal(errno, EPERM);
		assert_true(mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, use, 0) == MAP_FAILED);
		assert_int_equal(ftruncate(use, 0), -1);
		assert_int_equal(errno, EPERM);
		assert_int_equal(fallocate(use, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, PAGE_BYTES),
				 -1);
		assert_int_equal(errno, EPERM);
	}
	store_vm_page(7, page);
	store_vm_assert_page(&a, store_vm_wait(&a, STORE_EVENT_FOUND)->segment, 0, 7);
	store_vm_assert_page(&b, segment, 0, 7);
	store_backend_free(raw);
	munmap((void *)(uintptr_t)bits, PAGE_BYTES);
	store_vm_end(&a);
	store_vm_end(&b);
}

/* A daemon that keeps a way to write to what it lent: the donor finds out when it seals. */
TEST(a_loan_that_somebody_maps_is_not_offered)
{
	struct daemon_room *room = *state;
	struct store_vm a;
	struct segment *s = NULL;
	uint64_t page[PAGE_BYTES / 8];
	uint32_t at, segment;
	void *evil = MAP_FAILED;

	daemon_start(room);
	store_vm_start(&a, "a", room->path);
	assert_int_equal(a.link->ops->lend(a.link, 1, &s), 0);
	store_vm_page(3, page);
	assert_int_equal(segment_append(s, page, 1, &at), 0);
	/* The server is in this process: its descriptor is among ours. */
	for (int fd = 3; fd < 200 && evil == MAP_FAILED; fd++) {
		char path[32], name[64] = "";

		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		if (readlink(path, name, sizeof(name) - 1) > 0 && strstr(name, "sardine-segment"))
			evil = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	}
	assert_true(evil != MAP_FAILED);
	assert_int_equal(a.link->ops->offer(a.link, s, &segment), -EBUSY);
	munmap(evil, PAGE_BYTES);
	assert_int_equal(store_vm_donate(&a, 3, 1, &segment), 0);
	store_vm_end(&a);
}

int main(void)
{
#define T(name_) cmocka_unit_test_setup_teardown(name_, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(what_one_donates_the_other_finds),
		T(the_daemon_says_what_all_share),
		T(large_batches_come_in_parts),
		T(without_a_daemon_it_shares_with_itself),
		T(a_new_daemon_takes_over),
		T(a_loan_of_a_dead_daemon_is_handed_to_the_next),
		T(a_socket_can_be_handed_in),
		T(views_stay_while_references_do),
		T(a_daemon_that_stands_still_is_left),
		T(a_daemon_that_dies_while_it_takes_over),
		T(a_second_daemon_is_refused),
		T(offered_segments_cannot_be_changed_by_who_holds_them),
		T(a_loan_that_somebody_maps_is_not_offered),
	};

	return TEST_RUN(tests);
}
