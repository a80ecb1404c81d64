/* SPDX-License-Identifier: Apache-2.0 */
/* The configuration of one VM: defaults, option texts, resolution and checks. */
#include "vmm/config.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/addr.h"
#include "base/size.h"
#include "vmm/config-internal.h"
#include "vmm/guest-memory.h"

#define KEY(name_, option_, kind_, member_)                                                                  \
	{                                                                                                    \
		.name = name_, .option = option_, .kind = CONFIG_KIND_##kind_,                               \
		.offset = offsetof(struct vm_config, member_)                                                \
	}

const struct config_key config_keys[] = {
	KEY("name", "--name", NAME, name),
	KEY("kernel", "--kernel", PATH, kernel),
	KEY("initrd", "--initrd", PATH, initrd),
	KEY("cmdline", "--cmdline", STRING, cmdline),
	KEY("mem", "--mem", SIZE, mem_bytes),
	KEY("cpus", "--cpus", COUNT, cpus),
	KEY("disks", "--disk", DISKS, disks),
	KEY("console", "--console", CONSOLE, console),
	KEY("mergeable", "--mergeable", SWITCH, mergeable),
	KEY("kaslr", "--kaslr", SWITCH, kaslr),
	KEY("balloon", "--balloon", SWITCH, balloon),
	KEY("detach", "--detach", SWITCH, detach),
	KEY("stop_timeout", "--stop-timeout", COUNT, stop_timeout_s),
	KEY("cgroup", "--cgroup", PATH, cgroup),
	KEY("log_file", "--log-file", PATH, log_file),
	KEY("log_level", "--log-level", LEVEL, log_level),
	KEY("cache_dir", "--cache-dir", PATH, cache_dir),
};
const size_t config_key_count = ARRAY_SIZE(config_keys);

static const char *const console_names[] = {
	[CONSOLE_STDIO] = "stdio",
	[CONSOLE_NONE] = "none",
	[CONSOLE_FILE] = "file:",
	[CONSOLE_UNIX] = "unix:",
};
_Static_assert(ARRAY_SIZE(console_names) == CONSOLE_KINDS, "a name for each kind of console");

const struct config_key *config_key_find(const char *name)
{
	for (size_t i = 0; i < config_key_count; i++)
		if (strcmp(config_keys[i].name, name) == 0)
			return &config_keys[i];
	return NULL;
}

int vm_config_init(struct vm_config *config)
{
	*config = (struct vm_config){
		.mem_bytes = 256 * MIB,
		.cpus = 1,
		.console = CONSOLE_STDIO,
		.balloon = true,
		.stop_timeout_s = CONFIG_STOP_TIMEOUT_S,
		.log_level = LOG_LEVEL_INFO,
	};
	/* panic=-1: a guest that panics resets at once, which ends the VM, instead of hanging. */
	config->cmdline = strdup("console=ttyS0 panic=-1");
	return config->cmdline ? 0 : -ENOMEM;
}

void config_clear_disks(struct vm_config *config)
{
	for (size_t i = 0; i < config->disk_count; i++)
		free(config->disks[i].path);
	config->disk_count = 0;
}

void vm_config_done(struct vm_config *config)
{
	config_clear_disks(config);
	free(config->kernel);
	free(config->initrd);
	free(config->cmdline);
	free(config->console_path);
	free(config->cgroup);
	free(config->log_file);
	free(config->cache_dir);
	*config = (struct vm_config){0};
}

static int set_string(char **member, const char *text)
{
	char *copy = strdup(text);

	if (!copy)
		return -ENOMEM;
	free(*member);
	*member = copy;
	return 0;
}

/* Accepts what config_check_name() accepts, because a longer one has no place in the struct. */
static int set_name(struct vm_config *config, const char *label, const char *text, struct errmsg *err)
{
	size_t len = strlen(text);

	if (len > CONFIG_NAME_MAX)
		return errmsg_set(err, -EINVAL, "%s %.20s..: %zu bytes long; a VM's name has at most %d",
				  label, text, len, CONFIG_NAME_MAX);
	memcpy(config->name, text, len + 1);
	return 0;
}

static int set_console(struct vm_config *config, const char *label, const char *text, struct errmsg *err)
{
	for (int kind = 0; kind < CONSOLE_KINDS; kind++) {
		const char *name = console_names[kind];
		size_t len = strlen(name);
		bool has_path = name[len - 1] == ':';
		int r = 0;

		if (has_path ? strncmp(text, name, len) != 0 : strcmp(text, name) != 0)
			continue;
		if (has_path && !text[len])
			return errmsg_set(err, -EINVAL, "%s %s: no path behind the colon", label, text);
		if (has_path) {
			r = set_string(&config->console_path, text + len);
		} else {
			free(config->console_path);
			config->console_path = NULL;
		}
		if (r < 0)
			return r;
		config->console = (enum console_kind)kind;
		config->console_chosen = true;
		return 0;
	}
	return errmsg_set(err, -EINVAL,
			  "%s %s: no such kind of console; use stdio, none, file:PATH or unix:PATH", label,
			  text);
}

