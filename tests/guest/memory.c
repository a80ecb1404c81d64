/* SPDX-License-Identifier: Apache-2.0 */
/* Memory: patterns written and checked by all CPUs at once, chosen pages of each region, checksums. */
#include "probe.h"

#define JOB_TIMEOUT_US 400000000ull

void pattern_fill(void *where, size_t bytes, uint64_t base)
{
	uint64_t *p = where;

	for (size_t i = 0; i < bytes / 8; i++, base += PATTERN_STEP)
		p[i] = base;
}

bool pattern_check(const void *where, size_t bytes, uint64_t base)
{
	const uint64_t *p = where;
	uint64_t different = 0;

	for (size_t i = 0; i < bytes / 8; i++, base += PATTERN_STEP)
		different |= p[i] ^ base;
	return !different;
}

uint32_t crc32(uint32_t crc, const void *data, size_t bytes)
{
	static uint32_t table[8][256];
	const uint8_t *p = data;

	if (!table[0][1]) {
		for (uint32_t i = 0; i < 256; i++) {
			uint32_t v = i;

			for (unsigned k = 0; k < 8; k++)
				v = v >> 1 ^ (v & 1 ? 0xedb88320 : 0);
			table[0][i] = v;
		}
		for (uint32_t i = 0; i < 256; i++) {
			for (unsigned k = 1; k < 8; k++)
				table[k][i] = table[k - 1][i] >> 8 ^ table[0][table[k - 1][i] & 0xff];
		}
	}
	crc = ~crc;
	for (; bytes >= 8; bytes -= 8, p += 8) {
		uint64_t v = *(const uint64_t *)p ^ crc;

		crc = 0;
		for (unsigned k = 0; k < 8; k++, v >>= 8)
			crc ^= table[7 - k][v & 0xff];
	}
	for (; bytes; bytes--)
		crc = crc >> 8 ^ table[0][(crc ^ *p++) & 0xff];
	return ~crc;
}

/* ---- fill, check, zero over ranges, shared out between CPUs ---- */

enum what { FILL, CHECK, ZERO };

static struct work {
	enum what what;
	uint64_t seed, stride;
	unsigned cpus;
	struct range ranges[RANGES_MAX];
	unsigned range_count;
	struct {
		uint64_t pages, bad, first_bad;
	} __attribute__((aligned(64))) result[CPUS_MAX];
} work;

static bool is_zero(const uint64_t *p)
{
	uint64_t any = 0;

	for (size_t i = 0; i < PAGE / 8; i++)
		any |= p[i];
	return !any;
}

static bool do_page(uint64_t address)
{
	uint64_t base = pattern_base(work.seed, address / PAGE);

	switch (work.what) {
	case FILL:
		pattern_fill(at(address), PAGE, base);
		return true;
	case CHECK:
		return pattern_check(at(address), PAGE, base);
	case ZERO:
	default:
		return is_zero(at(address));
	}
}

/* CPU k of n takes every n-th run of 16 pages. */
static void share_of_work(unsigned cpu, void *unused)
{
	(void)unused;
	for (unsigned i = 0; i < work.range_count; i++) {
		struct range r = work.ranges[i];

		for (uint64_t a = r.from; a < r.to; a += work.stride) {
			if ((a - r.from) / work.stride / 16 % work.cpus != cpu)
				continue;
			work.result[cpu].pages++;
			if (!do_page(a) && !work.result[cpu].bad++)
				work.result[cpu].first_bad = a;
		}
	}
}

/* The range asked for: from= and to=, or all usable RAM. With force=1 it need not be usable. */
static bool ranges_wanted(const struct command *c)
{
	work.range_count = machine_usable(work.ranges, RANGES_MAX);
	if (arg_given(c, "from")) {
		work.ranges[0].from = arg(c, "from", 0) & ~(PAGE - 1);
		work.ranges[0].to = arg(c, "to", 0) & ~(PAGE - 1);
		work.range_count = 1;
		if (!arg(c, "force", 0) && !machine_is_usable(work.ranges[0].from, work.ranges[0].to)) {
			fail(c, "range is not usable RAM");
			return false;
		}
	}
	return true;
}

