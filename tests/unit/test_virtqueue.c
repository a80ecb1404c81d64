/* SPDX-License-Identifier: Apache-2.0 */
/* The ring: chains come out as they were put in, notifications neither get lost nor come unasked, and
 * whatever a hostile driver writes there breaks the queue and nothing else. */
#include "vmm/virtqueue.h"

#include <errno.h>
#include <string.h>

#include "tests/unit/test.h"
#include "tests/unit/virtio_driver.h"

#define SIZE  8
#define MAX   16
#define TABLE (DRIVER_DATA + 0x8000)
#define NEXT  VIRTQ_DESC_F_NEXT
#define WRITE VIRTQ_DESC_F_WRITE

struct fixture {
	struct driver d;
	struct driver_queue *q;
	struct virtqueue vq;
	struct iovec iov[MAX];
	struct virtqueue_chain chain;
};

static void start(struct fixture *f, bool event_idx)
{
	f->q = driver_queue_lay(&f->d, 0, SIZE);
	memset(driver_ptr(&f->d, TABLE, 0x1000), 0, 0x1000);
	virtqueue_init(&f->vq, f->d.mem, MAX);
	f->vq.size = SIZE;
	f->vq.desc_gpa = f->q->gpa;
	f->vq.avail_gpa = f->q->gpa + 0x4000;
	f->vq.used_gpa = f->q->gpa + 0x8000;
	assert_int_equal(virtqueue_enable(&f->vq, event_idx, true), 0);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	*state = f;
	assert_int_equal(driver_init(&f->d), 0);
	start(f, true);
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	driver_done(&f->d);
	free(f);
	return 0;
}

static int pop(struct fixture *f)
{
	return virtqueue_pop(&f->vq, f->iov, MAX, &f->chain);
}

static void table_desc(struct fixture *f, unsigned i, uint64_t addr, uint32_t len, uint16_t flags,
		       uint16_t next)
{
	struct virtq_desc *t = driver_ptr(&f->d, TABLE + 16 * i, 16);

	le64_put(&t->addr, addr);
	le32_put(&t->len, len);
	le16_put(&t->flags, flags);
	le16_put(&t->next, next);
}

static void pops_and_pushes(void **state)
{
	struct fixture *f = *state;
	uint32_t len = 0;

	assert_int_equal(pop(f), 0);
	driver_desc(f->q, 3, DRIVER_DATA, 10, NEXT, 5);
	driver_desc(f->q, 5, DRIVER_DATA + 0x100, 20, NEXT, 1);
	driver_desc(f->q, 1, DRIVER_DATA + 0x200, 30, WRITE, 0);
	driver_offer(f->q, 3);
	assert_int_equal(pop(f), 1);
	assert_int_equal(f->chain.head, 3);
	assert_int_equal(f->chain.readable, 2);
	assert_int_equal(f->chain.writable, 1);
	assert_int_equal(f->chain.readable_bytes, 30);
	assert_int_equal(f->chain.writable_bytes, 30);
	assert_ptr_equal(f->iov[1].iov_base, driver_ptr(&f->d, DRIVER_DATA + 0x100, 20));
	assert_int_equal(f->iov[2].iov_len, 30);
	assert_int_equal(pop(f), 0);
	virtqueue_push(&f->vq, 3, 7);
	assert_int_equal(driver_take(f->q, &len), 3);
	assert_int_equal(len, 7);
}

/* A chain that was given back to the ring comes again, as it is by then. */
static void unpops(void **state)
{
	struct fixture *f = *state;

	for (uint16_t i = 0; i < 2; i++) {
		driver_desc(f->q, i, DRIVER_DATA, 10u + i, 0, 0);
		driver_offer(f->q, i);
	}
	for (unsigned round = 0; round < 3; round++) {
		assert_int_equal(pop(f), 1);
		assert_int_equal(f->chain.head, 0);
		assert_int_equal(f->chain.readable_bytes, 10 + round);
		virtqueue_unpop(&f->vq);
		driver_desc(f->q, 0, DRIVER_DATA, 11 + round, 0, 0);
	}
	assert_true(virtqueue_kicks_on(&f->vq));
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(pop(f), 1);
		assert_int_equal(f->chain.head, i);
	}
	assert_int_equal(pop(f), 0);
	assert_false(virtqueue_kicks_on(&f->vq));
}

