/* SPDX-License-Identifier: Apache-2.0 */
/* What a VM's process gives up before its guest runs. */
/*
 * Theory of operation: the staged drop
 *
 *   0  It is found out what this host allows (confine_plan_make()); --sandbox on and --seccomp on end here where something is
 *      missing, the default goes on with the rest. Inherited descriptors are closed, but for those that options name. A small process
 *      is split off that removes the VM's files in the end (run-sweeper.c), since nothing below can reach them any more. Then everything
 *      is opened that the VM will ever need: KVM, disks, boot images, log, console, control socket, and the files of /proc and /sys that
 *      `stats` reads.
 *   1  The process shrinks (confine_process()): limits, an empty root, another user, no capability, no way to regain any, Landlock.
 *   2  The loop's thread, which is the only one, puts itself under a filter of what this VM has no use for (confine-start.c),
 *      and under the system call filter of its kind.
 *   3  vCPU threads and the threads that live for one dump, one reading or one pause are started under it, and add the narrower
 *      one of their own kind before they do anything else. The thread of a reboot makes a new machine and starts vCPU threads: it
 *      stays as it was started.
 *   The first instruction of the guest comes after all of that.
 *
 * The empty root is a directory that is removed before it is entered: nobody can make a file in it, it holds nothing, and nothing
 * is left behind.
 *
 * A VM with a vsock has the folder of its sockets for a root instead: give it one of its own.
 *
 * chroot() needs CAP_SYS_CHROOT. Landlock needs nothing but a kernel that has it, and also holds what chroot() does not: the way
 * out through a descriptor of a folder, abstract sockets, signals (confine-landlock.c). What remains to a stolen process is in
 * docs/threat-model.md. Memory that can be executed is never made: the filters refuse PROT_EXEC.
 *
 * The filters are compiled when sardine is built (make-filters.c), so that a start costs four system calls for them. Disk I/O by
 * io_uring does not pass them: the rings themselves are restricted (vmm/virtio-blk-engine.c).
 *
 * No user namespace gives an empty root to a VM that root did not start: there the uid of a client that is root would not be 0 any more,
 * and Landlock holds what that root would.
 *
 * A new kind of thread
 *
 *   vmm/thread-kind.[ch]	its name; everything that goes by kind, the compiled programs included, follows from there
 *   confine-threads.c		the list of tables that it needs; a call that is in no table yet gets its row in the file that makes it
 *				(DEFINE_SYSCALLS), with the one argument that matters checked where there is one: ioctl() by its request
 *   its start			the thread calls the thread_confine_fn with its kind before anything else (vmm/vcpu.c does)
 *   test_confine.py		a column in CALLS: what it may do, and above all what it may not
 *
 * A thread begins under the filter of the one that starts it, and filters only add up. So either the loop's list takes the new tables
 * in, too, as it does those of vCPUs and workers; or, when the loop is to have none of these calls (userfaultfd's and pagemap's ioctl(),
 * memfd_create()), the thread is started before stage 2, in run_confine() of cmd-run.c, between confine_start_filter() and
 * confine(THREAD_LOOP), and waits there for its work. What no VM without it needs is refused by the start's own program
 * (confine-start.c): let it pass there when the VM has such a thread. Descriptors (pagemap, a daemon's socket) are opened in stage 0. A
 * thread that is to connect anew cannot name a path any more: it needs an O_PATH descriptor of the socket's folder, a working directory
 * of its own (unshare(CLONE_FS), fchdir()) before stage 1, and connect() allowed to it; or the other side connects to us.
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

#include "base/addr.h"
#include "base/fs.h"
#include "base/log.h"
#include "base/size.h"
#include "filters.h"
#include "tools/confine-landlock.h"

/* Descriptors: what the VM has, 64 clients, 16 readers, and those of transfers. Far below what select() or a table could hurt. */
#define DESCRIPTORS_MAX 4096

#ifdef SARDINE_SANITIZED
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

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

