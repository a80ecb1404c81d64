/* SPDX-License-Identifier: Apache-2.0 */
/* Carries out the I/O of a disk. */
/*
 * Theory of operation
 *
 * A job is cut into steps; blk_job_advance() is the one place that decides, after each step, whether a job
 * goes on (short transfers, zeroing by hand where the file system cannot, syncing after a write-through
 * discard), has ended or has failed. Both ways of carrying steps out share it:
 *
 *   io_uring   each step is one entry; a batch is submitted with one call; completions signal an eventfd that
 *              the owner watches. Buffers are never registered: guest memory must stay free to be replaced
 *              between requests.
 *   plain      each step is one system call, made in blk_engine_submit().
 *
 * Draining begins no step: it holds the device's lock, on which the I/O thread, with the rest of its work, may
 * be waiting.
 *
 * Threads: none of its own. All calls come under the device's lock, from the I/O thread, or from a vCPU
 * thread that resets the device and so drains. Draining waits inside io_uring_enter() and needs no other
 * thread of ours to do anything: the kernel finishes I/O that another thread submitted by interrupting that
 * thread.
 *
 * While the kernel submits, waits or makes a plain step, the calling thread rests as far as the guest's hold is concerned: only the
 * kernel touches guest memory then, in frames that the owner has entered as in flight. Bounce buffers are copied by the thread itself,
 * awake.
 *
 * Buffers that O_DIRECT does not take as they lie are bounced: the job gets an aligned buffer of at most
 * BOUNCE_BYTES until it ends, and goes through it in as many steps as that needs. So a guest cannot have more
 * than BLK_JOBS_MAX of them.
 *
 * When the kernel refuses a submission for good (memory), the engine waits for what is in flight, and carries
 * on plainly until the VM ends. Entries that were prepared but not taken are dropped with the ring, and their
 * jobs done plainly.
 */
#include "vmm/virtio-blk-engine.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include "vmm/virtqueue.h"

/* A step that was interrupted is made again, but not for ever. */
#define STEP_RETRIES_MAX 16

/* Zeroes written in one step: plainly, ZERO_STEP_IOVS times the buffer; in the ring, the buffer. */
#define ZERO_BYTES     65536u
#define ZERO_STEP_IOVS 16

/* Of a buffer in place of misaligned ones; a multiple of any alignment. */
#define BOUNCE_BYTES 65536u
_Static_assert(BOUNCE_BYTES % BLK_ALIGN_MAX == 0, "steps of a job stay aligned");

/* Read only ever, so it stays one shared page of zeroes to the host. Aligned for direct I/O. */
static const uint8_t zeroes[ZERO_BYTES] __attribute__((aligned(BLK_ALIGN_MAX)));

static const int fallocate_modes[BLK_OPS] = {
	[BLK_OP_DISCARD] = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
	[BLK_OP_ZERO_UNMAP] = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
	[BLK_OP_ZERO] = FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
};

static bool op_transfers(enum blk_op op)
{
	return op == BLK_OP_READ || op == BLK_OP_WRITE || op == BLK_OP_WRITE_ZEROES;
}

static int advance_transfer(struct blk_job *job, int64_t result)
{
	size_t n = (size_t)result;

	if (result == 0 || n > job->bytes)
		return -EIO; /* the image has shrunk */
	job->offset += n;
	job->bytes -= n;
	if (job->op != BLK_OP_WRITE_ZEROES)
		iov_trim_front(&job->iov, &job->iov_count, n);
	job->retries = 0;
	return job->bytes ? 1 : 0;
}

/* Without support by the file system a discard is void, and zeroing is done by hand. */
static int advance_unsupported(struct blk_job *job)
{
	if (job->op == BLK_OP_DISCARD)
		return 0;
	job->op = BLK_OP_WRITE_ZEROES;
	return 1;
}

int blk_job_advance(struct blk_job *job, int64_t result)
{
	bool is_fallocate = fallocate_modes[job->op] != 0;
	int r = 0;

	if ((result == -EINTR || result == -EAGAIN) && job->retries++ < STEP_RETRIES_MAX)
		return 1;
	if (is_fallocate && result == -EOPNOTSUPP)
		r = advance_unsupported(job);
	else if (result < 0)
		return (int)result;
	else if (op_transfers(job->op))
		r = advance_transfer(job, result);
	if (r != 0)
		return r;
	/* Transfers were written with RWF_DSYNC; the others need a sync of their own. */
	if (job->write_through && is_fallocate) {
		job->op = BLK_OP_SYNC;
		job->write_through = false;
		return 1;
	}
	return 0;
}

