/* SPDX-License-Identifier: Apache-2.0 */
/* Where a benchmark runs: a folder for sockets, a control group, a guard. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fs.h"
#include "base/size.h"
#include "ksm/ksm-sysfs.h"
#include "tools/bench.h"

#define STATE_FILE "/run/sardine-bench.state"

/* Where memory is charged: the name of a folder for new groups, and the file that a group has for its usage. */
static const struct {
	const char *root, *usage;
} groups[] = {
	{"/sys/fs/cgroup/memory", "memory.usage_in_bytes"}, /* version 1 */
	{"/sys/fs/cgroup", "memory.current"},		    /* version 2 */
};

/* Names one that does not exist yet; "" where there is none to be had. */
static void choose_cgroup(struct bench_room *room)
{
	for (size_t i = 0; i < ARRAY_SIZE(groups); i++) {
		char procs[64];

		snprintf(procs, sizeof(procs), "%s/cgroup.procs", groups[i].root);
		if (access(procs, W_OK) < 0)
			continue;
		snprintf(room->cgroup, sizeof(room->cgroup), "%s/sardine-bench-%d", groups[i].root,
			 (int)getpid());
		snprintf(room->usage, sizeof(room->usage), "%s/%s", room->cgroup, groups[i].usage);
		return;
	}
}

static int make_cgroup(struct bench_room *room)
{
	uint64_t bytes;

	if (!room->cgroup[0])
		return 0;
	if (mkdir(room->cgroup, 0700) < 0)
		return -errno;
	/* Version 2 without the controller: it is a folder that counts nothing. */
	if (bench_room_usage(room, &bytes) < 0) {
		rmdir(room->cgroup);
		room->cgroup[0] = '\0';
	}
	return 0;
}

int bench_room_usage(const struct bench_room *room, uint64_t *ret_bytes)
{
	if (!room->cgroup[0])
		return -ENOTSUP;
	return file_read_u64(room->usage, ret_bytes);
}

int bench_room_open(bool ksm, const char *verb, struct errmsg *err, struct bench_room *ret)
{
	struct bench_room room = {.runtime = "/tmp/sardine-bench-XXXXXX"};
	struct bench_mess mess = {.ksm = ksm ? KSM_SYSFS : NULL};
	int r;

	if (geteuid() == 0) {
		struct errmsg busy = {0};

		/* Settings are one benchmark's at a time; those that change none may run beside it. */
		mess.state = ksm ? STATE_FILE : NULL;
		r = bench_guard_repair(STATE_FILE, &busy);
		if (r < 0 && (ksm || r != -EBUSY))
			return errmsg_set(err, r, "%s", busy.text);
		if (r > 0)
			fprintf(stderr, "%s: put back what a benchmark that was killed had left\n", verb);
	}
	choose_cgroup(&room);
	if (!mkdtemp(room.runtime))
		return errmsg_set(err, -errno, "%s: %s", room.runtime, strerror(errno));
	mess.runtime = room.runtime;
	mess.cgroup = room.cgroup[0] ? room.cgroup : NULL;
	r = bench_guard_start(&mess, err, &room.guard);
	if (r < 0) {
		rmdir(room.runtime);
		return r;
	}
	r = make_cgroup(&room);
	/* VMs that we start, and ask, are found there. */
	if (r == 0 && setenv("SARDINE_RUNTIME_DIR", room.runtime, 1) < 0)
		r = -ENOMEM;
	if (r < 0) {
		(void)!bench_guard_end(room.guard);
		return errmsg_set(err, r, "%s: %s", room.cgroup, strerror(-r));
	}
	*ret = room;
	return 0;
}

int bench_room_close(struct bench_room *room, struct errmsg *err)
{
	int r = bench_guard_end(TAKE_PTR(room->guard));

	if (r < 0)
		return errmsg_set(err, r, "cannot put back what the benchmark changed: %s", strerror(-r));
	return 0;
}
