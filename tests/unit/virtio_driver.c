/* SPDX-License-Identifier: Apache-2.0 */
/* The driver's side of a virtio device, for tests. */
#include "tests/unit/virtio_driver.h"

#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>

int driver_init(struct driver *d)
{
	int r;

	memset(d, 0, sizeof(*d));
	d->irq.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (d->irq.fd < 0)
		return -errno;
	r = guest_memory_new(DRIVER_RAM, false, &d->mem);
	return r < 0 ? r : io_loop_new(&d->loop);
}

void driver_done(struct driver *d)
{
	guest_memory_free(d->mem);
	io_loop_free(d->loop);
	close_fd_p(&d->irq.fd);
}

uint32_t driver_read(struct driver *d, uint32_t reg)
{
	uint8_t data[4];

	virtio_mmio_bus_ops.read(d->mmio, reg, data, sizeof(data));
	return load_le32(data);
}

void driver_write(struct driver *d, uint32_t reg, uint32_t value)
{
	uint8_t data[4];

	store_le32(data, value);
	virtio_mmio_bus_ops.write(d->mmio, reg, data, sizeof(data));
}

bool driver_negotiate(struct driver *d, uint64_t features)
{
	features |= VIRTIO_FEATURE_VERSION_1;
	driver_write(d, REG_STAT, 0);
	driver_write(d, REG_STAT, VIRTIO_STATUS_ACKNOWLEDGE);
	driver_write(d, REG_STAT, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER);
	for (uint32_t half = 0; half < 2; half++) {
		driver_write(d, REG_DRIVER_SEL, half);
		driver_write(d, REG_DRIVER_FEAT, (uint32_t)(features >> (32 * half)));
	}
	driver_write(d, REG_STAT,
		     VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER | VIRTIO_STATUS_FEATURES_OK);
	return driver_read(d, REG_STAT) & VIRTIO_STATUS_FEATURES_OK;
}

static void write64(struct driver *d, uint32_t reg, uint64_t value)
{
	driver_write(d, reg, (uint32_t)value);
	driver_write(d, reg + 4, (uint32_t)(value >> 32));
}

struct driver_queue *driver_queue_lay(struct driver *d, unsigned index, uint16_t size)
{
	struct driver_queue *q = &d->queues[index];

	*q = (struct driver_queue){.size = size, .gpa = DRIVER_QUEUES + index * 0x10000u};
	q->desc = driver_ptr(d, q->gpa, 0x10000);
	q->avail = driver_ptr(d, q->gpa + 0x4000, 0x4000);
	q->used = driver_ptr(d, q->gpa + 0x8000, 0x8000);
	memset(q->desc, 0, 0x10000);
	return q;
}

bool driver_queue_setup(struct driver *d, unsigned index, uint16_t size)
{
	struct driver_queue *q = driver_queue_lay(d, index, size);

	driver_write(d, REG_QSEL, index);
	driver_write(d, REG_QNUM, size);
	write64(d, REG_QDESC, q->gpa);
	write64(d, REG_QAVAIL, q->gpa + 0x4000);
	write64(d, REG_QUSED, q->gpa + 0x8000);
	driver_write(d, REG_QREADY, 1);
	return driver_read(d, REG_QREADY);
}

bool driver_start(struct driver *d, uint64_t features, uint16_t size)
{
	if (!driver_negotiate(d, features))
		return false;
	for (unsigned i = 0; i < virtio_mmio_queue_count(d->mmio); i++) {
		driver_write(d, REG_QSEL, i);
		if (driver_read(d, REG_QNUM_MAX) && !driver_queue_setup(d, i, size))
			return false;
	}
	driver_write(d, REG_STAT, STATUS_UP);
	return driver_read(d, REG_STAT) == STATUS_UP;
}

void *driver_ptr(struct driver *d, uint64_t gpa, uint64_t len)
{
	void *p;

	return guest_span(d->mem, GPA(gpa), len, &p) < 0 ? NULL : p;
}

void driver_desc(struct driver_queue *q, uint16_t i, uint64_t addr, uint32_t len, uint16_t flags,
		 uint16_t next)
{
	le64_put(&q->desc[i].addr, addr);
	le32_put(&q->desc[i].len, len);
	le16_put(&q->desc[i].flags, flags);
	le16_put(&q->desc[i].next, next);
}

void driver_offer(struct driver_queue *q, uint16_t head)
{
	le16_put(&q->avail->ring[q->avail_idx % q->size], head);
	q->avail_idx++;
	le16_put_release(&q->avail->idx, q->avail_idx);
}

void driver_kick(struct driver *d, unsigned queue)
{
	driver_write(d, REG_NOTIFY, queue);
}

void driver_send(struct driver *d, unsigned queue, uint16_t head)
{
	driver_offer(&d->queues[queue], head);
	driver_kick(d, queue);
}

static void stop(void *arg)
{
	io_loop_stop(arg);
}

void driver_loop(struct driver *d)
{
	/* The posted stop is one event of the round that handles all that is ready. */
	if (io_loop_post(d->loop, stop, d->loop) < 0 || io_loop_run(d->loop) < 0)
		d->loop = NULL; /* crash loudly */
}

bool driver_wait(struct driver *d, unsigned queue, unsigned count)
{
	struct driver_queue *q = &d->queues[queue];
	time_t deadline = time(NULL) + 10;

	do {
		driver_loop(d);
		if ((uint16_t)(le16_get_acquire(&q->used->idx) - q->used_seen) >= count)
			return true;
		sched_yield();
	} while (time(NULL) < deadline);
	return false;
}

uint32_t driver_take(struct driver_queue *q, uint32_t *ret_len)
{
	const struct virtq_used_elem *e = &q->used->ring[q->used_seen % q->size];

	if (le16_get_acquire(&q->used->idx) == q->used_seen)
		return UINT32_MAX;
	q->used_seen++;
	if (ret_len)
		*ret_len = le32_get(&e->len);
	return le32_get(&e->id);
}

unsigned driver_interrupts(struct driver *d)
{
	uint64_t n = 0;

	return read(d->irq.fd, &n, sizeof(n)) == sizeof(n) ? (unsigned)n : 0;
}
