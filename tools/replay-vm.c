/* SPDX-License-Identifier: Apache-2.0 */
/* A replay VM: guest RAM without vCPUs, with threads that write it, looked after as a VM is. */
#include "tools/replay-vm.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <time.h>

#include "base/addr.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/size.h"
#include "ksm/agent.h"
#include "ksm/replay-writer.h"
#include "ksm/store-remote.h"
#include "tools/store-client.h"
#include "vmm/engine.h"

/*
 * Theory of operation
 *
 * The control socket's threads and the loop ask; one writer thread writes. A pause ends the writer and a resume starts
 * another, so that a paused VM has no thread that could write. A check needs nobody who writes, either: it ends the writer,
 * reads, and starts it again, and a pause that comes meanwhile waits.
 */

/* A window of the writer: it writes that many frames and moves on. */
#define WINDOW	     64u
#define CHECK_FRAMES 4096u /* between looks for a wish to stop */

struct replay_vm {
	const struct replay_vm_config *config;
	struct io_loop *loop;
	struct replay_memory *m;
	struct agent *agent; /* NULL: the engine is not ours */
	uint64_t started_ns; /* 0: not yet */
	struct replay_writer_config write;

	pthread_mutex_t mutex;	      /* of all below */
	struct replay_writer *writer; /* NULL: none is wanted, or paused */
	uint64_t writes;	      /* by writers that ended */
	unsigned writers;	      /* started */
	bool paused;
	enum vm_end end;
	char detail[128];
};

static const char *const engine_names[] = {
	[REPLAY_ENGINE_OFF] = "off",
	[REPLAY_ENGINE_LOCAL] = "local",
	[REPLAY_ENGINE_STORE] = "store",
	[REPLAY_ENGINE_KSM] = "ksm",
};
_Static_assert(ARRAY_SIZE(engine_names) == REPLAY_ENGINES, "a name for each");

const char *replay_engine_name(enum replay_engine engine)
{
	return engine_names[engine];
}

/* Where is written: whole windows, from a place that the seed chooses. */
static void choose_set(struct replay_vm *vm)
{
	const struct replay_vm_config *c = vm->config;
	uint64_t windows = replay_memory_frames(vm->m) / WINDOW, set, first;

	set = (uint64_t)((double)windows * (double)c->write_parts / REPLAY_PARTS);
	if (set == 0)
		set = 1;
	first = (c->load.seed * 0x9e3779b97f4a7c15u >> 20) % (windows - set + 1);
	vm->write = (struct replay_writer_config){
		.first = GFN(first * WINDOW),
		.frames = set * WINDOW,
		.window = WINDOW,
		.writes = WINDOW,
		.writes_per_s = c->write_rate,
	};
}

/* The agent has a tracker of its own, which discards must reach. */

static int watch(void *ctx, hva_t start, uint64_t bytes)
{
	return agent_watch(ctx, start, bytes);
}

static void discarded(void *ctx, gfn_t first, uint64_t frames)
{
	agent_discarded(ctx, first, frames);
}

static int make_link(const struct store_link_config *link, enum replay_engine engine, struct errmsg *err,
		     struct agent_config *agent)
{
	auto_free char *path = NULL;

	if (engine == REPLAY_ENGINE_LOCAL)
		return store_link_local_new(link, err, &agent->recorded, &agent->link);
	path = store_socket_path();
	if (!path)
		return -ENOMEM;
	return store_link_remote_new(link, (const char *const *)&path, 1, err, &agent->recorded,
				     &agent->link);
}

static int make_agent(struct replay_vm *vm, struct errmsg *err)
{
	const struct replay_vm_config *c = vm->config;
	const struct agent_range range = {GFN(0), replay_memory_frames(vm->m)};
	const struct store_link_config link = {.frames = range.frames, .vm_name = c->name};
	struct agent_config agent = {
		.view = replay_memory_view(vm->m),
		.ranges = &range,
		.range_count = 1,
		.manual = c->manual,
	};
	int r;

	descriptors_raise();
	r = make_link(&link, c->engine, err, &agent);
	if (r == 0)
		r = agent_new(&agent, err, &vm->agent);
	if (r == 0)
		replay_memory_watch_by(vm->m, &(struct replay_watcher){watch, discarded, vm->agent});
	return r < 0 ? errmsg_set(err, r, "--engine %s: %s", replay_engine_name(c->engine), strerror(-r)) : 0;
}

