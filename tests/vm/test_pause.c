/* SPDX-License-Identifier: Apache-2.0 */
/* While a VM is paused no vCPU writes, and no pause, resume or reset is ever lost, however fast they follow each other. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>

#include "base/size.h"
#include "tests/unit/test.h"
#include "tests/vm/probe_vm.h"

#define CYCLES	      600
#define RESETS	      20
#define FILL_FROM     (16 * MIB)
#define FILL_TO	      (48 * MIB)
#define READY_SECONDS 30

struct guest {
	struct probe_vm p;
	struct vm *vm; /* of it */
	atomic_bool stop;
	atomic_ulong fills; /* that the guest has reported done */
};

static void write_line(struct guest *g, const char *line)
{
	assert_true(probe_vm_say(&g->p, line));
}

static void wait_line(struct guest *g, const char *start)
{
	assert_true(probe_vm_hear(&g->p, start, READY_SECONDS, NULL, 0));
}

/* Keeps both vCPUs writing: another pattern over the same memory, again and again. */
static void *fill_for_ever(void *arg)
{
	struct guest *g = arg;

	for (unsigned long i = 1; !atomic_load(&g->stop); i++) {
		char line[128], answer[32];

		snprintf(line, sizeof(line), "@%lu fill from=%llu to=%llu seed=%lu cpus=2\n", i,
			 (unsigned long long)FILL_FROM, (unsigned long long)FILL_TO, i);
		snprintf(answer, sizeof(answer), "@%lu ok", i);
		write_line(g, line);
		wait_line(g, answer);
		atomic_fetch_add(&g->fills, 1);
	}
	return NULL;
}

static uint64_t sum_of_memory(struct guest *g)
{
	const uint64_t *words;
	uint64_t sum = 0;
	void *p;

	assert_int_equal(guest_span(vm_memory(g->vm), GPA(FILL_FROM), FILL_TO - FILL_FROM, &p), 0);
	words = p;
	for (size_t i = 0; i < (FILL_TO - FILL_FROM) / sizeof(*words); i += 2048)
		sum = sum * 31 + __atomic_load_n(&words[i], __ATOMIC_RELAXED);
	return sum;
}

/* Returns from KVM_RUN, of any kind: a vCPU that is still on its way out when it should be parked adds one. */
static uint64_t exits_of_vcpus(struct guest *g)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < g->p.config.cpus; i++) {
		struct vcpu_counters c;

		vcpu_set_counters(g->vm->vcpus, i, &c);
		sum += c.exits + c.exits_interrupted;
	}
	return sum;
}

/* The guest goes on: what was seen in the pause changes within a deadline. */
static void wait_for_writes(struct guest *g, uint64_t seen)
{
	int64_t deadline = test_now_ms() + TEST_DEADLINE_MS;

	while (sum_of_memory(g) == seen)
		assert_true(test_now_ms() < deadline);
}

static int start_guest(void **state)
{
	static struct guest guest;
	const struct probe_vm_options options = {
		.mem_bytes = 64 * MIB, .cpus = 2, .ready_seconds = READY_SECONDS};

	if (!probe_vm_possible())
		exit(77);
	if (probe_vm_start(&guest.p, &options) < 0)
		return -1;
	guest.vm = guest.p.vm;
	*state = &guest;
	return 0;
}

static int end_guest(void **state)
{
	struct guest *g = *state;

	return probe_vm_end(&g->p);
}

