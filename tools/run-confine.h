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

/* What is in force, beyond what always is. */
struct confine_done {
	bool new_root; /* chroot */
	bool landlock;
};

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
 * @config: `sandbox` says whether at all.
 * @report_fd: stays open; -1: none.
 *
 * Context: before anything is opened.
 */
void confine_inherited(const struct vm_config *config, int report_fd);

/**
 * confine_process() - Give up what the whole process does not need (stages 1 and 2; see run-confine.c).
 * @config: `sandbox` says whether at all.
 * @user: as whom to run from here on.
 * @dir: the runtime directory, where the empty root is made, and gone again.
 * @folders: O_PATH descriptors of the folders in which files are opened anew later; negative ones are passed over.
 * @err: one line on failure.
 * @ret: what the host and our privilege allowed.
 *
 * Context: everything is open, and this is the only thread.
 * Return: 0 or an errno. What cannot be given up for want of privilege is no error, but for @user.
 */
int confine_process(const struct vm_config *config, const struct confine_user *user, const struct rundir *dir,
		    const int *folders, size_t folder_count, struct errmsg *err,
		    struct confine_done *ret) must_check;

/* What each thread calls on itself first (stage 3); NULL: nothing (--seccomp off, or a sanitizer needs more than we list). */
thread_confine_fn confine_threads(const struct vm_config *config);

#endif
