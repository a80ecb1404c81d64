/* SPDX-License-Identifier: Apache-2.0 */
/* The virtio-mmio transport, register file version 2: its theory, and the device's side of it. */
/*
 * Theory of operation
 *
 * Threads and locks. Registers are touched by vCPU threads, queues are worked on by the I/O thread when the
 * eventfd of a queue is signalled: by KVM (ioeventfd) or, where a write to QueueNotify does exit, by us. One
 * mutex per device guards all but these, which are atomics, so that the paths a driver takes per request
 * never wait for I/O: InterruptStatus (set by release before the edge is raised, cleared by InterruptACK),
 * Status and ConfigGeneration (written under the mutex, read without) and the counters.
 *
 * Driver states are the bits of Status. status_rules[] says which bits each bit needs before it; bits are
 * only ever added, and a write of 0 resets. What a driver may do in each state:
 *
 *   before FEATURES_OK   select and write features (once DRIVER is set)
 *   FEATURES_OK          set queues up
 *   DRIVER_OK            kick; stop a queue (QueueReady 0), which waits for its I/O; only a reset lets it be
 *                        started again
 *   NEEDS_RESET          nothing. Ours: set when the driver broke a rule
 *
 * A write in the wrong state is ignored and counted; a broken ring, queue set-up or a configuration write
 * outside the configuration space is a hostile event and sets NEEDS_RESET.
 *
 * Reset (I2 of the design: no I/O may touch guest memory later): queues are disabled first, so that what
 * completes publishes nothing; then the device drains, which waits for its I/O on the vCPU's own thread; then
 * state goes. All of it has happened when the register write returns.
 *
 * Interrupts are edges, one for each time that a driver wants to know. They are not merged on a set
 * InterruptStatus bit: that would be right only for drivers that acknowledge before they look at the rings.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "vmm/virtio-mmio-internal.h"

static void raise_interrupt(struct virtio_mmio *t, uint32_t bit)
{
	/* Release: a driver that sees the bit sees what was pushed. Pairs with the acquire of the register's
	 * read. */
	atomic_fetch_or_explicit(&t->interrupt_status, bit, memory_order_release);
	irq_raise(&t->irq);
	count_add(&t->count.interrupts, 1);
}

void virtio_mmio_kick(const struct mmio_queue *q)
{
	uint64_t one = 1;

	if (write(q->fd, &one, sizeof(one)) < 0) {
		/* EAGAIN: the counter is full, so a kick is pending anyway. */
	}
}

/* Context: the I/O thread. */
static void queue_kicked(void *arg, uint32_t events)
{
	struct mmio_queue *q = arg;
	struct virtio_mmio *t = q->t;
	uint64_t kicks;

	(void)events;
	if (read(q->fd, &kicks, sizeof(kicks)) != sizeof(kicks))
		return;
	count_add(&t->count.kicks, kicks);
	virtio_mmio_lock(t);
	/* A kick that comes while the device is held is repeated by the release. */
	if (virtio_mmio_may_take(t) && q->vq.enabled)
		t->ops->queue_notify(t->dev, q->index);
	virtio_mmio_unlock(t);
}

int virtio_mmio_new(const struct virtio_device_ops *ops, void *dev, const struct guest_memory *mem,
		    struct io_loop *loop, const struct irq_line *irq, struct virtio_mmio **ret)
{
	cleanup(virtio_mmio_free_p) struct virtio_mmio *t = NULL;

	if (ops->queue_count > VIRTIO_QUEUES_MAX)
		return -EINVAL;
	t = calloc(1, sizeof(*t));
	if (!t)
		return -ENOMEM;
	t->ops = ops;
	t->dev = dev;
	t->irq = *irq;
	pthread_mutex_init(&t->mutex, NULL);
	for (unsigned i = 0; i < ops->queue_count; i++)
		t->queues[i].fd = -1;
	for (unsigned i = 0; i < ops->queue_count; i++) {
		struct mmio_queue *q = &t->queues[i];
		int r;

		if (ops->queue_size_max[i] > VIRTQUEUE_SIZE_MAX)
			return -EINVAL;
		q->t = t;
		q->index = i;
		virtqueue_init(&q->vq, mem, ops->queue_size_max[i]);
		q->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (q->fd < 0)
			return -errno;
		r = io_source_new(loop, q->fd, EPOLLIN, queue_kicked, q, &q->source);
		if (r < 0)
			return r;
	}
	*ret = TAKE_PTR(t);
	return 0;
}

