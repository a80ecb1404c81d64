/* SPDX-License-Identifier: Apache-2.0 */
/* The engine on a real guest: two vCPUs check and write their pages as fast as they can and read a disk into others, while their
 * memory is replaced by the store, broken by their writes, taken back and replaced again, and the VM is paused now and then.
 *
 * SARDINE_TORTURE_PAGES: how many pages to replace; default 20,000, with SARDINE_FULL 1,000,000. SARDINE_TORTURE_SECONDS: when to stop
 * before that, which is no failure; default 60, with SARDINE_FULL 600. SARDINE_TORTURE_SEED: of what is drawn by chance.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>

#include "base/clock.h"
#include "base/fs.h"
#include "base/size.h"
#include "ksm/extent-apply.h"
#include "ksm/segment.h"
#include "ksm/write-tracker.h"
#include "tests/unit/test.h"
#include "tests/vm/probe_vm.h"

#ifdef SARDINE_TEST_CONFINE
#include "tools/run-confine.h"
#endif

#define MEM	       (64 * MIB)
#define CHURN_FROM     (16 * MIB)
#define CHURN_TO       (40 * MIB)
#define IO_FROM	       (40 * MIB)
#define IO_TO	       (44 * MIB)
#define DISK_PAGES     2048u
#define EXTENTS	       64u
#define EXTENT_MAX     32u
#define RETAKE_MAX     64u
#define READY_SECONDS  120
#define ANSWER_SECONDS 120

struct torture {
	struct probe_vm p;
	struct guest_memory *mem;
	struct guest_view view;
	struct write_tracker *tracker;
	struct extent_applier *applier;
	char disk[40];
	uint64_t seed, chances;
	uint64_t retaken, retakes_refused, hot;
	_Atomic uint64_t remapped, begun, ended;
	/* The guest's side. */
	atomic_bool stop;
	atomic_bool failed;
	char failure[1200];
	uint64_t runs, steps, ios;
	_Atomic uint64_t ring, status; /* frames that the I/O thread writes; 0: not known yet */
};

static uint64_t env_number(const char *name, uint64_t otherwise)
{
	const char *text = getenv(name);

	return text ? strtoull(text, NULL, 10) : otherwise;
}

