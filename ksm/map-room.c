/* SPDX-License-Identifier: Apache-2.0 */
/* Room for mappings: counted by ourselves, corrected by the kernel. */
#include "ksm/map-room.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "base/fs.h"

#define LOOK_AGAIN_AFTER 1000u /* refusals */

static int maps_count(uint64_t *ret)
{
	auto_fd fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
	char buf[4096];
	uint64_t lines = 0;
	ssize_t n;

	if (fd < 0)
		return -errno;
	while ((n = read(fd, buf, sizeof(buf))) > 0)
		for (const char *p = buf; (p = memchr(p, '\n', (size_t)(buf + n - p))); p++)
			lines++;
	*ret = lines;
	return n < 0 ? -errno : 0;
}

static void look(struct map_room *room)
{
	uint64_t max, used;

	room->left = 0;
	room->since_look = 0;
	if (file_read_u64("/proc/sys/vm/max_map_count", &max) < 0 || maps_count(&used) < 0)
		return;
	used += MAP_ROOM_SPARE;
	room->left = max > used ? max - used : 0;
}

int map_room_take(struct map_room *room, uint64_t mappings)
{
	if (room->left < mappings) {
		if (room->since_look++ % LOOK_AGAIN_AFTER == 0) {
			look(room);
			/* With plenty found, the next time that it is used up is worth a look again at once. */
			room->since_look = room->left < LOOK_AGAIN_AFTER;
		}
		if (room->left < mappings)
			return -ENOSPC;
	}
	room->left -= mappings;
	return 0;
}