static void indirect_tables(void **state)
{
	struct fixture *f = *state;

	/* Normal descriptors may come first (virtio 1.2, 2.7.5.3.2); the table is longer than the queue. */
	driver_desc(f->q, 0, DRIVER_DATA, 10, NEXT, 1);
	driver_desc(f->q, 1, TABLE, 12 * 16, VIRTQ_DESC_F_INDIRECT | WRITE, 0);
	for (uint16_t i = 0; i < 12; i++)
		table_desc(f, i, DRIVER_DATA + 0x100u * (i + 1u), 1, (uint16_t)(i < 11 ? NEXT : WRITE),
			   (uint16_t)(i + 1));
	driver_offer(f->q, 0);
	assert_int_equal(pop(f), 1);
	assert_int_equal(f->chain.readable, 12);
	assert_int_equal(f->chain.writable, 1);
	/* A table may lie at any address. */
	memmove(driver_ptr(&f->d, TABLE + 0x803, 16), driver_ptr(&f->d, TABLE + 11 * 16, 16), 16);
	driver_desc(f->q, 0, TABLE + 0x803, 16, VIRTQ_DESC_F_INDIRECT, 0);
	driver_offer(f->q, 0);
	assert_int_equal(pop(f), 1);
	assert_int_equal(f->chain.writable, 1);
}

static void indices_wrap(void **state)
{
	struct fixture *f = *state;

	driver_desc(f->q, 2, DRIVER_DATA, 4, WRITE, 0);
	for (unsigned i = 0; i < 3 * 65536 + 5; i++) {
		driver_offer(f->q, 2);
		if (pop(f) != 1)
			fail_msg("chain %u", i);
		virtqueue_push(&f->vq, 2, i);
		assert_int_equal(driver_take(f->q, NULL), 2);
	}
	assert_null(f->vq.broken);
}

static void a_full_ring(void **state)
{
	struct fixture *f = *state;

	for (uint16_t i = 0; i < SIZE; i++) {
		driver_desc(f->q, i, DRIVER_DATA, 4, WRITE, 0);
		driver_offer(f->q, i);
	}
	for (unsigned i = 0; i < SIZE; i++) {
		assert_int_equal(pop(f), 1);
		assert_int_equal(f->chain.head, i);
	}
	assert_int_equal(pop(f), 0);
}

/* One chain of one descriptor, popped and pushed. */
static void turn(struct fixture *f)
{
	driver_desc(f->q, 0, DRIVER_DATA, 4, WRITE, 0);
	driver_offer(f->q, 0);
	assert_int_equal(pop(f), 1);
	virtqueue_push(&f->vq, 0, 0);
}

static le16_t *used_event(struct fixture *f)
{
	return &f->q->avail->ring[SIZE];
}

static uint16_t avail_event(struct fixture *f)
{
	return load_le16(&f->q->used->ring[SIZE]);
}

static void interrupts_with_event_idx(void **state)
{
	struct fixture *f = *state;

	assert_false(virtqueue_should_signal(&f->vq)); /* nothing pushed */
	le16_put(used_event(f), 0);
	turn(f);
	assert_true(virtqueue_should_signal(&f->vq));
	assert_false(virtqueue_should_signal(&f->vq)); /* not twice */
	turn(f);
	assert_false(virtqueue_should_signal(&f->vq)); /* the driver has not moved on */
	le16_put(used_event(f), 3);
	turn(f);
	assert_false(virtqueue_should_signal(&f->vq));
	turn(f);
	assert_true(virtqueue_should_signal(&f->vq));
	/* A batch that passes the event. */
	le16_put(used_event(f), 5);
	turn(f);
	turn(f);
	turn(f);
	assert_true(virtqueue_should_signal(&f->vq));
	/* Across the wrap of the index. */
	while (f->vq.used_next != 65535)
		turn(f);
	(void)virtqueue_should_signal(&f->vq);
	le16_put(used_event(f), 65535);
	turn(f);
	assert_true(virtqueue_should_signal(&f->vq));
}

