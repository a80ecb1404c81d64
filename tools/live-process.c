/* SPDX-License-Identifier: Apache-2.0 */
/* The memory of a running process, read without stopping it.
 *
 * /proc/PID/mem is read and not process_vm_readv(), because its descriptor stays with the address space:
 * after an exec or when the process has ended (and its number may already be another's) reads return nothing.
 * It is as fast. Only pages that pagemap calls present are read, so that reading populates next to nothing; a
 * page that is given back in between is read as zero. */
#include "tools/live-process.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <string.h>
#include <sys/syscall.h>

#include "base/addr.h"
#include "base/fs.h"
#include "base/size.h"

#define PAGEMAP_PRESENT ((uint64_t)1 << 63) /* Documentation/admin-guide/mm/pagemap.rst */
#define PAGEMAP_SWAP	((uint64_t)1 << 62)
#define PAGEMAP_FILE	((uint64_t)1 << 61) /* of a file, or shared anonymous */
#define ENTRIES_AT_ONCE 8192u
#define SMAPS_MAX	((size_t)64 * 1024)
#define ENTRY_PATH_MAX	4096

struct mapping {
	uint64_t start, end;
	char perms[5];
	char path[ENTRY_PATH_MAX];
};

enum take { TAKE_NOTHING, TAKE_ANONYMOUS, TAKE_ALL };

static bool starts_with(const char *s, const char *prefix)
{
	return strncmp(s, prefix, strlen(prefix)) == 0;
}

/* Which pages of a mapping are the process's own or its guest's? */
static enum take mapping_take(const struct mapping *m)
{
	static const char *const kernels[] = {"[vsyscall]", "[vvar", "[vdso]", "anon_inode:"};
	static const char *const shared[] = {"/memfd:",		"/dev/shm/",	  "/dev/zero",
					     "/dev/hugepages/", "/anon_hugepage", "/SYSV"};

	for (size_t i = 0; i < ARRAY_SIZE(kernels); i++)
		if (starts_with(m->path, kernels[i]))
			return TAKE_NOTHING;
	for (size_t i = 0; i < ARRAY_SIZE(shared); i++)
		if (starts_with(m->path, shared[i]))
			return TAKE_ALL;
	if (starts_with(m->path, "/dev/"))
		return TAKE_NOTHING;
	return m->perms[1] == 'w' && m->perms[3] == 's' ? TAKE_ALL : TAKE_ANONYMOUS;
}

struct survey {
	struct live_process *live;
	int pagemap_fd;
	uint64_t *entries;
	size_t space;
};

static int range_add(struct survey *s, uint64_t address)
{
	struct live_process *live = s->live;
	struct page_range *last = live->range_count ? &live->ranges[live->range_count - 1] : NULL;

	if (last && last->address + last->bytes == address) {
		last->bytes += PAGE_BYTES;
		return 0;
	}
	if (live->range_count == s->space) {
		size_t space = s->space ? s->space * 2 : 256;
		struct page_range *v = realloc(live->ranges, space * sizeof(*v));

		if (!v)
			return -ENOMEM;
		live->ranges = v;
		s->space = space;
	}
	live->ranges[live->range_count++] = (struct page_range){address, PAGE_BYTES, address};
	return 0;
}

static int mapping_survey(struct survey *s, const struct mapping *m)
{
	enum take take = mapping_take(m);

	for (uint64_t at = m->start; take != TAKE_NOTHING && at < m->end;) {
		uint64_t n = (m->end - at) / PAGE_BYTES;
		ssize_t got;

		if (n > ENTRIES_AT_ONCE)
			n = ENTRIES_AT_ONCE;
		got = pread(s->pagemap_fd, s->entries, n * sizeof(uint64_t),
			    (off_t)(at / PAGE_BYTES * sizeof(uint64_t)));
		if (got < 0)
			return -errno;
		if (got == 0)
			return 0; /* it has ended; said later */
		n = (uint64_t)got / sizeof(uint64_t);
		for (uint64_t i = 0; i < n; i++, at += PAGE_BYTES) {
			uint64_t e = s->entries[i];

			if (take == TAKE_ANONYMOUS && (e & PAGEMAP_FILE))
				continue;
			if (e & PAGEMAP_SWAP)
				s->live->swapped_bytes += PAGE_BYTES;
			if ((e & PAGEMAP_PRESENT) && range_add(s, at) < 0)
				return -ENOMEM;
		}
	}
	return 0;
}

/* "7f0-7f1 rw-p 00000000 00:00 0    [heap]" */
static bool mapping_parse(const char *line, struct mapping *m)
{
	int path_at = 0;

	m->path[0] = '\0';
	if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %*s %*s %*s %n", &m->start, &m->end, m->perms,
		   &path_at) < 3)
		return false;
	if (path_at)
		snprintf(m->path, sizeof(m->path), "%s", line + path_at);
	m->path[strcspn(m->path, "\n")] = '\0';
	return true;
}

