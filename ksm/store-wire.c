/* SPDX-License-Identifier: Apache-2.0 */
/* Messages between VMs and the daemon, and the memory file with their rings. */
#include "ksm/store-wire.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "base/addr.h"
#include "base/uapi-mm.h"

#define ROOM_SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

static size_t round_up(size_t n, size_t to)
{
	return (n + to - 1) / to * to;
}

struct store_wire_room store_wire_room(uint64_t frames)
{
	struct store_wire_room room = {.figures_at = 0, .records_at = sizeof(struct store_wire_figures)};

	room.answers_at = room.records_at + ring_bytes(sizeof(struct store_record), STORE_WIRE_BATCH);
	room.events_at = room.answers_at + ring_bytes(sizeof(struct store_answer), STORE_WIRE_BATCH);
	room.bitmap_at = round_up(room.events_at + ring_bytes(sizeof(struct store_event), STORE_WIRE_EVENTS),
				  PAGE_BYTES);
	room.bitmap_bytes = round_up((size_t)(frames + 63) / 64 * 8, PAGE_BYTES);
	room.bytes = room.bitmap_at + room.bitmap_bytes;
	return room;
}

int store_wire_room_new(const struct store_wire_room *room, int *ret_fd)
{
	auto_fd fd = memfd_create("sardine-rings", MFD_CLOEXEC | MFD_ALLOW_SEALING | UAPI_MFD_NOEXEC_SEAL);

	if (fd < 0 && errno == EINVAL) /* before 6.3 */
		fd = memfd_create("sardine-rings", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0 || ftruncate(fd, (off_t)room->bytes) < 0 || fcntl(fd, F_ADD_SEALS, ROOM_SEALS) < 0)
		return -errno;
	*ret_fd = TAKE_FD(fd);
	return 0;
}

/* Huge pages of hugetlbfs may run out, and files of a mounted tmpfs cannot be sealed: neither passes. */
int store_wire_room_check(int fd, const struct store_wire_room *room)
{
	struct statfs fs;
	struct stat st;
	int seals;

	if (fstat(fd, &st) < 0 || fstatfs(fd, &fs) < 0 || !S_ISREG(st.st_mode) || fs.f_type != TMPFS_MAGIC)
		return -EINVAL;
	seals = fcntl(fd, F_GET_SEALS);
	if (seals < 0 || (seals & ROOM_SEALS) != ROOM_SEALS)
		return -EPERM;
	/* Sealed against writing it would be of no use, and could not be mapped. */
	if (seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE) || st.st_size < 0 ||
	    (uint64_t)st.st_size != room->bytes)
		return -EINVAL;
	return 0;
}

int store_wire_send(int fd, const void *bytes, size_t len, int pass_fd)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} ancillary = {0};
	struct iovec iov = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = len};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

	if (pass_fd >= 0) {
		msg.msg_control = ancillary.bytes;
		msg.msg_controllen = sizeof(ancillary.bytes);
		*CMSG_FIRSTHDR(&msg) = (struct cmsghdr){
			.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int))};
		memcpy(CMSG_DATA(CMSG_FIRSTHDR(&msg)), &pass_fd, sizeof(pass_fd));
	}
	while (sendmsg(fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		if (errno != EINTR)
			return -errno;
	return 0;
}

static void take_ancillary(struct msghdr *msg, struct store_wire_message *m)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_CREDENTIALS) {
			struct ucred cred;

			memcpy(&cred, CMSG_DATA(c), sizeof(cred));
			m->credited = cred.pid != 0; /* without, the kernel makes it nobody's */
			m->pid = (uint32_t)cred.pid;
			m->uid = cred.uid;
		} else if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
			size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

			for (size_t i = 0; i < count; i++) {
				int fd;

				memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
				if (m->fd_count < STORE_WIRE_FDS_MAX) {
					m->fds[m->fd_count++] = fd;
				} else {
					m->fds_lost = true;
					close(fd);
				}
			}
		}
	}
	if (msg->msg_flags & MSG_CTRUNC)
		m->fds_lost = true;
}

int store_wire_receive(int fd, struct store_wire_message *ret)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(STORE_WIRE_FDS_MAX * sizeof(int)) + CMSG_SPACE(sizeof(struct ucred))];
	} ancillary;
	struct iovec iov = {.iov_base = ret->bytes, .iov_len = sizeof(ret->bytes)};
	struct msghdr msg = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = ancillary.bytes,
			     .msg_controllen = sizeof(ancillary.bytes)};
	ssize_t n;

	*ret = (struct store_wire_message){0};
	do {
		n = recvmsg(fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC | MSG_TRUNC);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	take_ancillary(&msg, ret);
	ret->len = (size_t)n;
	if (n == 0) { /* the end, or an empty message: nobody sends one who means well */
		store_wire_message_done(ret);
		return -ECONNRESET;
	}
	return 0;
}

void store_wire_message_done(struct store_wire_message *m)
{
	for (size_t i = 0; i < m->fd_count; i++)
		close_fd_p(&m->fds[i]);
	m->fd_count = 0;
}