static void interrupts_with_flags(void **state)
{
	struct fixture *f = *state;

	start(f, false);
	turn(f);
	assert_true(virtqueue_should_signal(&f->vq));
	le16_put(&f->q->avail->flags, VIRTQ_AVAIL_F_NO_INTERRUPT);
	turn(f);
	assert_false(virtqueue_should_signal(&f->vq));
	le16_put(&f->q->avail->flags, 0);
	turn(f);
	assert_true(virtqueue_should_signal(&f->vq));
}

static void kicks(void **state)
{
	struct fixture *f = *state;

	turn(f);
	assert_false(virtqueue_kicks_on(&f->vq));
	assert_int_equal(avail_event(f), 1);
	driver_offer(f->q, 0);
	assert_true(virtqueue_kicks_on(&f->vq)); /* came in between */
	start(f, false);
	virtqueue_kicks_off(&f->vq);
	assert_int_equal(le16_get(&f->q->used->flags), VIRTQ_USED_F_NO_NOTIFY);
	assert_false(virtqueue_kicks_on(&f->vq));
	assert_int_equal(le16_get(&f->q->used->flags), 0);
	driver_offer(f->q, 0);
	assert_true(virtqueue_kicks_on(&f->vq));
}

/* Each row spoils a chain (descriptor 0, readable; 1, writable) that would be good. */
static void spoil_head(struct fixture *f)
{
	driver_desc(f->q, SIZE, DRIVER_DATA, 4, WRITE, 0);
	le16_put(&f->q->avail->ring[0], SIZE);
}

static void spoil_head_far(struct fixture *f)
{
	le16_put(&f->q->avail->ring[0], 0xffff);
}

static void spoil_next(struct fixture *f)
{
	/* What lies behind the table looks like a descriptor. */
	driver_desc(f->q, SIZE, DRIVER_DATA, 4, WRITE, 0);
	driver_desc(f->q, 0, DRIVER_DATA, 4, NEXT, SIZE);
}

static void spoil_self_loop(struct fixture *f)
{
	driver_desc(f->q, 0, DRIVER_DATA, 4, NEXT, 0);
}

static void spoil_loop(struct fixture *f)
{
	driver_desc(f->q, 1, DRIVER_DATA, 4, WRITE | NEXT, 1);
}

static void spoil_index_jump(struct fixture *f)
{
	le16_put(&f->q->avail->idx, SIZE + 1);
}

static void spoil_index_back(struct fixture *f)
{
	le16_put(&f->q->avail->idx, 0xffff);
}

static void spoil_address(struct fixture *f)
{
	driver_desc(f->q, 1, DRIVER_RAM, 4, WRITE, 0);
}

static void spoil_address_end(struct fixture *f)
{
	driver_desc(f->q, 1, DRIVER_RAM - 3, 4, WRITE, 0);
}

static void spoil_address_wrap(struct fixture *f)
{
	driver_desc(f->q, 1, UINT64_MAX - 1, 4, WRITE, 0);
}

static void spoil_length(struct fixture *f)
{
	driver_desc(f->q, 1, DRIVER_DATA, UINT32_MAX, WRITE, 0);
}

static void spoil_length_zero(struct fixture *f)
{
	driver_desc(f->q, 1, DRIVER_DATA, 0, WRITE, 0);
}

static void spoil_order(struct fixture *f)
{
	driver_desc(f->q, 0, DRIVER_DATA, 4, WRITE | NEXT, 1);
	driver_desc(f->q, 1, DRIVER_DATA, 4, 0, 0);
}

static void indirect(struct fixture *f, uint64_t table, uint32_t len, uint16_t flags)
{
	table_desc(f, 0, DRIVER_DATA, 4, NEXT, 1);
	table_desc(f, 1, DRIVER_DATA, 4, WRITE, 0);
	driver_desc(f->q, 0, table, len, (uint16_t)(VIRTQ_DESC_F_INDIRECT | flags), 1);
}

