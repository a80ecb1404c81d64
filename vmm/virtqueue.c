/* SPDX-License-Identifier: Apache-2.0 */
/* A split virtqueue as the device sees it. */
/*
 * Theory of operation
 *
 * The three parts of a queue (virtio 1.2, 2.7) lie in guest RAM and are checked once, when the driver enables
 * the queue; RAM neither moves nor shrinks, so the host addresses found then stay good. What the parts *hold*
 * is never trusted: each field is read once into a local, checked, then used. A driver that breaks a rule
 * breaks the queue (vq->broken); the transport then sets DEVICE_NEEDS_RESET, and only a reset helps.
 *
 * Bounds: a direct chain of more than `size` descriptors must be a loop; an indirect table may have up to
 * `size_max` entries (stock Linux fills tables longer than a small queue it chose itself, so the driver's own
 * size is not the limit there); both together never exceed the caller's iov array. The bytes of a chain fit
 * 32 bits.
 *
 * Memory ordering, device side and its pair in the driver (names as in Linux' virtio_ring):
 *
 *   avail->idx, load acquire      pairs with virtio_wmb() before the driver's store of avail->idx:
 *                                 descriptors and the ring entry are seen whole.
 *   used->idx, store release      pairs with virtio_rmb() after the driver's load of used->idx:
 *                                 the element and the data are seen whole.
 *   push:     store used->idx;    FULL FENCE;    load used_event (or avail->flags)
 *   driver:   store used_event;   full barrier;  load used->idx
 *                                 one of the two sees the other's store: no interrupt is lost.
 *   kicks_on: store avail_event (or used->flags);  FULL FENCE;    load avail->idx
 *   driver:   store avail->idx;                    full barrier;  load avail_event (or used->flags)
 *                                 one of the two sees the other's store: no kick is lost.
 */
#include "vmm/virtqueue.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#include "base/planted.h"
#include "base/size.h"

void virtqueue_init(struct virtqueue *vq, const struct guest_memory *mem, uint16_t size_max)
{
	*vq = (struct virtqueue){.mem = mem, .size_max = size_max};
}

void virtqueue_reset(struct virtqueue *vq)
{
	virtqueue_init(vq, vq->mem, vq->size_max);
}

void virtqueue_disable(struct virtqueue *vq)
{
	vq->enabled = false;
}

static int queue_break(struct virtqueue *vq, const char *why)
{
	vq->broken = why;
	return -EPROTO;
}

/* One part of the queue: aligned, and all of it inside RAM. */
static int part_span(const struct virtqueue *vq, uint64_t gpa, uint64_t align, uint64_t bytes, void **ret)
{
	if (gpa & (align - 1))
		return -EINVAL;
	return guest_span(vq->mem, GPA(gpa), bytes, ret);
}

int virtqueue_enable(struct virtqueue *vq, bool event_idx, bool indirect)
{
	uint64_t size = vq->size;
	void *desc, *avail, *used;

	if (size == 0 || size > vq->size_max || (size & (size - 1)))
		return queue_break(vq, "queue size is no power of two up to the maximum");
	if (part_span(vq, vq->desc_gpa, 16, size * sizeof(struct virtq_desc), &desc) < 0)
		return queue_break(vq, "descriptor table misaligned or outside RAM");
	if (part_span(vq, vq->avail_gpa, 2, 6 + size * sizeof(le16_t), &avail) < 0)
		return queue_break(vq, "available ring misaligned or outside RAM");
	if (part_span(vq, vq->used_gpa, 4, 6 + size * sizeof(struct virtq_used_elem), &used) < 0)
		return queue_break(vq, "used ring misaligned or outside RAM");
	vq->desc = desc;
	vq->avail = avail;
	vq->used = used;
	vq->mask = (uint16_t)(size - 1);
	vq->event_idx = event_idx;
	vq->indirect = indirect;
	vq->avail_next = 0;
	vq->used_next = 0;
	vq->used_signalled = 0;
	vq->broken = NULL;
	vq->enabled = true;
	return 0;
}

/* A descriptor after it was read, each field once. */
struct desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags;
	uint16_t next;
};

static struct desc desc_decode(const struct virtq_desc *d)
{
	return (struct desc){
		.addr = le64_get(&d->addr),
		.len = le32_get(&d->len),
		.flags = le16_get(&d->flags),
		.next = le16_get(&d->next),
	};
}

/* Where a chain goes: checked spans, or ranges as the guest named them. */
struct chain_out {
	struct iovec *iov;
	struct virtqueue_range *ranges; /* NULL: iov */
	unsigned max;
};