/* What the next step of a job is, for both ways of carrying it out. */
struct step {
	int fd;
	const struct iovec *iov;
	unsigned iov_count;
	int rw_flags;
	struct iovec zero_iov[ZERO_STEP_IOVS];
};

static void step_zeroes(const struct blk_job *job, struct step *step)
{
	uint64_t left = job->bytes;

	step->iov_count = 0;
	while (left && step->iov_count < ZERO_STEP_IOVS) {
		size_t n = left < ZERO_BYTES ? (size_t)left : ZERO_BYTES;
		union {
			const uint8_t *in;
			void *out;
		} base = {.in = zeroes}; /* writev reads it only */

		step->zero_iov[step->iov_count++] = (struct iovec){.iov_base = base.out, .iov_len = n};
		left -= n;
	}
	step->iov = step->zero_iov;
}

/* Set the next step of a job up to go through its bounce buffer, which it gets with its first one. */
static int step_bounce(struct blk_engine *e, struct blk_job *job, struct step *step)
{
	size_t n = job->bytes < BOUNCE_BYTES ? (size_t)job->bytes : BOUNCE_BYTES;

	/* Later steps are never larger. */
	if (!job->bounce.iov_base && posix_memalign(&job->bounce.iov_base, BLK_ALIGN_MAX, n) != 0) {
		job->bounce.iov_base = NULL;
		return -ENOMEM;
	}
	job->bounce.iov_len = n;
	if (job->op == BLK_OP_WRITE)
		iov_copy_out(job->iov, job->iov_count, 0, job->bounce.iov_base, n);
	step->iov = &job->bounce;
	step->iov_count = 1;
	e->misaligned++;
	return 0;
}

/* Return: 0 or -ENOMEM. */
static int step_prepare(struct blk_engine *e, struct blk_job *job, struct step *step)
{
	step->fd = e->image->fd;
	step->rw_flags = job->write_through && job->op != BLK_OP_READ ? RWF_DSYNC : 0;
	if (!op_transfers(job->op))
		return 0;
	if (job->op == BLK_OP_WRITE_ZEROES) {
		step_zeroes(job, step);
		return 0;
	}
	if (job->bounce.iov_base || !blk_image_takes_buffers(e->image, job->iov, job->iov_count))
		return step_bounce(e, job, step);
	step->iov = job->iov;
	step->iov_count = job->iov_count;
	return 0;
}

static int64_t step_run(const struct blk_job *job, const struct step *step)
{
	int64_t n = -1;

	switch (job->op) {
	case BLK_OP_READ:
		n = preadv(step->fd, step->iov, (int)step->iov_count, (off_t)job->offset);
		break;
	case BLK_OP_WRITE:
	case BLK_OP_WRITE_ZEROES:
		n = pwritev2(step->fd, step->iov, (int)step->iov_count, (off_t)job->offset, step->rw_flags);
		break;
	case BLK_OP_SYNC:
		n = fdatasync(step->fd);
		break;
	case BLK_OP_DISCARD:
	case BLK_OP_ZERO_UNMAP:
	case BLK_OP_ZERO:
		n = fallocate(step->fd, fallocate_modes[job->op], (off_t)job->offset, (off_t)job->bytes);
		break;
	case BLK_OPS:
		return -EINVAL;
	}
	return n < 0 ? -errno : n;
}

/* The iovecs of zeroes must live until the kernel has taken the entry, so here they are one write of the
 * buffer. */
static void step_entry(const struct blk_job *job, const struct step *step, struct io_uring_sqe *sqe)
{
	switch (job->op) {
	case BLK_OP_READ:
		io_uring_prep_readv(sqe, step->fd, step->iov, step->iov_count, job->offset);
		break;
	case BLK_OP_WRITE:
		io_uring_prep_writev2(sqe, step->fd, step->iov, step->iov_count, job->offset, step->rw_flags);
		break;
	case BLK_OP_WRITE_ZEROES:
		io_uring_prep_write(sqe, step->fd, zeroes, (unsigned)step->zero_iov[0].iov_len, job->offset);
		sqe->rw_flags = step->rw_flags;
		break;
	case BLK_OP_SYNC:
		io_uring_prep_fsync(sqe, step->fd, IORING_FSYNC_DATASYNC);
		break;
	case BLK_OP_DISCARD:
	case BLK_OP_ZERO_UNMAP:
	case BLK_OP_ZERO:
		io_uring_prep_fallocate(sqe, step->fd, fallocate_modes[job->op], (off_t)job->offset,
					(off_t)job->bytes);
		break;
	case BLK_OPS:
		io_uring_prep_nop(sqe);
		break;
	}
}

