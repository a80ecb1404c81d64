/* SPDX-License-Identifier: Apache-2.0 */
/* A port by which a guest kernel says that it panicked (QEMU docs/specs/pvpanic.rst). */
#include "vmm/pvpanic.h"

#include <errno.h>
#include <string.h>

/* Reading gives the events that the host knows, writing reports one. */
#define EVENT_PANICKED	   0x01
#define EVENT_CRASH_LOADED 0x02
#define EVENT_SHUTDOWN	   0x04
#define EVENTS		   (EVENT_PANICKED | EVENT_CRASH_LOADED | EVENT_SHUTDOWN)

struct pvpanic {
	struct pvpanic_config config;
};

int pvpanic_new(const struct pvpanic_config *config, struct pvpanic **ret)
{
	struct pvpanic *p = calloc(1, sizeof(*p));

	if (!p)
		return -ENOMEM;
	p->config = *config;
	*ret = p;
	return 0;
}

void pvpanic_free(struct pvpanic *p)
{
	free(p);
}

static void pvpanic_read(void *dev, uint64_t offset, uint8_t *data, uint32_t len)
{
	(void)dev;
	(void)offset;
	memset(data, 0, len);
	data[0] = EVENTS;
}

/* Of several at once the gravest counts. Unknown ones are for hosts that come later. */
static void pvpanic_write(void *dev, uint64_t offset, const uint8_t *data, uint32_t len)
{
	struct pvpanic *p = dev;

	(void)offset;
	(void)len;
	if (data[0] & EVENT_PANICKED)
		p->config.panicked(p->config.arg);
	else if (data[0] & EVENT_CRASH_LOADED)
		p->config.crash_loaded(p->config.arg);
	else if (data[0] & EVENT_SHUTDOWN)
		p->config.shutdown(p->config.arg);
}

const struct bus_ops pvpanic_bus_ops = {.read = pvpanic_read, .write = pvpanic_write};
