/* SPDX-License-Identifier: Apache-2.0 */
/* The seccomp program that is put together when a VM starts: what the tables beside the code cannot know. */
/*
 * Theory of operation: the tables are compiled when sardine is built, for all VMs. What they allow is more than most VMs need, and
 * three facts about one VM are known only at its start:
 *
 *   its process id     Signals go to its own threads (the kick of a vCPU, Ctrl-A x, abort()). A filter that lets kill() and tgkill() pass
 *		       for any process lets a stolen VM of root's end every process of root's on the host: that takes no
 *		       capability, only the same uid.
 *   its vsock	       Without one, no socket is ever made: a chroot does not keep anybody from abstract Unix sockets. With one, streams only.
 *   its files	       Without a log file and a `console file:`, nothing is opened anew on SIGHUP.
 *
 * Programs add up, and the strictest verdict wins: this one lets everything else pass, and the programs of the tables decide. It
 * looks at no architecture, since those kill all but x86-64.
 */
#include "tools/confine-start.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define INSTRUCTIONS_MAX 24

struct program {
	struct sock_filter insns[INSTRUCTIONS_MAX];
	unsigned short count;
	uint32_t otherwise; /* the verdict over what is refused */
};

static void add(struct program *p, uint16_t code, uint32_t k, uint8_t jump_false)
{
	p->insns[p->count++] = (struct sock_filter){code, 0, jump_false, k};
}

static void load(struct program *p, size_t offset)
{
	add(p, BPF_LD | BPF_W | BPF_ABS, (uint32_t)offset, 0);
}

/* Let it pass with one value of one argument only. Other calls skip the five instructions, and keep their number loaded. */
static void only_with(struct program *p, long number, unsigned argument, uint32_t value)
{
	add(p, BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)number, 4);
	/* The kernel takes these arguments as int: the lower half, which comes first. */
	load(p, offsetof(struct seccomp_data, args) + argument * sizeof(uint64_t));
	add(p, BPF_JMP | BPF_JEQ | BPF_K, value, 1);
	add(p, BPF_RET | BPF_K, SECCOMP_RET_ALLOW, 0);
	add(p, BPF_RET | BPF_K, p->otherwise, 0);
}

static void refuse(struct program *p, long number)
{
	add(p, BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)number, 1);
	add(p, BPF_RET | BPF_K, p->otherwise, 0);
}

int confine_start_filter(enum config_seccomp mode, bool vsock, bool reopens, struct errmsg *err)
{
	struct program p = {
		.otherwise = mode == CONFIG_SECCOMP_LOG ? SECCOMP_RET_LOG : SECCOMP_RET_KILL_PROCESS,
	};
	struct sock_fprog program = {.filter = p.insns};
	uint32_t self = (uint32_t)getpid();

	if (mode == CONFIG_SECCOMP_OFF)
		return 0;
	load(&p, offsetof(struct seccomp_data, nr));
	only_with(&p, SYS_tgkill, 0, self);
	only_with(&p, SYS_kill, 0, self);
	if (vsock) {
		only_with(&p, SYS_socket, 1, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK);
	} else {
		refuse(&p, SYS_socket);
		refuse(&p, SYS_connect);
	}
	if (!reopens)
		refuse(&p, SYS_openat);
	add(&p, BPF_RET | BPF_K, SECCOMP_RET_ALLOW, 0);
	program.len = p.count;
	if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW, &program) < 0)
		return errmsg_set(err, -errno, "--seccomp: %s; --seccomp off runs without", strerror(errno));
	return 0;
}
