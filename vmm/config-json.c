/* SPDX-License-Identifier: Apache-2.0 */
/* The JSON form of a VM's configuration: what --dry-run prints and --config takes back. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/fs.h"
#include "base/planted.h"
#include "vmm/config-internal.h"

/* A message names file and key; precisions cut what is unreasonably long, so that the key is never lost. */
#define LABEL_MAX 360

/* Numbers go through the text side, so that one place knows the limits. */
static int set_integer(struct vm_config *config, const struct config_key *key, const char *label,
		       const json_t *value, struct errmsg *err)
{
	char text[32];

	snprintf(text, sizeof(text), "%" JSON_INTEGER_FORMAT, json_integer_value(value));
	return config_set(config, key, label, text, err);
}

static int item_from_json(struct vm_config *config, const struct config_key *key, const char *label,
			  json_t *json, struct errmsg *err)
{
	void *item;
	int r = config_list_add(config, key, label, "", &item, err);

	if (r < 0)
		return r;
	r = config_object_set_json(key->object, item, label, json, err);
	if (r < 0)
		config_object_done(key->object, item);
	else
		(*config_list_count(config, key))++;
	return r;
}

static int list_from_json(struct vm_config *config, const struct config_key *key, const char *label,
			  const json_t *value, struct errmsg *err)
{
	size_t i;
	json_t *item;

	if (!json_is_array(value))
		return errmsg_set(err, -EINVAL, "%s: must be an array, with an object for each %s", label,
				  key->object->noun);
	config_list_clear(config, key);
	json_array_foreach(value, i, item)
	{
		char inner[LABEL_MAX];
		int r;

		snprintf(inner, sizeof(inner), "%.271s[%zu]", label, i);
		r = item_from_json(config, key, inner, item, err);
		if (r < 0)
			return r;
	}
	return 0;
}

/* true and false go through the text side; an object replaces what was said of the device before. */
static int device_from_json(struct vm_config *config, const struct config_key *key, const char *label,
			    json_t *value, struct errmsg *err)
{
	void *member = config_member(config, key);

	if (json_is_boolean(value))
		return config_set(config, key, label, json_is_true(value) ? "on" : "off", err);
	if (!json_is_object(value) || key->object->part_count == 0)
		return config_wrong_type(
			label, key->object->part_count ? "true, false or an object" : "true or false", err);
	config_object_done(key->object, member);
	config_object_init(key->object, member);
	*config_device_on(config, key) = true;
	return config_object_set_json(key->object, member, label, value, err);
}

/* A choice between "on", "off" and more takes true and false for the two, as a switch does. */
static bool is_switch(const struct config_key *key)
{
	bool on = false, off = false;

	for (size_t i = 0; key->choices[i]; i++) {
		on |= strcmp(key->choices[i], "on") == 0;
		off |= strcmp(key->choices[i], "off") == 0;
	}
	return on && off;
}

static int key_from_json(struct vm_config *config, const struct config_key *key, const char *label,
			 json_t *value, struct errmsg *err)
{
	switch (key->kind) {
	case CONFIG_KIND_SWITCH:
		if (!json_is_boolean(value))
			return config_wrong_type(label, "true or false", err);
		*(bool *)config_member(config, key) = json_is_true(value);
		return 0;
	case CONFIG_KIND_COUNT:
		if (!json_is_integer(value))
			return config_wrong_type(label, "a whole number", err);
		return set_integer(config, key, label, value, err);
	case CONFIG_KIND_SIZE:
		if (json_is_integer(value))
			return set_integer(config, key, label, value, err);
		if (!json_is_string(value))
			return config_wrong_type(label, "bytes as a whole number, or a string like \"256M\"",
						 err);
		break;
	case CONFIG_KIND_LIST:
		return list_from_json(config, key, label, value, err);
	case CONFIG_KIND_DEVICE:
		return device_from_json(config, key, label, value, err);
	case CONFIG_KIND_CHOICE:
		if (json_is_boolean(value) && is_switch(key))
			return config_set(config, key, label, json_is_true(value) ? "on" : "off", err);
		if (!json_is_string(value))
			return config_wrong_type(label, "a string", err);
		break;
	case CONFIG_KIND_NAME:
	case CONFIG_KIND_STRING:
	case CONFIG_KIND_PATH:
	case CONFIG_KIND_LEVEL:
	case CONFIG_KIND_CONSOLE:
		if (!json_is_string(value))
			return config_wrong_type(label, "a string", err);
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
	if (r == -EILSEQ)
		return errmsg_set(err, -EINVAL, "--config %s: not JSON: there is a NUL byte in it", path);
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

static json_t *list_to_json(const struct vm_config *config, const struct config_key *key)
{
	json_t *array = json_array();

	for (size_t i = 0; array && i < *config_list_count(config, key); i++) {
		json_t *item = config_object_to_json(key->object, config_list_item(config, key, i));

		if (!item || json_array_append_new(array, item) < 0) {
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
		return json_boolean(*(const bool *)member && !PLANTED("config_json"));
	case CONFIG_KIND_LEVEL:
		return json_string(log_level_name(*(const enum log_level *)member));
	case CONFIG_KIND_CONSOLE: {
		auto_free char *text = config_console_text(config);

		return text ? json_string(text) : NULL;
	}
	case CONFIG_KIND_CHOICE:
		return json_string(key->choices[*(const unsigned *)member]);
	case CONFIG_KIND_LIST:
		return list_to_json(config, key);
	case CONFIG_KIND_DEVICE:
		if (!*config_device_on(config, key) || key->object->part_count == 0)
			return json_boolean(*config_device_on(config, key));
		return config_object_to_json(key->object, member);
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
