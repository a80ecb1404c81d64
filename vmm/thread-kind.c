/* SPDX-License-Identifier: Apache-2.0 */
/* The kinds of threads of a VM. */
#include "vmm/thread-kind.h"

#include "base/cleanup.h"

static const char *const names[] = {
	[THREAD_LOOP] = "loop",
	[THREAD_VCPU] = "vcpu",
	[THREAD_WORKER] = "worker",
	[THREAD_AGENT] = "agent",
};
_Static_assert(ARRAY_SIZE(names) == THREAD_KINDS, "a name for each kind");

const char *thread_kind_name(enum thread_kind kind)
{
	return names[kind];
}
