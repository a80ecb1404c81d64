/* SPDX-License-Identifier: Apache-2.0 */
/* How the process of a VM keeps its own memory small. */
#include "tools/run-memory.h"

#include <malloc.h>

/* Buffers from this size on are mappings of their own, which go back to the kernel when they are freed. Said explicitly,
 * since by default it grows to the largest buffer that was ever freed (mallopt(3)), and so does what is kept. */
#define MAPPED_BYTES (64 * 1024)

void run_memory_init(void)
{
	/* One arena: threads allocate seldom, and an arena of its own stays behind when a thread ends. */
	mallopt(M_ARENA_MAX, 1);
	mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES);
	mallopt(M_TRIM_THRESHOLD, MAPPED_BYTES);
}

void run_memory_trim(void)
{
	malloc_trim(0);
}
