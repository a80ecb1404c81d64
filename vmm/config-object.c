/* SPDX-License-Identifier: Apache-2.0 */
/* Structured options: their parts from text and from JSON, and back to JSON. */
#include "vmm/config-object.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/size.h"

/* A message names the option and its part; precisions cut what is unreasonably long. */
#define LABEL_MAX 360

static void *part_member(const struct config_part *part, const void *object)
{
	return (void *)((uintptr_t)object + part->offset);
}

/* @name as in a text ('-') or as in JSON ('_'). */
static const struct config_part *part_find(const struct config_object *type, const char *name, size_t len,
					   char separator)
{
	for (size_t i = 0; i < type->part_count; i++) {
		const char *have = type->parts[i].name;
		size_t at = 0;

		while (at < len && have[at] && (have[at] == '-' ? separator : have[at]) == name[at])
			at++;
		if (at == len && !have[at])
			return &type->parts[i];
	}
	return NULL;
}

void config_object_init(const struct config_object *type, void *object)
{
	memset(object, 0, type->bytes);
	if (type->init)
		type->init(object);
}

void config_object_done(const struct config_object *type, void *object)
{
	for (size_t i = 0; i < type->part_count; i++)
		if (type->parts[i].kind == CONFIG_PART_PATH)
			free(*(char **)part_member(&type->parts[i], object));
	memset(object, 0, type->bytes);
}

/* Cuts the next comma-separated part off *ps, in place; ",," is a comma inside the part. */
static char *part_next(char **ps)
{
	char *start = *ps, *in = *ps, *out = *ps;

	if (!start)
		return NULL;
	for (;; in++) {
		if (in[0] == ',' && in[1] == ',') {
			in++;
		} else if (in[0] == ',' || in[0] == '\0') {
			break;
		}
		*out++ = *in;
	}
	*ps = *in ? in + 1 : NULL;
	*out = '\0';
	return start;
}

static int check_range(const struct config_part *part, uint64_t value, const char *label, const char *text,
		       struct errmsg *err)
{
	char min[32], max[32];

	if (value >= part->min && value <= part->max)
		return 0;
	if (part->kind == CONFIG_PART_SIZE) {
		size_format(part->min, min, sizeof(min));
		size_format(part->max, max, sizeof(max));
	} else {
		snprintf(min, sizeof(min), "%" PRIu64, part->min);
		snprintf(max, sizeof(max), "%" PRIu64, part->max);
	}
	return errmsg_set(err, -EINVAL, "%s %s: must be from %s to %s", label, text, min, max);
}

/* The value of a part that is no flag, from its text. */
static int part_set(const struct config_part *part, void *object, const char *label, const char *text,
		    struct errmsg *err)
{
	void *member = part_member(part, object);
	uint64_t value;
	int r;

	switch (part->kind) {
	case CONFIG_PART_PATH:
		if (!text[0])
			return errmsg_set(err, -EINVAL, "%s: the path is empty", label);
		return config_value_string(member, text);
	case CONFIG_PART_SWITCH:
	case CONFIG_PART_FLAG:
		return config_value_switch(member, label, text, err);
	case CONFIG_PART_SIZE:
	case CONFIG_PART_COUNT:
		r = part->kind == CONFIG_PART_SIZE ? config_value_size(&value, label, text, err)
						   : config_value_count(&value, UINT64_MAX, label, text, err);
		if (r == 0)
			r = check_range(part, value, label, text, err);
		if (r == 0)
			*(uint64_t *)member = value;
		return r;
	case CONFIG_PART_TEXT:
		return part->parse(member, label, text, err);
	}
	return -EINVAL;
}

static int no_part(const struct config_object *type, const char *label, const char *text, struct errmsg *err)
{
	return errmsg_set(err, -EINVAL, "%s: \"%s\" is no part of %s (write a comma in a value as \",,\")",
			  label, text, type->syntax);
}

static int set_part_text(const struct config_object *type, void *object, const char *label, const char *text,
			 struct errmsg *err)
{
	size_t len = strcspn(text, "=");
	const struct config_part *part = part_find(type, text, len, '-');
	char inner[LABEL_MAX];

	/* A flag is there or not, all others have a value. */
	if (!part || (part->kind == CONFIG_PART_FLAG) != (text[len] == '\0'))
		return no_part(type, label, text, err);
	if (part->kind == CONFIG_PART_FLAG) {
		*(bool *)part_member(part, object) = true;
		return 0;
	}
	snprintf(inner, sizeof(inner), "%.200s %s", label, part->name);
	return part_set(part, object, inner, text + len + 1, err);
}

static int check(const struct config_object *type, const void *object, const char *label, struct errmsg *err)
{
	return type->check ? type->check(object, label, err) : 0;
}

