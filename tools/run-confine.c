/* SPDX-License-Identifier: Apache-2.0 */
/* What a VM's process gives up before its guest runs. */
/*
 * Theory of operation: the staged drop
 *
 *   0  Inherited descriptors are closed, but for those that options name. Then everything is opened that the VM will ever need:
 *      KVM, disks, boot images, log, console, control socket, and the files of /proc and /sys that `stats` reads.
 *   1  The process shrinks (confine_process()): limits, an empty root, another user, no capability, no way to regain any, Landlock.
 *   2  The loop's thread, which is the only one, puts itself under a filter of what this VM has no use for (confine-start.c),
 *      and under the system call filter of its kind.
 *   3  vCPU threads and the threads that live for one dump, one reading or one pause are started under it, and add the narrower
 *      one of their own kind before they do anything else. The thread of a reboot makes a new machine and starts vCPU threads: it
 *      stays as it was started.
 *   The first instruction of the guest comes after all of that.
 *
 * The empty root is a directory that is removed before it is entered: nobody can make a file in it, it holds nothing, and nothing
 * is left behind. Since no path leads out, files are not removed at the end either: NAME.lock and NAME.sock stay, unlocked, and
 * every command that looks for VMs removes those of VMs that have ended (rundir_clean()).
 *
 * A VM with a vsock has the folder of its sockets for a root instead: give it one of its own.
 *
 * chroot() needs CAP_SYS_CHROOT. Landlock needs nothing but a kernel that has it, and also holds what chroot() does not: the way
 * out through a descriptor of a folder, abstract sockets, signals (confine-landlock.c). What remains to a stolen process is in
 * docs/threat-model.md. Memory that can be executed is never made: the filters refuse PROT_EXEC.
 *
 * The filters are compiled when sardine is built (make-filters.c), so that a start costs four system calls for them. Disk I/O by
 * io_uring does not pass them: the rings themselves are restricted (vmm/virtio-blk-engine.c).
 */
#include "tools/run-confine.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "base/log.h"
#include "base/size.h"
#include "filters.h"
#include "tools/confine-landlock.h"

/* Descriptors: what the VM has, 64 clients, 16 readers, and those of transfers. Far below what select() or a table could hurt. */
#define DESCRIPTORS_MAX 4096

static int number_or_minus(const char *text, uint32_t *ret)
{
	uint64_t v;

	/* The largest number stands for "no change" in the system calls. */
	if (number_parse(text, UINT32_MAX - 1, &v) < 0)
		return -EINVAL;
	*ret = (uint32_t)v;
	return 0;
}

static int parse_group(const char *text, gid_t *ret, struct errmsg *err)
{
	const struct group *g = getgrnam(text);

	if (g) {
		*ret = g->gr_gid;
		return 0;
	}
	if (number_or_minus(text, ret) < 0)
		return errmsg_set(err, -EINVAL, "--user: no group \"%s\" on this host", text);
	return 0;
}

int confine_user_parse(const char *text, struct confine_user *ret, struct errmsg *err)
{
	struct confine_user user = {.given = true};
	auto_free char *name = NULL;
	const struct passwd *p;
	char *colon;

	if (!text) {
		*ret = (struct confine_user){0};
		return 0;
	}
	name = strdup(text);
	if (!name)
		return -ENOMEM;
	colon = strchr(name, ':');
	if (colon)
		*colon = '\0';
	p = getpwnam(name);
	if (p) {
		user.uid = p->pw_uid;
		user.gid = p->pw_gid;
	} else if (number_or_minus(name, &user.uid) < 0) {
		return errmsg_set(err, -EINVAL, "--user: no user \"%s\" on this host", name);
	} else {
		user.gid = user.uid;
	}
	if (colon && parse_group(colon + 1, &user.gid, err) < 0)
		return -EINVAL;
	if (geteuid() != 0 && (user.uid != geteuid() || user.gid != getegid()))
		return errmsg_set(err, -EPERM, "--user %s: only root may start a VM as somebody else", text);
	*ret = user;
	return 0;
}

static int compare_fds(const void *a, const void *b)
{
	int x, y;

	memcpy(&x, a, sizeof(x));
	memcpy(&y, b, sizeof(y));
	return (x > y) - (x < y);
}

