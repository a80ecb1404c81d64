/* SPDX-License-Identifier: Apache-2.0 */
/* The structured option of a network device: which tap, which address, which limits. */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "vmm/config-internal.h"
#include "vmm/virtio-net.h"

_Static_assert(CONFIG_TAP_MAX + 1 == IFNAMSIZ && CONFIG_MAC_BYTES == VIRTIO_NET_MAC_BYTES,
	       "sizes of net_config");

/* Beyond the descriptors that a process may have (fs.nr_open is 1 Mi by default). */
#define TAP_FD_MAX ((uint64_t)1 << 30)

/* Return: 0 or -EINVAL. What the kernel takes as a device's name, in ASCII. */
static int tap_parse(void *member, const char *label, const char *text, struct errmsg *err)
{
	size_t len = strlen(text);

	if (len == 0 || len > CONFIG_TAP_MAX)
		return errmsg_set(err, -EINVAL,
				  "%s \"%.40s\" has %zu bytes; a network device's name has 1 to %d", label,
				  text, len, CONFIG_TAP_MAX);
	for (const char *p = text; *p; p++)
		if (!isascii((unsigned char)*p) || !isgraph((unsigned char)*p) || strchr("/:%", *p))
			return errmsg_set(err, -EINVAL, "%s %s: '%c' cannot be in a network device's name",
					  label, text, *p);
	if (strcmp(text, ".") == 0 || strcmp(text, "..") == 0)
		return errmsg_set(err, -EINVAL, "%s %s: no name of a network device", label, text);
	memcpy(member, text, len + 1);
	return 0;
}

static void tap_format(const void *member, char *buf)
{
	strcpy(buf, member);
}

static bool mac_is_set(const uint8_t mac[CONFIG_MAC_BYTES])
{
	static const uint8_t none[CONFIG_MAC_BYTES];

	return memcmp(mac, none, sizeof(none)) != 0;
}

/* Return: 0 or -EINVAL. Six hexadecimal bytes of two digits each. */
static int mac_parse(void *member, const char *label, const char *text, struct errmsg *err)
{
	uint8_t mac[CONFIG_MAC_BYTES];

	if (strlen(text) != 3 * CONFIG_MAC_BYTES - 1)
		return errmsg_set(err, -EINVAL, "%s %.40s: not six bytes like 52:54:00:12:34:56", label,
				  text);
	for (size_t i = 0; i < CONFIG_MAC_BYTES; i++) {
		const char *p = text + 3 * i;
		unsigned byte;

		if (!isxdigit((unsigned char)p[0]) || !isxdigit((unsigned char)p[1]) ||
		    (p[2] != ':' && p[2] != '\0') || sscanf(p, "%2x", &byte) != 1)
			return errmsg_set(err, -EINVAL, "%s %.40s: not six bytes like 52:54:00:12:34:56",
					  label, text);
		mac[i] = (uint8_t)byte;
	}
	if (mac[0] & 1)
		return errmsg_set(err, -EINVAL,
				  "%s %s: the address of a group; the first byte of a device's is even",
				  label, text);
	if (!mac_is_set(mac))
		return errmsg_set(err, -EINVAL, "%s %s: no address", label, text);
	memcpy(member, mac, sizeof(mac));
	return 0;
}

static void mac_format(const void *member, char *buf)
{
	const uint8_t *mac = member;

	buf[0] = '\0';
	if (mac_is_set(mac))
		snprintf(buf, CONFIG_PART_TEXT_MAX, "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2],
			 mac[3], mac[4], mac[5]);
}

static int net_check(const void *object, const char *label, struct errmsg *err)
{
	const struct net_config *net = object;

	if (!net->tap[0] && !net->tap_fd)
		return errmsg_set(err, -EINVAL, "%s: no tap; say tap=NAME, or tap-fd=N for one handed in",
				  label);
	if (net->tap[0] && net->tap_fd)
		return errmsg_set(err, -EINVAL, "%s: tap=%s and tap-fd=%" PRIu64 "; give one of them", label,
				  net->tap, net->tap_fd);
	if (net->tap_fd && net->tap_fd < 3)
		return errmsg_set(err, -EINVAL, "%s tap-fd %" PRIu64 ": 0 to 2 are the standard files", label,
				  net->tap_fd);
	if (net->mtu && net->mtu < VIRTIO_NET_MTU_MIN)
		return errmsg_set(err, -EINVAL, "%s mtu %" PRIu64 ": must be from %d to %d", label, net->mtu,
				  VIRTIO_NET_MTU_MIN, VIRTIO_NET_MTU_MAX);
	return 0;
}

static const struct config_part net_parts[] = {
	{
		.name = "tap",
		.kind = CONFIG_PART_TEXT,
		.offset = offsetof(struct net_config, tap),
		.parse = tap_parse,
		.format = tap_format,
	},
	{
		.name = "tap-fd",
		.kind = CONFIG_PART_COUNT,
		.offset = offsetof(struct net_config, tap_fd),
		.max = TAP_FD_MAX,
	},
	{
		.name = "mac",
		.kind = CONFIG_PART_TEXT,
		.offset = offsetof(struct net_config, mac),
		.parse = mac_parse,
		.format = mac_format,
	},
	{
		.name = "mtu",
		.kind = CONFIG_PART_COUNT,
		.offset = offsetof(struct net_config, mtu),
		.max = VIRTIO_NET_MTU_MAX,
	},
	RATE_PARTS(struct net_config, rate),
};

const struct config_object config_net = {
	.noun = "network device",
	.syntax = "tap=NAME|tap-fd=N[,mac=MAC][,mtu=N][,bw=SIZE][,iops=N]",
	.bytes = sizeof(struct net_config),
	.parts = net_parts,
	.part_count = ARRAY_SIZE(net_parts),
	.check = net_check,
};

static int check_pair(const struct net_config *a, const struct net_config *b, struct errmsg *err)
{
	char mac[CONFIG_PART_TEXT_MAX];

	if (a->tap[0] && strcmp(a->tap, b->tap) == 0)
		return errmsg_set(err, -EINVAL,
				  "--net tap=%s: given twice; each network device needs a tap of its own",
				  a->tap);
	if (a->tap_fd && a->tap_fd == b->tap_fd)
		return errmsg_set(err, -EINVAL,
				  "--net tap-fd=%" PRIu64
				  ": given twice; each network device needs a tap of its own",
				  a->tap_fd);
	mac_format(a->mac, mac);
	if (mac[0] && memcmp(a->mac, b->mac, sizeof(a->mac)) == 0)
		return errmsg_set(err, -EINVAL, "--net mac=%s: given twice", mac);
	return 0;
}

int config_check_nets(const struct vm_config *config, struct errmsg *err)
{
	int r = 0;

	for (size_t i = 0; i < config->net_count; i++)
		for (size_t k = 0; k < i && r == 0; k++)
			r = check_pair(&config->nets[i], &config->nets[k], err);
	return r;
}
