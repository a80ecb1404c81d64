/* SPDX-License-Identifier: Apache-2.0 */
/* Writes the seeds of the virtio fuzz targets, good guests all: seeds_virtio TARGET FOLDER. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/fs.h"
#include "tests/fuzz/virtio_program.h"

struct seed {
	uint8_t data[4096];
	size_t len;
};

static void add(struct seed *s, uint64_t value, size_t bytes)
{
	uint8_t raw[8];

	store_le64(raw, value);
	memcpy(s->data + s->len, raw, bytes);
	s->len += bytes;
}

static int seed_write(const struct seed *s, const char *dir, const char *name)
{
	char path[4096];
	auto_fd fd = -1;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	return fd < 0 || write_full(fd, s->data, s->len) < 0;
}

static void add_start(struct seed *s, uint8_t features, uint8_t own)
{
	add(s, STEP_START, 1);
	add(s, features, 1);
	add(s, 4, 1); /* 16 entries */
	add(s, own, 1);
}

static void add_poke(struct seed *s, uint16_t offset, uint64_t value)
{
	add(s, STEP_POKE, 1);
	add(s, BASE_DATA, 1);
	add(s, offset, 2);
	add(s, value, 8);
}

/* Instead of a queue: the indirect table. */
#define TABLE 255

/* A descriptor of a queue, or of the table. */
static void add_desc(struct seed *s, uint8_t queue, uint8_t index, uint8_t base, uint16_t offset,
		     uint32_t len, uint8_t flags)
{
	add(s, queue == TABLE ? STEP_TABLE : STEP_DESC, 1);
	if (queue != TABLE)
		add(s, queue, 1);
	add(s, index, 1);
	add(s, base, 1);
	add(s, offset, 2);
	add(s, len, 4);
	add(s, flags, 1);
	add(s, index + 1u, 1);
}

static void add_send(struct seed *s, uint8_t queue)
{
	add(s, STEP_OFFER, 1);
	add(s, queue, 1);
	add(s, 0, 1);
	add(s, STEP_KICK, 1);
	add(s, queue, 1);
	add(s, STEP_LOOP, 1);
}

/* All registers and the first of the configuration space, a pause, and a queue that is stopped. */
static int seed_tour(const char *dir)
{
	struct seed s = {.len = 0};

	add_start(&s, 0, 0);
	for (uint16_t reg = 0; reg < 0x120; reg = (uint16_t)(reg + 4)) {
		add(&s, STEP_READ, 1);
		add(&s, reg, 2);
		add(&s, 2, 1);
	}
	add(&s, STEP_HOLD, 1);
	add_send(&s, 0);
	add(&s, STEP_HOLD, 1);
	add(&s, STEP_LOOP, 1);
	add(&s, STEP_WRITE, 1);
	add(&s, 0x044, 2);
	add(&s, 2, 1);
	add(&s, 0, 8);
	return seed_write(&s, dir, "tour");
}

/* Header at 0, data at 0x1000, status at 0x100; by a table or not. */
static int seed_blk(const char *dir, const char *name, uint8_t type, uint32_t len, bool table)
{
	struct seed s = {.len = 0};
	bool in = type == 0 || type == 8;
	uint8_t queue = table ? TABLE : 0;

	add_start(&s, (uint8_t)(table ? 3 : 4), 0);
	add_poke(&s, 0, type);
	add_poke(&s, 8, 3);
	add_poke(&s, 0x1000, 5); /* a range, for those who take one: sector 5, .. */
	add_poke(&s, 0x1008, 2); /* .. 2 sectors */
	add_desc(&s, queue, 0, BASE_DATA, 0, 16, VIRTQ_DESC_F_NEXT);
	add_desc(&s, queue, 1, BASE_DATA, 0x1000, len,
		 (uint8_t)(VIRTQ_DESC_F_NEXT | (in ? VIRTQ_DESC_F_WRITE : 0)));
	add_desc(&s, queue, 2, BASE_DATA, 0x100, 1, VIRTQ_DESC_F_WRITE);
	if (table)
		add_desc(&s, 0, 0, BASE_TABLE, 0, 48, VIRTQ_DESC_F_INDIRECT);
	add_send(&s, 0);
	add_send(&s, 0);
	return seed_write(&s, dir, name);
}

