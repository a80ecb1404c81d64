/* SPDX-License-Identifier: Apache-2.0 */
/* `sardine check`: can this host run VMs, and what will work how well on it? */
#include <argp.h>
#include <inttypes.h>
#include <stdio.h>

#include "base/size.h"
#include "base/uapi-mm.h"
#include "tools/cli.h"
#include "tools/host-probe.h"

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	bool *json = state->input;

	switch (key) {
	case 'j':
		*json = true;
		return 0;
	case ARGP_KEY_ARG:
		argp_error(state, "%s: check takes no argument", arg);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static void row(const char *what, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void row(const char *what, const char *fmt, ...)
{
	va_list ap;

	printf("%-16s ", what);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	putchar('\n');
}

static void print_kvm(const struct probe_kvm *kvm)
{
	if (!kvm->usable) {
		row("KVM", "not usable: %s", kvm->why.text);
		return;
	}
	row("KVM", "usable, API version %d", kvm->api_version);
	printf("%-16s", "");
	for (size_t i = 0; i < PROBE_KVM_CAPS; i++)
		printf("%s%s %d",
		       i % 4 ? ", "
		       : i   ? "\n                 "
			     : " ",
		       probe_kvm_cap_name(i), kvm->caps[i]);
	putchar('\n');
	if (kvm->guest_kernel == GUEST_KERNEL_UNKNOWN)
		row("guest kernels", "unknown: %s", kvm->speed.text);
	else
		row("guest kernels", "%s (%.1f million instructions/s in ring 0)%s",
		    guest_kernel_name(kvm->guest_kernel), kvm->mips,
		    kvm->guest_kernel == GUEST_KERNEL_INTERPRETED ? ": stock Linux guests will not get far"
								  : "");
}

static void print_uffd(const struct probe_uffd *uffd, const struct probe_pagemap *pagemap)
{
	static const struct {
		const char *name;
		uint64_t bit;
	} used[] = {
		{"wp_async", UFFD_FEATURE_WP_ASYNC},
		{"wp_unpopulated", UFFD_FEATURE_WP_UNPOPULATED},
		{"move", UFFD_FEATURE_MOVE},
	};
	char sysctl[24] = "absent";

	if (uffd->sysctl >= 0)
		snprintf(sysctl, sizeof(sysctl), "%" PRId64, uffd->sysctl);
	row("userfaultfd", "syscall %s, user mode only %s, /dev/userfaultfd %s, unprivileged sysctl %s",
	    uffd->syscall ? "yes" : "no", uffd->user_mode_only ? "yes" : "no", uffd->device ? "yes" : "no",
	    sysctl);
	printf("%-17sfeatures:", "");
	for (size_t i = 0; i < ARRAY_SIZE(used); i++)
		printf("%s %s %s", i ? "," : "", used[i].name, uffd->features & used[i].bit ? "yes" : "no");
	putchar('\n');
	row("PAGEMAP_SCAN", "%s%s%s%s", pagemap->scan ? "available" : "not available",
	    pagemap->tracks_writes ? ", tracks writes" : "", pagemap->why.text[0] ? ": " : "",
	    pagemap->why.text);
}

static void print_ksm(const struct ksm_state *ksm, const struct ksm_manager *manager)
{
	static const char *const runs[] = {"stopped", "running", "stopped, all unmerged"};
	int64_t run = ksm->value[KSM_RUN];

	if (!ksm->present) {
		row("KSM", "not in this kernel");
		return;
	}
	row("KSM", "%s, %" PRId64 " pages per %" PRId64 " ms, %" PRId64 " pages shared by %" PRId64 " more",
	    run >= 0 && run < (int64_t)ARRAY_SIZE(runs) ? runs[run] : "in an unknown state",
	    ksm->value[KSM_PAGES_TO_SCAN], ksm->value[KSM_SLEEP_MS], ksm->value[KSM_PAGES_SHARED],
	    ksm->value[KSM_PAGES_SHARING]);
	if (!manager->name[0])
		row("KSM manager", "nobody");
	else if (manager->pid)
		row("KSM manager", "%s (pid %d)", manager->name, (int)manager->pid);
	else
		row("KSM manager", "%s", manager->name);
}

static void print_system(const struct probe_system *sys)
{
	if (sys->max_map_count < 0)
		row("max_map_count", "unknown");
	else
		row("max_map_count", "%" PRId64, sys->max_map_count);
	row("THP", "%s, shared memory %s", sys->thp[0] ? sys->thp : "not in this kernel",
	    sys->thp_shmem[0] ? sys->thp_shmem : "not in this kernel");
	row("tun", "%s", sys->tun ? "usable" : sys->tun_why.text);
	row("io_uring", "%s", sys->io_uring ? "usable" : sys->io_uring_why.text);
	if (sys->cgroup.version)
		row("cgroup", "version %u at %s, memory %s", sys->cgroup.version, sys->cgroup.mount,
		    sys->cgroup.memory ? "accounted" : "not accounted");
	else
		row("cgroup", "none mounted");
}

static void print_table(const struct host_probe *probe)
{
	char memory[32];

	row("host", "Linux %s, %u CPUs, %s", probe->system.kernel, probe->system.cpus,
	    size_format(probe->system.memory_bytes, memory, sizeof(memory)));
	print_kvm(&probe->kvm);
	print_uffd(&probe->uffd, &probe->pagemap);
	print_ksm(&probe->ksm, &probe->ksm_manager);
	print_system(&probe->system);
}

int cmd_check(int argc, char **argv)
{
	static const struct argp_option options[] = {
		{.name = "json", .key = 'j', .doc = "print JSON"},
		{0},
	};
	static const struct argp argp = {
		.options = options,
		.parser = parse_option,
		.doc = "Finds out by trying what this host can do for VMs.\vExit status: 0 a VM can run, 77 "
		       "it "
		       "cannot, with the reason on standard error.",
	};
	struct host_probe probe;
	bool json = false;

	argp_parse(&argp, argc, argv, 0, NULL, &json);
	host_probe(&probe);
	if (json) {
		json_t *object = host_probe_json(&probe);

		if (!object || json_dumpf(object, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(4)) < 0)
			return cli_error(argv[0], CLI_FAILED, "cannot write JSON");
		putchar('\n');
		json_decref(object);
	} else {
		print_table(&probe);
	}
	return probe.kvm.usable ? CLI_OK : cli_error(argv[0], CLI_CANNOT, "%s", probe.kvm.why.text);
}
