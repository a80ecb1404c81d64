/* SPDX-License-Identifier: Apache-2.0 */
/* `run --cgroup`: join a control group. */
#ifndef SARDINE_TOOLS_RUN_CGROUP_H
#define SARDINE_TOOLS_RUN_CGROUP_H

#include "base/cleanup.h"
#include "base/errmsg.h"

/**
 * cgroup_join() - Move this process into a control group, version 1 or 2.
 * @path: the group's folder.
 * @err: one line on failure.
 *
 * Context: before guest memory is touched, since pages are charged to the group of who touches them first,
 * and before other threads exist. Return: 0, -ENOTDIR when the folder is no control group, or an errno.
 */
int cgroup_join(const char *path, struct errmsg *err) must_check;

#endif
