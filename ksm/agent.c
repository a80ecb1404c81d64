/* SPDX-License-Identifier: Apache-2.0 */
/* The memory agent: its thread, its passes, and what others ask of it. */
#include "ksm/agent.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/signals.h"
#include "base/size.h"
#include "ksm/agent-internal.h"

/*
 * Theory of operation
 *
 * A *pass*: frames that the guest gave back are noted; events of the store are taken; all memory is *scanned* for writes
 * (agent-scan.c), what was written becomes volatile; volatile frames that this scan did not report, which were thus
 * unwritten for the time between two scans, are *read* (agent-hash.c) and are zero, or submitted to the store; what it
 * wants is *donated* (agent-donate.c); what it has is *planned* and applied (agent-plan.c); extents are looked at for
 * frames that were written since (agent-breaks.c). The book of extents and of matches without one is agent-extents.c,
 * the table of states agent-frames.c and page-states.c.
 *
 * The invariants I1 (bytes decide) and I2 (no write is lost) are held by the applier (extent-apply.c), whatever the
 * agent believes: its states, the store's answers and the plan are hints. A wrong one costs sharing or time. What
 * the agent adds is that hints become true again: everything that is written is reported by a scan, once, and whatever
 * was believed of that frame ends there. Only frames of extents are not watched; there the kernel is asked which are
 * copies.
 *
 * States of a frame (page-states.h). Volatile frames are on their way: in a *block* (2 MiB) that is on the list of
 * pending blocks, so that a pass without work walks over no frames. FRAME_FRESH parts those that the latest scan has
 * reported from those that it has not. A written frame of an extent is volatile and FRAME_BROKEN: a private copy, in a
 * mapping that is not watched. The bitmap of records, which the store reads, has the bit of a frame while it is candidate
 * or matched.
 *
 * A frame that the guest gave back is marked (agent_discarded(), a bit, on any thread), and what it is the next scan says:
 * a hole is given, anything else was touched again.
 *
 * Cost: the kernel's walk (0.5 to 1 ms per GiB, 0.5 us per mapping), and per written frame a report, a hash (0.25 us)
 * and an answer; per shared frame a comparison (0.34 us) and its part of a hold. Holes that stay holes cost nothing per
 * frame where all of a block is one, a byte's comparison per eight frames elsewhere.
 *
 * Threads: all of this is one thread's. The mutex guards commands and published figures; it is never held while the guest
 * is, nor while the store is asked, so any thread may take it shortly. The link is called by the agent's thread alone.
 *
 * Rejected: a walk over all frames per pass (1 ms per GiB for nothing); hashing what was written before it rested (most
 * of it changes again); keys per frame (8 bytes each); telling the store of each write (the bitmap does).
 */
#define FIRST_GAP_NS 100000000u /* between the first passes; doubles up to the interval */
#define QUIET_MAX	 3u /* doublings of the interval while nothing is written that may be read */
#define MERGE_GAP_NS 20000000u	/* between a scan and the next of agent_merge(): how long a frame must rest */
#define MERGE_QUIET  3u		/* passes in a row without a find, by which everything that rests was read */

struct agent_merge_job {
	struct agent_merge_job *next;
	uint64_t deadline_ns;
	struct agent_merge_result result;
	int code;
	bool done;
};

static uint64_t thread_cpu_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void publish(struct agent *a)
{
	struct agent_stats *s = &a->sums;

	memcpy(s->frames, a->frame_counts, sizeof(s->frames));
	memcpy(s->moves, a->moves, sizeof(s->moves));
	s->link = a->link->ops->name(a->link);
	s->cpu_ns = thread_cpu_ns();
	s->extents = a->extents.count;
	s->extent_pages = a->frame_counts[PAGE_STATE_SHARED];
	s->scattered = a->frame_counts[PAGE_STATE_MATCHED];
	s->table_bytes = agent_frames_bytes(a);
	extent_applier_stats(a->applier, &s->apply);
	s->shares = (struct store_shares){0};
	if (a->link->ops->shares)
		a->link->ops->shares(a->link, &s->shares);
	pthread_mutex_lock(&a->mutex);
	a->published = *s;
	pthread_mutex_unlock(&a->mutex);
}

/* All that is known is dropped; memory was filled anew. */
static void forget(struct agent *a)
{
	agent_extents_drop_all(a);
	agent_frames_forget(a);
	a->matches.count = a->new_matches.count = 0;
	a->wanted.count = a->moving.count = a->zeros.count = 0;
	memset(a->fills_seen, 0, sizeof(a->fills_seen));
}

