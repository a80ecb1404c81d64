/* SPDX-License-Identifier: Apache-2.0 */
/* The table of a configuration's keys, shared by its text and its JSON side. */
#ifndef SARDINE_VMM_CONFIG_INTERNAL_H
#define SARDINE_VMM_CONFIG_INTERNAL_H

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
	CONFIG_KIND_DISKS,
};

struct config_key {
	const char *name;   /* in JSON */
	const char *option; /* on the command line */
	enum config_kind kind;
	size_t offset; /* in struct vm_config */
};

extern const struct config_key config_keys[];
extern const size_t config_key_count;

const struct config_key *config_key_find(const char *name);

/* The member of @config that @key is about. */
static inline void *config_member(const struct vm_config *config, const struct config_key *key)
{
	return (void *)((uintptr_t)config + key->offset);
}

/* Set @key from text; @label opens the message ("--mem", or "web1.json: mem"). */
int config_set(struct vm_config *config, const struct config_key *key, const char *label, const char *text,
	       struct errmsg *err) must_check;

/* Take over a disk (its path is freed on failure too). Return: 0 or -EINVAL when there is no slot. */
int config_add_disk(struct vm_config *config, const char *label, struct disk_config *disk,
		    struct errmsg *err) must_check;
int config_set_serial(struct disk_config *disk, const char *label, const char *text,
		      struct errmsg *err) must_check;
void config_clear_disks(struct vm_config *config);

/* "stdio", "none", "file:PATH" or "unix:PATH"; the caller frees it. NULL without memory. */
char *config_console_text(const struct vm_config *config);

#endif
