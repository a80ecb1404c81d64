/* SPDX-License-Identifier: Apache-2.0 */
/* While a hold's work is done no member works; nobody waits for ever, nor for whom it need not. */
#include "ksm/hold.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>

#include "base/clock.h"
#include "tests/unit/test.h"

#define HOLDS	    1000u
#define DEADLINE_NS 20000000000u
#define NEVER_NS    1000000000000u /* a patience that no test outlives */

/* Members count as fast as they can, and look for attention at every step; one rests now and then. */
struct crowd {
	struct hold *hold;
	atomic_bool stop;
	atomic_uint members;
	_Atomic uint64_t steps;
	uint64_t plain; /* TSan looks after it */
	unsigned held, moved;
	unsigned failed; /* calls */
};

static void *crowd_main(void *arg)
{
	struct crowd *c = arg;
	bool rests;

	hold_join(c->hold);
	rests = atomic_fetch_add(&c->members, 1) == 0;
	for (uint64_t i = 1; !atomic_load_explicit(&c->stop, memory_order_relaxed); i++) {
		hold_attend(c->hold);
		atomic_fetch_add(&c->steps, 1);
		if (rests && i % 512 == 0) {
			hold_rest(c->hold);
			sched_yield();
			hold_wake(c->hold);
		}
	}
	hold_leave(c->hold);
	return NULL;
}

static void look(void *arg)
{
	struct crowd *c = arg;
	uint64_t steps = atomic_load(&c->steps);

	c->plain++;
	c->held++;
	for (unsigned i = 0; i < 20; i++)
		sched_yield();
	c->moved += atomic_load(&c->steps) != steps;
}

static struct hold *new_hold(void (*kick)(void *arg), void *arg)
{
	struct hold *h;

	assert_int_equal(hold_new(kick, arg, &h), 0);
	hold_set_patience(h, NEVER_NS);
	return h;
}

static void *hold_again_and_again(void *arg)
{
	struct crowd *c = arg;

	for (unsigned i = 0; i < HOLDS / 4; i++)
		c->failed += hold_call(c->hold, look, c) != 0;
	return NULL;
}

TEST(nobody_moves_while_held)
{
	struct crowd c = {.hold = new_hold(NULL, NULL)};
	struct hold_stats stats;
	pthread_t threads[3], other;

	assert_int_equal(hold_call(c.hold, look, &c), 0); /* nobody there */
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, crowd_main, &c), 0);
	while (atomic_load(&c.members) < 3)
		sched_yield();
	/* One after the other at once: those of the last hold are just on their way out. */
	for (unsigned i = 0; i < HOLDS; i++)
		assert_int_equal(hold_call(c.hold, look, &c), 0);
	/* Two who want one queue up. */
	assert_int_equal(pthread_create(&other, NULL, hold_again_and_again, &c), 0);
	for (unsigned i = 0; i < HOLDS / 4; i++)
		assert_int_equal(hold_call(c.hold, look, &c), 0);
	pthread_join(other, NULL);
	atomic_store(&c.stop, true);
	for (unsigned i = 0; i < 3; i++)
		pthread_join(threads[i], NULL);
	hold_stats(c.hold, &stats);
	assert_int_equal(stats.holds, HOLDS * 3 / 2 + 1);
	assert_int_equal(stats.by_caller, 1);	     /* some never rest */
	assert_true(atomic_load(&c.steps) >= HOLDS); /* holds in a row let them go on in between */
	assert_int_equal(c.held, HOLDS * 3 / 2 + 1);
	assert_int_equal(c.plain, HOLDS * 3 / 2 + 1);
	assert_int_equal(c.moved, 0);
	assert_int_equal(c.failed, 0);
	/* All but the first had somebody parked. */
	assert_int_equal(stats.held_ns.count, HOLDS * 3 / 2);
	assert_int_equal(stats.given_up + stats.forbidden, 0);
	hold_free(c.hold);
}

/* One member that does as it is told. */
struct puppet {
	struct hold *hold;
	pthread_mutex_t lock; /* as a device's */
	atomic_int order;     /* 0: work without a look; 1: attend */
	atomic_int state;
	atomic_bool stop;
	atomic_uint kicks, works;
	void *(*main)(void *arg);
	pthread_t thread;
};

static void work(void *arg)
{
	struct puppet *p = arg;

	atomic_fetch_add(&p->works, 1);
}

