/* SPDX-License-Identifier: Apache-2.0 */
/* A VM's configuration: what its texts and its JSON may say, and that what is printed is taken back. */
#include "vmm/config.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/size.h"
#include "tests/unit/test.h"
#include "vmm/guest-memory.h"

struct fixture {
	struct vm_config config;
	struct errmsg err;
};

static void begin(struct fixture *f)
{
	f->err = (struct errmsg){0};
	assert_int_equal(vm_config_init(&f->config), 0);
	assert_int_equal(vm_config_set_text(&f->config, "name", "web1", NULL), 0);
	assert_int_equal(vm_config_set_text(&f->config, "kernel", "/boot/vmlinuz", NULL), 0);
	assert_int_equal(vm_config_check(&f->config, NULL), 0);
}

static int set_and_check(struct fixture *f, const char *option, const char *text)
{
	int r = vm_config_set_text(&f->config, option, text, &f->err);

	return r < 0 ? r : vm_config_check(&f->config, &f->err);
}

static int apply_json(struct fixture *f, const char *text)
{
	json_t *json = json_loads(text, JSON_DECODE_ANY, NULL);
	int r;

	assert_non_null(json);
	r = vm_config_from_json(&f->config, json, "x.json", &f->err);
	json_decref(json);
	return r < 0 ? r : vm_config_check(&f->config, &f->err);
}

static const char *repeat(char *buf, char c, size_t n)
{
	memset(buf, c, n);
	buf[n] = '\0';
	return buf;
}

