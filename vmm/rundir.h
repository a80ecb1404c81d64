/* SPDX-License-Identifier: Apache-2.0 */
/* The runtime directory: which VM names are in use, and where their sockets are. */
#ifndef SARDINE_VMM_RUNDIR_H
#define SARDINE_VMM_RUNDIR_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/cleanup.h"
#include "base/errmsg.h"
#include "vmm/config.h"
#include "vmm/unix-socket.h"

/*
 * Theory of operation. The directory is $SARDINE_RUNTIME_DIR, else for root /run/sardine, so that services and
 * root's login see the same VMs, else $XDG_RUNTIME_DIR/sardine, else /run/sardine; 0700 and the caller's. Of each
 * VM it holds
 *   NAME.lock  locked (OFD write lock) by the VMM as long as it lives, however it dies; its text is the pid;
 *   NAME.sock  the control socket;
 *   NAME.log   the log of a detached VM; it outlives the VM;
 * and the socket of the daemon, sardined.sock: no VM may have that name.
 * A name is in use exactly while NAME.lock is locked. Who holds the lock may remove what a dead predecessor
 * left; a lock file is only removed by its holder, and a new holder checks that the file it locked is still
 * the one in the directory.
 */
struct rundir {
	int fd;	    /* -1: closed */
	char *path; /* absolute */
};

#define RUNDIR_NONE ((struct rundir){.fd = -1})

/* True for what --name accepts: 1 to CONFIG_NAME_MAX letters, digits, '-', '_', '.', not starting with
 * punctuation. */
bool rundir_name_valid(const char *name);

/**
 * rundir_where() - Choose the runtime directory.
 * @uid: who runs; 0 has one place for services and logins.
 * @own: SARDINE_RUNTIME_DIR, the directory itself; NULL or "" when it is not set.
 * @xdg: XDG_RUNTIME_DIR, the folder for the directory; NULL when it is not set.
 * @ret: allocated.
 *
 * Return: 0; -EINVAL when @own is not absolute; -ENOMEM.
 */
int rundir_where(uid_t uid, const char *own, const char *xdg, char **ret) must_check;

/**
 * rundir_open() - Open the runtime directory.
 * @create: make it when it is missing (its parent must exist).
 * @err: one line on failure.
 * @ret: closed with rundir_close().
 *
 * Return: 0; -ENOENT when it is missing and @create is false (no VM runs then); -EPERM when it belongs to
 * somebody else or others may enter it; -EINVAL by SARDINE_RUNTIME_DIR; or an errno.
 */
int rundir_open(bool create, struct errmsg *err, struct rundir *ret) must_check;
void rundir_close(struct rundir *dir);

/**
 * rundir_file() - The path of a VM's file.
 * @suffix: "sock", "lock" or "log".
 *
 * Return: allocated, NULL without memory.
 */
char *rundir_file(const struct rundir *dir, const char *name, const char *suffix);

/* A name held by this process. */
struct rundir_name;

/**
 * rundir_claim() - Take a name for this process, and clear what dead VMs left, of this name and others.
 * @dir: borrowed as long as the name is held.
 * @name: valid.
 * @err: one line on failure; says who uses the name.
 * @ret: given back with rundir_release().
 *
 * Return: 0, -EBUSY when the name is in use, -EINVAL for a bad name, or an errno (-EROFS, -EACCES..).
 */
int rundir_claim(const struct rundir *dir, const char *name, struct errmsg *err,
		 struct rundir_name **ret) must_check;

/* Write this process's pid into the lock file; again after fork() (the lock goes with the descriptor). */
int rundir_name_set_pid(struct rundir_name *held) must_check;

/* Remove NAME.sock and NAME.lock and let go of the name. NULL is allowed. */
void rundir_release(struct rundir_name *held);

/* The descriptor of the lock, which stays the name's: for who closes all others. */
int rundir_name_fd(const struct rundir_name *held);

/* Close in one of two processes after fork(): the other one keeps the name. NULL is allowed. */
void rundir_name_forget(struct rundir_name *held);

struct rundir_entry {
	char name[CONFIG_NAME_MAX + 1];
	pid_t pid; /* 0: not written yet */
};

/**
 * rundir_list() - The VMs that live, by name.
 * @ret: array, freed by the caller.
 * @ret_count: its length.
 *
 * Stale files are not listed, and left to the next rundir_claim().
 *
 * Return: 0 or an errno.
 */
int rundir_list(const struct rundir *dir, struct rundir_entry **ret, size_t *ret_count) must_check;

/**
 * rundir_find() - One live VM.
 * @name: its name.
 *
 * Return: 0, -ENOENT when no VM of that name lives, -EINVAL for a bad name, or an errno.
 */
int rundir_find(const struct rundir *dir, const char *name, struct rundir_entry *ret) must_check;

/* Remove the lock and socket files of dead VMs. Return: how many VMs were cleaned, or an errno. */
int rundir_clean(const struct rundir *dir);

/**
 * rundir_connect() - Connect to a VM's control socket.
 * @name: of a live VM.
 * @err: one line on failure.
 * @ret_fd: blocking descriptor.
 *
 * Return: 0, -ENOENT when no such VM runs, or an errno.
 */
int rundir_connect(const struct rundir *dir, const char *name, struct errmsg *err, int *ret_fd) must_check;

#endif
