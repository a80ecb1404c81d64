/* SPDX-License-Identifier: Apache-2.0 */
/* Port I/O and MMIO dispatch. */
#include "vmm/bus.h"

#include <errno.h>
#include <string.h>

#include "base/size.h"

int bus_add(struct bus *bus, uint64_t base, uint64_t bytes, const struct bus_ops *ops, void *dev)
{
	if (bytes == 0 || base > UINT64_MAX - bytes)
		return -EINVAL;
	for (unsigned i = 0; i < bus->count; i++) {
		const struct bus_range *r = &bus->ranges[i];

		if (base < r->base + r->bytes && r->base < base + bytes)
			return -EEXIST;
	}
	if (bus->count == BUS_RANGES_MAX)
		return -ENOSPC;
	bus->ranges[bus->count++] = (struct bus_range){.base = base, .bytes = bytes, .ops = ops, .dev = dev};
	return 0;
}

/* The range that holds the whole access; an access across the end of a range belongs to nobody. */
static const struct bus_range *bus_find(const struct bus *bus, uint64_t addr, uint32_t len)
{
	for (unsigned i = 0; i < bus->count; i++) {
		const struct bus_range *r = &bus->ranges[i];

		if (addr >= r->base && range_fits(addr - r->base, len, r->bytes))
			return r;
	}
	return NULL;
}

bool bus_read(const struct bus *bus, uint64_t addr, uint8_t *data, uint32_t len)
{
	const struct bus_range *r = bus_find(bus, addr, len);

	memset(data, 0xff, len);
	if (!r)
		return false;
	r->ops->read(r->dev, addr - r->base, data, len);
	return true;
}

bool bus_write(const struct bus *bus, uint64_t addr, const uint8_t *data, uint32_t len)
{
	const struct bus_range *r = bus_find(bus, addr, len);

	if (!r)
		return false;
	r->ops->write(r->dev, addr - r->base, data, len);
	return true;
}
