/* SPDX-License-Identifier: Apache-2.0 */
/* While a VM is paused no vCPU writes, and no pause, resume or reset is ever lost, however fast they follow each other. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "base/fs.h"
#include "base/size.h"
#include "tests/unit/loop-thread.h"
#include "tests/unit/test.h"
#include "vmm/console.h"
#include "vmm/vm-internal.h"

#define CYCLES	      600
#define RESETS	      20
#define FILL_FROM     (16 * MIB)
#define FILL_TO	      (48 * MIB)
#define READY_SECONDS 30

/* A VM with the probe guest, whose serial port is our end of a socket pair. */
struct guest {
	struct vm_config config;
	struct loop_thread loop;
	struct console *console;
	struct vm *vm;
	int fd;
	char *cache;
	atomic_bool stop;
	atomic_ulong fills; /* that the guest has reported done */
};

static void write_line(struct guest *g, const char *line)
{
	assert_int_equal(write_full(g->fd, line, strlen(line)), 0);
}

/* Reads until a line starts with the text. */
static void wait_line(struct guest *g, const char *start)
{
	char line[512];
	size_t len = 0;

	for (;;) {
		struct pollfd p = {.fd = g->fd, .events = POLLIN};
		char c;

		assert_int_equal(poll(&p, 1, READY_SECONDS * 1000), 1);
		assert_int_equal(read(g->fd, &c, 1), 1);
		if (c == '\n') {
			if (len >= strlen(start) && memcmp(line, start, strlen(start)) == 0)
				return;
			len = 0;
		} else if (c != '\r' && len < sizeof(line)) {
			line[len++] = c;
		}
	}
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

	for (unsigned i = 0; i < g->config.cpus; i++) {
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
	static char cache[] = "/tmp/sardine-pause-XXXXXX";
	struct guest *g = &guest;
	struct errmsg err = {0};
	int fds[2];

	if (access("/dev/kvm", R_OK | W_OK) < 0) {
		fprintf(stderr, "skipped: /dev/kvm: %s\n", strerror(errno));
		exit(77);
	}
	g->cache = mkdtemp(cache);
	if (!g->cache || vm_config_init(&g->config) < 0 || io_loop_new(&g->loop.loop) < 0 ||
	    socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
		return -1;
	snprintf(g->config.name, sizeof(g->config.name), "pause");
	g->config.kernel = strdup(getenv("SARDINE_PROBE"));
	g->config.cache_dir = strdup(g->cache);
	g->config.mem_bytes = 64 * MIB;
	g->config.cpus = 2;
	g->fd = fds[0];
	if (fcntl(fds[1], F_SETFL, O_NONBLOCK) < 0 ||
	    console_new(g->loop.loop, CONSOLE_NONE, NULL, &err, &g->console) < 0 ||
	    console_attach(g->console, fds[1], "", 0, "", 0) < 0 ||
	    vm_new(&g->config, g->loop.loop, g->console, &err, &g->vm) < 0 || vm_start(g->vm, &err) < 0) {
		fprintf(stderr, "%s\n", err.text);
		return -1;
	}
	loop_thread_start(&g->loop);
	wait_line(g, "probe: ready");
	*state = g;
	return 0;
}

static int end_guest(void **state)
{
	struct guest *g = *state;
	char command[64];

	vm_end(g->vm, VM_END_KILLED);
	pthread_join(g->loop.thread, NULL);
	vm_free(g->vm);
	console_free(g->console);
	io_loop_free(g->loop.loop);
	vm_config_done(&g->config);
	close(g->fd);
	snprintf(command, sizeof(command), "rm -rf '%s'", g->cache);
	return system(command);
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