static int seeds_blk(const char *dir)
{
	return seed_blk(dir, "in", 0, 1024, false) | seed_blk(dir, "out", 1, 4096, false) |
	       seed_blk(dir, "out-table", 1, 512, true) | seed_blk(dir, "id", 8, 20, false) |
	       seed_blk(dir, "discard", 11, 16, false) | seed_blk(dir, "zeroes", 13, 16, true) |
	       seed_blk(dir, "flush", 4, 1, false) | seed_tour(dir);
}

/* Statistics, then reports of single pages and of a run, with poison or without. */
static int seed_queues(const char *dir, const char *name, uint8_t own, uint8_t report_queue, uint64_t poison)
{
	struct seed s = {.len = 0};

	add_start(&s, 3, own);
	add_poke(&s, 0, 0x0000000012340004); /* tag 4, the value's low bytes */
	add_poke(&s, 8, 0x00000000000f0000);
	if (own & 2) {
		add_desc(&s, 2, 0, BASE_DATA, 0, 20, 0);
		add_send(&s, 2);
	}
	add(&s, STEP_WRITE, 1);
	add(&s, 0x10c, 2);
	add(&s, 2, 1);
	add(&s, poison, 8);
	add_desc(&s, report_queue, 0, BASE_DATA, 0x2000, 0x1000, VIRTQ_DESC_F_WRITE | VIRTQ_DESC_F_NEXT);
	add_desc(&s, report_queue, 1, BASE_DATA, 0x3000, 0x4000, VIRTQ_DESC_F_WRITE | VIRTQ_DESC_F_NEXT);
	add_desc(&s, report_queue, 2, BASE_END, 0x20, 0x1000, VIRTQ_DESC_F_WRITE);
	add_send(&s, report_queue);
	return seed_write(&s, dir, name);
}

static int seeds_balloon_queues(const char *dir)
{
	return seed_queues(dir, "stats-report", 0x22, 3, 0) | seed_queues(dir, "report", 0x20, 2, 0) |
	       seed_queues(dir, "report-spec", 0x36, 4, 0) | seed_queues(dir, "poison", 0x36, 3, 0xaaaaaaaa);
}

static int seeds_balloon(const char *dir)
{
	struct seed s = {.len = 0};

	if (seeds_balloon_queues(dir))
		return 1;
	add_start(&s, 1, 0);
	add_poke(&s, 0, 0x0000080100000800);
	add_poke(&s, 8, 0x0000090000000802);
	for (uint8_t queue = 0; queue < 2; queue++) {
		add_desc(&s, queue, 0, BASE_DATA, 0, 16, 0);
		add_send(&s, queue);
	}
	add(&s, STEP_WRITE, 1);
	add(&s, 0x104, 2);
	add(&s, 2, 1);
	add(&s, 4, 8);
	return seed_write(&s, dir, "inflate-deflate") | seed_tour(dir);
}

static int seeds_rng(const char *dir)
{
	struct seed s = {.len = 0};

	add_start(&s, 1, 0);
	add_desc(&s, 0, 0, BASE_DATA, 0, 64, VIRTQ_DESC_F_WRITE | VIRTQ_DESC_F_NEXT);
	add_desc(&s, 0, 1, BASE_DATA, 0x1000, 8192, VIRTQ_DESC_F_WRITE);
	add_send(&s, 0);
	return seed_write(&s, dir, "two-buffers") | seed_tour(dir);
}

/* A packet at 0x100 of the data, 8 bytes of payload behind it; descriptor 0 of the queue that sends. */
static void add_packet(struct seed *s, uint16_t op, uint32_t len, uint32_t flags)
{
	uint32_t payload = len < 8 ? 8 : len;

	add_poke(s, 0x100, 7);
	add_poke(s, 0x108, 2);
	add_poke(s, 0x110, 1ull << 32 | 9);
	add_poke(s, 0x118, (uint64_t)op << 48 | 1ull << 32 | len);
	add_poke(s, 0x120, 4096ull << 32 | flags);
	add_poke(s, 0x128, 0x6f6c6c6500000000);
	add_desc(s, 1, 0, BASE_DATA, 0x100, 44 + payload, 0);
	add_send(s, 1);
}

