/* SPDX-License-Identifier: Apache-2.0 */
/* Drivers that break the rules, at random and at speed. Single, exact breaches come from the host by store
 * and poke. */
#include "virtio.h"

#define BUFFER_BYTES 16384

static uint8_t buffer[BUFFER_BYTES] __attribute__((aligned(4096)));
static uint64_t random_state;

static uint64_t next_random(void)
{
	random_state++;
	return pattern_base(0x5eed, random_state);
}

static uint64_t below(uint64_t n)
{
	return next_random() % n;
}

static uint64_t ram_end(void)
{
	uint64_t end = 0;

	for (unsigned i = 0; i < machine.ram_count; i++)
		end = machine.ram[i].to > end ? machine.ram[i].to : end;
	return end;
}

/* An address that is good most of the time: in the buffer, whose content nobody needs. */
static uint64_t random_address(void)
{
	switch (below(24)) {
	case 0:
		return next_random();
	case 1:
		return ram_end() - below(1024);
	case 2:
		return LAPIC_BASE + below(4096);
	case 3:
		return ~below(8192);
	default:
		return (uint64_t)buffer + below(BUFFER_BYTES / 2);
	}
}

static uint32_t random_bytes(void)
{
	/* Read as page numbers by a balloon, none of these is of the image or of the boot structures we use. */
	static const uint32_t sizes[] = {0, 1, 7, 8, 16, 20, 2048, 2049, 4096};

	return below(20) ? sizes[below(ARRAY_SIZE(sizes))] : (uint32_t)next_random();
}

/* All registers and the configuration space, any width, any value. With addresses spared (the default) a
 * queue does not come to lie somewhere over the guest itself. */
static void register_storm(const struct command *c)
{
	struct device *d = virtio_device(c, 0);
	uint64_t rounds = arg(c, "rounds", 1000);
	static const uint8_t widths[] = {1, 2, 4, 8};

	if (!d)
		return;
	random_state = arg(c, "seed", 1) << 32;
	for (uint64_t i = 0; i < rounds; i++) {
		unsigned width = widths[below(4)];
		uint64_t offset = below(4) ? below(0x140) & ~3ull : below(0x1000 - 8);
		uint64_t value = below(3) ? below(256) : next_random();

		if (offset + width > REG_QUEUE_DESC && offset < REG_CONFIG_GENERATION)
			mmio_read(d->base + offset, width);
		else if (below(2))
			mmio_write(d->base + offset, width, value);
		else
			mmio_read(d->base + offset, width);
	}
	virtio_reset(d);
	answer(c);
	say(" rounds=%lu", rounds);
}

static void random_ring(struct device *d, unsigned queue)
{
	struct queue *q = &d->queue[queue];
	struct desc *table = (struct desc *)buffer;

	for (uint64_t i = 0; i < sizeof(buffer) / 8; i += 16)
		((uint64_t *)buffer)[i] = next_random();
	for (unsigned i = 0; i < 32; i++) {
		struct desc *where = below(4) ? &q->desc[i % q->size] : &table[i];

		*where = (struct desc){random_address(), random_bytes(),
				       (uint16_t)below(below(16) ? 8 : 0x10000),
				       (uint16_t)(below(8) ? below(32) : below(0x10000))};
	}
	for (unsigned i = 0; i < q->size; i++)
		q->avail->ring[i] = (uint16_t)(below(16) ? below(32) : below(0x10000));
	q->avail->flags = (uint16_t)below(4);
	q->avail->index = (uint16_t)(q->avail->index + (below(8) ? below(8) : below(0x10000)));
	mmio_write32(d->base + REG_NOTIFY, below(16) ? queue : (uint32_t)below(0x10000));
}

/* Statistics, deflate-on-OOM, page poison, reporting. A report of free memory counts only where it is whole pages, and of random
 * ranges only some in the buffer can be. */
#define BALLOON_FEATURES 0x36

/* Random descriptors, indices and lengths; a reset whenever the device asks for it, and at the end. Only
 * reads and identification come to pass on a block device, as long as it is opened read-only. */
