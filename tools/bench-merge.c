/* SPDX-License-Identifier: Apache-2.0 */
/* `sardine bench merge`: the same bytes through each engine. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>

#include "base/addr.h"
#include "base/clock.h"
#include "base/size.h"
#include "tools/bench-ksmd.h"
#include "tools/bench-store.h"
#include "tools/cli.h"
#include "tools/client.h"
#include "vmm/engine.h"

/*
 * Theory of operation
 *
 * Each engine gets VMs of its own, filled with the same bytes. What is saved is counted from outside when the engine has
 * settled, in the same way for all: the frames behind the VMs' pages (pagemap) before and after, after every byte was
 * read and checked, which maps all that is there. The control group's usage before and after says it a second time, with
 * all that the engine itself needs in it. Meanwhile that usage is sampled, and says when how much was saved.
 */
#define SAMPLE_NS 10000000u
#define REFS_NS	  3000000000u
#define LOOK_NS	  200000000u

static const char *const engine_names[] = {
	[BENCH_KSMD_DEFAULT] = "ksmd-default",
	[BENCH_KSMD_FASTEST] = "ksmd-fastest",
	[BENCH_STORE] = "store",
};
_Static_assert(ARRAY_SIZE(engine_names) == BENCH_ENGINES, "a name for each");

const char *bench_engine_name(enum bench_engine engine)
{
	return engine_names[engine];
}

struct sample {
	uint64_t ns, bytes;
};

struct samples {
	struct sample *v;
	size_t count, room;
};

/* One engine's run. */
struct run {
	enum bench_engine engine;
	struct bench_vm vms[BENCH_VMS_MAX];
	unsigned count;
	uint64_t start_ns;
	struct samples samples;
	struct bench_frames before, after;
	uint64_t bytes_before, bytes_after; /* of the control group */
	uint64_t reachable;
	bool settled;
	pid_t daemon;
	uint64_t agent_ns, daemon_ns, ksmd_ns;
	uint64_t index_bytes, kernel_meta_bytes;
	struct bench_engines engines; /* of the store */
	struct bench_daemon store;
};

static volatile sig_atomic_t interrupted;

static void on_signal(int number)
{
	interrupted = number;
}

static int sample(const struct bench_room *room, struct run *run)
{
	struct samples *s = &run->samples;
	uint64_t bytes;

	if (bench_room_usage(room, &bytes) < 0)
		return 0;
	if (s->count == s->room) {
		size_t more = s->room ? s->room * 2 : 1024;
		struct sample *v = reallocarray(s->v, more, sizeof(*v));

		if (!v)
			return -ENOMEM;
		s->v = v;
		s->room = more;
	}
	s->v[s->count++] = (struct sample){clock_now_ns() - run->start_ns, bytes};
	return 0;
}

/* When the usage had fallen for good by so many per mille of what it fell in the end. Negative: never, or not known. */
static double time_of(const struct run *run, unsigned per_mille)
{
	const struct samples *s = &run->samples;
	size_t i = s->count;
	uint64_t last, level;

	if (!run->settled || i == 0)
		return -1;
	last = s->v[i - 1].bytes;
	if (last >= run->bytes_before)
		return -1;
	level = run->bytes_before - (run->bytes_before - last) * per_mille / 1000;
	while (i > 1 && s->v[i - 2].bytes <= level)
		i--;
	return (double)s->v[i - 1].ns / 1e9;
}

static int run_ksmd(const struct bench_options *o, const struct bench_room *room, struct run *run,
		    struct errmsg *err)
{
	uint64_t look_ns, end;
	struct bench_ksmd k;
	int r = bench_ksmd_set(run->engine, err);

	if (r == 0)
		r = bench_ksmd_begin(run->engine, &k, err);
	if (r < 0)
		return r;
	run->start_ns = look_ns = clock_now_ns();
	end = run->start_ns + o->limit_s * 1000000000;
	while (r == 0 && !run->settled && clock_now_ns() < end && !interrupted) {
		nanosleep(&(struct timespec){.tv_nsec = SAMPLE_NS}, NULL);
		r = sample(room, run);
		if (r < 0 || clock_now_ns() - look_ns < LOOK_NS)
			continue;
		look_ns = clock_now_ns();
		r = bench_ksmd_look(&k);
		run->settled = r > 0;
		r = r > 0 ? 0 : r;
	}
	run->ksmd_ns = k.cpu_ns;
	/* What is merged stays merged. */
	if (bench_ksmd_run(false) < 0 || r < 0)
		return errmsg_set(err, r < 0 ? r : -EIO, "cannot see to ksmd");
	run->kernel_meta_bytes = bench_ksmd_meta_bytes(run->vms, run->count);
	return 0;
}

