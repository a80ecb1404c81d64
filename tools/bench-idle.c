/* SPDX-License-Identifier: Apache-2.0 */
/* `sardine bench idle`: what the engine costs when there is nothing new, and what a running guest notices of it. */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>

#include "base/addr.h"
#include "base/clock.h"
#include "base/size.h"
#include "ksm/agent.h"
#include "tools/bench.h"
#include "tools/cli.h"
#include "tools/client.h"
#include "tools/replay-vm.h"
#include "vmm/control.h"

/*
 * Theory of operation
 *
 * Cost: a replay VM is filled and merged until nothing is left to do; then its agent goes on with a pass a second, over memory
 * that nobody writes, or that is written at a rate, and its thread's CPU time is divided by its passes.
 *
 * Effect: a thread reads or writes 64 MiB of such a VM as fast as it can, as a guest's would, in slices with the agent at
 * work and at rest in turn. A slice with is compared with the one before without, so that what else the machine does meets
 * both alike.
 */
#define LOAD_BYTES   (64 * MIB)
#define LOAD_CONTENT "runs" /* without holes, which a load would populate and the engine give back */
#define SETTLE_MS    600000u
#define CALM_NS	     3000000000u /* until passes are a second apart */
#define OPS	     1024u	 /* of a load between looks at the clock */

static const uint64_t write_rates[] = {0, 1000, 10000};

struct row {
	uint64_t mem_bytes, writes_per_s;
	uint64_t passes, cpu_ns, pass_ns, extents, written;
	double seconds;
};

enum load_kind { LOAD_READER, LOAD_WRITER, LOADS };

static const char *const load_names[] = {[LOAD_READER] = "reader", [LOAD_WRITER] = "writer"};
_Static_assert(ARRAY_SIZE(load_names) == LOADS, "a name for each");

struct load {
	struct replay_memory *m;
	enum load_kind kind;
	uint64_t pages;
	pthread_t thread;
	atomic_bool stop;
	_Atomic uint64_t done; /* pages read or written */
};

static void rest(uint64_t ns)
{
	nanosleep(&(struct timespec){.tv_sec = (time_t)(ns / 1000000000), .tv_nsec = (long)(ns % 1000000000)},
		  NULL);
}

static bool never(void)
{
	return false;
}

/* A VM of ours, filled, its memory merged, its agent at a pass a second. */
static int settled_vm(struct replay_vm_config *config, const struct bench_options *o, const char *synthetic,
		      uint64_t mem_bytes, struct io_loop *loop, struct errmsg *err, struct replay_vm **ret)
{
	cleanup(replay_vm_free_p) struct replay_vm *vm = NULL;
	struct agent_merge_result merged;
	int r;

	config->name = "idle";
	config->engine = REPLAY_ENGINE_LOCAL;
	config->load = (struct replay_load){
		.synthetic = synthetic,
		.seed = 1,
		.frames = mem_bytes / PAGE_BYTES,
		.thp = o->thp ? REPLAY_THP_ON : REPLAY_THP_OFF,
		.stopped = never,
	};
	r = replay_vm_new(config, loop, err, &vm);
	if (r == 0)
		r = replay_vm_start(vm, err);
	if (r == 0)
		r = agent_merge(replay_vm_agent(vm), SETTLE_MS, &merged);
	if (r < 0)
		return errmsg_set(err, r, "cannot merge: %s", strerror(-r));
	rest(CALM_NS);
	*ret = TAKE_PTR(vm);
	return 0;
}

static int measure_cost(const struct bench_options *o, uint64_t mem_bytes, uint64_t rate,
			struct io_loop *loop, struct errmsg *err, struct row *ret)
{
	cleanup(replay_vm_free_p) struct replay_vm *vm = NULL;
	struct replay_vm_config config = {.write_rate = rate};
	struct agent_stats before, after;
	uint64_t start_ns;
	int r;

