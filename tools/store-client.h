/* SPDX-License-Identifier: Apache-2.0 */
/* Where the daemon's socket is, and what it serves. */
#ifndef SARDINE_TOOLS_STORE_CLIENT_H
#define SARDINE_TOOLS_STORE_CLIENT_H

#include <jansson.h>

#include "base/cleanup.h"
#include "base/errmsg.h"

/**
 * store_socket_path() - The socket of the daemon: sardined.sock in the runtime directory (rundir_where()).
 *
 * Return: allocated, or NULL without memory (or with a SARDINE_RUNTIME_DIR that is no absolute path).
 */
char *store_socket_path(void);

/**
 * store_daemon_status() - Ask the daemon what it serves.
 * @path: its socket.
 * @err: one line on failure.
 * @ret: a new reference; docs/stats.md has the keys.
 *
 * Return: 0; -ENOENT when no daemon runs there; or an errno.
 */
int store_daemon_status(const char *path, struct errmsg *err, json_t **ret) must_check;

/* What the daemon of this runtime directory serves, summed over domains: "host"."store" of `sardine stats`. JSON null when none answers; NULL
 * without memory. */
json_t *store_host_json(void);

/* Let this process have as many descriptors as it may: a store has one per segment, and so has a VM that maps it. */
void descriptors_raise(void);

#endif
