/* SPDX-License-Identifier: Apache-2.0 */
/* VMs for tests of the daemon: what an agent does with its link, without a guest. */
#ifndef SARDINE_TESTS_UNIT_STORE_VM_H
#define SARDINE_TESTS_UNIT_STORE_VM_H

#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include "base/addr.h"
#include "base/clock.h"
#include "ksm/page-hash.h"
#include "ksm/store-remote.h"
#include "tests/unit/test.h"

#define VM_FRAMES     4096u
#define VM_EVENTS     1024u
#define VM_DEADLINE_S 20u

struct store_vm {
	struct store_link *link;
	_Atomic uint64_t *recorded;
	struct store_event events[VM_EVENTS];
	unsigned event_count;
};

/* The bytes of content @n: data, and no fill pattern. */
static inline void store_vm_page(uint64_t n, uint64_t *page)
{
	for (unsigned i = 0; i < PAGE_BYTES / 8; i++)
		page[i] = (n + 1) * 0x9e3779b97f4a7c15u ^ i;
}

static inline uint64_t store_vm_key(uint64_t n)
{
	uint64_t page[PAGE_BYTES / 8];

	store_vm_page(n, page);
	return page_store_key(page_identify(page, PAGE_BYTES));
}

static inline void store_vm_start(struct store_vm *vm, const char *name, const char *path)
{
	const struct store_link_config config = {.frames = VM_FRAMES, .vm_name = name};
	struct errmsg err = {0};

	vm->event_count = 0;
	assert_int_equal(store_link_remote_new(&config, &path, path ? 1 : 0, &err, &vm->recorded, &vm->link),
			 0);
}

static inline void store_vm_end(struct store_vm *vm)
{
	store_link_free(vm->link);
	vm->link = NULL;
}

/* One frame has content @n. */
static inline struct store_answer store_vm_submit(struct store_vm *vm, uint32_t frame, uint64_t n)
{
	const struct store_record record = {.key = store_vm_key(n), .frame = frame};
	struct store_answer answer = {.kind = STORE_ANSWERS};

	atomic_fetch_or(&vm->recorded[frame / 64], 1ull << (frame % 64));
	assert_int_equal(vm->link->ops->submit(vm->link, &record, 1, &answer), 0);
	return answer;
}

/* A segment with contents first, first + 1..; its number, or an error. */
static inline int store_vm_donate(struct store_vm *vm, uint64_t first, uint32_t pages, uint32_t *ret_segment)
{
	struct segment *s = NULL;
	int r = vm->link->ops->lend(vm->link, pages, &s);

	for (uint32_t i = 0; r == 0 && i < pages; i++) {
		uint64_t page[PAGE_BYTES / 8];
		uint32_t at;

		store_vm_page(first + i, page);
		r = segment_append(s, page, 1, &at);
	}
	if (r < 0) {
		segment_free(s);
		return r;
	}
	return vm->link->ops->offer(vm->link, s, ret_segment);
}

static inline bool store_vm_take(void *ctx, const struct store_event *event)
{
	struct store_vm *vm = ctx;

	assert_true(vm->event_count < VM_EVENTS);
	vm->events[vm->event_count++] = *event;
	return true;
}

static inline const struct store_event *store_vm_find_event(const struct store_vm *vm,
							    enum store_event_kind kind)
{
	for (unsigned i = 0; i < vm->event_count; i++)
		if (vm->events[i].kind == kind)
			return &vm->events[i];
	return NULL;
}

/* Wait on the link's descriptor until an event of a kind has come; it stays in the list. */
static inline const struct store_event *store_vm_wait(struct store_vm *vm, enum store_event_kind kind)
{
	uint64_t deadline = clock_now_ns() + VM_DEADLINE_S * 1000000000ull;
	const struct store_event *found;

	while (!(found = store_vm_find_event(vm, kind))) {
		struct pollfd p = {.fd = vm->link->ops->poll_fd(vm->link), .events = POLLIN};

		assert_true(clock_now_ns() < deadline);
		assert_true(poll(&p, 1, 100) >= 0);
		assert_int_equal(vm->link->ops->events(vm->link, store_vm_take, vm), 0);
	}
	return found;
}

/* Wait until the link's store is of a kind; calls look for a daemon once a second. */
static inline void store_vm_wait_name(struct store_vm *vm, const char *name)
{
	uint64_t deadline = clock_now_ns() + VM_DEADLINE_S * 1000000000ull;

	while (assert_int_equal(vm->link->ops->events(vm->link, store_vm_take, vm), 0),
	       strcmp(vm->link->ops->name(vm->link), name)) {
		struct pollfd p = {.fd = vm->link->ops->poll_fd(vm->link), .events = POLLIN};

		assert_true(clock_now_ns() < deadline);
		assert_true(poll(&p, 1, 50) >= 0);
	}
}

/* The content of a page of a segment is @n. */
static inline void store_vm_assert_page(struct store_vm *vm, uint32_t segment, uint32_t page, uint64_t n)
{
	const struct segment_view *view = NULL;
	uint64_t want[PAGE_BYTES / 8];

	store_vm_page(n, want);
	assert_int_equal(vm->link->ops->view(vm->link, segment, &view), 0);
	assert_true(page < view->pages);
	assert_memory_equal(view->bytes + page * PAGE_BYTES, want, PAGE_BYTES);
}

#endif
