/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Any messages and any scribbling in shared memory by VMs of a daemon: every call gets an answer that makes sense or ends its
 * connection, nothing is leaked, and the other client is served as before.
 *
 * Input: steps of enum step, each with the arguments that it takes from what follows; numbers are little-endian.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/addr.h"
#include "ksm/segment.h"
#include "ksm/store-serve.h"
#include "tests/fuzz/require.h"

#define CLIENTS 2u
#define FRAMES	300u
#define LOANS	4u

enum step {
	STEP_HELLO,	/* a good one */
	STEP_HELLO_RAW, /* descriptor 1, version_min 1, version_max 1, frames 8, reserved 1, name 1 */
	STEP_CALL,	/* kind 1, count 4, descriptor 1 */
	STEP_RECORDS,	/* count 1, first frame 2, key 1: into the ring */
	STEP_REFS,	/* segment 4, page 2, pages 2, delta 1: into the ring */
	STEP_SCRIBBLE,	/* offset 4, value 4 */
	STEP_FILL,	/* content 1, pages 1, seal 1: the last loan */
	STEP_EVENTS,
	STEP_CLIENT, /* go on as the other one */
	STEP_LEAVE,  /* and come back as a new one */
	STEP_RAW,    /* length 1, bytes */
	STEP_TICK,   /* seconds 1 */
	STEPS,
};

/* What descriptors come with messages. */
enum which { FD_NONE, FD_ROOM, FD_SMALL, FD_LOOSE, FD_SEGMENT, FD_LOST, FD_TWO, FD_KINDS };

struct client {
	struct store_serve *serve;
	struct store_wire_room room;
	int fd;
	uint8_t *memory;
	struct ring records, answers, events;
	bool said_hello, dead;
	int loan; /* descriptor, or -1 */
	uint32_t loan_pages;
	unsigned gets, puts, bells;
};

struct fuzz {
	const uint8_t *data;
	size_t size;
	struct store *store;
	struct client clients[CLIENTS];
	unsigned now;
	uint64_t time_ns;
	int small, loose, segment;
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct store *the_store;

static uint64_t take(struct fuzz *f, size_t bytes)
{
	uint64_t v = 0;
	size_t n = bytes < f->size ? bytes : f->size;

	memcpy(&v, f->data, n);
	f->data += n;
	f->size -= n;
	return v;
}

static int domain_get(void *ctx, uint32_t uid, struct store **ret)
{
	struct client *c = ctx;

	if (uid == 1)
		return -EMFILE;
	c->gets++;
	*ret = the_store;
	return 0;
}

static void domain_put(void *ctx, struct store *store)
{
	struct client *c = ctx;

	require(store == the_store);
	c->puts++;
}

static void bell(void *ctx)
{
	/* Also of one that is to go; of one that is gone the sanitizer would tell. */
	((struct client *)ctx)->bells++;
}

static int stats(void *ctx, int *ret_fd, uint32_t *ret_bytes)
{
	(void)ctx;
	*ret_fd = memfd_create("stats", MFD_CLOEXEC);
	require(*ret_fd >= 0);
	*ret_bytes = 0;
	return 0;
}

static const struct store_serve_ops ops = {domain_get, domain_put, bell, stats};

static void client_new(struct client *c)
{
	*c = (struct client){.room = store_wire_room(FRAMES), .fd = -1, .loan = -1};
	require(store_serve_new(&ops, c, &c->serve) == 0);
	require(store_wire_room_new(&c->room, &c->fd) == 0);
	c->memory = mmap(NULL, c->room.bytes, PROT_READ | PROT_WRITE, MAP_SHARED, c->fd, 0);
	require(c->memory != MAP_FAILED);
	ring_init(&c->records, c->memory + c->room.records_at, sizeof(struct store_record), STORE_WIRE_BATCH);
	ring_init(&c->answers, c->memory + c->room.answers_at, sizeof(struct store_answer), STORE_WIRE_BATCH);
	ring_init(&c->events, c->memory + c->room.events_at, sizeof(struct store_event), STORE_WIRE_EVENTS);
	memset(c->memory + c->room.bitmap_at, 0xff, c->room.bitmap_bytes);
}

static void client_end(struct client *c)
{
	store_serve_free(c->serve);
	require(c->gets == c->puts);
	munmap(c->memory, c->room.bytes);
	close(c->fd);
	close_fd_p(&c->loan);
}

static struct client *client_now(struct fuzz *f)
{
	struct client *c = &f->clients[f->now];

