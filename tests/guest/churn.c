/* SPDX-License-Identifier: Apache-2.0 */
/* Churn: all CPUs check and write pages of theirs as fast as they can, while the first one also reads from a disk into others. Each
 * page is checked before it is written, so a write that was lost, and a byte that is not the guest's, are found. */
#include "virtio.h"

#define PAGES_MAX    65536
#define WINDOW	     64 /* pages that are written for a while; the others keep still */
#define WINDOW_STEPS 512
#define DEPTH	     4
#define SECTOR	     512
#define PAGE_SECTORS (PAGE / SECTOR)
#define WORDS	     ((unsigned)(PAGE / 8))
#define SUB	     8 /* versions that differ in single words, then the whole page is another */

/* What each page must hold: see page_word(). And, of the pages of the disk: which of its pages was read last, plus one. */
static uint16_t versions[PAGES_MAX];
static uint32_t from_disk[PAGES_MAX];

static struct churn {
	uint64_t from, io_from;
	uint64_t pages, io_pages, disk_pages;
	unsigned cpus;
	uint64_t until; /* by the TSC */
	struct device *d;
	struct {
		uint64_t steps, bad, first_bad, chance;
	} __attribute__((aligned(64))) cpu[CPUS_MAX];
	uint64_t ios, io_bad, first_io_bad;
	const char *error;
} churn;

static struct request {
	struct {
		uint32_t type, reserved;
		uint64_t sector;
	} header;
	volatile uint8_t status;
	bool in_flight;
	uint64_t page, disk_page;
} __attribute__((aligned(64))) requests[DEPTH];

static uint64_t next(uint64_t *chance)
{
	*chance ^= *chance << 13;
	*chance ^= *chance >> 7;
	*chance ^= *chance << 17;
	return *chance;
}

/* Word @i of a page in version @v: of SUB versions in a row each differs from the one before in one word. */
static uint64_t page_word(uint64_t page, uint16_t v, unsigned i)
{
	uint64_t word = pattern_base(v / SUB + 1, page) + i * PATTERN_STEP;

	return i % (WORDS / SUB) == 5 && i / (WORDS / SUB) < v % SUB ? ~word : word;
}

static bool page_good(uint64_t page)
{
	const volatile uint64_t *p = at(churn.from + page * PAGE);
	uint16_t v = versions[page];
	uint64_t base = pattern_base(v / SUB + 1, page), different = 0;

	for (unsigned i = 0; i < WORDS; i++, base += PATTERN_STEP)
		different |= p[i] ^ (i % (WORDS / SUB) == 5 && i / (WORDS / SUB) < v % SUB ? ~base : base);
	return !different;
}

static void page_write(uint64_t page)
{
	uint64_t *p = at(churn.from + page * PAGE);
	uint16_t v = ++versions[page];

	if (v % SUB) {
		unsigned i = (v % SUB - 1) * (WORDS / SUB) + 5;

		((volatile uint64_t *)p)[i] = page_word(page, v, i);
	} else {
		pattern_fill(p, PAGE, pattern_base(v / SUB + 1, page));
	}
}

static void check(unsigned cpu, uint64_t page)
{
	if (!page_good(page) && !churn.cpu[cpu].bad++)
		churn.cpu[cpu].first_bad = churn.from + page * PAGE;
}

/* Runs of 16 pages belong to the CPUs in turn. */
static uint64_t page_of(unsigned cpu, uint64_t n)
{
	return (n / 16 * churn.cpus + cpu) * 16 + n % 16;
}

static uint64_t pages_of(void)
{
	return churn.pages / (16 * churn.cpus) * 16;
}

/* ---- the disk ---- */

static bool io_good(uint64_t page)
{
	if (!from_disk[page])
		return true;
	for (unsigned i = 0; i < PAGE_SECTORS; i++)
		if (!pattern_check(at(churn.io_from + page * PAGE + i * SECTOR), SECTOR,
				   pattern_base(1, (from_disk[page] - 1) * PAGE_SECTORS + i)))
			return false;
	return true;
}