/* What it costs, once all is merged. */
static int store_costs(struct run *run, uint64_t daemon_ns, double agent_s, struct errmsg *err)
{
	uint64_t end = clock_now_ns() + REFS_NS;
	int r = bench_engines_read(run->vms, run->count, &run->engines, err);

	if (r == 0)
		r = bench_daemon_read(&run->store, err);
	/* VMs tell of their references a moment later. */
	while (r == 0 && run->store.mappings < run->engines.mapped_pages && clock_now_ns() < end) {
		nanosleep(&(struct timespec){.tv_nsec = SAMPLE_NS}, NULL);
		r = bench_daemon_read(&run->store, err);
	}
	run->daemon_ns = bench_cpu_ns(run->daemon) - daemon_ns;
	if (run->engines.agent_s > agent_s)
		run->agent_ns = (uint64_t)((run->engines.agent_s - agent_s) * 1e9);
	run->kernel_meta_bytes = run->engines.extents * ENGINE_EXTENT_BYTES;
	run->index_bytes = run->store.index_bytes + run->engines.metadata_bytes - run->kernel_meta_bytes;
	return r;
}

static int run_store(const struct bench_options *o, const struct bench_room *room, struct run *run,
		     struct errmsg *err)
{
	uint64_t daemon_ns = bench_cpu_ns(run->daemon), end;
	struct bench_engines before;
	struct bench_merges *merges;
	int r = bench_engines_read(run->vms, run->count, &before, err), e;

	run->start_ns = clock_now_ns();
	end = run->start_ns + o->limit_s * 1000000000;
	if (r == 0)
		r = bench_merges_start(run->vms, run->count, &merges);
	if (r < 0)
		return errmsg_set(err, r, "cannot merge: %s", strerror(-r));
	while (r == 0 && !bench_merges_done(merges) && clock_now_ns() < end && !interrupted) {
		nanosleep(&(struct timespec){.tv_nsec = SAMPLE_NS}, NULL);
		r = sample(room, run);
	}
	e = bench_merges_end(merges, err);
	run->settled = e > 0;
	if (r == 0)
		r = sample(room, run);
	if (r < 0 || e < 0)
		return r < 0 ? r : e;
	return store_costs(run, daemon_ns, before.agent_s, err);
}

static int run_merges(const struct bench_options *o, const struct bench_room *room, struct run *run,
		      struct errmsg *err)
{
	return run->engine == BENCH_STORE ? run_store(o, room, run, err) : run_ksmd(o, room, run, err);
}

static int start_vms(const struct bench_options *o, const struct bench_room *room, struct run *run,
		     struct errmsg *err)
{
	int r = run->engine == BENCH_STORE ? bench_daemon_start(room, &run->daemon, err) : 0;

	if (r < 0)
		return r;
	return bench_vms_start(o, room, run->engine == BENCH_STORE ? "store" : "ksm", run->vms, err);
}

static int measure(const struct bench_options *o, const struct bench_room *room, struct run *run,
		   struct errmsg *err)
{
	int r = start_vms(o, room, run, err);

	if (r == 0)
		r = bench_count_reachable(run->vms, run->count, &run->reachable, err);
	if (r == 0)
		r = bench_count_frames(run->vms, run->count, &run->before);
	if (r < 0)
		return errmsg_set(err, r, "cannot count frames: %s", strerror(-r));
	(void)!bench_room_usage(room, &run->bytes_before);
	r = run_merges(o, room, run, err);
	if (r == 0 && interrupted)
		r = errmsg_set(err, -ECANCELED, "stopped by a signal");
	(void)!bench_room_usage(room, &run->bytes_after);
	if (r == 0)
		r = bench_vms_check(run->vms, run->count, err);
	if (r == 0)
		r = bench_count_frames(run->vms, run->count, &run->after);
	return r < 0 ? errmsg_set(err, r, "cannot count frames: %s", strerror(-r)) : 0;
}

