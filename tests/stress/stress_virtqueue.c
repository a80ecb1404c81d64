/* SPDX-License-Identifier: Apache-2.0 */
/* The barriers of the ring: driver and device meet at one ring as fast as they can, each stopping only when the other
 * promised to wake it. A store that passes a later load, on either side, ends with both asleep. */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/unit/test.h"
#include "tests/unit/virtio_driver.h"

#define ENTRIES	   8
#define DEADLINE_S 20

/* The thread sanitizer looks for races, not for barriers, and is slow at it. */
#if defined(__SANITIZE_THREAD__)
#define TURNS 20000
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define TURNS 20000
#endif
#endif
#ifndef TURNS
#define TURNS 150000
#endif

struct meet {
	struct driver d;
	struct driver_queue *q;
	struct virtqueue vq;
	bool event_idx;
	unsigned turns;
	atomic_uint kicks;	/* by the driver */
	atomic_uint interrupts; /* by the device */
	atomic_bool failed;
};

/* Wait until a counter moves on from @seen. */
static unsigned wait_for(struct meet *m, atomic_uint *counter, unsigned seen)
{
	time_t deadline = 0;
	unsigned now, spins = 0;

	while ((now = atomic_load_explicit(counter, memory_order_acquire)) == seen) {
		if (++spins % 4096)
			continue;
		if (deadline == 0)
			deadline = time(NULL) + DEADLINE_S;
		if (time(NULL) > deadline)
			atomic_store(&m->failed, true);
		if (atomic_load(&m->failed))
			break;
		sched_yield();
	}
	return now;
}

/* Both take a good look only now and then, so that the two meet at every offset. */
static void dawdle(unsigned turn)
{
	for (unsigned i = turn * 7 % 61; i; i--)
		atomic_signal_fence(memory_order_seq_cst);
}

static void *device_main(void *arg)
{
	struct meet *m = arg;
	struct virtqueue_chain chain;
	struct iovec iov[ENTRIES];
	unsigned done = 0, kicks = 0;

	while (done < m->turns && !atomic_load_explicit(&m->failed, memory_order_relaxed)) {
		kicks = atomic_load_explicit(&m->kicks, memory_order_acquire);
		virtqueue_kicks_off(&m->vq);
		do {
			while (virtqueue_pop(&m->vq, iov, ENTRIES, &chain) == 1) {
				virtqueue_push(&m->vq, chain.head, 4);
				done++;
				dawdle(done);
				if (virtqueue_should_signal(&m->vq))
					atomic_fetch_add_explicit(&m->interrupts, 1, memory_order_release);
			}
		} while (virtqueue_kicks_on(&m->vq));
		if (done < m->turns)
			wait_for(m, &m->kicks, kicks);
	}
	return NULL;
}

static bool kick_wanted(struct meet *m)
{
	uint16_t event;

	atomic_thread_fence(memory_order_seq_cst); /* pair: virtqueue_kicks_on() */
	if (!m->event_idx)
		return !(le16_get(&m->q->used->flags) & VIRTQ_USED_F_NO_NOTIFY);
	event = le16_get((const le16_t *)(const void *)&m->q->used->ring[ENTRIES]);
	return (uint16_t)(m->q->avail_idx - event - 1) < 1;
}

/* Whether nothing is there yet; if so an interrupt has been asked for. */
static bool must_sleep(struct meet *m)
{
	if (m->event_idx)
		le16_put(&m->q->avail->ring[ENTRIES], m->q->used_seen);
	else
		le16_put(&m->q->avail->flags, 0);
	atomic_thread_fence(memory_order_seq_cst); /* pair: virtqueue_should_signal() */
	return le16_get_acquire(&m->q->used->idx) == m->q->used_seen;
}

static void driver_main(struct meet *m)
{
	for (unsigned turn = 0; turn < m->turns && !atomic_load(&m->failed); turn++) {
		unsigned interrupts = atomic_load_explicit(&m->interrupts, memory_order_acquire);

		if (!m->event_idx)
			le16_put(&m->q->avail->flags, VIRTQ_AVAIL_F_NO_INTERRUPT);
		driver_offer(m->q, 0);
		if (kick_wanted(m))
			atomic_fetch_add_explicit(&m->kicks, 1, memory_order_release);
		dawdle(turn * 3);
		while (must_sleep(m) && !atomic_load(&m->failed))
			interrupts = wait_for(m, &m->interrupts, interrupts);
		if (driver_take(m->q, NULL) != 0)
			atomic_store(&m->failed, true);
	}
}

static void meet(bool event_idx)
{
	static struct meet m;
	pthread_t device;

	memset(&m, 0, sizeof(m));
	m.event_idx = event_idx;
	m.turns = getenv("SARDINE_FULL") ? 3000000 : TURNS;
	assert_int_equal(driver_init(&m.d), 0);
	m.q = driver_queue_lay(&m.d, 0, ENTRIES);
	driver_desc(m.q, 0, DRIVER_DATA, 4, VIRTQ_DESC_F_WRITE, 0);
	virtqueue_init(&m.vq, m.d.mem, ENTRIES);
	m.vq.size = ENTRIES;
	m.vq.desc_gpa = m.q->gpa;
	m.vq.avail_gpa = m.q->gpa + 0x4000;
	m.vq.used_gpa = m.q->gpa + 0x8000;
	assert_int_equal(virtqueue_enable(&m.vq, event_idx, false), 0);
	assert_int_equal(pthread_create(&device, NULL, device_main, &m), 0);
	driver_main(&m);
	pthread_join(device, NULL);
	assert_false(atomic_load(&m.failed));
	assert_null(m.vq.broken);
	driver_done(&m.d);
}

TEST(with_event_idx)
{
	meet(true);
}

TEST(with_flags)
{
	meet(false);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(with_event_idx), cmocka_unit_test(with_flags)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
