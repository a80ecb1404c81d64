/* SPDX-License-Identifier: Apache-2.0 */
/* A link to the daemon's store, which outlives daemons. */
#ifndef SARDINE_KSM_STORE_REMOTE_H
#define SARDINE_KSM_STORE_REMOTE_H

#include "base/syscalls.h"
#include "ksm/store-link.h"

/**
 * store_link_remote_new() - A link that looks for a daemon.
 * @config: copied.
 * @paths: sockets where a daemon may listen, the likeliest first; copied. With none, daemons come by store_link_remote_attach() only.
 * @path_count: how many.
 * @ret_recorded: as for store_link_local_new(). Its bits stay when the store changes.
 *
 * It connects here, if a daemon listens: what confines the process may come after that. HELLO is said by the first call,
 * so that the VM is the domain's of the user that it has become. Later it tries again, at most once a second, with its calls; after a daemon
 * that connects but does not answer, ever less often, down to once a minute.
 *
 * Context: as struct store_link; events() waits for a new daemon, too, when one has come.
 * Return: 0, -EINVAL (no frames, or above STORE_WIRE_FRAMES_MAX), or another errno.
 */
int store_link_remote_new(const struct store_link_config *config, const char *const *paths, size_t path_count,
			  struct errmsg *err, _Atomic uint64_t **ret_recorded,
			  struct store_link **ret) must_check;

/**
 * store_link_remote_attach() - A connected socket from a daemon; for VMs that no path leads out of.
 * @link: made by store_link_remote_new().
 * @fd: not trusted; taken in any case. The next call on the link looks at it; it is closed when there is a daemon already.
 *
 * Context: any thread; never waits.
 */
void store_link_remote_attach(struct store_link *link, int fd);

/* It connects by itself no more: sockets come by store_link_remote_attach(). Context: before the first call on the link. */
void store_link_remote_stay(struct store_link *link);

struct store_link_stats {
	bool daemon;		   /* connected */
	uint64_t connected, lost;  /* daemons, ever */
	uint64_t held, references; /* segments with references, and these */
	uint64_t refused;	   /* references and segments that the store would not take */
	uint64_t bytes;		   /* of memory for numbers and references */
};
/* Context: as the other calls on the link. */
void store_link_remote_stats(const struct store_link *link, struct store_link_stats *ret);

/* Of the thread that makes the calls (of a link that stays), and of the one that attaches; of the one that frees the link. */
extern const struct syscall_list store_link_remote_syscalls;
extern const struct syscall_list store_link_free_syscalls;

#endif
