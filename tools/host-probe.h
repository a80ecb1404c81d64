/* SPDX-License-Identifier: Apache-2.0 */
/* What this host can do for VMs, found out by doing it. */
#ifndef SARDINE_TOOLS_HOST_PROBE_H
#define SARDINE_TOOLS_HOST_PROBE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/errmsg.h"
#include "ksm/ksm-manager.h"
#include "ksm/ksm-sysfs.h"

/* How a guest's kernel code (ring 0) runs; told apart by timing alone. */
enum guest_kernel {
	GUEST_KERNEL_UNKNOWN,	  /* no KVM, or the timing VM did not run */
	GUEST_KERNEL_NATIVE,	  /* on the CPU */
	GUEST_KERNEL_INTERPRETED, /* one by one, in software: a stock Linux takes minutes to boot, if it does
				   */
	GUEST_KERNELS,
};

const char *guest_kernel_name(enum guest_kernel kind);

/*
 * Million instructions per second below which ring-0 code counts as interpreted. An interpreter was measured
 * at 1, KVM's own instruction emulator makes about as many; the slowest CPU that runs them itself (QEMU's
 * TCG, which translates) makes more than 100.
 */
#define GUEST_KERNEL_NATIVE_MIN_MIPS 15.0

enum guest_kernel guest_kernel_classify(double mips);

/* Capabilities whose values are reported: what is used when it is there, and what later parts build on. */
#define PROBE_KVM_CAPS 12

struct probe_kvm {
	bool usable;
	struct errmsg why; /* when not usable */
	int api_version;
	int caps[PROBE_KVM_CAPS];
	enum guest_kernel guest_kernel;
	double mips;	     /* 0 when not measured */
	struct errmsg speed; /* why not measured */
};

const char *probe_kvm_cap_name(size_t index);

struct probe_uffd {
	bool syscall; /* userfaultfd() with kernel faults, as the KVM thread needs for blocking protection */
	bool user_mode_only; /* the same with UFFD_USER_MODE_ONLY: enough for WP_ASYNC, no privilege */
	bool device;	     /* /dev/userfaultfd can be opened */
	int64_t sysctl;	     /* vm.unprivileged_userfaultfd; -1 without */
	uint64_t features;   /* UFFD_FEATURE_*, as the kernel offers them */
};

/* The name of a feature bit, NULL for one that has none here. */
const char *probe_uffd_feature_name(unsigned bit);

struct probe_pagemap {
	bool scan;	    /* PAGEMAP_SCAN found a page that was touched */
	bool tracks_writes; /* with WP_ASYNC it told the page that was written from those that were not */
	struct errmsg why;  /* when not */
};

#define PROBE_WORD_MAX 31

struct probe_cgroup {
	unsigned version; /* of the hierarchy with the memory controller: 1, 2; 0 without any */
	bool memory;	  /* memory is accounted */
	char mount[256];  /* where that hierarchy is mounted; "" when not */
};

/* What /proc/self/mountinfo says. @text is changed by the parser. */
void probe_cgroup_parse(char *mountinfo, struct probe_cgroup *ret);

struct probe_system {
	char kernel[65]; /* uname -r */
	unsigned cpus;
	uint64_t memory_bytes;
	int64_t max_map_count; /* -1: unknown */
	char thp[PROBE_WORD_MAX + 1];
	char thp_shmem[PROBE_WORD_MAX + 1];
	bool tun;
	struct errmsg tun_why;
	bool io_uring;
	struct errmsg io_uring_why;
	struct probe_cgroup cgroup;
};

struct host_probe {
	struct probe_kvm kvm;
	struct probe_uffd uffd;
	struct probe_pagemap pagemap;
	struct ksm_state ksm;
	struct ksm_manager ksm_manager;
	struct probe_system system;
};

/* Each group by itself; what does not work is a finding, not an error. */
void probe_kvm(struct probe_kvm *ret);
void probe_uffd(struct probe_uffd *ret);
void probe_pagemap(struct probe_pagemap *ret);
void probe_system(struct probe_system *ret);

/**
 * host_probe() - Find out everything. Takes about 0.2 s, 0.7 s at the most; changes nothing on the host.
 *
 * Context: one thread; SIGALRM is used meanwhile.
 */
void host_probe(struct host_probe *ret);

/* As JSON; a new reference, NULL without memory. Keys are stable and only grow. */
json_t *host_probe_json(const struct host_probe *probe);

#endif