int config_object_set_text(const struct config_object *type, void *object, const char *label,
			   const char *text, struct errmsg *err)
{
	auto_free char *copy = strdup(text);
	char *rest = copy, *part;

	if (!copy)
		return -ENOMEM;
	while ((part = part_next(&rest))) {
		int r = set_part_text(type, object, label, part, err);

		if (r < 0)
			return r;
	}
	return check(type, object, label, err);
}

/* "path, ro, direct and serial". */
static void list_parts(const struct config_object *type, char *buf, size_t len)
{
	size_t at = 0;

	buf[0] = '\0';
	for (size_t i = 0; i < type->part_count && at < len; i++) {
		const char *between = i == 0 ? "" : i + 1 == type->part_count ? " and " : ", ";
		size_t start;

		at += (size_t)snprintf(buf + at, len - at, "%s", between);
		start = at;
		if (at < len)
			at += (size_t)snprintf(buf + at, len - at, "%s", type->parts[i].name);
		for (size_t c = start; c < at && c < len; c++)
			if (buf[c] == '-')
				buf[c] = '_';
	}
}

static int set_part_json(const struct config_part *part, void *object, const char *label, const json_t *value,
			 struct errmsg *err)
{
	char text[32];

	if (json_is_null(value))
		return 0;
	switch (part->kind) {
	case CONFIG_PART_FLAG:
	case CONFIG_PART_SWITCH:
		if (!json_is_boolean(value))
			return config_wrong_type(label, "true or false", err);
		*(bool *)part_member(part, object) = json_is_true(value);
		return 0;
	case CONFIG_PART_SIZE:
	case CONFIG_PART_COUNT:
		if (json_is_integer(value)) {
			/* Through the text side, so that one place knows the limits. */
			snprintf(text, sizeof(text), "%" JSON_INTEGER_FORMAT, json_integer_value(value));
			return part_set(part, object, label, text, err);
		}
		if (part->kind == CONFIG_PART_COUNT)
			return config_wrong_type(label, "a whole number", err);
		if (!json_is_string(value))
			return config_wrong_type(label, "bytes as a whole number, or a string like \"256M\"",
						 err);
		break;
	case CONFIG_PART_PATH:
	case CONFIG_PART_TEXT:
		if (!json_is_string(value))
			return config_wrong_type(label, "a string", err);
		break;
	}
	return part_set(part, object, label, json_string_value(value), err);
}

int config_object_set_json(const struct config_object *type, void *object, const char *label, json_t *json,
			   struct errmsg *err)
{
	const char *name;
	json_t *value;

	if (!json_is_object(json))
		return errmsg_set(err, -EINVAL, "%s: must be an object: %s as JSON", label, type->syntax);
	json_object_foreach(json, name, value)
	{
		const struct config_part *part = part_find(type, name, strlen(name), '_');
		char inner[LABEL_MAX], names[160];
		int r;

		snprintf(inner, sizeof(inner), "%.293s.%.60s", label, name);
		if (!part) {
			list_parts(type, names, sizeof(names));
			return errmsg_set(err, -EINVAL, "%s: no such key; a %s has %s", inner, type->noun,
					  names);
		}
		r = set_part_json(part, object, inner, value, err);
		if (r < 0)
			return r;
	}
	return check(type, object, label, err);
}

static json_t *part_to_json(const struct config_part *part, const void *object)
{
	const void *member = part_member(part, object);
	char text[CONFIG_PART_TEXT_MAX];
	const char *path;

	switch (part->kind) {
	case CONFIG_PART_PATH:
		path = *(char *const *)member;
		return path ? json_string(path) : json_null();
	case CONFIG_PART_FLAG:
	case CONFIG_PART_SWITCH:
		return json_boolean(*(const bool *)member);
	case CONFIG_PART_SIZE:
	case CONFIG_PART_COUNT:
		return json_integer((json_int_t) * (const uint64_t *)member);
	case CONFIG_PART_TEXT:
		part->format(member, text);
		return text[0] ? json_string(text) : json_null();
	}
	return NULL;
}

json_t *config_object_to_json(const struct config_object *type, const void *object)
{
	json_t *json = json_object();

	for (size_t i = 0; json && i < type->part_count; i++) {
		json_t *value = part_to_json(&type->parts[i], object);
		char name[64];

		snprintf(name, sizeof(name), "%s", type->parts[i].name);
		for (char *c = name; *c; c++)
			if (*c == '-')
				*c = '_';
		if (!value || json_object_set_new(json, name, value) < 0) {
			json_decref(json);
			return NULL;
		}
	}
	return json;
}

int config_object_resolve(const struct config_object *type, void *object, const char *cwd)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < type->part_count; i++)
		if (type->parts[i].kind == CONFIG_PART_PATH)
			r = config_value_absolute(part_member(&type->parts[i], object), cwd);
	return r;
}
