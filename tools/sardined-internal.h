/* SPDX-License-Identifier: Apache-2.0 */
/* Connections and domains of the daemon; for sardined-server.c and sardined-status.c only. */
#ifndef SARDINE_TOOLS_SARDINED_INTERNAL_H
#define SARDINE_TOOLS_SARDINED_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "base/log-limit.h"
#include "ksm/store-serve.h"
#include "tools/sardined-server.h"
#include "vmm/unix-socket.h"

#define SERVER_JSON_MAX (1u << 20)
#define SERVER_SCHEMA	1

/* Guarded by the server's mutex, but for what never changes: uid, store. */
struct domain {
	struct domain *next;
	uint32_t uid;
	uint32_t users;
	struct store *store;
};

struct connection {
	struct server *server;
	struct connection *next, *prev; /* guarded by the server's mutex */
	int fd;
	pthread_mutex_t turn; /* held from taking an event to having asked for the next */
	bool handed;	       /* the daemon made it and gave it away */
	struct domain *domain; /* since HELLO; changed under the mutex while it is in the list */
	struct store_serve *serve;
};

struct server {
	struct io_loop *loop;
	struct unix_listener listener;
	struct io_source *source, *pause, *tick;
	atomic_bool ticking; /* the timer is armed, or about to be */
	int epoll, stop;
	pthread_t threads[SERVER_THREADS_MAX];
	unsigned thread_count;
	uint64_t segment_limit; /* of each domain */
	uint64_t started_ns;
	_Atomic uint64_t protocol_errors;
	struct log_limit lines;
	pthread_mutex_t mutex;
	struct connection *connections;
	unsigned connection_count;
	uint64_t accepted;
	struct domain *domains;
};

#endif
