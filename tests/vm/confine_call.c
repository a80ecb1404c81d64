/* SPDX-License-Identifier: Apache-2.0 */
/* confine_call KIND CALL [vsock] [reopen]: puts itself under the filters of a kind of thread, of a VM with these, and makes one call. Exit status 0: it was let; death by
 * SIGSYS: it was not. For tests/vm/test_confine.py. */
#include <fcntl.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/reopen.h"
#include "tools/confine-start.h"
#include "tools/run-confine.h"

/* No process has such a number: Linux ends at 4,194,304. */
#define NOBODY 0x7ffffff0

static void make_call(const char *call)
{
	char *none[] = {NULL};

	if (strcmp(call, "openat") == 0)
		(void)!syscall(SYS_openat, AT_FDCWD, "/", O_RDONLY);
	else if (strcmp(call, "execve") == 0)
		(void)!syscall(SYS_execve, "/nothing", none, none);
	else if (strcmp(call, "ptrace") == 0)
		(void)!syscall(SYS_ptrace, PTRACE_TRACEME, 0, 0, 0);
	else if (strcmp(call, "inet") == 0)
		(void)!syscall(SYS_socket, AF_INET, SOCK_STREAM, 0);
	else if (strcmp(call, "fork") == 0)
		(void)!syscall(SYS_clone, 17, 0, 0, 0, 0);
	else if (strcmp(call, "exec-memory") == 0)
		(void)!syscall(SYS_mmap, NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1,
			       0);
	else if (strcmp(call, "io_uring_setup") == 0)
		(void)!syscall(SYS_io_uring_setup, 1, NULL);
	else if (strcmp(call, "unlink") == 0)
		(void)!syscall(SYS_unlink, "/nothing");
	else if (strcmp(call, "create-vm") == 0)
		(void)!syscall(SYS_ioctl, -1, KVM_CREATE_VM, 0);
	else if (strcmp(call, "run") == 0)
		(void)!syscall(SYS_ioctl, -1, KVM_RUN, 0);
	else if (strcmp(call, "accept4") == 0)
		(void)!syscall(SYS_accept4, -1, NULL, NULL, 0);
	else if (strcmp(call, "pwrite") == 0)
		(void)!syscall(SYS_pwrite64, -1, NULL, 0, 0);
	else if (strcmp(call, "memfd") == 0)
		(void)!syscall(SYS_memfd_create, NULL, 0);
	else if (strcmp(call, "unix") == 0)
		(void)!syscall(SYS_socket, AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	else if (strcmp(call, "datagrams") == 0)
		(void)!syscall(SYS_socket, AF_UNIX, SOCK_DGRAM, 0);
	else if (strcmp(call, "connect") == 0)
		(void)!syscall(SYS_connect, -1, NULL, 0);
	else if (strcmp(call, "append") == 0)
		(void)!syscall(SYS_openat, -1, "", REOPEN_FLAGS, 0600);
	else if (strcmp(call, "signal-itself") == 0)
		(void)!syscall(SYS_tgkill, getpid(), gettid(), 0);
	else if (strcmp(call, "signal-other") == 0)
		(void)!syscall(SYS_tgkill, NOBODY, NOBODY, 0);
	else if (strcmp(call, "end-itself") == 0)
		(void)!syscall(SYS_kill, getpid(), SIGTERM);
	else if (strcmp(call, "end-other") == 0)
		(void)!syscall(SYS_kill, NOBODY, SIGTERM);
	else if (strcmp(call, "write") == 0)
		(void)!syscall(SYS_write, -1, NULL, 0);
}

int main(int argc, char **argv)
{
	thread_confine_fn confine = confine_threads(CONFIG_SECCOMP_ON);
	struct errmsg err;
	bool vsock = false, reopens = false;

	for (int i = 3; i < argc; i++) {
		vsock |= strcmp(argv[i], "vsock") == 0;
		reopens |= strcmp(argv[i], "reopen") == 0;
	}
	if (argc < 3 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return 2;
	for (unsigned kind = 0; kind < THREAD_KINDS; kind++) {
		if (strcmp(argv[1], thread_kind_name((enum thread_kind)kind)) != 0)
			continue;
		signal(SIGTERM, SIG_IGN);
		if (confine_start_filter(CONFIG_SECCOMP_ON, vsock, reopens, &err) < 0)
			return 2;
		confine((enum thread_kind)kind);
		make_call(argv[2]);
		_exit(0);
	}
	return 2;
}
