/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a configuration file: it is refused in one line, or goes to JSON and back. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/fs.h"
#include "tests/fuzz/config_check.h"
#include "tests/fuzz/require.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What was said in plain values is what the configuration says, whatever became of it between. */
static void check_said(const struct vm_config *config, const uint8_t *data, size_t size)
{
	json_t *said = json_loadb((const char *)data, size, 0, NULL);
	json_t *printed = vm_config_to_json(config);
	const char *key;
	json_t *value;

	require(said && printed);
	json_object_foreach(said, key, value)
	{
		const json_t *now = json_object_get(printed, key);
		bool as_is =
			json_is_integer(value) || strcmp(key, "name") == 0 || strcmp(key, "cmdline") == 0;

		require(now != NULL);
		if (json_is_boolean(value) && json_is_boolean(now))
			require(json_is_true(value) == json_is_true(now));
		else if (as_is && !json_is_null(value))
			require(json_equal(value, now));
	}
	json_decref(said);
	json_decref(printed);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static int fd = -1;
	struct vm_config config;
	struct errmsg err = {0};
	char path[64];
	int r;

	if (fd < 0)
		fd = memfd_create("config", MFD_CLOEXEC);
	require(fd >= 0 && ftruncate(fd, 0) == 0 && pwrite_full(fd, data, size, 0) == 0);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	require(vm_config_init(&config) == 0);
	r = vm_config_load(&config, path, &err);
	if (r == 0) {
		check_said(&config, data, size);
		config_check_accepted(&config, true);
	} else {
		require(strncmp(err.text, "--config /proc/self/fd/", 23) == 0 && !strpbrk(err.text, "\n\r"));
	}
	vm_config_done(&config);
	return 0;
}
