/* SPDX-License-Identifier: Apache-2.0 */
/* How many more mappings this process may have before the kernel refuses them, which even free() would not survive. */
#ifndef SARDINE_KSM_MAP_ROOM_H
#define SARDINE_KSM_MAP_ROOM_H

#include <stdint.h>

#include "base/cleanup.h"
#include "base/syscalls.h"

/* Mappings below vm.max_map_count that are left to malloc, threads, and everything else. */
#define MAP_ROOM_SPARE 4096u

struct map_room {
	int maps, limit; /* files of /proc: a confined process cannot open them any more. -1: not to be had, there is no room */
	uint64_t left; /* at least, by our own count since the last look */
	uint64_t since_look;
};

/* Open what tells of the room; nothing that is not there is an error. Ended with map_room_close(). */
void map_room_open(struct map_room *ret);
void map_room_close(struct map_room *room);

/**
 * map_room_take() - Ask for mappings.
 * @room: opened.
 * @mappings: how many may come into being.
 *
 * Looks at the kernel's figures when its own count says that there is no room, but not at every call then.
 *
 * Context: one thread at a time; a look reads /proc/self/maps, up to 50 ms with 65,000 mappings.
 * Return: 0 or -ENOSPC.
 */
int map_room_take(struct map_room *room, uint64_t mappings) must_check;

extern const struct syscall_list map_room_syscalls;

#endif