static void spoil_indirect_feature(struct fixture *f)
{
	indirect(f, TABLE, 32, 0);
	f->vq.indirect = false;
}

static void spoil_indirect_next(struct fixture *f)
{
	indirect(f, TABLE, 32, NEXT);
}

static void spoil_indirect_empty(struct fixture *f)
{
	indirect(f, TABLE, 0, 0);
}

static void spoil_indirect_part(struct fixture *f)
{
	indirect(f, TABLE, 33, 0);
}

static void spoil_indirect_short(struct fixture *f)
{
	indirect(f, TABLE, 15, 0);
}

static void spoil_indirect_outside(struct fixture *f)
{
	indirect(f, DRIVER_RAM - 16, 32, 0);
}

static void spoil_indirect_wrap(struct fixture *f)
{
	indirect(f, UINT64_MAX - 15, 32, 0);
}

static void spoil_indirect_huge(struct fixture *f)
{
	indirect(f, TABLE, 0xfffffff0, 0);
}

static void spoil_indirect_nested(struct fixture *f)
{
	indirect(f, TABLE, 32, 0);
	table_desc(f, 1, TABLE, 32, VIRTQ_DESC_F_INDIRECT, 0);
}

static void spoil_indirect_index(struct fixture *f)
{
	indirect(f, TABLE, 32, 0);
	table_desc(f, 0, DRIVER_DATA, 4, NEXT, 2);
	table_desc(f, 2, DRIVER_DATA, 4, WRITE, 0);
}

static void spoil_indirect_loop(struct fixture *f)
{
	indirect(f, TABLE, 32, 0);
	table_desc(f, 1, DRIVER_DATA, 4, WRITE | NEXT, 1);
}

static void spoil_indirect_long(struct fixture *f)
{
	indirect(f, TABLE, (MAX + 1) * 16, 0);
	for (uint16_t i = 0; i <= MAX; i++)
		table_desc(f, i, DRIVER_DATA, 4, (uint16_t)(i < MAX ? NEXT : 0), (uint16_t)(i + 1));
}

/* Direct descriptors and a table, together more than fits. */
static void spoil_mixed_long(struct fixture *f)
{
	spoil_indirect_long(f);
	driver_desc(f->q, 1, TABLE, MAX * 16, VIRTQ_DESC_F_INDIRECT, 0);
	table_desc(f, MAX - 1, DRIVER_DATA, 4, 0, 0);
	driver_desc(f->q, 0, DRIVER_DATA, 4, NEXT, 1);
}

/* Overlapping buffers that together exceed 32 bits; only possible by a table, RAM being small. */
static void spoil_total(struct fixture *f)
{
	for (uint16_t i = 0; i < SIZE; i++)
		driver_desc(f->q, i, 0, 0x20000001, NEXT, (uint16_t)(i + 1));
}

static const struct hostile_row {
	const char *what;
	void (*spoil)(struct fixture *f);
} hostile_rows[] = {
	{"head out of range", spoil_head},
	{"head 65535", spoil_head_far},
	{"next out of range", spoil_next},
	{"descriptor that names itself", spoil_self_loop},
	{"loop", spoil_loop},
	{"index jumps forward", spoil_index_jump},
	{"index jumps back", spoil_index_back},
	{"address outside RAM", spoil_address},
	{"buffer across the end of RAM", spoil_address_end},
	{"address that wraps", spoil_address_wrap},
	{"length beyond RAM", spoil_length},
	{"length 0", spoil_length_zero},
	{"readable after writable", spoil_order},
	{"indirect without the feature", spoil_indirect_feature},
	{"indirect with next", spoil_indirect_next},
	{"indirect empty", spoil_indirect_empty},
	{"indirect of no whole entries", spoil_indirect_part},
	{"indirect shorter than an entry", spoil_indirect_short},
	{"indirect across the end of RAM", spoil_indirect_outside},
	{"indirect that wraps", spoil_indirect_wrap},
	{"indirect of 4 GiB", spoil_indirect_huge},
	{"indirect in indirect", spoil_indirect_nested},
	{"indirect next out of range", spoil_indirect_index},
	{"indirect loop", spoil_indirect_loop},
	{"indirect longer than the maximum", spoil_indirect_long},
	{"direct and indirect longer than the maximum", spoil_mixed_long},
	{"lengths beyond RAM in sum", spoil_total},
};

