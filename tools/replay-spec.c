/* SPDX-License-Identifier: Apache-2.0 */
/* What a replay VM's memory is generated from, as written on a command line. */
#include "tools/replay-spec.h"

#include <errno.h>
#include <string.h>

#include "base/size.h"

/*
 * guests: as four stock Debian guests of 384 MiB were measured (61 % zero pages; of the duplicates 38 % in runs of 512, 16 % in
 * runs of 128 and more, 13 % in runs of 16 and more, the rest short, most of it single fill patterns).
 */
const struct replay_preset replay_presets[] = {
	{"guests",
	 "pool:8192,zero:10079,copy:3x512,copy:4x157,17x(copy:30,unique:8),39x(copy:4,unique:4),"
	 "1024x(fill:1,unique:1),113x(copy:1,unique:9)",
	 "what stock Linux guests were measured to hold"},
	{"clones", "pool:65536,zero:64,copy:16x512,unique:512", "guests that differ in one page of sixteen"},
	{"runs", "pool:16384,copy:512,unique:512,copy:64,unique:64,copy:16,unique:16",
	 "half duplicates in runs of 512, 64 and 16"},
	{"scattered", "pool:4096,512x(copy:1,unique:1)", "half duplicates, no two beside one another"},
	{"unique", "unique:4096", "nothing to share"},
	{NULL, NULL, NULL},
};

struct parser {
	const char *text; /* for messages */
	const char *at;
	struct errmsg *err;
	struct replay_spec spec;
	struct replay_run *runs;
	size_t space;
};

static int wrong(const struct parser *p, const char *what)
{
	return errmsg_set(p->err, -EINVAL, "\"%.80s\": %s at \"%.20s\"", p->text, what, p->at);
}

static int take_number(struct parser *p, uint64_t min, uint64_t max, const char *what, uint64_t *ret)
{
	size_t len = strspn(p->at, "0123456789");
	char digits[24];
	uint64_t n;

	if (len == 0)
		return wrong(p, "a number is missing");
	if (len < sizeof(digits)) {
		memcpy(digits, p->at, len);
		digits[len] = '\0';
		if (number_parse(digits, max, &n) == 0 && n >= min) {
			p->at += len;
			*ret = n;
			return 0;
		}
	}
	return errmsg_set(p->err, -E2BIG, "\"%.80s\": %s must be %llu to %llu at \"%.20s\"", p->text, what,
			  (unsigned long long)min, (unsigned long long)max, p->at);
}

static bool take(struct parser *p, const char *word)
{
	size_t len = strlen(word);

	if (strncmp(p->at, word, len) != 0)
		return false;
	p->at += len;
	return true;
}

static int add_run(struct parser *p, struct replay_run run)
{
	if (p->spec.count == REPLAY_SPEC_RUNS_MAX)
		return errmsg_set(p->err, -E2BIG, "\"%.80s\": more than %u runs", p->text,
				  REPLAY_SPEC_RUNS_MAX);
	if (p->spec.count == p->space) {
		size_t space = p->space ? p->space * 2 : 64;
		struct replay_run *v = reallocarray(p->runs, space, sizeof(*v));

		if (!v)
			return -ENOMEM;
		p->runs = v;
		p->space = space;
	}
	p->runs[p->spec.count++] = run;
	return 0;
}

/* [TIMES "x"] N; a count of times only before an "x". */
static int take_times(struct parser *p, uint64_t *ret)
{
	size_t len = strspn(p->at, "0123456789");
	int r = 0;

	*ret = 1;
	if (len && p->at[len] == 'x') {
		r = take_number(p, 1, REPLAY_SPEC_TIMES_MAX, "a count of runs", ret);
		p->at++;
	}
	return r;
}

