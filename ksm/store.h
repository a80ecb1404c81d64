/* SPDX-License-Identifier: Apache-2.0 */
/* The page store of one sharing domain: which contents exist, in which segments they lie, and who uses them. */
#ifndef SARDINE_KSM_STORE_H
#define SARDINE_KSM_STORE_H

#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/errmsg.h"
#include "base/syscalls.h"
#include "ksm/store-types.h"

/*
 * A store believes nobody: keys of pages in segments are computed by itself from sealed bytes; keys of records, frames
 * and references are a client's word and cannot harm anybody but that client. It never sees guest memory.
 *
 * Threads: all calls are safe on any thread; those on one client come one at a time. Lookups wait for nobody.
 * Events are delivered by calls on any client (its own included) and by store_tick(), on the caller's thread, one at a
 * time; a handler may not call the store.
 */
struct store;
struct store_client;

struct store_config {
	uint64_t key_mask; /* 0, or the bits of keys to keep: tests make hashes collide with it */
	uint64_t
		evacuate_after_ns; /* how long a segment is mostly dead before it is moved; 0: the default, 2 s */
	uint64_t segment_limit; /* segments at most; 0: no limit but the descriptors of the process */
};

int store_new(const struct store_config *config, struct errmsg *err, struct store **ret) must_check;
/* All clients must be gone. NULL is allowed. */
void store_free(struct store *s);
DEFINE_CLEANUP(struct store, store_free)

struct store_client_config {
	uint64_t frames; /* of the VM, at most STORE_FRAMES_MAX */
	/* One bit per frame, or NULL: whether the frame's record still holds. The client's to change at any time,
	 * the store's to read at any time; not trusted. Lives as long as the client. */
	const _Atomic uint64_t *recorded;
	/* Takes one event; may not wait, nor call the store. -ENOSPC when it has no room: it is said again by later
	 * calls and ticks; FOUND is lost when the segment is gone by then. */
	int (*event)(void *ctx, const struct store_event *event);
	void *ctx;
};

int store_client_new(struct store *s, const struct store_client_config *config,
		     struct store_client **ret) must_check;
/* Takes back its references, loans and promises to donate. NULL is allowed. */
void store_client_free(struct store_client *c);
DEFINE_CLEANUP(struct store_client, store_client_free)

/**
 * store_submit() - Say what frames hold, and learn who else has it.
 * @records: of any order; a frame that was recorded before has the new content now.
 * @count: at most STORE_BATCH_MAX.
 * @answers: one per record.
 *
 * The bits of the frames in the bitmap of valid records are to be set before the call: a twin whose bit is clear is none.
 *
 * A promise to donate (STORE_WANTED) ends with the second submission after it (the third after an event), by which the
 * page must have been offered, or 10 s after it. A submission of exactly STORE_BATCH_MAX records is continued by the
 * next one, which counts with it. Who has promised hears no FOUND for the frame promised when it offers the page itself:
 * it knows in which order it filled the segment. All other frames that wait for the content, its own included, do.
 *
 * Return: 0, -EINVAL (count, a frame beyond the VM, a reserved field), -ENOMEM.
 */
int store_submit(struct store_client *c, const struct store_record *records, size_t count,
		 struct store_answer *answers) must_check;

/**
 * store_lend() - An empty segment to be filled and sealed by a donor.
 * @pages: exactly, 1 to SEGMENT_PAGES.
 * @ret_loan: its number, for store_offer().
 * @ret_fd: a descriptor; the caller closes it. Its pages are charged to the caller of this function already.
 *
 * Return: 0, -EINVAL, -EMFILE with more than 16 loans, -ENOSPC at the limit of segments, -ENOMEM, or another errno.
 */
int store_lend(struct store_client *c, uint32_t pages, uint32_t *ret_loan, int *ret_fd) must_check;

/**
 * store_offer() - The donor has filled and sealed a loan.
 * @ret_segment: its number from now on.
 *
 * The loan ends in any case. Keys are computed, the contents are found from now on, and those who wait hear of it.
 *
 * Return: 0, -ENOENT, -EPERM when it is not sealed, or another errno.
 */
int store_offer(struct store_client *c, uint32_t loan, uint32_t *ret_segment) must_check;

/**
 * store_adopt() - Take over a segment that a VM holds from an earlier store.
 * @fd: duplicated; checked as segment_check() does.
 * @ret_segment: its number; the same file, whoever brings it, gets the same one.
 */
int store_adopt(struct store_client *c, int fd, uint32_t *ret_segment) must_check;

/* A descriptor of a segment, to be closed by the caller. Return: 0, -ENOENT, or the errno of dup. */
int store_fetch(struct store_client *c, uint32_t segment, int *ret_fd) must_check;

/**
 * store_refs() - Mappings of pages of a segment that a VM has more (1) or less (-1).
 *
 * To be told before pages are mapped, and after they are unmapped: a segment without references is let go.
 *
 * Return: 0, -ENOENT, -EINVAL (beyond the segment, more taken away than were there), -ENOMEM.
 */
int store_refs(struct store_client *c, uint32_t segment, uint32_t page, uint32_t pages, int delta) must_check;

/* Due work: dead segments are let go, mostly dead ones moved. Returns when to call again, in ns of clock_now_ns(). */
uint64_t store_tick(struct store *s, uint64_t now_ns);

struct store_stats {
	uint64_t clients;
	uint64_t segments, segment_pages;	    /* held */
	uint64_t dead_pages;			    /* of these, mapped by no VM */
	uint64_t mappings;			    /* references */
	uint64_t pages_saved;			    /* references beyond the first, of each page */
	uint64_t records, index_bytes, table_bytes; /* table: of records */
	uint64_t submitted, found, wanted, waits, promises_broken;
	uint64_t moves_pages, refused; /* refused: hostile or broken calls */
	uint64_t records_evicted, events_lost;
};
void store_stats(struct store *s, struct store_stats *ret);

/* Besides segment_syscalls; of store_new(), too. */
extern const struct syscall_list store_syscalls;

#endif