TEST(refused_texts)
{
	static char long_name[CONFIG_NAME_MAX + 2], long_cmdline[LAYOUT_CMDLINE_MAX + 1];
	const struct {
		const char *option, *text, *says;
	} rows[] = {
		{"name", "", "--name is missing"},
		{"name", "a/b", "'/' cannot be"},
		{"name", "..", "begin with"},
		{"name", "-x", "begin with"},
		{"name", "a b", "' ' cannot be"},
		{"name", "a\nb", "--name a?b"},
		{"name", "\xc3\xa4", "begin with"},
		{"name", repeat(long_name, 'n', CONFIG_NAME_MAX + 1), "64 bytes long"},
		{"kernel", "", "--kernel: the path is empty"},
		{"initrd", "", "--initrd: the path is empty"},
		{"mem", "0", "--mem: 0 B is too small"},
		{"mem", "15M", "--mem: 15 MiB is too small"},
		{"mem", "1048577M", "--mem: 1.0 TiB is too large"},
		{"mem", "99999999999999999999", "--mem 99999999999999999999: larger"},
		{"mem", "16777217", "no multiple of 4096"},
		{"mem", "lots", "--mem lots: not a size"},
		{"mem", "-1", "--mem -1: not a size"},
		{"mem", "", "--mem : not a size"},
		{"cpus", "0", "--cpus 0: a VM has 1 to 32"},
		{"cpus", "33", "--cpus 33: a VM has 1 to 32"},
		{"cpus", "4294967297", "--cpus 4294967297: not a whole number"},
		{"cpus", "two", "--cpus two: not a whole number"},
		{"cmdline", repeat(long_cmdline, 'c', LAYOUT_CMDLINE_MAX), "--cmdline: 4096 bytes"},
		{"disk", "disk.img", "\"disk.img\" is no part of path=FILE"},
		{"disk", "ro", "--disk: no path"},
		{"disk", "path=", "--disk path: the path is empty"},
		{"disk", "", "is no part"},
		{"disk", "path=x,", "is no part"},
		{"disk", "path=x,direct=yes", "--disk direct yes: neither"},
		{"disk", "path=x,ro=on", "\"ro=on\" is no part"},
		{"disk", "path=x,direct", "\"direct\" is no part"},
		{"disk", "path=x,dir=on", "\"dir=on\" is no part"},
		{"balloon", "maybe", "\"maybe\" is no part of on|off"},
		{"rng", "maybe", "\"maybe\" is no part of on|off|[bw=SIZE][,iops=N]"},
		{"rng", "on,bw=1M", "\"on\" is no part"},
		{"rng", "bw=2T", "must be from 0 B to 1 TiB"},
		{"rng", "bw=-1", "--rng bw -1"},
		{"rng", "iops=1K", "--rng iops 1K"},
		{"rng", "iops=99999999999999999999", "--rng iops 9999"},
		{"balloon", "size=257M", "--balloon size: 257 MiB is more than the VM's memory (256 MiB)"},
		{"balloon", "size=much", "--balloon size much: not a size"},
		{"balloon", "reporting=yes", "--balloon reporting yes: neither"},
		{"balloon", "stats-interval=86401", "--balloon stats-interval 86401"},
		{"disk", "path=x,serial=123456789012345678901", "21 bytes; use 1 to 20"},
		{"disk", "path=x,serial=", "0 bytes"},
		{"disk", "path=x,serial=a b", "not printable"},
		{"console", "tty", "--console tty: no such kind"},
		{"console", "stdio:", "no such kind"},
		{"console", "file:", "no path behind the colon"},
		{"console", "unix:", "no path behind the colon"},
		{"mergeable", "yes", "--mergeable yes: neither"},
		{"kaslr", "", "--kaslr : neither"},
		{"log-level", "loud", "--log-level loud: use error"},
		{"stop-timeout", "86401", "--stop-timeout 86401: at most"},
		{"no-such", "1", "--no-such: no such option"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct fixture f;

		begin(&f);
		assert_true(set_and_check(&f, rows[i].option, rows[i].text) < 0);
		if (!strstr(f.err.text, rows[i].says))
			fail_msg("row %zu: \"%s\" does not say \"%s\"", i, f.err.text, rows[i].says);
		vm_config_done(&f.config);
	}
}

TEST(taken_at_the_limits)
{
	static char name[CONFIG_NAME_MAX + 1], cmdline[LAYOUT_CMDLINE_MAX];
	const struct {
		const char *option, *text;
	} rows[] = {
		{"name", repeat(name, 'n', CONFIG_NAME_MAX)},
		{"name", "0.a-B_c"},
		{"mem", "16M"},
		{"mem", "1024G"},
		{"mem", "16781312"},
		{"cpus", "1"},
		{"cpus", "32"},
		{"cmdline", repeat(cmdline, 'c', LAYOUT_CMDLINE_MAX - 1)},
		{"cmdline", ""},
		{"disk", "path=x,serial=12345678901234567890"},
		{"stop-timeout", "0"},
		{"stop-timeout", "86400"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct fixture f;

		begin(&f);
		if (set_and_check(&f, rows[i].option, rows[i].text) < 0)
			fail_msg("row %zu: %s", i, f.err.text);
		vm_config_done(&f.config);
	}
}

TEST(missing)
{
	struct fixture f = {0};

	assert_int_equal(vm_config_init(&f.config), 0);
	assert_int_equal(vm_config_check(&f.config, &f.err), -EINVAL);
	assert_non_null(strstr(f.err.text, "--name is missing"));
	f.err.text[0] = '\0';
	assert_int_equal(set_and_check(&f, "name", "x"), -EINVAL);
	assert_non_null(strstr(f.err.text, "--kernel is missing"));
	vm_config_done(&f.config);
}

TEST(disks)
{
	struct fixture f;

	begin(&f);
	/* All slots but the balloon's are for disks then. */
	assert_int_equal(set_and_check(&f, "rng", "off"), 0);
	assert_int_equal(set_and_check(&f, "disk", "path=/a,,b,ro,direct=on,serial=S1"), 0);
	assert_string_equal(f.config.disks[0].path, "/a,b");
	assert_true(f.config.disks[0].read_only);
	assert_true(f.config.disks[0].direct);
	assert_string_equal(f.config.disks[0].serial, "S1");
	assert_int_equal(f.config.disks[0].rate.bytes_per_s, 0);
	assert_int_equal(set_and_check(&f, "disk", "path=y,direct=off,bw=4M,iops=200"), 0);
	assert_int_equal(f.config.disks[1].rate.bytes_per_s, 4 << 20);
	assert_int_equal(f.config.disks[1].rate.ops_per_s, 200);
	assert_false(f.config.disks[1].read_only);
	while (f.config.disk_count < CONFIG_DISKS_MAX)
		assert_int_equal(set_and_check(&f, "disk", "path=z"), 0);
	assert_int_equal(set_and_check(&f, "disk", "path=one-more"), -EINVAL);
	assert_non_null(strstr(f.err.text, "--disk path=one-more: too many disks; a VM has at most 13"));
	assert_int_equal(f.config.disk_count, CONFIG_DISKS_MAX);
	vm_config_done(&f.config);
}

TEST(restarts)
{
	struct fixture f;

	begin(&f);
	assert_int_equal(f.config.on_reboot, CONFIG_RESTART);
	assert_int_equal(f.config.on_crash, CONFIG_EXIT);
	assert_int_equal(set_and_check(&f, "on-reboot", "exit"), 0);
	assert_int_equal(set_and_check(&f, "on-crash", "restart"), 0);
	assert_int_equal(f.config.on_reboot, CONFIG_EXIT);
	assert_int_equal(f.config.on_crash, CONFIG_RESTART);
	assert_int_equal(set_and_check(&f, "on-crash", "again"), -EINVAL);
	assert_non_null(strstr(f.err.text, "--on-crash again: use restart or exit"));
	vm_config_done(&f.config);
}

TEST(confinement)
{
	struct fixture f;

	begin(&f);
	assert_int_equal(f.config.sandbox, CONFIG_SANDBOX_AUTO);
	assert_int_equal(f.config.seccomp, CONFIG_SECCOMP_AUTO);
	assert_int_equal(set_and_check(&f, "sandbox", "on"), 0);
	assert_int_equal(f.config.sandbox, CONFIG_SANDBOX_ON);
	/* It was a switch first; what is on and off may be said so. */
	assert_int_equal(apply_json(&f, "{\"sandbox\": false, \"seccomp\": true}"), 0);
	assert_int_equal(f.config.sandbox, CONFIG_SANDBOX_OFF);
	assert_int_equal(f.config.seccomp, CONFIG_SECCOMP_ON);
	assert_int_equal(apply_json(&f, "{\"sandbox\": \"auto\", \"seccomp\": \"log\"}"), 0);
	assert_int_equal(f.config.sandbox, CONFIG_SANDBOX_AUTO);
	assert_int_equal(f.config.seccomp, CONFIG_SECCOMP_LOG);
	assert_int_equal(apply_json(&f, "{\"on_crash\": true}"), -EINVAL);
	assert_int_equal(apply_json(&f, "{\"sandbox\": 1}"), -EINVAL);
	vm_config_done(&f.config);
}

TEST(random_numbers)
{
	struct fixture f;

	begin(&f);
	assert_true(f.config.rng.on);
	assert_int_equal(set_and_check(&f, "rng", "bw=1M,iops=100"), 0);
	assert_int_equal(f.config.rng.rate.bytes_per_s, 1 << 20);
	assert_int_equal(f.config.rng.rate.ops_per_s, 100);
	assert_int_equal(set_and_check(&f, "rng", "iops=5"), 0);
	assert_int_equal(f.config.rng.rate.bytes_per_s, 0);
	assert_int_equal(set_and_check(&f, "rng", "off"), 0);
	assert_false(f.config.rng.on);
	assert_int_equal(f.config.rng.rate.ops_per_s, 0);
	vm_config_done(&f.config);
}

TEST(network)
{
	struct fixture f;
	static const uint8_t mac[6] = {0x52, 0x54, 0, 0xab, 0xcd, 0xef};

	begin(&f);
	assert_int_equal(set_and_check(&f, "net", "tap=t0,mac=52:54:00:AB:cd:ef,mtu=9000,bw=1G,iops=7"), 0);
	assert_string_equal(f.config.nets[0].tap, "t0");
	assert_memory_equal(f.config.nets[0].mac, mac, 6);
	assert_int_equal(f.config.nets[0].mtu, 9000);
	assert_int_equal(f.config.nets[0].rate.bytes_per_s, GIB);
	assert_int_equal(f.config.nets[0].rate.ops_per_s, 7);
	assert_int_equal(set_and_check(&f, "net", "tap-fd=3,mtu=68"), 0);
	assert_int_equal(f.config.nets[1].tap_fd, 3);
	assert_int_equal(set_and_check(&f, "net", "tap=fifteen-letters,mtu=65535"), 0);
	assert_int_equal(set_and_check(&f, "net", "tap-fd=3"), -EINVAL);
	assert_non_null(strstr(f.err.text, "--net tap-fd=3: given twice"));
	vm_config_done(&f.config);
}

/* A line of the interrupt controller for each device. */
TEST(devices_are_counted)
{
	struct fixture f;
	char text[16];

	begin(&f);
	for (unsigned i = 0; i < CONFIG_NETS_MAX; i++) {
		snprintf(text, sizeof(text), "tap=t%u", i);
		assert_int_equal(set_and_check(&f, "net", text), 0);
	}
	/* With random numbers and a balloon there is room for 4 disks. */
	for (unsigned i = 0; i < LAYOUT_VIRTIO_MAX - CONFIG_NETS_MAX - 2; i++)
		assert_int_equal(set_and_check(&f, "disk", "path=x"), 0);
	assert_int_equal(set_and_check(&f, "disk", "path=x"), -EINVAL);
	assert_non_null(strstr(f.err.text, "15 devices"));
	vm_config_done(&f.config);
}

TEST(vsock)
{
	struct fixture f;

	begin(&f);
	assert_false(f.config.vsock.on);
	assert_int_equal(set_and_check(&f, "vsock", "cid=4294967294,path=/a,,b,iops=3"), 0);
	assert_true(f.config.vsock.on);
	assert_int_equal(f.config.vsock.cid, 4294967294u);
	assert_string_equal(f.config.vsock.path, "/a,b");
	assert_int_equal(f.config.vsock.rate.ops_per_s, 3);
	assert_int_equal(set_and_check(&f, "vsock", "off"), 0);
	assert_false(f.config.vsock.on);
	assert_null(f.config.vsock.path);
	assert_int_equal(set_and_check(&f, "vsock", "on"), -EINVAL);
	vm_config_done(&f.config);
}

TEST(balloon)
{
	struct fixture f;

	begin(&f);
	assert_true(f.config.balloon.on && f.config.balloon.reporting && f.config.balloon.stats &&
		    f.config.balloon.deflate_on_oom && f.config.balloon.poison);
	assert_int_equal(set_and_check(&f, "balloon", "size=256M,reporting=off,stats-interval=10"), 0);
	assert_true(f.config.balloon.on && f.config.balloon.stats);
	assert_false(f.config.balloon.reporting);
	assert_int_equal(f.config.balloon.size_bytes, 256 * MIB);
	assert_int_equal(f.config.balloon.stats_interval_s, 10);
	assert_int_equal(set_and_check(&f, "balloon", "off"), 0);
	assert_false(f.config.balloon.on);
	assert_int_equal(apply_json(&f, "{\"balloon\": {\"size\": \"1M\", \"poison\": false}}"), 0);
	assert_true(f.config.balloon.on);
	assert_false(f.config.balloon.poison);
	assert_int_equal(f.config.balloon.size_bytes, MIB);
	vm_config_done(&f.config);
}

/* A device that is off stays off when its next text is refused, and one with parts keeps them. */
TEST(refused_device_changes_nothing)
{
	struct fixture f;

	begin(&f);
	assert_int_equal(set_and_check(&f, "balloon", "off"), 0);
	assert_int_equal(set_and_check(&f, "balloon", "maybe"), -EINVAL);
	assert_false(f.config.balloon.on);
	assert_int_equal(set_and_check(&f, "balloon", "size=1M,stats=off"), 0);
	assert_int_equal(set_and_check(&f, "balloon", "size=2M,stats=perhaps"), -EINVAL);
	assert_int_equal(f.config.balloon.size_bytes, MIB);
	assert_false(f.config.balloon.stats);
	vm_config_done(&f.config);
}

TEST(refused_json)
{
	static const struct {
		const char *json, *says;
	} rows[] = {
		{"[]", "--config x.json: must hold one JSON object"},
		{"{\"memory\": 1}", "--config x.json: memory: no such key"},
		{"{\"mem\": 1.5}", "x.json: mem: must be bytes"},
		{"{\"mem\": -4096}", "x.json: mem -4096: not a size"},
		{"{\"mem\": 0}", "--mem: 0 B"},
		{"{\"cpus\": \"2\"}", "x.json: cpus: must be a whole number"},
		{"{\"cpus\": -1}", "x.json: cpus -1"},
		{"{\"cpus\": 4294967297}", "x.json: cpus 4294967297"},
		{"{\"kaslr\": \"on\"}", "x.json: kaslr: must be true or false"},
		{"{\"kernel\": 7}", "x.json: kernel: must be a string"},
		{"{\"kernel\": \"\"}", "x.json: kernel: the path is empty"},
		{"{\"name\": \"a/b\"}", "--name a/b"},
		{"{\"balloon\": 1}", "x.json: balloon: must be true, false or an object"},
		{"{\"balloon\": {\"stats\": 1}}", "x.json: balloon.stats: must be true or false"},
		{"{\"balloon\": {\"free\": 1}}", "x.json: balloon.free: no such key"},
		{"{\"disks\": {}}", "x.json: disks: must be an array"},
		{"{\"disks\": [1]}", "x.json: disks[0]: must be an object"},
		{"{\"disks\": [{}]}", "x.json: disks[0]: no path"},
		{"{\"disks\": [{\"path\": \"a\"}, {\"path\": 1}]}", "disks[1].path: must be a string"},
		{"{\"disks\": [{\"path\": \"a\", \"ro\": 1}]}", "disks[0].ro: must be true or false"},
		{"{\"disks\": [{\"path\": \"a\", \"cache\": 1}]}", "disks[0].cache: no such key"},
		{"{\"disks\": [{\"path\": \"a\", \"serial\": \"\"}]}", "serial \"\" has 0 bytes"},
		{"{\"nets\": [{}]}", "x.json: nets[0]: no tap"},
		{"{\"nets\": [{\"tap\": 1}]}", "nets[0].tap: must be a string"},
		{"{\"nets\": [{\"tap_fd\": \"3\"}]}", "nets[0].tap_fd: must be a whole number"},
		{"{\"nets\": [{\"tap\": \"t\", \"mac\": \"x\"}]}", "nets[0].mac x: not six bytes"},
		{"{\"console\": \"tty\"}", "x.json: console tty: no such kind"},
		{"{\"detach\": true, \"console\": \"stdio\"}", "--console stdio does not go with --detach"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct fixture f;

		begin(&f);
		assert_int_equal(apply_json(&f, rows[i].json), -EINVAL);
		if (!strstr(f.err.text, rows[i].says))
			fail_msg("row %zu: \"%s\" does not say \"%s\"", i, f.err.text, rows[i].says);
		vm_config_done(&f.config);
	}
}

TEST(printed_is_taken_back)
{
	struct fixture a, b = {0};
	json_t *first, *second;
	auto_free char *text = NULL;

	begin(&a);
	assert_int_equal(
		apply_json(
			&a,
			"{\"initrd\": \"i\", \"mem\": \"3G\", \"cpus\": 4, \"engine\": \"local\", \"daemon\": \"s\", \"mergeable\": true,"
			" \"kaslr\": true, \"balloon\": false, \"vsock\": {\"cid\": 3, \"path\": \"v\"}, "
			"\"rng\": {\"bw\": \"2M\", \"iops\": 9}, "
			"\"cgroup\": \"c\", \"log_level\": \"debug\","
			" \"log_file\": null, \"detach\": true, \"stop_timeout\": 3, \"cmdline\": \"q\\\"\","
			" \"disks\": [{\"path\": \"d\", \"ro\": true, \"direct\": true, \"serial\": \"S\"},"
			"             {\"path\": \"/e,f\"}],"
			" \"nets\": [{\"tap\": \"t0\"}, {\"tap_fd\": 9, \"mac\": \"52:54:00:00:00:01\","
			"            \"mtu\": 1400, \"bw\": 5, \"iops\": 6}]}"),
		0);
	assert_int_equal(vm_config_resolve(&a.config, "/here"), 0);
	assert_int_equal(vm_config_check(&a.config, NULL), 0);
	assert_int_equal(a.config.console, CONSOLE_NONE); /* detached, and none was chosen */
	assert_string_equal(a.config.initrd, "/here/i");
	assert_string_equal(a.config.cgroup, "/here/c");
	assert_string_equal(a.config.daemon, "/here/s");
	assert_int_equal(a.config.engine, CONFIG_ENGINE_LOCAL);
	assert_string_equal(a.config.disks[0].path, "/here/d");
	assert_string_equal(a.config.disks[1].path, "/e,f");
	assert_string_equal(a.config.kernel, "/boot/vmlinuz");
	first = vm_config_to_json(&a.config);
	assert_non_null(first);
	text = json_dumps(first, 0);
	assert_int_equal(vm_config_init(&b.config), 0);
	assert_int_equal(apply_json(&b, text), 0);
	second = vm_config_to_json(&b.config);
	assert_true(json_equal(first, second));
	assert_int_equal(json_integer_value(json_object_get(second, "mem")), (json_int_t)(3 * GIB));
	json_decref(first);
	json_decref(second);
	vm_config_done(&a.config);
	vm_config_done(&b.config);
}

TEST(later_wins)
{
	struct fixture f;

	begin(&f);
	assert_int_equal(apply_json(&f, "{\"disks\": [{\"path\": \"a\"}], \"console\": \"file:c\"}"), 0);
	assert_int_equal(apply_json(&f, "{\"disks\": [{\"path\": \"b\"}], \"initrd\": null}"), 0);
	assert_int_equal(f.config.disk_count, 1);
	assert_string_equal(f.config.disks[0].path, "b");
	assert_int_equal(set_and_check(&f, "console", "none"), 0);
	assert_null(f.config.console_path);
	assert_int_equal(set_and_check(&f, "console", "unix:s"), 0);
	assert_int_equal(vm_config_resolve(&f.config, "/"), 0);
	assert_string_equal(f.config.console_path, "/s");
	vm_config_done(&f.config);
}

static int load_text(struct fixture *f, const char *text, size_t len)
{
	char path[] = "/tmp/sardine-config-XXXXXX";
	int fd = mkstemp(path), r;

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, len), (ssize_t)len);
	close(fd);
	r = vm_config_load(&f->config, path, &f->err);
	unlink(path);
	return r;
}

TEST(files)
{
	auto_free char *huge = malloc(CONFIG_FILE_MAX + 1);
	struct fixture f;

	begin(&f);
	assert_int_equal(load_text(&f, "{\"cpus\": 3}", 11), 0);
	assert_int_equal(f.config.cpus, 3);
	assert_int_equal(load_text(&f, "{\"cpus\":", 8), -EINVAL);
	assert_non_null(strstr(f.err.text, "not JSON: line 1"));
	assert_int_equal(load_text(&f, "{\"cpus\": 1, \"cpus\": 2}", 22), -EINVAL);
	assert_int_equal(load_text(&f, "", 0), -EINVAL);
	/* What follows a NUL would be lost on the way. */
	assert_int_equal(load_text(&f, "{}\0{\"cpus\": 4}", 14), -EINVAL);
	assert_int_equal(vm_config_load(&f.config, "/nowhere/x.json", NULL), -ENOENT);
	assert_int_equal(vm_config_load(&f.config, "/", NULL), -EISDIR);
	memset(huge, ' ', CONFIG_FILE_MAX + 1);
	assert_int_equal(load_text(&f, huge, CONFIG_FILE_MAX + 1), -EFBIG);
	assert_int_equal(f.config.cpus, 3);
	vm_config_done(&f.config);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(refused_texts),  cmocka_unit_test(taken_at_the_limits),
		cmocka_unit_test(missing),	  cmocka_unit_test(disks),
		cmocka_unit_test(random_numbers), cmocka_unit_test(vsock),
		cmocka_unit_test(balloon),	  cmocka_unit_test(refused_device_changes_nothing),
		cmocka_unit_test(restarts),	  cmocka_unit_test(confinement),
		cmocka_unit_test(refused_json),	  cmocka_unit_test(printed_is_taken_back),
		cmocka_unit_test(later_wins),	  cmocka_unit_test(files),
		cmocka_unit_test(network),	  cmocka_unit_test(devices_are_counted),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
