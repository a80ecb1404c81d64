/* SPDX-License-Identifier: Apache-2.0 */
/* The daemon's side of one connection. */
#include "ksm/store-serve.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

#include "base/planted.h"

/*
 * Theory of operation
 *
 * Each message is a copy of this process's own; what lies in shared memory is copied out by ring_get() before it is looked
 * at. So whatever is checked here stays as it was checked. The store checks what is left: frames, segments, pages.
 *
 * Events come from calls on other clients, on their threads, while this one's thread works on a call: the ring of events
 * has one writer at a time by a mutex, which is held for a copy of 40 bytes and one send() that does not wait.
 */
struct store_serve {
	const struct store_serve_ops *ops;
	void *ctx;
	struct store *store;
	struct store_client *client;
	uint8_t *room;
	struct store_wire_figures *_Atomic figures; /* in the room, once that is mapped */
	struct store_wire_room layout;
	struct ring records, answers;
	pthread_mutex_t mutex;
	struct ring events; /* guarded by mutex */
	uint32_t pid;
	char name[STORE_WIRE_NAME];
};

int store_serve_new(const struct store_serve_ops *ops, void *ctx, struct store_serve **ret)
{
	struct store_serve *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	s->ops = ops;
	s->ctx = ctx;
	pthread_mutex_init(&s->mutex, NULL);
	*ret = s;
	return 0;
}

void store_serve_free(struct store_serve *s)
{
	if (!s)
		return;
	store_client_free(s->client); /* no event comes after this */
	if (s->store)
		s->ops->domain_put(s->ctx, s->store);
	if (s->room)
		munmap(s->room, s->layout.bytes);
	pthread_mutex_destroy(&s->mutex);
	free(s);
}

const char *store_serve_name(const struct store_serve *s)
{
	return s->name;
}

uint32_t store_serve_pid(const struct store_serve *s)
{
	return s->pid;
}

void store_serve_figures(struct store_serve *s, uint64_t mappings, uint64_t saved)
{
	struct store_wire_figures *f = atomic_load_explicit(&s->figures, memory_order_acquire);

	if (!f)
		return;
	atomic_store_explicit(&f->mappings, mappings, memory_order_relaxed);
	atomic_store_explicit(&f->saved, saved, memory_order_relaxed);
	atomic_store_explicit(&f->known, 1, memory_order_release);
}

static int on_event(void *ctx, const struct store_event *event)
{
	struct store_serve *s = ctx;
	bool bell = false;
	int r;

	pthread_mutex_lock(&s->mutex);
	r = ring_put(&s->events, event, 1, &bell);
	pthread_mutex_unlock(&s->mutex);
	if (bell)
		s->ops->bell(s->ctx);
	/* A client that breaks its own ring hears nothing more. */
	return r < 0 ? -ENOSPC : 0;
}

/* The name goes into logs and JSON. */
static bool name_ok(const char name[STORE_WIRE_NAME])
{
	size_t len = strnlen(name, STORE_WIRE_NAME);

	for (size_t i = 0; i < len; i++)
		if (name[i] <= ' ' || name[i] > '~')
			return false;
	return len > 0 && len < STORE_WIRE_NAME;
}

