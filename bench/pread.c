/* SPDX-License-Identifier: Apache-2.0 */
/* What a file gives to pread(), as the measure for what it gives to a guest: pread FILE BYTES REQUESTS SEED prints the
 * nanoseconds that so many reads take. SEED 0 reads one after the other, others are where the probe guest's load begins. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fs.h"
#include "base/size.h"

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static int read_all(int fd, uint64_t file_bytes, uint64_t bytes, uint64_t requests, uint64_t seed)
{
	auto_free void *buf = malloc(bytes);
	uint64_t places = file_bytes / bytes, place = 0;

	if (!buf)
		return -ENOMEM;
	for (uint64_t i = 0; i < requests; i++) {
		int r;

		if (seed) { /* xorshift64, as tests/guest/blk.c has it */
			seed ^= seed << 13;
			seed ^= seed >> 7;
			seed ^= seed << 17;
			place = seed % places;
		}
		r = pread_full(fd, buf, bytes, place * bytes);
		if (r < 0)
			return r;
		place = (place + 1) % places;
	}
	return 0;
}

int main(int argc, char **argv)
{
	uint64_t bytes, requests, seed, begin;
	struct stat st;
	auto_fd fd = -1;
	int r;

	if (argc != 5 || size_parse(argv[2], &bytes) < 0 || bytes == 0 ||
	    number_parse(argv[3], UINT32_MAX, &requests) < 0 ||
	    number_parse(argv[4], UINT64_MAX, &seed) < 0) {
		fprintf(stderr, "usage: pread FILE BYTES REQUESTS SEED\n");
		return 2;
	}
	fd = open(argv[1], O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0 || (uint64_t)st.st_size < bytes) {
		fprintf(stderr, "pread: %s: %s\n", argv[1], fd < 0 ? strerror(errno) : "too short");
		return 1;
	}
	begin = now_ns();
	r = read_all(fd, (uint64_t)st.st_size, bytes, requests, seed);
	if (r < 0) {
		fprintf(stderr, "pread: %s: %s\n", argv[1], strerror(-r));
		return 1;
	}
	printf("%" PRIu64 "\n", now_ns() - begin);
	return 0;
}