void virtio_mmio_free(struct virtio_mmio *t)
{
	if (!t)
		return;
	for (unsigned i = 0; i < t->ops->queue_count; i++) {
		io_source_free(t->queues[i].source);
		close_fd_p(&t->queues[i].fd);
	}
	pthread_mutex_destroy(&t->mutex);
	free(t);
}

unsigned virtio_mmio_queue_count(const struct virtio_mmio *t)
{
	return t->ops->queue_count;
}

int virtio_mmio_queue_fd(const struct virtio_mmio *t, unsigned queue)
{
	return queue < t->ops->queue_count ? t->queues[queue].fd : -1;
}

const char *virtio_mmio_name(const struct virtio_mmio *t)
{
	return t->ops->name;
}

void virtio_mmio_counters(const struct virtio_mmio *t, struct virtio_counters *ret)
{
	*ret = (struct virtio_counters){
		.kicks = count_get(&t->count.kicks),
		.interrupts = count_get(&t->count.interrupts),
		.requests = count_get(&t->count.requests),
		.errors = count_get(&t->count.errors),
		.hostile = count_get(&t->count.hostile),
		.ignored = count_get(&t->count.ignored),
		.resets = count_get(&t->count.resets),
	};
}

const char *virtio_mmio_broken(const struct virtio_mmio *t)
{
	return atomic_load_explicit(&t->broken, memory_order_acquire);
}

void virtio_mmio_lock(struct virtio_mmio *t)
{
	pthread_mutex_lock(&t->mutex);
}

void virtio_mmio_unlock(struct virtio_mmio *t)
{
	pthread_mutex_unlock(&t->mutex);
}

struct virtqueue *virtio_mmio_queue(struct virtio_mmio *t, unsigned queue)
{
	return &t->queues[queue].vq;
}

bool virtio_mmio_running(const struct virtio_mmio *t)
{
	uint32_t status = status_get(t);

	return (status & VIRTIO_STATUS_DRIVER_OK) &&
	       !(status & (VIRTIO_STATUS_NEEDS_RESET | VIRTIO_STATUS_FAILED));
}

bool virtio_mmio_held(const struct virtio_mmio *t)
{
	return t->held > 0;
}

bool virtio_mmio_may_take(const struct virtio_mmio *t)
{
	return virtio_mmio_running(t) && !virtio_mmio_held(t);
}

void virtio_mmio_kick_enabled(struct virtio_mmio *t)
{
	for (unsigned i = 0; i < t->ops->queue_count; i++)
		if (t->queues[i].vq.enabled)
			virtio_mmio_kick(&t->queues[i]);
}

void virtio_mmio_hold(struct virtio_mmio *t)
{
	virtio_mmio_lock(t);
	t->held++;
	if (t->ops->finish)
		t->ops->finish(t->dev);
	virtio_mmio_unlock(t);
}

void virtio_mmio_release(struct virtio_mmio *t)
{
	virtio_mmio_lock(t);
	if (--t->held == 0)
		virtio_mmio_kick_enabled(t);
	virtio_mmio_unlock(t);
}

void virtio_mmio_signal(struct virtio_mmio *t, unsigned queue)
{
	if (virtio_mmio_running(t) && virtqueue_should_signal(&t->queues[queue].vq))
		raise_interrupt(t, INT_QUEUE);
}

void virtio_mmio_again(struct virtio_mmio *t, unsigned queue)
{
	virtio_mmio_kick(&t->queues[queue]);
}

void virtio_mmio_config_changed(struct virtio_mmio *t)
{
	atomic_fetch_add_explicit(&t->generation, 1, memory_order_release);
	if (virtio_mmio_running(t))
		raise_interrupt(t, INT_CONFIG);
}

void virtio_mmio_break(struct virtio_mmio *t, const char *why)
{
	uint32_t status = status_get(t);

	if (status & VIRTIO_STATUS_NEEDS_RESET)
		return;
	count_add(&t->count.hostile, 1);
	atomic_store_explicit(&t->broken, why, memory_order_release);
	/* What is in flight completes, but nothing is published any more. */
	for (unsigned i = 0; i < t->ops->queue_count; i++)
		t->queues[i].vq.broken = why;
	status_set(t, status | VIRTIO_STATUS_NEEDS_RESET);
	if (status & VIRTIO_STATUS_DRIVER_OK)
		raise_interrupt(t, INT_CONFIG);
}

void virtio_mmio_count_requests(struct virtio_mmio *t, uint64_t requests)
{
	count_add(&t->count.requests, requests);
}

void virtio_mmio_count_error(struct virtio_mmio *t)
{
	count_add(&t->count.errors, 1);
}
