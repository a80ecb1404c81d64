/* SPDX-License-Identifier: Apache-2.0 */
/* A replay VM: guest RAM without vCPUs, with threads that write it, looked after as a VM is. */
#ifndef SARDINE_TOOLS_REPLAY_VM_H
#define SARDINE_TOOLS_REPLAY_VM_H

#include <stdbool.h>
#include <stdint.h>

#include "base/errmsg.h"
#include "tools/replay-load.h"
#include "vmm/control.h"
#include "vmm/io-loop.h"
#include "vmm/vm.h"

enum replay_engine {
	REPLAY_ENGINE_OFF,
	REPLAY_ENGINE_LOCAL, /* our store, inside this VM */
	REPLAY_ENGINE_STORE, /* through the daemon, inside this VM as long as there is none */
	REPLAY_ENGINE_KSM,   /* the kernel's */
	REPLAY_ENGINES,
};

/* "off", "local", "store", "ksm" */
const char *replay_engine_name(enum replay_engine engine);

struct replay_vm_config {
	const char *name;
	struct replay_load load;
	uint64_t write_rate;  /* writes a second; 0: nobody writes */
	uint64_t write_parts; /* of REPLAY_PARTS of the memory: where */
	enum replay_engine engine;
	bool manual; /* it looks for what to share only when asked to merge */
};

#define REPLAY_PARTS 1000000u

struct replay_vm;

/**
 * replay_vm_new() - Fill the memory; nothing runs yet.
 * @config: borrowed for the life of the VM.
 * @loop: stopped once the VM has ended; outlives it.
 * @err: one line on failure.
 * @ret: freed with replay_vm_free().
 *
 * Return: 0, -ENOTSUP when this host cannot, or as replay_load().
 */
int replay_vm_new(const struct replay_vm_config *config, struct io_loop *loop, struct errmsg *err,
		  struct replay_vm **ret) must_check;
/* NULL is allowed. */
void replay_vm_free(struct replay_vm *vm);
DEFINE_CLEANUP(struct replay_vm, replay_vm_free)

/* Start what writes it and what looks after it. */
int replay_vm_start(struct replay_vm *vm, struct errmsg *err) must_check;

struct replay_memory *replay_vm_memory(struct replay_vm *vm);
/* NULL: the engine is not ours. */
struct agent *replay_vm_agent(struct replay_vm *vm);

/* What the control socket is served with; the argument is the VM. */
extern const struct control_ops replay_vm_ops;

/* Any thread. The first end wins. */
void replay_vm_end(struct replay_vm *vm, enum vm_end end);

/**
 * replay_vm_finish() - The loop has ended: stop all threads and, unless it was killed, check every byte.
 * @ret_detail: one line, "" when there is nothing to add; valid as long as @vm.
 *
 * Return: how it ended: VM_END_POWER_OFF when all was right, VM_END_ERROR when a frame reads wrong, VM_END_KILLED.
 */
enum vm_end replay_vm_finish(struct replay_vm *vm, const char **ret_detail);

#endif
