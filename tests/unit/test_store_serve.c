/* SPDX-License-Identifier: Apache-2.0 */
/* The daemon's side of a connection: what a hostile VM may say, and what becomes of it. */
#include "ksm/store-serve.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

#include "base/addr.h"
#include "ksm/segment.h"
#include "tests/unit/test.h"

#define FRAMES 1000u
#define UID    4711u

/* A client by hand: its own end of the rings, to be used wrongly. */
struct peer {
	struct store *store;
	unsigned gets, puts, bells;
	struct store_serve *serve;
	struct store_wire_room room;
	int fd;
	uint8_t *memory;
	struct ring records, answers, events;
	struct store_serve_reply reply;
};

static int domain_get(void *ctx, uint32_t uid, struct store **ret)
{
	struct peer *p = ctx;

	assert_int_equal(uid, UID);
	p->gets++;
	*ret = p->store;
	return 0;
}

static void domain_put(void *ctx, struct store *store)
{
	struct peer *p = ctx;

	assert_ptr_equal(store, p->store);
	p->puts++;
}

static void bell(void *ctx)
{
	struct peer *p = ctx;

	p->bells++;
}

static int stats(void *ctx, int *ret_fd, uint32_t *ret_bytes)
{
	(void)ctx, (void)ret_fd, (void)ret_bytes;
	return -EPERM;
}

static const struct store_serve_ops ops = {domain_get, domain_put, bell, stats};

static void peer_init(struct peer *p, struct store *store)
{
	*p = (struct peer){.store = store, .room = store_wire_room(FRAMES), .fd = -1};
	assert_int_equal(store_serve_new(&ops, p, &p->serve), 0);
	assert_int_equal(store_wire_room_new(&p->room, &p->fd), 0);
	p->memory = mmap(NULL, p->room.bytes, PROT_READ | PROT_WRITE, MAP_SHARED, p->fd, 0);
	assert_true(p->memory != MAP_FAILED);
	ring_init(&p->records, p->memory + p->room.records_at, sizeof(struct store_record), STORE_WIRE_BATCH);
	ring_init(&p->answers, p->memory + p->room.answers_at, sizeof(struct store_answer), STORE_WIRE_BATCH);
	ring_init(&p->events, p->memory + p->room.events_at, sizeof(struct store_event), STORE_WIRE_EVENTS);
	memset(p->memory + p->room.bitmap_at, 0xff, p->room.bitmap_bytes);
}

static void peer_done(struct peer *p)
{
	store_serve_free(p->serve);
	assert_int_equal(p->gets, p->puts);
	munmap(p->memory, p->room.bytes);
	close(p->fd);
}

static struct store *store(void)
{
	struct store *s = NULL;

	assert_int_equal(store_new(&(struct store_config){0}, NULL, &s), 0);
	return s;
}

static struct store_wire_message hello_message(const struct peer *p)
{
	struct store_wire_message m = {
		.hello = {.kind = STORE_WIRE_HELLO,
			  .serial = 9,
			  .version_min = 1,
			  .version_max = 1,
			  .frames = FRAMES,
			  .vm_name = "vm"},
		.len = sizeof(m.hello),
		.fds = {p->fd},
		.fd_count = 1,
		.credited = true,
		.pid = 42,
		.uid = UID,
	};

	return m;
}

static int say(struct peer *p, const struct store_wire_message *m)
{
	p->reply = (struct store_serve_reply){.fd = -1};
	return store_serve_message(p->serve, m, &p->reply);
}

static void hello(struct peer *p)
{
	const struct store_wire_message m = hello_message(p);

	assert_int_equal(say(p, &m), 0);
	assert_int_equal(p->reply.answer.result, 0);
	assert_int_equal(p->reply.answer.serial, 9);
	assert_int_equal(p->reply.answer.version, 1);
	assert_string_equal(store_serve_name(p->serve), "vm");
	assert_int_equal(store_serve_pid(p->serve), 42);
}

static struct store_wire_message call_message(uint32_t kind, uint32_t count)
{
	return (struct store_wire_message){.call = {.kind = kind, .serial = 1, .count = count},
					   .len = sizeof(struct store_wire_call)};
}

static int call(struct peer *p, uint32_t kind, uint32_t count)
{
	const struct store_wire_message m = call_message(kind, count);

	return say(p, &m);
}

/* The answer of a call that is answered. */
static int result(struct peer *p, uint32_t kind, uint32_t count)
{
	assert_int_equal(call(p, kind, count), 0);
	assert_int_equal(p->reply.answer.kind, STORE_WIRE_ANSWER);
	return p->reply.answer.result;
}

static int submit(struct peer *p, uint32_t frame, uint64_t key, struct store_answer *ret)
{
	const struct store_record record = {.key = key, .frame = frame};
	int r;

	ring_rewind_writer(&p->records);
	ring_rewind_reader(&p->answers);
	assert_int_equal(ring_put(&p->records, &record, 1, NULL), 0);
	r = result(p, STORE_WIRE_SUBMIT, 1);
	if (r == 0)
		assert_int_equal(ring_get(&p->answers, ret, 1), 1);
	return r;
}