void confine_inherited(const struct vm_config *config, int report_fd)
{
	int keep[1 + CONFIG_NETS_MAX] = {report_fd};

	for (size_t i = 0; i < config->net_count; i++)
		keep[1 + i] = (int)config->nets[i].tap_fd;
	close_other_fds(keep, 1 + config->net_count, STDERR_FILENO + 1);
}

/* Of a container too: its right to chroot() may be gone. */
static bool can_chroot(void)
{
	return geteuid() == 0 && prctl(PR_CAPBSET_READ, CAP_SYS_CHROOT) == 1;
}

static bool can_filter(void)
{
	uint32_t action = SECCOMP_RET_KILL_PROCESS;

	return syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) == 0;
}

static int plan_sandbox(enum config_sandbox asked, struct confine_plan *plan, struct errmsg *err)
{
	plan->whole = asked == CONFIG_SANDBOX_ON;
	plan->sandbox = plan->whole || (asked == CONFIG_SANDBOX_AUTO && !SANITIZED);
	if (!plan->sandbox)
		return 0;
	plan->new_root = can_chroot();
	plan->landlock = confine_landlock_abi() > 0;
	if (!plan->whole)
		return 0;
	if (SANITIZED)
		return errmsg_set(err, -ENOTSUP,
				  "--sandbox on: not in a build with sanitizers, which need /proc");
	if (!plan->new_root)
		return errmsg_set(err, -ENOTSUP,
				  "--sandbox on: only root can give a VM an empty root; --sandbox auto does "
				  "what is possible");
	if (!plan->landlock)
		return errmsg_set(err, -ENOTSUP,
				  "--sandbox on: this kernel has no Landlock (5.13, in the list of lsm=); "
				  "--sandbox auto does "
				  "what is possible");
	return 0;
}

static int plan_seccomp(enum config_seccomp asked, struct confine_plan *plan, struct errmsg *err)
{
	bool may = !SANITIZED && (asked == CONFIG_SECCOMP_OFF || can_filter());

	plan->asked = asked;
	plan->seccomp = asked == CONFIG_SECCOMP_AUTO ? CONFIG_SECCOMP_ON : asked;
	if (may)
		return 0;
	plan->seccomp = CONFIG_SECCOMP_OFF;
	if (asked == CONFIG_SECCOMP_AUTO || asked == CONFIG_SECCOMP_OFF)
		return 0;
	return errmsg_set(err, -ENOTSUP, "--seccomp: %s; --seccomp off runs without",
			  SANITIZED ? "not in a build with sanitizers, which need more system calls"
				    : "this kernel has no seccomp filters");
}

int confine_plan_make(const struct vm_config *config, struct confine_plan *ret, struct errmsg *err)
{
	struct confine_plan plan = {0};
	int r = plan_sandbox((enum config_sandbox)config->sandbox, &plan, err);

	if (r == 0)
		r = plan_seccomp((enum config_seccomp)config->seccomp, &plan, err);
	if (r == 0)
		*ret = plan;
	return r;
}

bool confine_plan_any(const struct confine_plan *plan, const struct confine_user *user)
{
	return plan->sandbox || plan->seccomp != CONFIG_SECCOMP_OFF || user->given;
}