	if (c->dead) {
		client_end(c);
		client_new(c);
	}
	return c;
}

static void say(struct fuzz *f, struct store_wire_message *m, enum which which)
{
	struct client *c = client_now(f);
	struct store_serve_reply reply = {.fd = -2};
	const int fds[FD_KINDS] = {[FD_ROOM] = c->fd,	      [FD_SMALL] = f->small, [FD_LOOSE] = f->loose,
				   [FD_SEGMENT] = f->segment, [FD_LOST] = c->fd,     [FD_TWO] = c->fd};
	int r;

	m->fds[0] = m->fds[1] = fds[which];
	m->fd_count = which == FD_NONE ? 0 : which == FD_TWO ? 2 : 1;
	m->fds_lost = which == FD_LOST;
	if (m->len < sizeof(m->bytes) && m->len >= 8)
		memset(m->bytes + m->len, 0xee, sizeof(m->bytes) - m->len); /* nobody may look there */
	r = store_serve_message(c->serve, m, &reply);
	require(r == 0 || r == -EPROTO || r == -ECONNRESET);
	if (r < 0) {
		c->dead = true;
		return;
	}
	require(reply.answer.kind == STORE_WIRE_ANSWER && reply.answer.serial == m->call.serial);
	require(reply.answer.result <= 0 && reply.answer.reserved == 0);
	if (m->call.kind == STORE_WIRE_HELLO && reply.answer.result == 0)
		c->said_hello = true;
	if (reply.answer.result == 0 && m->call.kind == STORE_WIRE_LEND) {
		require(reply.fd >= 0);
		close_fd_p(&c->loan);
		c->loan = reply.fd;
		c->loan_pages = m->call.count;
	} else if (reply.answer.result == 0 &&
		   (m->call.kind == STORE_WIRE_FETCH || m->call.kind == STORE_WIRE_STATS)) {
		require(reply.fd >= 0);
		close(reply.fd);
	} else {
		require(reply.fd == -1);
	}
	if (reply.answer.result == 0 && m->call.kind == STORE_WIRE_SUBMIT) {
		struct store_answer answer;

		ring_rewind_reader(&c->answers);
		while (ring_get(&c->answers, &answer, 1) == 1)
			require(answer.kind < STORE_ANSWERS);
	}
}

static void hello(struct fuzz *f, bool good)
{
	struct store_wire_message m = {
		.hello = {.kind = STORE_WIRE_HELLO,
			  .serial = 7,
			  .version_min = 1,
			  .version_max = 1,
			  .frames = FRAMES,
			  .vm_name = "vm"},
		.len = sizeof(m.hello),
		.credited = true,
		.pid = 1,
	};
	enum which which = FD_ROOM;

	if (!good) {
		which = take(f, 1) % FD_KINDS;
		m.hello.version_min = (uint32_t)take(f, 1) % 4;
		m.hello.version_max = (uint32_t)take(f, 1) % 4;
		m.hello.frames = take(f, 8);
		m.hello.reserved = take(f, 1);
		m.hello.vm_name[1] = (char)take(f, 1);
		m.credited = m.hello.vm_name[1] != 'c';
		m.uid = m.hello.vm_name[1] == 'u';
		if (m.hello.frames % 5 == 0)
			m.hello.frames = FRAMES;
	}
	say(f, &m, which);
}

static void call(struct fuzz *f)
{
	struct store_wire_message m = {.call = {.kind = (uint32_t)take(f, 1) % 12, .serial = 9},
				       .len = sizeof(m.call)};
	enum which which;

	m.call.count = (uint32_t)take(f, 4);
	which = take(f, 1) % FD_KINDS;
	if (m.call.kind == STORE_WIRE_ADOPT && which == FD_NONE)
		which = FD_SEGMENT;
	if (m.call.kind != STORE_WIRE_ADOPT && which != FD_TWO)
		which = FD_NONE;
	say(f, &m, which);
}

static void records(struct fuzz *f)
{
	struct client *c = client_now(f);
	uint32_t count = (uint32_t)take(f, 1), frame = (uint32_t)take(f, 2);
	uint64_t key = take(f, 1);

	ring_rewind_writer(&c->records);
	for (uint32_t i = 0; i < count; i++) {
		const struct store_record r = {.key = key + i % 3 + 1, .frame = frame + i};

		(void)!ring_put(&c->records, &r, 1, NULL);
	}
}

static void refs(struct fuzz *f)
{
	struct client *c = client_now(f);
	struct store_wire_ref ref = {.segment = (uint32_t)take(f, 4)};

	ref.page = (uint32_t)take(f, 2);
	ref.pages = (uint32_t)take(f, 2);
	ref.delta = (int8_t)take(f, 1);
	ring_rewind_writer(&c->records);
	(void)!ring_put(&c->records, &ref, 1, NULL);
}

static void scribble(struct fuzz *f)
{
	struct client *c = client_now(f);
	const size_t rings[] = {c->room.records_at, c->room.answers_at, c->room.events_at, c->room.bitmap_at};
	uint32_t at = (uint32_t)take(f, 4), value = (uint32_t)take(f, 4);
	size_t offset = rings[at % 4] + (at / 4) % 256 * 4;

	atomic_store((_Atomic uint32_t *)(void *)(c->memory + offset), value);
}

static void fill(struct fuzz *f)
{
	struct client *c = client_now(f);
	uint8_t content = (uint8_t)take(f, 1), seal = 0;
	uint32_t pages = (uint32_t)take(f, 1), at;
	struct segment *s = NULL;
	uint8_t page[PAGE_BYTES];
	auto_fd sealed = -1;

	seal = (uint8_t)take(f, 1);
	if (c->loan < 0 || segment_adopt_file(c->loan, c->loan_pages, &s) < 0)
		return;
	c->loan = -1;
	for (uint32_t i = 0; i < pages; i++) {
		memset(page, content, sizeof(page));
		page[i % 7] = (uint8_t)i;
		if (segment_append(s, page, 1, &at) < 0)
			break;
	}
	if (seal % 4)
		(void)!segment_seal(s, &sealed);
	segment_free(s);
}

static void events(struct fuzz *f)
{
	struct client *c = client_now(f);
	struct store_event e;

	while (ring_get(&c->events, &e, 1) == 1)
		;
}

static void raw(struct fuzz *f)
{
	struct store_wire_message m = {0};
	size_t len = (size_t)take(f, 1), n;

	m.len = len;
	n = len < sizeof(m.bytes) ? len : sizeof(m.bytes);
	n = n < f->size ? n : f->size;
	memcpy(m.bytes, f->data, n);
	f->data += n;
	f->size -= n;
	if (m.len >= 8)
		say(f, &m,
		    m.call.kind == STORE_WIRE_HELLO || m.call.kind == STORE_WIRE_ADOPT ? FD_ROOM : FD_NONE);
	else
		say(f, &m, FD_NONE);
}

static void step(struct fuzz *f)
{
	switch ((enum step)(take(f, 1) % STEPS)) {
	case STEP_HELLO:
		hello(f, true);
		break;
	case STEP_HELLO_RAW:
		hello(f, false);
		break;
	case STEP_CALL:
		call(f);
		break;
	case STEP_RECORDS:
		records(f);
		break;
	case STEP_REFS:
		refs(f);
		break;
	case STEP_SCRIBBLE:
		scribble(f);
		break;
	case STEP_FILL:
		fill(f);
		break;
	case STEP_EVENTS:
		events(f);
		break;
	case STEP_CLIENT:
		f->now = (f->now + 1) % CLIENTS;
		break;
	case STEP_LEAVE:
		client_now(f)->dead = true;
		break;
	case STEP_RAW:
		raw(f);
		break;
	case STEP_TICK:
		f->time_ns += take(f, 1) * 1000000000u;
		(void)store_tick(f->store, f->time_ns);
		break;
	case STEPS:
		break;
	}
}

/* What the other clients did to this one's store, it can still be used. */
static void check_other(struct fuzz *f)
{
	const struct store_record record = {.key = 12345, .frame = 1};
	struct client *c = client_now(f);

	if (!c->said_hello)
		hello(f, true);
	c = client_now(f);
	if (!c->said_hello)
		return;
	atomic_store(&c->records.counters->read, 0);
	atomic_store(&c->answers.counters->read, 0);
	ring_rewind_writer(&c->records);
	(void)!ring_put(&c->records, &record, 1, NULL);
}

static int small_file(bool sealed)
{
	int fd = memfd_create("small", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	require(fd >= 0 && ftruncate(fd, 4096) == 0);
	require(!sealed || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0);
	return fd;
}

static int sealed_segment(void)
{
	struct segment *s = NULL;
	uint8_t page[PAGE_BYTES] = {1, 2, 3};
	uint32_t at;
	int fd = -1;

	require(segment_new(2, &s) == 0);
	require(segment_append(s, page, 1, &at) == 0 && segment_append(s, page, 1, &at) == 0);
	require(segment_seal(s, &fd) == 0);
	segment_free(s);
	return fd;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz f = {.data = data,
			 .size = size,
			 .small = small_file(true),
			 .loose = small_file(false),
			 .segment = sealed_segment()};
	const struct store_config config = {.segment_limit = 8};
	struct store_stats stat;

	require(store_new(&config, NULL, &f.store) == 0);
	the_store = f.store;
	for (unsigned i = 0; i < CLIENTS; i++)
		client_new(&f.clients[i]);
	while (f.size)
		step(&f);
	check_other(&f);
	for (unsigned i = 0; i < CLIENTS; i++)
		client_end(&f.clients[i]);
	store_stats(f.store, &stat);
	require(stat.clients == 0 && stat.mappings == 0);
	store_free(f.store);
	close(f.small);
	close(f.loose);
	close(f.segment);
	return 0;
}