	config.write_parts = LOAD_BYTES >= mem_bytes ? REPLAY_PARTS : LOAD_BYTES * REPLAY_PARTS / mem_bytes;
	r = settled_vm(&config, o, o->synthetic, mem_bytes, loop, err, &vm);
	if (r < 0)
		return r;
	agent_stats(replay_vm_agent(vm), &before);
	start_ns = clock_now_ns();
	rest(o->seconds * 1000000000);
	agent_stats(replay_vm_agent(vm), &after);
	*ret = (struct row){
		.mem_bytes = mem_bytes,
		.writes_per_s = rate,
		.passes = after.passes - before.passes,
		.cpu_ns = after.cpu_ns - before.cpu_ns,
		.pass_ns = after.pass_ns - before.pass_ns,
		.written = after.scanned_written - before.scanned_written,
		.extents = after.extents,
		.seconds = (double)(clock_now_ns() - start_ns) / 1e9,
	};
	return 0;
}

/* The guest: as fast as it goes, in pages at random, parked by holds as a vCPU is. */
static void *load_main(void *arg)
{
	struct load *l = arg;
	struct hold *hold = replay_memory_hold(l->m);
	uint64_t x = 88172645463325252u, sum = 0;

	hold_join(hold);
	while (!atomic_load_explicit(&l->stop, memory_order_relaxed)) {
		for (unsigned i = 0; i < OPS; i++) {
			volatile uint64_t *at;

			hold_attend(hold);
			x ^= x << 13;
			x ^= x >> 7;
			x ^= x << 17;
			at = replay_memory_at(l->m, GFN(x % l->pages));
			if (l->kind == LOAD_WRITER)
				at[x >> 40 & 511] = x;
			else
				sum += at[x >> 40 & 511];
		}
		atomic_fetch_add_explicit(&l->done, OPS, memory_order_relaxed);
	}
	hold_leave(hold);
	return (void *)(uintptr_t)sum;
}

/* Pages a second. */
static double slice(struct load *l, uint64_t seconds)
{
	uint64_t done = atomic_load(&l->done), start_ns = clock_now_ns();

	rest(seconds * 1000000000);
	done = atomic_load(&l->done) - done;
	return (double)done * 1e9 / (double)(clock_now_ns() - start_ns);
}

static int pair(struct load *l, struct agent *agent, uint64_t seconds, json_t *pairs, double *ret_ratio)
{
	double off, on;
	int r;

	agent_suspend(agent);
	off = slice(l, seconds);
	r = agent_resume(agent, false);
	if (r < 0)
		return r;
	on = slice(l, seconds);
	*ret_ratio = on / off;
	return json_array_append_new(
		       pairs, json_pack("{s:f, s:f}", "off_pages_per_s", off, "on_pages_per_s", on)) < 0
		       ? -ENOMEM
		       : 0;
}

static int number_order(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static int measure_effect(const struct bench_options *o, enum load_kind kind, struct io_loop *loop,
			  json_t *effects, struct errmsg *err)
{
	cleanup(replay_vm_free_p) struct replay_vm *vm = NULL;
	struct replay_vm_config config = {0};
	uint64_t bytes = o->mems[0] > LOAD_BYTES ? o->mems[0] : LOAD_BYTES;
	double ratios[BENCH_PAIRS_MAX];
	json_t *pairs = json_array();
	struct load l = {.kind = kind, .pages = LOAD_BYTES / PAGE_BYTES};
	int r = settled_vm(&config, o, LOAD_CONTENT, bytes, loop, err, &vm);

	if (r == 0) {
		l.m = replay_vm_memory(vm);
		r = -pthread_create(&l.thread, NULL, load_main, &l);
	}
	if (r < 0) {
		json_decref(pairs);
		return r;
	}
	(void)slice(&l, 1); /* first touches */
	for (unsigned i = 0; i < o->pairs && r == 0; i++)
		r = pair(&l, replay_vm_agent(vm), o->seconds, pairs, &ratios[i]);
	atomic_store(&l.stop, true);
	pthread_join(l.thread, NULL);
	qsort(ratios, o->pairs, sizeof(*ratios), number_order);
	if (r < 0 ||
	    json_array_append_new(effects, json_pack("{s:s, s:I, s:f, s:O}", "load", load_names[kind],
						     "bytes", (json_int_t)LOAD_BYTES, "ratio_median",
						     ratios[o->pairs / 2], "pairs", pairs)) < 0)
		r = r < 0 ? r : -ENOMEM;
	json_decref(pairs);
	return r;
}

static json_t *row_json(const struct row *row)
{
	double passes = row->passes ? (double)row->passes : 1;

	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:f}", "mem_bytes", (json_int_t)row->mem_bytes,
			 "writes_per_s", (json_int_t)row->writes_per_s, "extents", (json_int_t)row->extents,
			 "passes", (json_int_t)row->passes, "written_pages", (json_int_t)row->written,
			 "cpu_ms_per_pass", (double)row->cpu_ns / 1e6 / passes, "pass_ms",
			 (double)row->pass_ns / 1e6 / passes, "cpu_pct",
			 (double)row->cpu_ns / 1e7 / row->seconds);
}

