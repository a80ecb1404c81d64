/* SPDX-License-Identifier: Apache-2.0 */
/* The JSON form of a VM's configuration: what --dry-run prints and --config takes back. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/fs.h"
#include "vmm/config-internal.h"

/* A message names file and key; precisions cut what is unreasonably long, so that the key is never lost. */
#define LABEL_MAX 360

static int wrong_type(const char *label, const char *wanted, struct errmsg *err)
{
	return errmsg_set(err, -EINVAL, "%s: must be %s", label, wanted);
}

/* Numbers go through the text side, so that one place knows the limits. */
static int set_integer(struct vm_config *config, const struct config_key *key, const char *label,
		       const json_t *value, struct errmsg *err)
{
	char text[32];

	snprintf(text, sizeof(text), "%" JSON_INTEGER_FORMAT, json_integer_value(value));
	return config_set(config, key, label, text, err);
}

static int disk_member(struct disk_config *disk, const char *label, const char *name, const json_t *value,
		       struct errmsg *err)
{
	if (strcmp(name, "path") == 0) {
		if (!json_is_string(value))
			return wrong_type(label, "a string", err);
		free(disk->path);
		disk->path = strdup(json_string_value(value));
		return disk->path ? 0 : -ENOMEM;
	}
	if (strcmp(name, "serial") == 0) {
		if (json_is_null(value))
			return 0;
		if (!json_is_string(value))
			return wrong_type(label, "a string", err);
		return config_set_serial(disk, label, json_string_value(value), err);
	}
	if (strcmp(name, "ro") != 0 && strcmp(name, "direct") != 0)
		return errmsg_set(err, -EINVAL, "%s: no such key; a disk has path, ro, direct and serial",
				  label);
	if (!json_is_boolean(value))
		return wrong_type(label, "true or false", err);
	if (name[0] == 'r')
		disk->read_only = json_is_true(value);
	else
		disk->direct = json_is_true(value);
	return 0;
}

static int disk_from_json(struct vm_config *config, const char *label, json_t *object, struct errmsg *err)
{
	struct disk_config disk = {0};
	const char *name;
	json_t *value;

	if (!json_is_object(object))
		return wrong_type(label, "an object with a path", err);
	json_object_foreach(object, name, value)
	{
		char inner[LABEL_MAX];
		int r;

		snprintf(inner, sizeof(inner), "%.293s.%.60s", label, name);
		r = disk_member(&disk, inner, name, value, err);
		if (r < 0) {
			free(disk.path);
			return r;
		}
	}
	return config_add_disk(config, label, &disk, err);
}

static int disks_from_json(struct vm_config *config, const char *label, const json_t *value,
			   struct errmsg *err)
{
	size_t i;
	json_t *item;

	if (!json_is_array(value))
		return wrong_type(label, "an array of disks", err);
	config_clear_disks(config);
	json_array_foreach(value, i, item)
	{
		char inner[LABEL_MAX];
		int r;

		snprintf(inner, sizeof(inner), "%.271s[%zu]", label, i);
		r = disk_from_json(config, inner, item, err);
		if (r < 0)
			return r;
	}
	return 0;
}

static int key_from_json(struct vm_config *config, const struct config_key *key, const char *label,
			 const json_t *value, struct errmsg *err)
{
	switch (key->kind) {
	case CONFIG_KIND_SWITCH:
		if (!json_is_boolean(value))
			return wrong_type(label, "true or false", err);
		*(bool *)config_member(config, key) = json_is_true(value);
		return 0;
	case CONFIG_KIND_COUNT:
		if (!json_is_integer(value))
			return wrong_type(label, "a whole number", err);
		return set_integer(config, key, label, value, err);
	case CONFIG_KIND_SIZE:
		if (json_is_integer(value))
			return set_integer(config, key, label, value, err);
		if (!json_is_string(value))
			return wrong_type(label, "bytes as a whole number, or a string like \"256M\"", err);
		break;
	case CONFIG_KIND_DISKS:
		return disks_from_json(config, label, value, err);
	case CONFIG_KIND_NAME:
	case CONFIG_KIND_STRING:
	case CONFIG_KIND_PATH:
	case CONFIG_KIND_LEVEL:
	case CONFIG_KIND_CONSOLE:
		if (!json_is_string(value))
			return wrong_type(label, "a string", err);
		break;
	}
	return config_set(config, key, label, json_string_value(value), err);
}

