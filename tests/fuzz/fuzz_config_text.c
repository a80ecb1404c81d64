/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as options, one per line ("disk path=/x,ro"): one that is refused changes nothing. */
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "tests/fuzz/config_check.h"
#include "tests/fuzz/require.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void set(struct vm_config *config, const char *option, const char *text)
{
	struct errmsg err = {0};
	json_t *before = vm_config_to_json(config);
	json_t *after;
	int r = vm_config_set_text(config, option, text, &err);

	if (r < 0) {
		require(r == -EINVAL || r == -ENOENT);
		require(strncmp(err.text, "--", 2) == 0 && !strpbrk(err.text, "\n\r"));
		after = vm_config_to_json(config);
		require((!before && !after) || json_equal(before, after));
		json_decref(after);
	}
	json_decref(before);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	auto_free char *text = malloc(size + 1);
	struct vm_config config;
	char *rest = text, *line;
	json_t *whole;
	bool utf8;

	require(text && vm_config_init(&config) == 0);
	memcpy(text, data, size);
	text[size] = '\0';
	whole = json_string(text);
	utf8 = whole != NULL;
	json_decref(whole);
	while ((line = strsep(&rest, "\n"))) {
		char *value = strchr(line, ' ');

		if (value)
			*value++ = '\0';
		set(&config, line, value ? value : "");
	}
	config_check_accepted(&config, utf8);
	vm_config_done(&config);
	return 0;
}
