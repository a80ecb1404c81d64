/* SPDX-License-Identifier: Apache-2.0 */
/* Clients of a store whose frames hold numbered contents, and what they were told. */
#ifndef SARDINE_TESTS_UNIT_STORE_FIXTURE_H
#define SARDINE_TESTS_UNIT_STORE_FIXTURE_H

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/addr.h"
#include "ksm/segment.h"
#include "ksm/store.h"
#include "tests/unit/test.h"

#define PEER_FRAMES 8192u
#define PEER_EVENTS 65536u

struct peer {
	struct store_client *client;
	_Atomic uint64_t recorded[PEER_FRAMES / 64];
	struct store_event *events;
	size_t count, room; /* of events */
};

static inline int peer_event(void *ctx, const struct store_event *event)
{
	struct peer *p = ctx;

	if (p->count == p->room)
		return -ENOSPC;
	p->events[p->count++] = *event;
	return 0;
}

static inline struct store *store_with(struct store_config config)
{
	struct store *s = NULL;

	assert_int_equal(store_new(&config, NULL, &s), 0);
	return s;
}

static inline void peer_init(struct peer *p, struct store *s)
{
	struct store_client_config config = {
		.frames = PEER_FRAMES, .recorded = p->recorded, .event = peer_event, .ctx = p};

	memset(p, 0, sizeof(*p));
	p->events = calloc(PEER_EVENTS, sizeof(*p->events));
	assert_non_null(p->events);
	p->room = PEER_EVENTS;
	assert_int_equal(store_client_new(s, &config, &p->client), 0);
}

static inline void peer_done(struct peer *p)
{
	store_client_free(TAKE_PTR(p->client));
	free(TAKE_PTR(p->events));
}

/* Content 0 is zero bytes; others below 1,000,000 are data, the rest fill patterns. */
#define FILL 1000000u

static inline void content_write(uint8_t *page, uint64_t content)
{
	memset(page, 0, PAGE_BYTES);
	for (size_t i = 0; content && i < PAGE_BYTES; i += content < FILL ? PAGE_BYTES : 8)
		memcpy(page + i, &content, sizeof(content));
}

static inline uint64_t content_key(uint64_t content)
{
	_Alignas(8) uint8_t page[PAGE_BYTES];

	content_write(page, content);
	return page_store_key(page_identify(page, PAGE_BYTES));
}

static inline void peer_holds(struct peer *p, uint32_t frame, bool holds)
{
	if (holds)
		p->recorded[frame / 64] |= (uint64_t)1 << frame % 64;
	else
		p->recorded[frame / 64] &= ~((uint64_t)1 << frame % 64);
}

static inline struct store_answer peer_submit(struct peer *p, uint32_t frame, uint64_t content)
{
	struct store_record rec = {.key = content_key(content), .frame = frame};
	struct store_answer a = {.kind = STORE_ANSWERS};

	peer_holds(p, frame, true);
	assert_int_equal(store_submit(p->client, &rec, 1, &a), 0);
	return a;
}

/* A segment of these contents that is filled and sealed, but not offered; its loan. */
static inline uint32_t peer_fill(struct peer *p, const uint64_t *contents, uint32_t count)
{
	struct segment *s = NULL;
	uint8_t page[PAGE_BYTES];
	uint32_t loan = 0, at;
	int fd = -1, sealed = -1;

	assert_int_equal(store_lend(p->client, count, &loan, &fd), 0);
	assert_int_equal(segment_adopt_file(fd, count, &s), 0);
	for (uint32_t i = 0; i < count; i++) {
		content_write(page, contents[i]);
		assert_int_equal(segment_append(s, page, 1, &at), 0);
	}
	assert_int_equal(segment_seal(s, &sealed), 0);
	close(sealed);
	segment_free(s);
	return loan;
}

static inline uint32_t peer_donate(struct peer *p, const uint64_t *contents, uint32_t count)
{
	uint32_t segment = 0;

	assert_int_equal(store_offer(p->client, peer_fill(p, contents, count), &segment), 0);
	assert_true(segment > 0);
	return segment;
}

static inline struct store_stats stats_of(struct store *s)
{
	struct store_stats stats;

	store_stats(s, &stats);
	return stats;
}

/* The only event since the last look. */
static inline struct store_event peer_told(struct peer *p)
{
	assert_int_equal(p->count, 1);
	p->count = 0;
	return p->events[0];
}

/* Memory files of segments that this process has open. */
static inline unsigned segment_fds(void)
{
	unsigned n = 0;

	for (int fd = 3; fd < 1024; fd++) {
		char path[64], name[64] = "";

		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		n += readlink(path, name, sizeof(name) - 1) > 0 && strstr(name, "sardine-segment");
	}
	return n;
}

#endif
