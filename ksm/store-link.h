/* SPDX-License-Identifier: Apache-2.0 */
/* How a memory agent reaches a store: in its own process, or in the daemon's; and which segments it holds. */
#ifndef SARDINE_KSM_STORE_LINK_H
#define SARDINE_KSM_STORE_LINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/errmsg.h"
#include "ksm/segment.h"
#include "ksm/store-types.h"

/*
 * Segments have numbers of the link's own, which stay valid when the daemon dies and a new one comes: the link then
 * hands over the segments and references it has, and an event (STORE_EVENT_RESET) asks for all records anew. Without a
 * daemon a store inside the process takes its place until one comes.
 *
 * Context: all calls come from one thread, the agent's, and may wait for the daemon, at most the deadline of a call
 * (2 s), after which the daemon counts as dead. No call fails because the daemon is gone.
 */
struct store_link;

/* What all users of a store come to: each VM's part of what is saved follows from it (docs/stats.md). */
struct store_shares {
	bool known;
	uint64_t mappings; /* of its pages, by all VMs */
	uint64_t saved;	   /* of these, beyond the first of each page */
	uint64_t bytes;	   /* index and records, where they are this process's */
};

struct store_link_ops {
	const char *(*name)(const struct store_link *l); /* for statistics: "local", "sardined" */
	void (*free)(struct store_link *l);
	/* As store_submit(), of any count. */
	int (*submit)(struct store_link *l, const struct store_record *records, size_t count,
		      struct store_answer *answers);
	/* An empty segment of exactly @pages; to be filled with segment_append() and given to offer(). */
	int (*lend)(struct store_link *l, uint32_t pages, struct segment **ret);
	/* Seal a full segment and hand it in. Takes @s in any case. */
	int (*offer)(struct store_link *l, struct segment *s, uint32_t *ret_segment);
	/* A segment, checked and mapped for reading; valid until the next call of view(), rest() or free() (a few views are kept).
	 * -ENOENT: gone. */
	int (*view)(struct store_link *l, uint32_t segment, const struct segment_view **ret);
	/* No view is used any more: unmap them, since their page tables and mappings count. NULL: nothing to do. */
	void (*rest)(struct store_link *l);
	/* Mappings that the VM has more (1) or less (-1). The link holds a descriptor while there are any. */
	int (*refs)(struct store_link *l, uint32_t segment, uint32_t page, uint32_t pages, int delta);
	/* Hand events that have come to @take until it returns false. Never waits. */
	int (*events)(struct store_link *l, bool (*take)(void *ctx, const struct store_event *event),
		      void *ctx);
	/* A descriptor that is readable when events may have come, or -1. */
	int (*poll_fd)(const struct store_link *l);
	/* What the whole store comes to. Never waits. NULL: the link does not tell. */
	void (*shares)(const struct store_link *l, struct store_shares *ret);
};

struct store_link {
	const struct store_link_ops *ops;
};

static inline void store_link_free(struct store_link *l)
{
	if (l)
		l->ops->free(l);
}
DEFINE_CLEANUP(struct store_link, store_link_free)

/* Makes link and recorded bitmap meet: bits of frames whose record holds, kept by the agent through these. */
struct store_link_config {
	uint64_t frames;
	const char *vm_name;
	uint64_t key_mask; /* for the store inside the process; see struct store_config */
};

/**
 * store_link_local_new() - A store inside this process.
 * @ret_recorded: the bitmap of struct store_client_config, zeroed; the agent's to write; lives as long as the link.
 */
int store_link_local_new(const struct store_link_config *config, struct errmsg *err,
			 _Atomic uint64_t **ret_recorded, struct store_link **ret) must_check;

/* The same with a store that others in this process use, too; it must live longer. @store: NULL makes one. */
struct store;
int store_link_shared_new(const struct store_link_config *config, struct store *store, struct errmsg *err,
			  _Atomic uint64_t **ret_recorded, struct store_link **ret) must_check;

#endif
