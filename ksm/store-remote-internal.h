/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the link to the daemon know of one another. */
#ifndef SARDINE_KSM_STORE_REMOTE_INTERNAL_H
#define SARDINE_KSM_STORE_REMOTE_INTERNAL_H

#include <stdatomic.h>

#include "ksm/held-segments.h"
#include "ksm/store-backend.h"
#include "ksm/store-remote.h"

#define RETRY_NS     1000000000ull
#define RETRY_MAX_NS 60000000000ull
#define VIEWS	     4u
#define REFS	     512u /* that wait to be sent */
#define LOANS	     16u  /* as many as a store lends */

struct loan {
	struct segment *segment; /* NULL: none */
	uint32_t loan;
	uint64_t generation; /* of the backend that lent it */
};

struct cached_view {
	uint32_t own;
	uint64_t used; /* 0: none is here */
	struct segment_view view;
};

struct remote {
	struct store_link link;
	struct store_link_config config;
	char **paths;
	size_t path_count;
	_Atomic uint64_t *recorded;
	size_t recorded_bytes;
	int epoll; /* poll_fd() */
	int wake;  /* an eventfd in it: attached, or events are left */
	_Atomic int attached;
	int connected_fd; /* connected before anything was asked; -1 */
	struct store_backend *backend;
	bool is_daemon;
	uint64_t generation; /* of the backend */
	uint64_t retry_at_ns, retry_ns;
	bool used;	/* records were submitted to some backend */
	bool reset_due; /* the agent is to hear that they are forgotten */
	struct held_segments held;
	struct loan loans[LOANS];
	struct cached_view views[VIEWS];
	uint64_t view_clock;
	uint32_t ref_count;
	struct store_wire_ref refs[REFS];
	struct store_link_stats stats;
};

static inline struct remote *remote_of(struct store_link *l)
{
	return container_of(l, struct remote, link);
}

/* The descriptor of events is readable until they are looked for. */
void remote_set_awake(struct remote *l);
void remote_forget_views(struct remote *l);
/* The backend said -ENOTCONN. */
void remote_drop_backend(struct remote *l);
/* A connected socket of one of the paths, or -1. */
int remote_connect_any(struct remote *l);
/* See that there is a backend, and a daemon's if there is one. Return: 0 or an errno of store_own_new(). */
int remote_ready(struct remote *l) must_check;

#endif
