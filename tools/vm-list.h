/* SPDX-License-Identifier: Apache-2.0 */
/* The statistics of all VMs that run here, or of one. */
#ifndef SARDINE_TOOLS_VM_LIST_H
#define SARDINE_TOOLS_VM_LIST_H

#include <jansson.h>

#include "base/errmsg.h"
#include "stats/usage.h"
#include "tools/client.h"

struct vm_item {
	struct rundir_entry entry;
	json_t *stats; /* NULL: it did not answer */
	struct vm_usage usage;
};

struct vm_list {
	struct vm_item *items; /* by name */
	size_t count;
	struct host_usage host; /* of those that answered */
};

/**
 * vm_list_get() - Ask all VMs for their statistics.
 * @only: one name, or NULL for all.
 * @err: one line on failure.
 * @ret: freed with vm_list_done().
 *
 * VMs that end meanwhile are left out.
 *
 * Return: 0, also without any VM; -ENOENT when there is none named @only; or an errno.
 */
int vm_list_get(const char *only, struct errmsg *err, struct vm_list *ret) must_check;
void vm_list_done(struct vm_list *list);

#endif
