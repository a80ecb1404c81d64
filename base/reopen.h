/* SPDX-License-Identifier: Apache-2.0 */
/* Files that are appended to and may be moved away under us: opened anew by name, in the folder held since the start. */
#ifndef SARDINE_BASE_REOPEN_H
#define SARDINE_BASE_REOPEN_H

#include "base/cleanup.h"
#include "base/syscalls.h"

/* Where a file is to be found: its folder, held open, and its name there. It works in a chroot and after the folder moved. */
struct reopen {
	int dir_fd; /* O_PATH; -1: none */
	char *name;
};

/* O_NONBLOCK: a FIFO that somebody put there must not hold us up; it has no meaning for regular files. */
#define REOPEN_FLAGS (O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC)

#define REOPEN_NONE ((struct reopen){.dir_fd = -1})

/**
 * reopen_hold() - Take hold of the folder of @path.
 * @ret: ended with reopen_done().
 *
 * Return: 0, -EISDIR when the path ends in a slash, or the errno of open.
 */
int reopen_hold(const char *path, struct reopen *ret) must_check;
void reopen_done(struct reopen *r);

/**
 * reopen_file() - Let a descriptor be the file that has the name now; it is created (mode 0600) when there is none.
 * @fd: open for appending. Its number stays, so other threads may use it meanwhile.
 *
 * What is no regular file (a terminal, a pipe) stays as it is. A symbolic link is not followed: whoever can put one there must
 * not choose what we write to.
 *
 * Return: 0, or the errno of open (-ELOOP: a symbolic link), -ENOTSUP when the name is no regular file; @fd is as before then.
 */
int reopen_file(const struct reopen *r, int fd) must_check;

extern const struct syscall_list reopen_syscalls;

#endif
