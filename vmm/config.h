/* SPDX-License-Identifier: Apache-2.0 */
/* The resolved configuration of one VM: from option texts, from JSON, to JSON, and its checks. */
#ifndef SARDINE_VMM_CONFIG_H
#define SARDINE_VMM_CONFIG_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/errmsg.h"
#include "base/log.h"
#include "vmm/layout.h"
#include "vmm/token-bucket.h"

#define CONFIG_NAME_MAX	  63 /* letters, digits, '-', '_', '.'; starts with a letter or digit */
#define CONFIG_SERIAL_MAX 20 /* virtio 1.2, 5.2.6.1: the device ID string */
#define CONFIG_DISKS_MAX  (LAYOUT_VIRTIO_MAX - 1)
#define CONFIG_NETS_MAX	  8
#define CONFIG_TAP_MAX	  15 /* linux/if.h: IFNAMSIZ with its NUL */
#define CONFIG_MAC_BYTES  6
/* Longest configuration file that is read: some 50 times what every option at its longest takes. */
#define CONFIG_FILE_MAX		    ((size_t)1 << 20)
#define CONFIG_STATS_INTERVAL_MAX_S 86400
#define CONFIG_STOP_TIMEOUT_S	    30
#define CONFIG_STOP_TIMEOUT_MAX_S   86400

/* What follows a reset by the guest, and a crash. */
enum config_action { CONFIG_RESTART, CONFIG_EXIT };

/* Auto is what this host and the caller's rights allow; on is all of it, or no VM. */
enum config_sandbox { CONFIG_SANDBOX_AUTO, CONFIG_SANDBOX_ON, CONFIG_SANDBOX_OFF };

/* What happens to a thread that makes a system call which is not listed for it. Auto: as on, where the kernel can. */
enum config_seccomp { CONFIG_SECCOMP_AUTO, CONFIG_SECCOMP_ON, CONFIG_SECCOMP_LOG, CONFIG_SECCOMP_OFF };

/* Who finds equal pages of the VM and shares them. */
enum config_engine {
	CONFIG_ENGINE_AUTO,  /* our store where this host can, else nobody */
	CONFIG_ENGINE_STORE, /* our store, or the VM does not start */
	CONFIG_ENGINE_LOCAL, /* the same, inside this VM only: no daemon */
	CONFIG_ENGINE_OFF,
};

enum console_kind { CONSOLE_STDIO, CONSOLE_NONE, CONSOLE_FILE, CONSOLE_UNIX, CONSOLE_KINDS };

struct disk_config {
	char *path;
	bool read_only;
	bool direct; /* O_DIRECT */
	char serial[CONFIG_SERIAL_MAX + 1];
	struct rate_config rate;
};

struct net_config {
	char tap[CONFIG_TAP_MAX + 1];  /* "": handed in as tap_fd */
	uint64_t tap_fd;	       /* 0: opened by name */
	uint8_t mac[CONFIG_MAC_BYTES]; /* zeroes: derived from the VM's name */
	uint64_t mtu;		       /* 0: the tap's, if it is known */
	struct rate_config rate;       /* of each direction; an operation is a frame */
};

struct rng_config {
	bool on;
	struct rate_config rate;
};

struct vsock_config {
	bool on;
	uint64_t cid; /* VSOCK_CID_MIN to VSOCK_CID_MAX */
	char *path;   /* of the host's end; programs behind it are at PATH_PORT */
	struct rate_config rate;
};

