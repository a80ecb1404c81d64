/* SPDX-License-Identifier: Apache-2.0 */
/* How the process of a VM keeps its own memory small. */
#ifndef SARDINE_TOOLS_RUN_MEMORY_H
#define SARDINE_TOOLS_RUN_MEMORY_H

/* Choose for space how malloc keeps memory. Context: before other threads are started. */
void run_memory_init(void);

/* Give back what the start has used and freed. */
void run_memory_trim(void);

#endif
