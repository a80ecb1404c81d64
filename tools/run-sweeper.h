/* SPDX-License-Identifier: Apache-2.0 */
/* The process that removes a confined VM's files in the end. */
#ifndef SARDINE_TOOLS_RUN_SWEEPER_H
#define SARDINE_TOOLS_RUN_SWEEPER_H

#include "base/errmsg.h"
#include "base/syscalls.h"
#include "vmm/config.h"
#include "vmm/rundir.h"

struct run_sweeper {
	int fd; /* -1: there is none */
};

#define RUN_SWEEPER_NONE ((struct run_sweeper){.fd = -1})

/**
 * run_sweeper_start() - Split the sweeper off this process.
 * @config: its console's and its vsock's sockets are what is removed.
 * @dir, @name: the VM's name, whose files are removed and whose lock the sweeper holds, too, from here on: the name is in use until its
 *	files are gone, however the VM dies.
 * @err: one line on failure.
 * @ret: ended with run_sweeper_end().
 *
 * Context: root, before the process has become another user; before other threads exist, and before there is memory worth a copy.
 * Return: 0 or an errno.
 */
int run_sweeper_start(const struct vm_config *config, const struct rundir *dir, struct rundir_name *name,
		      struct errmsg *err, struct run_sweeper *ret) must_check;

/* The VM's files are there, and it will be out of its reach to remove them: from now on that is the sweeper's to do. */
void run_sweeper_arm(struct run_sweeper *s);

/* Let it work if it was armed, and wait until it is done, for a second at most. */
void run_sweeper_end(struct run_sweeper *s);

extern const struct syscall_list run_sweeper_syscalls;

#endif
