/* SPDX-License-Identifier: Apache-2.0 */
/* Running the kernel's ksmd for a benchmark, and seeing what it did. */
#include "tools/bench-ksmd.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/fs.h"
#include "base/size.h"
#include "ksm/ksm-manager.h"
#include "ksm/ksm-sysfs.h"

#define RMAP_ITEM_BYTES	  64u
#define STABLE_NODE_BYTES 64u
#define PROC_LINE_MAX	  8192u

/* By bench_ksm_files: pages_to_scan, sleep, smart_scan, use_zero_pages, advisor, run. */
static const struct bench_ksm settings[] = {
	[BENCH_KSMD_DEFAULT] = {{"100", "20", "1", "0", "none", "0"}},
	[BENCH_KSMD_FASTEST] = {{"100000", "0", "0", "0", "none", "0"}},
};
/* With smart_scan a late twin is found by the 9th scan. */
static const unsigned scans_to_settle[] = {[BENCH_KSMD_DEFAULT] = 12, [BENCH_KSMD_FASTEST] = 4};

static bool is_number(const char *s)
{
	return *s && s[strspn(s, "0123456789")] == '\0';
}

/* "mg" among the flags of a mapping. */
static bool smaps_mergeable(const char *pid)
{
	char path[300];
	char line[PROC_LINE_MAX];
	auto_file f = NULL;

	snprintf(path, sizeof(path), "/proc/%s/smaps", pid);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f))
		if (strncmp(line, "VmFlags:", 8) == 0 && strstr(line, " mg"))
			return true;
	return false;
}

/* ksm_stat says it in a word since 6.14 ("ksm_mergeable: yes"); before, all mappings are asked. */
static bool mergeable(const char *pid)
{
	auto_free char *text = NULL;
	const char *word;
	char path[300];

	snprintf(path, sizeof(path), "/proc/%s/ksm_stat", pid);
	if (file_read_text(path, PROC_LINE_MAX, &text) < 0)
		return false; /* gone, or a kernel thread */
	word = strstr(text, "ksm_mergeable:");
	if (word)
		return strncmp(word + strlen("ksm_mergeable:"), " yes", 4) == 0;
	return smaps_mergeable(pid);
}

int bench_ksmd_refuse(struct errmsg *err)
{
	auto_dir proc = opendir("/proc");
	struct ksm_manager manager;
	struct ksm_state state;
	struct dirent *e;

	if (ksm_state_read(KSM_SYSFS, &state) < 0 || !state.present)
		return errmsg_set(err, -ENOTSUP, "this kernel has no KSM");
	if (geteuid() != 0)
		return errmsg_set(err, -ENOTSUP, "setting up ksmd needs root; --engines store does not");
	if (ksm_manager_find(&state, "/proc", "/run/systemd/units", &manager) == 0 && manager.name[0] &&
	    strcmp(manager.name, "advisor") != 0)
		return errmsg_set(err, -ENOTSUP, "%s turns KSM's knobs on this host; stop it first",
				  manager.name);
	while (proc && (e = readdir(proc)))
		if (is_number(e->d_name) && mergeable(e->d_name))
			return errmsg_set(
				err, -ENOTSUP,
				"process %.10s has mergeable memory, which ksmd would merge and be measured "
				"with; end it first",
				e->d_name);
	return 0;
}

int bench_ksmd_set(enum bench_engine engine, struct errmsg *err)
{
	struct bench_ksm have, want = settings[engine];
	int r = bench_ksm_read(KSM_SYSFS, &have);

	/* An older kernel lacks some. */
	for (unsigned i = 0; r == 0 && i < BENCH_KSM_SETTINGS; i++)
		if (!have.value[i][0])
			want.value[i][0] = '\0';
	if (r == 0)
		r = bench_ksm_write(KSM_SYSFS, &want);
	return r < 0 ? errmsg_set(err, r, "cannot set up KSM: %s", strerror(-r)) : 0;
}

int bench_ksmd_run(bool on)
{
	struct bench_ksm run = {0};

	strcpy(run.value[BENCH_KSM_RUN], on ? "1" : "0");
	return bench_ksm_write(KSM_SYSFS, &run);
}

static pid_t find_ksmd(void)
{
	auto_dir proc = opendir("/proc");
	struct dirent *e;
	uint64_t pid;

	while (proc && (e = readdir(proc))) {
		auto_free char *comm = NULL;
		char path[300];

		snprintf(path, sizeof(path), "/proc/%s/comm", e->d_name);
		if (is_number(e->d_name) && file_read_text(path, 64, &comm) == 0 &&
		    strcmp(comm, "ksmd\n") == 0 && number_parse(e->d_name, INT32_MAX, &pid) == 0)
			return (pid_t)pid;
	}
	return 0;
}

uint64_t bench_cpu_ns(pid_t pid)
{
	char path[300];
	auto_dir tasks = NULL;
	struct dirent *e;
	uint64_t sum = 0;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	tasks = opendir(path);
	while (tasks && (e = readdir(tasks))) {
		auto_free char *text = NULL;
		uint64_t ns;

		snprintf(path, sizeof(path), "/proc/%d/task/%s/schedstat", (int)pid, e->d_name);
		if (is_number(e->d_name) && file_read_text(path, 128, &text) == 0 &&
		    sscanf(text, "%" SCNu64, &ns) == 1)
			sum += ns;
	}
	return sum;
}

static int read_counter(const char *name, uint64_t *ret)
{
	char path[128];

	snprintf(path, sizeof(path), KSM_SYSFS "/%s", name);
	return file_read_u64(path, ret);
}

int bench_ksmd_begin(enum bench_engine engine, struct bench_ksmd *ret, struct errmsg *err)
{
	struct bench_ksmd k = {.pid = find_ksmd(), .scans = scans_to_settle[engine]};
	int r = read_counter("full_scans", &k.full_scans);

	if (!k.pid)
		return errmsg_set(err, -ENOTSUP, "there is no ksmd here");
	if (r == 0)
		r = read_counter("pages_sharing", &k.sharing);
	k.cpu_start_ns = bench_cpu_ns(k.pid);
	if (r == 0)
		r = bench_ksmd_run(true);
	if (r < 0)
		return errmsg_set(err, r, "cannot start ksmd: %s", strerror(-r));
	*ret = k;
	return 0;
}

int bench_ksmd_look(struct bench_ksmd *k)
{
	uint64_t sharing, scans;
	int r = read_counter("full_scans", &scans);

	if (r == 0)
		r = read_counter("pages_sharing", &sharing);
	if (r < 0)
		return r;
	if (sharing != k->sharing || k->cpu_ns == 0) {
		k->sharing = sharing;
		k->full_scans = scans;
		k->cpu_ns = bench_cpu_ns(k->pid) - k->cpu_start_ns;
	}
	return scans - k->full_scans >= k->scans;
}

uint64_t bench_ksmd_meta_bytes(const struct bench_vm *vms, unsigned count)
{
	uint64_t items = 0, shared = 0, n;

	for (unsigned i = 0; i < count; i++) {
		auto_free char *text = NULL;
		const char *word;
		char path[48];

		snprintf(path, sizeof(path), "/proc/%d/ksm_stat", (int)vms[i].pid);
		if (file_read_text(path, PROC_LINE_MAX, &text) == 0 &&
		    (word = strstr(text, "ksm_rmap_items ")) &&
		    sscanf(word, "ksm_rmap_items %" SCNu64, &n) == 1)
			items += n;
	}
	(void)!read_counter("pages_shared", &shared);
	return items * RMAP_ITEM_BYTES + shared * STABLE_NODE_BYTES;
}
