/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Counts the physical frames that two address ranges of two processes have in common.
 *
 *   pfncount [--file] PID START-END PID START-END      (hexadecimal, as in /proc/PID/maps; needs CAP_SYS_ADMIN)
 *
 * With --file only pages of files count: no private memory, no copies of file pages, nothing that KSM merged. Prints {"present": [N, N], "frames": [N, N], "common": N}: present pages, distinct frames behind them, and
 * distinct frames that both have. The kernel's page of zeros counts as one frame.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
	PAGE_BYTES = 4096,
	CHUNK_PAGES = 4096,
};

/* Documentation/admin-guide/mm/pagemap.rst: bits 0-54 are the frame number of a present page (bit 63); 61: of a file. */
static const uint64_t PAGEMAP_PRESENT = UINT64_C(1) << 63;
static const uint64_t PAGEMAP_FILE = UINT64_C(1) << 61;
static const uint64_t PAGEMAP_PFN = (UINT64_C(1) << 55) - 1;

struct frames {
	uint64_t *pfn; /* sorted, each once */
	size_t count;
	size_t present; /* pages */
};

static int compare_u64(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a;
	uint64_t y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static void sort_unique(struct frames *f)
{
	size_t kept = 0;

	qsort(f->pfn, f->count, sizeof(f->pfn[0]), compare_u64);
	for (size_t i = 0; i < f->count; i++)
		if (kept == 0 || f->pfn[kept - 1] != f->pfn[i])
			f->pfn[kept++] = f->pfn[i];
	f->count = kept;
}

/* Pages count that have all bits of `wanted`. */
static bool frames_read(const char *pid, const char *range, uint64_t wanted, struct frames *f)
{
	uint64_t start;
	uint64_t end;
	uint64_t entries[CHUNK_PAGES];
	char path[64];

	if (sscanf(range, "%" SCNx64 "-%" SCNx64, &start, &end) != 2 || start >= end || start % PAGE_BYTES ||
	    end % PAGE_BYTES) {
		fprintf(stderr, "pfncount: %s: not a range of pages\n", range);
		return false;
	}
	size_t pages = (size_t)((end - start) / PAGE_BYTES);

	snprintf(path, sizeof(path), "/proc/%.20s/pagemap", pid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	f->pfn = calloc(pages, sizeof(f->pfn[0]));
	if (fd < 0 || f->pfn == NULL) {
		fprintf(stderr, "pfncount: %s: %s\n", path, strerror(errno));
		return false;
	}
	for (size_t done = 0; done < pages;) {
		size_t want = pages - done < CHUNK_PAGES ? pages - done : CHUNK_PAGES;
		ssize_t got = pread(fd, entries, want * sizeof(entries[0]),
				    (off_t)((start / PAGE_BYTES + done) * sizeof(entries[0])));

		if (got <= 0) {
			fprintf(stderr, "pfncount: %s: %s\n", path, got < 0 ? strerror(errno) : "short");
			close(fd);
			return false;
		}
		for (size_t i = 0; i < (size_t)got / sizeof(entries[0]); i++) {
			if ((entries[i] & wanted) != wanted)
				continue;
			if ((entries[i] & PAGEMAP_PFN) == 0) {
				fprintf(stderr, "pfncount: %s: frame numbers are hidden, root needed\n",
					path);
				close(fd);
				return false;
			}
			f->pfn[f->count++] = entries[i] & PAGEMAP_PFN;
		}
		done += (size_t)got / sizeof(entries[0]);
	}
	close(fd);
	f->present = f->count;
	sort_unique(f);
	return true;
}

int main(int argc, char **argv)
{
	struct frames a = {0};
	struct frames b = {0};
	uint64_t wanted = PAGEMAP_PRESENT;
	size_t common = 0;

	if (argc > 1 && strcmp(argv[1], "--file") == 0) {
		wanted |= PAGEMAP_FILE;
		argc--;
		argv++;
	}
	if (argc != 5) {
		fprintf(stderr, "usage: pfncount [--file] PID START-END PID START-END\n");
		return 2;
	}
	if (!frames_read(argv[1], argv[2], wanted, &a) || !frames_read(argv[3], argv[4], wanted, &b))
		return 1;
	for (size_t i = 0, j = 0; i < a.count && j < b.count;) {
		if (a.pfn[i] == b.pfn[j]) {
			common++;
			i++;
			j++;
		} else if (a.pfn[i] < b.pfn[j]) {
			i++;
		} else {
			j++;
		}
	}
	printf("{\"present\": [%zu, %zu], \"frames\": [%zu, %zu], \"common\": %zu}\n", a.present, b.present,
	       a.count, b.count, common);
	free(a.pfn);
	free(b.pfn);
	return 0;
}