static int survey_run(struct survey *s)
{
	auto_free char *line = NULL;
	auto_free struct mapping *m = malloc(sizeof(*m));
	auto_file f = NULL;
	char path[64];
	size_t line_space = 0;

	snprintf(path, sizeof(path), "/proc/%d/maps", (int)s->live->pid);
	f = fopen(path, "re");
	if (!f || !m)
		return -errno;
	while (getline(&line, &line_space, f) > 0) {
		int r;

		if (!mapping_parse(line, m))
			continue;
		r = mapping_survey(s, m);
		if (r < 0)
			return r;
	}
	return ferror(f) ? -EIO : 0;
}

/* smaps_rollup has a line "KSM:" since Linux 6.7; before, ksm_merging_pages counts them (5.19). */
static void ksm_read(struct live_process *live)
{
	auto_free char *text = NULL;
	const char *at = NULL;
	char path[64];
	uint64_t v;

	live->ksm_bytes = UINT64_MAX;
	snprintf(path, sizeof(path), "/proc/%d/smaps_rollup", (int)live->pid);
	if (file_read_text(path, SMAPS_MAX, &text) == 0)
		at = strstr(text, "\nKSM:");
	if (at && sscanf(at, "\nKSM: %" SCNu64, &v) == 1) {
		live->ksm_bytes = v * KIB;
		return;
	}
	snprintf(path, sizeof(path), "/proc/%d/ksm_merging_pages", (int)live->pid);
	if (file_read_u64(path, &v) == 0)
		live->ksm_bytes = v * PAGE_BYTES;
}

static int live_error(struct errmsg *err, pid_t pid, int r)
{
	if (r == -ENOENT || r == -ESRCH)
		return errmsg_set(err, -ESRCH, "process %d: there is none", (int)pid);
	if (r == -EACCES || r == -EPERM)
		return errmsg_set(err, -EACCES,
				  "process %d: may not be read; run as its user or root (and see "
				  "kernel.yama.ptrace_scope)",
				  (int)pid);
	return errmsg_set(err, r, "process %d: cannot be read: %s", (int)pid, strerror(-r));
}

static int open_proc(pid_t pid, const char *name, int *ret)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
	*ret = open(path, O_RDONLY | O_CLOEXEC);
	return *ret < 0 ? -errno : 0;
}

static void name_read(struct live_process *live)
{
	auto_free char *comm = NULL;
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/comm", (int)live->pid);
	if (file_read_text(path, 64, &comm) == 0)
		comm[strcspn(comm, "\n")] = '\0';
	snprintf(live->name, sizeof(live->name), "pid %d %.40s", (int)live->pid, comm ? comm : "?");
}

int live_process_open(pid_t pid, struct live_process *ret, struct errmsg *err)
{
	struct live_process live = {.pid = pid, .pidfd = -1, .mem_fd = -1};
	auto_free uint64_t *entries = malloc(ENTRIES_AT_ONCE * sizeof(*entries));
	auto_fd pagemap_fd = -1;
	struct survey s = {.live = &live, .entries = entries};
	int r;

	if (pid == getpid())
		return errmsg_set(err, -EINVAL, "process %d: is this command itself", (int)pid);
	if (!entries)
		return -ENOMEM;
	live.pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (live.pidfd < 0 && errno == ESRCH)
		return live_error(err, pid, -ESRCH);
	name_read(&live);
	r = open_proc(pid, "mem", &live.mem_fd);
	if (r == 0)
		r = open_proc(pid, "pagemap", &pagemap_fd);
	s.pagemap_fd = pagemap_fd;
	if (r == 0)
		r = survey_run(&s);
	/* There is such a process, but it has no address space: newer kernels say so, older ones show it empty. */
	if (r == -ESRCH && live.pidfd >= 0)
		r = 0;
	if (r < 0)
		r = live_error(err, pid, r);
	else if (live.range_count == 0)
		r = errmsg_set(err, -ENODATA,
			       "process %d: has no memory of its own (a kernel thread, or ended)", (int)pid);
	if (r < 0) {
		live_process_done(&live);
		return r;
	}
	ksm_read(&live);
	*ret = live;
	return 0;
}

void live_process_done(struct live_process *live)
{
	close_fd_p(&live->pidfd);
	close_fd_p(&live->mem_fd);
	free(live->ranges);
	live->ranges = NULL;
	live->range_count = 0;
}

void live_process_check(struct live_process *live)
{
	struct pollfd p = {.fd = live->pidfd, .events = POLLIN};
	char byte;

	if (live->pidfd >= 0 && poll(&p, 1, 0) == 1)
		errmsg_set(&live->problem, 0, "process %d: ended while it was read", (int)live->pid);
	/* Its address space is gone when even a page that was there gives nothing. Unmapped gives EIO. */
	else if (pread(live->mem_fd, &byte, 1, (off_t)live->ranges[0].where) == 0)
		errmsg_set(&live->problem, 0, "process %d: ended or ran another program while it was read",
			   (int)live->pid);
}

static int live_read(void *ctx, uint64_t where, void *buf, size_t len)
{
	const struct live_process *live = ctx;

	return pread_full(live->mem_fd, buf, len, where);
}

const struct page_source_ops live_process_ops = {.read = live_read};