void confine_inherited(const struct vm_config *config, int report_fd)
{
	int keep[1 + CONFIG_NETS_MAX] = {report_fd};
	unsigned next = STDERR_FILENO + 1;

	if (!config->sandbox)
		return;
	for (size_t i = 0; i < config->net_count; i++)
		keep[1 + i] = (int)config->nets[i].tap_fd;
	qsort(keep, 1 + config->net_count, sizeof(keep[0]), compare_fds);
	for (size_t i = 0; i <= config->net_count; i++) {
		if (keep[i] < (int)next)
			continue;
		if ((unsigned)keep[i] > next)
			(void)!close_range(next, (unsigned)keep[i] - 1, 0);
		next = (unsigned)keep[i] + 1;
	}
	/* Before 5.9 there is no such call; then they stay, as they did. */
	(void)!close_range(next, UINT32_MAX, 0);
}

static int set_limits(struct errmsg *err)
{
	static const struct {
		int what;
		rlim_t max;
	} limits[] = {
		{RLIMIT_NOFILE, DESCRIPTORS_MAX},
		{RLIMIT_MSGQUEUE, 0},
		{RLIMIT_RTPRIO, 0},
		{RLIMIT_NICE, 0},
	};

	for (size_t i = 0; i < ARRAY_SIZE(limits); i++) {
		struct rlimit have;

		if (getrlimit((__rlimit_resource_t)limits[i].what, &have) < 0)
			return errmsg_set(err, -errno, "--sandbox: getrlimit: %s", strerror(errno));
		if (have.rlim_max > limits[i].max)
			have.rlim_max = limits[i].max;
		if (have.rlim_cur > have.rlim_max)
			have.rlim_cur = have.rlim_max;
		if (setrlimit((__rlimit_resource_t)limits[i].what, &have) < 0)
			return errmsg_set(err, -errno, "--sandbox: setrlimit: %s", strerror(errno));
	}
	return 0;
}

/* A directory that exists for us only: made, opened, removed. */
static int make_empty_root(const struct rundir *dir, struct errmsg *err)
{
	char name[40];
	int fd;

	/* No VM has such a name. */
	snprintf(name, sizeof(name), ".root-%d", (int)getpid());
	if (mkdirat(dir->fd, name, 0500) < 0 && errno != EEXIST)
		return errmsg_set(err, -errno, "runtime directory %s: cannot make %s: %s", dir->path, name,
				  strerror(errno));
	fd = openat(dir->fd, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || unlinkat(dir->fd, name, AT_REMOVEDIR) < 0) {
		int r = -errno;

		if (fd >= 0)
			close(fd);
		return errmsg_set(err, r, "runtime directory %s: %s: %s", dir->path, name, strerror(-r));
	}
	return fd;
}

/* The folder of the vsock's sockets: guests connect to those that lie there. */
static int open_vsock_folder(const char *path, struct errmsg *err)
{
	const char *slash = strrchr(path, '/');
	auto_free char *folder = strndup(path, slash && slash > path ? (size_t)(slash - path) : 1);
	int fd = folder ? open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC) : -1;

	return fd < 0 ? errmsg_set(err, -errno, "--vsock %s: %s", path, strerror(errno)) : fd;
}

/* Without the right to, the file system stays in sight: no error. */
static int change_root(const struct vm_config *config, const struct rundir *dir, struct errmsg *err,
		       bool *ret_done)
{
	auto_fd fd = -1;

	*ret_done = false;
	if (prctl(PR_CAPBSET_READ, CAP_SYS_CHROOT) != 1 || geteuid() != 0)
		return 0;
	fd = config->vsock.on ? open_vsock_folder(config->vsock.path, err) : make_empty_root(dir, err);
	if (fd < 0)
		return fd;
	if (fchdir(fd) < 0)
		return errmsg_set(err, -errno, "--sandbox: cannot enter the new root: %s", strerror(errno));
	if (chroot(".") < 0)
		return errno == EPERM ? 0 : errmsg_set(err, -errno, "--sandbox: chroot: %s", strerror(errno));
	*ret_done = true;
	return 0;
}