/* splitmix64 */
static uint64_t mix(uint64_t seed, uint64_t n)
{
	uint64_t z = seed + n * 0x9e3779b97f4a7c15u;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

static uint64_t chance(struct torture *t)
{
	return mix(t->seed, t->chances++);
}

/* ---- the guest's side ---- */

/* Sectors as tests/guest/probe.h has its patterns, under seed 1. */
static void make_disk(struct torture *t)
{
	auto_fd fd = -1;

	snprintf(t->disk, sizeof(t->disk), "/tmp/sardine-disk-XXXXXX");
	fd = mkstemp(t->disk);
	assert_true(fd >= 0);
	for (uint64_t s = 0; s < DISK_PAGES * 8; s++) {
		uint64_t sector[64], word = mix(1, s);

		for (unsigned i = 0; i < 64; i++, word += 0xd1342543de82ef95u)
			sector[i] = word;
		assert_int_equal(pwrite_full(fd, sector, sizeof(sector), s * sizeof(sector)), 0);
	}
}

/* One command to the guest. False: it did not answer, not well, or found something wrong. */
static bool ask(struct torture *t, const char *verb, unsigned ms, uint64_t seed)
{
	char line[256], answer[1024] = "";

	snprintf(line, sizeof(line),
		 "@7 %s from=%llu to=%llu io_from=%llu io_to=%llu disk_pages=%u cpus=2 ms=%u seed=%llu\n",
		 verb, (unsigned long long)CHURN_FROM, (unsigned long long)CHURN_TO,
		 (unsigned long long)IO_FROM, (unsigned long long)IO_TO, DISK_PAGES, ms,
		 (unsigned long long)seed);
	if (!probe_vm_say(&t->p, line) ||
	    !probe_vm_hear(&t->p, "@7 ", ANSWER_SECONDS, answer, sizeof(answer))) {
		snprintf(t->failure, sizeof(t->failure), "%s: no answer", verb);
	} else if (strncmp(answer, "ok", 2) != 0 || probe_vm_value(answer, "bad", 1) ||
		   probe_vm_value(answer, "io_bad", 1)) {
		snprintf(t->failure, sizeof(t->failure), "%s: %s", verb, answer);
	} else {
		t->runs++;
		t->steps += probe_vm_value(answer, "steps", 0);
		t->ios += probe_vm_value(answer, "ios", 0);
		atomic_store(&t->ring, probe_vm_value(answer, "ring", atomic_load(&t->ring)));
		atomic_store(&t->status, probe_vm_value(answer, "status", atomic_load(&t->status)));
		return true;
	}
	atomic_store(&t->failed, true);
	return false;
}

static void *keep_busy(void *arg)
{
	struct torture *t = arg;

	for (uint64_t i = 1; !atomic_load(&t->stop) && ask(t, "churn", 200, t->seed + i); i++)
		;
	return NULL;
}

static void *pause_now_and_then(void *arg)
{
	struct torture *t = arg;

	while (!atomic_load(&t->stop)) {
		vm_pause(t->p.vm);
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
		vm_resume(t->p.vm);
		nanosleep(&(struct timespec){.tv_nsec = 400000000}, NULL);
	}
	return NULL;
}

/* ---- the agent's side ---- */

static void remapped(void *arg, gfn_t first, uint64_t frames, hva_t at)
{
	struct torture *t = arg;

	(void)first;
	atomic_fetch_add(&t->remapped, 1);
	/* If it fails the frames are never unwritten, and never replaced. */
	(void)!write_tracker_add(t->tracker, at, frames * PAGE_BYTES);
}

static void discarded(void *arg, gfn_t first, uint64_t frames)
{
	(void)arg;
	(void)first;
	(void)frames;
}

static void reset_begins(void *arg)
{
	atomic_fetch_add(&((struct torture *)arg)->begun, 1);
}

static void reset_ended(void *arg)
{
	atomic_fetch_add(&((struct torture *)arg)->ended, 1);
}

static const struct guest_memory_watch watch = {remapped, discarded, reset_begins, reset_ended};

static uint8_t *bytes_of(struct torture *t, uint64_t gfn, uint64_t frames)
{
	hva_t at;

	assert_int_equal(t->view.ops->span(t->view.ctx, GFN(gfn), frames, &at), 0);
	return hva_ptr(at);
}

static void watch_private_memory(struct torture *t)
{
	enum frame_backing backing;
	uint64_t run;

	for (uint64_t i = 0; i < MEM / PAGE_BYTES; i += run) {
		assert_int_equal(guest_memory_backing(t->mem, GFN(i), &backing, &run), 0);
		if (backing == FRAME_PRIVATE)
			assert_int_equal(
				write_tracker_add(t->tracker, hva_of(bytes_of(t, i, run)), run * PAGE_BYTES),
				0);
	}
}

/* Mostly what the guest writes, then where its disk's data goes, then anywhere: its rings, its stacks, its variables. */
static uint64_t draw_frame(struct torture *t)
{
	uint64_t c = chance(t), from = 0, to = MEM;

	if (c % 8 < 5) {
		from = CHURN_FROM;
		to = CHURN_TO;
	} else if (c % 8 < 7) {
		from = IO_FROM;
		to = IO_TO;
	}
	return (from + (c >> 8) % (to - from)) / PAGE_BYTES;
}

/* Put what the guest has there now into the segment; now and then with another byte, which must not get into the guest. */
static bool draw_extent(struct torture *t, struct segment *s, struct extent *ret)
{
	uint64_t frame = draw_frame(t), c = chance(t);
	uint32_t pages = 1 + (uint32_t)(c % EXTENT_MAX), at;
	uint8_t copy[EXTENT_MAX][PAGE_BYTES];

	if (frame + pages > MEM / PAGE_BYTES || pages > segment_room(s) ||
	    !t->view.ops->is_private(t->view.ctx, GFN(frame), pages))
		return false;
	memcpy(copy, bytes_of(t, frame, pages), pages * PAGE_BYTES);
	if ((c >> 8) % 32 == 0)
		copy[(c >> 16) % pages][(c >> 32) % PAGE_BYTES] ^= 1;
	assert_int_equal(segment_append(s, copy, pages, &at), 0);
	*ret = (struct extent){.first = GFN(frame), .pages = pages, .store_page = at};
	return true;
}

static bool overlaps(const struct extent *v, size_t n, const struct extent *x)
{
	for (size_t i = 0; i < n; i++)
		if (x->first.v < v[i].first.v + v[i].pages && v[i].first.v < x->first.v + x->pages)
			return true;
	return false;
}

static void apply_batch(struct torture *t)
{
	cleanup(segment_free_p) struct segment *s = NULL;
	struct segment_view view;
	struct extent v[EXTENTS];
	auto_fd fd = -1;
	size_t n = 0;

	assert_int_equal(segment_new(SEGMENT_PAGES, &s), 0);
	for (unsigned tries = 0; n < EXTENTS && tries < 4 * EXTENTS; tries++)
		if (draw_extent(t, s, &v[n]) && !overlaps(v, n, &v[n]))
			n++;
	if (segment_pages(s) == 0)
		return;
	assert_int_equal(segment_seal(s, &fd), 0);
	assert_int_equal(segment_view_init(fd, &view, NULL), 0);
	for (size_t i = 0; i < n; i++)
		v[i].store = &view;
	extent_apply(t->applier, v, n);
	for (size_t i = 0; i < n; i++)
		assert_true(v[i].outcome != EXTENT_LOST && v[i].outcome != EXTENT_INVALID);
	segment_view_done(&view);
}

struct retake {
	struct torture *t;
	uint64_t first, frames;
	bool done;
};

/* While held: the frames become plain memory again, with the bytes they have. */
static void retake(void *arg)
{
	struct retake *x = arg;
	struct torture *t = x->t;
	uint8_t *at = bytes_of(t, x->first, x->frames);
	static uint8_t copy[RETAKE_MAX][PAGE_BYTES];

	if (t->view.ops->in_flight(t->view.ctx, GFN(x->first), x->frames))
		return;
	memcpy(copy, at, x->frames * PAGE_BYTES);
	if (guest_memory_discard(t->mem, GFN(x->first), x->frames, NULL) < 0)
		return;
	memcpy(at, copy, x->frames * PAGE_BYTES);
	x->done = true;
}

static void retake_frames(struct torture *t, uint64_t first, uint64_t frames)
{
	struct retake x = {.t = t, .first = first, .frames = frames < RETAKE_MAX ? frames : RETAKE_MAX};

	if (t->view.ops->while_held(t->view.ctx, retake, &x) == 0 && x.done)
		t->retaken += x.frames;
	else
		t->retakes_refused++;
}

/* Take some frames of the store back, so that they can be replaced again. */
static void retake_some(struct torture *t)
{
	uint64_t first = draw_frame(t), run;
	enum frame_backing backing;

	for (unsigned looks = 0; looks < 64; looks++, first += run) {
		if (guest_memory_backing(t->mem, GFN(first), &backing, &run) < 0)
			return;
		if (backing == FRAME_STORE) {
			retake_frames(t, first, run);
			return;
		}
	}
}

/* One frame that the I/O thread writes all the time, as quickly after its protection as can be: if that thread is not held, what it
 * writes during the exchange is lost, and the guest waits in vain. */
static void replace_hot_frame(struct torture *t, uint64_t frame)
{
	cleanup(segment_free_p) struct segment *s = NULL;
	struct segment_view view;
	struct extent x = {.first = GFN(frame), .pages = 1, .store = &view};
	auto_fd fd = -1;

	if (!frame)
		return;
	if (!t->view.ops->is_private(t->view.ctx, GFN(frame), 1))
		retake_frames(t, frame, 1);
	assert_int_equal(segment_new(1, &s), 0);
	assert_int_equal(write_tracker_scan(t->tracker, hva_of(bytes_of(t, frame, 1)), PAGE_BYTES, NULL), 0);
	assert_int_equal(segment_append(s, bytes_of(t, frame, 1), 1, &x.store_page), 0);
	assert_int_equal(segment_seal(s, &fd), 0);
	assert_int_equal(segment_view_init(fd, &view, NULL), 0);
	t->hot += extent_apply(t->applier, &x, 1);
	assert_true(x.outcome != EXTENT_LOST && x.outcome != EXTENT_INVALID);
	segment_view_done(&view);
}

static void report(struct torture *t, uint64_t ms)
{
	struct extent_stats x;
	struct hold_stats h;

	extent_applier_stats(t->applier, &x);
	vm_hold_stats(t->p.vm, &h);
	printf("torture: seed %llu: %llu pages replaced in %llu extents, %llu taken back (%llu refused), of "
	       "the device's own frames %llu; "
	       "%llu steps and %llu "
	       "disk "
	       "reads of the guest; %.1f s\n",
	       (unsigned long long)t->seed, (unsigned long long)x.pages[EXTENT_REPLACED],
	       (unsigned long long)x.extents[EXTENT_REPLACED], (unsigned long long)t->retaken,
	       (unsigned long long)t->retakes_refused, (unsigned long long)t->hot,
	       (unsigned long long)t->steps, (unsigned long long)t->ios, (double)ms / 1000);
	printf("torture: refused:");
	for (unsigned i = EXTENT_REPLACED + 1; i < EXTENT_OUTCOMES; i++)
		printf(" %s %llu", extent_outcome_name(i), (unsigned long long)x.extents[i]);
	printf("\ntorture: %llu holds (%llu without a vCPU to wait for), given up %llu, forbidden %llu; "
	       "held, us: p50 %llu, p99 "
	       "%llu, "
	       "p99.9 %llu, max %llu; work: mean %.0f us, max %.0f us\n",
	       (unsigned long long)h.holds, (unsigned long long)h.by_caller, (unsigned long long)h.given_up,
	       (unsigned long long)h.forbidden,
	       (unsigned long long)histogram_quantile(&h.held_ns, 500000) / 1000,
	       (unsigned long long)histogram_quantile(&h.held_ns, 990000) / 1000,
	       (unsigned long long)histogram_quantile(&h.held_ns, 999000) / 1000,
	       (unsigned long long)h.held_ns.max / 1000,
	       x.holds ? (double)x.hold_work_ns / 1e3 / (double)x.holds : 0,
	       (double)x.hold_work_max_ns / 1e3);
	fflush(stdout);
}

/* Replace @pages, or as many as @seconds allow. */
static void torture(struct torture *t, uint64_t pages, uint64_t seconds)
{
	uint64_t begun = clock_now_ns(), end = begun + seconds * 1000000000u, before;
	pthread_t busy, pauser;
	struct extent_stats x;

	extent_applier_stats(t->applier, &x);
	before = x.pages[EXTENT_REPLACED];
	assert_true(ask(t, "churn_init", 0, 1));
	atomic_store(&t->stop, false);
	assert_int_equal(pthread_create(&busy, NULL, keep_busy, t), 0);
	assert_int_equal(pthread_create(&pauser, NULL, pause_now_and_then, t), 0);
	while (x.pages[EXTENT_REPLACED] - before < pages && clock_now_ns() < end &&
	       !atomic_load(&t->failed)) {
		assert_int_equal(write_tracker_scan(t->tracker, hva_of(bytes_of(t, 0, 1)), MEM, NULL), 0);
		for (unsigned i = 0; i < 4; i++)
			apply_batch(t);
		for (unsigned i = 0; i < 16; i++) {
			retake_some(t);
			replace_hot_frame(t, atomic_load(i % 2 ? &t->ring : &t->status));
		}
		extent_applier_stats(t->applier, &x);
	}
	atomic_store(&t->stop, true);
	pthread_join(busy, NULL);
	pthread_join(pauser, NULL);
	if (!atomic_load(&t->failed))
		(void)ask(t, "churn_check", 0, 1);
	report(t, (clock_now_ns() - begun) / 1000000);
	if (atomic_load(&t->failed))
		fail_msg("seed %llu: %s", (unsigned long long)t->seed, t->failure);
	assert_true(x.pages[EXTENT_REPLACED] > before);
}

static int setup(void **state)
{
	static struct torture torture;
	struct torture *t = &torture;
	struct probe_vm_options options = {.mem_bytes = MEM, .cpus = 2, .ready_seconds = READY_SECONDS};
	struct errmsg err = {0};

	if (!probe_vm_possible())
		exit(77);
	if (write_tracker_new(&err, &t->tracker) < 0) {
		fprintf(stderr, "skipped: %s\n", err.text);
		exit(77);
	}
	make_disk(t);
	options.disk = t->disk;
#ifdef SARDINE_TEST_CONFINE
	/* The work of a hold runs on any thread that is held, under its filter. */
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -1;
	options.confine = confine_threads(CONFIG_SECCOMP_ON);
#endif
	if (probe_vm_start(&t->p, &options) < 0)
		return -1;
	t->mem = vm_memory(t->p.vm);
	t->view = vm_guest_view(t->p.vm);
	t->seed = env_number("SARDINE_TORTURE_SEED", (uint64_t)time(NULL));
	guest_memory_set_watch(t->mem, &watch, t);
	watch_private_memory(t);
	*state = t;
	return extent_applier_new(&t->view, t->tracker, &t->applier);
}

static int teardown(void **state)
{
	struct torture *t = *state;

	guest_memory_set_watch(t->mem, NULL, NULL);
	extent_applier_free(t->applier);
	unlink(t->disk);
	if (probe_vm_end(&t->p) < 0)
		return -1;
	write_tracker_free(t->tracker);
	return 0;
}

static void count(void *arg)
{
	++*(unsigned *)arg;
}

/* A host that is busy may keep a vCPU from its CPU for longer than a hold waits: then once more. */
static void hold_once(struct torture *t, unsigned *works)
{
	uint64_t deadline = clock_now_ns() + (uint64_t)READY_SECONDS * 1000000000u;
	int r;

	do {
		r = t->view.ops->while_held(t->view.ctx, count, works);
		assert_true(r == 0 || r == -ETIMEDOUT);
		assert_true(clock_now_ns() < deadline);
	} while (r < 0);
}

/* One vCPU runs its guest, the other one waits in the kernel to be started: both are kicked, and both go on. */
static void an_idle_guest_is_held(void **state)
{
	struct torture *t = *state;
	struct hold_stats h;
	unsigned works = 0;

	for (unsigned i = 0; i < 200; i++)
		hold_once(t, &works);
	assert_int_equal(works, 200);
	vm_hold_stats(t->p.vm, &h);
	assert_int_equal(h.by_caller, 0); /* a vCPU never rests */
	assert_true(ask(t, "churn_init", 0, 1));
}

static void holds_and_pauses_exclude_each_other(void **state)
{
	struct torture *t = *state;
	unsigned works = 0;

	vm_pause(t->p.vm);
	assert_int_equal(t->view.ops->while_held(t->view.ctx, count, &works), -EBUSY);
	assert_int_equal(works, 0);
	vm_resume(t->p.vm);
	hold_once(t, &works);
	assert_int_equal(works, 1);
}

static void every_byte_stays(void **state)
{
	struct torture *t = *state;
	bool full = getenv("SARDINE_FULL");
	struct extent_stats x;

	torture(t, env_number("SARDINE_TORTURE_PAGES", full ? 1000000 : 20000),
		env_number("SARDINE_TORTURE_SECONDS", full ? 600 : 60));
	/* It was a torture. */
	extent_applier_stats(t->applier, &x);
	assert_true(x.extents[EXTENT_WRITTEN] > 0 && x.extents[EXTENT_DIFFERENT] > 0);
	assert_true(t->retaken > 0 && atomic_load(&t->remapped) > 0 && t->ios > 0);
	assert_true(guest_memory_frames(t->mem, FRAME_STORE) > 0);
}

/* The next boot has nothing of it, and is as good. */
static void a_reboot_begins_anew(void **state)
{
	struct torture *t = *state;

	assert_true(probe_vm_say(&t->p, "@8 reset how=i8042\n"));
	assert_true(probe_vm_hear(&t->p, "probe: ready", READY_SECONDS, NULL, 0));
	assert_int_equal(atomic_load(&t->begun), 1);
	assert_int_equal(atomic_load(&t->ended), 1);
	assert_int_equal(guest_memory_frames(t->mem, FRAME_STORE), 0);
	watch_private_memory(t);
	torture(t, env_number("SARDINE_TORTURE_PAGES", 20000) / 10,
		env_number("SARDINE_TORTURE_SECONDS", 20));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_idle_guest_is_held),
		cmocka_unit_test(holds_and_pauses_exclude_each_other),
		cmocka_unit_test(every_byte_stays),
		cmocka_unit_test(a_reboot_begins_anew),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