static void kick(void *arg)
{
	struct puppet *p = arg;

	atomic_fetch_add(&p->kicks, 1);
}

static void wait_state(struct puppet *p, int state)
{
	uint64_t deadline = clock_now_ns() + DEADLINE_NS;

	while (atomic_load(&p->state) < state) {
		assert_true(clock_now_ns() < deadline);
		sched_yield();
	}
}

static void start(struct puppet *p, void *(*main)(void *arg))
{
	pthread_mutex_init(&p->lock, NULL);
	assert_int_equal(pthread_create(&p->thread, NULL, main, p), 0);
	wait_state(p, 1);
}

static void end(struct puppet *p)
{
	atomic_store(&p->stop, true);
	pthread_join(p->thread, NULL);
	pthread_mutex_destroy(&p->lock);
	hold_free(p->hold);
}

static void *stubborn_main(void *arg)
{
	struct puppet *p = arg;

	hold_join(p->hold);
	atomic_store(&p->state, 1);
	while (!atomic_load(&p->stop)) {
		if (atomic_load(&p->order) == 1)
			hold_attend(p->hold);
		sched_yield();
	}
	hold_leave(p->hold);
	return NULL;
}

/* A member that is kept busy by something keeps the others parked for the patience, and no longer. */
TEST(a_hold_is_given_up)
{
	struct puppet p = {.hold = new_hold(kick, &p)};
	struct crowd c = {.hold = p.hold};
	struct hold_stats stats;
	pthread_t member;
	uint64_t begun, steps;
	unsigned calls = 0;

	hold_set_patience(p.hold, 30000000);
	start(&p, stubborn_main);
	assert_int_equal(pthread_create(&member, NULL, crowd_main, &c), 0);
	while (atomic_load(&c.steps) == 0)
		sched_yield();
	do { /* until one in which the other one got a CPU, and parked */
		begun = clock_now_ns();
		assert_int_equal(hold_call(p.hold, work, &p), -ETIMEDOUT);
		assert_true(clock_now_ns() - begun >= 30000000);
		steps = atomic_load(&c.steps);
		while (atomic_load(&c.steps) == steps) /* it goes on */
			sched_yield();
		hold_stats(p.hold, &stats);
		calls++;
	} while (stats.held_ns.count == 0);
	assert_int_equal(atomic_load(&p.works), 0);
	assert_int_equal(stats.given_up, calls);
	assert_int_equal(stats.holds, 0);
	assert_true(stats.held_ns.max >= 30000000);
	/* And the next one is not hurt. */
	hold_set_patience(p.hold, NEVER_NS);
	atomic_store(&p.order, 1);
	assert_int_equal(hold_call(p.hold, work, &p), 0);
	assert_int_equal(atomic_load(&p.works), 1);
	assert_int_equal(atomic_load(&p.kicks), calls + 1);
	atomic_store(&c.stop, true);
	pthread_join(member, NULL);
	end(&p);
}

static void *sleeper_main(void *arg)
{
	struct puppet *p = arg;

	hold_join(p->hold);
	hold_rest(p->hold);
	atomic_store(&p->state, 1);
	while (!atomic_load(&p->stop))
		sched_yield();
	hold_wake(p->hold);
	hold_leave(p->hold);
	return NULL;
}

/* Nobody is woken, nor kicked, nor counted as held, when all rest. */
TEST(who_rests_is_left_alone)
{
	struct puppet p = {.hold = new_hold(kick, &p)};
	struct hold_stats stats;

	start(&p, sleeper_main);
	for (unsigned i = 0; i < 10; i++)
		assert_int_equal(hold_call(p.hold, work, &p), 0);
	hold_stats(p.hold, &stats);
	assert_int_equal(stats.holds, 10);
	assert_int_equal(stats.by_caller, 10);
	assert_int_equal(stats.held_ns.count, 0);
	assert_int_equal(atomic_load(&p.works), 10);
	assert_int_equal(atomic_load(&p.kicks), 0);
	end(&p);
}

/* Rests in the middle of what it does, with a lock that another member wants. */
static void *lock_and_rest_main(void *arg)
{
	struct puppet *p = arg;

	hold_join(p->hold);
	pthread_mutex_lock(&p->lock);
	hold_rest(p->hold);
	atomic_store(&p->state, 1);
	while (atomic_load(&p->state) < 3) /* the hold is gathering by then */
		sched_yield();
	hold_wake(p->hold);
	pthread_mutex_unlock(&p->lock);
	while (!atomic_load(&p->stop))
		hold_attend(p->hold);
	hold_leave(p->hold);
	return NULL;
}

