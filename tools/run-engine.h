/* SPDX-License-Identifier: Apache-2.0 */
/* Who shares a VM's pages: its memory agent and the way to the store. */
#ifndef SARDINE_TOOLS_RUN_ENGINE_H
#define SARDINE_TOOLS_RUN_ENGINE_H

#include "base/errmsg.h"
#include "ksm/store-link.h"
#include "vmm/vm.h"

/**
 * run_engine_new() - Make what --engine asks for.
 * @vm: gets an agent, or none.
 * @ret_link: the agent's link, borrowed from it; NULL: there is none, or it knows no daemon.
 *
 * --engine auto leaves a VM to KSM that may merge it (--mergeable on): one content is not to be kept twice. Without a daemon the VM shares inside itself, and looks for one. --engine auto goes without an agent, and says so in the log,
 * where the kernel cannot track writes.
 *
 * Context: before the process is confined.
 * Return: 0, -ENOTSUP with --engine store or local on such a kernel, or another errno.
 */
int run_engine_new(const struct vm_config *config, struct vm *vm, struct errmsg *err,
		   struct store_link **ret_link) must_check;

#endif