TEST(serves_two_clients)
{
	struct store *s = store();
	struct peer a, b;
	struct store_answer answer;
	struct store_event event;
	struct segment *segment;
	uint64_t page[PAGE_BYTES / 8];
	uint32_t at, loan;
	auto_fd sealed = -1;

	peer_init(&a, s);
	peer_init(&b, s);
	hello(&a);
	hello(&b);
	for (unsigned i = 0; i < PAGE_BYTES / 8; i++)
		page[i] = i;
	assert_int_equal(submit(&a, 1, page_store_key(page_identify(page, PAGE_BYTES)), &answer), 0);
	assert_int_equal(answer.kind, STORE_UNIQUE);
	assert_int_equal(submit(&b, 2, page_store_key(page_identify(page, PAGE_BYTES)), &answer), 0);
	assert_int_equal(answer.kind, STORE_WANTED);
	assert_int_equal(result(&b, STORE_WIRE_LEND, 1), 0);
	loan = b.reply.answer.value;
	assert_int_equal(segment_adopt_file(b.reply.fd, 1, &segment), 0);
	assert_int_equal(segment_append(segment, page, 1, &at), 0);
	assert_int_equal(segment_seal(segment, &sealed), 0);
	segment_free(segment);
	assert_int_equal(a.bells, 0);
	assert_int_equal(result(&b, STORE_WIRE_OFFER, loan), 0);
	assert_int_equal(a.bells, 1);
	assert_int_equal(ring_get(&a.events, &event, 1), 1);
	assert_int_equal(event.kind, STORE_EVENT_FOUND);
	assert_int_equal(event.frame, 1);
	assert_int_equal(result(&a, STORE_WIRE_FETCH, event.segment), 0);
	assert_true(a.reply.fd >= 0);
	close(a.reply.fd);
	peer_done(&a);
	peer_done(&b);
	store_free(s);
}