static void *wants_lock_main(void *arg)
{
	struct puppet *p = arg;

	hold_join(p->hold);
	atomic_store(&p->state, 2);
	pthread_mutex_lock(&p->lock);
	pthread_mutex_unlock(&p->lock);
	while (!atomic_load(&p->stop))
		hold_attend(p->hold);
	hold_leave(p->hold);
	return NULL;
}

static void gathering(void *arg)
{
	struct puppet *p = arg;

	atomic_fetch_add(&p->kicks, 1);
	atomic_store(&p->state, 3);
}

TEST(waking_waits_for_no_member)
{
	struct puppet p = {.hold = new_hold(gathering, &p)};
	pthread_t other;

	start(&p, lock_and_rest_main);
	assert_int_equal(pthread_create(&other, NULL, wants_lock_main, &p), 0);
	wait_state(&p, 2);
	hold_set_patience(p.hold, DEADLINE_NS);
	assert_int_equal(hold_call(p.hold, work, &p), 0);
	assert_int_equal(atomic_load(&p.kicks), 1);
	atomic_store(&p.stop, true);
	pthread_join(other, NULL);
	end(&p);
}

static void count_work(void *arg)
{
	atomic_fetch_add((_Atomic uint64_t *)arg, 1);
}

struct caller {
	struct crowd *crowd;
	_Atomic uint64_t works, refused;
};

static void *hold_for_ever(void *arg)
{
	struct caller *caller = arg;

	while (!atomic_load(&caller->crowd->stop))
		if (hold_call(caller->crowd->hold, count_work, &caller->works) == -EBUSY)
			atomic_fetch_add(&caller->refused, 1);
	return NULL;
}

TEST(a_hold_can_be_forbidden)
{
	struct crowd c = {.hold = new_hold(NULL, NULL)};
	struct caller caller = {.crowd = &c};
	pthread_t member, thread;

	hold_forbid(c.hold);
	hold_forbid(c.hold);
	assert_int_equal(hold_call(c.hold, look, &c), -EBUSY);
	hold_allow(c.hold);
	assert_int_equal(hold_call(c.hold, look, &c), -EBUSY);
	hold_allow(c.hold);
	assert_int_equal(hold_call(c.hold, look, &c), 0);
	/* Against one that holds without end: no work is done between the two calls. */
	assert_int_equal(pthread_create(&member, NULL, crowd_main, &c), 0);
	while (atomic_load(&c.members) < 1)
		sched_yield();
	assert_int_equal(pthread_create(&thread, NULL, hold_for_ever, &caller), 0);
	for (unsigned i = 0; i < 200; i++) {
		uint64_t before, refused;

		hold_forbid(c.hold);
		before = atomic_load(&caller.works);
		refused = atomic_load(&caller.refused);
		while (atomic_load(&caller.refused) < refused + 3)
			sched_yield();
		assert_int_equal(atomic_load(&caller.works), before);
		hold_allow(c.hold);
		while (atomic_load(&caller.works) == before)
			sched_yield();
	}
	atomic_store(&c.stop, true);
	pthread_join(thread, NULL);
	pthread_join(member, NULL);
	hold_free(c.hold);
}

/* Code that runs on all kinds of threads calls them without asking. */
TEST(no_member_no_effect)
{
	struct puppet p = {.hold = new_hold(NULL, NULL)};

	hold_join(NULL);
	hold_attend(NULL);
	hold_rest(NULL);
	hold_wake(NULL);
	hold_leave(NULL);
	hold_attend(p.hold);
	hold_rest(p.hold);
	assert_int_equal(hold_call(p.hold, work, &p), 0);
	hold_wake(p.hold);
	hold_leave(p.hold);
	assert_int_equal(hold_call(p.hold, work, &p), 0);
	assert_int_equal(atomic_load(&p.works), 2);
	hold_free(p.hold);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nobody_moves_while_held), cmocka_unit_test(a_hold_is_given_up),
		cmocka_unit_test(who_rests_is_left_alone), cmocka_unit_test(waking_waits_for_no_member),
		cmocka_unit_test(a_hold_can_be_forbidden), cmocka_unit_test(no_member_no_effect),
	};

	return TEST_RUN(tests);
}
