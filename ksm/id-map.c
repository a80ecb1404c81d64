/* SPDX-License-Identifier: Apache-2.0 */
/* A table from 64-bit numbers to pointers: linear probing, at most three quarters full, without tombstones. */
#include "ksm/id-map.h"

#include <errno.h>

#define SIZE_MIN 16u

static size_t home(const struct id_map *m, uint64_t id)
{
	return (size_t)(id * 0x9e3779b97f4a7c15u >> 20) & (m->size - 1);
}

/* The slot of @id, or the free one where it would go. */
static size_t slot_of(const struct id_map *m, uint64_t id)
{
	size_t i = home(m, id);

	while (m->slots[i].value && m->slots[i].id != id)
		i = (i + 1) & (m->size - 1);
	return i;
}

void *id_map_get(const struct id_map *m, uint64_t id)
{
	return m->size ? m->slots[slot_of(m, id)].value : NULL;
}

static int resize(struct id_map *m, size_t size)
{
	struct id_map other = {.size = size, .used = m->used};

	other.slots = calloc(size, sizeof(*other.slots));
	if (!other.slots)
		return -ENOMEM;
	for (size_t i = 0; i < m->size; i++)
		if (m->slots[i].value)
			other.slots[slot_of(&other, m->slots[i].id)] = m->slots[i];
	free(m->slots);
	*m = other;
	return 0;
}

int id_map_put(struct id_map *m, uint64_t id, void *value)
{
	struct id_slot *slot;
	int r;

	if (!id_map_get(m, id) && 4 * (m->used + 1) > 3 * m->size) {
		r = resize(m, m->size ? 2 * m->size : SIZE_MIN);
		if (r < 0)
			return r;
	}
	slot = &m->slots[slot_of(m, id)];
	m->used += !slot->value;
	*slot = (struct id_slot){id, value};
	return 0;
}

void *id_map_remove(struct id_map *m, uint64_t id)
{
	size_t mask = m->size - 1, hole;
	void *value;

	if (!m->size)
		return NULL;
	hole = slot_of(m, id);
	value = m->slots[hole].value;
	if (!value)
		return NULL;
	if (--m->used == 0) {
		id_map_done(m);
		return value;
	}
	/* Whoever probed past the hole moves into it. */
	for (size_t i = (hole + 1) & mask; m->slots[i].value; i = (i + 1) & mask) {
		if (((i - home(m, m->slots[i].id)) & mask) < ((i - hole) & mask))
			continue;
		m->slots[hole] = m->slots[i];
		hole = i;
	}
	m->slots[hole].value = NULL;
	if (m->size > SIZE_MIN && 16 * m->used < m->size)
		(void)!resize(m, m->size / 4); /* else it stays large */
	return value;
}

void id_map_done(struct id_map *m)
{
	free(m->slots);
	*m = (struct id_map){0};
}

size_t id_map_bytes(const struct id_map *m)
{
	return m->size * sizeof(*m->slots);
}