TEST(hello_is_checked)
{
	struct store *s = store();
	auto_fd small = memfd_create("small", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	auto_fd loose = memfd_create("loose", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	struct peer p;
	struct store_wire_message m;
#define REFUSED(change_, error_)                                                                             \
	do {                                                                                                 \
		peer_init(&p, s);                                                                            \
		m = hello_message(&p);                                                                       \
		change_;                                                                                     \
		assert_int_equal(say(&p, &m), 0);                                                            \
		assert_int_equal(p.reply.answer.result, error_);                                             \
		assert_string_equal(store_serve_name(p.serve), "");                                          \
		peer_done(&p);                                                                               \
	} while (0)

	REFUSED(m.hello.version_min = m.hello.version_max = 2, -EPROTONOSUPPORT);
	REFUSED(m.hello.version_min = m.hello.version_max = 0, -EPROTONOSUPPORT);
	REFUSED(m.hello.frames = 0, -EINVAL);
	REFUSED(m.hello.frames = UINT64_MAX, -EINVAL);
	REFUSED(m.hello.frames = STORE_WIRE_FRAMES_MAX + 1, -EINVAL);
	REFUSED(m.hello.frames = 1000000, -EINVAL); /* the file is of another size */
	REFUSED(m.hello.reserved = 1, -EINVAL);
	REFUSED(m.hello.vm_name[0] = 0, -EINVAL);
	REFUSED(m.hello.vm_name[1] = '\n', -EINVAL);
	REFUSED(memset(m.hello.vm_name, 'x', STORE_WIRE_NAME), -EINVAL);
	REFUSED(m.credited = false, -EACCES);
	REFUSED(m.fds[0] = small, -EPERM);
	assert_int_equal(fcntl(small, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL), 0);
	REFUSED(m.fds[0] = small, -EINVAL);
	peer_init(&p, s);
	assert_int_equal(ftruncate(loose, (off_t)p.room.bytes), 0);
	peer_done(&p);
	REFUSED(m.fds[0] = loose, -EPERM);
	/* A range that goes on into the future is served at what both know. */
	peer_init(&p, s);
	m = hello_message(&p);
	m.hello.version_max = 99;
	assert_int_equal(say(&p, &m), 0);
	assert_int_equal(p.reply.answer.result, 0);
	assert_int_equal(p.reply.answer.version, STORE_WIRE_VERSION_MAX);
	peer_done(&p);
	store_free(s);
}

TEST(malformed_messages_end_the_connection)
{
	struct store *s = store();
	struct peer p;
	struct store_wire_message m;

	peer_init(&p, s);
	/* Before HELLO. */
	assert_int_equal(call(&p, STORE_WIRE_LEND, 1), -EPROTO);
	assert_int_equal(result(&p, 0, 1), -ENOSYS);
	assert_int_equal(result(&p, STORE_WIRE_BELL, 1), -ENOSYS);
	assert_int_equal(result(&p, STORE_WIRE_STATS, 0), -EPERM);
	hello(&p);
	m = hello_message(&p);
	assert_int_equal(say(&p, &m), -EPROTO); /* a second one */
	assert_int_equal(result(&p, STORE_WIRE_STATS, 0), -EPERM);
	m = call_message(STORE_WIRE_LEND, 1);
	m.len--;
	assert_int_equal(say(&p, &m), -EPROTO);
	m.len += 2;
	assert_int_equal(say(&p, &m), -EPROTO);
	m.len = 4;
	assert_int_equal(say(&p, &m), -EPROTO);
	m = call_message(STORE_WIRE_LEND, 1);
	m.call.reserved = 1;
	assert_int_equal(say(&p, &m), -EPROTO);
	m = call_message(STORE_WIRE_LEND, 1);
	m.fd_count = 1;
	assert_int_equal(say(&p, &m), -EPROTO);
	m = call_message(STORE_WIRE_ADOPT, 0);
	assert_int_equal(say(&p, &m), -EPROTO); /* without a descriptor */
	m.fd_count = 1;
	m.fds[0] = p.fd;
	m.fds_lost = true;
	assert_int_equal(say(&p, &m), -EPROTO);
	assert_int_equal(call(&p, STORE_WIRE_SUBMIT, 0), -EPROTO);
	assert_int_equal(call(&p, STORE_WIRE_SUBMIT, 1), -EPROTO); /* nothing in the ring */
	assert_int_equal(call(&p, STORE_WIRE_SUBMIT, STORE_WIRE_BATCH + 1), -EPROTO);
	assert_int_equal(call(&p, STORE_WIRE_REFS, UINT32_MAX), -EPROTO);
	atomic_store(&p.records.counters->written, 1u << 30);
	assert_int_equal(call(&p, STORE_WIRE_SUBMIT, 1), -EPROTO);
	assert_int_equal(call(&p, STORE_WIRE_BYE, 0), -ECONNRESET);
	peer_done(&p);
	store_free(s);
}

TEST(wrong_calls_are_answered)
{
	struct store *s = store();
	struct store_answer answer;
	struct peer p;
	const struct store_wire_ref refs[] = {{.segment = 5, .pages = 1, .delta = 1}, {.delta = 3}};

	peer_init(&p, s);
	hello(&p);
	assert_int_equal(result(&p, STORE_WIRE_LEND, 0), -EINVAL);
	assert_int_equal(result(&p, STORE_WIRE_LEND, UINT32_MAX), -EINVAL);
	assert_int_equal(result(&p, STORE_WIRE_OFFER, 3), -ENOENT);
	assert_int_equal(result(&p, STORE_WIRE_FETCH, 3), -ENOENT);
	assert_int_equal(result(&p, STORE_WIRE_FETCH, UINT32_MAX), -ENOENT);
	assert_int_equal(p.reply.fd, -1);
	assert_int_equal(submit(&p, FRAMES, 1, &answer), -EINVAL);
	assert_int_equal(submit(&p, FRAMES - 1, 1, &answer), 0);
	for (unsigned i = 0; i < 2; i++) {
		ring_rewind_writer(&p.records);
		assert_int_equal(ring_put(&p.records, &refs[i], 1, NULL), 0);
		assert_int_equal(result(&p, STORE_WIRE_REFS, 1), i ? -EINVAL : -ENOENT);
		assert_int_equal(p.reply.answer.value, 0);
	}
	/* A memory file that anybody may change is none of ours. */
	{
		struct store_wire_message m = call_message(STORE_WIRE_ADOPT, 0);

		m.fd_count = 1;
		m.fds[0] = p.fd;
		assert_int_equal(say(&p, &m), 0);
		assert_true(p.reply.answer.result < 0);
	}
	peer_done(&p);
	store_free(s);
}

/* Whatever the peer writes into shared memory while it is served. */
TEST(answers_of_a_peer_that_lies_about_what_it_read)
{
	struct store *s = store();
	const struct store_record record = {.key = 7, .frame = 1};
	struct peer p;

	peer_init(&p, s);
	hello(&p);
	assert_int_equal(ring_put(&p.records, &record, 1, NULL), 0);
	atomic_store(&p.answers.counters->read, 12345);
	assert_int_equal(call(&p, STORE_WIRE_SUBMIT, 1), -EPROTO);
	peer_done(&p);
	store_free(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(serves_two_clients),
		cmocka_unit_test(hello_is_checked),
		cmocka_unit_test(malformed_messages_end_the_connection),
		cmocka_unit_test(wrong_calls_are_answered),
		cmocka_unit_test(answers_of_a_peer_that_lies_about_what_it_read),
	};

	return TEST_RUN(tests);
}