static void hostile_rings(void **state)
{
	struct fixture *f = *state;

	for (size_t i = 0; i < ARRAY_SIZE(hostile_rows); i++) {
		int r;

		start(f, i % 2);
		driver_desc(f->q, 0, DRIVER_DATA, 4, NEXT, 1);
		driver_desc(f->q, 1, DRIVER_DATA, 4, WRITE, 0);
		driver_offer(f->q, 0);
		hostile_rows[i].spoil(f);
		r = pop(f);
		if (r != -EPROTO || !f->vq.broken)
			fail_msg("%s: %d", hostile_rows[i].what, r);
		/* It stays broken, and nothing is published. */
		assert_int_equal(pop(f), -EPROTO);
		virtqueue_push(&f->vq, 0, 4);
		assert_int_equal(le16_get(&f->q->used->idx), 0);
		assert_false(virtqueue_should_signal(&f->vq));
		assert_false(virtqueue_kicks_on(&f->vq));
		virtqueue_reset(&f->vq);
		assert_null(f->vq.broken);
		assert_int_equal(pop(f), 0);
	}
}

/* 5 GiB of RAM, so that buffers can exceed 4 GiB in sum while each lies in RAM. */
static void chains_above_4_gib(void **state)
{
	struct fixture *f = *state;
	struct guest_memory *small = f->d.mem;

	assert_int_equal(guest_memory_new((uint64_t)5 << 30, false, &f->d.mem), 0);
	start(f, false);
	driver_desc(f->q, 0, 0, 0x80000000, NEXT, 1);
	driver_desc(f->q, 1, 0, 0x7fffffff, WRITE, 0);
	driver_offer(f->q, 0);
	assert_int_equal(pop(f), 1);
	driver_desc(f->q, 1, 0, 0x80000000, WRITE, 0);
	driver_offer(f->q, 0);
	assert_int_equal(pop(f), -EPROTO);
	assert_string_equal(f->vq.broken, "descriptor chain above 4 GiB");
	/* A buffer from the end of low RAM into the hole. */
	start(f, false);
	driver_desc(f->q, 0, GUEST_MEMORY_LOW_END - 4, 8, 0, 0);
	driver_offer(f->q, 0);
	assert_int_equal(pop(f), -EPROTO);
	guest_memory_free(f->d.mem);
	f->d.mem = small;
}

/* Each row: a set-up that must not be enabled (or, the first, must). */
static const struct setup_row {
	const char *what;
	uint32_t size;
	uint64_t desc, avail, used;
	bool good;
} setup_rows[] = {
	{"good", 16, 0x1000, 0x2002, 0x3004, true},
	{"size 1", 1, 0x1000, 0x2002, 0x3004, true},
	{"at the end of RAM", 16, DRIVER_RAM - 256, DRIVER_RAM - 38, DRIVER_RAM - 136, true},
	{"size 0", 0, 0x1000, 0x2000, 0x3000, false},
	{"no power of two", 12, 0x1000, 0x2000, 0x3000, false},
	{"above the maximum", 32, 0x1000, 0x2000, 0x3000, false},
	{"size of 17 bits", 0x10000, 0x1000, 0x2000, 0x3000, false},
	{"size of 32 bits", 0x80000000, 0x1000, 0x2000, 0x3000, false},
	{"descriptors misaligned", 16, 0x1008, 0x2000, 0x3000, false},
	{"available ring misaligned", 16, 0x1000, 0x2001, 0x3000, false},
	{"used ring misaligned", 16, 0x1000, 0x2000, 0x3002, false},
	{"descriptors outside", 16, DRIVER_RAM - 240, 0x2000, 0x3000, false},
	{"available ring outside", 16, 0x1000, DRIVER_RAM - 36, 0x3000, false},
	{"used ring outside", 16, 0x1000, 0x2000, DRIVER_RAM - 132, false},
	{"descriptors at the end of the world", 16, UINT64_MAX - 15, 0x2000, 0x3000, false},
	{"used ring at the end of the world", 16, 0x1000, 0x2000, UINT64_MAX - 3, false},
};

