/* SPDX-License-Identifier: Apache-2.0 */
/* A store as simple as can be, with links of several agents; says whatever a test wants it to. */
#ifndef SARDINE_TESTS_UNIT_FAKE_LINK_H
#define SARDINE_TESTS_UNIT_FAKE_LINK_H

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "ksm/page-hash.h"
#include "ksm/store-link.h"
#include "tests/unit/test.h"

#define FAKE_KEYS     131072u
#define FAKE_SEGMENTS 1024u
#define FAKE_EVENTS   65536u

struct fake_key {
	uint64_t key; /* 0: none */
	struct fake_link *first;
	uint32_t frame;	 /* of the first who said so, */
	uint32_t second; /* of another; UINT32_MAX: nobody */
	struct fake_link *second_link;
	uint32_t segment, page, run;
	bool have, wanted;
};

struct fake_store {
	pthread_mutex_t mutex;
	uint64_t key_mask;
	struct fake_key *keys;
	struct segment_view views[FAKE_SEGMENTS];
	int64_t refs[FAKE_SEGMENTS][SEGMENT_PAGES];
	uint32_t segments;
	uint64_t submitted, offered_pages, calls;
};

struct fake_link {
	struct store_link base;
	struct fake_store *store;
	_Atomic uint64_t *recorded;
	struct store_event events[FAKE_EVENTS];
	size_t event_count;
	int event_fd;
};

static inline struct fake_link *fake_of(const struct store_link *l)
{
	return container_of((struct store_link *)(uintptr_t)l, struct fake_link, base);
}

static inline uint64_t fake_masked(const struct fake_store *s, uint64_t key)
{
	return s->key_mask ? key & s->key_mask : key;
}

static inline struct fake_key *fake_key_of(struct fake_store *s, uint64_t key)
{
	size_t i = (size_t)(key * 0x9e3779b97f4a7c15u >> 40) % FAKE_KEYS;

	while (s->keys[i].key && s->keys[i].key != key + 1)
		i = (i + 1) % FAKE_KEYS;
	if (!s->keys[i].key)
		s->keys[i] = (struct fake_key){.key = key + 1, .second = UINT32_MAX};
	return &s->keys[i];
}

static inline void fake_event(struct fake_link *to, struct store_event e)
{
	assert_true(to->event_count < FAKE_EVENTS);
	to->events[to->event_count++] = e;
	(void)!write(to->event_fd, &(uint64_t){1}, 8);
}

static inline const char *fake_name(const struct store_link *l)
{
	(void)l;
	return "fake";
}

static inline void fake_free(struct store_link *l)
{
	struct fake_link *f = fake_of(l);

	close(f->event_fd);
	free(f->recorded);
	free(f);
}

static inline int fake_submit(struct store_link *l, const struct store_record *records, size_t count,
			      struct store_answer *answers)
{
	struct fake_link *f = fake_of(l);
	struct fake_store *s = f->store;

	pthread_mutex_lock(&s->mutex);
	s->submitted += count;
	for (size_t i = 0; i < count; i++) {
		struct fake_key *k = fake_key_of(s, fake_masked(s, records[i].key));

		answers[i] = (struct store_answer){.kind = STORE_UNIQUE};
		if (k->have) {
			answers[i] = (struct store_answer){STORE_FOUND, k->segment, k->page, k->run};
		} else if (!k->first || (k->first == f && k->frame == records[i].frame)) {
			k->first = f;
			k->frame = records[i].frame;
		} else if (k->wanted) {
			answers[i].kind = STORE_WAIT;
		} else {
			answers[i].kind = STORE_WANTED;
			k->wanted = true;
			k->second_link = f;
			k->second = records[i].frame;
		}
	}
	pthread_mutex_unlock(&s->mutex);
	return 0;
}

static inline int fake_lend(struct store_link *l, uint32_t pages, struct segment **ret)
{
	(void)l;
	return segment_new(pages, ret);
}

