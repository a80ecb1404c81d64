/* SPDX-License-Identifier: Apache-2.0 */
/* What a control socket is served for, without a VM behind it. */
#ifndef SARDINE_TESTS_UNIT_FAKE_VM_H
#define SARDINE_TESTS_UNIT_FAKE_VM_H

#include <errno.h>
#include <stdint.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/fs.h"
#include "vmm/control.h"

/* The VM: counts what it is asked. */
struct fake_vm {
	atomic_uint presses;
	atomic_uint kills;
	atomic_ullong balloon_bytes;
	int balloon_result;
	int console_result;
	atomic_bool usage_wait;
	atomic_int usage_result;
	atomic_uint usages;
	atomic_bool dump_go; /* the dump waits for it */
	atomic_uint dumps_cancelled;
	atomic_bool work_go; /* merges and checks wait for it */
	atomic_int work_result;
	atomic_uint merges, checks; /* begun */
	atomic_uint works_cancelled;
	atomic_uint merge_max_ms;
	atomic_bool pause_wait; /* the pause takes as long as this is set */
	atomic_uint pausing;	/* pauses begun */
	atomic_uint pauses;	/* and done */
	atomic_uint resumes;
	int attach_result;
	atomic_uint attached;
};

static inline json_t *fake_stats(void *arg)
{
	(void)arg;
	return json_pack("{s:s}", "state", "running");
}

static inline int fake_usage(void *arg, struct vm_usage *ret)
{
	struct fake_vm *vm = arg;

	atomic_fetch_add(&vm->usages, 1);
	while (atomic_load(&vm->usage_wait))
		nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
	*ret = (struct vm_usage){.configured = 7};
	return atomic_load(&vm->usage_result);
}

static inline void fake_press(void *arg)
{
	atomic_fetch_add(&((struct fake_vm *)arg)->presses, 1);
}

static inline void fake_kill(void *arg)
{
	atomic_fetch_add(&((struct fake_vm *)arg)->kills, 1);
}

static inline int fake_balloon(void *arg, uint64_t bytes)
{
	struct fake_vm *vm = arg;

	atomic_store(&vm->balloon_bytes, bytes);
	return vm->balloon_result;
}

static inline json_t *fake_balloon_state(void *arg)
{
	struct fake_vm *vm = arg;

	if (vm->balloon_result)
		return NULL;
	return json_pack("{s:I}", "target_bytes", (json_int_t)atomic_load(&vm->balloon_bytes));
}

static inline int fake_dump(void *arg, int fd, enum dump_format format, const atomic_bool *cancel,
			    struct errmsg *err, struct dump_result *ret)
{
	struct fake_vm *vm = arg;

	while (!atomic_load(&vm->dump_go) && !atomic_load(cancel))
		nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
	if (atomic_load(cancel)) {
		atomic_fetch_add(&vm->dumps_cancelled, 1);
		return errmsg_set(err, -ECANCELED, "cancelled");
	}
	ret->data_bytes = 3;
	ret->file_bytes = 5;
	if (format == DUMP_RAW)
		return errmsg_set(err, -ENOSPC, "cannot write: no space");
	return pwrite_full(fd, "abc", 3, 0);
}

/* Pauses and resumes alternate. */
static inline void fake_pause(void *arg)
{
	struct fake_vm *vm = arg;

	atomic_fetch_add(&vm->pausing, 1);
	while (atomic_load(&vm->pause_wait))
		nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
	if (atomic_fetch_add(&vm->pauses, 1) != atomic_load(&vm->resumes))
		abort();
}

static inline void fake_resume(void *arg)
{
	struct fake_vm *vm = arg;

	if (atomic_fetch_add(&vm->resumes, 1) + 1 != atomic_load(&vm->pauses))
		abort();
}

static inline int fake_attach(void *arg, int fd)
{
	struct fake_vm *vm = arg;

	if (vm->attach_result)
		return vm->attach_result;
	atomic_fetch_add(&vm->attached, 1);
	close(fd);
	return 0;
}

static inline int fake_console(void *arg, int fd, const void *prefix, size_t prefix_len, const void *input,
			       size_t input_len)
{
	struct fake_vm *vm = arg;
	int r = vm->console_result;

	if (r == 0 && (send(fd, prefix, prefix_len, 0) < 0 || send(fd, "history|", 8, 0) < 0 ||
		       (input_len && send(fd, input, input_len, 0) < 0)))
		r = -errno;
	close(fd);
	return r;
}

static inline int fake_work(struct fake_vm *vm, const atomic_bool *cancel, struct errmsg *err)
{
	while (!atomic_load(&vm->work_go) && !atomic_load(cancel))
		nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
	if (atomic_load(cancel)) {
		atomic_fetch_add(&vm->works_cancelled, 1);
		return -ECANCELED;
	}
	return errmsg_set(err, atomic_load(&vm->work_result), "it does not work");
}

static inline int fake_merge(void *arg, unsigned max_ms, const atomic_bool *cancel, struct errmsg *err,
			     struct control_merged *ret)
{
	struct fake_vm *vm = arg;

	atomic_store(&vm->merge_max_ms, max_ms);
	atomic_fetch_add(&vm->merges, 1);
	*ret = (struct control_merged){.store_pages = 3, .zero_pages = 2, .passes = 4, .settled = true};
	return fake_work(vm, cancel, err);
}

static inline int fake_check(void *arg, const atomic_bool *cancel, struct errmsg *err,
			     struct control_checked *ret)
{
	struct fake_vm *vm = arg;

	*ret = (struct control_checked){.frames = 9,
					.wrong = atomic_fetch_add(&vm->checks, 1) ? 7 : UINT64_MAX};
	return fake_work(vm, cancel, err);
}

static const struct control_ops fake_ops = {
	.stats = fake_stats,
	.usage = fake_usage,
	.power_button = fake_press,
	.kill = fake_kill,
	.balloon = fake_balloon,
	.balloon_state = fake_balloon_state,
	.dump = fake_dump,
	.merge = fake_merge,
	.check = fake_check,
	.pause = fake_pause,
	.resume = fake_resume,
	.attach_store = fake_attach,
	.console = fake_console,
};

#endif