static void io_check(uint64_t page)
{
	if (!io_good(page) && !churn.io_bad++)
		churn.first_io_bad = churn.io_from + page * PAGE;
}

/* Slot i reads into pages i, i + DEPTH, ..: never two requests into one. */
static void submit(unsigned slot, uint64_t *chance)
{
	struct request *r = &requests[slot];
	struct queue *q = &churn.d->queue[0];
	uint16_t head = (uint16_t)(slot * 3);

	r->page = next(chance) % (churn.io_pages / DEPTH) * DEPTH + slot;
	r->disk_page = next(chance) % churn.disk_pages;
	io_check(r->page);
	r->header.type = 0;
	r->header.reserved = 0;
	r->header.sector = r->disk_page * PAGE_SECTORS;
	r->status = 0xff;
	q->desc[head] = (struct desc){(uint64_t)&r->header, 16, DESC_NEXT, (uint16_t)(head + 1)};
	q->desc[head + 1] = (struct desc){churn.io_from + r->page * PAGE, PAGE, DESC_NEXT | DESC_WRITE,
					  (uint16_t)(head + 2)};
	q->desc[head + 2] = (struct desc){(uint64_t)&r->status, 1, DESC_WRITE, 0};
	r->in_flight = true;
	queue_add(q, head);
}

static void finish(unsigned slot)
{
	struct request *r = &requests[slot];

	if (slot >= DEPTH || !r->in_flight) {
		churn.error = "used-unknown-head";
		return;
	}
	r->in_flight = false;
	if (r->status != 0)
		churn.error = r->status == 0xff ? "status-not-written" : "io-error";
	from_disk[r->page] = (uint32_t)r->disk_page + 1;
	io_check(r->page);
	churn.ios++;
}

/* One look at the queue, and new requests for those that are through. */
static void disk_turn(uint64_t *chance)
{
	struct queue *q = &churn.d->queue[0];
	bool added = false;
	uint32_t bytes;
	uint16_t head;

	while (!churn.error && queue_pop(q, &head, &bytes))
		finish(head / 3u);
	for (unsigned i = 0; i < DEPTH; i++) {
		if (!requests[i].in_flight) {
			submit(i, chance);
			added = true;
		}
	}
	if (added)
		queue_kick(churn.d, 0);
}

static void disk_end(void)
{
	struct queue *q = &churn.d->queue[0];
	uint64_t begun = tsc();
	uint32_t bytes;
	uint16_t head;

	for (unsigned i = 0; i < DEPTH && !churn.error; i++) {
		while (!churn.error && requests[i].in_flight) {
			if (queue_pop(q, &head, &bytes))
				finish(head / 3u);
			else if (tsc() - begun > us_to_cycles(20000000))
				churn.error = "timeout";
			else
				relax();
		}
	}
}

/* ---- the CPUs ---- */

static void churn_cpu(unsigned cpu, void *unused)
{
	uint64_t *chance = &churn.cpu[cpu].chance, mine = pages_of();
	uint64_t window = mine < WINDOW ? mine : WINDOW, first = 0;

	(void)unused;
	for (uint64_t step = 0; tsc() < churn.until && !churn.error; step++) {
		uint64_t page;

		if (step % WINDOW_STEPS == 0)
			first = next(chance) % (mine - window + 1);
		page = page_of(cpu, first + next(chance) % window);
		check(cpu, page);
		page_write(page);
		/* Any other one must be as it was. */
		check(cpu, page_of(cpu, next(chance) % mine));
		if (cpu == 0 && churn.d && step % 4 == 0)
			disk_turn(chance);
		churn.cpu[cpu].steps++;
	}
	if (cpu == 0 && churn.d)
		disk_end();
}