static void pauses_hold_and_are_not_lost(void **state)
{
	struct guest *g = *state;
	pthread_t filler;
	unsigned long moved = 0;

	assert_int_equal(pthread_create(&filler, NULL, fill_for_ever, g), 0);
	while (atomic_load(&g->fills) < 2) /* the second vCPU has been started by then */
		poll(NULL, 0, 1);
	for (unsigned i = 0; i < CYCLES; i++) {
		static uint64_t last;
		uint64_t before, exits;

		vm_pause(g->vm);
		exits = exits_of_vcpus(g);
		if (i % 3 == 0)
			vm_pause(g->vm); /* nests */
		before = sum_of_memory(g);
		assert_int_equal(sum_of_memory(g), before);
		moved += before != last;
		last = before;
		assert_int_equal(vm_state(g->vm), VM_PAUSED);
		if (i % 3 == 0)
			vm_resume(g->vm);
		assert_int_equal(sum_of_memory(g), before);
		assert_int_equal(exits_of_vcpus(g), exits);
		vm_resume(g->vm);
		/* Mostly the next pause comes before the vCPUs are back in the guest; now and then they get there. */
		if (i % 8 == 0)
			wait_for_writes(g, before);
	}
	assert_int_equal(vm_state(g->vm), VM_RUNNING);
	atomic_store(&g->stop, true);
	pthread_join(filler, NULL);
	printf("%u pauses, memory had moved between %lu of them, %lu fills\n", CYCLES, moved,
	       atomic_load(&g->fills));
	assert_true(moved >= CYCLES / 8);
}

static uint64_t reboots(struct guest *g)
{
	uint64_t n;

	pthread_mutex_lock(&g->vm->mutex);
	n = g->vm->restart.reboots;
	pthread_mutex_unlock(&g->vm->mutex);
	return n;
}

/* A guest that resets while it is paused is left as it is until the last resume, also by those who pause it meanwhile. */
static void a_reset_waits_for_the_pause(void **state)
{
	struct guest *g = *state;

	for (unsigned i = 0; i < 5; i++) {
		uint64_t seen, before = reboots(g);

		write_line(g, "@7 fill from=0x1000000 to=0x3000000 seed=9 cpus=2\n");
		wait_line(g, "@7 ok");
		vm_pause(g->vm);
		seen = sum_of_memory(g);
		assert_int_not_equal(seen, 0);
		vm_restart_wish(g->vm, RESTART_RESET, "");
		for (unsigned n = 0; n < 20; n++) {
			vm_pause(g->vm);
			poll(NULL, 0, 10); /* time for a reset that does not wait: it begins within 50 ms */
			assert_int_equal(sum_of_memory(g), seen);
			vm_resume(g->vm);
		}
		assert_int_equal(vm_state(g->vm), VM_PAUSED);
		assert_int_equal(reboots(g), before);
		vm_resume(g->vm);
		wait_line(g, "probe: ready");
		assert_int_equal(reboots(g), before + 1);
		assert_int_equal(sum_of_memory(g), 0);
	}
}

static void *pause_for_ever(void *arg)
{
	struct guest *g = arg;

	while (!atomic_load(&g->stop)) {
		uint64_t seen;

		vm_pause(g->vm);
		seen = sum_of_memory(g);
		assert_int_equal(sum_of_memory(g), seen);
		vm_resume(g->vm);
		poll(NULL, 0, 5); /* the guest shall get somewhere, too */
	}
	return NULL;
}

/* Resets by the guest against pauses by two others: nobody waits for ever, and each boot is a whole one. */
static void resets_race_with_pauses(void **state)
{
	struct guest *g = *state;
	pthread_t threads[2];
	uint64_t before = reboots(g);

	atomic_store(&g->stop, false);
	for (size_t i = 0; i < ARRAY_SIZE(threads); i++)
		assert_int_equal(pthread_create(&threads[i], NULL, pause_for_ever, g), 0);
	for (unsigned i = 0; i < RESETS; i++) {
		write_line(g, i % 2 ? "@8 reset how=acpi\n" : "@8 reset how=i8042\n");
		wait_line(g, "probe: ready");
	}
	atomic_store(&g->stop, true);
	for (size_t i = 0; i < ARRAY_SIZE(threads); i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(reboots(g), before + RESETS);
	assert_int_equal(vm_state(g->vm), VM_RUNNING);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pauses_hold_and_are_not_lost),
		cmocka_unit_test(a_reset_waits_for_the_pause),
		cmocka_unit_test(resets_race_with_pauses),
	};

	return cmocka_run_group_tests(tests, start_guest, end_guest);
}