/* What step_entry() makes. */
static const int ring_ops[] = {IORING_OP_READV, IORING_OP_WRITEV,    IORING_OP_WRITE,
			       IORING_OP_FSYNC, IORING_OP_FALLOCATE, IORING_OP_NOP};

static bool ring_has_ops(struct io_uring *ring)
{
	struct io_uring_probe *probe = io_uring_get_probe_ring(ring);
	bool ok = probe != NULL;

	for (size_t i = 0; ok && i < ARRAY_SIZE(ring_ops); i++)
		ok = io_uring_opcode_supported(probe, ring_ops[i]);
	io_uring_free_probe(probe);
	return ok;
}

/*
 * A ring can open files, send messages and more, past any seccomp filter: it is made to take what step_entry() puts into it, and
 * nothing else, for good (IORING_REGISTER_RESTRICTIONS, Linux 5.10).
 */
static int ring_restrict(struct io_uring *ring)
{
	struct io_uring_restriction allowed[ARRAY_SIZE(ring_ops)] = {0};

	for (size_t i = 0; i < ARRAY_SIZE(ring_ops); i++) {
		allowed[i].opcode = IORING_RESTRICTION_SQE_OP;
		allowed[i].sqe_op = (uint8_t)ring_ops[i];
	}
	/* liburing 2.3 declares functions for these two, but does not export them. */
	if (syscall(SYS_io_uring_register, ring->ring_fd, IORING_REGISTER_RESTRICTIONS, allowed,
		    ARRAY_SIZE(allowed)) < 0 ||
	    syscall(SYS_io_uring_register, ring->ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0) < 0)
		return -errno;
	return 0;
}

static int ring_set_up(struct blk_engine *e)
{
	/* One I/O thread submits; a few workers are enough for what cannot complete at once. */
	unsigned workers[2] = {8, 1};
	int r;

	/* SUBMIT_STABLE: entries and iovecs may change once they are submitted (5.5). */
	if (!(e->ring.features & IORING_FEAT_SUBMIT_STABLE) || !ring_has_ops(&e->ring))
		return -ENOTSUP;
	e->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	r = e->event_fd < 0 ? -errno : io_uring_register_eventfd(&e->ring, e->event_fd);
	if (r < 0)
		return r;
	if (io_uring_register_iowq_max_workers(&e->ring, workers) < 0) {
		/* Before 5.15: the kernel's own limit. */
	}
	return ring_restrict(&e->ring);
}

static int ring_init(struct blk_engine *e)
{
	int r = io_uring_queue_init(BLK_JOBS_MAX, &e->ring, IORING_SETUP_R_DISABLED);

	if (r < 0)
		return r;
	r = ring_set_up(e);
	if (r < 0) {
		close_fd_p(&e->event_fd);
		e->event_fd = -1;
		io_uring_queue_exit(&e->ring);
		return r;
	}
	e->ring_on = true;
	return 0;
}

int blk_engine_init(struct blk_engine *e, const struct blk_image *image, enum blk_engine_kind kind,
		    void (*done)(void *arg, struct blk_job *job, int result), void *arg)
{
	*e = (struct blk_engine){.image = image, .done = done, .arg = arg, .event_fd = -1};
	e->ready_tail = &e->ready;
	if (kind == BLK_ENGINE_PLAIN)
		return 0;
	if (ring_init(e) < 0 && kind == BLK_ENGINE_IO_URING)
		return -ENOTSUP;
	return 0;
}

static void ring_close(struct blk_engine *e)
{
	io_uring_queue_exit(&e->ring);
	e->ring_on = false;
}

void blk_engine_done(struct blk_engine *e)
{
	if (e->ring_on)
		ring_close(e);
	close_fd_p(&e->event_fd);
	e->event_fd = -1;
}

static void ready_add(struct blk_engine *e, struct blk_job *job)
{
	job->next = NULL;
	*e->ready_tail = job;
	e->ready_tail = &job->next;
}

static struct blk_job *ready_take(struct blk_engine *e)
{
	struct blk_job *job = e->ready;

	if (!job)
		return NULL;
	e->ready = job->next;
	if (!e->ready)
		e->ready_tail = &e->ready;
	return job;
}

void blk_engine_start(struct blk_engine *e, struct blk_job *job)
{
	e->in_flight++;
	ready_add(e, job);
}

static void job_end(struct blk_engine *e, struct blk_job *job, int result)
{
	free(job->bounce.iov_base);
	job->bounce.iov_base = NULL;
	e->in_flight--;
	e->done(e->arg, job, result);
}

