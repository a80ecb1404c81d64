/* SPDX-License-Identifier: Apache-2.0 */
/* A table from 64-bit numbers to pointers. */
#ifndef SARDINE_KSM_ID_MAP_H
#define SARDINE_KSM_ID_MAP_H

#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"

struct id_slot {
	uint64_t id;
	void *value; /* NULL: free */
};

/* A zeroed one is empty. To visit all, walk the slots; nothing may be added or removed meanwhile. */
struct id_map {
	struct id_slot *slots;
	size_t size; /* 0 or a power of two */
	size_t used;
};

/* The value of @id, or NULL. */
void *id_map_get(const struct id_map *m, uint64_t id);

/**
 * id_map_put() - Set the value of @id.
 * @value: not NULL; not owned.
 *
 * Return: 0, or -ENOMEM, with nothing changed; never when @id is there already.
 */
int id_map_put(struct id_map *m, uint64_t id, void *value) must_check;

/* Take @id out; memory that few need is given back. Return: its value, or NULL. */
void *id_map_remove(struct id_map *m, uint64_t id);

/* Give the memory back; the values are the caller's. */
void id_map_done(struct id_map *m);

/* Bytes of memory. */
size_t id_map_bytes(const struct id_map *m);

#endif
