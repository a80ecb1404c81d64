/* SPDX-License-Identifier: Apache-2.0 */
/* The resolved configuration of one VM, and its JSON form. */
#ifndef SARDINE_VMM_CONFIG_H
#define SARDINE_VMM_CONFIG_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/errmsg.h"
#include "base/log.h"
#include "vmm/layout.h"

#define CONFIG_NAME_MAX	  63 /* letters, digits, '-', '_', '.'; starts with a letter or digit */
#define CONFIG_SERIAL_MAX 20 /* virtio 1.2, 5.2.6.1: the device ID string */
/* One slot of the IOAPIC's virtio lines is the balloon's. */
#define CONFIG_DISKS_MAX (LAYOUT_VIRTIO_MAX - 1)

enum console_kind { CONSOLE_STDIO, CONSOLE_NONE, CONSOLE_FILE, CONSOLE_UNIX, CONSOLE_KINDS };

struct disk_config {
	char *path;
	bool read_only;
	bool direct; /* O_DIRECT */
	char serial[CONFIG_SERIAL_MAX + 1];
};

struct vm_config {
	char name[CONFIG_NAME_MAX + 1];
	char *kernel;
	char *initrd; /* NULL: none */
	char *cmdline;
	uint64_t mem_bytes;
	unsigned cpus;
	struct disk_config disks[CONFIG_DISKS_MAX];
	size_t disk_count;
	enum console_kind console;
	char *console_path; /* of CONSOLE_FILE and CONSOLE_UNIX */
	bool mergeable;
	bool kaslr;
	bool balloon;
	bool detach;
	char *cgroup;	/* NULL: stay */
	char *log_file; /* NULL: stderr (detached: NAME.log in the runtime directory) */
	enum log_level log_level;
	char *cache_dir; /* NULL: the default of boot_cache_open() */
};

/* Defaults: 256 MiB, 1 vCPU, console stdio, mergeable off, kaslr off, balloon on, "console=ttyS0 reboot=t
 * panic=-1". */
int vm_config_init(struct vm_config *config) must_check;
void vm_config_done(struct vm_config *config);

/**
 * vm_config_from_json() - Apply a JSON object over a configuration.
 * @config: initialised; on failure unchanged or partly changed, vm_config_done() in any case.
 * @json: borrowed.
 * @source: the file's name, for messages.
 * @err: names the key. Unknown keys and wrong types are errors.
 *
 * Return: 0 or -EINVAL, -ENOMEM.
 */
int vm_config_from_json(struct vm_config *config, const json_t *json, const char *source,
			struct errmsg *err) must_check;
/* The resolved configuration as JSON that vm_config_from_json() takes back; a new reference, NULL without
 * memory. */
json_t *vm_config_to_json(const struct vm_config *config);

/* Check everything that needs no host: names, counts, sizes, lengths. Return: 0 or -EINVAL with the option
 * named in @err. */
int vm_config_check(const struct vm_config *config, struct errmsg *err) must_check;

#endif
