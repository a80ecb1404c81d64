/* SPDX-License-Identifier: Apache-2.0 */
/* `sardine bench`: replay VMs as child processes, their frames counted, engines compared. */
#ifndef SARDINE_TOOLS_BENCH_H
#define SARDINE_TOOLS_BENCH_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/errmsg.h"
#include "tools/bench-guard.h"

#define BENCH_VMS_MAX	64u
#define BENCH_MEMS_MAX	16u
#define BENCH_PAIRS_MAX 99u
/* How long a VM may take to be filled. */
#define BENCH_FILL_S 600

enum bench_engine {
	BENCH_KSMD_DEFAULT, /* the kernel's defaults */
	BENCH_KSMD_FASTEST, /* as fast as ksmd goes */
	BENCH_STORE,	    /* ours, through a daemon */
	BENCH_ENGINES,
};

/* A word for options and JSON. */
const char *bench_engine_name(enum bench_engine engine);

struct bench_options {
	bool json;
	unsigned vms;
	uint64_t mem_bytes;	       /* of each; 0: as large as its image */
	uint64_t mems[BENCH_MEMS_MAX]; /* of idle: one after the other */
	unsigned mem_count;
	uint64_t seconds;      /* of idle: of each figure */
	unsigned pairs;	       /* of idle: slices without and with the agent */
	const char *synthetic; /* a specification, or NULL: */
	char **images;	       /* in turn */
	size_t image_count;
	enum bench_engine engines[BENCH_ENGINES]; /* to run, in order */
	unsigned engine_count;
	bool thp;
	uint64_t limit_s; /* of one engine's run */
};

/* A folder for sockets, a control group, a guard. */
struct bench_room {
	char runtime[64];
	char cgroup[128]; /* "": none, since we may not make one */
	char usage[160];  /* the file with the bytes that it holds */
	struct bench_guard *guard;
};

/**
 * bench_room_open() - Make all that, and have it removed whatever happens.
 * @ksm: the settings of KSM will be changed.
 * @verb: for what is said about a benchmark that was killed.
 *
 * Context: before threads are started. Return: 0 or an errno.
 */
int bench_room_open(bool ksm, const char *verb, struct errmsg *err, struct bench_room *ret) must_check;
/* Return: 0, or an errno: something could not be put back. */
int bench_room_close(struct bench_room *room, struct errmsg *err);
/* Bytes that the control group holds. Return: 0 or an errno. */
int bench_room_usage(const struct bench_room *room, uint64_t *ret_bytes) must_check;

/* A replay VM in a process of its own. */
struct bench_vm {
	char name[16];
	pid_t pid;
	uint64_t address; /* of its memory */
	uint64_t frames;
};

/**
 * bench_vms_start() - Start replay VMs and wait until they are filled.
 * @engine: what they are told as --engine.
 * @ret: options->vms of them; those that were started are ended with bench_vms_end(), also after an error.
 *
 * They die with the caller. Return: 0 or an errno.
 */
int bench_vms_start(const struct bench_options *options, const struct bench_room *room, const char *engine,
		    struct bench_vm *ret, struct errmsg *err) must_check;
void bench_vms_end(struct bench_vm *vms, unsigned count);

/* Ask a VM. @request is stolen; @ret may be NULL. Return: 0 or an errno. */
int bench_vm_ask(const struct bench_vm *vm, json_t *request, json_t **ret, struct errmsg *err) must_check;

/* Have every VM check its bytes, which also maps all of them. Return: 0, -EBADMSG when a frame reads wrong, or an errno. */
int bench_vms_check(const struct bench_vm *vms, unsigned count, struct errmsg *err) must_check;

/* What the VMs' memory holds, and in how many frames. */
struct bench_frames {
	uint64_t present, zero; /* pages that are in memory; of these, zeros */
	uint64_t
		nonzero_frames; /* distinct frames behind the others; present - zero without the right to see them */
	uint64_t zero_frames;
	bool frames_known;
};

/* Return: 0 or an errno. */
int bench_count_frames(const struct bench_vm *vms, unsigned count, struct bench_frames *ret) must_check;

/**
 * bench_count_reachable() - Pages that sharing could save: nonzero ones less distinct contents.
 * @ret: by the code of `analyze`.
 *
 * Counted a second time by SHA-256 and sorting; -EBADMSG when the two disagree. Return: 0 or an errno.
 */
int bench_count_reachable(const struct bench_vm *vms, unsigned count, uint64_t *ret,
			  struct errmsg *err) must_check;

/* `bench merge` and `bench idle`. Return: an exit code. */
int bench_merge(const char *verb, const struct bench_options *options);
int bench_idle(const char *verb, const struct bench_options *options);

#endif