/* A step of a job has finished: the job goes on or ends. */
static void job_stepped(struct blk_engine *e, struct blk_job *job, int64_t result)
{
	int r;

	if (job->bounce.iov_base && job->op == BLK_OP_READ && result > 0 &&
	    (uint64_t)result <= job->bounce.iov_len)
		iov_copy_in(job->iov, job->iov_count, job->bounce.iov_base, (size_t)result);
	r = blk_job_advance(job, result);
	if (r > 0 && !e->draining)
		ready_add(e, job);
	else
		job_end(e, job, r > 0 ? -ECANCELED : r);
}

static void submit_plain(struct blk_engine *e)
{
	struct blk_job *job;

	while ((job = ready_take(e))) {
		struct step step = {0};
		int64_t r = step_prepare(e, job, &step);

		if (r == 0) {
			hold_rest(e->hold);
			r = step_run(job, &step);
			hold_wake(e->hold);
		}
		job_stepped(e, job, r);
	}
}

static void ring_reap(struct blk_engine *e)
{
	struct io_uring_cqe *cqe;

	while (io_uring_peek_cqe(&e->ring, &cqe) == 0) {
		struct blk_job *job = io_uring_cqe_get_data(cqe);
		int result = cqe->res;

		io_uring_cqe_seen(&e->ring, cqe);
		e->in_kernel--;
		job_stepped(e, job, result);
	}
}

/* Take one completion, waiting for it. */
static void ring_wait(struct blk_engine *e)
{
	struct io_uring_cqe *cqe;

	int r;

	/* Signals (a vCPU's kicks) interrupt it; then it is asked again by the caller's loop. */
	hold_rest(e->hold);
	r = io_uring_wait_cqe(&e->ring, &cqe);
	hold_wake(e->hold);
	if (r == 0)
		ring_reap(e);
}

/* The kernel takes no more entries: finish what it has, drop the ring, and do the rest plainly. */
static void ring_give_up(struct blk_engine *e, struct blk_job **rest, unsigned count)
{
	while (e->in_kernel)
		ring_wait(e);
	ring_close(e);
	for (unsigned i = 0; i < count; i++)
		ready_add(e, rest[i]);
	submit_plain(e);
}

static void submit_ring(struct blk_engine *e)
{
	struct blk_job *batch[BLK_JOBS_MAX];
	unsigned count = 0, taken = 0;
	struct blk_job *job;

	while (count < BLK_JOBS_MAX && (job = ready_take(e))) {
		struct io_uring_sqe *sqe;
		struct step step = {0};
		int r = step_prepare(e, job, &step);

		if (r < 0) {
			job_end(e, job, r);
			continue;
		}
		sqe = io_uring_get_sqe(&e->ring);
		/* There are as many entries as jobs, and each batch is taken whole. */
		if (!sqe) {
			ready_add(e, job);
			break;
		}
		step_entry(job, &step, sqe);
		io_uring_sqe_set_data(sqe, job);
		batch[count++] = job;
	}
	while (taken < count) {
		int r;

		hold_rest(e->hold);
		r = io_uring_submit(&e->ring);
		hold_wake(e->hold);
		if (r == -EINTR)
			continue;
		if (r <= 0)
			break;
		taken += (unsigned)r;
		e->in_kernel += (unsigned)r;
	}
	if (taken < count)
		ring_give_up(e, batch + taken, count - taken);
}

void blk_engine_submit(struct blk_engine *e)
{
	if (e->ring_on)
		submit_ring(e);
	else
		submit_plain(e);
}

void blk_engine_reap(struct blk_engine *e)
{
	uint64_t count;

	if (e->event_fd >= 0 && read(e->event_fd, &count, sizeof(count)) < 0) {
		/* EAGAIN: somebody drained meanwhile. */
	}
	if (!e->ring_on)
		return;
	ring_reap(e);
	if (e->ready)
		blk_engine_submit(e);
}

void blk_engine_finish(struct blk_engine *e)
{
	while (e->in_flight) {
		blk_engine_submit(e);
		if (e->in_kernel)
			ring_wait(e);
	}
}

void blk_engine_drain(struct blk_engine *e)
{
	struct blk_job *job;

	e->draining = true;
	while ((job = ready_take(e)))
		job_end(e, job, -ECANCELED);
	while (e->in_kernel)
		ring_wait(e);
	e->draining = false;
}

/* The ring itself takes only the operations that step_entry() makes (ring_restrict()). */
DEFINE_SYSCALLS(blk_engine_syscalls, SYSCALL(io_uring_enter), SYSCALL(preadv), SYSCALL(pwritev2),
		SYSCALL(fdatasync), SYSCALL(fallocate), SYSCALL(read), SYSCALL(write));