static void ring_storm(const struct command *c)
{
	struct device *d = virtio_device(c, 0);
	uint64_t rounds = arg(c, "rounds", 200), resets = 0, broken = 0;
	unsigned queues, queue;
	uint64_t own;
	bool up = false;

	if (!d)
		return;
	queues = d->id == VIRTIO_ID_VSOCK     ? 3
		 : d->id == VIRTIO_ID_BALLOON ? QUEUES_MAX
		 : d->id == VIRTIO_ID_NET     ? 2
					      : 1;
	own = d->id == VIRTIO_ID_BALLOON ? BALLOON_FEATURES : 0;
	random_state = arg(c, "seed", 1) << 32;
	for (uint64_t i = 0; i < rounds; i++) {
		bool needs_reset = up && (virtio_status(d) & STATUS_NEEDS_RESET);

		broken += needs_reset;
		if (!up || needs_reset || !below(8)) {
			const char *error = virtio_start(
				d, (below(2) ? F_INDIRECT | F_EVENT_IDX : 0) | (next_random() & own), queues,
				1u << below(9));

			if (error) {
				fail(c, "%s", error);
				return;
			}
			resets++;
			up = true;
		}
		do
			queue = (unsigned)below(queues);
		while (!d->queue[queue].size);
		random_ring(d, queue);
		if (!below(4)) /* time for the device to look, or none */
			delay_us(below(2000));
	}
	virtio_reset(d);
	answer(c);
	say(" rounds=%lu resets=%lu broken=%lu", rounds, resets, broken);
}

static struct {
	struct device *d;
	uint64_t rounds, resets;
	uint32_t over;
} race;

/* CPU 0 starts the device, has it read into the buffer, and resets it in flight; the others kick and look
 * meanwhile. */
static void race_job(unsigned cpu, void *unused)
{
	struct device *d = race.d;

	(void)unused;
	if (cpu != 0) {
		while (!__atomic_load_n(&race.over, __ATOMIC_ACQUIRE)) {
			mmio_write32(d->base + REG_NOTIFY, 0);
			mmio_read32(d->base + REG_STATUS);
			mmio_write32(d->base + REG_INTERRUPT_ACK,
				     mmio_read32(d->base + REG_INTERRUPT_STATUS));
		}
		return;
	}
	for (uint64_t i = 0; i < race.rounds; i++) {
		struct {
			uint32_t type, reserved;
			uint64_t sector;
		} *header = (void *)buffer;
		struct queue *q = &d->queue[0];

		if (virtio_start(d, F_EVENT_IDX, 1, 64))
			break;
		*header = (__typeof__(*header)){0, 0, 0};
		q->desc[0] = (struct desc){(uint64_t)header, 16, DESC_NEXT, 1};
		q->desc[1] = (struct desc){(uint64_t)buffer + 512, 8192, DESC_NEXT | DESC_WRITE, 2};
		q->desc[2] = (struct desc){(uint64_t)buffer + 16, 1, DESC_WRITE, 0};
		for (unsigned k = 0; k < 16; k++)
			queue_add(q, 0); /* sixteen times the same chain: rude, but in bounds */
		queue_kick(d, 0);
		delay_us(i % 4 * 50);
		virtio_reset(d);
		race.resets++;
	}
	__atomic_store_n(&race.over, 1, __ATOMIC_RELEASE);
}

static void race_verb(const struct command *c)
{
	race.d = virtio_device(c, VIRTIO_ID_BLOCK);
	race.rounds = arg(c, "rounds", 50);
	race.resets = race.over = 0;
	if (!race.d)
		return;
	if (!cpus_run((unsigned)arg(c, "cpus", machine.cpus), race_job, NULL, 60000000)) {
		fail(c, "%s", cpus_error());
		return;
	}
	answer(c);
	say(" resets=%lu", race.resets);
}

const struct verb hostile_verbs[] = {
	{"register_storm", register_storm},
	{"ring_storm", ring_storm},
	{"race", race_verb},
	{NULL, NULL},
};