/* Add one descriptor to the chain. */
static int chain_add(struct virtqueue *vq, const struct desc *d, const struct chain_out *out,
		     struct virtqueue_chain *chain)
{
	unsigned n = chain->readable + chain->writable;
	bool write = d->flags & VIRTQ_DESC_F_WRITE;
	uint32_t *bytes = write ? &chain->writable_bytes : &chain->readable_bytes;
	void *span;

	if (n == out->max)
		return queue_break(vq, "descriptor chain too long");
	if (!write && chain->writable && !PLANTED("virtqueue"))
		return queue_break(vq, "readable descriptor after a writable one");
	if (d->len == 0)
		return queue_break(vq, "descriptor of zero bytes");
	/* Both directions together, so that no sum that a device forms can wrap (virtio 1.2, 2.7.5). */
	if (d->len > UINT32_MAX - chain->readable_bytes - chain->writable_bytes)
		return queue_break(vq, "descriptor chain above 4 GiB");
	if (out->ranges)
		out->ranges[n] = (struct virtqueue_range){.first = GPA(d->addr), .bytes = d->len};
	else if (guest_span(vq->mem, GPA(d->addr), d->len, &span) < 0)
		return queue_break(vq, "descriptor outside RAM");
	else
		out->iov[n] = (struct iovec){.iov_base = span, .iov_len = d->len};
	*bytes += d->len;
	if (write)
		chain->writable++;
	else
		chain->readable++;
	return 0;
}

/* Walk an indirect table, the last element of a chain. */
static int chain_add_table(struct virtqueue *vq, const struct desc *table, const struct chain_out *out,
			   struct virtqueue_chain *chain)
{
	uint32_t entries = table->len / (uint32_t)sizeof(struct virtq_desc);
	uint32_t index = 0;
	void *span;

	if (!vq->indirect)
		return queue_break(vq, "indirect descriptor without the feature");
	if (table->flags & VIRTQ_DESC_F_NEXT)
		return queue_break(vq, "indirect descriptor with a next one");
	if (entries == 0 || table->len % sizeof(struct virtq_desc))
		return queue_break(vq, "indirect table of a bad length");
	if (guest_span(vq->mem, GPA(table->addr), table->len, &span) < 0)
		return queue_break(vq, "indirect table outside RAM");
	/* More steps than the queue has room for must be a loop, or a chain that is too long. */
	for (unsigned steps = 0; steps < vq->size_max; steps++) {
		struct virtq_desc raw;
		struct desc d;
		int r;

		/* A table may lie at any address, so it is copied before it is looked at. */
		r = guest_read(vq->mem, GPA(table->addr + index * sizeof(raw)), &raw, sizeof(raw));
		if (r < 0)
			return queue_break(vq, "indirect table outside RAM");
		d = desc_decode(&raw);
		if (d.flags & VIRTQ_DESC_F_INDIRECT)
			return queue_break(vq, "indirect descriptor inside an indirect table");
		r = chain_add(vq, &d, out, chain);
		if (r < 0)
			return r;
		if (!(d.flags & VIRTQ_DESC_F_NEXT))
			return 0;
		if (d.next >= entries)
			return queue_break(vq, "indirect descriptor index out of range");
		index = d.next;
	}
	return queue_break(vq, "indirect descriptor chain loops or is too long");
}

static int chain_walk(struct virtqueue *vq, uint16_t head, const struct chain_out *out,
		      struct virtqueue_chain *chain)
{
	uint16_t index = head;

	for (uint32_t steps = 0; steps < vq->size; steps++) {
		struct desc d;
		int r;

		if (index >= vq->size)
			return queue_break(vq, "descriptor index out of range");
		d = desc_decode(&vq->desc[index]);
		if (d.flags & VIRTQ_DESC_F_INDIRECT)
			return chain_add_table(vq, &d, out, chain);
		r = chain_add(vq, &d, out, chain);
		if (r < 0)
			return r;
		if (!(d.flags & VIRTQ_DESC_F_NEXT))
			return 0;
		index = d.next;
	}
	return queue_break(vq, "descriptor chain loops");
}

static int chain_pop(struct virtqueue *vq, const struct chain_out *out, struct virtqueue_chain *ret)
{
	struct virtqueue_chain chain = {0};
	uint16_t pending;
	int r;

	if (vq->broken)
		return -EPROTO;
	if (!vq->enabled)
		return 0;
	pending = (uint16_t)(le16_get_acquire(&vq->avail->idx) - vq->avail_next);
	if (pending == 0)
		return 0;
	if (pending > vq->size)
		return queue_break(vq, "available index jumps by more than the queue size");
	chain.head = le16_get(&vq->avail->ring[vq->avail_next & vq->mask]);
	r = chain_walk(vq, chain.head, out, &chain);
	if (r < 0)
		return r;
	vq->avail_next++;
	*ret = chain;
	return 1;
}

