/* SPDX-License-Identifier: Apache-2.0 */
/* Port I/O and MMIO dispatch: which device answers an address. */
#ifndef SARDINE_VMM_BUS_H
#define SARDINE_VMM_BUS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/cleanup.h"

/*
 * What a device does when a vCPU touches its range. @offset is relative to the range; an access lies wholly
 * inside it;
 * @len is 1, 2, 4 or 8. Data is little-endian in @data.
 * Context: vCPU threads, several at once; must not block on other vCPUs. read must fill @data.
 */
struct bus_ops {
	void (*read)(void *dev, uint64_t offset, uint8_t *data, uint32_t len);
	void (*write)(void *dev, uint64_t offset, const uint8_t *data, uint32_t len);
};

#define BUS_RANGES_MAX 64

struct bus_range {
	uint64_t base;
	uint64_t bytes;
	const struct bus_ops *ops;
	void *dev;
};

/* Zeroed is empty. Ranges are added before the vCPUs run and never change after. */
struct bus {
	struct bus_range ranges[BUS_RANGES_MAX];
	unsigned count;
};

/**
 * bus_add() - Let a device answer [base, base + bytes).
 *
 * Return: 0, -EEXIST when the range overlaps another, -ENOSPC when the table is full, -EINVAL for an empty
 * range.
 */
int bus_add(struct bus *bus, uint64_t base, uint64_t bytes, const struct bus_ops *ops, void *dev) must_check;

/* Dispatch one access. Where no device answers, reads give all ones and false is returned. */
bool bus_read(const struct bus *bus, uint64_t addr, uint8_t *data, uint32_t len);
bool bus_write(const struct bus *bus, uint64_t addr, const uint8_t *data, uint32_t len);

#endif
