/* SPDX-License-Identifier: Apache-2.0 */
/* Landlock. Layouts and numbers: include/uapi/linux/landlock.h of Linux 6.12; Debian 12's header ends with 6.1. */
#include "tools/confine-landlock.h"

#include <errno.h>
#include <linux/landlock.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Under a name of our own, so that newer headers do not clash. */
struct ruleset_attr {
	uint64_t handled_access_fs;
	uint64_t handled_access_net; /* ABI 4, Linux 6.7 */
	uint64_t scoped;	     /* ABI 6, Linux 6.12 */
};
_Static_assert(sizeof(struct ruleset_attr) == 24, "layout of struct landlock_ruleset_attr");

/* The rights that files have, by the ABI that brought them: the bits below these. */
#define FS_RIGHTS_ABI_1		   13
#define FS_RIGHTS_ABI_2		   14 /* REFER */
#define FS_RIGHTS_ABI_3		   15 /* TRUNCATE */
#define FS_RIGHTS_ABI_5		   16 /* IOCTL_DEV */
#define NET_BIND_TCP		   1ULL
#define NET_CONNECT_TCP		   2ULL
#define SCOPE_ABSTRACT_UNIX_SOCKET 1ULL
#define SCOPE_SIGNAL		   2ULL

static uint64_t bits_below(unsigned n)
{
	return (1ULL << n) - 1;
}

/* All that this kernel can refuse; it refuses to refuse what it does not know. Return: the size of @attr for it. */
static size_t refuse_all(int abi, struct ruleset_attr *attr)
{
	*attr = (struct ruleset_attr){
		.handled_access_fs = bits_below(abi >= 5   ? FS_RIGHTS_ABI_5
						: abi >= 3 ? FS_RIGHTS_ABI_3
						: abi == 2 ? FS_RIGHTS_ABI_2
							   : FS_RIGHTS_ABI_1),
	};
	if (abi < 4)
		return offsetof(struct ruleset_attr, handled_access_net);
	attr->handled_access_net = NET_BIND_TCP | NET_CONNECT_TCP;
	if (abi < 6)
		return offsetof(struct ruleset_attr, scoped);
	attr->scoped = SCOPE_ABSTRACT_UNIX_SOCKET | SCOPE_SIGNAL;
	return sizeof(*attr);
}

/* What reopen_file() does there: create, and append. */
static int allow_folder(int ruleset, int folder)
{
	struct landlock_path_beneath_attr rule = {
		.allowed_access = LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_MAKE_REG,
		.parent_fd = folder,
	};

	return syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) < 0 ? -errno : 0;
}

int confine_landlock_abi(void)
{
	long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);

	/* Below: not built in, not turned on, or refused by the seccomp filter of a container. */
	return abi < 1 ? 0 : (int)abi;
}

int confine_landlock(const int *folders, size_t count, struct errmsg *err, int *ret_abi)
{
	int abi = confine_landlock_abi();
	auto_fd ruleset = -1;
	struct ruleset_attr attr;
	size_t size;
	int r = 0;

	*ret_abi = 0;
	if (!abi)
		return 0;
	size = refuse_all(abi, &attr);
	ruleset = (int)syscall(SYS_landlock_create_ruleset, &attr, size, 0);
	if (ruleset < 0)
		return errmsg_set(err, -errno, "--sandbox: Landlock ruleset: %s", strerror(errno));
	for (size_t i = 0; r == 0 && i < count; i++)
		if (folders[i] >= 0)
			r = allow_folder(ruleset, folders[i]);
	if (r < 0)
		return errmsg_set(err, r, "--sandbox: Landlock rule: %s", strerror(-r));
	if (syscall(SYS_landlock_restrict_self, ruleset, 0) < 0)
		return errmsg_set(err, -errno, "--sandbox: Landlock: %s", strerror(errno));
	*ret_abi = abi;
	return 0;
}