static int become(const struct confine_user *user, struct errmsg *err)
{
	if (!user->given || geteuid() != 0)
		return 0;
	if (setgroups(0, NULL) < 0 || setresgid(user->gid, user->gid, user->gid) < 0 ||
	    setresuid(user->uid, user->uid, user->uid) < 0)
		return errmsg_set(err, -errno, "--user: cannot become user %u, group %u: %s", user->uid,
				  user->gid, strerror(errno));
	return 0;
}

/* Needs a capability itself (CAP_SETPCAP), which another user does not have: before become(). */
static int drop_bounding_set(struct errmsg *err)
{
	for (unsigned long cap = 0; prctl(PR_CAPBSET_READ, cap) >= 0; cap++)
		if (prctl(PR_CAPBSET_DROP, cap) < 0 && errno != EPERM)
			return errmsg_set(err, -errno, "--sandbox: capability %lu: %s", cap, strerror(errno));
	return 0;
}

static int drop_capabilities(struct errmsg *err)
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {0};

	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0 && errno != EINVAL)
		return errmsg_set(err, -errno, "--sandbox: ambient capabilities: %s", strerror(errno));
	if (syscall(SYS_capset, &head, none) < 0)
		return errmsg_set(err, -errno, "--sandbox: capset: %s", strerror(errno));
	return 0;
}

int confine_process(const struct vm_config *config, const struct confine_user *user, const struct rundir *dir,
		    const int *folders, size_t folder_count, struct errmsg *err, struct confine_done *ret)
{
	int r = 0;

	*ret = (struct confine_done){0};
	if (config->sandbox)
		r = set_limits(err);
	if (r == 0 && config->sandbox)
		r = change_root(config, dir, err, &ret->new_root);
	if (r == 0 && config->sandbox)
		r = drop_bounding_set(err);
	if (r == 0)
		r = become(user, err);
	if (r == 0 && config->sandbox)
		r = drop_capabilities(err);
	/* Also what a filter needs that is set without privilege. */
	if (r == 0 && (config->sandbox || config->seccomp != CONFIG_SECCOMP_OFF) &&
	    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		r = errmsg_set(err, -errno, "--sandbox: no_new_privs: %s", strerror(errno));
	if (r == 0 && config->sandbox)
		r = confine_landlock(folders, folder_count, err, &ret->landlock);
	return r;
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

#define PROGRAM(filter_)                                                                                     \
	{                                                                                                    \
		.len = ARRAY_SIZE(filter_), .filter = (struct sock_filter *)(uintptr_t)(filter_)             \
	}

/* A thread that cannot be confined must not run. */
static void enter(enum thread_kind kind, const struct sock_fprog *program)
{
	/* SPEC_ALLOW: nothing that a guest wrote is executed by us, so its threads need no slower loads (before 5.16). */
	if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW, program) < 0) {
		log_error("seccomp: cannot confine a %s thread: %s; --seccomp off runs without",
			  thread_kind_name(kind), strerror(errno));
		abort();
	}
}

static void enter_to_be_killed(enum thread_kind kind)
{
	static const struct sock_fprog programs[] = {
		[THREAD_LOOP] = PROGRAM(loop_kill),
		[THREAD_VCPU] = PROGRAM(vcpu_kill),
		[THREAD_WORKER] = PROGRAM(worker_kill),
	};
	_Static_assert(ARRAY_SIZE(programs) == THREAD_KINDS, "a program for each kind");

	enter(kind, &programs[kind]);
}

static void enter_to_be_logged(enum thread_kind kind)
{
	static const struct sock_fprog programs[] = {
		[THREAD_LOOP] = PROGRAM(loop_log),
		[THREAD_VCPU] = PROGRAM(vcpu_log),
		[THREAD_WORKER] = PROGRAM(worker_log),
	};
	_Static_assert(ARRAY_SIZE(programs) == THREAD_KINDS, "a program for each kind");

	enter(kind, &programs[kind]);
}

thread_confine_fn confine_threads(const struct vm_config *config)
{
	if (SANITIZED || config->seccomp == CONFIG_SECCOMP_OFF)
		return NULL;
	return config->seccomp == CONFIG_SECCOMP_LOG ? enter_to_be_logged : enter_to_be_killed;
}
