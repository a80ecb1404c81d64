/* SPDX-License-Identifier: Apache-2.0 */
/* What the host probe concludes from what it reads, and the shape of its JSON. */
#include "tools/host-probe.h"

#include <stdio.h>
#include <string.h>

#include "base/fs.h"
#include "base/uapi-mm.h"
#include "tests/unit/test.h"

#define V2_LINE	     "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
#define V2_HYBRID    "31 23 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
#define V1_CPU	     "32 23 0:28 / /sys/fs/cgroup/cpu rw shared:9 master:1 - cgroup cgroup rw,cpu,cpuacct\n"
#define V1_MEMORY    "33 23 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
#define V1_LOOKALIKE "34 23 0:30 / /x rw - cgroup cgroup rw,name=memory2\n"
#define OTHER	     "24 1 8:1 / / rw,relatime - ext4 /dev/vda1 rw,memory\n"

TEST(cgroups)
{
	static const struct {
		const char *text;
		struct probe_cgroup want;
	} rows[] = {
		{"", {.version = 0}},
		{OTHER, {.version = 0}},
		{OTHER V2_LINE, {.version = 2, .mount = "/sys/fs/cgroup"}},
		{V2_HYBRID V1_CPU V1_MEMORY,
		 {.version = 1, .memory = true, .mount = "/sys/fs/cgroup/memory"}},
		{V1_MEMORY V2_HYBRID, {.version = 1, .memory = true, .mount = "/sys/fs/cgroup/memory"}},
		{V1_MEMORY "35 23 0:29 / /bind rw - cgroup cgroup rw,memory\n",
		 {.version = 1, .memory = true, .mount = "/sys/fs/cgroup/memory"}},
		{V2_HYBRID V1_CPU, {.version = 2, .mount = "/sys/fs/cgroup/unified"}},
		{V1_LOOKALIKE V1_CPU, {.version = 0}},
		{"30 23 0:26 / - cgroup2 cgroup2 rw\n", {.version = 0}},
		{"garbage\n - \n - cgroup2\n30 23 0:26 / /a rw - cgroup2\n", {.version = 0}},
	};

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		auto_free char *text = strdup(rows[i].text);
		struct probe_cgroup got;

		probe_cgroup_parse(text, &got);
		if (got.version != rows[i].want.version || got.memory != rows[i].want.memory ||
		    strcmp(got.mount, rows[i].want.mount) != 0)
			fail_msg("row %zu: version %u memory %d at \"%s\"", i, got.version, got.memory,
				 got.mount);
	}
}

TEST(speeds)
{
	assert_int_equal(guest_kernel_classify(1.3), GUEST_KERNEL_INTERPRETED); /* 20 million in 15 s */
	assert_int_equal(guest_kernel_classify(5.5), GUEST_KERNEL_INTERPRETED);
	assert_int_equal(guest_kernel_classify(80), GUEST_KERNEL_NATIVE);
	assert_int_equal(guest_kernel_classify(5700), GUEST_KERNEL_NATIVE); /* 20 million in 3.5 ms */
}

TEST(features)
{
	assert_string_equal(probe_uffd_feature_name(0), "pagefault_flag_wp");
	assert_string_equal(probe_uffd_feature_name(15), "wp_async");
	assert_string_equal(probe_uffd_feature_name(16), "move");
	assert_null(probe_uffd_feature_name(17));
}

TEST(json_of_nothing)
{
	static const char *const keys[] = {"schema",	   "can_run",	    "reason",	    "kernel",
					   "cpus",	   "kvm",	    "memory_bytes", "userfaultfd",
					   "pagemap_scan", "max_map_count", "ksm",	    "thp",
					   "tun",	   "io_uring",	    "cgroup"};
	struct host_probe p = {.uffd.sysctl = -1, .system.max_map_count = -1};
	json_t *json;

	errmsg_set(&p.kvm.why, -1, "no device");
	json = host_probe_json(&p);
	assert_non_null(json);
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
		assert_non_null(json_object_get(json, keys[i]));
	assert_true(json_is_false(json_object_get(json, "can_run")));
	assert_string_equal(json_string_value(json_object_get(json, "reason")), "no device");
	assert_true(json_is_null(json_object_get(json, "max_map_count")));
	assert_string_equal(json_string_value(json_object_get(json_object_get(json, "kvm"), "guest_kernel")),
			    "unknown");
	assert_int_equal(json_array_size(json_object_get(json_object_get(json, "userfaultfd"), "features")),
			 0);
	json_decref(json);
}

TEST(json_of_findings)
{
	struct host_probe p = {
		.kvm = {.usable = true, .guest_kernel = GUEST_KERNEL_NATIVE, .mips = 99},
		.uffd = {.features = (uint64_t)UFFD_FEATURE_WP_ASYNC | 1, .sysctl = 1},
		.ksm = {.present = true, .known[KSM_RUN] = true, .value[KSM_RUN] = 1},
		.ksm_manager = {.name = "ksmtuned", .pid = 12},
	};
	json_t *json = host_probe_json(&p), *ksm = json_object_get(json, "ksm");

	assert_true(json_is_true(json_object_get(json, "can_run")));
	assert_true(json_is_null(json_object_get(json, "reason")));
	assert_int_equal(json_array_size(json_object_get(json_object_get(json, "userfaultfd"), "features")),
			 2);
	assert_int_equal(json_integer_value(json_object_get(ksm, "run")), 1);
	assert_null(json_object_get(ksm, "pages_shared")); /* not known to this kernel */
	assert_string_equal(json_string_value(json_object_get(ksm, "managed_by")), "ksmtuned");
	assert_int_equal(json_integer_value(json_object_get(ksm, "manager_pid")), 12);
	json_decref(json);
}

/* On any host: what does not work is said, and what is said fits together. */
TEST(this_host)
{
	static struct host_probe p;
	json_t *json;

	host_probe(&p);
	assert_true(p.kvm.usable || p.kvm.why.text[0]);
	assert_true(p.kvm.guest_kernel != GUEST_KERNEL_UNKNOWN || p.kvm.speed.text[0] || !p.kvm.usable);
	assert_true(p.pagemap.tracks_writes || p.pagemap.why.text[0]);
	assert_true(p.pagemap.scan || !p.pagemap.tracks_writes);
	assert_true(p.system.tun || p.system.tun_why.text[0]);
	assert_true(p.system.io_uring || p.system.io_uring_why.text[0]);
	assert_true(p.system.cpus > 0);
	assert_true(p.system.memory_bytes > 0);
	if (p.pagemap.tracks_writes)
		assert_true(p.uffd.features & UFFD_FEATURE_WP_ASYNC);
	json = host_probe_json(&p);
	assert_non_null(json);
	json_decref(json);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(cgroups),	    cmocka_unit_test(speeds),
		cmocka_unit_test(features),	    cmocka_unit_test(json_of_nothing),
		cmocka_unit_test(json_of_findings), cmocka_unit_test(this_host),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