int vm_config_from_json(struct vm_config *config, const json_t *json, const char *source, struct errmsg *err)
{
	const char *name;
	json_t *value;

	if (!json_is_object(json))
		return errmsg_set(err, -EINVAL, "--config %s: must hold one JSON object", source);
	/* jansson's iterator takes a json_t * that it does not change. */
	json_object_foreach((json_t *)(uintptr_t)json, name, value)
	{
		const struct config_key *key = config_key_find(name);
		char label[LABEL_MAX];
		int r;

		snprintf(label, sizeof(label), "--config %.200s: %.60s", source, name);
		if (!key)
			return errmsg_set(err, -EINVAL, "%s: no such key; `sardine run --dry-run` prints all",
					  label);
		if (json_is_null(value))
			continue;
		r = key_from_json(config, key, label, value, err);
		if (r < 0)
			return r;
	}
	return 0;
}

int vm_config_load(struct vm_config *config, const char *path, struct errmsg *err)
{
	auto_free char *text = NULL;
	json_error_t where;
	json_t *json;
	int r = file_read_text(path, CONFIG_FILE_MAX, &text);

	if (r == -EFBIG)
		return errmsg_set(err, r, "--config %s: longer than %zu bytes, so not a configuration", path,
				  CONFIG_FILE_MAX);
	if (r == -EINVAL)
		return errmsg_set(err, r, "--config %s: not a regular file; write the configuration to one",
				  path);
	if (r < 0)
		return errmsg_set(err, r, "--config %s: cannot read it: %s", path, strerror(-r));
	json = json_loads(text, JSON_REJECT_DUPLICATES, &where);
	if (!json)
		return errmsg_set(err, -EINVAL, "--config %s: not JSON: line %d, column %d: %s", path,
				  where.line, where.column, where.text);
	r = vm_config_from_json(config, json, path, err);
	json_decref(json);
	return r;
}

static json_t *disks_to_json(const struct vm_config *config)
{
	json_t *array = json_array();

	for (size_t i = 0; array && i < config->disk_count; i++) {
		const struct disk_config *d = &config->disks[i];
		json_t *disk = json_pack("{s:s, s:b, s:b, s:s?}", "path", d->path, "ro", d->read_only,
					 "direct", d->direct, "serial", d->serial[0] ? d->serial : NULL);

		if (!disk || json_array_append_new(array, disk) < 0) {
			json_decref(array);
			return NULL;
		}
	}
	return array;
}

static json_t *key_to_json(const struct vm_config *config, const struct config_key *key)
{
	const void *member = config_member(config, key);
	const char *string;

	switch (key->kind) {
	case CONFIG_KIND_NAME:
		return json_string(config->name);
	case CONFIG_KIND_STRING:
	case CONFIG_KIND_PATH:
		string = *(char *const *)member;
		return string ? json_string(string) : json_null();
	case CONFIG_KIND_SIZE:
		return json_integer((json_int_t) * (const uint64_t *)member);
	case CONFIG_KIND_COUNT:
		return json_integer((json_int_t) * (const unsigned *)member);
	case CONFIG_KIND_SWITCH:
		return json_boolean(*(const bool *)member);
	case CONFIG_KIND_LEVEL:
		return json_string(log_level_name(*(const enum log_level *)member));
	case CONFIG_KIND_CONSOLE: {
		auto_free char *text = config_console_text(config);

		return text ? json_string(text) : NULL;
	}
	case CONFIG_KIND_DISKS:
		return disks_to_json(config);
	}
	return NULL;
}

json_t *vm_config_to_json(const struct vm_config *config)
{
	json_t *object = json_object();

	for (size_t i = 0; object && i < config_key_count; i++) {
		json_t *value = key_to_json(config, &config_keys[i]);

		if (!value || json_object_set_new(object, config_keys[i].name, value) < 0) {
			json_decref(object);
			return NULL;
		}
	}
	return object;
}