/* Events alone: what the store has found meanwhile is shared at once. */
static int pass_events(struct agent *a)
{
	int r = agent_events(a);

	if (r == 0)
		r = agent_move(a);
	return r == 0 ? agent_plan(a) : r;
}

static int pass_steps(struct agent *a, bool all)
{
	int r;

	agent_frames_take_given(a);
	r = agent_events(a);
	if (r == 0)
		r = agent_scan(a);
	a->scanned_ns = clock_now_ns();
	if (r == 0)
		r = agent_read(a);
	if (r == 0)
		r = agent_breaks(a, all);
	return r == 0 ? pass_events(a) : r;
}

/* Whether a pass may begin; in_pass from then on. */
static bool pass_begin(struct agent *a, bool *ret_forget)
{
	bool may;

	pthread_mutex_lock(&a->mutex);
	may = a->phase == AGENT_RUNS && a->suspended == 0;
	a->in_pass = may;
	*ret_forget = may && a->forget;
	if (may)
		a->forget = false;
	pthread_mutex_unlock(&a->mutex);
	return may;
}

static void pass_end(struct agent *a, int r)
{
	agent_shrink(&a->wanted);
	agent_shrink(&a->zeros);
	agent_shrink(&a->moving);
	agent_shrink(&a->new_matches);
	if (a->link->ops->rest)
		a->link->ops->rest(a->link);
	if (r < 0 && r != -ECANCELED) {
		a->sums.errors++;
		a->sums.last_error = r;
	}
	publish(a);
	pthread_mutex_lock(&a->mutex);
	a->in_pass = false;
	pthread_cond_broadcast(&a->changed);
	pthread_mutex_unlock(&a->mutex);
}

/* Return: 0, -ECANCELED when it was interrupted or may not begin, or what ended it. */
static int pass(struct agent *a, bool scan, bool all)
{
	uint64_t start = clock_now_ns();
	bool shall_forget;
	int r;

	if (!pass_begin(a, &shall_forget))
		return -ECANCELED;
	if (shall_forget)
		forget(a);
	a->pass = (struct pass_result){0};
	r = scan ? pass_steps(a, all) : pass_events(a);
	if (scan) {
		a->sums.passes++;
		a->sums.pass_ns += clock_now_ns() - start;
	}
	pass_end(a, r);
	return r;
}

static int poll_ms(uint64_t until_ns)
{
	uint64_t now = clock_now_ns();

	if (now >= until_ns)
		return 0;
	return (until_ns - now) / 1000000 < 3600000 ? (int)((until_ns - now + 999999) / 1000000) : 3600000;
}

/* Until a time, a command, or (@fd not -1) an event. Returns whether an event came. */
static bool wait_until(struct agent *a, int fd, uint64_t until_ns)
{
	struct pollfd p[] = {{.fd = a->wake_fd, .events = POLLIN}, {.fd = fd, .events = POLLIN}};
	uint64_t count;

	if (poll(p, 2, until_ns == UINT64_MAX ? -1 : poll_ms(until_ns)) <= 0)
		return false;
	if (p[0].revents)
		(void)!read(a->wake_fd, &count, sizeof(count));
	return p[1].revents & POLLIN;
}

static bool interrupted(const struct agent *a)
{
	return atomic_load_explicit(&a->interrupt, memory_order_relaxed);
}

/* @quiet: passes in a row that found nothing, this one left out. */
static bool job_settled(const struct agent *a, uint64_t passes, unsigned *quiet)
{
	const struct pass_result *p = &a->pass;

	if (p->shared || p->zeroed || p->donated || p->retaken || p->moved) {
		*quiet = 0;
		return false;
	}
	return ++*quiet >= MERGE_QUIET || (passes > 1 && p->due == 0);
}

static int job_passes(struct agent *a, struct agent_merge_job *job)
{
	struct agent_merge_result *res = &job->result;
	unsigned quiet = 0;
	int r = 0;

	while (!res->settled) {
		a->forced = res->passes == 0;
		r = pass(a, true, res->passes < 2); /* twice: is what broke at rest? */
		a->forced = false;
		if (r < 0)
			return r;
		res->passes++;
		res->pages_shared += a->pass.shared;
		res->pages_zeroed += a->pass.zeroed;
		res->settled = job_settled(a, res->passes, &quiet);
		if (!res->settled && clock_now_ns() >= job->deadline_ns)
			return -ETIMEDOUT;
		while (!res->settled && !interrupted(a) && clock_now_ns() < a->scanned_ns + MERGE_GAP_NS)
			wait_until(a, -1, a->scanned_ns + MERGE_GAP_NS);
	}
	return 0;
}