static int set_limits(const struct vm_config *config, struct errmsg *err)
{
	const struct {
		int what;
		rlim_t max;
	} limits[] = {
		/* And one per segment of the store that it maps. */
		{RLIMIT_NOFILE, DESCRIPTORS_MAX + config->mem_bytes / HUGE_PAGE_BYTES},
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

/* Forbidden after all, by the seccomp filter of a container: the file system stays in sight. */
static int change_root(const struct vm_config *config, const struct confine_plan *plan,
		       const struct rundir *dir, struct errmsg *err, bool *ret_done)
{
	auto_fd fd = -1;

	if (!plan->new_root)
		return 0;
	fd = config->vsock.on ? open_vsock_folder(config->vsock.path, err) : make_empty_root(dir, err);
	if (fd < 0)
		return fd;
	if (fchdir(fd) < 0)
		return errmsg_set(err, -errno, "--sandbox: cannot enter the new root: %s", strerror(errno));
	if (chroot(".") < 0)
		return errno == EPERM && !plan->whole
			       ? 0
			       : errmsg_set(err, -errno, "--sandbox: chroot: %s", strerror(errno));
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

int confine_process(const struct vm_config *config, const struct confine_plan *plan,
		    const struct confine_user *user, const struct rundir *dir, const int *folders,
		    size_t folder_count, struct errmsg *err, struct confine_done *ret)
{
	struct confine_done done = {.sandbox = plan->sandbox, .seccomp = plan->seccomp};
	int r = 0;

	if (plan->sandbox)
		r = set_limits(config, err);
	if (r == 0 && plan->sandbox)
		r = change_root(config, plan, dir, err, &done.new_root);
	if (r == 0 && plan->sandbox)
		r = drop_bounding_set(err);
	if (r == 0)
		r = become(user, err);
	if (r == 0 && plan->sandbox)
		r = drop_capabilities(err);
	/* Also what a filter needs that is set without privilege. */
	if (r == 0 && (plan->sandbox || plan->seccomp != CONFIG_SECCOMP_OFF) &&
	    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		r = errmsg_set(err, -errno, "--sandbox: no_new_privs: %s", strerror(errno));
	if (r == 0 && plan->landlock) {
		r = confine_landlock(folders, folder_count, err, &done.landlock_abi);
		/* 16 rulesets of others are in force already, or a container's seccomp filter forbids it. */
		if (r < 0 && !plan->whole)
			r = 0;
	}
	done.uid = geteuid();
	if (r == 0)
		*ret = done;
	return r;
}

void confine_log_missing(const struct confine_plan *plan, const struct confine_done *done)
{
	const struct {
		bool missing;
		const char *what;
	} parts[] = {
		{plan->sandbox && !done->new_root, "no empty root (only root may have one)"},
		{plan->sandbox && !done->landlock_abi, "no Landlock (this kernel has none)"},
		{plan->asked == CONFIG_SECCOMP_AUTO && !SANITIZED && done->seccomp == CONFIG_SECCOMP_OFF,
		 "no seccomp filters (this kernel has none)"},
	};
	/* Either keeps files out of reach, so one of them missing is nothing to worry about. */
	const bool in_sight = parts[0].missing && parts[1].missing;
	char text[256] = "";
	size_t at = 0;

	for (size_t i = 0; i < ARRAY_SIZE(parts); i++)
		if (parts[i].missing && at < sizeof(text))
			at += (size_t)snprintf(text + at, sizeof(text) - at, "%s%s", at ? ", " : "",
					       parts[i].what);
	if (at)
		log_line(in_sight || parts[2].missing ? LOG_LEVEL_WARN : LOG_LEVEL_INFO,
			 "confined in part: %s%s", text, in_sight ? "; the file system stays in sight" : "");
}

/* A thread that cannot be confined must not run. */
static void enter(enum thread_kind kind, const struct filter_program *p)
{
	const struct sock_fprog program = {
		.len = p->count,
		.filter = (struct sock_filter *)(uintptr_t)p->insns,
	};

	/* SPEC_ALLOW: nothing that a guest wrote is executed by us, so its threads need no slower loads (before 5.16). */
	if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW, &program) < 0) {
		log_error("seccomp: cannot confine a %s thread: %s; --seccomp off runs without",
			  thread_kind_name(kind), strerror(errno));
		abort();
	}
}

static void enter_to_be_killed(enum thread_kind kind)
{
	_Static_assert(ARRAY_SIZE(programs_kill) == THREAD_KINDS, "a program for each kind");
	enter(kind, &programs_kill[kind]);
}

static void enter_to_be_logged(enum thread_kind kind)
{
	_Static_assert(ARRAY_SIZE(programs_log) == THREAD_KINDS, "a program for each kind");
	enter(kind, &programs_log[kind]);
}

thread_confine_fn confine_threads(enum config_seccomp mode)
{
	switch (mode) {
	case CONFIG_SECCOMP_ON:
		return enter_to_be_killed;
	case CONFIG_SECCOMP_LOG:
		return enter_to_be_logged;
	case CONFIG_SECCOMP_AUTO:
	case CONFIG_SECCOMP_OFF:
		break;
	}
	return NULL;
}
