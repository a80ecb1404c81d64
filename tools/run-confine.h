/* SPDX-License-Identifier: Apache-2.0 */
/* What a VM's process gives up before its guest runs. */
#ifndef SARDINE_TOOLS_RUN_CONFINE_H
#define SARDINE_TOOLS_RUN_CONFINE_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/cleanup.h"
#include "base/errmsg.h"
#include "vmm/config.h"
#include "vmm/rundir.h"
#include "vmm/thread-kind.h"

/* As whom to run, resolved from --user. */
struct confine_user {
	bool given;
	uid_t uid;
	gid_t gid;
};

/* What is to be given up: the options, and what they come to in this build on this host. */
struct confine_plan {
	bool sandbox;
	bool whole; /* --sandbox on: what turns out to be impossible is an error */
	bool new_root;
	bool landlock;
	enum config_seccomp seccomp; /* on, log or off */
	enum config_seccomp asked;   /* the option */
};

/* What is in force. */
struct confine_done {
	bool sandbox;		     /* limits, no capabilities, closed descriptors */
	bool new_root;		     /* chroot */
	int landlock_abi;	     /* 0: none */
	enum config_seccomp seccomp; /* on, log or off */
	uid_t uid;
};

/**
 * confine_plan_make() - Find out what can be given up here.
 * @config: `sandbox` and `seccomp`. Auto: what is possible; in a build with sanitizers, which need more than a confined process has,
 *	nothing.
 * @err: one line on failure.
 *
 * Context: before anything is opened: nothing is left behind by a failure.
 * Return: 0; -ENOTSUP: the options insist on what this host, this build or our rights do not allow.
 */
int confine_plan_make(const struct vm_config *config, struct confine_plan *ret,
		      struct errmsg *err) must_check;

/* Whether files by name may be out of reach afterwards. */
bool confine_plan_any(const struct confine_plan *plan, const struct confine_user *user);

/**
 * confine_user_parse() - Resolve --user.
 * @text: "NAME", "NAME:GROUP" or numbers in place of names; NULL: stay who we are.
 * @err: one line on failure.
 *
 * A name without a group stands for the user's own group; a number without a group for the group of the same number.
 *
 * Context: before the process is confined: reads the user database.
 * Return: 0, -EINVAL (no such user or group), -EPERM (only root may become another user).
 */
int confine_user_parse(const char *text, struct confine_user *ret, struct errmsg *err) must_check;

/**
 * confine_inherited() - Close every descriptor above standard error that was inherited, but those that options name.
 * @config: its taps.
 * @report_fd: stays open; -1: none.
 *
 * Context: before anything is opened.
 */
void confine_inherited(const struct vm_config *config, int report_fd);

/**
 * confine_process() - Give up what the whole process does not need (stage 1; see run-confine.c).
 * @config: the VM's.
 * @plan: what to give up.
 * @user: as whom to run from here on.
 * @dir: the runtime directory, where the empty root is made, and gone again.
 * @folders: O_PATH descriptors of the folders in which files are opened anew later; negative ones are passed over.
 * @err: one line on failure.
 * @ret: what the host and our rights allowed; its `seccomp` is the plan's.
 *
 * Context: everything is open, and this is the only thread.
 * Return: 0 or an errno. What turns out to be impossible is an error only if the plan is to have the whole of it, but @user always.
 */
int confine_process(const struct vm_config *config, const struct confine_plan *plan,
		    const struct confine_user *user, const struct rundir *dir, const int *folders,
		    size_t folder_count, struct errmsg *err, struct confine_done *ret) must_check;

/* Say in one line of the log what is missing of what --sandbox auto and --seccomp auto stand for, if anything is. */
void confine_log_missing(const struct confine_plan *plan, const struct confine_done *done);

/* What each thread calls on itself first (stages 2 and 3); NULL: nothing. @mode: on, log or off. */
thread_confine_fn confine_threads(enum config_seccomp mode);

#endif
