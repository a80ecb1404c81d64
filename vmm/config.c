/* SPDX-License-Identifier: Apache-2.0 */
/* The configuration of one VM: defaults, option texts, resolution and checks. */
#include "vmm/config.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/addr.h"
#include "base/planted.h"
#include "base/size.h"
#include "vmm/config-internal.h"
#include "vmm/guest-memory.h"

#define KEY(name_, option_, kind_, member_)                                                                  \
	{                                                                                                    \
		.name = name_, .option = option_, .kind = CONFIG_KIND_##kind_,                               \
		.offset = offsetof(struct vm_config, member_)                                                \
	}
#define LIST(name_, option_, member_, object_, max_)                                                         \
	{                                                                                                    \
		.name = name_, .option = option_, .kind = CONFIG_KIND_LIST,                                  \
		.offset = offsetof(struct vm_config, member_##s), .object = &(object_),                      \
		.count_offset = offsetof(struct vm_config, member_##_count), .max = max_                     \
	}
#define DEVICE(name_, option_, member_, object_)                                                             \
	{                                                                                                    \
		.name = name_, .option = option_, .kind = CONFIG_KIND_DEVICE,                                \
		.offset = offsetof(struct vm_config, member_), .object = &(object_)                          \
	}
#define CHOICE(name_, option_, member_, choices_)                                                            \
	{                                                                                                    \
		.name = name_, .option = option_, .kind = CONFIG_KIND_CHOICE,                                \
		.offset = offsetof(struct vm_config, member_), .choices = choices_                           \
	}

static const char *const action_names[] = {[CONFIG_RESTART] = "restart", [CONFIG_EXIT] = "exit", NULL};

static const char *const sandbox_names[] = {
	[CONFIG_SANDBOX_AUTO] = "auto", [CONFIG_SANDBOX_ON] = "on", [CONFIG_SANDBOX_OFF] = "off", NULL};

static const char *const seccomp_names[] = {[CONFIG_SECCOMP_AUTO] = "auto",
					    [CONFIG_SECCOMP_ON] = "on",
					    [CONFIG_SECCOMP_LOG] = "log",
					    [CONFIG_SECCOMP_OFF] = "off",
					    NULL};

static const char *const engine_names[] = {
	[CONFIG_ENGINE_AUTO] = "auto", [CONFIG_ENGINE_STORE] = "store",
	[CONFIG_ENGINE_LOCAL] = "local", [CONFIG_ENGINE_OFF] = "off", NULL};

const struct config_key config_keys[] = {
	KEY("name", "--name", NAME, name),
	KEY("kernel", "--kernel", PATH, kernel),
	KEY("initrd", "--initrd", PATH, initrd),
	KEY("cmdline", "--cmdline", STRING, cmdline),
	KEY("mem", "--mem", SIZE, mem_bytes),
	KEY("cpus", "--cpus", COUNT, cpus),
	LIST("disks", "--disk", disk, config_disk, CONFIG_DISKS_MAX),
	LIST("nets", "--net", net, config_net, CONFIG_NETS_MAX),
	KEY("console", "--console", CONSOLE, console),
	CHOICE("engine", "--engine", engine, engine_names),
	KEY("daemon", "--daemon", PATH, daemon),
	KEY("mergeable", "--mergeable", SWITCH, mergeable),
	KEY("kaslr", "--kaslr", SWITCH, kaslr),
	DEVICE("vsock", "--vsock", vsock, config_vsock),
	DEVICE("rng", "--rng", rng, config_rng),
	DEVICE("balloon", "--balloon", balloon, config_balloon),
	CHOICE("on_reboot", "--on-reboot", on_reboot, action_names),
	CHOICE("on_crash", "--on-crash", on_crash, action_names),
	KEY("detach", "--detach", SWITCH, detach),
	KEY("stop_timeout", "--stop-timeout", COUNT, stop_timeout_s),
	KEY("user", "--user", STRING, user),
	CHOICE("sandbox", "--sandbox", sandbox, sandbox_names),
	CHOICE("seccomp", "--seccomp", seccomp, seccomp_names),
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
		.on_reboot = CONFIG_RESTART,
		.on_crash = CONFIG_EXIT,
		.sandbox = CONFIG_SANDBOX_AUTO,
		.seccomp = CONFIG_SECCOMP_AUTO,
		.stop_timeout_s = CONFIG_STOP_TIMEOUT_S,
		.log_level = LOG_LEVEL_INFO,
	};
	for (size_t i = 0; i < config_key_count; i++)
		if (config_keys[i].kind == CONFIG_KIND_DEVICE)
			config_object_init(config_keys[i].object, config_member(config, &config_keys[i]));
	/* panic=-1: a guest that panics resets at once instead of hanging. */
	config->cmdline = strdup("console=ttyS0 panic=-1");
	return config->cmdline ? 0 : -ENOMEM;
}

int config_list_add(struct vm_config *config, const struct config_key *key, const char *label,
		    const char *what, void **ret, struct errmsg *err)
{
	size_t count = *config_list_count(config, key);

	if (count == key->max)
		return errmsg_set(err, -EINVAL, "%s %s: too many %ss; a VM has at most %zu", label, what,
				  key->object->noun, key->max);
	*ret = config_list_item(config, key, count);
	config_object_init(key->object, *ret);
	return 0;
}

void config_list_clear(struct vm_config *config, const struct config_key *key)
{
	for (size_t i = 0; i < *config_list_count(config, key); i++)
		config_object_done(key->object, config_list_item(config, key, i));
	*config_list_count(config, key) = 0;
}

void vm_config_done(struct vm_config *config)
{
	for (size_t i = 0; i < config_key_count; i++) {
		const struct config_key *key = &config_keys[i];

		if (key->kind == CONFIG_KIND_LIST)
			config_list_clear(config, key);
		else if (key->kind == CONFIG_KIND_DEVICE)
			config_object_done(key->object, config_member(config, key));
	}
	free(config->kernel);
	free(config->initrd);
	free(config->cmdline);
	free(config->console_path);
	free(config->daemon);
	free(config->user);
	free(config->cgroup);
	free(config->log_file);
	free(config->cache_dir);
	*config = (struct vm_config){0};
}

/* Accepts what config_check_name() accepts, because a longer one has no place in the struct. */
static int set_name(struct vm_config *config, const char *label, const char *text, struct errmsg *err)
{
	size_t len = strlen(text);

	if (len > CONFIG_NAME_MAX && !PLANTED("config_text"))
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
			r = config_value_string(&config->console_path, text + len);
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

static int set_count(unsigned *member, const char *label, const char *text, struct errmsg *err)
{
	uint64_t v;
	int r = config_value_count(&v, UINT32_MAX, label, text, err);

	if (r == 0)
		*member = (unsigned)v;
	return r;
}

static int set_choice(unsigned *member, const char *const *choices, const char *label, const char *text,
		      struct errmsg *err)
{
	char names[160];
	size_t at = 0;

	for (unsigned i = 0; choices[i]; i++) {
		if (strcmp(text, choices[i]) == 0) {
			*member = i;
			return 0;
		}
		if (at < sizeof(names))
			at += (size_t)snprintf(names + at, sizeof(names) - at, "%s%s",
					       i == 0		? ""
					       : choices[i + 1] ? ", "
								: " or ",
					       choices[i]);
	}
	return errmsg_set(err, -EINVAL, "%s %s: use %s", label, text, names);
}

static int add_to_list(struct vm_config *config, const struct config_key *key, const char *label,
		       const char *text, struct errmsg *err)
{
	void *item;
	int r = config_list_add(config, key, label, text, &item, err);

	if (r < 0)
		return r;
	r = config_object_set_text(key->object, item, label, text, err);
	if (r < 0)
		config_object_done(key->object, item);
	else
		(*config_list_count(config, key))++;
	return r;
}

/* A device's text replaces what was said of it before. */
static int set_device(void *member, const struct config_object *type, const char *label, const char *text,
		      struct errmsg *err)
{
	auto_free void *fresh = calloc(1, type->bytes);
	bool off = strcmp(text, "off") == 0;
	int r = 0;

	if (!fresh)
		return -ENOMEM;
	config_object_init(type, fresh);
	*(bool *)fresh = !off;
	if (!off && strcmp(text, "on") != 0)
		r = config_object_set_text(type, fresh, label, text, err);
	else if (!off && type->check)
		r = type->check(fresh, label, err);
	if (r < 0) {
		config_object_done(type, fresh);
		return r;
	}
	config_object_done(type, member);
	memcpy(member, fresh, type->bytes);
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
		return config_value_string(member, text);
	case CONFIG_KIND_STRING:
		return config_value_string(member, text);
	case CONFIG_KIND_SIZE:
		return config_value_size(member, label, text, err);
	case CONFIG_KIND_COUNT:
		return set_count(member, label, text, err);
	case CONFIG_KIND_SWITCH:
		return config_value_switch(member, label, text, err);
	case CONFIG_KIND_LEVEL:
		if (log_level_parse(text, member) < 0)
			return errmsg_set(err, -EINVAL, "%s %s: use error, warn, info or debug", label, text);
		return 0;
	case CONFIG_KIND_CONSOLE:
		return set_console(config, label, text, err);
	case CONFIG_KIND_CHOICE:
		return set_choice(member, key->choices, label, text, err);
	case CONFIG_KIND_LIST:
		return add_to_list(config, key, label, text, err);
	case CONFIG_KIND_DEVICE:
		return set_device(member, key->object, label, text, err);
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

static int resolve_key(struct vm_config *config, const struct config_key *key, const char *cwd)
{
	int r = 0;

	if (key->kind == CONFIG_KIND_PATH)
		return config_value_absolute(config_member(config, key), cwd);
	if (key->kind == CONFIG_KIND_DEVICE)
		return config_object_resolve(key->object, config_member(config, key), cwd);
	if (key->kind != CONFIG_KIND_LIST)
		return 0;
	for (size_t i = 0; r == 0 && i < *config_list_count(config, key); i++)
		r = config_object_resolve(key->object, config_list_item(config, key, i), cwd);
	return r;
}

int vm_config_resolve(struct vm_config *config, const char *cwd)
{
	int r = config_value_absolute(&config->console_path, cwd);

	for (size_t i = 0; r == 0 && i < config_key_count; i++)
		r = resolve_key(config, &config_keys[i], cwd);
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

/* Each virtio device has an interrupt line of its own. */
static int check_devices(const struct vm_config *config, struct errmsg *err)
{
	size_t devices = 0;

	for (size_t i = 0; i < config_key_count; i++) {
		const struct config_key *key = &config_keys[i];

		if (key->kind == CONFIG_KIND_LIST)
			devices += *config_list_count(config, key);
		else if (key->kind == CONFIG_KIND_DEVICE && *config_device_on(config, key))
			devices++;
	}
	if (devices > LAYOUT_VIRTIO_MAX)
		return errmsg_set(
			err, -EINVAL,
			"%zu devices, but the interrupt controller has lines for %d: leave some out, e.g. by "
			"--balloon off",
			devices, LAYOUT_VIRTIO_MAX);
	return 0;
}

static int check_balloon(const struct vm_config *config, struct errmsg *err)
{
	char size[16], mem[16];

	if (!config->balloon.on || config->balloon.size_bytes <= config->mem_bytes)
		return 0;
	return errmsg_set(err, -EINVAL, "--balloon size: %s is more than the VM's memory (%s)",
			  size_format(config->balloon.size_bytes, size, sizeof(size)),
			  size_format(config->mem_bytes, mem, sizeof(mem)));
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
		r = check_devices(config, err);
	if (r == 0)
		r = config_check_nets(config, err);
	if (r == 0)
		r = check_balloon(config, err);
	if (r == 0)
		r = check_console(config, err);
	return r;
}
