/* SPDX-License-Identifier: Apache-2.0 */
/* What the memory of a benchmark's VMs holds, and in how many frames: counted from outside. */
#include <errno.h>
#include <fcntl.h>
#include <nettle/sha2.h>
#include <stdio.h>
#include <string.h>

#include "base/addr.h"
#include "base/fs.h"
#include "ksm/dedup-count.h"
#include "ksm/page-hash.h"
#include "tools/bench.h"
#include "tools/live-process.h"

#define PAGEMAP_PRESENT ((uint64_t)1 << 63) /* Documentation/admin-guide/mm/pagemap.rst */
#define PAGEMAP_PFN	(((uint64_t)1 << 55) - 1)
#define CHUNK		512u /* pages that are read at a time */

/* A number per page of all VMs, and how many there are. */
struct list {
	uint64_t *v;
	uint64_t count, room;
};

static int list_add(struct list *l, uint64_t x)
{
	if (l->count == l->room) {
		uint64_t room = l->room ? l->room * 2 : 65536;
		uint64_t *v = reallocarray(l->v, room, sizeof(*v));

		if (!v)
			return -ENOMEM;
		l->v = v;
		l->room = room;
	}
	l->v[l->count++] = x;
	return 0;
}

static int number_order(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static uint64_t list_distinct(struct list *l)
{
	uint64_t n = 0;

	if (l->count)
		qsort(l->v, l->count, sizeof(*l->v), number_order);
	for (uint64_t i = 0; i < l->count; i++)
		n += i == 0 || l->v[i] != l->v[i - 1];
	return n;
}

/* Calls with each page that is in memory, and its frame number (0: hidden). */
struct walk {
	int (*page)(void *ctx, uint64_t frame, const uint8_t *bytes);
	void *ctx;
};

static int open_of(pid_t pid, const char *file)
{
	char path[48];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, file);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

static int walk_vm(const struct bench_vm *vm, const struct walk *walk)
{
	auto_fd map = open_of(vm->pid, "pagemap"), mem = open_of(vm->pid, "mem");
	auto_free uint8_t *bytes = malloc(PAGE_BYTES);
	uint64_t entries[CHUNK];
	int r = !bytes ? -ENOMEM : map < 0 ? map : mem < 0 ? mem : 0;

	for (uint64_t at = 0; r == 0 && at < vm->frames; at += CHUNK) {
		uint64_t n = vm->frames - at < CHUNK ? vm->frames - at : CHUNK;
		uint64_t address = vm->address + at * PAGE_BYTES;

		r = pread_full(map, entries, n * sizeof(*entries), address / PAGE_BYTES * sizeof(*entries));
		for (uint64_t i = 0; r == 0 && i < n; i++) {
			if (!(entries[i] & PAGEMAP_PRESENT))
				continue;
			r = pread_full(mem, bytes, PAGE_BYTES, address + i * PAGE_BYTES);
			if (r == 0)
				r = walk->page(walk->ctx, entries[i] & PAGEMAP_PFN, bytes);
		}
	}
	return r;
}

static int walk_vms(const struct bench_vm *vms, unsigned count, const struct walk *walk)
{
	int r = 0;

	for (unsigned i = 0; i < count && r == 0; i++)
		r = walk_vm(&vms[i], walk);
	return r;
}

struct frames {
	struct list zero, nonzero;
	bool hidden;
};

static bool is_zero(const uint8_t *page)
{
	return page[0] == 0 && memcmp(page, page + 1, PAGE_BYTES - 1) == 0;
}

static int frame_note(void *ctx, uint64_t frame, const uint8_t *bytes)
{
	struct frames *f = ctx;

	f->hidden |= frame == 0;
	return list_add(is_zero(bytes) ? &f->zero : &f->nonzero, frame);
}

int bench_count_frames(const struct bench_vm *vms, unsigned count, struct bench_frames *ret)
{
	struct frames f = {0};
	const struct walk walk = {frame_note, &f};
	int r = walk_vms(vms, count, &walk);

	if (r == 0)
		*ret = (struct bench_frames){
			.present = f.zero.count + f.nonzero.count,
			.zero = f.zero.count,
			.zero_frames = f.hidden ? f.zero.count : list_distinct(&f.zero),
			.nonzero_frames = f.hidden ? f.nonzero.count : list_distinct(&f.nonzero),
			.frames_known = !f.hidden,
		};
	free(f.zero.v);
	free(f.nonzero.v);
	return r;
}

/* The slow counter: no hash of ours, no code of ours but this. */

struct digests {
	uint8_t (*v)[SHA256_DIGEST_SIZE];
	uint64_t count, room;
};

static int digest_note(void *ctx, uint64_t frame, const uint8_t *bytes)
{
	struct digests *d = ctx;
	struct sha256_ctx sha;

	(void)frame;
	if (is_zero(bytes))
		return 0;
	if (d->count == d->room) {
		uint64_t room = d->room ? d->room * 2 : 65536;
		void *v = reallocarray(d->v, room, sizeof(*d->v));

		if (!v)
			return -ENOMEM;
		d->v = v;
		d->room = room;
	}
	sha256_init(&sha);
	sha256_update(&sha, PAGE_BYTES, bytes);
	sha256_digest(&sha, SHA256_DIGEST_SIZE, d->v[d->count++]);
	return 0;
}

static int digest_order(const void *a, const void *b)
{
	return memcmp(a, b, SHA256_DIGEST_SIZE);
}

static int reachable_slowly(const struct bench_vm *vms, unsigned count, uint64_t *ret)
{
	struct digests d = {0};
	const struct walk walk = {digest_note, &d};
	uint64_t same = 0;
	int r = walk_vms(vms, count, &walk);

	if (r == 0 && d.count)
		qsort(d.v, d.count, sizeof(*d.v), digest_order);
	for (uint64_t i = 1; i < d.count; i++)
		same += memcmp(d.v[i], d.v[i - 1], sizeof(*d.v)) == 0;
	free(d.v);
	if (r == 0)
		*ret = same;
	return r;
}

/* Its memory as `analyze` sees it, without what else the process has. */
static int add_image(struct page_set *set, const struct bench_vm *vm, struct live_process *live)
{
	uint64_t end = vm->address + vm->frames * PAGE_BYTES;
	size_t n = 0;

	for (size_t i = 0; i < live->range_count; i++) {
		struct page_range range = live->ranges[i];
		uint64_t from = range.address > vm->address ? range.address : vm->address;
		uint64_t to = range.address + range.bytes < end ? range.address + range.bytes : end;

		if (from < to)
			live->ranges[n++] = (struct page_range){from, to - from, from};
	}
	live->range_count = n;
	return n ? page_set_add(set, vm->name, &live_process_ops, live, live->ranges, n) : 0;
}

static int reachable_by_analyze(const struct page_set *set, uint64_t *ret)
{
	const struct work_control control = {.threads = 2};
	struct counts counts;
	struct dedup dedup;
	int r = dedup_run(&dedup, set, NULL, &control);

	if (r < 0)
		return r;
	r = dedup_count(&dedup, &counts);
	if (r == 0) {
		*ret = counts.total.saved;
		counts_done(&counts);
	}
	dedup_done(&dedup);
	return r;
}

int bench_count_reachable(const struct bench_vm *vms, unsigned count, uint64_t *ret, struct errmsg *err)
{
	struct live_process lives[BENCH_VMS_MAX];
	struct page_set set;
	uint64_t fast = 0, slow = 0;
	unsigned open = 0;
	int r = 0;

	page_set_init(&set, PAGE_BYTES);
	while (r == 0 && open < count) {
		r = live_process_open(vms[open].pid, &lives[open], err);
		if (r < 0)
			break;
		r = add_image(&set, &vms[open], &lives[open]);
		open++;
	}
	if (r == 0 && set.pages)
		r = reachable_by_analyze(&set, &fast);
	page_set_done(&set);
	for (unsigned i = 0; i < open; i++)
		live_process_done(&lives[i]);
	if (r == 0)
		r = reachable_slowly(vms, count, &slow);
	if (r < 0)
		return errmsg_set(err, r, "cannot read the memory of the VMs: %s", strerror(-r));
	if (fast != slow)
		return errmsg_set(err, -EBADMSG, "counters disagree: %llu pages could be saved, or %llu",
				  (unsigned long long)fast, (unsigned long long)slow);
	*ret = fast;
	return 0;
}