static bool prepare(const struct command *c)
{
	uint64_t to = arg(c, "to", 0), io_to = arg(c, "io_to", 0);

	churn.from = arg(c, "from", 0) & ~(PAGE - 1);
	churn.io_from = arg(c, "io_from", 0) & ~(PAGE - 1);
	churn.pages = (to - churn.from) / PAGE;
	churn.io_pages = (io_to - churn.io_from) / PAGE;
	churn.disk_pages = arg(c, "disk_pages", 1);
	churn.cpus = (unsigned)arg(c, "cpus", 1);
	if (churn.cpus == 0 || churn.cpus > machine.cpus || churn.pages > PAGES_MAX || pages_of() == 0 ||
	    churn.io_pages > PAGES_MAX || (churn.io_pages && churn.io_pages < DEPTH) || !churn.disk_pages ||
	    !machine_is_usable(churn.from, to) ||
	    (churn.io_pages && !machine_is_usable(churn.io_from, io_to))) {
		fail(c, "ranges or cpus");
		return false;
	}
	memset(churn.cpu, 0, sizeof(churn.cpu));
	for (unsigned i = 0; i < churn.cpus; i++)
		churn.cpu[i].chance = pattern_base(arg(c, "seed", 1), i) | 1;
	churn.ios = churn.io_bad = churn.first_io_bad = 0;
	churn.error = NULL;
	return true;
}

static bool start_disk(const struct command *c)
{
	churn.d = NULL;
	if (!churn.io_pages)
		return true;
	churn.d = virtio_device(c, VIRTIO_ID_BLOCK);
	if (!churn.d)
		return false;
	memset(requests, 0, sizeof(requests));
	churn.error = virtio_start(churn.d, 0, 1, QUEUE_SIZE_MAX);
	if (!churn.error)
		queue_arm(churn.d, 0);
	if (churn.error)
		fail(c, "%s", churn.error);
	return !churn.error;
}

static void report(const struct command *c)
{
	uint64_t steps = 0, bad = 0, first_bad = 0, least = ~0ull;

	for (unsigned i = 0; i < churn.cpus; i++) {
		steps += churn.cpu[i].steps;
		least = churn.cpu[i].steps < least ? churn.cpu[i].steps : least;
		if (!bad)
			first_bad = churn.cpu[i].first_bad;
		bad += churn.cpu[i].bad;
	}
	answer(c);
	say(" steps=%lu least=%lu bad=%lu first_bad=%lx ios=%lu io_bad=%lu first_io_bad=%lx", steps, least,
	    bad, first_bad, churn.ios, churn.io_bad, churn.first_io_bad);
	if (churn.d) /* what the device writes, besides the data */
		say(" ring=%lu status=%lu", (uint64_t)churn.d->queue[0].used / PAGE,
		    (uint64_t)requests / PAGE);
}

/* All pages in their first version; those of the disk unknown. */
static void churn_init(const struct command *c)
{
	if (!prepare(c))
		return;
	memset(versions, 0, sizeof(versions));
	memset(from_disk, 0, sizeof(from_disk));
	for (uint64_t i = 0; i < churn.pages; i++)
		pattern_fill(at(churn.from + i * PAGE), PAGE, pattern_base(1, i));
	report(c);
}

static void churn_run(const struct command *c)
{
	if (!prepare(c) || !start_disk(c))
		return;
	churn.until = tsc() + us_to_cycles(arg(c, "ms", 100) * 1000);
	if (!cpus_run(churn.cpus, churn_cpu, NULL, 100000000))
		fail(c, "%s", cpus_error());
	else if (churn.error)
		fail(c, "%s", churn.error);
	else
		report(c);
}

static void churn_check(const struct command *c)
{
	if (!prepare(c))
		return;
	for (uint64_t i = 0; i < pages_of() * churn.cpus; i++)
		check(0, i);
	for (uint64_t i = 0; i < churn.io_pages; i++)
		io_check(i);
	report(c);
}

const struct verb churn_verbs[] = {
	{"churn_init", churn_init},
	{"churn", churn_run},
	{"churn_check", churn_check},
	{NULL, NULL},
};