static json_t *number_or_null(bool known, double v)
{
	return known ? json_real(v) : json_null();
}

static json_t *count_or_null(bool known, uint64_t v)
{
	return known ? json_integer((json_int_t)v) : json_null();
}

/* Whether frames could be seen. Else the store's references are believed, and of ksmd nothing is known. */
static bool frames_seen(const struct run *run)
{
	return run->after.frames_known && run->before.frames_known;
}

static uint64_t saved_pages(const struct run *run)
{
	uint64_t before = run->before.nonzero_frames, after = run->after.nonzero_frames;

	if (!frames_seen(run))
		return run->store.saved_pages;
	return before > after ? before - after : 0;
}

static json_t *run_json(const struct bench_room *room, const struct run *run)
{
	bool known = frames_seen(run) || run->engine == BENCH_STORE;
	uint64_t saved = saved_pages(run), cpu_ns = run->agent_ns + run->daemon_ns + run->ksmd_ns;
	double t95 = time_of(run, 950), t99 = time_of(run, 990);
	json_t *json = json_pack(
		"{s:s, s:b, s:I, s:o, s:s, s:o, s:o, s:o}", "engine", bench_engine_name(run->engine),
		"settled", (int)run->settled, "reachable_pages", (json_int_t)run->reachable, "saved_pages",
		count_or_null(known, saved), "saved_by", frames_seen(run) ? "frames" : "references",
		"saved_pct_of_reachable",
		number_or_null(known && run->reachable, 100.0 * (double)saved / (double)run->reachable),
		"t95_s", number_or_null(t95 >= 0, t95), "t99_s", number_or_null(t99 >= 0, t99));
	json_t *rest = json_pack(
		"{s:{s:f, s:f, s:f}, s:o, s:o, s:o, s:I, s:I, s:I, s:{s:I, s:I, s:I, s:I}}", "cpu_s", "agent",
		(double)run->agent_ns / 1e9, "daemon", (double)run->daemon_ns / 1e9, "ksmd",
		(double)run->ksmd_ns / 1e9, "cpu_us_per_shared_page",
		number_or_null(known && saved, (double)cpu_ns / 1e3 / (double)saved), "cgroup_bytes_before",
		count_or_null(room->cgroup[0], run->bytes_before), "cgroup_bytes_after",
		count_or_null(room->cgroup[0], run->bytes_after), "index_bytes", (json_int_t)run->index_bytes,
		"kernel_meta_bytes", (json_int_t)run->kernel_meta_bytes, "extents",
		(json_int_t)run->engines.extents, "zero", "pages_before", (json_int_t)run->before.zero,
		"frames_before", (json_int_t)run->before.zero_frames, "pages_after",
		(json_int_t)run->after.zero, "frames_after", (json_int_t)run->after.zero_frames);

	if (json && run->engine == BENCH_STORE &&
	    json_object_set_new(json, "hold_us",
				json_pack("{s:f, s:f, s:f, s:f}", "p50", run->engines.p50_us, "p99",
					  run->engines.p99_us, "p999", run->engines.p999_us, "max",
					  run->engines.max_us)) < 0) {
		json_decref(json);
		json = NULL;
	}
	if (!json || !rest || json_object_update(json, rest) < 0) {
		json_decref(json);
		json = NULL;
	}
	json_decref(rest);
	return json;
}

static void print_header(const struct bench_options *o)
{
	char mem[16];

	if (o->mem_bytes)
		printf("%u VMs of %s, huge pages %s\n", o->vms, size_format(o->mem_bytes, mem, sizeof(mem)),
		       o->thp ? "on" : "off");
	else
		printf("%u VMs as large as their images, huge pages %s\n", o->vms, o->thp ? "on" : "off");
	printf("%-13s %9s %9s %6s %7s %7s %7s %8s %10s\n", "ENGINE", "REACHABLE", "SAVED", "PCT", "T95_S",
	       "T99_S", "CPU_S", "US/PAGE", "META");
}

/* A number, or a dash where there is none. */
static void print_number(const json_t *v, int width, int digits)
{
	if (json_is_number(v))
		printf(" %*.*f", width, digits, json_number_value(v));
	else
		printf(" %*s", width, "-");
}

