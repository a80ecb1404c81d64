/* SPDX-License-Identifier: Apache-2.0 */
/* Which system calls each kind of thread may make: the tables of the files whose code it runs. */
#include "tools/confine-threads.h"

#include "base/reopen.h"
#include "ksm/map-room.h"
#include "ksm/remap.h"
#include "ksm/segment.h"
#include "ksm/store-backend.h"
#include "ksm/store-remote.h"
#include "ksm/store.h"
#include "ksm/write-tracker.h"
#include "stats/ksm-usage.h"
#include "tools/run-sweeper.h"
#include "vmm/console.h"
#include "vmm/control.h"
#include "vmm/dump.h"
#include "vmm/guest-memory.h"
#include "vmm/io-loop.h"
#include "vmm/kvm.h"
#include "vmm/terminal.h"
#include "vmm/unix-server.h"
#include "vmm/vcpu-state.h"
#include "vmm/vcpu.h"
#include "vmm/virtio-blk-engine.h"
#include "vmm/virtio-net.h"
#include "vmm/virtio-rng.h"
#include "vmm/vm.h"
#include "vmm/vsock-connection.h"
#include "vmm/vsock-host.h"

/* The last thread to park for a hold does its work (ksm/extent-apply.c): vCPUs' and the loop's. */
#define OF_HOLDS &remap_syscalls, &write_tracker_syscalls, &guest_memory_syscalls
/* "A new kind of thread" in tools/run-confine.c says what else belongs to one. */

/* Registers of devices are handled on the vCPU's thread: it may wake the loop, arm timers and drain a disk. */
#define OF_VCPUS                                                                                             \
	&vcpu_syscalls, &io_loop_syscalls, &blk_engine_syscalls, &virtio_net_syscalls, &vsock_drop_syscalls, \
		OF_HOLDS

/* Threads that live for one dump or one reading of statistics. */
#define OF_WORKERS                                                                                           \
	&dump_syscalls, &guest_memory_syscalls, &vm_usage_syscalls, &ksm_usage_syscalls,                     \
		&blk_engine_syscalls, &io_loop_syscalls

/*
 * The loop starts all other threads, which begin under its program before they add their own: so it may do what they may. It
 * is the one thread that cannot be told from the whole process anyway: it holds every descriptor.
 */
static const struct syscall_list *const loop[] = {
	&libc_syscalls,
	&libc_thread_syscalls,
	&log_syscalls,
	&console_syscalls,
	&control_syscalls,
	&guest_memory_syscalls,
	&terminal_syscalls,
	&unix_server_syscalls,
	&kvm_syscalls,
	&reopen_syscalls,
	&vcpu_state_syscalls,
	&virtio_net_syscalls,
	&virtio_rng_syscalls,
	&vsock_connection_syscalls,
	&vsock_host_syscalls,
	&run_sweeper_syscalls,
	&store_link_free_syscalls,
	OF_VCPUS,
	OF_WORKERS,
	NULL,
};

static const struct syscall_list *const vcpu[] = {&libc_syscalls, &log_syscalls, OF_VCPUS, NULL};

static const struct syscall_list *const worker[] = {&libc_syscalls, &log_syscalls, OF_WORKERS, NULL};

/* Started before the loop's thread confines itself: what it makes and maps is nobody else's business. */
static const struct syscall_list *const agent[] = {
	&libc_syscalls,	     &log_syscalls,   &remap_syscalls,	      &write_tracker_syscalls,	   &segment_syscalls,
	&store_syscalls, &map_room_syscalls, &store_daemon_syscalls, &store_link_remote_syscalls, &guest_memory_syscalls, NULL};

static const struct syscall_list *const *const kinds[] = {
	[THREAD_LOOP] = loop,
	[THREAD_VCPU] = vcpu,
	[THREAD_WORKER] = worker,
	[THREAD_AGENT] = agent,
};
_Static_assert(ARRAY_SIZE(kinds) == THREAD_KINDS, "a list for each kind");

const struct syscall_list *const *confine_thread_lists(enum thread_kind kind)
{
	return kinds[kind];
}