static void set_ups(void **state)
{
	struct fixture *f = *state;

	for (size_t i = 0; i < ARRAY_SIZE(setup_rows); i++) {
		const struct setup_row *row = &setup_rows[i];
		int r;

		virtqueue_init(&f->vq, f->d.mem, MAX);
		f->vq.size = row->size;
		f->vq.desc_gpa = row->desc;
		f->vq.avail_gpa = row->avail;
		f->vq.used_gpa = row->used;
		r = virtqueue_enable(&f->vq, true, true);
		if (r != (row->good ? 0 : -EPROTO) || f->vq.enabled != row->good ||
		    !f->vq.broken != row->good)
			fail_msg("%s: %d", row->what, r);
	}
}

/* Chains that belong together are published at once; those put back come again, as they are then. */
static void together_or_back(void **state)
{
	struct fixture *f = *state;
	uint32_t len = 0;

	for (uint16_t i = 0; i < 4; i++) {
		driver_desc(f->q, i, DRIVER_DATA + i * 0x100u, 10u + i, WRITE, 0);
		driver_offer(f->q, i);
		assert_int_equal(pop(f), 1);
	}
	virtqueue_unpop(&f->vq);
	virtqueue_unpop(&f->vq);
	virtqueue_fill(&f->vq, 0, 1);
	virtqueue_fill(&f->vq, 1, 2);
	assert_int_equal(driver_take(f->q, NULL), UINT32_MAX);
	virtqueue_publish(&f->vq);
	assert_int_equal(driver_take(f->q, NULL), 0);
	assert_int_equal(driver_take(f->q, &len), 1);
	assert_int_equal(len, 2);
	assert_true(virtqueue_should_signal(&f->vq));
	assert_true(virtqueue_kicks_on(&f->vq));
	driver_desc(f->q, 2, DRIVER_DATA, 99, WRITE, 0);
	assert_int_equal(pop(f), 1);
	assert_int_equal(f->chain.head, 2);
	assert_int_equal(f->chain.writable_bytes, 99);
	assert_int_equal(pop(f), 1);
	assert_int_equal(f->chain.head, 3);
	assert_int_equal(pop(f), 0);
}

static void iov_helpers(void **state)
{
	char a[4] = "abc", b[8] = "defghij", out[16] = {0};
	struct iovec iov[] = {{a, 3}, {b, 7}};
	struct iovec *at = iov;
	unsigned count = 2;

	(void)state;
	assert_int_equal(iov_copy_out(iov, 2, 0, out, 5), 5);
	assert_memory_equal(out, "abcde", 5);
	assert_int_equal(iov_copy_out(iov, 2, 4, out, 16), 6);
	assert_memory_equal(out, "efghij", 6);
	assert_int_equal(iov_copy_out(iov, 2, 10, out, 16), 0);
	assert_int_equal(iov_trim_front(&at, &count, 4), 4);
	assert_int_equal(count, 1);
	assert_int_equal(at->iov_len, 6);
	assert_int_equal(iov_copy_in(at, count, "XYZ", 3), 3);
	assert_memory_equal(b, "dXYZhij", 7);
	assert_int_equal(iov_copy_in(at, count, "0123456789", 10), 6);
	assert_int_equal(iov_trim_front(&at, &count, 100), 6);
	assert_int_equal(count, 0);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(pops_and_pushes),	  T(unpops),	    T(indirect_tables),		  T(indices_wrap),
		T(a_full_ring),		  T(kicks),	    T(interrupts_with_event_idx), T(set_ups),
		T(interrupts_with_flags), T(hostile_rings), T(chains_above_4_gib),	  T(together_or_back),
		T(iov_helpers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
