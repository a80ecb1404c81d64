/* SPDX-License-Identifier: Apache-2.0 */
/* The structured options of a VM's devices: which parts each has, their defaults and limits. */
#include <ctype.h>
#include <errno.h>
#include <string.h>

#include "vmm/config-internal.h"
#include "vmm/vsock-host.h"
#include "vmm/vsock-packet.h"

/* Return: 0 or -EINVAL. What the guest sees in /sys/block/vdX/serial. */
static int serial_parse(void *member, const char *label, const char *text, struct errmsg *err)
{
	size_t len = strlen(text);

	if (len == 0 || len > CONFIG_SERIAL_MAX)
		return errmsg_set(err, -EINVAL, "%s \"%.40s\" has %zu bytes; use 1 to %d", label, text, len,
				  CONFIG_SERIAL_MAX);
	for (const char *p = text; *p; p++)
		if (!isascii((unsigned char)*p) || !isgraph((unsigned char)*p))
			return errmsg_set(err, -EINVAL,
					  "%s \"%s\" has a character that is not printable ASCII", label,
					  text);
	memcpy(member, text, len + 1);
	return 0;
}

static void serial_format(const void *member, char *buf)
{
	strcpy(buf, member);
}
_Static_assert(CONFIG_SERIAL_MAX < CONFIG_PART_TEXT_MAX, "a serial fits");

static int disk_check(const void *object, const char *label, struct errmsg *err)
{
	const struct disk_config *disk = object;

	if (!disk->path)
		return errmsg_set(err, -EINVAL, "%s: no path; say path=FILE", label);
	return 0;
}

static const struct config_part disk_parts[] = {
	PART(struct disk_config, "path", PATH, path),
	PART(struct disk_config, "ro", FLAG, read_only),
	PART(struct disk_config, "direct", SWITCH, direct),
	{
		.name = "serial",
		.kind = CONFIG_PART_TEXT,
		.offset = offsetof(struct disk_config, serial),
		.parse = serial_parse,
		.format = serial_format,
	},
	RATE_PARTS(struct disk_config, rate),
};

const struct config_object config_disk = {
	.noun = "disk",
	.syntax = "path=FILE[,ro][,direct=on|off][,serial=S][,bw=SIZE][,iops=N]",
	.bytes = sizeof(struct disk_config),
	.parts = disk_parts,
	.part_count = ARRAY_SIZE(disk_parts),
	.check = disk_check,
};

static int vsock_check(const void *object, const char *label, struct errmsg *err)
{
	const struct vsock_config *vsock = object;
	const char *slash;

	if (!vsock->on)
		return 0;
	if (!vsock->cid)
		return errmsg_set(err, -EINVAL, "%s: no cid; say cid=N, the guest's number on this host",
				  label);
	if (!vsock->path)
		return errmsg_set(err, -EINVAL, "%s: no path; say path=PATH, a Unix socket to be made",
				  label);
	slash = strrchr(vsock->path, '/');
	if (slash && !slash[1])
		return errmsg_set(err, -EINVAL, "%s path=%s: a folder; name a file in it", label,
				  vsock->path);
	if (strlen(slash ? slash + 1 : vsock->path) > VSOCK_HOST_NAME_MAX)
		return errmsg_set(err, -EINVAL, "%s path=%s: the file's name is longer than %d bytes", label,
				  vsock->path, VSOCK_HOST_NAME_MAX);
	return 0;
}

static const struct config_part vsock_parts[] = {
	{.name = "cid",
	 .kind = CONFIG_PART_COUNT,
	 .offset = offsetof(struct vsock_config, cid),
	 .min = VSOCK_CID_MIN,
	 .max = VSOCK_CID_MAX},
	PART(struct vsock_config, "path", PATH, path),
	RATE_PARTS(struct vsock_config, rate),
};

const struct config_object config_vsock = {
	.noun = "vsock device",
	.syntax = "off|cid=N,path=PATH[,bw=SIZE][,iops=N]",
	.bytes = sizeof(struct vsock_config),
	.parts = vsock_parts,
	.part_count = ARRAY_SIZE(vsock_parts),
	.check = vsock_check,
};

static void rng_init(void *object)
{
	struct rng_config *rng = object;

	rng->on = true;
}

static const struct config_part rng_parts[] = {RATE_PARTS(struct rng_config, rate)};

const struct config_object config_rng = {
	.noun = "random number device",
	.syntax = "on|off|[bw=SIZE][,iops=N]",
	.bytes = sizeof(struct rng_config),
	.parts = rng_parts,
	.part_count = ARRAY_SIZE(rng_parts),
	.init = rng_init,
};

static void balloon_init(void *object)
{
	struct balloon_config *balloon = object;

	balloon->on = true;
	balloon->stats = true;
	balloon->deflate_on_oom = true;
	balloon->reporting = true;
	balloon->poison = true;
}

static const struct config_part balloon_parts[] = {
	{
		.name = "size",
		.kind = CONFIG_PART_SIZE,
		.offset = offsetof(struct balloon_config, size_bytes),
		.max = UINT64_MAX,
	},
	PART(struct balloon_config, "stats", SWITCH, stats),
	PART(struct balloon_config, "deflate-on-oom", SWITCH, deflate_on_oom),
	PART(struct balloon_config, "reporting", SWITCH, reporting),
	PART(struct balloon_config, "poison", SWITCH, poison),
	{
		.name = "stats-interval",
		.kind = CONFIG_PART_COUNT,
		.offset = offsetof(struct balloon_config, stats_interval_s),
		.max = CONFIG_STATS_INTERVAL_MAX_S,
	},
};

const struct config_object config_balloon = {
	.noun = "balloon",
	.syntax =
		"on|off|[size=SIZE][,stats=on|off][,deflate-on-oom=on|off][,reporting=on|off][,poison=on|off]"
		"[,stats-interval=SECONDS]",
	.bytes = sizeof(struct balloon_config),
	.parts = balloon_parts,
	.part_count = ARRAY_SIZE(balloon_parts),
	.init = balloon_init,
};