void virtqueue_unpop(struct virtqueue *vq)
{
	vq->avail_next--;
}

int virtqueue_pop(struct virtqueue *vq, struct iovec *iov, unsigned iov_max, struct virtqueue_chain *ret)
{
	return chain_pop(vq, &(struct chain_out){.iov = iov, .max = iov_max}, ret);
}

int virtqueue_pop_ranges(struct virtqueue *vq, struct virtqueue_range *ranges, unsigned max,
			 struct virtqueue_chain *ret)
{
	return chain_pop(vq, &(struct chain_out){.ranges = ranges, .max = max}, ret);
}

void virtqueue_fill(struct virtqueue *vq, uint16_t head, uint32_t written)
{
	struct virtq_used_elem *elem;

	if (!vq->enabled || vq->broken)
		return;
	elem = &vq->used->ring[vq->used_next & vq->mask];
	le32_put(&elem->id, head);
	le32_put(&elem->len, written);
	vq->used_next++;
}

void virtqueue_publish(struct virtqueue *vq)
{
	if (vq->enabled && !vq->broken)
		le16_put_release(&vq->used->idx, vq->used_next);
}

void virtqueue_push(struct virtqueue *vq, uint16_t head, uint32_t written)
{
	virtqueue_fill(vq, head, written);
	virtqueue_publish(vq);
}

bool virtqueue_should_signal(struct virtqueue *vq)
{
	uint16_t old = vq->used_signalled;
	uint16_t event;

	if (!vq->enabled || vq->broken || vq->used_next == old)
		return false;
	vq->used_signalled = vq->used_next;
	atomic_thread_fence(memory_order_seq_cst); /* pair: see above */
	if (!vq->event_idx)
		return !(le16_get(&vq->avail->flags) & VIRTQ_AVAIL_F_NO_INTERRUPT);
	event = le16_get(&vq->avail->ring[vq->size]);
	/* Whether used_next has passed event since old, modulo 2^16 (virtio 1.2, 2.7.10). */
	return (uint16_t)(vq->used_next - event - 1) < (uint16_t)(vq->used_next - old);
}

/* avail_event follows the last used element (virtio 1.2, 2.7.8). */
static le16_t *avail_event(struct virtqueue *vq)
{
	return (le16_t *)(void *)&vq->used->ring[vq->size];
}

void virtqueue_kicks_off(struct virtqueue *vq)
{
	/* With event idx a stale avail_event already keeps the driver quiet. */
	if (vq->enabled && !vq->broken && !vq->event_idx)
		le16_put(&vq->used->flags, VIRTQ_USED_F_NO_NOTIFY);
}

bool virtqueue_kicks_on(struct virtqueue *vq)
{
	if (!vq->enabled || vq->broken)
		return false;
	if (vq->event_idx)
		le16_put(avail_event(vq), vq->avail_next);
	else
		le16_put(&vq->used->flags, 0);
	atomic_thread_fence(memory_order_seq_cst); /* pair: see above */
	return le16_get(&vq->avail->idx) != vq->avail_next;
}

size_t iov_copy_out(const struct iovec *iov, unsigned count, size_t offset, void *buf, size_t len)
{
	size_t done = 0;

	for (unsigned i = 0; i < count && done < len; i++) {
		size_t n;

		if (offset >= iov[i].iov_len) {
			offset -= iov[i].iov_len;
			continue;
		}
		n = iov[i].iov_len - offset;
		n = n < len - done ? n : len - done;
		memcpy((char *)buf + done, (const char *)iov[i].iov_base + offset, n);
		done += n;
		offset = 0;
	}
	return done;
}

size_t iov_copy_in(const struct iovec *iov, unsigned count, const void *buf, size_t len)
{
	size_t done = 0;

	for (unsigned i = 0; i < count && done < len; i++) {
		size_t n = iov[i].iov_len < len - done ? iov[i].iov_len : len - done;

		memcpy(iov[i].iov_base, (const char *)buf + done, n);
		done += n;
	}
	return done;
}

size_t iov_trim_front(struct iovec **iov, unsigned *count, size_t bytes)
{
	size_t done = 0;

	while (*count && done < bytes) {
		size_t n = (*iov)->iov_len < bytes - done ? (*iov)->iov_len : bytes - done;

		(*iov)->iov_base = (char *)(*iov)->iov_base + n;
		(*iov)->iov_len -= n;
		done += n;
		if ((*iov)->iov_len)
			break;
		(*iov)++;
		(*count)--;
	}
	return done;
}
