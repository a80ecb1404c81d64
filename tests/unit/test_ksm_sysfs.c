/* SPDX-License-Identifier: Apache-2.0 */
/* KSM's files as kernels of several ages have them, and who manages KSM. */
#include "ksm/ksm-sysfs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fs.h"
#include "ksm/ksm-manager.h"
#include "tests/unit/test.h"

struct tree {
	char root[64];
};

static void tree_new(struct tree *t)
{
	snprintf(t->root, sizeof(t->root), "/tmp/sardine-ksm-XXXXXX");
	assert_non_null(mkdtemp(t->root));
}

static void tree_free(struct tree *t)
{
	char command[128];

	snprintf(command, sizeof(command), "rm -rf %s", t->root);
	assert_int_equal(system(command), 0);
}

static void put(const struct tree *t, const char *name, const char *text)
{
	char path[160];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", t->root, name);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(write_full(fd, text, strlen(text)), 0);
	close(fd);
}

static void put_process(const struct tree *t, const char *pid, const char *comm)
{
	char path[160], text[64];

	snprintf(path, sizeof(path), "%s/%s", t->root, pid);
	assert_int_equal(mkdir(path, 0700), 0);
	snprintf(path, sizeof(path), "%s/comm", pid);
	snprintf(text, sizeof(text), "%s\n", comm);
	put(t, path, text);
}

TEST(kernel_without_ksm)
{
	struct ksm_state s = {.present = true};

	assert_int_equal(ksm_state_read("/nowhere/ksm", &s), 0);
	assert_false(s.present);
}

TEST(kernel_of_every_age)
{
	struct ksm_state s;
	struct tree t;

	tree_new(&t);
	put(&t, "run", "1\n");
	put(&t, "pages_to_scan", "100\n");
	put(&t, "sleep_millisecs", "20\n");
	assert_int_equal(ksm_state_read(t.root, &s), 0);
	assert_true(s.present);
	assert_int_equal(s.value[KSM_RUN], 1);
	assert_int_equal(s.value[KSM_PAGES_TO_SCAN], 100);
	assert_int_equal(s.value[KSM_SLEEP_MS], 20);
	assert_false(s.known[KSM_SMART_SCAN]);
	assert_false(s.known[KSM_GENERAL_PROFIT_BYTES]);
	assert_string_equal(s.advisor, "");

	put(&t, "smart_scan", "1\n");
	put(&t, "general_profit", "-12345\n");
	put(&t, "pages_sharing", "9223372036854775807\n");
	put(&t, "advisor_mode", "none [scan-time]\n");
	assert_int_equal(ksm_state_read(t.root, &s), 0);
	assert_true(s.known[KSM_SMART_SCAN]);
	assert_int_equal(s.value[KSM_GENERAL_PROFIT_BYTES], -12345);
	assert_true(s.value[KSM_PAGES_SHARING] == INT64_MAX);
	assert_string_equal(s.advisor, "scan-time");
	tree_free(&t);
}

TEST(nonsense_is_not_known)
{
	struct ksm_state s;
	struct tree t;

	tree_new(&t);
	put(&t, "run", "1\n");
	put(&t, "pages_shared", "many\n");
	put(&t, "pages_sharing", "9223372036854775808\n");
	put(&t, "pages_unshared", "\n");
	put(&t, "advisor_mode", "none scan-time]\n");
	assert_int_equal(ksm_state_read(t.root, &s), 0);
	assert_false(s.known[KSM_PAGES_SHARED]);
	assert_false(s.known[KSM_PAGES_SHARING]);
	assert_false(s.known[KSM_PAGES_UNSHARED]);
	assert_string_equal(s.advisor, "");
	put(&t, "run", "x\n");
	assert_int_equal(ksm_state_read(t.root, &s), -EINVAL);
	tree_free(&t);
}

TEST(names_are_unique)
{
	for (int a = 0; a < KSM_FIELDS; a++)
		for (int b = a + 1; b < KSM_FIELDS; b++)
			assert_string_not_equal(ksm_field_name((enum ksm_field)a),
						ksm_field_name((enum ksm_field)b));
}

TEST(managers)
{
	struct ksm_state s = {.present = true, .advisor = "none"};
	struct ksm_manager m;
	struct tree proc, units;
	char link[160];

	tree_new(&proc);
	tree_new(&units);
	put_process(&proc, "1", "systemd");
	put_process(&proc, "77", "ksmd");
	put_process(&proc, "self", "ksmtuned"); /* not a number: no process */
	assert_int_equal(ksm_manager_find(&s, proc.root, units.root, &m), 0);
	assert_string_equal(m.name, "");

	snprintf(s.advisor, sizeof(s.advisor), "scan-time");
	assert_int_equal(ksm_manager_find(&s, proc.root, units.root, &m), 0);
	assert_string_equal(m.name, "advisor");

	snprintf(link, sizeof(link), "%s/invocation:ksm.service", units.root);
	assert_int_equal(symlink("0123456789abcdef", link), 0);
	assert_int_equal(ksm_manager_find(&s, proc.root, units.root, &m), 0);
	assert_string_equal(m.name, "ksm.service");
	assert_int_equal(m.pid, 0);

	put_process(&proc, "4711", "ksmtuned");
	assert_int_equal(ksm_manager_find(&s, proc.root, units.root, &m), 0);
	assert_string_equal(m.name, "ksmtuned");
	assert_int_equal(m.pid, 4711);

	assert_int_equal(ksm_manager_find(&s, "/nowhere", units.root, &m), -ENOENT);
	tree_free(&proc);
	tree_free(&units);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(kernel_without_ksm),
		cmocka_unit_test(kernel_of_every_age),
		cmocka_unit_test(nonsense_is_not_known),
		cmocka_unit_test(names_are_unique),
		cmocka_unit_test(managers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
