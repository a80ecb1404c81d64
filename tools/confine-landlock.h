/* SPDX-License-Identifier: Apache-2.0 */
/* Landlock: what paths, sockets and signals cannot do any more, whoever started the VM. */
#ifndef SARDINE_TOOLS_CONFINE_LANDLOCK_H
#define SARDINE_TOOLS_CONFINE_LANDLOCK_H

#include <stddef.h>

#include "base/cleanup.h"
#include "base/errmsg.h"

/**
 * confine_landlock() - Let this thread and those that it starts open no file by name, as far as the kernel can.
 * @folders: descriptors of folders in which files may still be created and written; negative ones are passed over.
 * @err: one line on failure.
 * @ret_abi: the version of Landlock that is in force; 0: this kernel has none, and nothing changes.
 *
 * What is open stays open, with all rights that it had. From Linux 6.7 on no TCP port can be bound or connected to, from 6.12 on no
 * abstract Unix socket of another process can be reached, and no other process be sent a signal.
 *
 * Context: no_new_privs is set, and this is the only thread.
 * Return: 0 or an errno.
 */
int confine_landlock(const int *folders, size_t count, struct errmsg *err, int *ret_abi) must_check;

/* The version of Landlock that the kernel has; 0: none. */
int confine_landlock_abi(void);

#endif
