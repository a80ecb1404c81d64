/* SPDX-License-Identifier: Apache-2.0 */
/* A VM's memory as the engine sees it. */
#ifndef SARDINE_VMM_GUEST_MEMORY_VIEW_H
#define SARDINE_VMM_GUEST_MEMORY_VIEW_H

#include "ksm/guest-view.h"
#include "ksm/hold.h"
#include "vmm/guest-memory.h"

struct guest_memory_view {
	struct guest_memory *mem;
	struct hold *hold; /* whose members are all threads that write @mem */
};

/* @v: outlives the result. */
struct guest_view guest_memory_view(struct guest_memory_view *v);

#endif