int replay_vm_new(const struct replay_vm_config *config, struct io_loop *loop, struct errmsg *err,
		  struct replay_vm **ret)
{
	cleanup(replay_vm_free_p) struct replay_vm *vm = calloc(1, sizeof(*vm));
	int r;

	if (!vm)
		return -ENOMEM;
	*vm = (struct replay_vm){.config = config, .loop = loop, .mutex = PTHREAD_MUTEX_INITIALIZER};
	r = replay_load(&config->load, err, &vm->m);
	if (r < 0)
		return r;
	if (config->write_rate && replay_memory_frames(vm->m) < WINDOW)
		return errmsg_set(err, -EINVAL,
				  "--write-rate: %llu frames are too few to write to; %u are needed",
				  (unsigned long long)replay_memory_frames(vm->m), WINDOW);
	if (config->write_rate)
		choose_set(vm);
	if (config->engine == REPLAY_ENGINE_KSM) {
		r = replay_memory_mergeable(vm->m);
		if (r < 0)
			return errmsg_set(err, r == -EINVAL ? -ENOTSUP : r,
					  "--engine ksm: this kernel does not let memory be merged: %s",
					  strerror(-r));
	}
	if (config->engine == REPLAY_ENGINE_LOCAL || config->engine == REPLAY_ENGINE_STORE) {
		r = make_agent(vm, err);
		if (r < 0)
			return r;
	}
	*ret = TAKE_PTR(vm);
	return 0;
}

/* With the mutex held. */
static int writer_start(struct replay_vm *vm)
{
	if (!vm->config->write_rate)
		return 0;
	vm->write.seed = vm->config->load.seed + 1000 + vm->writers++;
	return replay_writer_start(vm->m, &vm->write, &vm->writer);
}

static int writer_stop(struct replay_vm *vm)
{
	if (!vm->writer)
		return 0;
	vm->writes += replay_writer_writes(vm->writer);
	return replay_writer_stop(TAKE_PTR(vm->writer));
}

void replay_vm_free(struct replay_vm *vm)
{
	if (!vm)
		return;
	(void)!writer_stop(vm);
	agent_free(vm->agent);
	replay_memory_free(vm->m);
	pthread_mutex_destroy(&vm->mutex);
	free(vm);
}

int replay_vm_start(struct replay_vm *vm, struct errmsg *err)
{
	int r;

	pthread_mutex_lock(&vm->mutex);
	r = writer_start(vm);
	pthread_mutex_unlock(&vm->mutex);
	if (r < 0)
		return errmsg_set(err, r, "cannot start a thread that writes: %s", strerror(-r));
	if (vm->agent) {
		r = agent_start(vm->agent);
		if (r < 0)
			return errmsg_set(err, r, "cannot start the memory agent: %s", strerror(-r));
	}
	vm->started_ns = clock_now_ns();
	return 0;
}

struct replay_memory *replay_vm_memory(struct replay_vm *vm)
{
	return vm->m;
}

struct agent *replay_vm_agent(struct replay_vm *vm)
{
	return vm->agent;
}

void replay_vm_end(struct replay_vm *vm, enum vm_end end)
{
	pthread_mutex_lock(&vm->mutex);
	if (vm->end == VM_END_NONE)
		vm->end = end;
	pthread_mutex_unlock(&vm->mutex);
	io_loop_stop(vm->loop);
}

/*
 * Read everything while nobody writes and the agent rests: what it moves aside is not there for a moment. With the mutex
 * held. Return: false when cancelled.
 */
