/* SPDX-License-Identifier: Apache-2.0 */
/* Single values of a configuration, from their texts. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/size.h"
#include "vmm/config-object.h"

int config_value_string(char **member, const char *text)
{
	char *copy = strdup(text);

	if (!copy)
		return -ENOMEM;
	free(*member);
	*member = copy;
	return 0;
}

int config_value_switch(bool *member, const char *label, const char *text, struct errmsg *err)
{
	bool on = strcmp(text, "on") == 0;

	if (!on && strcmp(text, "off") != 0)
		return errmsg_set(err, -EINVAL, "%s %s: neither \"on\" nor \"off\"", label, text);
	*member = on;
	return 0;
}

int config_value_size(uint64_t *member, const char *label, const char *text, struct errmsg *err)
{
	int r = size_parse(text, member);

	if (r == -ERANGE)
		return errmsg_set(err, -EINVAL, "%s %s: larger than any machine; use e.g. 256M or 4G", label,
				  text);
	if (r < 0)
		return errmsg_set(err, -EINVAL, "%s %s: not a size; use e.g. 256M or 4G", label, text);
	return 0;
}

int config_value_count(uint64_t *member, uint64_t max, const char *label, const char *text,
		       struct errmsg *err)
{
	if (number_parse(text, max, member) < 0)
		return errmsg_set(err, -EINVAL, "%s %s: not a whole number, or far too large", label, text);
	return 0;
}

int config_value_absolute(char **path, const char *cwd)
{
	char *absolute;

	if (!*path || (*path)[0] == '/')
		return 0;
	if (asprintf(&absolute, "%s%s%s", cwd, cwd[strlen(cwd) - 1] == '/' ? "" : "/", *path) < 0)
		return -ENOMEM;
	free(*path);
	*path = absolute;
	return 0;
}

int config_wrong_type(const char *label, const char *wanted, struct errmsg *err)
{
	return errmsg_set(err, -EINVAL, "%s: must be %s", label, wanted);
}