static void print_run(const json_t *run)
{
	const json_t *cpu = json_object_get(run, "cpu_s");
	char meta[16];
	uint64_t bytes = (uint64_t)(json_integer_value(json_object_get(run, "index_bytes")) +
				    json_integer_value(json_object_get(run, "kernel_meta_bytes")));

	printf("%-13s", json_string_value(json_object_get(run, "engine")));
	print_number(json_object_get(run, "reachable_pages"), 9, 0);
	print_number(json_object_get(run, "saved_pages"), 9, 0);
	print_number(json_object_get(run, "saved_pct_of_reachable"), 6, 1);
	print_number(json_object_get(run, "t95_s"), 7, 2);
	print_number(json_object_get(run, "t99_s"), 7, 2);
	printf(" %7.2f", json_number_value(json_object_get(cpu, "agent")) +
				 json_number_value(json_object_get(cpu, "daemon")) +
				 json_number_value(json_object_get(cpu, "ksmd")));
	print_number(json_object_get(run, "cpu_us_per_shared_page"), 8, 2);
	printf(" %10s%s\n", size_format(bytes, meta, sizeof(meta)),
	       json_is_true(json_object_get(run, "settled")) ? "" : "  (not settled)");
	fflush(stdout);
}

static int run_engine(const struct bench_options *o, const struct bench_room *room, enum bench_engine engine,
		      json_t *runs, struct errmsg *err)
{
	struct run *run = calloc(1, sizeof(*run));
	json_t *json = NULL;
	int r;

	if (!run)
		return -ENOMEM;
	run->engine = engine;
	run->count = o->vms;
	r = measure(o, room, run, err);
	bench_vms_end(run->vms, run->count);
	bench_daemon_end(run->daemon);
	if (r == 0) {
		json = run_json(room, run);
		r = json && json_array_append(runs, json) == 0 ? 0 : -ENOMEM;
	}
	if (r == 0 && !o->json)
		print_run(json);
	json_decref(json);
	free(run->samples.v);
	free(run);
	return r;
}

static int run_all(const struct bench_options *o, const struct bench_room *room, json_t *runs,
		   struct errmsg *err)
{
	int r = 0;

	if (!o->json)
		print_header(o);
	for (unsigned i = 0; i < o->engine_count && r == 0; i++)
		r = run_engine(o, room, o->engines[i], runs, err);
	return r;
}

static int print_json(const char *verb, const struct bench_options *o, json_t *runs)
{
	struct utsname host;
	json_t *content = o->synthetic ? json_sprintf("synthetic:%s", o->synthetic) : json_array();

	for (size_t i = 0; i < o->image_count; i++)
		json_array_append_new(content, json_string(o->images[i]));
	uname(&host);
	return client_print_json(verb,
				 json_pack("{s:s, s:I, s:I, s:o, s:s, s:s, s:O}", "bench", "merge", "vms",
					   (json_int_t)o->vms, "mem_bytes", (json_int_t)o->mem_bytes,
					   "content", content, "thp", o->thp ? "on" : "off", "kernel",
					   host.release, "runs", runs),
				 false);
}

static bool uses_ksmd(const struct bench_options *o)
{
	for (unsigned i = 0; i < o->engine_count; i++)
		if (o->engines[i] == BENCH_KSMD_DEFAULT || o->engines[i] == BENCH_KSMD_FASTEST)
			return true;
	return false;
}

static void catch_signals(void)
{
	struct sigaction action = {.sa_handler = on_signal};

	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGHUP, &action, NULL);
}

int bench_merge(const char *verb, const struct bench_options *options)
{
	bool ksmd = uses_ksmd(options);
	struct errmsg err = {0};
	struct bench_room room;
	json_t *runs = json_array();
	int r = ksmd ? bench_ksmd_refuse(&err) : 0, closed, code = CLI_OK;

	if (r == 0)
		r = bench_room_open(ksmd, verb, &err, &room);
	if (r == 0) {
		catch_signals();
		r = run_all(options, &room, runs, &err);
		closed = bench_room_close(&room, &err);
		r = r < 0 ? r : closed;
	}
	if (r < 0)
		code = cli_error(verb, r == -ENOTSUP ? CLI_CANNOT : CLI_FAILED, "%s", errmsg_text(&err, r));
	else if (options->json)
		code = print_json(verb, options, runs);
	json_decref(runs);
	return code;
}