static int take_run(struct parser *p)
{
	static const struct {
		const char *word;
		enum replay_kind kind;
	} kinds[] = {
		{"zero:", REPLAY_ZERO},
		{"fill:", REPLAY_FILL},
		{"copy:", REPLAY_COPY},
		{"unique:", REPLAY_UNIQUE},
	};
	struct replay_run run;
	uint64_t times, pages;
	size_t i = 0;
	int r;

	while (i < ARRAY_SIZE(kinds) && !take(p, kinds[i].word))
		i++;
	if (i == ARRAY_SIZE(kinds))
		return wrong(p, "zero:, fill:, copy:, unique:, pool:, pool-seed: or ( is wanted");
	r = take_times(p, &times);
	if (r == 0)
		r = take_number(p, 1, REPLAY_SPEC_PAGES_MAX, "pages", &pages);
	if (r < 0)
		return r;
	run = (struct replay_run){.kind = kinds[i].kind, .frames = (uint32_t)pages};
	for (uint64_t k = 0; k < times && r == 0; k++)
		r = add_run(p, run);
	return r;
}

/* TIMES "x(" was read. */
static int take_group(struct parser *p, uint64_t times)
{
	size_t first = p->spec.count, runs;
	int r;

	do {
		r = take_run(p);
	} while (r == 0 && take(p, ","));
	if (r == 0 && !take(p, ")"))
		return wrong(p, "a ) is missing");
	runs = p->spec.count - first;
	for (uint64_t k = 1; k < times && r == 0; k++)
		for (size_t i = 0; i < runs && r == 0; i++)
			r = add_run(p, p->runs[first + i]);
	return r;
}

static int take_part(struct parser *p)
{
	size_t digits = strspn(p->at, "0123456789");
	uint64_t times = 1;

	if (take(p, "pool-seed:"))
		return take_number(p, 0, UINT32_MAX, "a seed", &p->spec.pool_seed);
	if (take(p, "pool:"))
		return take_number(p, 1, REPLAY_SPEC_PAGES_MAX, "pages of the pool", &p->spec.pool_pages);
	if (digits && strncmp(p->at + digits, "x(", 2) == 0) {
		int r = take_times(p, &times);

		if (r < 0)
			return r;
	}
	if (take(p, "("))
		return take_group(p, times);
	return take_run(p);
}

static const char *preset_find(const char *text)
{
	for (size_t i = 0; replay_presets[i].name; i++)
		if (strcmp(replay_presets[i].name, text) == 0)
			return replay_presets[i].spec;
	return text;
}

/* What no single part can know. */
static int check(struct parser *p)
{
	if (p->spec.count == 0)
		return errmsg_set(p->err, -EINVAL, "\"%.80s\": no runs", p->text);
	for (size_t i = 0; i < p->spec.count; i++)
		if (p->runs[i].kind == REPLAY_COPY && p->runs[i].frames > p->spec.pool_pages)
			return errmsg_set(
				p->err, -EINVAL,
				"\"%.80s\": copy:%u is longer than the pool of %llu pages; give pool:",
				p->text, p->runs[i].frames, (unsigned long long)p->spec.pool_pages);
	return 0;
}

int replay_spec_parse(const char *text, struct errmsg *err, struct replay_spec *ret)
{
	struct parser p = {
		.text = text,
		.at = preset_find(text),
		.err = err,
		.spec = {.pool_seed = REPLAY_SPEC_POOL_SEED, .pool_pages = REPLAY_SPEC_POOL_PAGES},
	};
	int r;

	do {
		r = take_part(&p);
	} while (r == 0 && take(&p, ","));
	if (r == 0 && *p.at)
		r = wrong(&p, "a comma is wanted");
	if (r == 0)
		r = check(&p);
	if (r < 0) {
		free(p.runs);
		return r;
	}
	p.spec.runs = p.runs;
	*ret = p.spec;
	return 0;
}

void replay_spec_done(struct replay_spec *spec)
{
	free((void *)(uintptr_t)spec->runs);
	*spec = (struct replay_spec){0};
}
