/* SPDX-License-Identifier: Apache-2.0 */
/* The table of a configuration's keys, shared by its text and its JSON side. */
#ifndef SARDINE_VMM_CONFIG_INTERNAL_H
#define SARDINE_VMM_CONFIG_INTERNAL_H

#include "vmm/config-object.h"
#include "vmm/config.h"

enum config_kind {
	CONFIG_KIND_NAME,    /* char[CONFIG_NAME_MAX + 1] */
	CONFIG_KIND_STRING,  /* char * */
	CONFIG_KIND_PATH,    /* char *, made absolute by vm_config_resolve(), not empty */
	CONFIG_KIND_SIZE,    /* uint64_t, bytes */
	CONFIG_KIND_COUNT,   /* unsigned */
	CONFIG_KIND_SWITCH,  /* bool */
	CONFIG_KIND_LEVEL,   /* enum log_level */
	CONFIG_KIND_CONSOLE, /* console and console_path */
	CONFIG_KIND_CHOICE,  /* unsigned, one of `choices` */
	CONFIG_KIND_LIST,    /* an array of objects: each text adds one, JSON replaces all */
	CONFIG_KIND_DEVICE, /* an object that begins with `bool on`: "on", "off" or parts; JSON true, false or the parts */
};

struct config_key {
	const char *name;   /* in JSON */
	const char *option; /* on the command line */
	enum config_kind kind;
	size_t offset; /* in struct vm_config */
	/* Of lists and devices. */
	const struct config_object *object;
	size_t count_offset; /* of a list: size_t */
	size_t max;	     /* of a list */
	/* Of a choice: names by value, then NULL. */
	const char *const *choices;
};

extern const struct config_key config_keys[];
extern const size_t config_key_count;

/* A row of a table of parts. */
#define PART(type_, name_, kind_, member_)                                                                   \
	{                                                                                                    \
		.name = name_, .kind = CONFIG_PART_##kind_, .offset = offsetof(type_, member_)               \
	}

/* The limits of a device, "bw=SIZE,iops=N". */
#define RATE_PARTS(type_, member_)                                                                           \
	{.name = "bw",                                                                                       \
	 .kind = CONFIG_PART_SIZE,                                                                           \
	 .offset = offsetof(type_, member_.bytes_per_s),                                                     \
	 .max = TOKEN_RATE_MAX},                                                                             \
	{                                                                                                    \
		.name = "iops", .kind = CONFIG_PART_COUNT, .offset = offsetof(type_, member_.ops_per_s),     \
		.max = TOKEN_RATE_MAX                                                                        \
	}

/* The kinds of structured options (config-devices.c). */
extern const struct config_object config_disk;
extern const struct config_object config_net; /* config-net.c */
extern const struct config_object config_vsock;
extern const struct config_object config_rng;
extern const struct config_object config_balloon;

/* What only all network devices together can show: a tap or an address that is given twice. */
int config_check_nets(const struct vm_config *config, struct errmsg *err) must_check;

const struct config_key *config_key_find(const char *name);

/* The member of @config that @key is about. */
static inline void *config_member(const struct vm_config *config, const struct config_key *key)
{
	return (void *)((uintptr_t)config + key->offset);
}

/* Of a list: how many items there are, and one of them. */
static inline size_t *config_list_count(const struct vm_config *config, const struct config_key *key)
{
	return (size_t *)((uintptr_t)config + key->count_offset);
}

static inline void *config_list_item(const struct vm_config *config, const struct config_key *key, size_t i)
{
	return (void *)((uintptr_t)config + key->offset + i * key->object->bytes);
}

/* Whether a device is there. */
static inline bool *config_device_on(const struct vm_config *config, const struct config_key *key)
{
	return config_member(config, key);
}

/* Set @key from text; @label opens the message ("--mem", or "web1.json: mem"). */
int config_set(struct vm_config *config, const struct config_key *key, const char *label, const char *text,
	       struct errmsg *err) must_check;

/**
 * config_list_add() - The next free item of a list, with its defaults.
 *
 * Return: 0, or -EINVAL when the list is full. The caller counts the item (config_list_count()) once it is set, or ends it.
 */
int config_list_add(struct vm_config *config, const struct config_key *key, const char *label,
		    const char *what, void **ret, struct errmsg *err) must_check;
void config_list_clear(struct vm_config *config, const struct config_key *key);

/* "stdio", "none", "file:PATH" or "unix:PATH"; the caller frees it. NULL without memory. */
char *config_console_text(const struct vm_config *config);

#endif
