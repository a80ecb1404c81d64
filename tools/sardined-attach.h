/* SPDX-License-Identifier: Apache-2.0 */
/* Hands sockets to VMs that run already: confined ones cannot connect by themselves. */
#ifndef SARDINE_TOOLS_SARDINED_ATTACH_H
#define SARDINE_TOOLS_SARDINED_ATTACH_H

#include "tools/sardined-server.h"

struct attacher;

/**
 * attacher_new() - Go through the runtime directory, on a thread, and give each VM a socket.
 * @server: outlives it.
 *
 * VMs that do not answer (they are about to start) are asked again, three times within some seconds.
 *
 * Return: 0 or an errno.
 */
int attacher_new(struct server *server, struct attacher **ret) must_check;
/* Does not wait: a thread that waits for a VM ends when it hears of it, and touches no server any more. NULL is allowed. */
void attacher_free(struct attacher *a);

#endif
