/* SPDX-License-Identifier: Apache-2.0 */
/* All findings about a host together, and their JSON form. */
#include "tools/host-probe.h"

void host_probe(struct host_probe *ret)
{
	*ret = (struct host_probe){0};
	probe_kvm(&ret->kvm);
	probe_uffd(&ret->uffd);
	probe_pagemap(&ret->pagemap);
	probe_system(&ret->system);
	/* What cannot be read counts as not there. */
	if (ksm_state_read(KSM_SYSFS, &ret->ksm) < 0)
		ret->ksm = (struct ksm_state){0};
	if (ksm_manager_find(&ret->ksm, "/proc", "/run/systemd/units", &ret->ksm_manager) < 0)
		ret->ksm_manager = (struct ksm_manager){0};
}

/* A message as JSON: null when there is none. */
static json_t *why(const struct errmsg *err)
{
	return err->text[0] ? json_string(err->text) : json_null();
}

static json_t *word(const char *text)
{
	return text[0] ? json_string(text) : json_null();
}

static json_t *kvm_json(const struct probe_kvm *kvm)
{
	json_t *caps = json_object();

	for (size_t i = 0; i < PROBE_KVM_CAPS; i++)
		json_object_set_new(caps, probe_kvm_cap_name(i), json_integer(kvm->caps[i]));
	return json_pack("{s:b, s:o, s:i, s:o, s:s, s:f, s:o}", "usable", kvm->usable, "reason",
			 why(&kvm->why), "api_version", kvm->api_version, "capabilities", caps,
			 "guest_kernel", guest_kernel_name(kvm->guest_kernel), "guest_kernel_mips", kvm->mips,
			 "guest_kernel_reason", why(&kvm->speed));
}

static json_t *uffd_json(const struct probe_uffd *uffd)
{
	json_t *features = json_array();

	for (unsigned bit = 0; bit < 64; bit++)
		if (uffd->features >> bit & 1 && probe_uffd_feature_name(bit))
			json_array_append_new(features, json_string(probe_uffd_feature_name(bit)));
	return json_pack("{s:b, s:b, s:b, s:o, s:o}", "syscall", uffd->syscall, "user_mode_only",
			 uffd->user_mode_only, "device", uffd->device, "unprivileged_sysctl",
			 uffd->sysctl < 0 ? json_null() : json_integer(uffd->sysctl), "features", features);
}

static json_t *ksm_json(const struct ksm_state *ksm, const struct ksm_manager *manager)
{
	json_t *object =
		json_pack("{s:b, s:o, s:o, s:o}", "present", ksm->present, "managed_by", word(manager->name),
			  "manager_pid", manager->pid ? json_integer(manager->pid) : json_null(),
			  "advisor_mode", word(ksm->advisor));

	for (int field = 0; object && ksm->present && field < KSM_FIELDS; field++)
		if (ksm->known[field])
			json_object_set_new(object, ksm_field_name((enum ksm_field)field),
					    json_integer(ksm->value[field]));
	return object;
}

static json_t *cgroup_json(const struct probe_cgroup *cgroup)
{
	return json_pack("{s:i, s:b, s:o}", "version", (int)cgroup->version, "memory", cgroup->memory,
			 "mount", word(cgroup->mount));
}

json_t *host_probe_json(const struct host_probe *probe)
{
	const struct probe_system *sys = &probe->system;

	return json_pack(
		"{s:i, s:b, s:o, s:s, s:i, s:I, s:o, s:o, s:{s:b, s:b, s:o}, s:o, s:o, s:{s:o, s:o}, "
		"s:{s:b, s:o}, s:{s:b, s:o}, s:o}",
		"schema", 1, "can_run", probe->kvm.usable, "reason", why(&probe->kvm.why), "kernel",
		sys->kernel, "cpus", (int)sys->cpus, "memory_bytes", (json_int_t)sys->memory_bytes, "kvm",
		kvm_json(&probe->kvm), "userfaultfd", uffd_json(&probe->uffd), "pagemap_scan", "available",
		probe->pagemap.scan, "tracks_writes", probe->pagemap.tracks_writes, "reason",
		why(&probe->pagemap.why), "max_map_count",
		sys->max_map_count < 0 ? json_null() : json_integer(sys->max_map_count), "ksm",
		ksm_json(&probe->ksm, &probe->ksm_manager), "thp", "enabled", word(sys->thp), "shmem_enabled",
		word(sys->thp_shmem), "tun", "usable", sys->tun, "reason", why(&sys->tun_why), "io_uring",
		"usable", sys->io_uring, "reason", why(&sys->io_uring_why), "cgroup",
		cgroup_json(&sys->cgroup));
}
