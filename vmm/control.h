/* SPDX-License-Identifier: Apache-2.0 */
/* The control socket of one VM: requests and answers as JSON lines, on the I/O loop. */
#ifndef SARDINE_VMM_CONTROL_H
#define SARDINE_VMM_CONTROL_H

#include <jansson.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/errmsg.h"
#include "base/syscalls.h"
#include "stats/usage.h"
#include "vmm/dump.h"
#include "vmm/io-loop.h"

#define CONTROL_PROTOCOL_MIN 1
#define CONTROL_PROTOCOL_MAX 1

#define CONTROL_LINE_MAX	65536	   /* of a request, with its newline */
#define CONTROL_OUTPUT_MAX	(1u << 20) /* answers that a client has not read; above, it is dropped */
#define CONTROL_CLIENTS_MAX	64
#define CONTROL_WAITS_MAX	16 /* requests of one client that are answered later */
#define CONTROL_STOP_MAX_S	86400u
#define CONTROL_STOP_DEFAULT_S	30u
#define CONTROL_MERGE_MAX_S	86400u
#define CONTROL_MERGE_DEFAULT_S 600u

struct control;

/* What one merge came to. */
struct control_merged {
	uint64_t store_pages, zero_pages; /* shared with the store, given back */
	uint64_t passes, holds;
	uint64_t cpu_ns, elapsed_ns;
	bool settled; /* nothing is left to do */
};

/* What looking at every byte came to. */
struct control_checked {
	uint64_t frames;
	uint64_t wrong; /* the first frame that reads wrong; UINT64_MAX: none */
};

/*
 * What the VM does on request.
 * Context: the loop's thread, but for dump, usage, pause, merge and check: threads of their own, which may block.
 * NULL for dump, console, merge and check: this VM has none.
 */
struct control_ops {
	/* What the VM knows of itself; a new reference, or NULL without memory. */
	json_t *(*stats)(void *arg);
	/* The account of its memory; as vm_usage(). */
	int (*usage)(void *arg, struct vm_usage *ret);
	/* Press the ACPI power button. */
	void (*power_button)(void *arg);
	/* End the VM now. */
	void (*kill)(void *arg);
	/* 0, -EINVAL above RAM, -ENODEV without a balloon. */
	int (*balloon)(void *arg, uint64_t bytes);
	/* Where the balloon is; a new reference, NULL without a balloon or memory. */
	json_t *(*balloon_state)(void *arg);
	/* As dump_write(), of the paused guest. */
	int (*dump)(void *arg, int fd, enum dump_format format, const atomic_bool *cancel, struct errmsg *err,
		    struct dump_result *ret);
	/* Share what can be shared; give up after @max_ms (then it is not settled, which is no error), soon after @cancel
	 * is set, or with a line in @err. */
	int (*merge)(void *arg, unsigned max_ms, const atomic_bool *cancel, struct errmsg *err,
		     struct control_merged *ret);
	/* Look whether every byte of guest memory is what it must be: of a replay VM, which knows. */
	int (*check)(void *arg, const atomic_bool *cancel, struct errmsg *err, struct control_checked *ret);
	/* As vm_pause() and vm_resume(); they alternate. */
	void (*pause)(void *arg);
	void (*resume)(void *arg);
	/* A connected socket from the daemon, for the memory agent, which looks at it. 0, and it is taken; -ENODEV: there is no agent. */
	int (*attach_store)(void *arg, int fd);
	/* Called first by each thread of the control socket; NULL: nothing to do. */
	void (*thread_started)(void *arg);
	/* As console_attach(). */
	int (*console)(void *arg, int fd, const void *prefix, size_t prefix_len, const void *input,
		       size_t input_len);
};

/**
 * control_new() - Serve the control socket.
 * @loop: the loop.
 * @path: the socket (NAME.sock in the runtime directory).
 * @name: the VM's name, for the greeting.
 * @ops, @arg: the VM.
 * @err: one line on failure.
 * @ret: freed with control_free().
 *
 * docs/control-protocol.md has the protocol. Context: the loop's thread, or before it runs.
 * Return: 0 or an errno.
 */
int control_new(struct io_loop *loop, const char *path, const char *name, const struct control_ops *ops,
		void *arg, struct errmsg *err, struct control **ret) must_check;

/* Cancel a dump, drop the clients, remove the socket. Context: the loop's thread, or after it ended. */
void control_free(struct control *control);
/* From now on control_free() leaves the socket's file: the process is confined. */
void control_leave_file(struct control *control);
DEFINE_CLEANUP(struct control, control_free)

/**
 * control_stop() - Press the power button, and kill the VM if it still runs after @timeout_ns.
 *
 * A VM that was paused by a client is resumed, so that the guest can do something about it. Of several stops the earliest time counts. For SIGTERM too. Context: the loop's thread.
 */
void control_stop(struct control *control, uint64_t timeout_ns);

/* The guest has booted again: if it is to be stopped, it is asked again, and the time goes on. Context: the loop's thread. */
void control_rebooted(struct control *control);

/**
 * control_ended() - Tell those who wait how the VM ended.
 * @end: "power-off", "killed".. (vm_end_name()).
 * @detail: one line, "" for none.
 *
 * Takes at most a second when they do not read. Context: after the loop ended, before control_free().
 */
void control_ended(struct control *control, const char *end, const char *detail);

extern const struct syscall_list control_syscalls;

#endif