static int map_room(struct store_serve *s, int fd)
{
	int r = store_wire_room_check(fd, &s->layout);
	void *at;

	if (r < 0)
		return r;
	at = mmap(NULL, s->layout.bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
	if (at == MAP_FAILED)
		return -errno;
	(void)madvise(at, s->layout.bytes, MADV_DONTDUMP);
	s->room = at;
	atomic_store_explicit(&s->figures, (void *)(s->room + s->layout.figures_at), memory_order_release);
	ring_init(&s->records, s->room + s->layout.records_at, sizeof(struct store_record), STORE_WIRE_BATCH);
	ring_init(&s->answers, s->room + s->layout.answers_at, sizeof(struct store_answer), STORE_WIRE_BATCH);
	ring_init(&s->events, s->room + s->layout.events_at, sizeof(struct store_event), STORE_WIRE_EVENTS);
	return 0;
}

/* On failure nothing is undone: the connection says no second HELLO and is freed. */
static int hello(struct store_serve *s, const struct store_wire_message *m)
{
	const struct store_wire_hello *h = &m->hello;
	struct store_client_config config = {.frames = h->frames, .event = on_event, .ctx = s};
	int r;

	if (h->version_min > STORE_WIRE_VERSION_MAX || h->version_max < STORE_WIRE_VERSION_MIN)
		return -EPROTONOSUPPORT;
	if (h->frames == 0 || h->frames > STORE_WIRE_FRAMES_MAX || h->reserved || !name_ok(h->vm_name))
		return -EINVAL;
	if (!m->credited)
		return -EACCES;
	s->layout = store_wire_room(h->frames);
	r = map_room(s, m->fds[0]);
	if (r == 0)
		r = s->ops->domain_get(s->ctx, m->uid, &s->store);
	if (r < 0)
		return r;
	config.recorded = (const _Atomic uint64_t *)(const void *)(s->room + s->layout.bitmap_at);
	r = store_client_new(s->store, &config, &s->client);
	if (r < 0)
		return r;
	memcpy(s->name, h->vm_name, STORE_WIRE_NAME);
	s->pid = m->pid;
	return 0;
}

/* Take exactly so many records of 16 bytes, or the peer broke the protocol. @ret is the caller's to free. */
static int take_records(struct store_serve *s, uint32_t count, void **ret)
{
	auto_free void *records = NULL;

	if (count == 0 || count > STORE_WIRE_BATCH)
		return -EPROTO;
	records = malloc((PLANTED("store_serve") ? 1 : count) * sizeof(struct store_record));
	if (!records)
		return -ENOMEM;
	if (ring_get(&s->records, records, count) != (int)count)
		return -EPROTO;
	ring_rewind_reader(&s->records);
	*ret = TAKE_PTR(records);
	return 0;
}

static int submit(struct store_serve *s, uint32_t count, int *ret_result)
{
	auto_free struct store_answer *answers = NULL;
	auto_free void *records = NULL;
	int r = take_records(s, count, &records);

	if (r < 0)
		return r;
	answers = malloc(count * sizeof(*answers));
	*ret_result = answers ? store_submit(s->client, records, count, answers) : -ENOMEM;
	if (*ret_result < 0)
		return 0;
	ring_rewind_writer(&s->answers);
	return ring_put(&s->answers, answers, count, NULL) < 0 ? -EPROTO : 0;
}

static int refs(struct store_serve *s, uint32_t count, int *ret_result, uint32_t *ret_done)
{
	auto_free void *records = NULL;
	const struct store_wire_ref *refs;
	uint32_t done;
	int r = take_records(s, count, &records);

	if (r < 0)
		return r;
	refs = records;
	for (done = 0; done < count && *ret_result == 0; done++) {
		const struct store_wire_ref *ref = &refs[done];

		if (ref->delta != 1 && ref->delta != -1)
			*ret_result = -EINVAL;
		else
			*ret_result = store_refs(s->client, ref->segment, ref->page, ref->pages, ref->delta);
	}
	*ret_done = *ret_result < 0 ? done - 1 : done;
	return 0;
}

/* Whether a call is as long as it should be, and comes with as many descriptors. */
static bool well_formed(const struct store_wire_message *m)
{
	size_t len = m->call.kind == STORE_WIRE_HELLO ? sizeof(m->hello) : sizeof(m->call);
	size_t fds = m->call.kind == STORE_WIRE_HELLO || m->call.kind == STORE_WIRE_ADOPT;

	return m->len == len && m->fd_count == fds && !m->fds_lost;
}

/* Calls of a client that said HELLO. Return: 0 when there is an answer to send. */
static int client_call(struct store_serve *s, const struct store_wire_message *m,
		       struct store_serve_reply *reply)
{
	const struct store_wire_call *call = &m->call;
	struct store_wire_answer *a = &reply->answer;

	switch (call->kind) {
	case STORE_WIRE_SUBMIT:
		return submit(s, call->count, &a->result);
	case STORE_WIRE_LEND:
		a->result = store_lend(s->client, call->count, &a->value, &reply->fd);
		return 0;
	case STORE_WIRE_OFFER:
		a->result = store_offer(s->client, call->count, &a->value);
		return 0;
	case STORE_WIRE_ADOPT:
		a->result = store_adopt(s->client, m->fds[0], &a->value);
		return 0;
	case STORE_WIRE_FETCH:
		a->result = store_fetch(s->client, call->count, &reply->fd);
		return 0;
	case STORE_WIRE_REFS:
		return refs(s, call->count, &a->result, &a->value);
	default:
		return -EPROTO; /* a second HELLO */
	}
}

int store_serve_message(struct store_serve *s, const struct store_wire_message *m,
			struct store_serve_reply *ret)
{
	struct store_serve_reply reply = {.answer = {.kind = STORE_WIRE_ANSWER}, .fd = -1};
	uint32_t kind = m->call.kind;
	int r = 0;

	if (m->len < offsetof(struct store_wire_call, count))
		return -EPROTO;
	reply.answer.serial = m->call.serial;
	if (kind < STORE_WIRE_HELLO || kind > STORE_WIRE_STATS) {
		reply.answer.result = -ENOSYS;
	} else if (!well_formed(m) || (kind != STORE_WIRE_HELLO && m->call.reserved)) {
		return -EPROTO;
	} else if (kind == STORE_WIRE_BYE) {
		return -ECONNRESET;
	} else if (kind == STORE_WIRE_STATS) {
		reply.answer.result =
			s->store ? -EPERM : s->ops->stats(s->ctx, &reply.fd, &reply.answer.value);
	} else if (kind == STORE_WIRE_HELLO && !s->room) {
		reply.answer.result = hello(s, m);
		reply.answer.version = STORE_WIRE_VERSION_MAX < m->hello.version_max ? STORE_WIRE_VERSION_MAX
										     : m->hello.version_max;
	} else if (!s->client) {
		return -EPROTO;
	} else {
		r = client_call(s, m, &reply);
	}
	if (r < 0) {
		close_fd_p(&reply.fd);
		return r;
	}
	*ret = reply;
	return 0;
}
