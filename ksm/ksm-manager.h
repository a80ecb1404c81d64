/* SPDX-License-Identifier: Apache-2.0 */
/* Who else turns KSM's knobs on this host. */
#ifndef SARDINE_KSM_KSM_MANAGER_H
#define SARDINE_KSM_KSM_MANAGER_H

#include <sys/types.h>

#include "base/cleanup.h"
#include "ksm/ksm-sysfs.h"

#define KSM_MANAGER_NAME_MAX 31

struct ksm_manager {
	char name[KSM_MANAGER_NAME_MAX + 1]; /* "" when nobody; "advisor": the kernel itself */
	pid_t pid;			     /* 0 for a systemd unit or the advisor */
};

/**
 * ksm_manager_find() - Look for whoever would undo our settings, or be undone by us.
 * @state: what ksm_state_read() gave.
 * @proc: "/proc", or a folder like it in a test.
 * @units: "/run/systemd/units", where systemd keeps one link per active unit.
 * @ret: the first one found: a running tuner (ksmtuned, MOM, VDSM, uksmd), the active unit ksmtuned.service
 * or ksm.service, or the kernel's advisor.
 *
 * Return: 0 or the errno of opening @proc.
 */
int ksm_manager_find(const struct ksm_state *state, const char *proc, const char *units,
		     struct ksm_manager *ret) must_check;

#endif