static void print_cost(const json_t *row)
{
	char mem[16];

	printf("%10s %9lld %8lld %7lld %10.3f %9.3f %7.3f\n",
	       size_format((uint64_t)json_integer_value(json_object_get(row, "mem_bytes")), mem, sizeof(mem)),
	       (long long)json_integer_value(json_object_get(row, "writes_per_s")),
	       (long long)json_integer_value(json_object_get(row, "extents")),
	       (long long)json_integer_value(json_object_get(row, "passes")),
	       json_number_value(json_object_get(row, "cpu_ms_per_pass")),
	       json_number_value(json_object_get(row, "pass_ms")),
	       json_number_value(json_object_get(row, "cpu_pct")));
	fflush(stdout);
}

static int all_costs(const struct bench_options *o, struct io_loop *loop, json_t *costs, struct errmsg *err)
{
	if (!o->json)
		printf("%10s %9s %8s %7s %10s %9s %7s\n", "MEMORY", "WRITES/S", "EXTENTS", "PASSES", "CPU_MS",
		       "PASS_MS", "CPU_%");
	for (unsigned i = 0; i < o->mem_count; i++) {
		for (size_t k = 0; k < ARRAY_SIZE(write_rates); k++) {
			struct row row;
			int r = measure_cost(o, o->mems[i], write_rates[k], loop, err, &row);

			if (r < 0)
				return r;
			if (json_array_append_new(costs, row_json(&row)) < 0)
				return -ENOMEM;
			if (!o->json)
				print_cost(json_array_get(costs, json_array_size(costs) - 1));
		}
	}
	return 0;
}

static int all_effects(const struct bench_options *o, struct io_loop *loop, json_t *effects,
		       struct errmsg *err)
{
	int r = 0;

	for (int kind = 0; kind < LOADS && r == 0; kind++) {
		r = measure_effect(o, (enum load_kind)kind, loop, effects, err);
		if (r == 0 && !o->json)
			printf("%s of 64 MiB: %.1f %% of its speed without (median of %u pairs)\n",
			       load_names[kind],
			       100 * json_number_value(json_object_get(json_array_get(effects, (size_t)kind),
								       "ratio_median")),
			       o->pairs);
	}
	return r;
}

int bench_idle(const char *verb, const struct bench_options *o)
{
	cleanup(io_loop_free_p) struct io_loop *loop = NULL;
	json_t *costs = json_array(), *effects = json_array();
	struct errmsg err = {0};
	struct utsname host;
	int code = CLI_OK, r = io_loop_new(&loop);

	uname(&host);
	if (r == 0)
		r = all_costs(o, loop, costs, &err);
	if (r == 0)
		r = all_effects(o, loop, effects, &err);
	if (r < 0)
		code = cli_error(verb, r == -ENOTSUP ? CLI_CANNOT : CLI_FAILED, "%s", errmsg_text(&err, r));
	else if (o->json)
		code = client_print_json(verb,
					 json_pack("{s:s, s:s, s:i, s:s, s:s, s:O, s:O}", "bench", "idle",
						   "kernel", host.release, "interval_ms",
						   (int)AGENT_INTERVAL_MS, "content", o->synthetic, "thp",
						   o->thp ? "on" : "off", "cost", costs, "effect", effects),
					 false);
	json_decref(costs);
	json_decref(effects);
	return code;
}
