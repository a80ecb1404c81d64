/* SPDX-License-Identifier: Apache-2.0 */
/* Carries out the I/O of a disk: by io_uring, or by plain system calls. */
#ifndef SARDINE_VMM_VIRTIO_BLK_ENGINE_H
#define SARDINE_VMM_VIRTIO_BLK_ENGINE_H

#include <liburing.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/cleanup.h"
#include "base/syscalls.h"
#include "ksm/hold.h"
#include "vmm/io-loop.h"
#include "vmm/virtio-blk-image.h"
#include "vmm/virtio-blk.h"

/* Jobs in flight at most; the rings are as large, so that neither can overflow. */
#define BLK_JOBS_MAX 64

enum blk_op {
	BLK_OP_READ,
	BLK_OP_WRITE,
	BLK_OP_SYNC,	     /* fdatasync */
	BLK_OP_DISCARD,	     /* deallocate if the host can: a hint */
	BLK_OP_ZERO_UNMAP,   /* zero, by deallocating if the host can */
	BLK_OP_ZERO,	     /* zero, keeping the space allocated */
	BLK_OP_WRITE_ZEROES, /* zero by writing, where the host knows no better; not for callers */
	BLK_OPS,
};

/* One I/O of any length: several steps (system calls or io_uring entries) until all bytes are done. */
struct blk_job {
	enum blk_op op;
	bool write_through; /* on stable storage before it counts as done */
	struct iovec *iov;  /* of READ and WRITE: changed as the job proceeds */
	unsigned iov_count;
	uint64_t offset;
	uint64_t bytes;	      /* left; 0 for SYNC */
	struct iovec bounce;  /* the engine's: an aligned buffer in place of iov, and its part in this step */
	unsigned retries;     /* of steps that were interrupted */
	struct blk_job *next; /* while it waits to be submitted */
};

struct blk_engine {
	const struct blk_image *image;
	/* Called for each job when it ends: result 0 or a negative errno. */
	void (*done)(void *arg, struct blk_job *job, int result);
	void *arg;
	struct hold *hold; /* members rest here while the kernel works; NULL: none */
	bool ring_on;	   /* false: plain */
	bool draining;	   /* jobs end after the step that they are in */
	struct io_uring ring;
	int event_fd;	    /* signalled by completions of the ring; -1: plain from the start */
	unsigned in_flight; /* jobs that were started and have not ended */
	unsigned in_kernel; /* of them, those with an entry in the ring */
	struct blk_job *ready, **ready_tail; /* jobs whose next step is to be prepared */
	uint64_t misaligned;		     /* steps that were bounced */
};

/**
 * blk_engine_init() - Start an engine.
 * @e: the engine.
 * @image: borrowed.
 * @kind: AUTO falls back to plain.
 * @done, @arg: called for jobs that end, in whatever order they end.
 *
 * Return: 0, or -ENOTSUP when BLK_ENGINE_IO_URING was asked for and the host has none, or the errno of
 * eventfd.
 */
int blk_engine_init(struct blk_engine *e, const struct blk_image *image, enum blk_engine_kind kind,
		    void (*done)(void *arg, struct blk_job *job, int result), void *arg) must_check;

/* Context: nothing is in flight. */
void blk_engine_done(struct blk_engine *e);

/* Start a job; it belongs to the engine until it ends. At most BLK_JOBS_MAX at a time. */
void blk_engine_start(struct blk_engine *e, struct blk_job *job);

/* After a batch of starts: one submission for all. Plain jobs are carried out here. */
void blk_engine_submit(struct blk_engine *e);

/* Take what has completed, without waiting; go on with jobs that have steps left. */
void blk_engine_reap(struct blk_engine *e);

/* Wait for all jobs, whole. Context: under the device's lock; blocks on I/O. */
void blk_engine_finish(struct blk_engine *e);

/* Wait until no job is in flight. Only steps that the kernel has already are waited for: jobs with steps left
 * end with -ECANCELED, so that a reset does not take as long as a guest's requests would. Context: any thread,
 * under the lock that guards the engine. */
void blk_engine_drain(struct blk_engine *e);

/**
 * blk_job_advance() - Account for one finished step.
 * @job: the job.
 * @result: bytes transferred, or a negative errno.
 *
 * Return: 1 when another step is needed, 0 when the job is done, a negative errno when it failed.
 */
int blk_job_advance(struct blk_job *job, int64_t result) must_check;

extern const struct syscall_list blk_engine_syscalls;

#endif