static void run_work(const struct command *c, enum what what)
{
	uint64_t pages = 0, bad = 0, first_bad = 0, cycles, least = ~0ull;

	if (!ranges_wanted(c))
		return;
	work.what = what;
	work.seed = arg(c, "seed", 1);
	work.stride = arg(c, "stride", PAGE);
	work.cpus = (unsigned)arg(c, "cpus", 1);
	memset(work.result, 0, sizeof(work.result));
	if (work.stride < PAGE || work.stride % PAGE) {
		fail(c, "stride");
		return;
	}
	cycles = tsc();
	if (!cpus_run(work.cpus, share_of_work, NULL, JOB_TIMEOUT_US)) {
		fail(c, "%s", cpus_error());
		return;
	}
	cycles = tsc() - cycles;
	for (unsigned i = 0; i < work.cpus; i++) {
		pages += work.result[i].pages;
		least = work.result[i].pages < least ? work.result[i].pages : least;
		if (!bad)
			first_bad = work.result[i].first_bad;
		bad += work.result[i].bad;
	}
	answer(c);
	say(" pages=%lu bad=%lu first_bad=%lx least_per_cpu=%lu cycles=%lu pages_per_ms=%lu", pages, bad,
	    first_bad, least, cycles, cycles ? pages * machine.tsc_khz / cycles : 0);
}

static void fill(const struct command *c)
{
	run_work(c, FILL);
}

static void check(const struct command *c)
{
	run_work(c, CHECK);
}

static void zero(const struct command *c)
{
	run_work(c, ZERO);
}

static void crc(const struct command *c)
{
	uint64_t from = arg(c, "from", 0), to = arg(c, "to", 0);
	uint32_t v = crc32(0, at(from), to - from);

	answer(c);
	say(" crc=%x bytes=%lu", v, to - from);
}

/* ---- first and last page of each region, and a page per GiB ---- */

#define TOUCH_MAX 64

static unsigned touch_add(uint64_t *list, unsigned count, uint64_t page)
{
	for (unsigned i = 0; i < count; i++) {
		if (list[i] == page)
			return count;
	}
	/* The image itself and the code other CPUs start with stay as they are. */
	if (count == TOUCH_MAX || page + PAGE > MAPPED_GIB * GIB || page == AP_START ||
	    (page + PAGE > (uint64_t)image_start && page < (uint64_t)image_end))
		return count;
	list[count] = page;
	return count + 1;
}

/* All pages are written before any is checked: two that are one in truth do not pass. Their content is put
 * back unless keep=1. */
static void touch(const struct command *c)
{
	static uint64_t list[TOUCH_MAX];
	static uint8_t saved[TOUCH_MAX][PAGE] __attribute__((aligned(4096)));
	uint64_t seed = arg(c, "seed", 1);
	unsigned count = 0, bad = 0;

	for (unsigned i = 0; i < machine.ram_count; i++) {
		struct range r = machine.ram[i];

		r.from = (r.from + PAGE - 1) & ~(PAGE - 1);
		r.to &= ~(PAGE - 1);
		count = touch_add(list, count, r.from);
		for (uint64_t a = (r.from + GIB - 1) & ~(GIB - 1); a < r.to; a += GIB) {
			count = touch_add(list, count, a);
			if (a >= r.from + PAGE)
				count = touch_add(list, count, a - PAGE);
		}
		count = touch_add(list, count, r.to - PAGE);
	}
	for (unsigned i = 0; i < count; i++) {
		memcpy(saved[i], at(list[i]), PAGE);
		pattern_fill(at(list[i]), PAGE, pattern_base(seed, list[i] / PAGE));
	}
	for (unsigned i = 0; i < count; i++)
		bad += !pattern_check(at(list[i]), PAGE, pattern_base(seed, list[i] / PAGE));
	for (unsigned i = 0; i < count && !arg(c, "keep", 0); i++)
		memcpy(at(list[i]), saved[i], PAGE);
	answer(c);
	say(" pages=%u bad=%u", count, bad);
	for (unsigned i = 0; i < count; i++)
		say(" p%u=%lx", i, list[i]);
}

const struct verb memory_verbs[] = {
	{"fill", fill}, {"check", check}, {"zero", zero}, {"crc", crc}, {"touch", touch}, {NULL, NULL},
};