static bool verify(struct replay_vm *vm, const atomic_bool *cancel)
{
	uint64_t frames = replay_memory_frames(vm->m);
	bool whole = true;

	if (vm->agent)
		agent_suspend(vm->agent);
	for (uint64_t i = 0; i < frames && whole; i += CHECK_FRAMES) {
		(void)replay_memory_verify(vm->m, GFN(i), CHECK_FRAMES);
		whole = !cancel || !atomic_load(cancel);
	}
	/* Without forgetting anything, this cannot fail. */
	if (vm->agent && agent_resume(vm->agent, false) < 0)
		log_warn("the memory agent does not go on");
	return whole;
}

enum vm_end replay_vm_finish(struct replay_vm *vm, const char **ret_detail)
{
	enum vm_end end;

	pthread_mutex_lock(&vm->mutex);
	(void)!writer_stop(vm);
	if (vm->end == VM_END_POWER_OFF)
		(void)verify(vm, NULL);
	if (replay_memory_wrong(vm->m) != UINT64_MAX) {
		vm->end = VM_END_ERROR;
		snprintf(vm->detail, sizeof(vm->detail), "frame %llu reads wrong",
			 (unsigned long long)replay_memory_wrong(vm->m));
	}
	end = vm->end;
	pthread_mutex_unlock(&vm->mutex);
	*ret_detail = vm->detail;
	return end;
}

/* The control socket's requests. */

static json_t *replay_json(struct replay_vm *vm)
{
	const struct replay_load *load = &vm->config->load;
	uint64_t wrong = replay_memory_wrong(vm->m), writes;
	struct replay_stats s;
	json_t *source;

	pthread_mutex_lock(&vm->mutex);
	writes = vm->writes + (vm->writer ? replay_writer_writes(vm->writer) : 0);
	pthread_mutex_unlock(&vm->mutex);
	replay_memory_stats(vm->m, &s);
	source = json_sprintf("%s:%s", load->image ? "image" : "synthetic",
			      load->image ? load->image : load->synthetic);
	return json_pack("{s:o, s:I, s:I, s:I, s:I, s:I, s:o}", "source", source ? source : json_string("?"),
			 "seed", (json_int_t)load->seed, "address",
			 (json_int_t)(uintptr_t)replay_memory_at(vm->m, GFN(0)), "write_set_bytes",
			 (json_int_t)(vm->write.frames * PAGE_BYTES), "writes", (json_int_t)writes, "breaks",
			 (json_int_t)s.breaks, "wrong_frame",
			 wrong == UINT64_MAX ? json_null() : json_integer((json_int_t)wrong));
}

static json_t *on_stats(void *arg)
{
	struct replay_vm *vm = arg;
	struct agent_stats stats;
	struct hold_stats held;
	enum vm_state state;
	json_t *json, *engine;

	pthread_mutex_lock(&vm->mutex);
	state = vm->paused ? VM_PAUSED : VM_RUNNING;
	pthread_mutex_unlock(&vm->mutex);
	json = json_pack("{s:s, s:f, s:{s:s, s:i, s:i, s:i, s:i}, s:[], s:[], s:o}", "state",
			 vm_state_name(state), "uptime_s", (double)(clock_now_ns() - vm->started_ns) / 1e9,
			 "boot", "entry", "replay", "kernel_bytes", 0, "initrd_bytes", 0, "copied_bytes", 0,
			 "shared_bytes", 0, "vcpus", "devices", "replay", replay_json(vm));
	if (!json || !vm->agent)
		return json;
	agent_stats(vm->agent, &stats);
	hold_stats(replay_memory_hold(vm->m), &held);
	engine = engine_json(&stats);
	if (json_object_set_new(engine, "held", engine_held_json(&held)) == 0 &&
	    json_object_set(json, "engine", engine) == 0) {
		json_decref(engine);
		return json;
	}
	json_decref(engine);
	json_decref(json);
	return NULL;
}