struct balloon_config {
	bool on;
	uint64_t size_bytes; /* what it takes from the guest at the start */
	bool stats;
	bool deflate_on_oom;
	bool reporting;
	bool poison;
	uint64_t stats_interval_s; /* 0: on request only */
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
	struct net_config nets[CONFIG_NETS_MAX];
	size_t net_count;
	enum console_kind console;
	bool console_chosen; /* asked for, not the default */
	char *console_path;  /* of CONSOLE_FILE and CONSOLE_UNIX */
	unsigned engine; /* enum config_engine */
	char *daemon;	 /* the path of its socket; NULL: where it is by default */
	bool mergeable;
	bool kaslr;
	struct vsock_config vsock;
	struct rng_config rng;
	struct balloon_config balloon;
	bool detach;
	unsigned on_reboot; /* enum config_action, as the next */
	unsigned on_crash;
	unsigned stop_timeout_s; /* from the power button by a signal to the kill */
	char *user;		 /* NULL: stay; NAME[:GROUP] */
	unsigned sandbox;	 /* enum config_sandbox */
	unsigned seccomp;	 /* enum config_seccomp */
	char *cgroup;		 /* NULL: stay */
	char *log_file;		 /* NULL: stderr (detached: NAME.log in the runtime directory) */
	enum log_level log_level;
	char *cache_dir; /* NULL: the default of boot_cache_open() */
};

/**
<<<<<<< HEAD
 * vm_config_init() - Set the defaults: 256 MiB, 1 vCPU, console stdio, mergeable off, kaslr off, rng and balloon
 * on, log level info, "console=ttyS0 panic=-1", reboot restarts, crash exits, sandbox and seccomp auto.
=======
 * vm_config_init() - Set the defaults: 256 MiB, 1 vCPU, console stdio, engine auto, mergeable off, kaslr
 * off, rng and balloon on, log level info, "console=ttyS0 panic=-1", reboot restarts, crash exits.
>>>>>>> 7da2406 (config: who shares equal pages, and where the daemon is)
 *
 * Return: 0 or -ENOMEM.
 */
int vm_config_init(struct vm_config *config) must_check;
void vm_config_done(struct vm_config *config);

/**
 * vm_config_set_text() - Set one option from its text on a command line.
 * @config: initialised; unchanged on failure.
 * @option: without dashes: "name", "mem", "log-file"..; "disk" adds one from
 * "path=FILE[,ro][,direct=on|off][,serial=S][,bw=SIZE][,iops=N]", where ",," stands for a comma, "net" likewise; a device is "on", "off" or its parts.
 * @text: its value: sizes as size_parse() takes them, switches "on" or "off".
 * @err: one line that names the option.
 *
 * Return: 0, -EINVAL (value), -ENOENT (no such option), -ENOMEM.
 */
int vm_config_set_text(struct vm_config *config, const char *option, const char *text,
		       struct errmsg *err) must_check;

/**
 * vm_config_from_json() - Apply a JSON object over a configuration.
 * @config: initialised; on failure unchanged or partly changed, vm_config_done() in any case.
 * @json: borrowed.
 * @source: the file's name, for messages.
 * @err: names the key. Unknown keys and wrong types are errors.
 *
 * null leaves a key as it is; "disks" and "nets" replace those there are.
 *
 * Return: 0 or -EINVAL, -ENOMEM.
 */
int vm_config_from_json(struct vm_config *config, const json_t *json, const char *source,
			struct errmsg *err) must_check;

/**
 * vm_config_load() - Apply a JSON file, at most CONFIG_FILE_MAX bytes long, over a configuration.
 *
 * Return: as vm_config_from_json(), or the errno of reading, with the file named in @err.
 */
int vm_config_load(struct vm_config *config, const char *path, struct errmsg *err) must_check;

/* The resolved configuration as JSON that vm_config_from_json() takes back; a new reference, NULL without
 * memory. */
json_t *vm_config_to_json(const struct vm_config *config);

/**
 * vm_config_resolve() - Make what depends on the caller's surroundings explicit.
 * @config: complete.
 * @cwd: an absolute path, put before each relative one.
 *
 * A detached VM whose console was not chosen gets none.
 *
 * Return: 0 or -ENOMEM.
 */
int vm_config_resolve(struct vm_config *config, const char *cwd) must_check;

/* Check everything that needs no host: names, counts, sizes, lengths. Return: 0 or -EINVAL with the option
 * named in @err. */
int vm_config_check(const struct vm_config *config, struct errmsg *err) must_check;

#endif
