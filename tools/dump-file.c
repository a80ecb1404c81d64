/* SPDX-License-Identifier: Apache-2.0 */
/* A memory dump in a file: opening, telling the form, reading. */
#include "tools/dump-file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fs.h"
#include "base/planted.h"

static int dump_read(void *ctx, uint64_t where, void *buf, size_t len)
{
	const struct dump_file *dump = ctx;

	return pread_full(dump->fd, buf, len, where);
}

static int dump_next_data(void *ctx, uint64_t where, uint64_t end, uint64_t *ret_start, uint64_t *ret_end)
{
	const struct dump_file *dump = ctx;
	off_t data = lseek(dump->fd, (off_t)where, SEEK_DATA), hole;

	if (data < 0 && errno != ENXIO)
		return -errno;
	if (data < 0) {
		/* A hole up to the end of the file, which may be nearer than it was. */
		struct stat st;

		if (fstat(dump->fd, &st) < 0 || (uint64_t)st.st_size < end)
			return -EIO;
		data = (off_t)end;
	}
	if ((uint64_t)data >= end) {
		*ret_start = *ret_end = end;
		return 0;
	}
	hole = lseek(dump->fd, data, SEEK_HOLE);
	if (hole < 0)
		return -errno;
	*ret_start = (uint64_t)data;
	*ret_end = (uint64_t)hole < end ? (uint64_t)hole : end;
	return 0;
}

const struct page_source_ops dump_file_ops = {.read = dump_read, .next_data = dump_next_data};

static int range_order(const void *a, const void *b)
{
	const struct page_range *x = a, *y = b;

	if (x->address != y->address)
		return x->address < y->address ? -1 : 1;
	return x->where < y->where ? -1 : x->where > y->where;
}

uint64_t dump_ranges_tidy(struct dump_file *dump)
{
	uint64_t beyond = 0, last = 0;
	size_t kept = 0;

	if (dump->range_count)
		qsort(dump->ranges, dump->range_count, sizeof(*dump->ranges), range_order);
	for (size_t i = 0; i < dump->range_count; i++) {
		struct page_range r = dump->ranges[i];
		uint64_t room = r.where < dump->size ? dump->size - r.where : 0;

		if (r.bytes > room) {
			beyond += r.bytes - room;
			r.bytes = room;
		}
		if (r.bytes > UINT64_MAX - r.address)
			r.bytes = UINT64_MAX - r.address;
		if (r.address < last && !PLANTED("dump")) {
			uint64_t cut = last - r.address < r.bytes ? last - r.address : r.bytes;

			r.address += cut;
			r.where += cut;
			r.bytes -= cut;
		}
		if (r.bytes == 0)
			continue;
		last = r.address + r.bytes;
		dump->ranges[kept++] = r;
	}
	dump->range_count = kept;
	return beyond;
}

static int dump_parse_raw(struct dump_file *dump)
{
	dump->form = "raw";
	dump->ranges = calloc(1, sizeof(*dump->ranges));
	if (!dump->ranges)
		return -ENOMEM;
	dump->ranges[0].bytes = dump->size;
	dump->range_count = 1;
	return 0;
}

int dump_parse(struct dump_file *dump, struct errmsg *err)
{
	unsigned char head[16] = {0};
	int r = pread_full(dump->fd, head, dump->size < sizeof(head) ? (size_t)dump->size : sizeof(head), 0);

	if (r < 0)
		return errmsg_set(err, r, "%s: cannot be read: %s", dump->path, strerror(-r));
	if (memcmp(head, "\177ELF", 4) == 0)
		return dump_parse_elf(dump, err);
	if (memcmp(head, "EMiL", 4) == 0)
		return dump_parse_lime(dump, err);
	if (memcmp(head, "KDUMP   ", 8) == 0 || memcmp(head, "makedumpfile", 12) == 0)
		return errmsg_set(
			err, -ENOTSUP,
			"%s: is in makedumpfile's format; dump as ELF or raw (no -c, -l, -s, -z, -F)",
			dump->path);
	return dump_parse_raw(dump);
}

static int dump_open_plain(struct dump_file *dump, struct errmsg *err)
{
	struct stat st;

	/* Not blocking: a FIFO is then refused below instead of waited for. */
	dump->fd = open(dump->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (dump->fd < 0 || fstat(dump->fd, &st) < 0)
		return errmsg_set(err, -errno, "%s: cannot be opened: %s", dump->path, strerror(errno));
	if (S_ISDIR(st.st_mode))
		return errmsg_set(err, -EISDIR, "%s: is a directory; give the dumps in it", dump->path);
	if (!S_ISREG(st.st_mode))
		return errmsg_set(err, -EINVAL, "%s: is not a regular file; give a dump", dump->path);
	if (st.st_size == 0)
		return errmsg_set(err, -ENODATA, "%s: is empty", dump->path);
	dump->size = dump->original_size = (uint64_t)st.st_size;
	return 0;
}

int dump_file_open(const char *path, const struct work_control *control, struct dump_file *ret,
		   struct errmsg *err)
{
	struct dump_file dump = {.fd = -1, .original_fd = -1, .compression = "none"};
	unsigned char head[8];
	int r = -ENOMEM;

	dump.path = strdup(path);
	if (dump.path)
		r = dump_open_plain(&dump, err);
	if (r == 0) {
		size_t len = dump.size < sizeof(head) ? (size_t)dump.size : sizeof(head);

		r = pread_full(dump.fd, head, len, 0);
		if (r < 0)
			r = errmsg_set(err, r, "%s: cannot be read: %s", path, strerror(-r));
		else
			dump.compression = dump_compression(head, len);
	}
	if (r == 0 && strcmp(dump.compression, "none") != 0)
		r = dump_decode(&dump, control, err);
	if (r == 0)
		r = dump_parse(&dump, err);
	if (r == 0 && dump.range_count == 0)
		r = errmsg_set(err, -ENODATA, "%s: holds no memory", path);
	if (r < 0)
		dump_file_done(&dump);
	else
		*ret = dump;
	return r;
}

void dump_file_done(struct dump_file *dump)
{
	close_fd_p(&dump->fd);
	close_fd_p(&dump->original_fd);
	free(dump->path);
	free(dump->ranges);
	*dump = (struct dump_file){.fd = -1, .original_fd = -1};
}

void dump_file_check(struct dump_file *dump)
{
	struct stat st;

	if (fstat(dump->original_fd >= 0 ? dump->original_fd : dump->fd, &st) == 0 &&
	    (uint64_t)st.st_size != dump->original_size)
		errmsg_set(&dump->problem, 0, "%s: %s while it was read, from %" PRIu64 " to %jd bytes",
			   dump->path, (uint64_t)st.st_size > dump->original_size ? "grew" : "shrank",
			   dump->original_size, (intmax_t)st.st_size);
}