static int on_usage(void *arg, struct vm_usage *ret)
{
	struct replay_vm *vm = arg;
	uint64_t at = (uintptr_t)replay_memory_at(vm->m, GFN(0));
	uint64_t bytes = replay_memory_frames(vm->m) * PAGE_BYTES;
	const struct smaps_range range = {at, at + bytes};
	struct usage_input in = {.configured_bytes = bytes,
				 .mergeable = vm->config->engine == REPLAY_ENGINE_KSM};
	auto_file smaps = fopen("/proc/self/smaps", "re");
	auto_file rollup = fopen("/proc/self/smaps_rollup", "re");
	struct ksm_process_files ksm;
	struct ksm_host_files ksm_host;
	int r;

	if (!smaps)
		return -errno;
	r = smaps_read(smaps, &range, 1, &in.guest, &in.rest);
	if (r < 0)
		return r;
	in.file_pss_known = rollup && smaps_rollup_read(rollup, &in.file_pss) == 0;
	ksm_process_files_open("/proc/self", &ksm);
	ksm_process_usage_read(&ksm, &in.ksm);
	ksm_process_files_close(&ksm);
	ksm_host_files_open("/sys/kernel/mm/ksm", &ksm_host);
	ksm_host_usage_read(&ksm_host, &in.ksm_host);
	ksm_host_files_close(&ksm_host);
	if (vm->agent) {
		struct agent_stats stats;

		agent_stats(vm->agent, &stats);
		engine_usage(&stats, &in.store);
	}
	vm_usage_account(&in, ret);
	return 0;
}

static void on_power_button(void *arg)
{
	replay_vm_end(arg, VM_END_POWER_OFF);
}

static void on_kill(void *arg)
{
	replay_vm_end(arg, VM_END_KILLED);
}

static int on_balloon(void *arg, uint64_t bytes)
{
	(void)arg;
	(void)bytes;
	return -ENODEV;
}

static json_t *on_balloon_state(void *arg)
{
	(void)arg;
	return NULL;
}

static int on_merge(void *arg, unsigned max_ms, const atomic_bool *cancel, struct errmsg *err,
		    struct control_merged *ret)
{
	struct replay_vm *vm = arg;

	if (!vm->agent)
		return errmsg_set(err, -ENODEV,
				  "no engine of ours looks after this VM's memory (--engine %s)",
				  replay_engine_name(vm->config->engine));
	return engine_merge(vm->agent, max_ms, cancel, err, ret);
}

static int on_check(void *arg, const atomic_bool *cancel, struct errmsg *err, struct control_checked *ret)
{
	struct replay_vm *vm = arg;
	bool whole;
	int r, start;

	pthread_mutex_lock(&vm->mutex);
	r = writer_stop(vm);
	whole = verify(vm, cancel);
	start = vm->paused ? 0 : writer_start(vm);
	pthread_mutex_unlock(&vm->mutex);
	if (!whole)
		return -ECANCELED;
	if (r < 0 || start < 0)
		return errmsg_set(err, r < 0 ? r : start, "what writes the memory has ended: %s",
				  strerror(r < 0 ? -r : -start));
	*ret = (struct control_checked){.frames = replay_memory_frames(vm->m),
					.wrong = replay_memory_wrong(vm->m)};
	return 0;
}

static void on_pause(void *arg)
{
	struct replay_vm *vm = arg;
	int r;

	pthread_mutex_lock(&vm->mutex);
	r = writer_stop(vm);
	vm->paused = true;
	pthread_mutex_unlock(&vm->mutex);
	if (r < 0)
		log_warn("what writes the memory had ended: %s", strerror(-r));
}

static void on_resume(void *arg)
{
	struct replay_vm *vm = arg;
	int r;

	pthread_mutex_lock(&vm->mutex);
	vm->paused = false;
	r = writer_start(vm);
	pthread_mutex_unlock(&vm->mutex);
	if (r < 0)
		log_warn("cannot start a thread that writes: %s", strerror(-r));
}

const struct control_ops replay_vm_ops = {
	.stats = on_stats,
	.usage = on_usage,
	.power_button = on_power_button,
	.kill = on_kill,
	.balloon = on_balloon,
	.balloon_state = on_balloon_state,
	.merge = on_merge,
	.check = on_check,
	.pause = on_pause,
	.resume = on_resume,
};