char *config_console_text(const struct vm_config *config)
{
	char *text = NULL;

	if (asprintf(&text, "%s%s", console_names[config->console],
		     config->console_path ? config->console_path : "") < 0)
		return NULL;
	return text;
}

static int switch_parse(const char *label, const char *text, bool *ret, struct errmsg *err)
{
	bool on = strcmp(text, "on") == 0;

	if (!on && strcmp(text, "off") != 0)
		return errmsg_set(err, -EINVAL, "%s %s: neither \"on\" nor \"off\"", label, text);
	*ret = on;
	return 0;
}

int config_set_serial(struct disk_config *disk, const char *label, const char *text, struct errmsg *err)
{
	size_t len = strlen(text);

	if (len == 0 || len > CONFIG_SERIAL_MAX)
		return errmsg_set(err, -EINVAL, "%s: serial \"%.40s\" has %zu bytes; use 1 to %d", label,
				  text, len, CONFIG_SERIAL_MAX);
	for (const char *p = text; *p; p++)
		if (!isascii((unsigned char)*p) || !isgraph((unsigned char)*p))
			return errmsg_set(err, -EINVAL,
					  "%s: serial \"%s\" has a character that is not printable ASCII",
					  label, text);
	memcpy(disk->serial, text, len + 1);
	return 0;
}

