/* SPDX-License-Identifier: Apache-2.0 */
/* Room for mappings: counted by ourselves, corrected by the kernel. */
#include "ksm/map-room.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/size.h"

#define LOOK_AGAIN_AFTER 1000u /* refusals */

void map_room_open(struct map_room *ret)
{
	*ret = (struct map_room){
		.maps = open("/proc/self/maps", O_RDONLY | O_CLOEXEC),
		.limit = open("/proc/sys/vm/max_map_count", O_RDONLY | O_CLOEXEC),
	};
}

void map_room_close(struct map_room *room)
{
	close_fd_p(&room->maps);
	close_fd_p(&room->limit);
}

static int maps_count(int fd, uint64_t *ret)
{
	char buf[4096];
	uint64_t lines = 0;
	ssize_t n;

	if (lseek(fd, 0, SEEK_SET) < 0)
		return -errno;
	while ((n = read(fd, buf, sizeof(buf))) > 0)
		for (const char *p = buf; (p = memchr(p, '\n', (size_t)(buf + n - p))); p++)
			lines++;
	*ret = lines;
	return n < 0 ? -errno : 0;
}

static int limit_read(int fd, uint64_t *ret)
{
	char text[24];
	ssize_t n = pread(fd, text, sizeof(text) - 1, 0);

	if (n < 0)
		return -errno;
	while (n > 0 && text[n - 1] == '\n')
		n--;
	text[n] = '\0';
	return number_parse(text, UINT64_MAX, ret);
}

static void look(struct map_room *room)
{
	uint64_t max, used;

	room->left = 0;
	room->since_look = 0;
	if (limit_read(room->limit, &max) < 0 || maps_count(room->maps, &used) < 0)
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

DEFINE_SYSCALLS(map_room_syscalls, SYSCALL(lseek), SYSCALL(read), SYSCALL(pread64));
