/* SPDX-License-Identifier: Apache-2.0 */
/* What holds for every configuration that was accepted, wherever it came from. */
#include "tests/fuzz/config_check.h"

#include <string.h>

#include "tests/fuzz/require.h"

static int check(const struct vm_config *config, struct errmsg *err)
{
	int r;

	*err = (struct errmsg){0};
	r = vm_config_check(config, err);
	require(r == 0 || err->text[0]);
	require(!strpbrk(err->text, "\n\r"));
	return r;
}

static void round_trip(const struct vm_config *config)
{
	json_t *json = vm_config_to_json(config);
	json_t *again;
	struct vm_config back;
	struct errmsg err = {0};

	require(json && vm_config_init(&back) == 0);
	require(vm_config_from_json(&back, json, "again", &err) == 0);
	again = vm_config_to_json(&back);
	require(again && json_equal(json, again));
	json_decref(json);
	json_decref(again);
	require(check(&back, &err) == 0);
	vm_config_done(&back);
}

void config_check_accepted(struct vm_config *config, bool utf8)
{
	struct errmsg err;

	require(vm_config_resolve(config, "/some/where") == 0);
	if (check(config, &err) == 0 && utf8)
		round_trip(config);
}