int config_add_disk(struct vm_config *config, const char *label, struct disk_config *disk, struct errmsg *err)
{
	int r = 0;

	if (!disk->path || !disk->path[0])
		r = errmsg_set(err, -EINVAL, "%s: no path; say path=FILE", label);
	else if (config->disk_count == CONFIG_DISKS_MAX)
		r = errmsg_set(err, -EINVAL,
			       "%s %s: too many disks; the interrupt controller has lines for %d of them",
			       label, disk->path, CONFIG_DISKS_MAX);
	if (r < 0) {
		free(disk->path);
		disk->path = NULL;
		return r;
	}
	config->disks[config->disk_count++] = *disk;
	disk->path = NULL;
	return 0;
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

static int disk_part(struct disk_config *disk, const char *label, const char *part, struct errmsg *err)
{
	if (strncmp(part, "path=", 5) == 0)
		return set_string(&disk->path, part + 5);
	if (strncmp(part, "direct=", 7) == 0)
		return switch_parse("--disk direct", part + 7, &disk->direct, err);
	if (strncmp(part, "serial=", 7) == 0)
		return config_set_serial(disk, label, part + 7, err);
	if (strcmp(part, "ro") == 0) {
		disk->read_only = true;
		return 0;
	}
	return errmsg_set(
		err, -EINVAL,
		"%s: \"%s\" is no part of path=FILE[,ro][,direct=on|off][,serial=S] (write a comma in "
		"a path as \",,\")",
		label, part);
}

static int set_disk(struct vm_config *config, const char *label, const char *text, struct errmsg *err)
{
	struct disk_config disk = {0};
	auto_free char *copy = strdup(text);
	char *rest = copy, *part;

	if (!copy)
		return -ENOMEM;
	while ((part = part_next(&rest))) {
		int r = disk_part(&disk, label, part, err);

		if (r < 0) {
			free(disk.path);
			return r;
		}
	}
	return config_add_disk(config, label, &disk, err);
}

static int set_size(uint64_t *member, const char *label, const char *text, struct errmsg *err)
{
	int r = size_parse(text, member);

	if (r == -ERANGE)
		return errmsg_set(err, -EINVAL, "%s %s: larger than any machine; use e.g. 256M or 4G", label,
				  text);
	if (r < 0)
		return errmsg_set(err, -EINVAL, "%s %s: not a size; use e.g. 256M or 4G", label, text);
	return 0;
}

static int set_count(unsigned *member, const char *label, const char *text, struct errmsg *err)
{
	uint64_t v;

	if (number_parse(text, UINT32_MAX, &v) < 0)
		return errmsg_set(err, -EINVAL, "%s %s: not a whole number, or far too large", label, text);
	*member = (unsigned)v;
	return 0;
}

int config_set(struct vm_config *config, const struct config_key *key, const char *label, const char *text,
	       struct errmsg *err)
{
	void *member = config_member(config, key);

	switch (key->kind) {
	case CONFIG_KIND_NAME:
		return set_name(config, label, text, err);
	case CONFIG_KIND_PATH:
		if (!text[0])
			return errmsg_set(err, -EINVAL, "%s: the path is empty", label);
		return set_string(member, text);
	case CONFIG_KIND_STRING:
		return set_string(member, text);
	case CONFIG_KIND_SIZE:
		return set_size(member, label, text, err);
	case CONFIG_KIND_COUNT:
		return set_count(member, label, text, err);
	case CONFIG_KIND_SWITCH:
		return switch_parse(label, text, member, err);
	case CONFIG_KIND_LEVEL:
		if (log_level_parse(text, member) < 0)
			return errmsg_set(err, -EINVAL, "%s %s: use error, warn, info or debug", label, text);
		return 0;
	case CONFIG_KIND_CONSOLE:
		return set_console(config, label, text, err);
	case CONFIG_KIND_DISKS:
		return set_disk(config, label, text, err);
	}
	return -EINVAL;
}

int vm_config_set_text(struct vm_config *config, const char *option, const char *text, struct errmsg *err)
{
	for (size_t i = 0; i < config_key_count; i++)
		if (strcmp(config_keys[i].option + strlen("--"), option) == 0)
			return config_set(config, &config_keys[i], config_keys[i].option, text, err);
	return errmsg_set(err, -ENOENT, "--%s: no such option", option);
}

static int make_absolute(char **path, const char *cwd)
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

int vm_config_resolve(struct vm_config *config, const char *cwd)
{
	int r = make_absolute(&config->console_path, cwd);

	for (size_t i = 0; r == 0 && i < config_key_count; i++)
		if (config_keys[i].kind == CONFIG_KIND_PATH)
			r = make_absolute(config_member(config, &config_keys[i]), cwd);
	for (size_t i = 0; r == 0 && i < config->disk_count; i++)
		r = make_absolute(&config->disks[i].path, cwd);
	if (r == 0 && config->detach && !config->console_chosen)
		config->console = CONSOLE_NONE;
	return r;
}

static int check_name(const char *name, struct errmsg *err)
{
	if (!name[0])
		return errmsg_set(err, -EINVAL, "--name is missing: give the VM a name");
	if (!isascii((unsigned char)name[0]) || !isalnum((unsigned char)name[0]))
		return errmsg_set(err, -EINVAL, "--name %s: must begin with a letter or a digit", name);
	for (const char *p = name; *p; p++)
		if (!isascii((unsigned char)*p) || (!isalnum((unsigned char)*p) && !strchr("-_.", *p)))
			return errmsg_set(err, -EINVAL,
					  "--name %s: '%c' cannot be in a VM's name; use letters, digits, "
					  "'-', '_' and '.'",
					  name, *p);
	return 0;
}

static int check_mem(uint64_t bytes, struct errmsg *err)
{
	char have[32], min[32], max[32];

	size_format(bytes, have, sizeof(have));
	size_format(GUEST_MEMORY_MIN, min, sizeof(min));
	size_format(GUEST_MEMORY_MAX, max, sizeof(max));
	if (bytes < GUEST_MEMORY_MIN)
		return errmsg_set(err, -EINVAL, "--mem: %s is too small; a VM has at least %s", have, min);
	if (bytes > GUEST_MEMORY_MAX)
		return errmsg_set(err, -EINVAL, "--mem: %s is too large; a VM has at most %s", have, max);
	if (bytes & PAGE_MASK)
		return errmsg_set(err, -EINVAL, "--mem: %" PRIu64 " bytes is no multiple of 4096", bytes);
	return 0;
}

static int check_console(const struct vm_config *config, struct errmsg *err)
{
	if (config->console == CONSOLE_STDIO && config->console_chosen && config->detach)
		return errmsg_set(
			err, -EINVAL,
			"--console stdio does not go with --detach: use none, file:PATH or unix:PATH "
			"(`sardine console %s` reaches a VM in any case)",
			config->name);
	return 0;
}

int vm_config_check(const struct vm_config *config, struct errmsg *err)
{
	int r = check_name(config->name, err);

	if (r == 0 && !config->kernel)
		r = errmsg_set(err, -EINVAL, "--kernel is missing: name a bzImage or an ELF vmlinux");
	if (r == 0)
		r = check_mem(config->mem_bytes, err);
	if (r == 0 && (config->cpus < 1 || config->cpus > LAYOUT_VCPUS_MAX))
		r = errmsg_set(err, -EINVAL, "--cpus %u: a VM has 1 to %d vCPUs", config->cpus,
			       LAYOUT_VCPUS_MAX);
	if (r == 0 && strlen(config->cmdline) >= LAYOUT_CMDLINE_MAX)
		r = errmsg_set(err, -EINVAL, "--cmdline: %zu bytes long; a kernel takes at most %d",
			       strlen(config->cmdline), LAYOUT_CMDLINE_MAX - 1);
	if (r == 0 && config->stop_timeout_s > CONFIG_STOP_TIMEOUT_MAX_S)
		r = errmsg_set(err, -EINVAL, "--stop-timeout %u: at most %d seconds", config->stop_timeout_s,
			       CONFIG_STOP_TIMEOUT_MAX_S);
	if (r == 0)
		r = check_console(config, err);
	return r;
}