static void job_run(struct agent *a, struct agent_merge_job *job)
{
	uint64_t start = clock_now_ns(), cpu = thread_cpu_ns(), holds = a->sums.apply.holds;

	job->code = job_passes(a, job);
	job->result.elapsed_ns = clock_now_ns() - start;
	job->result.cpu_ns = thread_cpu_ns() - cpu;
	job->result.holds = a->sums.apply.holds - holds;
}

static struct agent_merge_job *job_take(struct agent *a)
{
	struct agent_merge_job *job;

	pthread_mutex_lock(&a->mutex);
	job = a->jobs;
	if (job)
		a->jobs = job->next;
	pthread_mutex_unlock(&a->mutex);
	return job;
}

static void job_done(struct agent *a, struct agent_merge_job *job, int code)
{
	pthread_mutex_lock(&a->mutex);
	job->code = code;
	job->done = true;
	pthread_cond_broadcast(&a->changed);
	pthread_mutex_unlock(&a->mutex);
}

static bool shall_stop(struct agent *a)
{
	bool stop;

	pthread_mutex_lock(&a->mutex);
	stop = a->phase == AGENT_STOPS;
	pthread_mutex_unlock(&a->mutex);
	return stop;
}

/* An interrupted merge: who interrupted it? */
static int job_code(struct agent *a, int code)
{
	if (code != -ECANCELED)
		return code;
	return shall_stop(a) ? -ECANCELED : -EBUSY;
}

/* Nothing was done, and nothing waits to be read. */
static bool pass_was_quiet(const struct agent *a)
{
	const struct pass_result *p = &a->pass;

	return !(p->shared || p->zeroed || p->donated || p->hashed || p->retaken || p->moved || p->due);
}

static void *agent_main(void *arg)
{
	struct agent *a = arg;
	uint64_t gap = FIRST_GAP_NS < a->interval_ns ? FIRST_GAP_NS : a->interval_ns;
	uint64_t due = a->manual ? UINT64_MAX : clock_now_ns();
	unsigned quiet = 0;

	if (a->thread_begins)
		a->thread_begins(a->thread_arg);
	while (!shall_stop(a)) {
		bool idle = a->manual || interrupted(a); /* suspended */
		struct agent_merge_job *job;
		bool event = wait_until(a, idle ? -1 : a->link->ops->poll_fd(a->link),
					interrupted(a) ? UINT64_MAX : due);

		while ((job = job_take(a))) {
			job_run(a, job);
			job_done(a, job, job_code(a, job->code));
		}
		if (clock_now_ns() >= due) {
			(void)!pass(a, true, false);
			/* What nobody writes is looked at less often; what is, as often as asked. */
			quiet = pass_was_quiet(a) ? quiet + (quiet < QUIET_MAX) : 0;
			due = clock_now_ns() + (gap << (gap == a->interval_ns ? quiet : 0));
			gap = 2 * gap < a->interval_ns ? 2 * gap : a->interval_ns;
		} else if (event) {
			(void)!pass(a, false, false);
		}
	}
	return NULL;
}

static int ranges_copy(struct agent *a, const struct agent_config *config)
{
	uint64_t end = 0;

	if (config->range_count == 0)
		return -EINVAL;
	for (size_t i = 0; i < config->range_count; i++) {
		const struct agent_range *x = &config->ranges[i];

		if (x->frames == 0 || x->first.v < end ||
		    !range_fits(x->first.v, x->frames, STORE_FRAMES_MAX))
			return -EINVAL;
		end = x->first.v + x->frames;
	}
	a->ranges = calloc(config->range_count, sizeof(*a->ranges));
	if (!a->ranges)
		return -ENOMEM;
	memcpy(a->ranges, config->ranges, config->range_count * sizeof(*a->ranges));
	a->range_count = config->range_count;
	return 0;
}

static int agent_init(struct agent *a, const struct agent_config *config, struct errmsg *err)
{
	int r = ranges_copy(a, config);

	if (r == 0)
		r = agent_frames_init(a);
	if (r == 0)
		r = write_tracker_new(err, &a->tracker);
	if (r == 0)
		r = extent_applier_new(&a->view, a->tracker, &a->applier);
	if (r == 0)
		r = agent_watch_all(a);
	if (r < 0)
		return r;
	a->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (a->wake_fd < 0)
		return -errno;
	a->sums.tracker = write_tracker_name(a->tracker);
	return 0;
}

