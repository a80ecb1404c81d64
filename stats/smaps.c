/* SPDX-License-Identifier: Apache-2.0 */
/* What /proc/PID/smaps says, summed over guest RAM and over the rest of a process. */
#include "stats/smaps.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

/* One mapping, as far as it was read. */
struct mapping {
	bool any;
	bool guest;
	bool file;  /* has an inode */
	bool store; /* a segment of the page store */
	bool shmem; /* other shared anonymous memory, memfd */
	struct smaps_sum sum;
};

/* "55f1-55f2 r--p 00000000 fe:00 247498   /usr/bin/head" */
static bool parse_header(const char *line, const struct smaps_range *ranges, size_t count,
			 struct mapping *ret)
{
	struct mapping m = {.any = true};
	uint64_t start, end, inode;
	char perms[5];
	int path = 0;

	if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %*x %*x:%*x %" SCNu64 " %n", &start, &end, perms,
		   &inode, &path) != 4)
		return false;
	for (size_t i = 0; i < count; i++)
		m.guest |= start < ranges[i].end && end > ranges[i].start;
	m.store = path > 0 && strncmp(line + path, SMAPS_STORE_NAME, sizeof(SMAPS_STORE_NAME) - 1) == 0;
	m.shmem = path > 0 && !m.store &&
		  (strncmp(line + path, "/dev/zero", 9) == 0 || strncmp(line + path, "/memfd:", 7) == 0 ||
		   strncmp(line + path, "/SYSV", 5) == 0 || strncmp(line + path, "[anon_shmem:", 12) == 0);
	m.file = inode != 0 && !m.shmem && !m.store;
	m.sum.mappings = 1;
	*ret = m;
	return true;
}

static void parse_field(const char *line, struct mapping *m)
{
	static const struct {
		const char *name;
		size_t offset;
	} fields[] = {
		{"Rss", offsetof(struct smaps_sum, rss)},
		{"Pss", offsetof(struct smaps_sum, pss)},
		{"Private_Clean", offsetof(struct smaps_sum, private)},
		{"Private_Dirty", offsetof(struct smaps_sum, private)},
		{"Anonymous", offsetof(struct smaps_sum, anonymous)},
		{"KSM", offsetof(struct smaps_sum, ksm)},
		{"Swap", offsetof(struct smaps_sum, swap)},
		{"AnonHugePages", offsetof(struct smaps_sum, huge)},
	};
	const char *colon = strchr(line, ':');
	uint64_t kib;

	if (!colon || sscanf(colon + 1, " %" SCNu64 " kB", &kib) != 1)
		return; /* VmFlags, THPeligible: no size */
	for (size_t i = 0; i < ARRAY_SIZE(fields); i++) {
		if (strlen(fields[i].name) != (size_t)(colon - line) ||
		    memcmp(line, fields[i].name, (size_t)(colon - line)) != 0)
			continue;
		*(uint64_t *)(void *)((char *)&m->sum + fields[i].offset) += kib * 1024;
		m->sum.ksm_known |= fields[i].offset == offsetof(struct smaps_sum, ksm);
	}
}

static uint64_t less(uint64_t a, uint64_t b)
{
	return a > b ? a - b : 0;
}

static void add(struct smaps_sum *to, const struct mapping *m)
{
	const struct smaps_sum *s = &m->sum;

	if (!m->any)
		return;
	to->mappings += s->mappings;
	to->rss += s->rss;
	to->pss += s->pss;
	to->anonymous += s->anonymous;
	to->ksm += s->ksm;
	to->swap += s->swap;
	to->huge += s->huge;
	to->ksm_known |= s->ksm_known;
	if (m->file) {
		uint64_t file = less(s->rss, s->anonymous);
		/*
		 * Pss is of file pages, of private copies (which count in full) and of merged copies, of
		 * which the kernel does not tell the share. Counting that as nothing makes the file's share
		 * too large, if anything, and so what is saved too small.
		 */
		uint64_t share = less(s->pss, less(s->anonymous, s->ksm));

		to->file_rss += file;
		to->file_pss += share < file ? share : file;
	}
	if (m->store) {
		to->store_rss += less(s->rss, s->anonymous);
		to->store_pss += less(s->pss, s->anonymous);
		to->private += s->anonymous;
	} else if (m->shmem) {
		to->shmem_pss += s->pss;
	} else {
		to->private += s->private;
	}
}

int smaps_read(FILE *stream, const struct smaps_range *ranges, size_t count, struct smaps_sum *ret_guest,
	       struct smaps_sum *ret_rest)
{
	struct smaps_sum guest = {0}, rest = {0};
	struct mapping m = {0};
	auto_free char *line = NULL;
	size_t size = 0;
	int r = 0;

	errno = 0;
	while (getline(&line, &size, stream) > 0) {
		struct mapping next;

		if (parse_header(line, ranges, count, &next)) {
			add(m.guest ? &guest : &rest, &m);
			m = next;
		} else if (m.any) {
			parse_field(line, &m);
		} else {
			r = -EINVAL;
			break;
		}
	}
	if (r == 0 && ferror(stream))
		r = errno ? -errno : -EIO;
	if (r < 0)
		return r;
	add(m.guest ? &guest : &rest, &m);
	*ret_guest = guest;
	*ret_rest = rest;
	return 0;
}

int smaps_rollup_read(FILE *stream, uint64_t *ret_bytes)
{
	auto_free char *line = NULL;
	uint64_t file = 0, shmem = 0, kib;
	unsigned found = 0;
	size_t size = 0;

	errno = 0;
	while (getline(&line, &size, stream) > 0) {
		if (sscanf(line, "Pss_File: %" SCNu64 " kB", &kib) == 1) {
			file = kib * 1024;
			found |= 1;
		} else if (sscanf(line, "Pss_Shmem: %" SCNu64 " kB", &kib) == 1) {
			shmem = kib * 1024;
			found |= 2;
		}
	}
	if (ferror(stream))
		return errno ? -errno : -EIO;
	if (found != 3)
		return -EINVAL;
	*ret_bytes = file + shmem;
	return 0;
}