static inline int fake_offer(struct store_link *l, struct segment *seg, uint32_t *ret_segment)
{
	cleanup(segment_free_p) struct segment *own = seg;
	struct fake_store *s = fake_of(l)->store;
	struct segment_view *v;
	auto_fd fd = -1;
	int r = segment_seal(own, &fd);

	if (r < 0)
		return r;
	pthread_mutex_lock(&s->mutex);
	assert_true(s->segments < FAKE_SEGMENTS);
	v = &s->views[s->segments];
	r = segment_view_init(fd, v, NULL);
	for (uint32_t i = 0; r == 0 && i < v->pages; i++) {
		struct page_id id = page_identify(v->bytes + i * PAGE_BYTES, PAGE_BYTES);
		struct fake_key *k = fake_key_of(s, fake_masked(s, page_store_key(id)));
		uint32_t run = 1;

		while (id.kind == PAGE_FILL && i + run < v->pages &&
		       !memcmp(v->bytes + i * PAGE_BYTES, v->bytes + (i + run) * PAGE_BYTES, PAGE_BYTES))
			run++;
		s->offered_pages++;
		if (k->have && k->run >= run)
			continue;
		k->have = true;
		k->segment = s->segments;
		k->page = i;
		k->run = run;
		if (k->first)
			fake_event(k->first, (struct store_event){.kind = STORE_EVENT_FOUND,
								  .frame = k->frame,
								  .key = k->key - 1,
								  .segment = k->segment,
								  .page = i,
								  .run = run});
	}
	*ret_segment = s->segments++;
	pthread_mutex_unlock(&s->mutex);
	return r;
}

static inline int fake_view(struct store_link *l, uint32_t segment, const struct segment_view **ret)
{
	struct fake_store *s = fake_of(l)->store;

	if (segment >= s->segments)
		return -ENOENT;
	*ret = &s->views[segment];
	return 0;
}

static inline int fake_refs(struct store_link *l, uint32_t segment, uint32_t page, uint32_t pages, int delta)
{
	struct fake_store *s = fake_of(l)->store;

	pthread_mutex_lock(&s->mutex);
	for (uint32_t i = 0; i < pages; i++) {
		s->refs[segment][page + i] += delta;
		assert_true(s->refs[segment][page + i] >= 0);
	}
	pthread_mutex_unlock(&s->mutex);
	return 0;
}

static inline int fake_events(struct store_link *l, bool (*take)(void *ctx, const struct store_event *event),
			      void *ctx)
{
	struct fake_link *f = fake_of(l);
	uint64_t count;
	size_t n = 0;

	(void)!read(f->event_fd, &count, sizeof(count));
	pthread_mutex_lock(&f->store->mutex);
	while (n < f->event_count && take(ctx, &f->events[n]))
		n++;
	memmove(f->events, f->events + n, (f->event_count - n) * sizeof(*f->events));
	f->event_count -= n;
	pthread_mutex_unlock(&f->store->mutex);
	return 0;
}

static inline int fake_poll_fd(const struct store_link *l)
{
	return fake_of(l)->event_fd;
}

static const struct store_link_ops fake_ops = {
	.name = fake_name,
	.free = fake_free,
	.submit = fake_submit,
	.lend = fake_lend,
	.offer = fake_offer,
	.view = fake_view,
	.refs = fake_refs,
	.events = fake_events,
	.poll_fd = fake_poll_fd,
};

static inline struct fake_store *fake_store_new(uint64_t key_mask)
{
	struct fake_store *s = calloc(1, sizeof(*s));

	assert_non_null(s);
	s->keys = calloc(FAKE_KEYS, sizeof(*s->keys));
	assert_non_null(s->keys);
	s->key_mask = key_mask;
	pthread_mutex_init(&s->mutex, NULL);
	return s;
}

static inline void fake_store_free(struct fake_store *s)
{
	for (uint32_t i = 0; i < s->segments; i++)
		segment_view_done(&s->views[i]);
	free(s->keys);
	free(s);
}

static inline struct fake_link *fake_link_new(struct fake_store *s, uint64_t frames)
{
	struct fake_link *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	f->base.ops = &fake_ops;
	f->store = s;
	f->recorded = calloc(frames / 64 + 8, sizeof(*f->recorded));
	f->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	assert_true(f->recorded && f->event_fd >= 0);
	return f;
}

static inline int64_t fake_refs_all(const struct fake_store *s)
{
	int64_t n = 0;

	for (uint32_t i = 0; i < s->segments; i++)
		for (uint32_t k = 0; k < SEGMENT_PAGES; k++)
			n += s->refs[i][k];
	return n;
}

#endif
