/* SPDX-License-Identifier: Apache-2.0 */
/* Structured options ("path=FILE,ro"): one table of parts per kind of object serves its text, its JSON both ways, its
 * paths and its end. */
#ifndef SARDINE_VMM_CONFIG_OBJECT_H
#define SARDINE_VMM_CONFIG_OBJECT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/errmsg.h"

/* Longest text of a CONFIG_PART_TEXT, with its NUL. */
#define CONFIG_PART_TEXT_MAX 128

enum config_part_kind {
	CONFIG_PART_PATH,   /* char *, owned; made absolute by config_object_resolve() */
	CONFIG_PART_FLAG,   /* bool: the bare name sets it; true or false in JSON */
	CONFIG_PART_SWITCH, /* bool: "name=on", "name=off"; true or false in JSON */
	CONFIG_PART_SIZE,   /* uint64_t, bytes: "4M"; in JSON such a string or a whole number */
	CONFIG_PART_COUNT,  /* uint64_t; a whole number in JSON */
	CONFIG_PART_TEXT,   /* what parse and format say; a string in JSON */
};

/* One part, "name=value". A name of several words has '-' in texts and '_' in JSON. */
struct config_part {
	const char *name; /* with '-' */
	enum config_part_kind kind;
	size_t offset;	   /* in the object */
	uint64_t min, max; /* of a size or a count, inclusive */
	/* Of a text. parse: 0 or -EINVAL with one line in @err that begins with @label. format: writes at most
	 * CONFIG_PART_TEXT_MAX bytes; an empty text is null in JSON. */
	int (*parse)(void *member, const char *label, const char *text, struct errmsg *err);
	void (*format)(const void *member, char *buf);
};

struct config_object {
	const char *noun;   /* "disk", in messages */
	const char *syntax; /* "path=FILE[,ro]", in messages */
	size_t bytes;	    /* of the struct */
	const struct config_part *parts;
	size_t part_count;
	/* Set defaults in a zeroed struct; NULL: zeroes are the defaults. Must not allocate. */
	void (*init)(void *object);
	/* Once all parts are set: 0 or -EINVAL with one line in @err that begins with @label. NULL: nothing to check. */
	int (*check)(const void *object, const char *label, struct errmsg *err);
};

/* Set the defaults; @object is uninitialised or ended. */
void config_object_init(const struct config_object *type, void *object);

/* Free what the parts own and zero the object. */
void config_object_done(const struct config_object *type, void *object);

/**
 * config_object_set_text() - Set parts from a text, "name=value,flag".
 * @type: the kind of object.
 * @object: initialised; on failure partly changed.
 * @label: opens each message, e.g. "--disk".
 * @text: parts separated by commas; ",," stands for a comma inside of a value.
 * @err: one line.
 *
 * Return: 0, -EINVAL, -ENOMEM.
 */
int config_object_set_text(const struct config_object *type, void *object, const char *label,
			   const char *text, struct errmsg *err) must_check;

/**
 * config_object_set_json() - Set parts from a JSON object. Unknown keys and wrong types are errors, null leaves a part as it is.
 *
 * Arguments and return as config_object_set_text().
 */
int config_object_set_json(const struct config_object *type, void *object, const char *label, json_t *json,
			   struct errmsg *err) must_check;

/* All parts as JSON that config_object_set_json() takes back; a new reference, NULL without memory or when a path is no UTF-8. */
json_t *config_object_to_json(const struct config_object *type, const void *object);

/* Make paths absolute, relative to @cwd. Return: 0 or -ENOMEM. */
int config_object_resolve(const struct config_object *type, void *object, const char *cwd) must_check;

/*
 * Values that plain options and parts have in common. @label opens the message. On failure the member is unchanged.
 */
int config_value_string(char **member, const char *text) must_check;
int config_value_switch(bool *member, const char *label, const char *text, struct errmsg *err) must_check;
int config_value_size(uint64_t *member, const char *label, const char *text, struct errmsg *err) must_check;
int config_value_count(uint64_t *member, uint64_t max, const char *label, const char *text,
		       struct errmsg *err) must_check;
/* A path of the caller's, made absolute in place; NULL stays. */
int config_value_absolute(char **path, const char *cwd) must_check;
int config_wrong_type(const char *label, const char *wanted, struct errmsg *err);

#endif