int agent_new(const struct agent_config *config, struct errmsg *err, struct agent **ret)
{
	struct agent *a = calloc(1, sizeof(*a));
	int r;

	if (!a) {
		store_link_free(config->link);
		return -ENOMEM;
	}
	a->view = config->view;
	a->link = config->link;
	a->recorded = config->recorded;
	a->interval_ns = (uint64_t)(config->interval_ms ? config->interval_ms : AGENT_INTERVAL_MS) * 1000000;
	a->key_mask = config->key_mask;
	a->manual = config->manual;
	a->keep_zero = config->keep_zero;
	a->thread_begins = config->thread_begins;
	a->thread_arg = config->thread_arg;
	a->wake_fd = -1;
	pthread_mutex_init(&a->mutex, NULL);
	pthread_cond_init(&a->changed, NULL);
	r = agent_init(a, config, err);
	if (r < 0) {
		agent_free(a);
		return r;
	}
	publish(a);
	a->published.cpu_ns = 0; /* its own thread has not begun */
	*ret = a;
	return 0;
}

static void wake(struct agent *a)
{
	(void)!write(a->wake_fd, &(uint64_t){1}, sizeof(uint64_t));
}

/* Under the mutex. */
static void set_interrupt(struct agent *a)
{
	atomic_store_explicit(&a->interrupt, a->suspended > 0 || a->phase == AGENT_STOPS,
			      memory_order_relaxed);
}

static void stop_thread(struct agent *a)
{
	enum agent_phase was;
	struct agent_merge_job *job;

	pthread_mutex_lock(&a->mutex);
	was = a->phase;
	a->phase = AGENT_STOPS;
	set_interrupt(a);
	pthread_mutex_unlock(&a->mutex);
	if (was == AGENT_RUNS) {
		wake(a);
		pthread_join(a->thread, NULL);
	}
	while ((job = job_take(a)))
		job_done(a, job, -ECANCELED);
}

void agent_free(struct agent *a)
{
	if (!a)
		return;
	stop_thread(a);
	store_link_free(a->link);
	extent_applier_free(a->applier);
	write_tracker_free(a->tracker);
	agent_frames_done(a);
	free(a->matches.v);
	free(a->new_matches.v);
	free(a->extents.v);
	free(a->fills.v);
	free(a->wanted.v);
	free(a->moving.v);
	free(a->zeros.v);
	free(a->ranges);
	close_fd_p(&a->wake_fd);
	pthread_cond_destroy(&a->changed);
	pthread_mutex_destroy(&a->mutex);
	free(a);
}

int agent_start(struct agent *a)
{
	int r;

	a->phase = AGENT_RUNS;
	r = signals_thread_create(&a->thread, agent_main, a);
	if (r < 0)
		a->phase = AGENT_NEW;
	return r;
}

void agent_suspend(struct agent *a)
{
	pthread_mutex_lock(&a->mutex);
	a->suspended++;
	set_interrupt(a);
	while (a->in_pass)
		pthread_cond_wait(&a->changed, &a->mutex);
	pthread_mutex_unlock(&a->mutex);
}

int agent_resume(struct agent *a, bool forget_all)
{
	int r = forget_all ? agent_watch_all(a) : 0;

	pthread_mutex_lock(&a->mutex);
	a->forget = a->forget || forget_all;
	a->suspended--;
	set_interrupt(a);
	pthread_mutex_unlock(&a->mutex);
	wake(a);
	return r;
}

int agent_watch(struct agent *a, hva_t start, uint64_t bytes)
{
	return write_tracker_add(a->tracker, start, bytes);
}

int agent_merge(struct agent *a, unsigned max_ms, struct agent_merge_result *ret)
{
	struct agent_merge_job job = {.deadline_ns = clock_now_ns() + (uint64_t)max_ms * 1000000};
	struct agent_merge_job **last;

	pthread_mutex_lock(&a->mutex);
	if (a->phase != AGENT_RUNS || a->suspended) {
		bool busy = a->phase == AGENT_RUNS;

		pthread_mutex_unlock(&a->mutex);
		return busy ? -EBUSY : -ECANCELED;
	}
	for (last = &a->jobs; *last; last = &(*last)->next)
		;
	*last = &job;
	wake(a);
	while (!job.done)
		pthread_cond_wait(&a->changed, &a->mutex);
	pthread_mutex_unlock(&a->mutex);
	*ret = job.result;
	return job.code;
}

void agent_stats(struct agent *a, struct agent_stats *ret)
{
	pthread_mutex_lock(&a->mutex);
	*ret = a->published;
	pthread_mutex_unlock(&a->mutex);
}