static void add_buffers(struct seed *s)
{
	for (uint8_t i = 0; i < 4; i++) {
		add_desc(s, 0, i, BASE_DATA, (uint16_t)(0x1000 + 0x200 * i), 0x200, VIRTQ_DESC_F_WRITE);
		add(s, STEP_OFFER, 1);
		add(s, 0, 1);
		add(s, i, 1);
	}
	add(s, STEP_KICK, 1);
	add(s, 0, 1);
}

/* The packet there is, with another operation. */
static void add_same(struct seed *s, uint16_t op, uint32_t len, uint32_t flags)
{
	add_poke(s, 0x118, (uint64_t)op << 48 | 1ull << 32 | len);
	add_poke(s, 0x120, 65536ull << 32 | flags);
	add_desc(s, 1, 0, BASE_DATA, 0x100, 44 + len, 0);
	add_send(s, 1);
}

/* A program of the host connects and is accepted: fuzz_virtio_vsock.c fills its port in. */
static int seed_accept(const char *dir, const char *name, uint32_t letters)
{
	static const uint16_t ops[] = {2, 5, 7, 6, 5, 4, 4};
	struct seed s = {.len = 0};

	add_start(&s, 5, 0);
	add_poke(&s, 0x100, 7);
	add_poke(&s, 0x108, 2);
	add_buffers(&s);
	add(&s, STEP_LOOP, 1);
	add(&s, STEP_LOOP, 1);
	for (size_t i = 0; i < sizeof(ops) / sizeof(ops[0]); i++) {
		add_same(&s, ops[i], ops[i] == 5 ? 32 : 0, ops[i] == 4 ? (uint32_t)i - 3 : 0);
		add_buffers(&s);
	}
	add(&s, letters, 4);
	return seed_write(&s, dir, name);
}

/* More than a socket takes: it waits in the buffer until the listener reads. */
static int seed_full(const char *dir)
{
	struct seed s = {.len = 0};

	add_start(&s, 5, 0);
	add_packet(&s, 1, 0, 0);
	add_buffers(&s);
	for (unsigned i = 0; i < 9; i++)
		add_same(&s, 5, i < 7 ? 32000 : 3000, 0);
	add_same(&s, 4, 0, 2);
	for (unsigned i = 0; i < 20; i++)
		add(&s, STEP_LOOP, 1);
	return seed_write(&s, dir, "full");
}

/* Connect to port 1, send, end; with buffers for what comes back. */
static int seeds_vsock(const char *dir)
{
	static const uint16_t ops[] = {1, 5, 7, 6, 4, 5};
	struct seed s = {.len = 0};
	int r = seed_tour(dir) | seed_accept(dir, "accept", 0x0a0a0a0a) | seed_full(dir) |
		seed_accept(dir, "accept-and-more", 0x11111111) |
		seed_accept(dir, "accept-ended", 0x0b0b1b1b);

	/* More than the socket and the buffer behind it take. */
	add_start(&s, 5, 0);
	add_packet(&s, 1, 0, 0);
	add_packet(&s, 5, 0x80000, 0);
	r |= seed_write(&s, dir, "flood");

	for (unsigned end = 1; end <= 6; end++) {
		char name[16];

		s.len = 0;
		add_start(&s, 5, 0);
		for (uint8_t i = 0; i < 4; i++) {
			add_desc(&s, 0, i, BASE_DATA, (uint16_t)(0x1000 + 0x200 * i), 0x200,
				 VIRTQ_DESC_F_WRITE);
			add(&s, STEP_OFFER, 1);
			add(&s, 0, 1);
			add(&s, i, 1);
		}
		for (unsigned i = 0; i < end; i++)
			add_packet(&s, ops[i], ops[i] == 5 ? 8 : 0, ops[i] == 4 ? 3 : 0);
		/* And what the programs do. */
		add(&s, 0x0b0a0d1e, 4);
		snprintf(name, sizeof(name), "session-%u", end);
		r |= seed_write(&s, dir, name);
	}
	return r;
}

/* Receive buffers (queue 0) and a frame with a header (queue 1), which asks for a checksum and for segments. */
static int seed_net(const char *dir, const char *name, uint8_t features, bool table, uint32_t bytes)
{
	struct seed s = {.len = 0};

	add_start(&s, features, 0);
	add_poke(&s, 0, 0x0022006400360101);
	add_poke(&s, 8, bytes < 100 ? bytes - 36 : 16); /* small ones: the last that fits */
	for (uint8_t i = 0; i < 4; i++) {
		add_desc(&s, 0, i, BASE_DATA, (uint16_t)(0x1000 * (i + 1)), bytes, VIRTQ_DESC_F_WRITE);
		add(&s, STEP_OFFER, 1);
		add(&s, 0, 1);
		add(&s, i, 1);
	}
	add(&s, STEP_KICK, 1);
	add(&s, 0, 1);
	add_desc(&s, table ? 2 : 1, 0, BASE_DATA, 0, 12, VIRTQ_DESC_F_NEXT);
	add_desc(&s, table ? 2 : 1, 1, BASE_DATA, 0x1000, bytes, 0);
	if (table)
		add_desc(&s, 1, 0, BASE_TABLE, 0, 32, VIRTQ_DESC_F_INDIRECT);
	add_send(&s, 1);
	add_send(&s, 1);
	return seed_write(&s, dir, name);
}

static int seeds_net(const char *dir)
{
	return seed_net(dir, "plain", 1, false, 1514) | seed_net(dir, "table", 3, true, 200) |
	       seed_net(dir, "offloads", 0x3d, false, 4000) |
	       seed_net(dir, "small-buffers", 0x3f, true, 100) |
	       seed_net(dir, "checksum-at-end", 0x3d, false, 64) | seed_tour(dir);
}

/* Descriptors at 0, the available ring at 0x400, the used ring at 0x600. */
static int seeds_virtqueue(const char *dir)
{
	struct seed s = {.data = {2, 3, 0, 0, 0, 2, 0, 3}, .len = 8 + 0x620};
	uint8_t *m = s.data + 8;

	for (unsigned i = 0; i < 3; i++) {
		store_le64(m + 16 * i, 0x1000 * (i + 1));
		store_le32(m + 16 * i + 8, i == 2 ? 32 : 64);
		store_le16(m + 16 * i + 12,
			   (uint16_t)(i < 2 ? 1 : 4)); /* the last: a table at 0x3000, of zeroes */
		store_le16(m + 16 * i + 14, (uint16_t)(i + 1));
	}
	store_le64(m + 32, 0x200);
	store_le64(m + 0x200, 0x5000);
	store_le32(m + 0x208, 100);
	store_le16(m + 0x20c, 3);
	store_le16(m + 0x20e, 1);
	store_le64(m + 0x210, 0x6000);
	store_le32(m + 0x218, 100);
	store_le16(m + 0x21c, 2);
	store_le16(m + 0x402, 2);
	store_le16(m + 0x406, 2);
	return seed_write(&s, dir, "chain-and-table");
}

int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "blk"))
		return seeds_blk(argv[2]);
	if (argc == 3 && !strcmp(argv[1], "balloon"))
		return seeds_balloon(argv[2]);
	if (argc == 3 && !strcmp(argv[1], "net"))
		return seeds_net(argv[2]);
	if (argc == 3 && !strcmp(argv[1], "virtqueue"))
		return seeds_virtqueue(argv[2]);
	if (argc == 3 && !strcmp(argv[1], "rng"))
		return seeds_rng(argv[2]);
	if (argc == 3 && !strcmp(argv[1], "vsock"))
		return seeds_vsock(argv[2]);
	fprintf(stderr, "usage: seeds_virtio virtqueue|blk|balloon|net|rng|vsock FOLDER\n");
	return 2;
}
